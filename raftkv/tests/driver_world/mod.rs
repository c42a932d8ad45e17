//! Drivers without threads: several of them in one, with hosts that do everything at once or not at all.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use raft::{
    Changed, Config, Entry, EntryKind, Instant, LogIndex, LogPosition, Membership, Message, Node, NodeId, Restored,
    Role,
};
use raftkv::directory::{DirectoryMember, MemberDirectory};
use raftkv::driver::{
    ApplyEntries, ApplyJob, ChangeRefusal, ChangeReport, ChangeRequest, Driver, DriverConfig, EntryWaiters, Host,
    Input, MemberEdit, PersistJob, ReadRefusal, ReadWaiter, RestoredDisk, SpaceLimits, StateFacts, TransferRefusal,
    WriteOutcome, WriteRefusal, WriteRequest,
};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use storage::command::{BatchDecoder, Command, EncodedCommand, Put};
use storage::state::{CommandOutcome, FORMAT_WITH_TRANSACTIONS, STATE_FORMAT_OLDEST};
use transport::InboundPermit;

/// What a driver asked for and did not get yet.
#[derive(Default)]
pub(crate) struct Asked {
    persists: VecDeque<PersistJob>,
    messages: VecDeque<(NodeId, Message)>,
    applies: VecDeque<ApplyJob>,
    reads: VecDeque<ReadWaiter>,
    /// As of when the state is, as the driver said last.
    pub(crate) fresh: Option<Instant>,
    /// In effect and committed, as the driver said last.
    pub(crate) memberships: (Membership, Membership),
    /// What the wall clock shows.
    pub(crate) wall_clock_ms: u64,
}

/// What every wall clock shows until a test sets it.
pub(crate) const WALL_CLOCK_MS: u64 = 1_800_000_000_000;

/// The driver's half of a host; the test holds the other.
#[derive(Clone, Default)]
pub(crate) struct SharedHost(pub(crate) Rc<RefCell<Asked>>);

impl Host for SharedHost {
    fn persist(&mut self, job: PersistJob) {
        self.0.borrow_mut().persists.push_back(job);
    }
    fn send(&mut self, to: NodeId, message: Message) {
        self.0.borrow_mut().messages.push_back((to, message));
    }
    fn apply(&mut self, job: ApplyJob) {
        self.0.borrow_mut().applies.push_back(job);
    }
    fn load(&mut self, load: raft::Load) {
        panic!("nothing is evicted from the cache here: {load:?}");
    }
    fn serve(&mut self, reads: Vec<ReadWaiter>) {
        self.0.borrow_mut().reads.extend(reads);
    }
    fn fetch_snapshot(&mut self, fetch: raft::FetchSnapshot) {
        panic!("nothing is compacted here: {fetch:?}");
    }
    fn install_snapshot(&mut self, install: raft::InstallSnapshot) {
        panic!("nothing is compacted here: {install:?}");
    }
    fn compact(&mut self, position: LogPosition) {
        panic!("the log is small: {position}");
    }
    fn request_flush(&mut self) {}
    fn changed(&mut self, _changed: Changed) {}
    fn committed(&mut self, _index: LogIndex) {}
    fn fresh(&mut self, at: Instant) {
        self.0.borrow_mut().fresh = Some(at);
    }
    fn membership(&mut self, effective: &Membership, committed: &Membership) {
        self.0.borrow_mut().memberships = (effective.clone(), committed.clone());
    }
    fn wall_clock_ms(&mut self) -> u64 {
        self.0.borrow().wall_clock_ms
    }
    fn repaired(&mut self) {
        panic!("nobody is under repair here");
    }
}

pub(crate) struct TestNode {
    pub(crate) driver: Driver<SharedHost>,
    pub(crate) host: SharedHost,
    pub(crate) applied: Vec<Entry>,
    /// What a state would say of itself.
    pub(crate) facts: StateFacts,
    /// When things are due, as a test has said. One command ends one of them.
    ends_ms: BTreeSet<u64>,
    /// What the log on disk holds that was there when the node started.
    on_disk: Vec<Entry>,
}

/// What a new state says of itself.
const NEW_STATE: StateFacts = StateFacts { format: STATE_FORMAT_OLDEST, time_ms: 0, next_expiry_ms: None };

pub(crate) struct World {
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) cut_off: BTreeSet<usize>,
    pub(crate) now: Instant,
}

/// What the founding members are called.
fn founding(founders: u64) -> MemberDirectory {
    let member = |id| DirectoryMember {
        id,
        name: format!("n{id}"),
        peer_address: format!("host{id}:7421"),
        client_address: format!("host{id}:7420"),
        http_address: None,
    };
    MemberDirectory { id_max: founders, members: (1..=founders).map(member).collect() }
}

fn test_node(id: u64, founders: u64, lease_reads: bool, space: SpaceLimits) -> TestNode {
    start_node(id, founders, lease_reads, space, Instant::ORIGIN, Vec::new())
}

/// A node with this log and an empty state, in the term of the log's end.
fn start_node(
    id: u64,
    founders: u64,
    lease_reads: bool,
    space: SpaceLimits,
    now: Instant,
    on_disk: Vec<Entry>,
) -> TestNode {
    let is_founder = id <= founders;
    let membership = if is_founder { Membership::new((1..=founders).map(NodeId)) } else { Membership::default() };
    let host = SharedHost::default();
    host.0.borrow_mut().wall_clock_ms = WALL_CLOCK_MS;
    let core = Config { lease_reads, ..Config::new(NodeId(id)) };
    let mut restored = Restored::new(membership);
    for entry in &on_disk {
        if entry.term != restored.hard_state.term {
            restored.term_runs.push((entry.index, entry.term));
        }
        restored.hard_state.term = entry.term;
        restored.log_last = entry.index;
    }
    let node = Node::new(core, restored, now, id);
    let config = DriverConfig {
        log_retained_bytes: u64::MAX,
        election_timeout: core.election_timeout,
        format_max: FORMAT_WITH_TRANSACTIONS,
        founding: if is_founder { founding(founders) } else { MemberDirectory::default() },
        space,
    };
    let disk = RestoredDisk { applied: LogIndex::ZERO, log_bytes: 0, facts: NEW_STATE };
    let driver = Driver::new(node, host.clone(), config, disk, now);
    TestNode { driver, host, applied: Vec::new(), facts: NEW_STATE, ends_ms: BTreeSet::new(), on_disk }
}

impl TestNode {
    /// What an entry does to what a state says of itself.
    fn follow(&mut self, entry: &Entry) {
        let batch = BatchDecoder::new(&entry.payload);
        let facts = &mut self.facts;
        facts.time_ms = facts.time_ms.max(batch.time_ms().unwrap_or(0));
        for item in batch {
            let command = item.unwrap().command;
            if let Command::RaiseFormat { to } = command {
                facts.format = to;
            }
            if let Command::Expire { .. } = command {
                if self.ends_ms.first().is_some_and(|end| *end <= facts.time_ms) {
                    self.ends_ms.pop_first();
                }
                facts.next_expiry_ms = self.ends_ms.first().copied();
            }
        }
    }
}

impl World {
    /// Three founding members.
    pub(crate) fn new() -> World {
        World::with(3, 0)
    }

    /// Founding members, and nodes after them that wait to be made members.
    pub(crate) fn with(founders: u64, joining: u64) -> World {
        let nodes = (1..=founders + joining).map(|id| test_node(id, founders, false, SpaceLimits::default())).collect();
        World { nodes, cut_off: BTreeSet::new(), now: Instant::ORIGIN }
    }

    /// Three founding members of a group that has leases on.
    pub(crate) fn with_leases() -> World {
        let nodes = (1..=3).map(|id| test_node(id, 3, true, SpaceLimits::default())).collect();
        World { nodes, cut_off: BTreeSet::new(), now: Instant::ORIGIN }
    }

    /// Three founding members that keep so much of the past, and take so much room.
    pub(crate) fn with_space(space: SpaceLimits) -> World {
        let nodes = (1..=3).map(|id| test_node(id, 3, false, space)).collect();
        World { nodes, cut_off: BTreeSet::new(), now: Instant::ORIGIN }
    }

    /// Every process ends and starts again, with its log and without its state: RocksDB had flushed nothing of it. Everything must be applied before.
    pub(crate) fn restart_without_states(&mut self) {
        let founders = self.nodes.len() as u64;
        let nodes = (1..).zip(&self.nodes).map(|(id, node)| {
            assert_eq!(node.applied.last().map(|entry| entry.index), Some(node.driver.status().log_last));
            start_node(id, founders, false, SpaceLimits::default(), self.now, node.applied.clone())
        });
        self.nodes = nodes.collect();
    }

    /// Does everything that was asked for, until nothing is.
    pub(crate) fn settle(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for node in 0..self.nodes.len() {
                self.nodes[node].driver.flush(self.now);
                busy |= self.persist(node) | self.deliver(node) | self.apply(node) | self.serve(node);
            }
        }
    }

    pub(crate) fn persist(&mut self, node: usize) -> bool {
        let job = self.nodes[node].host.0.borrow_mut().persists.pop_front();
        let Some(job) = job else { return false };
        let done = Input::Durable { mark: job.mark, hard_state_sequence: job.hard_state_sequence, log_bytes: 0 };
        self.nodes[node].driver.handle(self.now, done);
        true
    }

    pub(crate) fn deliver(&mut self, node: usize) -> bool {
        let sent = self.nodes[node].host.0.borrow_mut().messages.pop_front();
        let Some((to, message)) = sent else { return false };
        let receiver = usize::try_from(to.0).unwrap() - 1;
        if !self.cut_off.contains(&node) && !self.cut_off.contains(&receiver) {
            let from = NodeId(node as u64 + 1);
            let arrived = Input::Message { from, message, permit: InboundPermit::unmetered() };
            self.nodes[receiver].driver.handle(self.now, arrived);
        }
        true
    }

    pub(crate) fn apply(&mut self, node: usize) -> bool {
        let job = self.nodes[node].host.0.borrow_mut().applies.pop_front();
        let Some(ApplyJob { entries, waiters }) = job else { return false };
        let entries = match entries {
            ApplyEntries::Cached(entries) => entries,
            ApplyEntries::OnDisk(range) => {
                let on_disk = self.nodes[node].on_disk.iter();
                on_disk.filter(|entry| range.first <= entry.index && entry.index <= range.last).cloned().collect()
            }
        };
        let index = entries.last().unwrap().index;
        let mut waiters: VecDeque<EntryWaiters> = waiters.into();
        for entry in &entries {
            if waiters.front().is_some_and(|waiting| waiting.position.index == entry.index) {
                answer(waiters.pop_front().unwrap(), entry);
            }
        }
        let node = &mut self.nodes[node];
        entries.iter().filter(|entry| entry.kind == EntryKind::Command).for_each(|entry| node.follow(entry));
        node.applied.extend(entries);
        node.driver.handle(self.now, Input::Applied { index, flushed: LogIndex::ZERO, facts: node.facts });
        true
    }

    /// Something is due then, on every node, as if a lease had been granted.
    pub(crate) fn let_something_end_at(&mut self, time_ms: u64) {
        for node in &mut self.nodes {
            node.ends_ms.insert(time_ms);
            node.facts.next_expiry_ms = node.ends_ms.first().copied();
            node.driver.handle(self.now, Input::StateReplaced { facts: node.facts });
        }
    }

    /// Brings the newest format into effect on every node.
    pub(crate) fn raise_formats(&mut self) {
        self.hear_formats(FORMAT_WITH_TRANSACTIONS);
        let raised = |world: &World| world.nodes.iter().all(|node| node.facts.format == FORMAT_WITH_TRANSACTIONS);
        self.until("the newest format", raised);
    }

    /// Every node hears from every other that it knows this format.
    pub(crate) fn hear_formats(&mut self, format_max: u32) {
        for node in 0..self.nodes.len() {
            for peer in (1..=self.nodes.len() as u64).map(NodeId) {
                self.nodes[node].driver.handle(self.now, Input::PeerFormat { peer, format_max });
            }
        }
    }

    fn serve(&mut self, node: usize) -> bool {
        let read = self.nodes[node].host.0.borrow_mut().reads.pop_front();
        read.map(|waiter| waiter(Ok(()))).is_some()
    }

    /// Lets time pass until `condition` holds.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&World) -> bool) {
        for _ in 0..10_000 {
            if condition(self) {
                return;
            }
            self.now = self.now + Duration::from_millis(10);
            self.settle();
        }
        panic!("never came: {what}");
    }

    /// A leader among those that are not cut off.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads =
            |node: &usize| !self.cut_off.contains(node) && self.nodes[*node].driver.status().role == Role::Leader;
        (0..self.nodes.len()).find(leads)
    }

    pub(crate) fn elect(&mut self) -> usize {
        self.until("a leader", |world| world.leader().is_some());
        self.leader().unwrap()
    }

    pub(crate) fn write(&mut self, node: usize, key: &str) -> Receiver<Result<WriteOutcome, WriteRefusal>> {
        self.command(node, EncodedCommand::new(&Command::Put(Put::new(key.as_bytes(), b"v")), None))
    }

    pub(crate) fn command(
        &mut self,
        node: usize,
        command: EncodedCommand,
    ) -> Receiver<Result<WriteOutcome, WriteRefusal>> {
        let (answer, outcome) = channel();
        let waiter = Box::new(move |result| answer.send(result).unwrap());
        self.nodes[node].driver.handle(self.now, Input::Write(WriteRequest { command, waiter }));
        outcome
    }

    pub(crate) fn read(&mut self, node: usize) -> Receiver<Result<(), ReadRefusal>> {
        let (answer, outcome) = channel();
        self.nodes[node].driver.handle(self.now, Input::Read(Box::new(move |result| answer.send(result).unwrap())));
        outcome
    }

    pub(crate) fn lease_read(&mut self, node: usize) -> Receiver<Result<(), ReadRefusal>> {
        let (answer, outcome) = channel();
        let waiter = Box::new(move |result| answer.send(result).unwrap());
        self.nodes[node].driver.handle(self.now, Input::LeaseRead(waiter));
        outcome
    }

    /// Asks `node` to change the members.
    pub(crate) fn change(&mut self, node: usize, changes: &[MemberEdit]) -> Receiver<ChangeOutcome> {
        self.change_request(node, changes, false)
    }

    pub(crate) fn change_request(
        &mut self,
        node: usize,
        changes: &[MemberEdit],
        dry_run: bool,
    ) -> Receiver<ChangeOutcome> {
        let (answer, outcome) = channel();
        let waiter = Box::new(move |result| answer.send(result).unwrap());
        let request = ChangeRequest { changes: changes.to_vec(), dry_run, waiter };
        self.nodes[node].driver.handle(self.now, Input::ChangeMembership(request));
        outcome
    }

    /// Asks `node` to hand leadership over.
    pub(crate) fn transfer(&mut self, node: usize, target: Option<u64>) -> Receiver<Result<NodeId, TransferRefusal>> {
        let (answer, outcome) = channel();
        let waiter = Box::new(move |result| answer.send(result).unwrap());
        let input = Input::TransferLeadership { target: target.map(NodeId), waiter };
        self.nodes[node].driver.handle(self.now, input);
        outcome
    }

    /// Lets this much time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let begun = self.now;
        self.until("time", |world| world.now.since(begun) >= time);
    }
}

/// How a change ended.
pub(crate) type ChangeOutcome = Result<ChangeReport, ChangeRefusal>;

fn answer(waiting: EntryWaiters, entry: &Entry) {
    for waiter in waiting.waiters {
        if waiting.position == entry.position() {
            let outcome = CommandOutcome::Put { revision: entry.index.0, previous: None };
            waiter(Ok(WriteOutcome { index: entry.index, revision: entry.index.0, outcome }));
        } else {
            waiter(Err(WriteRefusal::NotLeader { leader: None }));
        }
    }
}
