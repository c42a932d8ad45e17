//! The driver without threads: what it refuses for want of room, and what it lets go of by itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::World;
use raft::EntryKind;
use raftkv::driver::{Input, SpaceLimits, SpaceSample, WriteRefusal};
use std::time::Duration;
use storage::command::{BatchDecoder, Command, EncodedCommand, KeyRange, RangeLimits};

fn sample(world: &mut World, node: usize, bytes: u64, revision: u64, compacted: u64) {
    let sample = SpaceSample { bytes, revision, compacted };
    world.nodes[node].driver.handle(world.now, Input::Space(sample));
    world.settle();
}

/// What `node` has applied of compactions.
fn compactions(world: &World, node: usize) -> Vec<u64> {
    let entries = world.nodes[node].applied.iter().filter(|entry| entry.kind == EntryKind::Command);
    let commands = entries.flat_map(|entry| BatchDecoder::new(&entry.payload).map(|item| item.unwrap().command));
    let revision = |command| if let Command::Compact { revision } = command { Some(revision) } else { None };
    commands.filter_map(revision).collect()
}

#[test]
fn a_full_leader_refuses_what_adds_data_and_takes_what_makes_room() {
    let mut world = World::with_space(SpaceLimits { quota_bytes: Some(1000), ..SpaceLimits::default() });
    let leader = world.elect();
    world.raise_formats();
    sample(&mut world, leader, 1001, 2, 0);
    let log_before = world.nodes[leader].driver.status().log_last;
    let refused = world.write(leader, "more");
    world.settle();
    let refusal = refused.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal, WriteRefusal::NoSpace { bytes: 1001, bytes_max: 1000 });
    assert_eq!(world.nodes[leader].driver.status().log_last, log_before, "it did not enter the log");

    let range = KeyRange { start: b"a", end: None };
    let limits = RangeLimits { keys_max: 10, bytes_max: 10 };
    let delete = Command::DeleteRange { range, limits, previous: false };
    for command in [delete, Command::Compact { revision: 2 }] {
        let taken = world.command(leader, EncodedCommand::new(&command, None));
        world.settle();
        assert!(taken.try_recv().unwrap().is_ok(), "{command:?}");
    }

    sample(&mut world, leader, 940, 2, 2);
    let taken = world.write(leader, "there is room again");
    world.settle();
    assert!(taken.try_recv().unwrap().is_ok());
}

#[test]
fn a_full_follower_says_who_leads() {
    let mut world = World::with_space(SpaceLimits { quota_bytes: Some(1000), ..SpaceLimits::default() });
    let leader = world.elect();
    let follower = (leader + 1) % 3;
    sample(&mut world, follower, 1001, 2, 0);
    let refused = world.write(follower, "more");
    world.settle();
    assert!(matches!(refused.try_recv().unwrap(), Err(WriteRefusal::NotLeader { leader: Some(_) })));
}

#[test]
fn the_leader_lets_go_of_old_revisions_once_each() {
    let mut world = World::with_space(SpaceLimits { keep_revisions: Some(100), ..SpaceLimits::default() });
    let leader = world.elect();
    world.raise_formats();
    for follower in (0..3).filter(|node| *node != leader) {
        sample(&mut world, follower, 0, 500, 0);
    }
    assert!(compactions(&world, leader).is_empty(), "only a leader asks");
    sample(&mut world, leader, 0, 500, 0);
    sample(&mut world, leader, 0, 505, 0);
    assert_eq!(compactions(&world, leader), [400], "under way");
    sample(&mut world, leader, 0, 509, 400);
    assert_eq!(compactions(&world, leader), [400], "not worth it");
    sample(&mut world, leader, 0, 510, 400);
    assert_eq!(compactions(&world, leader), [400, 410]);
}

/// Writes stop while leadership is handed over, and so does this; a leader that keeps it tries again though nothing more is written.
#[test]
fn a_compaction_that_was_refused_is_asked_for_again() {
    let mut world = World::with_space(SpaceLimits { keep_revisions: Some(100), ..SpaceLimits::default() });
    let leader = world.elect();
    world.raise_formats();
    let target = (leader + 1) % 3;
    world.cut_off.insert(target);
    let handed_over = world.transfer(leader, Some(target as u64 + 1));
    sample(&mut world, leader, 0, 500, 0);
    assert!(compactions(&world, leader).is_empty(), "it was refused");
    world.until("the end of the attempt", |_| handed_over.try_recv().is_ok());
    sample(&mut world, leader, 0, 500, 0);
    assert_eq!(compactions(&world, leader), [400]);
}

#[test]
fn a_new_leader_goes_by_the_notes_it_took_before() {
    let age = Duration::from_secs(100);
    let mut world = World::with_space(SpaceLimits { keep_age: Some(age), ..SpaceLimits::default() });
    let old = world.elect();
    world.raise_formats();
    for revision in [10, 20] {
        for node in 0..3 {
            sample(&mut world, node, 0, revision, 0);
        }
        world.pass(Duration::from_secs(60));
    }
    world.cut_off.insert(old);
    world.until("another leader", |world| world.leader().is_some_and(|leader| leader != old));
    let leader = world.leader().unwrap();
    sample(&mut world, leader, 0, 30, 0);
    assert_eq!(compactions(&world, leader), [10]);
}

#[test]
fn nothing_is_let_go_of_before_every_member_knows_how() {
    let mut world = World::with_space(SpaceLimits { keep_revisions: Some(100), ..SpaceLimits::default() });
    let leader = world.elect();
    sample(&mut world, leader, 0, 500, 0);
    assert!(compactions(&world, leader).is_empty());
    world.raise_formats();
    sample(&mut world, leader, 0, 500, 0);
    assert_eq!(compactions(&world, leader), [400]);
}
