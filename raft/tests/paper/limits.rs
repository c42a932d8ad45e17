//! Limits of what waits and of what is under way (thesis §10.2.2), and messages that contradict them.

use super::*;

// Limits (design: bounded).

/// Raft §5.3: beyond the limit of uncommitted bytes proposals are refused; one is always taken when nothing waits (scenario 58).
#[test]
fn overload_is_refused() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    let large: &'static str = Box::leak("x".repeat(5000).into_boxed_str());
    assert!(rig.propose(large).proposal.unwrap().is_ok());
    assert_eq!(rig.propose("y").proposal, Some(Err(ProposeError::Overloaded)));
    rig.durable();
    rig.acknowledge(2, 2, 0);
    assert!(rig.propose("y").proposal.unwrap().is_ok());
}

/// Raft §5.3: what is out of memory is asked for, sent as it comes, and asked for again if it cannot be had.
#[test]
fn entries_out_of_memory_are_loaded() {
    let (mut rig, term) = Rig::leader(3, &[1, 1, 1, 1]);
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(4), hint: position(1, 1) };
    let load = rig.receive(3, term, Body::AppendReply { outcome, read_round: 0, repair: None }).load[0];
    assert_eq!((load.peer, load.entries), (NodeId(3), range(2, 4)));
    rig.step(Event::Loaded { peer: NodeId(3), entries: Vec::new() });
    assert!(rig.actions.load.is_empty());
    rig.wait(HEARTBEAT);
    assert_eq!(rig.actions.load.len(), 1);
    rig.step(Event::Loaded { peer: NodeId(3), entries: entries(2, &[1, 1]) });
    let sent = rig.sent_to(3);
    assert!(
        matches!(sent[..], [Body::Append { previous, entries, .. }] if *previous == position(1, 1) && entries.len() == 2)
    );
}

/// Raft Figure 2, persistent state: term and entries that change in one step are one write.
#[test]
fn hard_state_and_entries_are_one_write() {
    let mut rig = Rig::new(3);
    let Persist { hard_state: written, entries, mark, .. } =
        rig.append(2, 4, position(0, 0), &[3, 4], 0).persist.unwrap();
    assert_eq!((written, entries), (Some(hard_state(4, None)), range(1, 2)));
    assert_eq!(mark.map(|mark| (mark.leader_term, mark.index)), Some((Term(4), LogIndex(2))));
}

// The pipeline (thesis §10.2.2).

/// Thesis §10.2.2: the leader sends ahead of the answers, up to the limit of messages, and goes on as answers come.
#[test]
fn pipeline_runs_ahead_up_to_its_limit() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    let sent: Vec<usize> = (0..6)
        .map(|_| {
            rig.propose("x");
            rig.ranges_to(2).len()
        })
        .collect();
    assert_eq!(sent, [1, 1, 1, 1, 0, 0]);
    rig.acknowledge(2, 2, 0);
    assert_eq!(rig.ranges_to(2), [range(6, 7)]);
}

/// Raft §5.3: a peer that is not known to share the log is sent one append at a time.
#[test]
fn probe_waits_for_its_answer() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.propose("x");
    assert!(rig.ranges_to(2).is_empty());
    rig.acknowledge(2, 1, 0);
    assert_eq!(rig.ranges_to(2), [range(2, 2)]);
}

/// Raft §5.3, §5.5: messages lost on the way are sent again: after a refusal at once, after a report at the next heartbeat, after silence
/// within an election timeout.
#[test]
fn lost_appends_are_sent_again() {
    let (mut rig, term) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.propose("lost");
    rig.propose("refused");
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(2), hint: position(1, term) };
    rig.receive(2, term, Body::AppendReply { outcome, read_round: 0, repair: None });
    assert_eq!(rig.ranges_to(2), [range(2, 3)]);

    rig.acknowledge(2, 3, 0);
    rig.propose("lost with the connection");
    rig.step(Event::Unreachable { peer: NodeId(2) });
    assert!(rig.ranges_to(2).is_empty());
    rig.wait(HEARTBEAT);
    assert_eq!(rig.ranges_to(2), [range(4, 4)]);

    rig.acknowledge(2, 4, 0);
    rig.durable();
    rig.propose("lost in silence");
    rig.durable();
    let mut sent_again = false;
    for _ in 0..12 {
        rig.acknowledge(3, 0, 0);
        rig.wait(HEARTBEAT);
        sent_again |= rig.ranges_to(2) == [range(5, 5)];
    }
    assert!(sent_again);
}

/// Raft §5.3, thesis §10.2.2: a refusal that arrives late does not throw the pipeline back.
#[test]
fn late_refusal_is_ignored() {
    let (mut rig, term) = Rig::leader(3, &[1, 1]);
    rig.acknowledge(2, 3, 0);
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(2), hint: position(0, 0) };
    rig.receive(2, term, Body::AppendReply { outcome, read_round: 0, repair: None });
    let progress = rig.node.peer_progress().next().unwrap();
    assert_eq!((progress.matched, progress.next), (LogIndex(3), LogIndex(4)));
}

/// Raft §5.1, Figure 2: a peer's message never panics a node, whatever numbers it holds; only one that contradicts what is committed, or the same
/// leader's own earlier word, may halt it.
#[test]
fn forged_numbers_are_harmless() {
    let numbers = [0, 1, 2, 3, 5, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    let mut dice = common::Dice::new(3);
    for _ in 0..3000 {
        let mut candidate = Rig::new(3);
        candidate.campaign();
        for mut rig in [Rig::follower(2, &[1, 2]), candidate, Rig::leader(3, &[1, 1]).0] {
            let mut any = || numbers[usize::try_from(dice.below(8)).unwrap()];
            let (term, place, other) = (any(), position(any(), any()), any());
            let mut forged = entries(1, &[any().min(9)]);
            forged[0].index = LogIndex(any());
            let mismatch = AppendOutcome::Mismatch { previous: LogIndex(any()), hint: place };
            let durable = AppendOutcome::Durable { match_index: LogIndex(other) };
            let bodies = [
                Body::PreVote { last: place },
                Body::PreVoteReply { granted: other > 1 },
                Body::Vote { last: place, transfer: other > 1 },
                Body::VoteReply { granted: other > 1 },
                Body::Append { previous: place, commit: LogIndex(0), read_round: other, entries: forged },
                Body::AppendReply { outcome: mismatch, read_round: any(), repair: None },
                Body::AppendReply { outcome: durable, read_round: any(), repair: None },
                Body::SnapshotOffer { position: place },
                Body::ReadIndex { request: other },
                Body::ReadIndexReply { request: other, index: Some(place.index) },
                Body::TimeoutNow,
            ];
            let body = bodies[usize::try_from(dice.below(11)).unwrap()].clone();
            rig.receive(2, term, body);
            rig.durable();
            rig.time_out();
            assert!(rig.term() <= 1 << 62);
        }
    }
}
