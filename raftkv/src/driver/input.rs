//! Everything that reaches the driver.

use super::{ChangeRequest, DriverStatus, ReadWaiter, SpaceSample, StateFacts, TransferWaiter, WriteWaiter};
use raft::{Entry, LogIndex, LogMark, LogPosition, Membership, Message, NodeId};
use storage::command::EncodedCommand;
use transport::InboundPermit;

/// One thing that happened around the driver.
pub enum Input {
    /// A peer's message.
    Message {
        /// Who sent it, as its certificate says.
        from: NodeId,
        /// The message.
        message: Message,
        /// Makes room for the peer's next messages when dropped.
        permit: InboundPermit,
    },
    /// A peer cannot be reached, or a message for it was dropped.
    Unreachable {
        /// The peer.
        peer: NodeId,
    },
    /// A client wants a command replicated.
    Write(WriteRequest),
    /// A peer says, as it connects, which formats it knows.
    PeerFormat {
        /// The peer.
        peer: NodeId,
        /// The newest; zero: it does not say.
        format_max: u32,
    },
    /// A snapshot has taken the place of the state.
    StateReplaced {
        /// What there is to know of it.
        facts: StateFacts,
    },
    /// A client wants a linearizable read.
    Read(ReadWaiter),
    /// A client wants a read for which the leader's lease will do. Where there is none it is a linearizable read like others.
    LeaseRead(ReadWaiter),
    /// The log thread has made writes durable.
    Durable {
        /// The newest append that is durable.
        mark: Option<LogMark>,
        /// The newest hard state that is durable.
        hard_state_sequence: u64,
        /// Bytes of log on disk.
        log_bytes: u64,
    },
    /// The apply thread has applied entries.
    Applied {
        /// Up to here.
        index: LogIndex,
        /// What RocksDB has flushed, as far as the apply thread knows.
        flushed: LogIndex,
        /// What there is to know of the state after it.
        facts: StateFacts,
    },
    /// What RocksDB has flushed, after it was asked to flush.
    Flushed {
        /// Up to here.
        index: LogIndex,
    },
    /// Entries for a peer were read from disk.
    Loaded {
        /// The peer.
        peer: NodeId,
        /// The entries; empty if they are gone.
        entries: Vec<Entry>,
    },
    /// A peer has fetched a snapshot from this node, or failed to.
    SnapshotSent {
        /// The peer.
        peer: NodeId,
        /// The position it now holds.
        position: Option<LogPosition>,
    },
    /// A snapshot lies complete beside the state in use.
    SnapshotFetched {
        /// The last entry it holds.
        position: LogPosition,
        /// The membership it carries.
        membership: Membership,
    },
    /// A snapshot could not be fetched.
    SnapshotFailed,
    /// The fetched snapshot is in use and the log reset.
    SnapshotInstalled {
        /// Its position.
        position: LogPosition,
        /// Bytes of log on disk.
        log_bytes: u64,
    },
    /// The log was dropped up to here.
    Compacted {
        /// The last entry dropped.
        position: LogPosition,
        /// Bytes of log on disk.
        log_bytes: u64,
    },
    /// Hand leadership over.
    TransferLeadership {
        /// To whom; `None`: whoever is furthest along.
        target: Option<NodeId>,
        /// Called exactly once.
        waiter: TransferWaiter,
    },
    /// Change who is a member.
    ChangeMembership(ChangeRequest),
    /// How much room the state takes, and which revisions it has. About once a second.
    Space(SpaceSample),
    /// The node has durably noted that it is repaired, as [`Host::repaired`](super::Host::repaired) asked for.
    Repaired,
    /// Somebody wants to know how the node is.
    Status(Box<dyn FnOnce(DriverStatus) + Send>),
}

/// A command to replicate, and who waits for its outcome.
pub struct WriteRequest {
    /// The command, within the limits on keys and values, laid out.
    pub command: EncodedCommand,
    /// Called exactly once.
    pub waiter: WriteWaiter,
}
