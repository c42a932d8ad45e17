//! In the steady state a step allocates nothing: propose, replicate, durable, commit, apply, on leader and follower, with
//! batches of one entry and of 64. A counting allocator watches; it counts only inside of [`Node::step`], because entries
//! that arrive in a message bring their own memory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(unsafe_code, reason = "a global allocator cannot be had without it")]

use raftkv_raft::{
    Actions, AppendOutcome, Body, Config, Entry, EntryKind, Event, Instant, LogIndex, LogMark, Membership, Message,
    Node, NodeId, Restored, Role, Term,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// Allocations of this thread while it counts; `None` while it does not.
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator; counting touches a thread-local cell that is
// initialised at compile time and so allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get().map(|so_far| so_far + 1)));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A node whose allocations are counted.
struct Counted {
    node: Node,
    actions: Actions,
    now: Instant,
    allocations: u64,
    /// What the driver would have written and applied.
    newest: (Option<LogMark>, u64),
}

impl Counted {
    fn new() -> Counted {
        let restored = Restored::new(Membership::new((1..=3).map(NodeId)));
        // A small cache, so that eviction is part of the steady state.
        let config = Config { cache_bytes_max: 64 << 10, ..Config::new(NodeId(1)) };
        let node = Node::new(config, restored, Instant::ORIGIN, 1);
        Counted { node, actions: Actions::default(), now: Instant::ORIGIN, allocations: 0, newest: (None, 0) }
    }

    fn step(&mut self, event: Event) {
        COUNT.with(|count| count.set(Some(0)));
        self.node.step(self.now, event, &mut self.actions);
        let counted = COUNT.with(|count| count.take());
        self.allocations += counted.unwrap();
        if let Some(persist) = self.actions.persist {
            self.newest = (persist.mark.or(self.newest.0), persist.hard_state_sequence);
        }
    }

    fn receive(&mut self, from: u64, term: Term, body: Body) {
        self.step(Event::Receive { from: NodeId(from), message: Message { term, body } });
    }

    fn durable(&mut self) {
        let (mark, hard_state_sequence) = self.newest;
        self.step(Event::Durable { mark, hard_state_sequence });
    }

    fn applied(&mut self) {
        let index = self.node.status().commit;
        self.step(Event::Applied { index });
    }
}

fn leader() -> Counted {
    let mut counted = Counted::new();
    counted.now = counted.node.next_deadline().unwrap();
    counted.step(Event::Wake);
    counted.receive(2, Term(1), Body::PreVoteReply { granted: true });
    counted.durable();
    counted.receive(2, Term(1), Body::VoteReply { granted: true });
    counted.durable();
    assert_eq!(counted.node.status().role, Role::Leader);
    for peer in [2, 3] {
        let outcome = AppendOutcome::Durable { match_index: LogIndex(1) };
        counted.receive(peer, Term(1), Body::AppendReply { outcome, read_round: 0, repair: None });
    }
    counted
}

/// One round of a leader: a batch of proposals, one write, two acknowledgements, a read, an apply.
fn lead(counted: &mut Counted, batch: usize, payload: &bytes::Bytes, round: u64) {
    counted.now = counted.now + Duration::from_millis(1);
    for _ in 0..batch {
        counted.step(Event::Propose { payload: payload.clone() });
        assert!(counted.actions.proposal.unwrap().is_ok());
    }
    counted.step(Event::Read { token: round });
    counted.durable();
    let last = counted.node.log().last_index();
    for peer in [2, 3] {
        let outcome = AppendOutcome::Durable { match_index: last };
        counted.receive(peer, Term(1), Body::AppendReply { outcome, read_round: round, repair: None });
    }
    assert_eq!(counted.node.status().commit, last);
    counted.applied();
    counted.step(Event::Wake);
}

/// One round of a follower: an append, its write, the acknowledgement, the commit, the apply.
fn follow(counted: &mut Counted, batch: u64, payload: &bytes::Bytes, round: u64) {
    counted.now = counted.now + Duration::from_millis(1);
    let previous = counted.node.log().last_index();
    let position = |index: LogIndex| raftkv_raft::LogPosition {
        term: if index == LogIndex::ZERO { Term(0) } else { Term(1) },
        index,
    };
    let entries = (1..=batch).map(|offset| Entry {
        term: Term(1),
        index: LogIndex(previous.0 + offset),
        kind: EntryKind::Command,
        payload: payload.clone(),
    });
    let entries: Vec<Entry> = entries.collect();
    let body = Body::Append { previous: position(previous), commit: previous, read_round: round, entries };
    counted.receive(2, Term(1), body);
    counted.durable();
    assert!(!counted.actions.send.is_empty(), "the acknowledgement leaves when the write is durable");
    let last = counted.node.log().last_index();
    let body = Body::Append { previous: position(last), commit: last, read_round: round, entries: Vec::new() };
    counted.receive(2, Term(1), body);
    assert_eq!(counted.node.status().commit, last);
    counted.applied();
}

#[test]
fn leader_allocates_nothing_in_the_steady_state() {
    let payload = bytes::Bytes::from(vec![7; 300]);
    for batch in [1, 64] {
        let mut counted = leader();
        for round in 1..=500 {
            lead(&mut counted, batch, &payload, round);
        }
        counted.allocations = 0;
        for round in 501..=1500 {
            lead(&mut counted, batch, &payload, round);
        }
        assert_eq!(counted.allocations, 0, "batches of {batch}");
    }
}

#[test]
fn follower_allocates_nothing_in_the_steady_state() {
    let payload = bytes::Bytes::from(vec![7; 300]);
    for batch in [1, 64] {
        let mut counted = Counted::new();
        for round in 1..=500 {
            follow(&mut counted, batch, &payload, round);
        }
        counted.allocations = 0;
        for round in 501..=1500 {
            follow(&mut counted, batch, &payload, round);
        }
        assert_eq!(counted.allocations, 0, "batches of {batch}");
    }
}

#[test]
fn the_counter_counts() {
    COUNT.with(|count| count.set(Some(0)));
    let boxed = std::hint::black_box(Box::new(1));
    let counted = COUNT.with(|count| count.take());
    assert_eq!((counted, *boxed), (Some(1), 1));
}
