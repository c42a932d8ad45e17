//! The driver without threads: the format in effect is raised once every member knows the next one (scenario 63).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::{WALL_CLOCK_MS, World};
use raft::{EntryKind, NodeId};
use raftkv::driver::{FormatHolder, FormatPending, Input, MemberEdit, NewMember, WriteRefusal};
use std::time::Duration;
use storage::command::{BatchDecoder, Command, EncodedCommand, LeaseLimits};
use storage::state::{FORMAT_WITH_TIME, FORMAT_WITH_TRANSACTIONS, STATE_FORMAT_OLDEST};

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
    hear(&mut world, leader, others[0], FORMAT_WITH_TIME);
    world.pass(Duration::from_secs(2));
    assert!(applied(&world, leader).0.is_empty(), "of one member nothing is known");
    hear(&mut world, leader, others[1], STATE_FORMAT_OLDEST);
    world.pass(Duration::from_secs(2));
    assert!(applied(&world, leader).0.is_empty(), "one member does not know it");
    hear(&mut world, leader, others[1], FORMAT_WITH_TIME);
    world.pass(Duration::from_secs(2));
    for node in 0..3 {
        assert_eq!(applied(&world, node).0, [FORMAT_WITH_TIME], "node {node}: once, and no further");
    }
}

#[test]
fn what_a_format_allows_is_written_only_once_it_is_in_effect() {
    let mut world = World::new();
    let leader = world.elect();
    let first = world.write(leader, "before");
    world.settle();
    hear_all(&mut world, leader, FORMAT_WITH_TIME);
    world.pass(Duration::from_secs(2));
    let second = world.write(leader, "after");
    world.settle();
    assert!(first.try_recv().unwrap().is_ok() && second.try_recv().unwrap().is_ok());
    assert_eq!(applied(&world, leader), (vec![FORMAT_WITH_TIME], vec![None, None, Some(WALL_CLOCK_MS)]));
}

#[test]
fn a_new_leader_asks_again_for_what_its_predecessor_did_not_bring_about() {
    let mut world = World::new();
    let old = world.elect();
    world.cut_off.insert(old);
    hear_all(&mut world, old, FORMAT_WITH_TIME);
    world.pass(Duration::from_millis(600));
    let new = world.elect();
    hear_all(&mut world, new, FORMAT_WITH_TIME);
    world.pass(Duration::from_secs(2));
    assert_eq!(applied(&world, new).0, [FORMAT_WITH_TIME]);
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
    hear_all(&mut world, leader, FORMAT_WITH_TIME);
    hear(&mut world, leader, 4, 0);
    world.pass(Duration::from_secs(2));
    assert!(applied(&world, leader).0.is_empty());
    hear(&mut world, leader, 4, FORMAT_WITH_TIME);
    world.pass(Duration::from_secs(2));
    assert_eq!(applied(&world, leader).0, [FORMAT_WITH_TIME]);
}

/// A command of the newest format.
fn grant() -> EncodedCommand {
    let limits = LeaseLimits { leases_max: 10, keys_max: 10 };
    EncodedCommand::new(&Command::GrantLease { id: 0, ttl_ms: 5_000, limits }, None)
}

fn refusal(world: &mut World, node: usize) -> WriteRefusal {
    let asked = world.command(node, grant());
    world.settle();
    asked.try_recv().unwrap().unwrap_err()
}

#[test]
fn a_write_of_a_format_to_come_is_refused_before_the_log_and_told_who_holds_it_back() {
    let mut world = World::new();
    let leader = world.elect();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader as u64 + 1).collect();
    hear(&mut world, leader, others[0], FORMAT_WITH_TIME);
    let log_last = world.nodes[leader].driver.status().log_last;
    let expected = WriteRefusal::FormatPending(FormatPending {
        needed: FORMAT_WITH_TRANSACTIONS,
        in_effect: STATE_FORMAT_OLDEST,
        holders: vec![
            FormatHolder { node: NodeId(others[0]), knows: Some(FORMAT_WITH_TIME) },
            FormatHolder { node: NodeId(others[1]), knows: None },
        ],
    });
    let refused = refusal(&mut world, leader);
    assert_eq!(refused, expected);
    assert_eq!(world.nodes[leader].driver.status().log_last, log_last, "it has entered the log");
    let text = refused.to_string();
    let parts = [
        "needs format 4".to_owned(),
        "is at format 2".to_owned(),
        format!("node {} knows format 3", others[0]),
        format!("node {} has not been heard", others[1]),
        "node.format_max".to_owned(),
    ];
    for part in parts {
        assert!(text.contains(&part), "{part} is not in: {text}");
    }
    let written = world.write(leader, "what every format has");
    world.settle();
    assert!(written.try_recv().unwrap().is_ok());
}

#[test]
fn it_is_taken_as_soon_as_its_format_is_in_effect() {
    let mut world = World::new();
    let leader = world.elect();
    world.hear_formats(FORMAT_WITH_TRANSACTIONS);
    let WriteRefusal::FormatPending(pending) = refusal(&mut world, leader) else { panic!("it was taken") };
    assert_eq!(pending.holders, []);
    world.raise_formats();
    let asked = world.command(leader, grant());
    world.settle();
    assert!(asked.try_recv().unwrap().is_ok());
}

/// Otherwise a client would wait at a node that cannot help it.
#[test]
fn a_follower_points_to_the_leader_whatever_the_format() {
    let mut world = World::new();
    let leader = world.elect();
    world.pass(Duration::from_millis(300));
    let expected = WriteRefusal::NotLeader { leader: Some(NodeId(leader as u64 + 1)) };
    assert_eq!(refusal(&mut world, (leader + 1) % 3), expected);
}
