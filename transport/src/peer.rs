//! Links between nodes.
//!
//! Every node dials every other member, and the members may change while it runs: who has a link and who may come in is decided in `roster.rs`. A
//! connection carries only its dialler's messages. So there is nothing to agree on when two nodes
//! dial each other at once, and a one-way fault of the network shows as one. A connection has two ordered lanes: appends that
//! carry entries go on the *bulk* lane, everything else on the *control* lane, which is served first. A vote or a heartbeat
//! never waits behind megabytes of entries. Across lanes there is no order, which the core does not need.
//!
//! # Bounds
//!
//! Outwards, each lane has a queue bounded in messages and bytes. A full queue refuses ([`SendError::Full`]), and what waits when a connection
//! breaks is dropped: Raft sends again what matters, and old messages are worth nothing. Inwards, each message carries an
//! [`InboundPermit`]; when the permits of a peer are used up, its lanes are not read until some are dropped, and QUIC's flow control
//! holds the sender back.
//!
//! # Promises
//!
//! Messages from one peer on one lane of one connection arrive in order, each at most once. Nothing else: any may be lost.

use crate::error::Refusal;
use crate::identity::ClusterId;
use crate::peer_incoming::{self, Incoming};
use crate::quic::{self, Door};
use crate::roster::{PeerSet, Roster};
use crate::snapshot::SnapshotSource;
use crate::tls::{Credentials, Protocol};
use quinn::{Endpoint, VarInt};
use raft::{Message, NodeId};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Kinds of frame on the peer protocol.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const HELLO_REPLY: u8 = 2;
    pub(crate) const MESSAGE: u8 = 3;
    pub(crate) const SNAPSHOT_REQUEST: u8 = 4;
    pub(crate) const SNAPSHOT_MANIFEST: u8 = 5;
    pub(crate) const SNAPSHOT_REFUSED: u8 = 6;
    pub(crate) const SNAPSHOT_FILE_REQUEST: u8 = 7;
}

/// Sends the core's messages to other nodes.
pub trait PeerTransport: Send + Sync {
    /// Hands over one message, an append's entries attached. Never blocks. `Ok` means that it waits to be sent, not that it
    /// will arrive.
    ///
    /// # Errors
    /// When it was not taken: see [`SendError`].
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError>;

    /// From here on these are the members: links follow. Never blocks.
    fn set_peers(&self, peers: PeerSet);
}

/// Why a message was not taken. It is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer's queue is full.
    #[error("the queue to node {to} is full")]
    Full {
        /// The peer.
        to: NodeId,
    },
    /// No such peer.
    #[error("node {to} is not a peer")]
    UnknownPeer {
        /// Who was meant.
        to: NodeId,
    },
    /// There is no connection to the peer at this moment.
    #[error("node {to} is not connected")]
    NotConnected {
        /// The peer.
        to: NodeId,
    },
}

/// What the links report.
#[derive(Debug)]
pub enum Inbound {
    /// A message came in.
    Message {
        /// Who sent it, by its certificate.
        from: NodeId,
        /// What it says.
        message: Message,
        /// Drop it once the message has been dealt with: it makes room for the peer's next ones.
        permit: InboundPermit,
    },
    /// A peer has connected, or was connected to, and says which formats of log and state it knows.
    Format {
        /// The peer.
        peer: NodeId,
        /// The newest; zero: it does not say.
        format_max: u32,
    },
    /// Messages *to* this peer can be sent: our own connection to it stands.
    Connected(NodeId),
    /// Our own connection to this peer broke, and what waited for it is lost.
    Disconnected(NodeId),
}

/// Gets what comes in. Called from the runtime's threads: it must not block, and takes over what it needs to keep.
pub type InboundHandler = Arc<dyn Fn(Inbound) + Send + Sync>;

/// Room in the memory set aside for one peer's messages; given back when dropped.
#[derive(Debug)]
pub struct InboundPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl InboundPermit {
    pub(crate) fn metered(permit: OwnedSemaphorePermit) -> InboundPermit {
        InboundPermit { _permit: Some(permit) }
    }

    /// A permit that stands for nothing, for transports that bound their queues otherwise.
    #[must_use]
    pub fn unmetered() -> InboundPermit {
        InboundPermit { _permit: None }
    }
}

/// Bounds of the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Messages waiting in one lane to one peer. Default 8,192.
    pub queue_messages_max: usize,
    /// Bytes waiting in one lane to one peer; one message is always taken when nothing waits. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// Bytes of one peer's messages handed to the handler and not yet dealt with. Default 64 MiB.
    pub inbound_bytes_max: usize,
    /// The longest body of a message. Must hold the largest append: the core's `append_bytes_max`, or one entry if that is larger, and
    /// some. Default 64 MiB. Differing values in one cluster belong into the settings digest.
    pub frame_bytes_max: usize,
}

impl Default for PeerLimits {
    fn default() -> PeerLimits {
        PeerLimits {
            queue_messages_max: 8192,
            queue_bytes_max: 64 << 20,
            inbound_bytes_max: 64 << 20,
            frame_bytes_max: 64 << 20,
        }
    }
}

/// What the links need to know. The cluster and this node's number are those of the credentials.
#[derive(Clone)]
pub struct PeerConfig {
    /// Where to listen.
    pub bind: SocketAddr,
    /// The members to begin with; [`PeerTransport::set_peers`] changes them.
    pub peers: PeerSet,
    /// Where this node is dialled, as `host:port`: told to the nodes it dials, which may not know it yet.
    pub address: String,
    /// Digest of the settings that must agree across the cluster; nodes with different ones refuse each other.
    pub settings_digest: u64,
    /// The newest format of log and state that this node knows: told to the peers.
    pub format_max: u32,
    /// Software and version, for the other side's log.
    pub agent: String,
    /// Who we are.
    pub credentials: Credentials,
    /// Bounds.
    pub limits: PeerLimits,
    /// Where snapshots for other nodes come from; `None`: requests are refused.
    pub snapshots: Option<Arc<dyn SnapshotSource>>,
}

/// What the links have counted since they started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) refused_full: AtomicU64,
    pub(crate) refused_not_connected: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) connects: AtomicU64,
}

/// Counts since the links started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerCounts {
    /// Messages handed to QUIC.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages refused because a queue was full.
    pub refused_full: u64,
    /// Messages refused because there was no connection.
    pub refused_not_connected: u64,
    /// Messages dropped from queues when connections broke.
    pub lost: u64,
    /// Messages received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that were no messages; each closed its connection.
    pub malformed: u64,
    /// Connections to peers that came about.
    pub connects: u64,
}

/// What every part of the links shares.
pub(crate) struct Shared {
    pub(crate) cluster: ClusterId,
    pub(crate) id: NodeId,
    pub(crate) settings_digest: u64,
    pub(crate) format_max: u32,
    pub(crate) agent: String,
    pub(crate) address: String,
    pub(crate) limits: PeerLimits,
    pub(crate) handler: InboundHandler,
    pub(crate) counters: Counters,
}

/// The QUIC links of one node. Dropping it closes them.
pub struct PeerLinks {
    shared: Arc<Shared>,
    roster: Arc<Roster>,
    endpoint: Endpoint,
}

impl PeerLinks {
    /// Binds the port, begins to listen and to dial. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the credentials are not a node's, or the port cannot be bound.
    pub fn start(config: PeerConfig, handler: InboundHandler) -> Result<PeerLinks, StartError> {
        let identity = config.credentials.identity().clone();
        let id = identity.node_id().ok_or_else(|| StartError::NotANode { identity: identity.to_string() })?;
        let endpoint = quic::listen(config.bind, Protocol::Peer, &config.credentials)
            .map_err(|cause| StartError::Bind { address: config.bind, cause })?;
        let shared = Arc::new(Shared {
            cluster: identity.cluster,
            id,
            settings_digest: config.settings_digest,
            format_max: config.format_max,
            agent: config.agent,
            address: config.address,
            limits: config.limits,
            handler,
            counters: Counters::default(),
        });
        let dial = quic::dial_config(Protocol::Peer, &config.credentials);
        let roster = Arc::new(Roster::new(shared.clone(), endpoint.clone(), dial));
        roster.set_peers(config.peers);
        let incoming = Incoming::new(shared.clone(), roster.clone(), config.snapshots);
        let door = Door::new("peer", peer_incoming::CONNECTIONS_MAX);
        tokio::spawn(peer_incoming::run(door, Arc::new(incoming), endpoint.clone()));
        Ok(PeerLinks { shared, roster, endpoint })
    }

    /// The address bound: the port is known here when the configuration said 0.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Whether messages to this peer can be sent at this moment.
    #[must_use]
    pub fn is_connected(&self, peer: NodeId) -> bool {
        self.roster.link(peer).is_some_and(|link| link.is_open())
    }

    /// What TLS agreed on for our connection to this peer, if there is one.
    #[must_use]
    pub fn negotiated(&self, peer: NodeId) -> Option<crate::tls::Negotiated> {
        self.roster.link(peer)?.negotiated()
    }

    /// Where this peer is dialled, if it is a member or connected to us.
    #[must_use]
    pub fn address_of(&self, peer: NodeId) -> Option<String> {
        self.roster.link(peer).map(|link| link.address().to_owned())
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> PeerCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        PeerCounts {
            sent: read(&counters.sent),
            sent_bytes: read(&counters.sent_bytes),
            refused_full: read(&counters.refused_full),
            refused_not_connected: read(&counters.refused_not_connected),
            lost: read(&counters.lost),
            received: read(&counters.received),
            received_bytes: read(&counters.received_bytes),
            malformed: read(&counters.malformed),
            connects: read(&counters.connects),
        }
    }

    /// Closes every connection, lets the other sides know, and waits a moment for that to have left.
    pub async fn close(self) {
        self.close_now();
        // Whoever does not hear it finds out by the idle timeout.
        let _told = tokio::time::timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    fn close_now(&self) {
        self.roster.close();
        let done = Refusal::new(crate::error::RefusalCode::Done, "shutting down");
        self.endpoint.close(VarInt::from_u32(done.code.code()), done.reason.as_bytes());
    }
}

impl Drop for PeerLinks {
    fn drop(&mut self) {
        self.close_now();
    }
}

impl PeerTransport for PeerLinks {
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError> {
        let link = self.roster.link(to).ok_or(SendError::UnknownPeer { to })?;
        let outcome = link.push(message, &self.shared.limits);
        match outcome {
            Err(SendError::Full { .. }) => self.shared.counters.refused_full.fetch_add(1, Ordering::Relaxed),
            Err(SendError::NotConnected { .. }) => {
                self.shared.counters.refused_not_connected.fetch_add(1, Ordering::Relaxed)
            }
            Ok(()) | Err(SendError::UnknownPeer { .. }) => 0,
        };
        outcome
    }

    fn set_peers(&self, peers: PeerSet) {
        self.roster.set_peers(peers);
    }
}

/// Why links or a listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate is not a node's.
    #[error("the certificate {identity} is not a node's: use the node's own certificate")]
    NotANode {
        /// Whose it is.
        identity: String,
    },
    /// The port cannot be bound.
    #[error("cannot listen on {address}: {cause}; is another process using the port?")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        cause: io::Error,
    },
}
