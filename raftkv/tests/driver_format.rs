//! The driver without threads: the format in effect is raised once every member knows the next one (scenario 63).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::World;
use raft::{EntryKind, NodeId};
use raftkv::driver::{Input, MemberEdit, NewMember};
use std::time::Duration;
use storage::command::{BatchDecoder, Command};
use storage::state::{STATE_FORMAT, STATE_FORMAT_OLDEST};

/// `node` hears from `peer` what it knows.
fn hear(world: &mut World, node: usize, peer: u64, format_max: u32) {
    world.nodes[node].driver.handle(world.now, Input::PeerFormat { peer: NodeId(peer), format_max });
}

fn hear_all(world: &mut World, node: usize, format_max: u32) {
    for peer in 1..=world.nodes.len() as u64 {
        hear(world, node, peer, format_max);
    }
}

/// The formats that what `node` has applied raises to, and the times of its batches.
fn applied(world: &World, node: usize) -> (Vec<u32>, Vec<Option<u64>>) {
    let (mut raises, mut times) = (Vec::new(), Vec::new());
    for entry in world.nodes[node].applied.iter().filter(|entry| entry.kind == EntryKind::Command) {
        let batch = BatchDecoder::new(&entry.payload);
        times.push(batch.time_ms());
        for item in batch {
            if let Command::RaiseFormat { to } = item.unwrap().command {
                raises.push(to);
            }
        }
    }
    (raises, times)
}

#[test]
fn the_format_is_raised_once_every_member_knows_the_next_one() {
    let mut world = World::new();
    let leader = world.elect();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader as u64 + 1).collect();
    hear(&mut world, leader, others[0], STATE_FORMAT);
    world.pass(Duration::from_secs(2));
    assert!(applied(&world, leader).0.is_empty(), "of one member nothing is known");
    hear(&mut world, leader, others[1], STATE_FORMAT_OLDEST);
    world.pass(Duration::from_secs(2));
    assert!(applied(&world, leader).0.is_empty(), "one member does not know it");
    hear(&mut world, leader, others[1], STATE_FORMAT);
    world.pass(Duration::from_secs(2));
    for node in 0..3 {
        assert_eq!(applied(&world, node).0, [STATE_FORMAT_OLDEST + 1], "node {node}: once, and no further");
    }
}

#[test]
fn what_a_format_allows_is_written_only_once_it_is_in_effect() {
    let mut world = World::new();
    let leader = world.elect();
    let first = world.write(leader, "before");
    world.settle();
    hear_all(&mut world, leader, STATE_FORMAT);
    world.pass(Duration::from_secs(2));
    let second = world.write(leader, "raised, and not known to be in effect");
    world.settle();
    world.nodes[leader].driver.handle(world.now, Input::FormatInEffect { format: STATE_FORMAT });
    let third = world.write(leader, "after");
    world.settle();
    for written in [first, second, third] {
        assert!(written.try_recv().unwrap().is_ok());
    }
    assert_eq!(applied(&world, leader).1, [None, None, None, Some(1_800_000_000_000)]);
}

#[test]
fn a_new_leader_asks_again_for_what_its_predecessor_did_not_bring_about() {
    let mut world = World::new();
    let old = world.elect();
    world.cut_off.insert(old);
    hear_all(&mut world, old, STATE_FORMAT);
    world.pass(Duration::from_millis(600));
    let new = world.elect();
    hear_all(&mut world, new, STATE_FORMAT);
    world.pass(Duration::from_secs(2));
    assert_eq!(applied(&world, new).0, [STATE_FORMAT_OLDEST + 1]);
}

#[test]
fn a_learner_that_does_not_know_it_holds_the_format_back() {
    let mut world = World::with(3, 1);
    let leader = world.elect();
    world.pass(Duration::from_millis(300));
    let member = NewMember {
        id: None,
        name: "n4".to_owned(),
        peer_address: "host4:7421".to_owned(),
        client_address: "host4:7420".to_owned(),
        http_address: None,
    };
    let added = world.change(leader, &[MemberEdit::Add(member)]);
    world.settle();
    assert!(added.try_recv().unwrap().is_ok());
    hear_all(&mut world, leader, STATE_FORMAT);
    hear(&mut world, leader, 4, 0);
    world.pass(Duration::from_secs(2));
    assert!(applied(&world, leader).0.is_empty());
    hear(&mut world, leader, 4, STATE_FORMAT);
    world.pass(Duration::from_secs(2));
    assert_eq!(applied(&world, leader).0, [STATE_FORMAT_OLDEST + 1]);
}
