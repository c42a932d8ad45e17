//! The driver without threads: three of them in one, with hosts that do everything at once or not at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use raft::{Changed, Config, Entry, Instant, LogIndex, LogPosition, Membership, Message, Node, NodeId, Restored, Role};
use raftkv::driver::{
    ApplyEntries, ApplyJob, Driver, DriverConfig, EntryWaiters, Host, Input, PersistJob, ReadRefusal, ReadWaiter,
    RestoredDisk, WriteCommand, WriteOutcome, WriteRefusal, WriteRequest,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use storage::command::DeleteLimits;
use storage::state::CommandOutcome;
use transport::InboundPermit;

/// What a driver asked for and did not get yet.
#[derive(Default)]
struct Asked {
    persists: VecDeque<PersistJob>,
    messages: VecDeque<(NodeId, Message)>,
    applies: VecDeque<ApplyJob>,
    reads: VecDeque<ReadWaiter>,
}

/// The driver's half of a host; the test holds the other.
#[derive(Clone, Default)]
struct SharedHost(Rc<RefCell<Asked>>);

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
    fn repaired(&mut self) {
        panic!("nothing is lost here");
    }
    fn changed(&mut self, _changed: Changed) {}
    fn committed(&mut self, _index: LogIndex) {}
    fn fresh(&mut self, _at: Instant) {}
}

struct TestNode {
    driver: Driver<SharedHost>,
    host: SharedHost,
    applied: Vec<Entry>,
}

struct World {
    nodes: Vec<TestNode>,
    cut_off: Option<usize>,
    now: Instant,
}

impl World {
    fn new() -> World {
        let membership = Membership::new((1..=3).map(NodeId));
        let nodes = (1..=3)
            .map(|id| {
                let host = SharedHost::default();
                let restored = Restored::new(membership.clone());
                let node = Node::new(Config::new(NodeId(id)), restored, Instant::ORIGIN, id);
                let config = DriverConfig { log_retained_bytes: u64::MAX };
                let on_disk = RestoredDisk { applied: LogIndex::ZERO, log_bytes: 0 };
                let driver = Driver::new(node, host.clone(), config, on_disk, Instant::ORIGIN);
                TestNode { driver, host, applied: Vec::new() }
            })
            .collect();
        World { nodes, cut_off: None, now: Instant::ORIGIN }
    }

    /// Does everything that was asked for, until nothing is.
    fn settle(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for node in 0..self.nodes.len() {
                self.nodes[node].driver.flush(self.now);
                busy |= self.persist(node) | self.deliver(node) | self.apply(node) | self.serve(node);
            }
        }
    }

    fn persist(&mut self, node: usize) -> bool {
        let job = self.nodes[node].host.0.borrow_mut().persists.pop_front();
        let Some(job) = job else { return false };
        let done = Input::Durable { mark: job.mark, hard_state_sequence: job.hard_state_sequence, log_bytes: 0 };
        self.nodes[node].driver.handle(self.now, done);
        true
    }

    fn deliver(&mut self, node: usize) -> bool {
        let sent = self.nodes[node].host.0.borrow_mut().messages.pop_front();
        let Some((to, message)) = sent else { return false };
        let receiver = usize::try_from(to.0).unwrap() - 1;
        if self.cut_off != Some(node) && self.cut_off != Some(receiver) {
            let from = NodeId(node as u64 + 1);
            let arrived = Input::Message { from, message, permit: InboundPermit::unmetered() };
            self.nodes[receiver].driver.handle(self.now, arrived);
        }
        true
    }

    fn apply(&mut self, node: usize) -> bool {
        let job = self.nodes[node].host.0.borrow_mut().applies.pop_front();
        let Some(ApplyJob { entries, waiters }) = job else { return false };
        let ApplyEntries::Cached(entries) = entries else { panic!("everything is in the cache") };
        let index = entries.last().unwrap().index;
        let mut waiters: VecDeque<EntryWaiters> = waiters.into();
        for entry in &entries {
            if waiters.front().is_some_and(|waiting| waiting.position.index == entry.index) {
                answer(waiters.pop_front().unwrap(), entry);
            }
        }
        self.nodes[node].applied.extend(entries);
        self.nodes[node].driver.handle(self.now, Input::Applied { index, flushed: LogIndex::ZERO });
        true
    }

    fn serve(&mut self, node: usize) -> bool {
        let read = self.nodes[node].host.0.borrow_mut().reads.pop_front();
        read.map(|waiter| waiter(Ok(()))).is_some()
    }

    /// Lets time pass until `condition` holds.
    fn until(&mut self, what: &str, condition: impl Fn(&World) -> bool) {
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
    fn leader(&self) -> Option<usize> {
        (0..3).find(|node| Some(*node) != self.cut_off && self.nodes[*node].driver.status().role == Role::Leader)
    }

    fn elect(&mut self) -> usize {
        self.until("a leader", |world| world.leader().is_some());
        self.leader().unwrap()
    }

    fn write(&mut self, node: usize, key: &str) -> Receiver<Result<WriteOutcome, WriteRefusal>> {
        let command = WriteCommand::Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::from_static(b"v"),
            condition: None,
            previous: false,
        };
        self.command(node, command)
    }

    fn command(&mut self, node: usize, command: WriteCommand) -> Receiver<Result<WriteOutcome, WriteRefusal>> {
        let (answer, outcome) = channel();
        let waiter = Box::new(move |result| answer.send(result).unwrap());
        self.nodes[node].driver.handle(self.now, Input::Write(WriteRequest { command, waiter }));
        outcome
    }

    fn read(&mut self, node: usize) -> Receiver<Result<(), ReadRefusal>> {
        let (answer, outcome) = channel();
        self.nodes[node].driver.handle(self.now, Input::Read(Box::new(move |result| answer.send(result).unwrap())));
        outcome
    }
}

fn answer(waiting: EntryWaiters, entry: &Entry) {
    for waiter in waiting.waiters {
        if waiting.position == entry.position() {
            let outcome = CommandOutcome::Put { revision: entry.index.0, previous: None };
            waiter(Ok(WriteOutcome { index: entry.index, outcome }));
        } else {
            waiter(Err(WriteRefusal::NotLeader { leader: None }));
        }
    }
}

#[test]
fn writes_that_come_together_become_one_entry_and_each_is_answered_once() {
    let mut world = World::new();
    let leader = world.elect();
    let waiting: Vec<_> = (0..5).map(|number| world.write(leader, &format!("k{number}"))).collect();
    world.settle();
    let indices: Vec<LogIndex> = waiting.iter().map(|outcome| outcome.try_recv().unwrap().unwrap().index).collect();
    assert!(indices.iter().all(|index| *index == indices[0]), "{indices:?}");
    assert!(waiting.iter().all(|outcome| outcome.try_recv().is_err()), "a second answer came");
    world
        .until("everybody applies", |world| world.nodes.iter().all(|node| node.applied == world.nodes[leader].applied));
}

/// What an entry deletes lies in memory until it is applied, and the limits are those of one delete.
#[test]
fn an_entry_deletes_one_range_at_most() {
    let mut world = World::new();
    let leader = world.elect();
    let limits = DeleteLimits { keys_max: 10, bytes_max: 1000 };
    let delete = |end: &'static [u8]| WriteCommand::DeleteRange {
        start: Bytes::from_static(b"k"),
        end: Some(Bytes::from_static(end)),
        limits,
        previous: false,
    };
    let ends: [&[u8]; 5] = [b"k\0", b"z", b"z", b"k\0", b"k\0"];
    let waiting: Vec<_> = ends.map(|end| world.command(leader, delete(end))).into();
    world.settle();
    let indices: Vec<u64> = waiting.iter().map(|outcome| outcome.try_recv().unwrap().unwrap().index.0).collect();
    let first = indices[0];
    assert_eq!(indices, [first, first, first + 1, first + 2, first + 2]);
}

#[test]
fn a_follower_refuses_writes_and_names_the_leader() {
    let mut world = World::new();
    let leader = world.elect();
    world.until("the followers know", |world| world.nodes.iter().all(|node| node.driver.status().leader.is_some()));
    let outcome = world.write((leader + 1) % 3, "k");
    world.settle();
    let expected = WriteRefusal::NotLeader { leader: Some(NodeId(leader as u64 + 1)) };
    assert_eq!(outcome.try_recv().unwrap().unwrap_err(), expected);
}

#[test]
fn a_write_whose_place_another_entry_took_is_refused_not_guessed() {
    let mut world = World::new();
    let old = world.elect();
    world.cut_off = Some(old);
    let lost = world.write(old, "lost");
    world.settle();
    let new = world.elect();
    let kept = world.write(new, "kept");
    world.settle();
    assert!(kept.try_recv().unwrap().is_ok());
    assert!(lost.try_recv().is_err(), "nothing can be known yet");
    world.cut_off = None;
    world.until("the old leader applies what the new one wrote", |world| {
        world.nodes[old].applied == world.nodes[new].applied
    });
    assert_eq!(lost.try_recv().unwrap().unwrap_err(), WriteRefusal::NotLeader { leader: None });
}

/// A leader that is cut off with several writes, deposed, and elected again before their waiters are given up.
#[test]
fn a_leader_elected_again_keeps_no_waiters_of_its_former_term() {
    let mut world = World::new();
    let first = world.elect();
    world.cut_off = Some(first);
    let lost: Vec<_> = (0..9)
        .map(|number| {
            let outcome = world.write(first, &format!("lost{number}"));
            world.settle();
            outcome
        })
        .collect();
    let second = world.elect();
    let kept = world.write(second, "kept");
    world.settle();
    assert!(kept.try_recv().unwrap().is_ok());
    world.cut_off = None;
    world.until("the first leader catches up", |world| world.nodes[first].applied == world.nodes[second].applied);
    world.nodes[second].driver.handle(world.now, Input::TransferLeadership { target: Some(NodeId(first as u64 + 1)) });
    world.until("the first leader leads again", |world| world.leader() == Some(first));
    for number in 0..20 {
        let outcome = world.write(first, &format!("again{number}"));
        world.settle();
        assert!(outcome.try_recv().unwrap().is_ok(), "write {number} after the return");
    }
    for outcome in lost {
        assert!(outcome.try_recv().unwrap().is_err(), "a write of the former term was called done");
        assert!(outcome.try_recv().is_err(), "a second answer came");
    }
}

#[test]
fn a_write_nobody_can_decide_is_unknown_after_a_while() {
    let mut world = World::new();
    let old = world.elect();
    world.cut_off = Some(old);
    let lost = world.write(old, "lost");
    let asked = world.now;
    world.until("an answer", |world| world.now.since(asked) > Duration::from_secs(15));
    assert_eq!(lost.try_recv().unwrap().unwrap_err(), WriteRefusal::OutcomeUnknown);
}

#[test]
fn reads_are_served_by_leader_and_followers_and_refused_without_a_quorum() {
    let mut world = World::new();
    let leader = world.elect();
    world.until("the followers know", |world| world.nodes.iter().all(|node| node.driver.status().leader.is_some()));
    for node in 0..3 {
        let read = world.read(node);
        let asked = world.now;
        world.until("time for a read", |world| world.now.since(asked) > Duration::from_millis(300));
        assert_eq!(read.try_recv().unwrap(), Ok(()), "node {node}");
    }
    world.cut_off = Some(leader);
    let read = world.read(leader);
    let asked = world.now;
    world.until("the leader gives up", |world| world.now.since(asked) > Duration::from_secs(3));
    assert!(matches!(read.try_recv().unwrap(), Err(ReadRefusal::NotLeader { .. })));
}

#[test]
fn closing_answers_everybody() {
    let mut world = World::new();
    let leader = world.elect();
    world.cut_off = Some(leader);
    let proposed = world.write(leader, "proposed");
    world.settle();
    let gathered = world.write(leader, "gathered");
    let read = world.read(leader);
    world.nodes[leader].driver.close();
    assert_eq!(proposed.try_recv().unwrap().unwrap_err(), WriteRefusal::OutcomeUnknown);
    assert_eq!(gathered.try_recv().unwrap().unwrap_err(), WriteRefusal::Stopping);
    assert_eq!(read.try_recv().unwrap(), Err(ReadRefusal::Stopping));
}
