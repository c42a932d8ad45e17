//! What a node is told when it starts: its settings and what it finds on its disk.

use crate::{HardState, LogIndex, LogPosition, Membership, NodeId, RepairId, Term};
use alloc::vec::Vec;
use core::time::Duration;

/// Settings of one node. Timeouts: Raft §5.2, §5.6; limits of what is under way: thesis §10.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// A follower that hears no leader for this long, plus a random part of up to as much again, campaigns
    /// (Raft §5.2). 50 ms to 60 s; several times `heartbeat_interval`. Default 1 s.
    pub election_timeout: Duration,
    /// An idle leader speaks to each follower this often. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// Appends under way to one follower. 1 to 1024. Default 256.
    pub inflight_messages_max: usize,
    /// Payload bytes under way to one follower. At least one entry is always allowed. Default 16 MiB.
    pub inflight_bytes_max: usize,
    /// Payload bytes in one append. At least one entry is always allowed. Default 1 MiB.
    pub append_bytes_max: usize,
    /// Payload bytes proposed and not yet committed; beyond, proposals are refused with
    /// [`ProposeError::Overloaded`](crate::ProposeError::Overloaded). One proposal is always allowed when nothing waits. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// Bytes of entries kept in memory, payload and a fixed overhead each; older ones are loaded from disk. Entries that are not
    /// yet durable or not yet handed out for applying stay regardless. Default 32 MiB.
    pub cache_bytes_max: usize,
    /// Reads waiting for an index; beyond, reads are refused. Default 65,536.
    pub reads_waiting_max: usize,
    /// Whether [`Event::LeaseRead`](crate::Event::LeaseRead) may be answered from the leader's lease (thesis §6.4.1).
    /// All members must agree:
    /// voters keep the lease's promise only if it is on, also in the first election timeout after a restart. Correct only if no two
    /// members' clocks differ in speed by a quarter or more. Default off.
    pub lease_reads: bool,
}

impl Config {
    /// The defaults, for node `id`.
    #[must_use]
    pub const fn new(id: NodeId) -> Config {
        Config {
            id,
            election_timeout: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            append_bytes_max: 1 << 20,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 32 << 20,
            reads_waiting_max: 1 << 16,
            lease_reads: false,
        }
    }
}

/// What storage holds when the node starts (the persistent state of Raft, Figure 2). A new node passes [`Restored::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The newest durable term and vote.
    pub hard_state: HardState,
    /// The committed membership as of `applied`.
    pub membership: Membership,
    /// The entry just before the first one in the log: what has been compacted away, or `(0, 0)`.
    pub log_start: LogPosition,
    /// The last index in the log; equal to `log_start.index` if the log is empty.
    pub log_last: LogIndex,
    /// The terms in the log: each `(first index, term)` where a run of entries of one term begins, ascending. Empty if the log is.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// Everything up to here has been applied to the state machine, so it is committed. Within the log or at its start.
    pub applied: LogIndex,
    /// The memberships in the log after `applied`, ascending: they take effect by being there (thesis §4.1).
    pub memberships: Vec<(LogIndex, Membership)>,
    /// This node has lost part of what it had promised or acknowledged (log, vote or disk), and this is the number of the
    /// loss. It neither votes nor counts until its peers have repaired it: see `repair.rs`.
    pub repair: Option<RepairId>,
}

impl Restored {
    /// A node that has never run, in a group with these members. Without members it waits for a leader to take it in.
    #[must_use]
    pub fn new(membership: Membership) -> Restored {
        Restored {
            hard_state: HardState::default(),
            membership,
            log_start: LogPosition::default(),
            log_last: LogIndex::ZERO,
            term_runs: Vec::new(),
            applied: LogIndex::ZERO,
            memberships: Vec::new(),
            repair: None,
        }
    }
}
