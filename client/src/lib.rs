//! The async Rust client of raftkv.
//!
//! A [`Client`] needs the address of one node and a client certificate. It finds the leader by itself, learns the other members while it
//! runs, and goes on with them when nodes fail. It is cheap to clone, and all clones share its connections.
//!
//! ```no_run
//! use raftkv_client::{Client, CredentialPaths, Credentials};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let credentials = Credentials::load(&CredentialPaths {
//!     authority: "admin/ca.crt".into(),
//!     certificate: "admin/client.crt".into(),
//!     key: "admin/client.key".into(),
//! })?;
//! let client = Client::builder().endpoints(["10.0.0.1:7420"]).credentials(credentials).build()?;
//!
//! let put = client.put(("color", "green")).await?;
//! let found = client.get("color").await?.kv.expect("it was just written");
//! assert_eq!((found.value.as_ref(), found.mod_revision), (b"green".as_slice(), put.revision));
//! # Ok(())
//! # }
//! ```
//!
//! # What happens to a write
//!
//! The client never guesses. A write that returns `Ok` is durable on a majority. Of one that fails, [`Error`] says which it is: certainly
//! not applied ([`Error::is_certainly_not_applied`]), or [`Error::OutcomeUnknown`]. Whatever was certainly not applied is tried again by
//! the client itself, until the deadline. A write whose answer was lost is tried again too, because it carries a number of the client's
//! *session*: the cluster carries each number out once, and answers the same each time. It is never sent again where a second application
//! could be seen: without a session ([`Builder::without_session`], or a cluster that has none), or when the cluster does not know the
//! session any more. Reads change nothing and are tried again freely.
//!
//! # What there is
//!
//! | for | see |
//! |---|---|
//! | one key | [`Client::put`], [`Client::get`], [`Client::delete`] |
//! | ranges of any size | [`Client::scan`] |
//! | several keys at once, and conditions | [`Client::transaction`] |
//! | keys that end with their owner | [`Client::grant_lease`], [`Put::lease`], [`Put::ttl`] |
//! | one at a time | [`Client::lock`], with fencing tokens |
//! | one leader, known to all | [`Client::campaign`], [`Client::observe`] |
//! | what happens to keys | [`Client::watch`] |
//! | letting go of the past | [`Client::compact`] |
//! | who is a member | [`Client::member_list`], [`Client::change_members`] |
//!
//! Programs that run and show each of them are in `client/examples/`. Three more show what goes on around them: `sessions`, how a write is applied once
//! though its answer gets lost, and what to do where that cannot be; `deadlines`, what each error says of a write and how to go on after it; `pipelining`,
//! many requests at once over few connections.
//!
//! # Where requests go
//!
//! Writes go to the leader. Linearizable reads go to any node, which asks the leader for the right index: each client stays with one node
//! for as long as it answers. Stale reads go to the endpoints as they were given, the first one first, and never to learned ones: who asks
//! for the state of one node gets that node's.
//!
//! # Bounds
//!
//! A client holds at most [`CONNECTIONS_MAX`] connections to a node and knows at most [`ENDPOINTS_MAX`] nodes; requests in flight are
//! bounded for each connection by [`CALLS_MAX`], and writes in flight for each client by the window of its session, 1,024. A scan holds one
//! reply at a time.
//!
//! A watch holds two batches: one that waits to be taken, and one that is handed on next. A node takes 1,024 watches on a connection, and more on more
//! connections ([`Builder::connections`]).

mod builder;
mod client;
#[doc(hidden)]
pub mod directory;
mod election;
mod endpoint;
mod error;
mod lease;
mod line;
mod lock;
mod member;
mod node_directory;
#[doc(hidden)]
pub mod policy;
#[doc(hidden)]
pub mod position;
mod request;
#[doc(hidden)]
pub mod route;
mod scan;
#[doc(hidden)]
pub mod session;
mod status;
mod transaction;
mod value;
mod waiting;
mod watch;
mod watch_task;
mod writing;

pub use builder::{BuildError, Builder, CONNECTIONS_MAX, TIMEOUT_DEFAULT};
pub use client::Client;
pub use directory::ENDPOINTS_MAX;
pub use election::{Elected, Election, ElectionError, Leadership, Observer};
pub use error::{Error, Part};
pub use lease::{
    GrantedLease, LEASE_TTL_MAX, LEASE_TTL_MIN, Lease, LeaseInfo, LeaseList, LeaseLoss, NewLease, RevokedLease,
};
pub use lock::{LOCK_TTL_DEFAULT, Lock, LockError, LockGuard};
pub use member::{MemberChange, MemberEdit, NewMember, NodeConfig, Quorum};
pub use node_directory::{CertificateAuthority, NodeDirectoryError, check_absent};
pub use request::{Condition, Delete, Get, Level, Put, Range, Scan, SortBy};
pub use scan::{ScanStream, ScanSummary};
pub use status::{Member, MemberStatus, Status};
pub use transaction::{
    Compare, NumberCompare, Operation, OperationOutcome, Transaction, TransactionOutcome, ValueCompare,
};
pub use transport::{CALLS_MAX, CredentialPaths, Credentials, CredentialsError};
pub use value::{DeleteOutcome, Found, KeyValue, PutOutcome};
pub use watch::{PROGRESS_INTERVAL_DEFAULT, PROGRESS_INTERVAL_MIN, Watch, WatchBatch, WatchEvent, WatchStream};
