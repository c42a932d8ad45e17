//! The logic of sessions, routes and the retry policy against a cluster that loses, delays and repeats, drawn at random.
//!
//! The cluster is as decision 9 says: it keeps the answers of each session from the lowest number that is wanted, gives a kept answer
//! again, and refuses what is older. Attempts come to it at once, late, or never, and their answers are lost or not. Whatever happens,
//!
//! - a write is applied at most once,
//! - a write that returns an answer was applied, and the answer is the one of that time,
//! - a write that returns "certainly not applied" is never applied, not even by an attempt that arrives after everything else,
//! - the cluster never has to keep more answers for a session than the window has room for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use client::Error;
use client::directory::{Address, Directory};
use client::policy::{Failure, Purpose, judge};
use client::route::Route;
use client::session::{Number, Sessions, Standing};
use proptest::prelude::*;
use raftkv_client as client;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use wire::{ErrorCode, SessionCall};

const WINDOW: usize = 4;
const WRITERS: usize = 6;

/// What becomes of one attempt.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    /// It arrives; its answer does not.
    AnswerLost,
    /// It never arrives, and the client cannot know.
    Lost,
    /// It arrives when [`Action::Deliver`] says so; the client has no answer.
    Delayed,
    NotLeader,
    /// Refused before the log, for a reason that another attempt does not share.
    NoSpace,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// The writer begins a write if it has none, and otherwise makes its next attempt.
    Attempt(usize, Fate),
    /// The writer's deadline has come.
    GiveUp(usize),
    /// The writer's future is dropped.
    Abandon(usize),
    /// One of the delayed attempts arrives.
    Deliver(prop::sample::Index),
    /// The cluster ends its sessions.
    Expire,
}

fn action() -> impl Strategy<Value = Action> {
    let fate = prop_oneof![
        6 => Just(Fate::Answered),
        2 => Just(Fate::AnswerLost),
        2 => Just(Fate::Lost),
        3 => Just(Fate::Delayed),
        1 => Just(Fate::NotLeader),
        1 => Just(Fate::NoSpace),
    ];
    prop_oneof![
        16 => (0..WRITERS, fate).prop_map(|(writer, fate)| Action::Attempt(writer, fate)),
        1 => (0..WRITERS).prop_map(Action::GiveUp),
        1 => (0..WRITERS).prop_map(Action::Abandon),
        3 => any::<prop::sample::Index>().prop_map(Action::Deliver),
        1 => Just(Action::Expire),
    ]
}

/// The replicated state.
#[derive(Default)]
struct Cluster {
    sessions: BTreeMap<u64, Session>,
    opened: u64,
    /// Writes in the order in which they were applied.
    applied: Vec<u32>,
}

#[derive(Default)]
struct Session {
    oldest: u64,
    answers: BTreeMap<u64, usize>,
}

impl Cluster {
    fn open(&mut self) -> u64 {
        self.opened += 1;
        self.sessions.insert(self.opened, Session::default());
        self.opened
    }

    /// The answer is the place of the write among all that were applied.
    fn apply(&mut self, call: SessionCall, write: u32) -> Result<usize, ErrorCode> {
        let session = self.sessions.get_mut(&call.session).ok_or(ErrorCode::SessionUnknown)?;
        session.oldest = session.oldest.max(call.oldest);
        session.answers = session.answers.split_off(&session.oldest);
        if call.sequence < session.oldest {
            return Err(ErrorCode::AnswerForgotten);
        }
        let applied = &mut self.applied;
        let answer = *session.answers.entry(call.sequence).or_insert_with(|| {
            applied.push(write);
            applied.len()
        });
        assert!(session.answers.len() <= WINDOW, "{} answers are kept", session.answers.len());
        Ok(answer)
    }
}

/// A write under way.
struct Writing {
    write: u32,
    number: Number,
    call: SessionCall,
    route: Route,
}

/// What a write returned.
#[derive(Debug, PartialEq, Eq)]
enum Returned {
    Answer(usize),
    NotApplied,
    Unknown,
}

struct World {
    cluster: Cluster,
    sessions: Sessions,
    directory: Directory,
    writers: Vec<Option<Writing>>,
    delayed: Vec<(SessionCall, u32)>,
    returned: BTreeMap<u32, Returned>,
    writes: u32,
    now: Instant,
}

impl World {
    fn new() -> World {
        World {
            cluster: Cluster::default(),
            sessions: Sessions::new(WINDOW),
            directory: Directory::new(vec!["a:1".into(), "b:1".into()]),
            writers: (0..WRITERS).map(|_| None).collect(),
            delayed: Vec::new(),
            returned: BTreeMap::new(),
            writes: 0,
            now: Instant::now(),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Attempt(writer, fate) => match self.writers[writer].take() {
                Some(writing) => self.attempt(writer, writing, fate),
                None => self.begin(writer),
            },
            Action::GiveUp(writer) => {
                if let Some(Writing { write, number, route, .. }) = self.writers[writer].take() {
                    self.fail(write, number, &route.give_up(&self.directory, Duration::from_secs(5)));
                }
            }
            Action::Abandon(writer) => {
                if let Some(Writing { write, number, .. }) = self.writers[writer].take() {
                    self.finish(write, number, Returned::Unknown);
                }
            }
            Action::Deliver(which) if !self.delayed.is_empty() => {
                let (call, write) = self.delayed.swap_remove(which.index(self.delayed.len()));
                // Nobody waits for this answer.
                let _ignored = self.cluster.apply(call, write);
            }
            Action::Deliver(_) => {}
            Action::Expire => self.cluster.sessions.clear(),
        }
    }

    fn begin(&mut self, writer: usize) {
        if self.sessions.standing(self.now) == Standing::ToOpen {
            let id = self.cluster.open();
            self.sessions.opened(id, Duration::ZERO, self.now);
        }
        if self.sessions.standing(self.now) == Standing::Ready {
            self.writes += 1;
            self.writers[writer] = Some(self.numbered(self.writes));
        }
    }

    fn numbered(&mut self, write: u32) -> Writing {
        let number = self.sessions.take(self.now);
        let call = self.sessions.call(number).unwrap();
        Writing { write, number, call, route: Route::new(Purpose::RepeatableWrite) }
    }

    fn attempt(&mut self, writer: usize, mut writing: Writing, fate: Fate) {
        let address = match writing.route.next(&self.directory, self.now) {
            Some(address) => address,
            None => {
                writing.route.end_round(0.5).unwrap();
                writing.route.next(&self.directory, self.now).unwrap()
            }
        };
        let Writing { write, call, .. } = writing;
        let lost = || Failure::Lost("the connection broke".into());
        let failure = match fate {
            Fate::Answered => match self.cluster.apply(call, write) {
                Ok(answer) => return self.finish(write, writing.number, Returned::Answer(answer)),
                Err(code) => refusal(code),
            },
            Fate::AnswerLost => {
                let _lost_too = self.cluster.apply(call, write);
                lost()
            }
            Fate::Lost => lost(),
            Fate::Delayed => {
                self.delayed.push((call, write));
                lost()
            }
            Fate::NotLeader => refusal(ErrorCode::NotLeader),
            Fate::NoSpace => refusal(ErrorCode::NoSpace),
        };
        self.failed(writer, writing, &address, failure);
    }

    fn failed(&mut self, writer: usize, mut writing: Writing, address: &Address, failure: Failure) {
        let verdict = judge(Purpose::RepeatableWrite, address, failure);
        match writing.route.failed(&mut self.directory, address, verdict, self.now) {
            Ok(()) => self.writers[writer] = Some(writing),
            Err(Error::SessionUnknown { .. }) => {
                // As the client does: the same write under a number of a new session.
                self.sessions.forget(writing.number.session());
                let _ = self.sessions.release(writing.number);
                let write = writing.write;
                if self.sessions.standing(self.now) == Standing::ToOpen {
                    let id = self.cluster.open();
                    self.sessions.opened(id, Duration::ZERO, self.now);
                }
                if self.sessions.standing(self.now) == Standing::Ready {
                    self.writers[writer] = Some(self.numbered(write));
                } else {
                    self.returned.insert(write, Returned::NotApplied);
                }
            }
            Err(error) => self.fail(writing.write, writing.number, &error),
        }
    }

    fn fail(&mut self, write: u32, number: Number, error: &Error) {
        let returned = if error.is_certainly_not_applied() { Returned::NotApplied } else { Returned::Unknown };
        self.finish(write, number, returned);
    }

    fn finish(&mut self, write: u32, number: Number, returned: Returned) {
        let _ = self.sessions.release(number);
        self.returned.insert(write, returned);
    }

    /// Everything arrives that still can; then the promises are looked at.
    fn check(mut self) -> Result<(), TestCaseError> {
        for (call, write) in std::mem::take(&mut self.delayed) {
            let _ignored = self.cluster.apply(call, write);
        }
        let distinct: BTreeSet<u32> = self.cluster.applied.iter().copied().collect();
        prop_assert_eq!(distinct.len(), self.cluster.applied.len(), "applied twice: {:?}", self.cluster.applied);
        for (write, returned) in &self.returned {
            match returned {
                Returned::Answer(place) => prop_assert_eq!(self.cluster.applied[place - 1], *write),
                Returned::NotApplied => {
                    prop_assert!(!distinct.contains(write), "write {} was applied after all", write)
                }
                Returned::Unknown => {}
            }
        }
        Ok(())
    }
}

fn refusal(code: ErrorCode) -> Failure {
    Failure::Node(wire::Error { code: code.into(), message: "because".into(), ..wire::Error::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_write_is_applied_at_most_once_and_answered_with_its_first_answer(
        actions in prop::collection::vec(action(), 1..120)
    ) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.check()?;
    }
}
