//! The driver without threads: how old a node calls its state, for reads that may be stale up to an age.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::World;
use raft::{Body, Instant, LogIndex, LogPosition, Message, NodeId, Role};
use raftkv::driver::Input;
use std::time::Duration;
use transport::InboundPermit;

/// As of when `node` says that its state is.
fn fresh_at(world: &World, node: usize) -> Instant {
    world.nodes[node].host.0.borrow().fresh.unwrap()
}

/// A group with a leader, in which everybody has applied a write.
fn world() -> (World, usize) {
    let mut world = World::new();
    let leader = world.elect();
    let written = world.write(leader, "first");
    world.settle();
    assert!(written.try_recv().unwrap().is_ok());
    world.pass(Duration::from_millis(500));
    (world, leader)
}

/// Everything but the disk of `stuck` goes on for a while.
fn run_with_a_stuck_disk(world: &mut World, stuck: usize) {
    for _ in 0..50 {
        for node in 0..world.nodes.len() {
            world.nodes[node].driver.flush(world.now);
            if node != stuck {
                world.persist(node);
            }
            world.deliver(node);
            world.apply(node);
        }
    }
}

#[test]
fn a_follower_that_hears_its_leader_and_has_everything_is_fresh() {
    let (world, leader) = world();
    let heartbeats = Duration::from_millis(200);
    for node in 0..3 {
        let age = world.now.since(fresh_at(&world, node));
        assert!(age <= heartbeats, "node {node} of a healthy group, led by {leader}, calls its state {age:?} old");
    }
}

#[test]
fn a_follower_that_lacks_committed_entries_does_not_call_itself_fresh() {
    let (mut world, leader) = world();
    let stuck = (leader + 1) % 3;
    let written_at = world.now;
    let written = world.write(leader, "second");
    run_with_a_stuck_disk(&mut world, stuck);
    let index = written.try_recv().unwrap().unwrap().index;
    // For less than an election timeout: its disk does not even count as hanging.
    for _ in 0..40 {
        world.now = world.now + Duration::from_millis(20);
        run_with_a_stuck_disk(&mut world, stuck);
    }
    assert!(world.nodes[stuck].driver.status().applied < index, "its disk is stuck");
    let fresh = fresh_at(&world, stuck);
    assert!(fresh <= written_at, "it lacks a write made {:?} before the moment it claims", fresh.since(written_at));
    world.settle();
    world.pass(Duration::from_millis(300));
    assert!(fresh_at(&world, stuck) > written_at, "it has the write");
}

/// As before the first commit of a term, or from a leader of an earlier version to one of whom it knows nothing.
#[test]
fn a_heartbeat_that_says_nothing_of_what_is_committed_makes_nothing_fresh() {
    let (mut world, leader) = world();
    let down = (leader + 1) % 3;
    world.cut_off.insert(down);
    let begun = world.now;
    let written = world.write(leader, "second");
    world.settle();
    assert!(written.try_recv().unwrap().is_ok());
    world.pass(Duration::from_secs(60));
    let term = world.nodes[leader].driver.status().term;
    let body =
        Body::Append { previous: LogPosition::default(), commit: LogIndex(0), read_round: 0, entries: Vec::new() };
    let from = NodeId(leader as u64 + 1);
    let input = Input::Message { from, message: Message { term, body }, permit: InboundPermit::unmetered() };
    world.nodes[down].driver.handle(world.now, input);
    world.nodes[down].driver.flush(world.now);
    let age = world.now.since(fresh_at(&world, down));
    assert!(fresh_at(&world, down) <= begun, "it lacks a write of a minute ago and claims an age of {age:?}");
}

/// A new leader knows only that what it was told as a follower is committed (Raft §8).
#[test]
fn a_new_leader_that_has_committed_nothing_does_not_call_itself_fresh() {
    let (mut world, old) = world();
    let (one, other) = ((old + 1) % 3, (old + 2) % 3);
    world.cut_off.insert(other);
    let written = world.write(old, "second");
    world.nodes[old].driver.flush(world.now);
    for node in [old, one] {
        while world.persist(node) {}
        while world.deliver(node) {}
        world.nodes[node].driver.flush(world.now);
    }
    while world.apply(old) {}
    let index = written.try_recv().unwrap().unwrap().index;
    let acknowledged_at = world.now;
    // The old leader is gone before it says that the entry is committed.
    world.cut_off = [old].into();
    while world.nodes[one].driver.status().role != Role::Leader {
        world.now = world.now + Duration::from_millis(10);
        assert!(world.now.since(acknowledged_at) < Duration::from_secs(20), "nobody was elected");
        for node in [one, other, one] {
            world.nodes[node].driver.flush(world.now);
            world.persist(node);
            world.deliver(node);
            if world.nodes[one].driver.status().role == Role::Leader {
                break;
            }
        }
    }
    world.nodes[one].driver.flush(world.now);
    assert!(world.nodes[one].driver.status().applied < index, "it does not know yet that the write is committed");
    assert!(fresh_at(&world, one) <= acknowledged_at, "it lacks an acknowledged write");
    world.settle();
    world.pass(Duration::from_millis(300));
    assert!(fresh_at(&world, one) > acknowledged_at, "it has committed in its own term");
}
