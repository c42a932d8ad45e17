//! The rules of replication: Raft §5.3.

use super::*;

/// Raft §5.3: the leader sends a new entry to everybody in the same step in which it asks for its own write.
#[test]
fn leader_sends_while_it_writes() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.acknowledge(3, 1, 0);
    rig.propose("x");
    assert_eq!(rig.actions.persist.unwrap().entries, range(2, 2));
    assert_eq!((rig.ranges_to(2), rig.ranges_to(3)), (vec![range(2, 2)], vec![range(2, 2)]));
}

/// Raft §8: a leader begins its term with an empty entry.
#[test]
fn term_begins_with_an_empty_entry() {
    let (rig, term) = Rig::leader(3, &[1, 1]);
    let entry = rig.node.log().entries(range(3, 3)).unwrap().next().unwrap().clone();
    assert_eq!((entry.term, entry.kind, entry.payload.len()), (Term(term), EntryKind::Noop, 0));
}

/// Raft §5.2: an idle leader sends heartbeats, which are appends without entries.
#[test]
fn idle_leader_sends_heartbeats() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.wait(HEARTBEAT);
    assert!(matches!(rig.sent_to(2)[..], [Body::Append { .. }]));
    assert!(rig.ranges_to(2).is_empty());
}

/// Raft §5.3: a follower refuses an append whose predecessor it lacks, and says where its own log could match.
#[test]
fn append_after_a_gap_is_refused_with_a_hint() {
    let mut rig = Rig::follower(5, &[1, 1, 4, 4]);
    rig.append(2, 5, position(9, 5), &[5], 0);
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(9), hint: position(4, 4) };
    assert_eq!(rig.sent_to(2), [&Body::AppendReply { outcome, read_round: 0, repair: None }]);
    rig.append(2, 5, position(4, 3), &[5], 0);
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(4), hint: position(2, 1) };
    assert_eq!(rig.sent_to(2), [&Body::AppendReply { outcome, read_round: 0, repair: None }]);
}

/// Raft §5.3: both sides skip whole terms, so that one exchange costs at most one message for each term.
#[test]
fn leader_skips_terms_above_the_hint() {
    let (mut rig, term) = Rig::leader(3, &[1, 1, 4, 4, 4]);
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(5), hint: position(5, 3) };
    rig.receive(2, term, Body::AppendReply { outcome, read_round: 0, repair: None });
    assert_eq!(rig.node.peer_progress().next().unwrap().next, LogIndex(3));
}

/// Raft §5.3: a conflicting entry and all that follow it are replaced (Figure 2, AppendEntries 3 and 4).
#[test]
fn conflicting_suffix_is_replaced() {
    let mut rig = Rig::follower(5, &[1, 1, 3, 3, 3]);
    rig.append(2, 5, position(2, 1), &[4, 5], 0);
    assert_eq!(rig.terms(), [1, 1, 4, 5]);
    assert_eq!(rig.actions.persist.unwrap().entries, range(3, 4));
}

/// Every log of up to four entries of the terms 1 to `last`.
fn logs_up_to(last: u64) -> Vec<Vec<u64>> {
    let mut logs: Vec<Vec<u64>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..4 {
        let to = logs.len();
        for log in from..to {
            for term in logs[log].last().copied().unwrap_or(1)..=last {
                logs.push([&logs[log][..], &[term]].concat());
            }
        }
        from = to;
    }
    logs
}

/// Raft §5.3, Log Matching: where two logs hold an entry of one index and term, they are equal up to there.
fn logs_match(one: &[u64], other: &[u64]) -> bool {
    let shared = one.iter().zip(other).rposition(|(one, other)| one == other);
    shared.is_none_or(|last| one[..=last] == other[..=last])
}

/// Raft §5.3, Log Matching: whatever two logs there are, and from whatever entry on the leader sends, the follower's log is the leader's up to the end of
/// what was sent, or unchanged; two logs that matched go on to match.
#[test]
fn logs_that_match_go_on_to_match() {
    let (logs, mut taken) = (logs_up_to(3), 0);
    for (leaders, followers) in logs.iter().flat_map(|one| logs.iter().map(move |other| (one, other))) {
        if !logs_match(leaders, followers) {
            continue;
        }
        for previous in 0..=leaders.len() {
            let at = previous.checked_sub(1);
            let term = at.map_or(0, |at| leaders[at]);
            let mut rig = Rig::follower(4, followers);
            rig.append(2, 4, position(previous as u64, term), &leaders[previous..], 0);
            let shared = at.is_none_or(|at| followers.get(at) == Some(&term));
            if shared {
                assert_eq!(&rig.terms()[..leaders.len()], &leaders[..], "{followers:?}, sent from {previous} on");
                taken += 1;
            } else {
                assert_eq!(&rig.terms(), followers, "{leaders:?}, sent from {previous} on");
            }
            assert!(logs_match(leaders, &rig.terms()));
        }
    }
    assert!(taken > 1000, "{taken} appends were taken");
}

/// Raft §5.4.3, Leader Completeness, the step of its proof: a voter that holds an entry of term 3 which that term's leader committed gives its vote
/// to no candidate without it. A candidate's log ends before term 3 or is a beginning of that leader's.
#[test]
fn whoever_is_elected_holds_what_was_committed() {
    let (mut granted, mut refused) = (0, 0);
    for leaders in logs_up_to(3).iter().filter(|log| log.last() == Some(&3)) {
        let own = leaders.iter().position(|term| *term == 3).unwrap();
        let beginnings = (own + 1..=leaders.len()).map(|length| leaders[..length].to_vec());
        let candidates: Vec<Vec<u64>> = logs_up_to(2).into_iter().chain(beginnings).collect();
        for committed in own + 1..=leaders.len() {
            for candidates_log in candidates.iter().filter(|log| logs_match(leaders, log)) {
                let mut voter = Rig::restored(3, hard_state(3, None), &leaders[..committed], 0);
                let last = (candidates_log.len() as u64, candidates_log.last().copied().unwrap_or(0));
                voter.receive(2, 4, vote(last));
                voter.durable();
                if voter.node.status().vote == Some(NodeId(2)) {
                    assert_eq!(candidates_log.get(..committed), Some(&leaders[..committed]), "{leaders:?}");
                    granted += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(granted > 20 && refused > 100, "{granted} granted, {refused} refused");
}

/// Raft Figure 2, AppendEntries 3: entries that are there already do not truncate what follows them.
#[test]
fn late_append_does_not_truncate() {
    let mut rig = Rig::follower(5, &[1, 5, 5, 5]);
    rig.append(2, 5, position(1, 1), &[5], 0);
    assert_eq!(rig.terms(), [1, 5, 5, 5]);
    assert_eq!(rig.actions.persist, None);
}

/// Raft §5.3, Leader Append-Only: a leader never changes its own log, whoever sends what.
#[test]
fn leader_takes_no_appends_in_its_term() {
    let (mut rig, term) = Rig::leader(3, &[1]);
    let terms = rig.terms();
    rig.append(2, term, position(0, 0), &[term], 0);
    assert_eq!((rig.terms(), rig.actions.dropped), (terms, Some(DropReason::Malformed)));
}

/// Raft §5.2, Election Safety (scenario 4): a second leader in one term is not followed.
#[test]
fn second_leader_in_a_term_is_not_followed() {
    let mut rig = Rig::follower(2, &[]);
    rig.append(3, 2, position(0, 0), &[2], 0);
    assert_eq!((rig.terms().len(), rig.actions.dropped), (0, Some(DropReason::Malformed)));
}

/// Raft Figure 2: an acknowledgement leaves when the entries are durable, not before.
#[test]
fn append_is_acknowledged_when_durable() {
    let mut rig = Rig::follower(2, &[]);
    rig.append(2, 2, position(0, 0), &[2, 2], 0);
    assert!(rig.actions.send.is_empty());
    rig.durable();
    assert_eq!(rig.acknowledged_to(2), Some(2));
}

/// Raft §5.3, thesis §10.2.1 (scenarios 17 and 18): a late report about entries that were replaced acknowledges nothing of what replaced them.
#[test]
fn late_report_acknowledges_nothing_that_was_replaced() {
    let mut rig = Rig::follower(2, &[2]);
    rig.append(2, 2, position(1, 2), &[2, 2, 2], 0);
    let old = rig.newest_mark();
    rig.append(3, 3, position(1, 2), &[3], 0);
    rig.step(Event::Durable { mark: old, hard_state_sequence: 1 });
    assert_eq!(rig.acknowledged_to(3), None);
    rig.append(3, 3, position(0, 0), &[], 0);
    assert_eq!(rig.acknowledged_to(3), Some(1));
    rig.durable();
    assert_eq!(rig.acknowledged_to(3), Some(2));
}

/// Raft Figure 2, AppendEntries 5: a follower commits what the leader committed, but nothing beyond what the append covers.
#[test]
fn commit_is_bounded_by_what_is_verified() {
    let mut rig = Rig::follower(5, &[1, 1, 1]);
    rig.append(2, 5, position(2, 1), &[], 3);
    assert_eq!(rig.commit(), 2);
    rig.append(2, 5, position(3, 1), &[], 3);
    assert_eq!(rig.commit(), 3);
}

/// Raft §5.3: an entry is committed once a majority holds it durably; the leader's own copy counts like any other.
#[test]
fn majority_of_durable_copies_commits() {
    let (mut rig, _) = Rig::leader(5, &[]);
    rig.acknowledge(2, 1, 0);
    assert_eq!(rig.commit(), 0);
    rig.acknowledge(3, 1, 0);
    assert_eq!(rig.commit(), 1);
    rig.propose("x");
    rig.acknowledge(2, 2, 0);
    rig.acknowledge(3, 2, 0);
    assert_eq!(rig.commit(), 1);
    assert_eq!(rig.durable().committed, Some(LogIndex(2)));
}

/// Raft §5.3, Figure 2 (scenario 15): a group of one commits when its write is durable, not before.
#[test]
fn single_node_commits_when_durable() {
    let mut rig = Rig::new(1);
    rig.step(Event::Wake);
    rig.durable();
    rig.durable();
    rig.propose("x");
    assert_eq!((rig.commit(), rig.actions.apply), (1, None));
    rig.durable();
    assert_eq!((rig.commit(), rig.actions.apply), (2, Some(range(2, 2))));
}

/// Raft §5.4.2 and Figure 8 (scenario 11): copies of an earlier term's entry commit nothing; one of this term commits both.
#[test]
fn earlier_terms_are_not_committed_by_counting() {
    let (mut rig, _) = Rig::leader(3, &[1, 2]);
    rig.acknowledge(2, 2, 0);
    rig.acknowledge(3, 2, 0);
    assert_eq!(rig.commit(), 0);
    rig.acknowledge(2, 3, 0);
    assert_eq!(rig.commit(), 3);
}

/// Raft §5.3: followers learn the commit index with the next append, at the latest with a note when nothing else is due.
#[test]
fn commit_index_reaches_followers() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    let told = rig.sent_to(2).into_iter().any(|body| matches!(body, Body::Append { commit, .. } if commit.0 == 1));
    assert!(told, "{:?}", rig.sent_to(2));
}

/// Raft §5.3: the state machine gets committed entries in order, each once.
#[test]
fn committed_entries_are_handed_out_once() {
    let mut rig = Rig::follower(2, &[]);
    rig.append(2, 2, position(0, 0), &[2, 2, 2], 2);
    assert_eq!(rig.actions.apply, None);
    assert_eq!(rig.durable().apply, Some(range(1, 2)));
    rig.append(2, 2, position(3, 2), &[], 3);
    assert_eq!(rig.actions.apply, Some(range(3, 3)));
    rig.append(2, 2, position(3, 2), &[], 3);
    assert_eq!(rig.actions.apply, None);
}

/// Raft §5.4.3, Leader Completeness (scenario 14): a conflict at or below the commit index halts the node; it deletes nothing.
#[test]
fn conflict_below_the_commit_index_halts() {
    for (previous, terms) in [(position(1, 1), &[4][..]), (position(2, 4), &[][..])] {
        let mut rig = Rig::restored(3, hard_state(4, None), &[1, 1, 1], 2);
        let halted = catch_unwind(AssertUnwindSafe(|| rig.append(2, 5, previous, terms, 0).send.len()));
        assert!(halted.is_err(), "{previous:?} {terms:?}");
        assert_eq!(rig.terms(), [1, 1, 1]);
    }
}

/// Raft §5.3, Log Matching: a peer's message that breaks the rules is dropped and counted.
#[test]
fn malformed_append_is_dropped() {
    let mut rig = Rig::follower(5, &[1]);
    let mut gap = entries(2, &[5, 5]);
    gap.remove(0);
    for (previous, entries) in
        [(position(1, 1), gap), (position(1, 1), entries(2, &[5, 4])), (position(1, 1), entries(2, &[6]))]
    {
        rig.receive(2, 5, Body::Append { previous, commit: LogIndex(0), read_round: 0, entries });
        assert_eq!((rig.actions.dropped, rig.terms()), (Some(DropReason::Malformed), vec![1]));
    }
}

/// A node follows whoever leads and answers whoever asks for a vote, member or not: its own membership may be old (thesis
/// §4.2.2). Everything else counts from members only.
#[test]
fn strangers_may_lead_and_ask_for_votes_and_nothing_else() {
    let mut rig = Rig::new(3);
    rig.append(9, 4, position(0, 0), &[4], 0);
    assert_eq!((rig.actions.dropped, rig.terms()), (None, vec![4]));
    rig.receive(9, 5, Body::ReadIndex { request: 1 });
    assert_eq!((rig.actions.dropped, rig.term()), (Some(DropReason::UnknownSender), 4));
    rig.receive(9, 7, Body::VoteReply { granted: false });
    assert_eq!((rig.actions.dropped, rig.term()), (Some(DropReason::UnknownSender), 4));
    let mut rig = Rig::new(3);
    rig.receive(9, 4, vote((1, 3)));
    assert_eq!(rig.durable().send.len(), 1);
}
