//! A peer that has lost its log and does not know: what its leader makes of it (Raft §5.3: what was acknowledged in a term stays).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one kind of message among many")]

mod common;

use common::rig::{HEARTBEAT, Rig};
use raftkv_raft::{
    Actions, AppendOutcome, Body, DropReason, Event, LogIndex, LogPosition, NodeId, PeerProgress, RepairId,
    RepairReport, TransferError,
};

const LOST: Option<DropReason> = Some(DropReason::LostLog { peer: NodeId(3) });

/// A leader of three that has committed its first entry with node 2. Node 3 has acknowledged a second one, which is not durable here.
fn leader() -> Rig {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.propose("x");
    rig.acknowledge(3, 2, 0);
    assert_eq!((rig.commit(), third(&rig).matched), (1, LogIndex(2)));
    rig
}

/// Node 3 says that its log is empty.
fn refuse(rig: &mut Rig, previous: u64, read_round: u64) -> &Actions {
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(previous), hint: LogPosition::default() };
    let term = rig.term();
    rig.receive(3, term, Body::AppendReply { outcome, read_round, repair: None })
}

fn third(rig: &Rig) -> PeerProgress {
    rig.node.peer_progress().find(|peer| peer.id == NodeId(3)).unwrap()
}

/// The newest round that the last step asked node 3 to echo.
fn round(rig: &Rig) -> u64 {
    let rounds = rig.sent_to(3).into_iter().filter_map(|body| match body {
        Body::Append { read_round, .. } => Some(*read_round),
        _ => None,
    });
    rounds.max().expect("node 3 was spoken to")
}

/// The leader that knows of the loss, and the round that it began then.
fn leader_that_knows() -> (Rig, u64) {
    let mut rig = leader();
    refuse(&mut rig, 2, 0);
    let asked = round(&rig);
    assert_eq!(refuse(&mut rig, 2, asked).dropped, LOST);
    assert!(third(&rig).lost);
    let round = round(&rig);
    (rig, round)
}

#[test]
fn leader_notices_a_log_that_is_gone_and_says_so_once() {
    let (mut rig, round) = leader_that_knows();
    assert_eq!(refuse(&mut rig, 2, round).dropped, Some(DropReason::Unexpected));
    assert!(third(&rig).lost);
}

/// An entry that only the lost log makes up a majority for is not committed.
#[test]
fn what_a_lost_log_held_does_not_count() {
    let (mut rig, _) = leader_that_knows();
    rig.durable();
    assert_eq!(rig.commit(), 1);
    rig.acknowledge(2, 2, 0);
    assert_eq!(rig.commit(), 2);
}

/// A refusal from before the acknowledgement comes late, and once more.
#[test]
fn late_refusals_prove_nothing() {
    let mut rig = leader();
    assert_eq!(refuse(&mut rig, 1, 0).dropped, None);
    assert_eq!(refuse(&mut rig, 1, 0).dropped, None);
    assert!(!third(&rig).lost);
    rig.durable();
    assert_eq!(rig.commit(), 2);
    // It has acknowledged more since, and a doubt about less proves nothing either.
    let asked = third(&rig);
    assert_eq!(asked.matched, LogIndex(2));
    rig.propose("y");
    rig.acknowledge(3, 3, 1);
    assert_eq!(refuse(&mut rig, 3, 1).dropped, None, "the round is from before the acknowledgement");
    assert!(!third(&rig).lost);
    let asked = round(&rig);
    assert_eq!(refuse(&mut rig, 3, asked).dropped, LOST);
}

#[test]
fn peer_without_its_log_is_not_asked_faster_than_by_heartbeats() {
    let (mut rig, _) = leader_that_knows();
    rig.step(Event::Unreachable { peer: NodeId(3) });
    for _ in 0..2 {
        rig.wait(HEARTBEAT);
        let asked = round(&rig);
        assert!(refuse(&mut rig, 2, asked).send.is_empty(), "{:?}", rig.actions.send);
    }
}

/// The disk was mounted again before anything was written over it.
#[test]
fn log_that_is_back_counts_again() {
    let (mut rig, round) = leader_that_knows();
    rig.durable();
    rig.acknowledge(3, 2, round - 1);
    assert_eq!((rig.commit(), third(&rig).lost), (1, true), "a late answer of its former life");
    rig.acknowledge(3, 2, round);
    assert_eq!((rig.commit(), third(&rig).lost), (2, false));
}

#[test]
fn peer_that_finds_its_loss_is_repaired() {
    let (mut rig, round) = leader_that_knows();
    let outcome = AppendOutcome::Durable { match_index: LogIndex(0) };
    let repair = Some(RepairReport { id: RepairId(7), done: false });
    let term = rig.term();
    rig.receive(3, term, Body::AppendReply { outcome, read_round: round, repair });
    rig.receive(3, term, Body::AppendReply { outcome, read_round: round + 1, repair });
    assert_eq!((third(&rig).lost, third(&rig).repair), (false, Some(RepairId(7))));
}

#[test]
fn leadership_is_not_handed_to_a_peer_without_its_log() {
    let (mut rig, _) = leader_that_knows();
    rig.step(Event::TransferLeadership { target: None });
    assert_eq!(rig.actions.transfer, Some(Ok(NodeId(2))));
    let (mut alone, _) = leader_that_knows();
    alone.step(Event::TransferLeadership { target: Some(NodeId(3)) });
    assert_eq!(alone.actions.transfer, Some(Err(TransferError::UnderRepair { target: NodeId(3) })));
}
