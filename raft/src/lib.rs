//! The consensus core of raftkv: Raft without I/O.
//!
//! [`Event`]s go in, [`Actions`] come out; the caller owns the disk, the network, the clock and the state machine.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod actions;
mod candidate;
mod config;
mod election;
mod event;
mod follower;
mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod random;
mod read;
mod replication;
mod snapshot;
mod state;
mod status;
mod types;
mod writes;

pub use actions::{
    Actions, Changed, DropReason, FetchSnapshot, InstallSnapshot, Load, Persist, ProposeError, ReadReady, Send,
};
pub use config::{Config, Restored};
pub use event::Event;
pub use log::LogView;
pub use membership::Membership;
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
