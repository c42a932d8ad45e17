//! The driver without threads: writes and reads.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::{SharedHost, World};
use raft::{Config, HardState, Instant, LogIndex, LogPosition, Membership, Node, NodeId, Restored, Term};
use raftkv::directory::MemberDirectory;
use raftkv::driver::{Driver, DriverConfig, ReadRefusal, RestoredDisk, SpaceLimits, StateFacts, WriteRefusal};
use std::time::Duration;
use storage::command::{Command, EncodedCommand, KeyRange, Put, RangeLimits, VALUES_HELD_MAX};
use storage::state::{STATE_FORMAT, STATE_FORMAT_OLDEST};

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
fn an_entry_deletes_one_range_at_most_and_returns_few_values() {
    let mut world = World::new();
    let leader = world.elect();
    let limits = RangeLimits { keys_max: 10, bytes_max: 1000 };
    let delete = |end: &'static [u8]| {
        let range = KeyRange { start: b"k", end: Some(end) };
        EncodedCommand::new(&Command::DeleteRange { range, limits, previous: false }, None)
    };
    let ends: [&[u8]; 5] = [b"k\0", b"z", b"z", b"k\0", b"k\0"];
    let waiting: Vec<_> = ends.map(|end| world.command(leader, delete(end))).into();
    world.settle();
    let indices: Vec<u64> = waiting.iter().map(|outcome| outcome.try_recv().unwrap().unwrap().index.0).collect();
    let first = indices[0];
    assert_eq!(indices, [first, first, first + 1, first + 1, first + 1]);

    let returned = Command::Put(Put { previous: true, ..Put::new(b"k", b"v") });
    let puts: Vec<_> = (0..=VALUES_HELD_MAX).map(|_| EncodedCommand::new(&returned, None)).collect();
    let waiting: Vec<_> = puts.into_iter().map(|put| world.command(leader, put)).collect();
    world.settle();
    let indices: Vec<u64> = waiting.iter().map(|outcome| outcome.try_recv().unwrap().unwrap().index.0).collect();
    let (last, others) = indices.split_last().unwrap();
    assert!(others.iter().all(|index| index + 1 == *last), "{indices:?}");
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
    world.cut_off.insert(old);
    let lost = world.write(old, "lost");
    world.settle();
    let new = world.elect();
    let kept = world.write(new, "kept");
    world.settle();
    assert!(kept.try_recv().unwrap().is_ok());
    assert!(lost.try_recv().is_err(), "nothing can be known yet");
    world.cut_off.clear();
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
    world.cut_off.insert(first);
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
    world.cut_off.clear();
    world.until("the first leader catches up", |world| world.nodes[first].applied == world.nodes[second].applied);
    let transferred = world.transfer(second, Some(first as u64 + 1));
    world.until("the first leader leads again", |world| world.leader() == Some(first));
    assert_eq!(transferred.try_recv().unwrap(), Ok(NodeId(first as u64 + 1)));
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
    world.cut_off.insert(old);
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
    world.cut_off.insert(leader);
    let read = world.read(leader);
    let asked = world.now;
    world.until("the leader gives up", |world| world.now.since(asked) > Duration::from_secs(3));
    assert!(matches!(read.try_recv().unwrap(), Err(ReadRefusal::NotLeader { .. })));
}

/// Thesis §6.4.1: the leader answers although nobody answers it, for as long as its lease lasts and no longer.
#[test]
fn a_lease_read_asks_nobody_while_the_lease_lasts() {
    let mut world = World::with_leases();
    let leader = world.elect();
    let written = world.write(leader, "first");
    world.pass(Duration::from_millis(500));
    assert!(written.try_recv().unwrap().is_ok());
    world.cut_off.insert(leader);
    let (by_lease, by_majority) = (world.lease_read(leader), world.read(leader));
    world.pass(Duration::from_millis(1));
    assert_eq!(by_lease.try_recv().unwrap(), Ok(()));
    assert!(by_majority.try_recv().is_err(), "a linearizable read waits for a majority");
    world.pass(Duration::from_millis(900));
    let late = world.lease_read(leader);
    world.pass(Duration::from_secs(3));
    assert!(matches!(late.try_recv().unwrap(), Err(ReadRefusal::NotLeader { .. })), "the lease was over");
}

/// Without leases on, and on a follower, it is a linearizable read.
#[test]
fn a_lease_read_without_a_lease_is_a_linearizable_one() {
    let mut world = World::new();
    let leader = world.elect();
    world.pass(Duration::from_millis(300));
    for node in 0..3 {
        let read = world.lease_read(node);
        world.pass(Duration::from_millis(300));
        assert_eq!(read.try_recv().unwrap(), Ok(()), "node {node}");
    }
    world.cut_off.insert(leader);
    let read = world.lease_read(leader);
    world.pass(Duration::from_secs(3));
    assert!(matches!(read.try_recv().unwrap(), Err(ReadRefusal::NotLeader { .. })));
}

#[test]
fn closing_answers_everybody() {
    let mut world = World::new();
    let leader = world.elect();
    world.cut_off.insert(leader);
    let proposed = world.write(leader, "proposed");
    world.settle();
    let gathered = world.write(leader, "gathered");
    let read = world.read(leader);
    world.nodes[leader].driver.close();
    assert_eq!(proposed.try_recv().unwrap().unwrap_err(), WriteRefusal::OutcomeUnknown);
    assert_eq!(gathered.try_recv().unwrap().unwrap_err(), WriteRefusal::Stopping);
    assert_eq!(read.try_recv().unwrap(), Err(ReadRefusal::Stopping));
}

/// After a snapshot has taken the log's place, its segments may still be on disk while there is no entry to drop.
#[test]
fn an_empty_log_that_is_large_on_disk_is_left_alone() {
    let position = LogPosition { term: Term(3), index: LogIndex(7) };
    let core = Config::new(NodeId(1));
    let restored = Restored {
        hard_state: HardState { term: position.term, vote: None },
        log_start: position,
        log_last: position.index,
        applied: position.index,
        ..Restored::new(Membership::new((1..=3).map(NodeId)))
    };
    let node = Node::new(core, restored, Instant::ORIGIN, 1);
    let founding = MemberDirectory::default();
    let config = DriverConfig {
        log_retained_bytes: 0,
        election_timeout: core.election_timeout,
        format_max: STATE_FORMAT,
        founding,
        space: SpaceLimits::default(),
    };
    let facts = StateFacts { format: STATE_FORMAT_OLDEST, time_ms: 0, next_expiry_ms: None };
    let on_disk = RestoredDisk { applied: position.index, log_bytes: 1 << 20, facts };
    let mut driver = Driver::new(node, SharedHost::default(), config, on_disk, Instant::ORIGIN);
    // The host panics when it is asked to drop anything.
    driver.flush(Instant::ORIGIN + Duration::from_secs(1));
    assert_eq!(driver.status().log_last, position.index);
}
