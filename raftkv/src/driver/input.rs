//! Everything that reaches the driver.

use super::{ChangeRequest, DriverStatus, ReadWaiter, TransferWaiter, WriteWaiter};
use bytes::Bytes;
use raft::{Entry, LogIndex, LogMark, LogPosition, Membership, Message, NodeId};
use storage::command::{Command, Condition, DeleteLimits, KeyRange};
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
    /// The state has this format in effect: it was raised, or came with a snapshot.
    FormatInEffect {
        /// The format.
        format: u32,
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
    /// The node has durably noted that it is repaired, as [`Host::repaired`](super::Host::repaired) asked for.
    Repaired,
    /// Somebody wants to know how the node is.
    Status(Box<dyn FnOnce(DriverStatus) + Send>),
}

/// A command to replicate, and who waits for its outcome.
pub struct WriteRequest {
    /// The command, within the limits on keys and values.
    pub command: WriteCommand,
    /// Called exactly once.
    pub waiter: WriteWaiter,
}

/// A command as it came from a client, before it is laid into a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteCommand {
    /// Write one key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// What must hold.
        condition: Option<WriteCondition>,
        /// Return what the key held.
        previous: bool,
    },
    /// Delete the keys of a range.
    DeleteRange {
        /// The first key.
        start: Bytes,
        /// The first key that is spared; none: to the last.
        end: Option<Bytes>,
        /// How much may be deleted; goes into the log with the command.
        limits: DeleteLimits,
        /// Return what was deleted.
        previous: bool,
    },
}

/// What must hold for a put to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteCondition {
    /// The key does not exist.
    Absent,
    /// The key was last changed at this revision.
    ModRevision(u64),
    /// The key exists and has this value.
    Value(Bytes),
}

impl WriteCommand {
    /// The command in the form that goes into a batch.
    #[must_use]
    pub fn as_command(&self) -> Command<'_> {
        match self {
            WriteCommand::Put { key, value, condition, previous } => Command::Put {
                key,
                value,
                lease: 0,
                condition: condition.as_ref().map(|condition| match condition {
                    WriteCondition::Absent => Condition::Absent,
                    WriteCondition::ModRevision(revision) => Condition::ModRevision(*revision),
                    WriteCondition::Value(value) => Condition::Value(value),
                }),
                previous: *previous,
            },
            WriteCommand::DeleteRange { start, end, limits, previous } => Command::DeleteRange {
                range: KeyRange { start, end: end.as_deref() },
                limits: *limits,
                previous: *previous,
            },
        }
    }

    /// Whether it deletes a range that may hold more than one key.
    #[must_use]
    pub fn deletes_a_range(&self) -> bool {
        matches!(self.as_command(), Command::DeleteRange { range, .. } if range.single_key().is_none())
    }

    /// About how many bytes it takes in a batch.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        match self {
            WriteCommand::Put { key, value, condition, .. } => {
                let expected = match condition {
                    Some(WriteCondition::Value(expected)) => expected.len(),
                    Some(WriteCondition::Absent | WriteCondition::ModRevision(_)) | None => 0,
                };
                64 + key.len() + value.len() + expected
            }
            WriteCommand::DeleteRange { start, end, .. } => 64 + start.len() + end.as_ref().map_or(0, Bytes::len),
        }
    }
}
