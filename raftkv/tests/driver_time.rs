//! The driver without threads: the cluster's time goes on by the leader's monotonic clock, and leases end by it (decision 9).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::{WALL_CLOCK_MS, World};
use raft::{EntryKind, NodeId};
use raftkv::driver::Input;
use std::time::Duration;
use storage::command::{BatchDecoder, Command};
use storage::state::FORMAT_WITH_TRANSACTIONS;

const HOUR_MS: u64 = 3_600_000;

/// The time of each batch that `node` has applied and that has one, and whether it ends what is due.
fn batches(world: &World, node: usize) -> Vec<(u64, bool)> {
    let commands = world.nodes[node].applied.iter().filter(|entry| entry.kind == EntryKind::Command);
    let timed = commands.filter_map(|entry| {
        let mut batch = BatchDecoder::new(&entry.payload);
        let time_ms = batch.time_ms()?;
        Some((time_ms, batch.any(|item| matches!(item.unwrap().command, Command::Expire { .. }))))
    });
    timed.collect()
}

/// Writes through `node`, and says by which time it was applied.
fn time_of_a_write(world: &mut World, node: usize) -> u64 {
    let written = world.write(node, "k");
    world.settle();
    assert!(written.try_recv().unwrap().is_ok());
    batches(world, node).last().unwrap().0
}

fn expiries(world: &World, node: usize) -> usize {
    batches(world, node).iter().filter(|(_, ends)| *ends).count()
}

/// A group in the newest format, its leader, and a time that all of it has applied.
fn begun() -> (World, usize, u64) {
    let mut world = World::new();
    let leader = world.elect();
    world.raise_formats();
    let time_ms = time_of_a_write(&mut world, leader);
    world.pass(Duration::from_millis(200));
    (world, leader, time_ms)
}

#[test]
fn a_wall_clock_that_is_set_changes_nothing() {
    let (mut world, leader, first) = begun();
    let begun_at = world.now;
    for wall_clock_ms in [WALL_CLOCK_MS + HOUR_MS, WALL_CLOCK_MS - HOUR_MS, 0] {
        for node in &world.nodes {
            node.host.0.borrow_mut().wall_clock_ms = wall_clock_ms;
        }
        world.pass(Duration::from_secs(1));
        let passed = time_of_a_write(&mut world, leader) - first;
        let expected = world.now.since(begun_at).as_millis() + 200;
        assert_eq!(u128::from(passed), expected, "with the wall clock at {wall_clock_ms}");
    }
}

#[test]
fn time_does_not_go_back_when_leaders_change_nor_run_while_there_is_none() {
    let (mut world, old, before) = begun();
    for node in &world.nodes {
        node.host.0.borrow_mut().wall_clock_ms = WALL_CLOCK_MS - HOUR_MS;
    }
    world.cut_off.insert(old);
    world.pass(Duration::from_secs(10));
    let new = world.elect();
    let elected_at = world.now;
    world.pass(Duration::from_secs(2));
    let after = time_of_a_write(&mut world, new);
    assert!(after >= before + 2_000, "{after} follows on {before}");
    // Elected some time within the ten seconds, and not at their beginning.
    let led = u64::try_from(world.now.since(elected_at).as_millis()).unwrap() + 10_000;
    assert!(after < before + led, "{after} follows on {before}: time ran while nobody led");
    let times: Vec<u64> = batches(&world, new).into_iter().map(|(time_ms, _)| time_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
}

/// What tells the time is in the log then, and not applied yet when the next leader is elected.
#[test]
fn a_restart_of_everything_with_nothing_flushed_does_not_set_the_time_by_a_wall_clock() {
    let (mut world, _, before) = begun();
    world.restart_without_states();
    for node in &world.nodes {
        node.host.0.borrow_mut().wall_clock_ms = WALL_CLOCK_MS + HOUR_MS;
    }
    let leader = world.elect();
    // At once, before the new leader has applied anything.
    let written = world.write(leader, "k");
    world.pass(Duration::from_secs(1));
    assert!(written.try_recv().unwrap().is_ok());
    world.hear_formats(FORMAT_WITH_TRANSACTIONS);
    let after = time_of_a_write(&mut world, leader);
    assert!((before + 900..before + 5_000).contains(&after), "{after} follows on {before}");
}

#[test]
fn what_is_due_is_ended_once_its_time_has_come_and_not_before() {
    let (mut world, leader, time_ms) = begun();
    let due = time_ms + 5_000;
    world.let_something_end_at(due);
    world.until("the end", |world| world.nodes[leader].facts.next_expiry_ms.is_none());
    let ends: Vec<u64> = batches(&world, leader).into_iter().filter(|(_, ends)| *ends).map(|(at, _)| at).collect();
    let last = *ends.last().unwrap();
    assert!((due..due + 50).contains(&last), "due at {due}, ended at {last}");
    assert!(ends[..ends.len() - 1].iter().all(|at| *at < due), "{ends:?}");
    let before = expiries(&world, leader);
    world.pass(Duration::from_secs(5));
    assert_eq!(expiries(&world, leader), before, "nothing is left that could end");
}

/// Whoever leads next goes on where the log says the time is.
#[test]
fn while_something_can_end_the_state_is_never_far_behind_the_leaders_time() {
    let (mut world, leader, time_ms) = begun();
    world.let_something_end_at(time_ms + HOUR_MS);
    world.pass(Duration::from_secs(30));
    let marks = expiries(&world, leader);
    assert!((25..=31).contains(&marks), "{marks} in thirty seconds");
    let state_ms = world.nodes[leader].facts.time_ms;
    world.cut_off.insert(leader);
    let new = world.elect();
    assert!(time_of_a_write(&mut world, new) >= state_ms);
    assert!(state_ms >= time_ms + 29_000, "{state_ms} is far behind {time_ms} and half a minute");
}

#[test]
fn one_end_is_under_way_at_a_time_and_a_follower_proposes_none() {
    let (mut world, leader, time_ms) = begun();
    world.cut_off.insert(leader);
    let log_lasts: Vec<_> = world.nodes.iter().map(|node| node.driver.status().log_last.0).collect();
    for later in 0..3 {
        world.let_something_end_at(time_ms + later);
    }
    world.pass(Duration::from_millis(600));
    for (node, log_last) in log_lasts.into_iter().enumerate() {
        let proposed = world.nodes[node].driver.status().log_last.0 - log_last;
        assert_eq!(proposed, u64::from(node == leader), "node {node}, and none is committed");
    }
}

#[test]
fn more_that_is_due_is_ended_by_the_next() {
    let (mut world, leader, time_ms) = begun();
    for later in 0..5 {
        world.let_something_end_at(time_ms + later);
    }
    world.settle();
    assert_eq!(world.nodes[leader].facts.next_expiry_ms, None, "all of it is over at once");
    assert_eq!(expiries(&world, leader), 5);
}

#[test]
fn nothing_is_ended_before_the_format_that_has_ends() {
    let mut world = World::new();
    let leader = world.elect();
    world.let_something_end_at(1);
    world.pass(Duration::from_secs(3));
    assert_eq!(expiries(&world, leader), 0);
    world.raise_formats();
    world.pass(Duration::from_secs(1));
    assert_eq!(expiries(&world, leader), 1);
}

/// While leadership is handed over the core takes no proposals, and whoever leads then sees to it.
#[test]
fn what_is_due_during_a_transfer_is_ended_by_the_next_leader() {
    let (mut world, leader, time_ms) = begun();
    let target = (leader + 1) % 3;
    world.let_something_end_at(time_ms + 700);
    let transferred = world.transfer(leader, Some(target as u64 + 1));
    world.until("the target leads", |world| world.leader() == Some(target));
    assert_eq!(transferred.try_recv().unwrap(), Ok(NodeId(target as u64 + 1)));
    world.until("the end", |world| world.nodes[target].facts.next_expiry_ms.is_none());
}

/// A node that has applied a snapshot goes on at the snapshot's time.
#[test]
fn a_state_that_came_as_a_snapshot_brings_its_time() {
    let (mut world, leader, time_ms) = begun();
    for node in &mut world.nodes {
        node.facts.time_ms = time_ms + HOUR_MS;
        let facts = node.facts;
        node.driver.handle(world.now, Input::StateReplaced { facts });
    }
    assert!(time_of_a_write(&mut world, leader) >= time_ms + HOUR_MS);
}
