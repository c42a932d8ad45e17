//! Everything on the wire: QUIC endpoints, who may speak to whom, frames, links between nodes, the client protocol, and the in-memory
//! twin of the links.
//!
//! Every connection is QUIC with mutual TLS 1.3 ([`Credentials`]); a certificate says who its holder is ([`Identity`]), and that is checked
//! on every connection by both sides. Nodes speak over [`PeerLinks`], behind the trait [`PeerTransport`] that [`MemoryHub`] implements
//! too. Clients come in through [`ClientListener`] and go out through [`ClientConnection`]. Snapshots travel apart ([`SnapshotClient`]).

mod alert;
mod answer_stream;
mod client_connection;
mod client_server;
mod client_stream;
mod convert;
mod dial;
mod error;
mod frame;
mod identity;
mod log_limit;
mod memory;
mod peer;
mod peer_incoming;
mod peer_outgoing;
mod pki;
pub mod proto;
mod quic;
mod request;
mod roster;
mod snapshot;
mod snapshot_client;
mod snapshot_server;
mod tls;
mod watch;
mod watch_stream;

pub use client_connection::{CALLS_MAX, CallError, ClientConnection, REPLY_BYTES_MAX, ScanError, ScanStream};
pub use client_server::{AnswerClosed, ClientLimits, ClientListener, ClientService, Responder, ScanResponder};
pub use convert::{MalformedMessage, decode_message, encode_message};
pub use error::{ConnectError, RefusalCode};
pub use frame::{ENVELOPE_BYTES, FRAME_VERSION};
pub use identity::{ClusterId, Identity, IdentityError, NAME_BYTES_MAX, Role, Subject};
pub use memory::{Link, MemoryHub, MemoryTransport, Pending};
pub use peer::{
    Inbound, InboundHandler, InboundPermit, PeerConfig, PeerCounts, PeerLimits, PeerLinks, PeerTransport, SendError,
    StartError,
};
pub use pki::{AUTHORITY_VALIDITY, Authority, BACKDATED_BY, IssuedCertificate, LEAF_VALIDITY, PkiError, Validity};
pub use quic::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, IDLE_TIMEOUT};
pub use raft::NodeId;
pub use request::{Request, Response};
pub use roster::PeerSet;
pub use rustls::NamedGroup;
pub use snapshot::{
    FILE_NAME_BYTES_MAX, OpenSnapshot, SNAPSHOT_FILES_MAX, SnapshotFile, SnapshotSource, describe_directory,
};
pub use snapshot_client::{FetchConfig, FetchError, FetchedSnapshot, SnapshotClient};
pub use tls::{CredentialPaths, Credentials, CredentialsError, Negotiated, Protocol};
pub use watch::{EncodedWatchEvent, WatchFrame, WatchResponder};
pub use watch_stream::{REVISION_BYTES_MAX, WatchError, WatchStream};
