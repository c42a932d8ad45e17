//! The rules of Raft, one test each, named and cited: the paper (Ongaro and Ousterhout, "In Search of an Understandable
//! Consensus Algorithm", extended version) and the thesis (Ongaro, "Consensus: Bridging Theory and Practice"). They are in `paper/`, by
//! section.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one kind of message among many")]

mod common;
#[path = "paper/elections.rs"]
mod elections;
#[path = "paper/leadership.rs"]
mod leadership;
#[path = "paper/limits.rs"]
mod limits;
#[path = "paper/membership.rs"]
mod membership;
#[path = "paper/reads.rs"]
mod reads;
#[path = "paper/replication.rs"]
mod replication;
#[path = "paper/snapshots.rs"]
mod snapshots;

use common::rig::{HEARTBEAT, Rig, TIMEOUT, entries, position};
use raftkv_raft::{
    AppendOutcome, Body, DropReason, EntryKind, Event, HardState, Instant, LogIndex, LogRange, Membership, Message,
    NodeId, Persist, ProposeError, ReadReady, Role, Term,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn hard_state(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.map(NodeId) }
}

fn range(first: u64, last: u64) -> LogRange {
    LogRange { first: LogIndex(first), last: LogIndex(last) }
}

fn vote(last: (u64, u64)) -> Body {
    Body::Vote { last: position(last.0, last.1), transfer: false }
}
