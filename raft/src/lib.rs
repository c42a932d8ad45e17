//! The consensus core of raftkv: Raft without I/O.
//!
//! [`Event`]s go in through [`Node::step`], [`Actions`] come out; the caller owns the disk, the network, the clock and the
//! state machine. Equal events at equal times with an equal seed give equal actions.
//!
//! | to read about | see |
//! |---|---|
//! | what can happen, what is asked for | `event.rs`, `actions.rs`, `message.rs` |
//! | terms, and the order of things in a step | `node.rs` |
//! | roles | `follower.rs`, `candidate.rs`, `leader.rs`; the voter's side is `election.rs` |
//! | the log, what is durable of it | `log.rs`, `writes.rs` |
//! | sending to peers | `replication.rs`, `progress.rs` |
//! | reads, leases, snapshots | `read.rs`, `lease.rs`, `snapshot.rs` |
//! | who is a member, changing it, repairing one | `membership.rs`, `configuration.rs`, `change.rs`, `repair.rs` |
//! | what always holds | `invariants.rs` |
//!
//! "Raft" is Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm* (extended version); "thesis" is
//! Ongaro, *Consensus: Bridging Theory and Practice*.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod actions;
mod candidate;
mod change;
mod config;
mod configuration;
mod doubt;
mod election;
mod event;
mod follower;
mod invariants;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod random;
mod read;
mod repair;
mod replication;
mod snapshot;
mod state;
mod status;
mod types;
mod writes;

pub use actions::{
    Actions, ChangeError, Changed, DropReason, FetchSnapshot, InstallSnapshot, Load, Persist, ProposeError, ReadReady,
    Send, TransferError,
};
pub use config::{Config, Restored};
pub use event::Event;
pub use log::LogView;
pub use membership::{
    CONTEXT_BYTES_MAX, ChangeInvalid, MEMBERS_MAX, MemberRole, Membership, MembershipChange, MembershipError, Repair,
    RepairId, RepairReport,
};
pub use message::{AppendOutcome, Body, Message};
pub use node::Node;
pub use progress::Replication;
pub use status::{PeerProgress, Status};
pub use types::{
    Entry, EntryKind, GroupId, HardState, Instant, LogIndex, LogMark, LogPosition, LogRange, NodeId, Term,
};

/// What a node is in its term (Raft §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win, without disturbing anybody (thesis §9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}
