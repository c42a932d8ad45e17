//! Everything that can happen to a node. With [`Actions`](crate::Actions), this is the table of contents of the core.

use crate::{Entry, LogIndex, LogMark, LogPosition, Membership, MembershipChange, Message, NodeId};
use alloc::vec::Vec;
use bytes::Bytes;

/// One thing that happened: a message, the passing of time, a request, or the end of a write (Raft §5; Figure 2). The
/// caller passes it to [`Node::step`](crate::Node::step) with the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message arrived; the transport vouches for the sender.
    Receive {
        /// Who sent it.
        from: NodeId,
        /// What it says, with the entries of an append attached.
        message: Message,
    },
    /// A batch of client commands to replicate. Answered in the same step by [`Actions::proposal`](crate::Actions::proposal).
    Propose {
        /// The batch, opaque to the core. Not empty.
        payload: Bytes,
    },
    /// Linearizable reads wait for an index. Answered, in this step or a later one, by [`Actions::reads`](crate::Actions::reads)
    /// with the same token, or by a refusal with it; never lost while the node lives.
    Read {
        /// Chosen by the caller, unique among the reads under way.
        token: u64,
    },
    /// As [`Event::Read`], but the leader's lease will do if the cluster has switched leases on
    /// ([`Config::lease_reads`](crate::Config::lease_reads)): no round of messages, and correct only as long as the
    /// members' clocks run at about
    /// the same speed (thesis §6.4.1). Without a valid lease it is an [`Event::Read`].
    LeaseRead {
        /// Chosen by the caller, unique among the reads under way.
        token: u64,
    },
    /// Change who is a member (thesis §4). Answered in the same step by
    /// [`Actions::membership_proposal`](crate::Actions::membership_proposal).
    ChangeMembership {
        /// The change.
        change: MembershipChange,
    },
    /// Hand leadership to another voter (thesis §3.10). Answered in the same step by
    /// [`Actions::transfer`](crate::Actions::transfer).
    TransferLeadership {
        /// Who should lead; `None`: the voter that is furthest along.
        target: Option<NodeId>,
    },
    /// The log thread finished writes: everything up to here has been fdatasync'ed.
    Durable {
        /// The newest append that is durable; `None` if only hard state was written so far.
        mark: Option<LogMark>,
        /// All hard states up to this sequence number are durable. See [`Persist`](crate::Persist).
        hard_state_sequence: u64,
    },
    /// The state machine has applied everything up to here.
    Applied {
        /// The last index applied.
        index: LogIndex,
    },
    /// Entries asked for with [`Load`](crate::Load) have been read from disk.
    Loaded {
        /// For whom they were loaded.
        peer: NodeId,
        /// The entries, consecutive, starting at the first index asked for; possibly fewer than asked for. Empty: they have
        /// been compacted away meanwhile, or could not be read.
        entries: Vec<Entry>,
    },
    /// A peer fetched a snapshot from this node, or gave up.
    SnapshotSent {
        /// The peer.
        peer: NodeId,
        /// The position of the snapshot the peer now holds; `None`: the transfer failed.
        position: Option<LogPosition>,
    },
    /// A snapshot asked for with [`Actions::fetch_snapshot`](crate::Actions::fetch_snapshot) is complete, verified and durable on
    /// disk beside the state in use. The core answers in the same step with
    /// [`Actions::install_snapshot`](crate::Actions::install_snapshot), unless it is no longer of use.
    SnapshotFetched {
        /// The last entry the snapshot holds.
        position: LogPosition,
        /// The committed membership it carries.
        membership: Membership,
    },
    /// The snapshot could not be fetched. The leader will offer again.
    SnapshotFailed,
    /// The snapshot ordered with [`Actions::install_snapshot`](crate::Actions::install_snapshot) is in use: state
    /// switched, log reset, both durable.
    SnapshotInstalled {
        /// Its position.
        position: LogPosition,
    },
    /// The log on disk no longer holds entries up to and including this one (all applied and flushed). Not to be reported while
    /// a snapshot is being installed.
    Compacted {
        /// The last entry dropped.
        position: LogPosition,
    },
    /// The node has durably noted that it is repaired, as [`Actions::repaired`](crate::Actions::repaired) asked for:
    /// from here on it votes and
    /// acknowledges like any other.
    Repaired,
    /// The transport lost the connection to a peer, or dropped messages for it.
    Unreachable {
        /// The peer.
        peer: NodeId,
    },
    /// The deadline of [`Node::next_deadline`](crate::Node::next_deadline) has come.
    Wake,
}
