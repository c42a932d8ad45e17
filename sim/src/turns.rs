//! A driver's turn: it takes in what has come, and what it asks for is set going.

use crate::host::Order;
use crate::network::{Copy, Fate};
use crate::node::{LogJob, Node, StateJob, index_of};
use crate::schedule::Time;
use crate::world::{AtNode, Happening, InProcess, Parcel, World};
use raft::{Changed, FetchSnapshot, Membership, Message, NodeId, Role};
use raftkv::driver::Input;
use raftkv::members::MemberView;
use std::sync::Arc;
use std::time::Duration;
use transport::InboundPermit;
use transport::{decode_message, encode_message};

/// How long it takes from something coming in to the driver's turn.
const TURN_DELAY: (Duration, Duration) = (Duration::from_micros(2), Duration::from_micros(100));
/// How long until a link tells that a message did not get through.
const UNREACHABLE_DELAY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));
/// What wall clocks show when a run begins, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// When a fetch of a snapshot is given up.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a removed member is still linked to, so that it learns of its removal.
const LEAVE_LINKED: Duration = Duration::from_secs(5);

impl World {
    /// Lets something happen in the present life of a node.
    pub(crate) fn later(&mut self, node: usize, delay: Duration, what: InProcess) {
        let life = self.nodes[node].life;
        self.schedule.after(delay, Happening::Process { node, life, what });
    }

    /// Lets work that a node does itself be done after a while, which is longer on a slow node.
    pub(crate) fn later_at_its_speed(&mut self, node: usize, delay: Duration, what: InProcess) {
        let delay = delay * self.nodes[node].slowness;
        self.later(node, delay, what);
    }

    /// Something has come for the driver.
    pub(crate) fn push(&mut self, node: usize, input: Input) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.inbox.push_back(input);
        let delay = self.random.latency(TURN_DELAY.0, TURN_DELAY.1) * self.nodes[node].slowness;
        let at = self.schedule.now() + delay;
        self.schedule_turn(node, at);
    }

    /// The driver gets a turn at `at`, unless it gets one before.
    pub(crate) fn schedule_turn(&mut self, node: usize, at: Time) {
        let life = self.nodes[node].life;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.turn.is_none_or(|turn| at < turn) {
            process.turn = Some(at);
            process.turn_number += 1;
            let what = InProcess::Turn { number: process.turn_number };
            self.schedule.at(at, Happening::Process { node, life, what });
        }
    }

    /// The clock runs otherwise than it did: what was due may be due at another time.
    pub(crate) fn reschedule_turn(&mut self, node: usize) {
        if let Some(process) = &mut self.nodes[node].process {
            process.turn = None;
            let now = self.schedule.now();
            self.schedule_turn(node, now);
        }
    }

    pub(crate) fn turn(&mut self, node: usize, number: u64) {
        let now = self.schedule.now();
        let drain_max = self.settings.drain_max;
        let Node { clock, process, life, wall_offset_ms, .. } = &mut self.nodes[node];
        let process = process.as_mut().expect("a turn is void in later lives");
        if process.turn_number != number {
            return;
        }
        process.turn = None;
        let local = clock.read(now);
        process.host.set_wall_clock((EPOCH_MS + local.as_nanos() / 1_000_000).saturating_add_signed(*wall_offset_ms));
        let mut taken = 0;
        while taken < drain_max {
            let Some(input) = process.inbox.pop_front() else { break };
            process.driver.handle(local, input);
            taken += 1;
        }
        process.driver.flush(local);
        let due = clock.when(process.driver.next_deadline());
        let more = !process.inbox.is_empty();
        self.trace.note(now, 1, node as u64);
        self.checks.stepped(node, *life, process.driver.core());
        let host = process.host.clone();
        while let Some(order) = host.next() {
            self.carry_out(node, order);
        }
        self.forward_answers(node);
        self.hear_desk(node);
        // A clock that stands still must not let the driver spin.
        let soonest = now + Duration::from_micros(1);
        self.schedule_turn(node, if more { soonest } else { due.max(soonest) });
    }

    fn carry_out(&mut self, node: usize, order: Order) {
        match order {
            Order::Persist(job) => self.add_log_job(node, LogJob::Persist(job)),
            Order::Compact(position) => self.add_log_job(node, LogJob::Compact(position)),
            Order::Apply(job) => self.add_state_job(node, StateJob::Apply(job)),
            Order::InstallSnapshot(install) => self.add_state_job(node, StateJob::Install(install)),
            Order::Send(to, message) => self.send(node, to, message),
            Order::Load(load) => {
                let delay = self.random.latency(Duration::from_micros(20), Duration::from_millis(5));
                self.later_at_its_speed(node, delay, InProcess::Loaded(load));
            }
            Order::Serve(reads) => {
                let delay = self.random.latency(Duration::from_micros(2), Duration::from_millis(2));
                self.later_at_its_speed(node, delay, InProcess::Serve(reads));
            }
            Order::Flush => {
                let delay = self.random.latency(Duration::from_millis(1), Duration::from_millis(200));
                self.later_at_its_speed(node, delay, InProcess::Flush);
            }
            Order::FetchSnapshot(fetch) => self.fetch_snapshot(node, fetch),
            Order::Changed(changed) => self.changed(node, changed),
            Order::Membership { effective, committed } => self.follow_members(node, &effective, &committed),
            Order::Repaired => {
                let delay = self.random.latency(Duration::from_micros(100), Duration::from_millis(10));
                self.later_at_its_speed(node, delay, InProcess::Repaired);
            }
        }
    }

    fn changed(&mut self, node: usize, changed: Changed) {
        let Changed { role, term, leader } = changed;
        let id = self.nodes[node].id;
        self.say(format_args!("node {id}: {role:?} in term {term}, leader {:?}", leader.map(|leader| leader.0)));
        if let Some(process) = &mut self.nodes[node].process {
            process.role = role;
        }
        if role == Role::Leader {
            self.counters.count("elections: a leader changed");
        }
    }

    /// Links go to the members, as the node sees them.
    fn follow_members(&mut self, node: usize, effective: &Membership, committed: &Membership) {
        let now = self.schedule.now();
        let Node { process, id, told_to_join, .. } = &mut self.nodes[node];
        let Some(process) = process else { return };
        let founding = self.settings.provisioned(*id, *told_to_join).directory;
        let view = MemberView::new(*id, effective, committed, &founding);
        let gone = process.view.peers.members.keys().filter(|id| !view.peers.members.contains_key(id));
        let gone: Vec<(NodeId, Time)> = gone.map(|id| (*id, now + LEAVE_LINKED)).collect();
        process.leaving.extend(gone);
        process.view = Arc::new(view);
        self.say(format_args!("node {}: the members are {effective:?}, committed {committed:?}", node + 1));
    }

    /// Whether a node has a link to another, or lets it in: members, those that it has not heard of yet, and for a while those that left.
    fn speaks_to(&self, node: usize, other: NodeId) -> bool {
        let Some(process) = &self.nodes[node].process else { return false };
        process.view.peers.admits(other)
            || process.leaving.get(&other).is_some_and(|until| *until > self.schedule.now())
    }

    fn send(&mut self, from: usize, to: NodeId, message: Message) {
        if !self.speaks_to(from, to) {
            return self.push(from, Input::Unreachable { peer: to });
        }
        let to = index_of(to);
        self.say(format_args!("{} → {}: {message:?}", from + 1, to + 1));
        match self.network.fate(from, to) {
            Fate::Cut => {
                if self.random.chance(300) {
                    let delay = self.random.duration(UNREACHABLE_DELAY.0, UNREACHABLE_DELAY.1);
                    let peer = self.nodes[to].id;
                    self.later(from, delay, InProcess::Input(Input::Unreachable { peer }));
                }
            }
            Fate::Lost => self.counters.count("network: loss"),
            Fate::Sent(copy) => self.dispatch(from, to, message, copy),
            Fate::Twice(first, second) => {
                self.counters.count("network: duplicate");
                self.dispatch(from, to, message.clone(), first);
                self.dispatch(from, to, message, second);
            }
        }
    }

    fn dispatch(&mut self, from: usize, to: usize, message: Message, copy: Copy) {
        let Copy { delay, late } = copy;
        if late {
            self.counters.count("network: long delay");
        }
        let parcel = if self.network.settings.encoded {
            self.counters.count("network: messages in their encoded form");
            Parcel::Encoded(encode_message(message))
        } else {
            Parcel::Value(Box::new(message))
        };
        if self.network.overtakes(from, to, self.schedule.now() + delay) {
            self.counters.count("network: a message overtook another");
        }
        let (from_life, to_life) = (self.nodes[from].life, self.nodes[to].life);
        let what = AtNode::Deliver { from, from_life, to_life, parcel, late };
        self.schedule.after(delay, Happening::Node { node: to, what });
    }

    pub(crate) fn deliver(&mut self, node: usize, from: usize, lives: (u64, u64), parcel: Parcel, late: bool) {
        if !self.network.arrives(from, node, late) {
            return;
        }
        let (from_life, to_life) = lives;
        if self.nodes[node].process.is_none() {
            return;
        }
        if !self.speaks_to(node, self.nodes[from].id) {
            return self.counters.count("membership: a message of a removed node refused");
        }
        if from_life != self.nodes[from].life {
            self.counters.count("network: message of a former life of its sender");
        }
        if to_life != self.nodes[node].life {
            self.counters.count("network: message for a former life of its receiver");
        }
        let message = match parcel {
            Parcel::Value(message) => *message,
            Parcel::Encoded(body) => decode_message(body).expect("what was encoded decodes"),
        };
        self.hear_format(node, from, from_life);
        let from = self.nodes[from].id;
        self.push(node, Input::Message { from, message, permit: InboundPermit::unmetered() });
    }

    /// A peer says which formats it knows when it connects, which it does once in each of its lives.
    fn hear_format(&mut self, node: usize, from: usize, from_life: u64) {
        let (peer, format_max) = (self.nodes[from].id, self.nodes[from].format_max);
        let is_present = self.nodes[from].life == from_life;
        let Some(process) = &mut self.nodes[node].process else { return };
        if is_present && process.connected.insert(peer, from_life) != Some(from_life) {
            self.push(node, Input::PeerFormat { peer, format_max });
        }
    }

    fn fetch_snapshot(&mut self, node: usize, fetch: FetchSnapshot) {
        let FetchSnapshot { from, at_least } = fetch;
        let Some(process) = &mut self.nodes[node].process else { return };
        process.fetches += 1;
        let number = process.fetches;
        process.fetching = Some(number);
        let source = index_of(from);
        let id = self.nodes[node].id;
        self.say(format_args!("node {id}: fetches a snapshot from node {from}, at least {at_least}"));
        match self.network.fate(node, source) {
            // One that takes minutes to get through is given up: the fetch has a timeout.
            Fate::Cut | Fate::Lost | Fate::Sent(Copy { late: true, .. }) | Fate::Twice(Copy { late: true, .. }, _) => {
                self.snapshot_failed(node, number);
            }
            Fate::Sent(copy) | Fate::Twice(copy, _) => {
                let what = AtNode::OpenSnapshot { peer: node, peer_life: self.nodes[node].life, fetch, number };
                self.schedule.after(copy.delay, Happening::Node { node: source, what });
                self.later(node, FETCH_TIMEOUT, InProcess::FetchTimedOut { number });
            }
        }
    }
}
