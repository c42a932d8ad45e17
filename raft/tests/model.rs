//! The real core, explored exhaustively in small configurations: see `docs/model.md`.
//!
//! The tests here take seconds; those that take minutes are ignored and run by `make model`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "`make model` prints what was covered")]

mod model_support;

use model_support::explorer::{Explored, explore};
use model_support::world::{Bounds, Change, Disk};

const SMALL: Bounds = Bounds {
    voters: 3,
    timeouts: 2,
    heartbeats: 0,
    proposals: 1,
    crashes: 0,
    link: 1,
    duplicates: 0,
    change: None,
    disk: Disk::Honest { at_once: true },
};

fn covers(name: &str, bounds: Bounds) -> Explored {
    let began = std::time::Instant::now();
    let explored = explore(bounds).unwrap_or_else(|counterexample| panic!("{name}: {counterexample}"));
    println!(
        "{name}: {} states, {} transitions, depth {}, {} node states, {:.0} s; seen: {:?}",
        explored.states,
        explored.transitions,
        explored.depth,
        explored.machines,
        began.elapsed().as_secs_f64(),
        explored.seen
    );
    explored
}

#[test]
fn two_candidates_and_an_entry() {
    let explored = covers("two candidates, one entry", SMALL);
    explored.requires(&["elected", "committed", "two leaders, of different terms"]);
}

#[test]
fn a_crash_with_writes_under_way() {
    let bounds = Bounds { timeouts: 2, proposals: 0, crashes: 1, disk: Disk::Honest { at_once: false }, ..SMALL };
    let explored = covers("two candidates, a crash, writes under way", bounds);
    explored.requires(&["elected", "committed", "crashed after a vote", "crashed with a write under way"]);
}

#[test]
fn a_voter_is_added() {
    let bounds = Bounds {
        voters: 2,
        timeouts: 1,
        proposals: 0,
        heartbeats: 1,
        link: usize::MAX,
        change: Some(Change::Add),
        ..SMALL
    };
    covers("a third voter, by way of a joint membership", bounds).requires(&["elected", "membership changed"]);
}

#[test]
fn a_voter_is_removed() {
    let bounds = Bounds { timeouts: 1, proposals: 0, heartbeats: 1, change: Some(Change::RemoveLast), ..SMALL };
    covers("a voter removed", bounds).requires(&["elected", "membership changed"]);
}

/// What a disk that lies does is found: the exploration would see a broken rule.
#[test]
fn a_disk_that_forgets_votes_is_found_out() {
    let bounds = Bounds { timeouts: 2, proposals: 0, crashes: 1, disk: Disk::ForgetsVotes, ..SMALL };
    let counterexample = explore(bounds).unwrap_err();
    assert!(counterexample.rule.contains("two leaders") || counterexample.rule.contains("voted"), "{counterexample}");
    println!("{counterexample}");
}

/// A disk that says "durable" before it is: what was acknowledged is gone after a crash.
#[test]
fn a_disk_that_lies_about_flushes_is_found_out() {
    let bounds = Bounds { timeouts: 2, proposals: 1, crashes: 1, disk: Disk::Lies, ..SMALL };
    let counterexample = explore(bounds).unwrap_err();
    println!("{counterexample}");
    assert!(counterexample.steps.len() < 40, "the shortest way there: {counterexample}");
}

/// Everything at once, as far as it can be gone through in a test.
#[test]
fn a_change_and_a_crash_of_one_leader() {
    let bounds =
        Bounds { timeouts: 1, proposals: 1, heartbeats: 1, crashes: 1, change: Some(Change::RemoveLast), ..SMALL };
    let explored = covers("one candidate, an entry, a crash, a voter removed", bounds);
    explored.requires(&["elected", "committed", "crashed after a vote", "membership changed"]);
}

#[test]
#[ignore = "takes minutes: make model"]
fn large_a_change_a_crash_two_candidates_and_an_entry() {
    let bounds = Bounds { timeouts: 2, proposals: 1, crashes: 1, change: Some(Change::RemoveLast), ..SMALL };
    let explored = covers("two candidates, an entry, a crash, a voter removed", bounds);
    explored.requires(&["elected", "committed", "crashed after a vote", "membership changed", "an entry replaced"]);
}

#[test]
#[ignore = "takes minutes: make model"]
fn large_a_voter_is_added_in_a_crash() {
    let bounds = Bounds { voters: 2, timeouts: 2, proposals: 1, crashes: 1, change: Some(Change::Add), ..SMALL };
    let explored = covers("two candidates, an entry, a crash, a third voter", bounds);
    explored.requires(&["elected", "committed", "crashed after a vote", "membership changed"]);
}

#[test]
#[ignore = "takes minutes: make model"]
fn large_three_candidates_and_an_entry() {
    let bounds = Bounds { timeouts: 3, proposals: 1, ..SMALL };
    let explored = covers("three candidates, one entry", bounds);
    explored.requires(&["elected", "committed", "an entry replaced", "two leaders, of different terms"]);
}

#[test]
#[ignore = "takes minutes: make model"]
fn large_messages_overtake_each_other() {
    let bounds = Bounds { timeouts: 2, proposals: 0, link: 2, ..SMALL };
    covers("two candidates, two messages on a link", bounds).requires(&["elected", "committed"]);
}

#[test]
#[ignore = "takes minutes: make model"]
fn large_a_message_arrives_twice() {
    let bounds = Bounds { timeouts: 2, proposals: 1, duplicates: 1, ..SMALL };
    covers("two candidates, an entry, a message twice", bounds).requires(&["elected", "committed"]);
}
