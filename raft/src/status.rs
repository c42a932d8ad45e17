//! What a node tells about itself.

use crate::progress::Replication;
use crate::{LogIndex, Membership, NodeId, RepairId, Role, Term};

/// A node at a moment: the state of Raft, Figure 2, and what is around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'a> {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, as far as known.
    pub leader: Option<NodeId>,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// The highest index known to be committed.
    pub commit: LogIndex,
    /// The last index reported as applied.
    pub applied: LogIndex,
    /// The log is durable up to here.
    pub durable: LogIndex,
    /// The first index of the log; the one after `log_last` if it is empty.
    pub log_first: LogIndex,
    /// The last index of the log.
    pub log_last: LogIndex,
    /// The membership in effect: the newest in the log.
    pub membership: &'a Membership,
    /// The newest membership known to be committed.
    pub membership_committed: &'a Membership,
    /// This node has lost what it had promised and is not repaired yet: it neither votes nor counts.
    pub repair: Option<RepairId>,
    /// Reads that wait for an index.
    pub reads_waiting: usize,
    /// A snapshot is taking the place of the log.
    pub installing_snapshot: bool,
}

/// What a leader knows about one peer (Raft Figure 2: nextIndex, matchIndex; thesis §10.2.2 for appends under way).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub id: NodeId,
    /// How it is sent to.
    pub replication: Replication,
    /// The highest index known to match and to be durable there.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// Appends sent ahead and not yet acknowledged.
    pub inflight_messages: usize,
    /// Their payload bytes.
    pub inflight_bytes: usize,
    /// Whether it has answered this leader in this term.
    pub heard: bool,
    /// Time since it last did; if it has not, since it was first spoken to.
    pub silent_for: core::time::Duration,
    /// It has lost what it had promised and is not repaired yet: it does not count.
    pub repair: Option<RepairId>,
    /// It refuses what it had acknowledged, so its log is gone, and it does not know: what it had acknowledged does not count.
    pub lost: bool,
}
