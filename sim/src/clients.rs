//! A client: one operation after the other, through the production directory, routes and retry policy.

use crate::random::Random;
use crate::schedule::Time;
use crate::workload::{Ask, Workload, is_read_transaction};
use client::Error;
use client::directory::{Address, Directory};
use client::policy::{Failure, judge};
use client::route::Route;
use client::session::{Number, Sessions, Standing, WINDOW};
use std::time::Duration;
use transport::proto::client as wire;
use transport::{Request, Response};

/// What a node answers.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub(crate) enum Reply {
    Call(Response),
    Scan(Vec<wire::ScanReply>),
}

/// See the module.
pub(crate) struct Client {
    pub(crate) random: Random,
    pub(crate) workload: Workload,
    pub(crate) directory: Directory,
    pub(crate) current: Option<Current>,
    /// Attempts so far: names the current one.
    pub(crate) attempts: u64,
    /// Does nothing new.
    pub(crate) stopped: bool,
    /// What it knows of its session; some clients do without.
    sessions: Option<Sessions>,
    /// The number in it of the operation under way.
    number: Option<Number>,
    /// The operation under way opens it.
    opens_session: bool,
    /// Standard time that stands for the beginning: the library counts in it.
    origin: std::time::Instant,
}

/// An operation under way.
pub(crate) struct Current {
    pub(crate) ask: Ask,
    pub(crate) route: Route,
    pub(crate) deadline: Time,
    pub(crate) invoked: Time,
    /// Where the current attempt went.
    pub(crate) address: Option<Address>,
    /// Attempts at it so far.
    pub(crate) attempts: u32,
}

/// What to do next.
pub(crate) enum Step {
    /// Send to this node, and wait this long for the answer.
    Send { node: usize, patience: Duration },
    /// Wait, then go on.
    Pause(Duration),
    /// It is over.
    Over(Error),
}

/// The address of a node.
pub(crate) fn address_of(node: usize) -> String {
    format!("n{}:1", node + 1)
}

/// The node at an address.
pub(crate) fn node_at(address: &str) -> usize {
    let number =
        address.strip_prefix('n').and_then(|rest| rest.strip_suffix(":1")).and_then(|number| number.parse().ok());
    let number: usize = number.expect("addresses are made by address_of");
    number - 1
}

impl Client {
    pub(crate) fn new(
        number: usize,
        nodes: usize,
        keys: u64,
        mut random: Random,
        origin: std::time::Instant,
    ) -> Client {
        let mut known: Vec<usize> = (0..nodes).collect();
        random.shuffle(&mut known);
        known.truncate(1 + random.index(nodes));
        let directory = Directory::new(known.into_iter().map(|node| address_of(node).into()).collect());
        let sessions = random.chance(600).then(|| Sessions::new(WINDOW));
        Client {
            sessions,
            number: None,
            opens_session: false,
            workload: Workload::new(number, keys),
            random,
            directory,
            current: None,
            attempts: 0,
            stopped: false,
            origin,
        }
    }

    /// Somebody gives it the addresses of these nodes.
    pub(crate) fn is_told(&mut self, nodes: &[usize]) {
        if !nodes.is_empty() {
            self.directory = Directory::new(nodes.iter().map(|node| address_of(*node).into()).collect());
        }
    }

    /// The next operation, a write in the session if the client has one; if it has yet to open one, that comes first.
    pub(crate) fn draw(&mut self, now: Time) -> Ask {
        let std_now = self.std_time(now);
        let mut ask = self.workload.draw(&mut self.random);
        let (Some(sessions), Ask::Call(request)) = (&mut self.sessions, &mut ask) else { return ask };
        if is_read_transaction(request) {
            return ask;
        }
        let Some(place) = request.session_mut() else { return ask };
        match sessions.standing(std_now) {
            Standing::Without => {}
            Standing::ToOpen => {
                self.opens_session = true;
                let ttl_ms = *self.random.pick(&[0, 10_000]);
                ask = Ask::Call(Request::SessionOpen(wire::SessionOpenRequest { ttl_ms }));
            }
            Standing::Ready => {
                let number = sessions.take(std_now);
                *place = sessions.call(number);
                self.number = Some(number);
            }
            Standing::Full => unreachable!("one operation at a time"),
        }
        ask
    }

    /// A session was opened.
    pub(crate) fn session_opened(&mut self, reply: &wire::SessionOpenReply, invoked: Time) {
        let invoked = self.std_time(invoked);
        if let Some(sessions) = &mut self.sessions {
            sessions.opened(reply.session, Duration::from_millis(reply.ttl_ms), invoked);
        }
    }

    /// The operation is over, with an answer or with this error: what that says of the session.
    pub(crate) fn over(&mut self, error: Option<&Error>, now: Time) {
        let std_now = self.std_time(now);
        let (number, was_opening) = (self.number.take(), std::mem::take(&mut self.opens_session));
        let Some(sessions) = &mut self.sessions else { return };
        if let (true, Some(error)) = (was_opening, error) {
            sessions.refused(error, std_now);
        }
        let Some(number) = number else { return };
        // One operation at a time: there is always room.
        let _room = sessions.release(number);
        if matches!(error, Some(Error::SessionUnknown { .. })) {
            sessions.forget(number.session());
        }
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self, now: Time, ask: Ask, timeout: Duration) {
        assert!(self.current.is_none(), "one operation at a time");
        let route = Route::new(ask.purpose());
        let deadline = now + timeout;
        self.current = Some(Current { ask, route, deadline, invoked: now, address: None, attempts: 0 });
    }

    /// What to do next, as `Client::run` of the library does.
    pub(crate) fn step(&mut self, now: Time, timeout: Duration) -> Step {
        let std_now = self.std_time(now);
        let current = self.current.as_mut().expect("an operation is under way");
        if now >= current.deadline {
            let current = self.current.take().expect("an operation is under way");
            return Step::Over(current.route.give_up(&self.directory, timeout));
        }
        let remaining = current.deadline.since(now);
        let Some(address) = current.route.next(&self.directory, std_now) else {
            let jitter = self.random.below(1 << 20) as f64 / f64::from(1 << 20);
            return match current.route.end_round(jitter) {
                Ok(pause) => Step::Pause(pause.min(remaining)),
                Err(error) => {
                    self.current = None;
                    Step::Over(error)
                }
            };
        };
        self.attempts += 1;
        let patience = client::policy::attempt_timeout(current.ask.purpose(), remaining);
        let node = node_at(&address);
        current.address = Some(address);
        current.attempts += 1;
        Step::Send { node, patience }
    }

    /// The attempt failed. Says whether the operation is over.
    pub(crate) fn failed(&mut self, now: Time, failure: Failure) -> Option<Error> {
        let std_now = self.std_time(now);
        let current = self.current.as_mut().expect("an operation is under way");
        let address = current.address.take().expect("an attempt is under way");
        let verdict = judge(current.ask.purpose(), &address, failure);
        self.attempts += 1;
        current.route.failed(&mut self.directory, &address, verdict, std_now).err().inspect(|_| self.current = None)
    }

    /// The attempt was answered: the operation is over.
    pub(crate) fn answered(&mut self, now: Time) -> Current {
        let std_now = self.std_time(now);
        let current = self.current.take().expect("an operation is under way");
        let address = current.address.as_ref().expect("an attempt is under way");
        let purpose = current.ask.purpose();
        if !self.directory.is_settled(purpose, address) {
            self.directory.answered(purpose, address, std_now);
        }
        self.attempts += 1;
        current
    }

    fn std_time(&self, now: Time) -> std::time::Instant {
        self.origin + Duration::from_nanos(now.0)
    }
}
