//! Nodes with disks and clocks, and the messages between them.
//!
//! Nothing happens unless a command makes it happen. Each node has a clock of its own, which stands still until a command moves it;
//! the core never compares two of them. Messages wait in the order of sending until they are delivered or dropped. Disks and state
//! machines are done at once, unless a command makes them slow: then what they have to do waits as well.
//!
//! A log entry in a disk is durable; what the state machine has applied is lost in a crash unless it was flushed, as it is with a
//! database that caches, and is applied again.

use super::words;
use crate::common::checks::{Checks, check_log_matching};
use crate::common::machine::{Disk, Machine};
use raftkv_raft::{
    Config, Entry, EntryKind, Event, FetchSnapshot, HardState, Instant, LogIndex, LogPosition, Membership, Message,
    NodeId, RepairId, Role, Term,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Messages that one command may deliver before it is taken for an endless conversation.
const DELIVERIES_MAX: usize = 10_000;

/// One message under way.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub from: NodeId,
    pub to: NodeId,
    pub message: Message,
}

/// How much is put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Everything.
    #[default]
    All,
    /// Changes of role, term and leader.
    Roles,
}

/// What surrounds one node.
#[derive(Debug, Default)]
struct Surroundings {
    clock: Instant,
    slow_disk: bool,
    slow_apply: bool,
    /// A snapshot it was told to fetch.
    fetch: Option<FetchSnapshot>,
}

/// The nodes and everything between them: see the module.
#[derive(Default)]
pub struct World {
    machines: BTreeMap<NodeId, Machine>,
    surroundings: BTreeMap<NodeId, Surroundings>,
    config: Option<Config>,
    checks: Checks,
    network: VecDeque<Envelope>,
    held: VecDeque<Envelope>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Read requests of followers in the order they were first seen: their numbers are random.
    requests: Vec<u64>,
    reads: u64,
    losses: u64,
    output: Vec<String>,
    pub detail: Detail,
    indent: bool,
}

impl World {
    /// Founds a group of `voters` and `learners`; `spares` run and are no members yet.
    pub fn found(
        &mut self,
        config: Config,
        voters: &[NodeId],
        learners: &[NodeId],
        spares: &[NodeId],
    ) -> Result<(), String> {
        if !self.machines.is_empty() {
            return Err("there are nodes already".to_owned());
        }
        let roles = learners.iter().map(|id| (*id, raftkv_raft::MemberRole::Learner)).collect();
        let change = raftkv_raft::MembershipChange { roles, context: None };
        let voting = Membership::new(voters.iter().copied());
        let members =
            if learners.is_empty() { voting } else { voting.changed(&change).map_err(|it| it.to_string())? };
        self.checks = Checks::new(members.clone());
        self.config = Some(config);
        for id in voters.iter().chain(learners).chain(spares) {
            let disk = Disk::new(if spares.contains(id) { Membership::default() } else { members.clone() });
            self.surroundings.insert(*id, Surroundings::default());
            let machine = Machine::new(Config { id: *id, ..config }, disk, Instant::ORIGIN, seed(*id, 1));
            self.machines.insert(*id, machine);
        }
        Ok(())
    }

    /// Gives a node the past that these terms of its log tell.
    pub fn set_history(&mut self, id: NodeId, terms: &[u64], term: u64, applied: u64) -> Result<(), String> {
        let machine = self.machine(id)?;
        if machine.disk.hard_state.term > Term::ZERO || !machine.is_up() {
            return Err(format!("node {id} has a past already"));
        }
        let founding = machine.disk.founding.clone();
        let mut disk = Disk::new(founding);
        for (index, term) in (1..).map(LogIndex).zip(terms) {
            let entry = Entry { term: Term(*term), index, kind: EntryKind::Command, payload: "old".into() };
            if index.0 <= applied {
                self.checks.applied(id, &entry);
            }
            disk.entries.insert(index, entry);
        }
        disk.hard_state = HardState { term: Term(term), vote: None };
        disk.flushed = LogIndex(applied);
        let config = Config { id, ..self.config.expect("there are nodes") };
        self.machines.insert(id, Machine::new(config, disk, self.surroundings[&id].clock, seed(id, 1)));
        Ok(())
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// A node, whether it runs or not.
    pub fn machine(&self, id: NodeId) -> Result<&Machine, String> {
        let known = || self.machines.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        self.machines.get(&id).ok_or_else(|| format!("there is no node {id}; the nodes are {}", known()))
    }

    fn running(&self, id: NodeId) -> Result<&raftkv_raft::Node, String> {
        self.machine(id)?.node.as_ref().ok_or_else(|| format!("node {id} is down"))
    }

    fn machine_mut(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).expect("the caller has looked the node up")
    }

    fn surroundings_mut(&mut self, id: NodeId) -> &mut Surroundings {
        self.surroundings.get_mut(&id).expect("the caller has looked the node up")
    }

    // What is put out.

    pub fn take_output(&mut self) -> Vec<String> {
        std::mem::take(&mut self.output)
    }

    pub fn say(&mut self, line: &str) {
        if self.detail == Detail::All {
            let indent = if self.indent { "  " } else { "" };
            self.output.push(format!("{indent}{line}"));
        }
    }

    /// The words for a message.
    fn describe(&mut self, envelope: &Envelope) -> String {
        let requests = &mut self.requests;
        words::message(envelope.from, envelope.to, &envelope.message, |number| {
            let known = requests.iter().position(|request| *request == number);
            known.unwrap_or_else(|| {
                requests.push(number);
                requests.len() - 1
            }) + 1
        })
    }

    // Steps.

    /// Passes an event to a running node, and carries out what it asks for.
    pub fn step(&mut self, id: NodeId, event: Event) -> Result<(), String> {
        self.running(id)?;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            events.extend(self.step_once(id, event));
        }
        Ok(())
    }

    /// One event; what follows from it at once.
    fn step_once(&mut self, id: NodeId, event: Event) -> Vec<Event> {
        let now = self.surroundings[&id].clock;
        let shows_nothing = matches!(event, Event::Durable { .. } | Event::Applied { .. } | Event::Repaired);
        self.machine_mut(id).step(now, event);
        let machine = &self.machines[&id];
        let node = machine.node.as_ref().expect("only running nodes are stepped");
        let changed = machine.actions.changed.map(words::changed);
        let lines = words::orders(&machine.actions, node);
        let orders = self.machines.get_mut(&id).expect("it was just stepped").carry_out(id, &mut self.checks);
        if let Some(changed) = &changed {
            let indent = if self.indent && self.detail == Detail::All { "  " } else { "" };
            self.output.push(format!("{indent}{id}: {changed}"));
        }
        if changed.is_none() && lines.is_empty() && orders.messages.is_empty() && !shows_nothing {
            self.say(&format!("{id}: does nothing"));
        }
        for line in lines {
            self.say(&format!("{id}: {line}"));
        }
        for (to, message) in orders.messages {
            self.send(Envelope { from: id, to, message });
        }
        if orders.fetch.is_some() {
            self.surroundings_mut(id).fetch = orders.fetch;
        }
        let mut events = orders.events;
        if let (Some(newest), false) = (orders.writes.last(), self.surroundings[&id].slow_disk) {
            events.extend(self.machine_mut(id).finish_writes(*newest));
        }
        if orders.applies && !self.surroundings[&id].slow_apply {
            events.extend(self.finish_applies(id));
        }
        check_log_matching(&self.machines);
        events
    }

    fn finish_applies(&mut self, id: NodeId) -> Vec<Event> {
        let machine = self.machines.get_mut(&id).expect("the caller has looked the node up");
        std::iter::from_fn(|| machine.finish_apply(id, &mut self.checks)).collect()
    }

    fn send(&mut self, envelope: Envelope) {
        let is_lost = self.cut.contains(&(envelope.from, envelope.to)) || !self.machines.contains_key(&envelope.to);
        let words = self.describe(&envelope);
        self.say(&format!("{words}{}", if is_lost { " (lost)" } else { "" }));
        if !is_lost {
            self.network.push_back(envelope);
        }
    }

    // Time.

    /// The clock of a node goes on, and the node does on the way what is due.
    pub fn wait(&mut self, id: NodeId, duration: Duration) -> Result<(), String> {
        let until = self.surroundings[&id].clock + duration;
        while let Some(deadline) = self.running(id)?.next_deadline().filter(|deadline| *deadline <= until) {
            let clock = self.surroundings[&id].clock;
            self.surroundings_mut(id).clock = clock.max(deadline);
            self.step(id, Event::Wake)?;
            assert!(self.running(id)?.next_deadline() > Some(deadline), "node {id} does not do what is due");
        }
        self.surroundings_mut(id).clock = until;
        Ok(())
    }

    /// The clock of a node goes on without the node running: a pause.
    pub fn pause(&mut self, id: NodeId, duration: Duration) -> Result<(), String> {
        self.running(id)?;
        let clock = &mut self.surroundings_mut(id).clock;
        *clock = *clock + duration;
        Ok(())
    }

    /// All clocks go on together, and messages arrive at once.
    pub fn run(&mut self, duration: Duration) -> Result<(), String> {
        const GRAIN: Duration = Duration::from_millis(1);
        let mut left = duration;
        while !left.is_zero() {
            let grain = GRAIN.min(left);
            for id in self.ids() {
                if self.machines[&id].is_up() {
                    self.wait(id, grain)?;
                    self.settle()?;
                }
            }
            left -= grain;
        }
        Ok(())
    }

    /// The clock of a node goes on to its election timeout.
    pub fn campaign(&mut self, id: NodeId) -> Result<(), String> {
        let node = self.running(id)?;
        if node.status().role == Role::Leader {
            return Err(format!("node {id} leads and has no election timeout"));
        }
        let deadline = node.next_deadline().expect("who does not lead has a deadline");
        let clock = self.surroundings[&id].clock;
        self.surroundings_mut(id).clock = clock.max(deadline);
        self.step(id, Event::Wake)
    }

    /// A node campaigns, and everybody talks until nobody has anything to say. It must lead then.
    pub fn elect(&mut self, id: NodeId) -> Result<(), String> {
        self.campaign(id)?;
        self.settle()?;
        let status = self.running(id)?.status();
        if status.role == Role::Leader {
            Ok(())
        } else {
            Err(format!("node {id} was not elected: {}", words::status(&status)))
        }
    }

    // Messages.

    pub fn network(&mut self) -> Vec<String> {
        let under_way: Vec<Envelope> = self.network.iter().cloned().collect();
        under_way.iter().map(|envelope| self.describe(envelope)).collect()
    }

    /// Takes messages out of the network: the first `count` that `matches` holds for.
    pub fn take(&mut self, count: usize, matches: impl Fn(&Envelope) -> bool) -> Vec<Envelope> {
        take(&mut self.network, count, matches)
    }

    /// Takes messages out of those held back.
    pub fn take_held(&mut self, count: usize, matches: impl Fn(&Envelope) -> bool) -> Vec<Envelope> {
        take(&mut self.held, count, matches)
    }

    pub fn put(&mut self, envelopes: impl IntoIterator<Item = Envelope>) {
        self.network.extend(envelopes);
    }

    pub fn hold(&mut self, envelopes: impl IntoIterator<Item = Envelope>) {
        self.held.extend(envelopes);
    }

    pub fn say_messages(&mut self, what: &str, envelopes: &[Envelope]) {
        for envelope in envelopes {
            let words = self.describe(envelope);
            self.say(&format!("{what} {words}"));
        }
    }

    pub fn deliver(&mut self, envelope: Envelope) -> Result<(), String> {
        let words = self.describe(&envelope);
        let Envelope { from, to, message } = envelope;
        if !self.machine(to)?.is_up() {
            self.say(&format!("{words} ({to} is down)"));
            return Ok(());
        }
        self.say(&words);
        self.indent = true;
        let result = self.step(to, Event::Receive { from, message });
        self.indent = false;
        result
    }

    /// Delivers everything, also what is said in answer, until nothing is under way.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..DELIVERIES_MAX {
            let Some(envelope) = self.network.pop_front() else { return Ok(()) };
            self.deliver(envelope)?;
        }
        Err(format!("after {DELIVERIES_MAX} messages there are still more"))
    }

    /// Messages from one node to another are lost from here on, those under way included.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
        self.network.retain(|envelope| (envelope.from, envelope.to) != (from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    // Disks, state machines, crashes.

    pub fn set_slow_disk(&mut self, id: NodeId, slow: bool) -> Result<(), String> {
        self.surroundings_mut(id).slow_disk = slow;
        if slow { Ok(()) } else { self.persist(id, u64::MAX) }
    }

    /// The oldest `count` writes of a node are done and reported.
    pub fn persist(&mut self, id: NodeId, count: u64) -> Result<(), String> {
        let machine = self.machine_mut(id);
        let under_way = machine.writes_under_way();
        let newest = machine.newest_write();
        let count = count.min(under_way);
        for event in machine.finish_writes(newest - (under_way - count)) {
            self.step(id, event)?;
        }
        Ok(())
    }

    pub fn set_slow_apply(&mut self, id: NodeId) {
        self.surroundings_mut(id).slow_apply = true;
    }

    /// Everything handed out is applied.
    pub fn apply(&mut self, id: NodeId) -> Result<(), String> {
        for event in self.finish_applies(id) {
            self.step(id, event)?;
        }
        Ok(())
    }

    /// The state machine is flushed, so a restart begins where it is.
    pub fn flush(&mut self, id: NodeId) {
        self.machine_mut(id).flush();
    }

    /// Stops a node at once. Of the writes under way, the oldest `surviving` reach the disk.
    pub fn crash(&mut self, id: NodeId, surviving: u64) -> Result<(), String> {
        self.running(id)?;
        let under_way = self.machines[&id].writes_under_way();
        if surviving > under_way {
            return Err(format!("{surviving} writes cannot survive, {under_way} are under way"));
        }
        self.surroundings_mut(id).fetch = None;
        self.machine_mut(id).crash(surviving);
        self.checks.crashed(id);
        Ok(())
    }

    pub fn restart(&mut self, id: NodeId) -> Result<(), String> {
        let clock = self.surroundings[&id].clock;
        let machine = self.machine_mut(id);
        if machine.is_up() {
            return Err(format!("node {id} runs; crash it first"));
        }
        machine.start(clock, seed(id, machine.life + 1));
        self.checks.restarted(id, &self.machines[&id]);
        Ok(())
    }

    /// A node that is down loses its log, or everything, and knows it when it starts.
    pub fn lose_disk(&mut self, id: NodeId, everything: bool) -> Result<(), String> {
        if self.machine(id)?.is_up() {
            return Err(format!("node {id} runs; crash it first"));
        }
        self.losses += 1;
        let loss = RepairId(self.losses);
        let start = self.checks.position(self.machines[&id].disk.flushed);
        let machine = self.machine_mut(id);
        machine.disk.lose(everything, start, loss);
        machine.applied = if everything { LogIndex::ZERO } else { start.index };
        Ok(())
    }

    /// A node drops its log up to an index, which it has applied; by default everything it has applied.
    pub fn compact(&mut self, id: NodeId, up_to: Option<LogIndex>) -> Result<(), String> {
        let applied = self.running(id)?.status().applied;
        let up_to = up_to.unwrap_or(applied);
        if up_to > applied {
            return Err(format!("node {id} has applied {applied}, it keeps what comes after"));
        }
        let machine = self.machines.get_mut(&id).expect("it was just looked up");
        machine.disk.flushed = up_to;
        let event = machine.compact(&self.checks);
        machine.disk.flushed = applied;
        let event = event.ok_or_else(|| format!("there is nothing to compact up to {up_to}"))?;
        self.step(id, event)
    }

    /// The snapshot that a node was told to fetch arrives, or fails to; its source learns of it if `told`.
    pub fn fetch(&mut self, id: NodeId, arrives: bool, told: bool) -> Result<(), String> {
        self.running(id)?;
        let Some(fetch) = self.surroundings_mut(id).fetch.take() else {
            return Err(format!("node {id} fetches no snapshot"));
        };
        let source = self.machine(fetch.from)?;
        if arrives && !source.is_up() {
            return Err(format!("node {} is down, so the fetch can only fail", fetch.from));
        }
        let position: LogPosition = self.checks.position(source.applied);
        if arrives && position.index < fetch.at_least.index {
            return Err(format!("node {} has no snapshot as new as {}", fetch.from, words::position(fetch.at_least)));
        }
        let membership = self.checks.membership_at(position.index);
        if arrives {
            self.step(id, Event::SnapshotFetched { position, membership })?;
        } else {
            self.step(id, Event::SnapshotFailed)?;
        }
        if told && self.machine(fetch.from)?.is_up() {
            self.step(fetch.from, Event::SnapshotSent { peer: id, position: arrives.then_some(position) })?;
        }
        Ok(())
    }

    // Reads.

    /// A read on a node; reads are numbered in the order of the script.
    pub fn read(&mut self, id: NodeId, lease: bool) -> Result<(), String> {
        self.running(id)?;
        self.reads += 1;
        let token = self.reads;
        self.checks.read_begins(id, token);
        self.step(id, if lease { Event::LeaseRead { token } } else { Event::Read { token } })
    }

    // Probes.

    pub fn show_status(&mut self, id: NodeId) -> Result<(), String> {
        let text = self.machine(id)?.node.as_ref().map_or("down".to_owned(), |node| words::status(&node.status()));
        self.say(&format!("{id}: {text}"));
        Ok(())
    }

    pub fn show_members(&mut self, id: NodeId) -> Result<(), String> {
        let status = self.running(id)?.status();
        let mut text = words::membership(status.membership);
        if status.membership != status.membership_committed {
            text += &format!("; committed: {}", words::membership(status.membership_committed));
        }
        self.say(&format!("{id}: {text}"));
        Ok(())
    }

    pub fn show_progress(&mut self, id: NodeId) -> Result<(), String> {
        let lines: Vec<String> = self.running(id)?.peer_progress().map(|peer| words::progress(&peer)).collect();
        for line in lines {
            self.say(&format!("{id} of {line}"));
        }
        Ok(())
    }

    /// The log as the node has it in memory, with the disk's help; of a node that is down, the log on its disk.
    pub fn show_log(&mut self, id: NodeId) -> Result<(), String> {
        let machine = self.machine(id)?;
        let (start, last) = match &machine.node {
            Some(node) => (node.log().start(), node.log().last_index()),
            None => (machine.disk.start, machine.disk.last()),
        };
        let mut parts = Vec::new();
        if start.index > LogIndex::ZERO {
            parts.push(format!("(after {})", words::position(start)));
        }
        for index in (start.index.0 + 1..=last.0).map(LogIndex) {
            let range = raftkv_raft::LogRange { first: index, last: index };
            let in_memory = machine.node.as_ref().and_then(|node| node.log().entries(range)?.next());
            let entry = in_memory.or_else(|| machine.disk.entries.get(&index)).expect("the log has no holes");
            parts.push(words::entry(entry));
        }
        let text = if parts.is_empty() { "empty".to_owned() } else { parts.join(" | ") };
        self.say(&format!("{id}: {text}"));
        Ok(())
    }
}

fn take(queue: &mut VecDeque<Envelope>, count: usize, matches: impl Fn(&Envelope) -> bool) -> Vec<Envelope> {
    let mut taken = Vec::new();
    let mut kept = VecDeque::new();
    for envelope in queue.drain(..) {
        if taken.len() < count && matches(&envelope) {
            taken.push(envelope);
        } else {
            kept.push_back(envelope);
        }
    }
    *queue = kept;
    taken
}

/// Differs from node to node and from life to life, and is the same in each run.
fn seed(id: NodeId, life: u64) -> u64 {
    id.0 * 1000 + life
}
