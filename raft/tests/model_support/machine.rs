//! One node with its disk, and what one step makes of it.
//!
//! Everything a machine is, is in its *print*: the Debug form of the node and of the disk, with two things made relative. Instants in the past
//! become ages, cut off at the election timeout, since nothing older is told apart; instants in the future become "later", since
//! each kind lies at one fixed distance and a clock only moves past it. The random numbers, which only spread timeouts, and counters that only tell
//! one moment from the next, are left out.

use raftkv_raft::{
    Actions, Body, Config, Entry, EntryKind, Event, HardState, Instant, LogIndex, LogMark, LogRange, MemberRole,
    Membership, MembershipChange, Message, Node, NodeId, Restored, Term,
};
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One write under way.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    mark: Option<LogMark>,
    hard_state_sequence: u64,
    /// The node was told that it is done.
    told: bool,
}

/// What survives a crash, and what may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Storage {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<Entry>,
    pub(crate) pending: VecDeque<Pending>,
}

impl Storage {
    fn finish_first(&mut self) -> Pending {
        let write = self.pending.pop_front().expect("a write is under way");
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            self.log.truncate(usize::try_from(first.index.0 - 1).unwrap());
            self.log.extend(write.entries.iter().cloned());
        }
        write
    }
}

/// How disks behave: see [`super::world::Disk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// A write is done in the step that asks for it.
    pub(crate) at_once: bool,
    /// The node is told so before it is.
    pub(crate) lies: bool,
    /// A crash takes the vote.
    pub(crate) forgets_votes: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) node: Node,
    pub(crate) now: Instant,
    pub(crate) storage: Storage,
    pub(crate) applied: Vec<Entry>,
}

/// What can happen to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    Receive(NodeId, Message),
    /// Its election timeout passes, and more.
    Timeout,
    /// A heartbeat interval passes.
    Heartbeat,
    Propose,
    Change(super::world::Change),
    /// The oldest write under way is done.
    Written,
    /// The process ends, this many of the writes under way are on the disk, and it starts again.
    Crash(usize),
}

/// What a step sends.
pub(crate) type Sent = Vec<(NodeId, Message)>;

impl Machine {
    pub(crate) fn new(id: NodeId, membership: Membership) -> Machine {
        let restored = Restored::new(membership);
        Machine {
            id,
            node: start(id, restored, Instant::ORIGIN),
            now: Instant::ORIGIN,
            storage: Storage::default(),
            applied: Vec::new(),
        }
    }

    /// What becomes of it, and what it sends.
    pub(crate) fn after(&self, input: &Input, founders: &Membership, behaviour: Behaviour) -> (Machine, Sent) {
        let mut next = self.clone();
        let mut sent = Vec::new();
        let event = match input {
            Input::Receive(from, message) => Event::Receive { from: *from, message: message.clone() },
            Input::Timeout => {
                next.now = next.now + 3 * TIMEOUT;
                Event::Wake
            }
            Input::Heartbeat => {
                next.now = next.now + HEARTBEAT;
                Event::Wake
            }
            Input::Propose => Event::Propose { payload: bytes::Bytes::from(format!("by node {}", self.id)) },
            Input::Change(change) => Event::ChangeMembership { change: change.of(self.node.status().membership) },
            Input::Written => {
                let write = next.storage.finish_first();
                if write.told {
                    return (next, sent);
                }
                Event::Durable { mark: write.mark, hard_state_sequence: write.hard_state_sequence }
            }
            Input::Crash(kept) => {
                next.crash(*kept, founders, behaviour);
                return (next, sent);
            }
        };
        next.step(event, behaviour, &mut sent);
        (next, sent)
    }

    fn step(&mut self, event: Event, behaviour: Behaviour, sent: &mut Sent) {
        let mut events = VecDeque::from([event]);
        let mut actions = Actions::default();
        while let Some(event) = events.pop_front() {
            self.node.step(self.now, event, &mut actions);
            for mut send in actions.send.drain(..) {
                if let Body::Append { entries, .. } = &mut send.message.body
                    && !send.entries.is_empty()
                {
                    *entries = self.entries(send.entries);
                }
                sent.push((send.to, send.message));
            }
            if let Some(range) = actions.apply.take() {
                self.applied.extend(self.entries(range));
                events.push_back(Event::Applied { index: range.last });
            }
            for load in actions.load.drain(..) {
                // Read at once, and only what is on the disk.
                let entries = self.entries(load.entries);
                events.push_back(Event::Loaded { peer: load.peer, entries });
            }
            if let Some(persist) = actions.persist.take() {
                self.storage.pending.push_back(Pending {
                    hard_state: persist.hard_state,
                    entries: self.entries(persist.entries),
                    mark: persist.mark,
                    hard_state_sequence: persist.hard_state_sequence,
                    told: behaviour.lies,
                });
                let done = Event::Durable { mark: persist.mark, hard_state_sequence: persist.hard_state_sequence };
                if behaviour.at_once {
                    self.storage.finish_first();
                }
                if behaviour.at_once || behaviour.lies {
                    events.push_back(done);
                }
            }
        }
    }

    /// What the core names: from its memory, or from the disk if it has not been in memory since the last start.
    fn entries(&self, range: LogRange) -> Vec<Entry> {
        if range.is_empty() {
            return Vec::new();
        }
        let cached = self.node.log().entries(range).map(|entries| entries.cloned().collect());
        cached.unwrap_or_else(|| {
            let place = |index: LogIndex| usize::try_from(index.0 - 1).unwrap();
            self.storage.log[place(range.first)..=place(range.last)].to_vec()
        })
    }

    fn crash(&mut self, kept: usize, founders: &Membership, behaviour: Behaviour) {
        for _ in 0..kept {
            self.storage.finish_first();
        }
        self.storage.pending.clear();
        if behaviour.forgets_votes {
            self.storage.hard_state.vote = None;
        }
        let log = &self.storage.log;
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        let mut memberships = Vec::new();
        for entry in log {
            if term_runs.last().is_none_or(|(_, term)| *term != entry.term) {
                term_runs.push((entry.index, entry.term));
            }
            if entry.kind == EntryKind::Membership {
                memberships.push((entry.index, Membership::decode(&entry.payload).unwrap()));
            }
        }
        let restored = Restored {
            hard_state: self.storage.hard_state,
            log_last: LogIndex(log.len() as u64),
            term_runs,
            memberships,
            ..Restored::new(founders.clone())
        };
        self.now = self.now + 3 * TIMEOUT;
        self.node = start(self.id, restored, self.now);
        // The state machine starts anew as well, and applies the log again.
        self.applied.clear();
    }

    /// The whole log, from memory or disk: (term, what it holds).
    pub(crate) fn log(&self) -> Vec<(u64, Vec<u8>)> {
        let view = self.node.log();
        let entry = |index: u64| {
            let range = LogRange { first: LogIndex(index), last: LogIndex(index) };
            let cached = view.entries(range).and_then(|mut entries| entries.next().cloned());
            let entry = cached.unwrap_or_else(|| self.storage.log[usize::try_from(index - 1).unwrap()].clone());
            (entry.term.0, [&[entry.kind as u8][..], &entry.payload].concat())
        };
        (1..=view.last_index().0).map(entry).collect()
    }

    /// See the module.
    pub(crate) fn print(&self) -> String {
        let mut text = String::new();
        write!(text, "{:?} {:?} {:?}", self.node, self.storage, self.applied).unwrap();
        relative(&text, self.now)
    }
}

fn start(id: NodeId, restored: Restored, now: Instant) -> Node {
    let config = Config { election_timeout: TIMEOUT, heartbeat_interval: HEARTBEAT, ..Config::new(id) };
    Node::new(config, restored, now, id.0)
}

/// Replaces instants by what they are from `now`, and leaves out what only spreads or counts.
fn relative(text: &str, now: Instant) -> String {
    const INSTANT: &str = "Instant { nanos: ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(INSTANT) {
        out.push_str(&rest[..at]);
        rest = &rest[at + INSTANT.len()..];
        let end = rest.find(' ').expect("a closing brace follows");
        let nanos: u64 = rest[..end].parse().expect("a number of nanoseconds");
        rest = &rest[end..];
        if nanos > now.as_nanos() {
            out.push_str("later");
        } else {
            let age = Duration::from_nanos(now.as_nanos() - nanos).min(TIMEOUT);
            write!(out, "{}", age.as_secs()).unwrap();
        }
    }
    out.push_str(rest);
    for counter in ["Random { state: ", "request: ", "version: "] {
        let mut from = 0;
        while let Some(at) = out[from..].find(counter) {
            let start = from + at + counter.len();
            let digits = out[start..].bytes().take_while(u8::is_ascii_digit).count();
            out.replace_range(start..start + digits, "");
            from = start;
        }
    }
    out
}

impl super::world::Change {
    /// The change as the core takes it.
    fn of(self, membership: &Membership) -> MembershipChange {
        let (node, role) = match self {
            super::world::Change::Add => (NodeId(3), MemberRole::Voter),
            super::world::Change::RemoveLast => {
                (*membership.voters().last().expect("there are voters"), MemberRole::Removed)
            }
        };
        MembershipChange { roles: vec![(node, role)], context: None }
    }
}
