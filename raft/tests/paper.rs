//! The rules of Raft, one test each, named and cited: the paper (Ongaro and Ousterhout, "In Search of an Understandable
//! Consensus Algorithm", extended version) and the thesis (Ongaro, "Consensus: Bridging Theory and Practice"). Those of membership are in
//! `paper/membership.rs`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one kind of message among many")]

mod common;
#[path = "paper/membership.rs"]
mod membership;

use common::rig::{HEARTBEAT, Rig, TIMEOUT, entries, position};
use raftkv_raft::{
    AppendOutcome, Body, DropReason, EntryKind, Event, HardState, Instant, LogIndex, LogRange, Membership, Message,
    NodeId, Persist, ProposeError, ReadReady, Role, Term,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn hard_state(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.map(NodeId) }
}

fn range(first: u64, last: u64) -> LogRange {
    LogRange { first: LogIndex(first), last: LogIndex(last) }
}

fn vote(last: (u64, u64)) -> Body {
    Body::Vote { last: position(last.0, last.1), transfer: false }
}

// Terms and roles (Raft §5.1).

/// Raft §5.1: servers begin as followers, in term 0 without a vote (Figure 2).
#[test]
fn node_begins_as_follower() {
    let rig = Rig::new(3);
    let status = rig.node.status();
    assert_eq!((status.role, status.term, status.vote, status.leader), (Role::Follower, Term(0), None, None));
}

/// Raft §5.1: whoever sees a larger term updates its own and reverts to follower.
#[test]
fn larger_term_is_adopted_by_every_role() {
    let reply =
        Body::AppendReply { outcome: AppendOutcome::Durable { match_index: LogIndex(0) }, read_round: 0, repair: None };
    let mut candidate = Rig::new(3);
    candidate.campaign();
    for mut rig in [Rig::follower(2, &[]), candidate, Rig::leader(3, &[]).0] {
        rig.receive(3, 9, reply.clone());
        assert_eq!((rig.role(), rig.term(), rig.node.status().vote), (Role::Follower, 9, None));
        assert_eq!(rig.actions.persist.unwrap().hard_state, Some(hard_state(9, None)));
    }
}

/// Raft §5.1: a request with a stale term is rejected, and the answer carries the present term (Figure 2, AppendEntries 1).
#[test]
fn stale_term_is_rejected_with_the_present_one() {
    let mut rig = Rig::follower(5, &[1]);
    rig.append(3, 4, position(1, 1), &[4], 0);
    assert_eq!(rig.terms(), [1]);
    let send = &rig.actions.send[0];
    assert_eq!((send.to, send.message.term), (NodeId(3), Term(5)));
    rig.receive(3, 4, vote((9, 4)));
    assert_eq!(rig.sent_to(3), [&Body::VoteReply { granted: false }]);
    assert_eq!(rig.actions.send[0].message.term, Term(5));
}

/// Raft §5.1: replies of an earlier term are ignored.
#[test]
fn stale_reply_is_ignored() {
    let (mut rig, term) = Rig::leader(3, &[]);
    let outcome = AppendOutcome::Durable { match_index: LogIndex(1) };
    rig.receive(2, term - 1, Body::AppendReply { outcome, read_round: 0, repair: None });
    assert_eq!((rig.commit(), rig.actions.dropped), (0, Some(DropReason::StaleTerm)));
}

// Elections (Raft §5.2, §5.4.1).

/// Raft §5.2: a follower that hears nothing for an election timeout starts an election; before it, it asks whether it could
/// win (thesis §9.6), without a new term.
#[test]
fn silence_starts_an_election_with_a_pre_vote() {
    let mut rig = Rig::follower(3, &[1, 3]);
    rig.time_out();
    assert_eq!((rig.role(), rig.term()), (Role::PreCandidate, 3));
    assert_eq!(rig.sent_to(2), [&Body::PreVote { last: position(2, 3) }]);
    assert_eq!(rig.actions.send[0].message.term, Term(4));
    assert_eq!(rig.actions.persist, None);
}

/// Raft §5.2: appends of the current leader keep a follower from campaigning.
#[test]
fn heartbeats_keep_a_follower_following() {
    let mut rig = Rig::follower(2, &[]);
    for _ in 0..50 {
        rig.now = rig.now + TIMEOUT / 2;
        rig.append(2, 2, position(0, 0), &[], 0);
        assert_eq!(rig.role(), Role::Follower);
    }
}

/// Raft §5.2: election timeouts are chosen at random from an interval, here one to two timeouts.
#[test]
fn election_timeouts_are_spread() {
    let deadlines: Vec<u64> = (0..200)
        .map(|seed| {
            let restored = raftkv_raft::Restored::new(Membership::new((1..=3).map(NodeId)));
            let config = common::small_config(NodeId(1));
            let node = raftkv_raft::Node::new(config, restored, Instant::ORIGIN, seed);
            node.next_deadline().unwrap().as_nanos() / 1_000_000
        })
        .collect();
    assert!(deadlines.iter().all(|millis| (100..200).contains(millis)), "{deadlines:?}");
    for tenth in 10..20 {
        assert!(deadlines.iter().any(|millis| millis / 10 == tenth), "nobody waits about {tenth}0 ms");
    }
}

/// Raft §5.2: a candidate increments its term and votes for itself; it asks for votes when that is durable (Figure 2).
#[test]
fn candidacy_is_announced_when_durable() {
    let mut rig = Rig::new(3);
    rig.time_out();
    rig.receive(2, 1, Body::PreVoteReply { granted: true });
    assert_eq!((rig.role(), rig.term(), rig.node.status().vote), (Role::Candidate, 1, Some(NodeId(1))));
    assert!(rig.actions.send.is_empty());
    rig.durable();
    assert_eq!(rig.sent_to(2), [&vote((0, 0))]);
    assert_eq!(rig.sent_to(3), [&vote((0, 0))]);
}

/// Raft §5.2: a candidate wins with the votes of a majority, and not with fewer.
#[test]
fn majority_of_votes_elects() {
    for (size, needed) in [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3)] {
        let mut rig = Rig::new(size);
        rig.campaign();
        for voter in 2..2 + needed {
            assert_eq!(rig.role(), Role::Candidate, "{voter} of {size}");
            rig.receive(voter, 1, Body::VoteReply { granted: true });
            rig.receive(voter, 1, Body::VoteReply { granted: true });
        }
        assert_eq!(rig.role(), Role::Leader, "{needed} of {size}");
    }
}

/// Raft §5.2: a group of one elects itself, when its vote is durable.
#[test]
fn single_node_elects_itself() {
    let mut rig = Rig::new(1);
    rig.step(Event::Wake);
    assert_eq!(rig.role(), Role::Candidate);
    rig.durable();
    assert_eq!(rig.role(), Role::Leader);
}

/// Raft §5.2: each server votes for at most one candidate in a term, first come, first served; asked again by the same one
/// it says so again.
#[test]
fn one_vote_a_term() {
    let mut rig = Rig::new(3);
    rig.receive(2, 1, vote((0, 0)));
    rig.durable();
    assert_eq!(rig.sent_to(2), [&Body::VoteReply { granted: true }]);
    rig.receive(3, 1, vote((7, 1)));
    assert_eq!(rig.sent_to(3), [&Body::VoteReply { granted: false }]);
    rig.receive(2, 1, vote((0, 0)));
    assert_eq!(rig.sent_to(2), [&Body::VoteReply { granted: true }]);
}

/// Raft Figure 2: a vote is durable before it is said (scenario 1).
#[test]
fn vote_is_said_when_durable() {
    let mut rig = Rig::new(3);
    rig.receive(2, 4, vote((0, 0)));
    assert_eq!(rig.actions.persist.unwrap().hard_state, Some(hard_state(4, Some(2))));
    assert!(rig.actions.send.is_empty());
    assert_eq!(rig.durable().send.len(), 1);
}

/// Raft §5.2: a vote survives a restart.
#[test]
fn vote_is_kept_over_a_restart() {
    let mut rig = Rig::restored(3, hard_state(4, Some(2)), &[], 0);
    rig.receive(3, 4, vote((9, 4)));
    assert_eq!(rig.sent_to(3), [&Body::VoteReply { granted: false }]);
}

/// Raft §5.1, §5.2 (scenario 2): learning that a term exists is not having voted in it.
#[test]
fn vote_refused_for_the_log_leaves_the_vote_free() {
    let mut rig = Rig::restored(3, hard_state(2, None), &[1, 2], 0);
    rig.receive(2, 3, vote((1, 1)));
    assert_eq!(rig.sent_to(2), [&Body::VoteReply { granted: false }]);
    rig.receive(3, 3, vote((2, 2)));
    assert_eq!(rig.durable().send[0].message.body, Body::VoteReply { granted: true });
}

/// Raft §5.2: a candidate that hears a leader of its own term follows it.
#[test]
fn candidate_follows_the_leader_of_its_term() {
    let mut rig = Rig::new(3);
    rig.campaign();
    rig.append(3, 1, position(0, 0), &[1], 0);
    assert_eq!((rig.role(), rig.node.status().leader), (Role::Follower, Some(NodeId(3))));
    assert_eq!(rig.terms(), [1]);
}

/// Raft §5.2: a split vote ends with a timeout and another election.
#[test]
fn split_vote_times_out() {
    let mut rig = Rig::new(5);
    rig.campaign();
    rig.receive(2, 1, Body::VoteReply { granted: true });
    rig.time_out();
    assert_eq!((rig.role(), rig.term()), (Role::PreCandidate, 1));
    rig.campaign();
    assert_eq!(rig.term(), 2);
}

/// Raft §5.4.1: a vote goes only to a log that is at least as up to date: a later last term, or the same and as long.
#[test]
fn vote_requires_an_up_to_date_log() {
    for (last, granted) in [((3, 2), true), ((4, 2), true), ((1, 3), true), ((2, 2), false), ((9, 1), false)] {
        let mut rig = Rig::restored(3, hard_state(3, None), &[1, 1, 2], 0);
        rig.receive(2, 4, vote(last));
        rig.durable();
        let said = rig.node.status().vote == Some(NodeId(2));
        assert_eq!(said, granted, "candidate whose log ends at {last:?}");
    }
}

/// Thesis §9.6: a pre-vote is answered by the same rule and changes nothing.
#[test]
fn pre_vote_changes_nothing() {
    let mut rig = Rig::restored(3, hard_state(3, Some(3)), &[1, 3], 0);
    for (last, granted, term) in [((2, 3), true, 8), ((1, 1), false, 3)] {
        rig.receive(2, 8, Body::PreVote { last: position(last.0, last.1) });
        assert_eq!(rig.sent_to(2), [&Body::PreVoteReply { granted }]);
        assert_eq!(rig.actions.send[0].message.term, Term(term));
        assert_eq!((rig.term(), rig.node.status().vote, rig.actions.persist), (3, Some(NodeId(3)), None));
    }
}

/// Thesis §4.2.3: who hears a leader ignores elections of others: neither vote nor pre-vote, and no new term (scenario 5).
#[test]
fn voter_in_lease_ignores_disruption() {
    let mut rig = Rig::follower(2, &[1]);
    rig.receive(3, 9, vote((5, 8)));
    assert_eq!((rig.term(), rig.actions.send.len()), (2, 0));
    rig.receive(3, 9, Body::PreVote { last: position(5, 8) });
    assert_eq!(rig.sent_to(3), [&Body::PreVoteReply { granted: false }]);
    let (mut leader, term) = Rig::leader(3, &[]);
    leader.receive(3, 9, vote((5, 8)));
    assert_eq!((leader.role(), leader.term()), (Role::Leader, term));
}

/// Thesis §4.2.3, §9.6 (scenario 7): a voter that no longer hears a leader grants again, also before its own timeout ends.
#[test]
fn lease_ends_after_an_election_timeout() {
    let mut rig = Rig::follower(2, &[1]);
    rig.now = rig.now + TIMEOUT;
    rig.receive(3, 3, Body::PreVote { last: position(1, 1) });
    assert_eq!(rig.sent_to(3), [&Body::PreVoteReply { granted: true }]);
}

/// Raft §5.1, thesis §9.6 (scenario 5): a node stuck in a higher term answers an append of an older one with its term, and so gets a leader again.
#[test]
fn stuck_higher_term_is_freed() {
    let mut stuck = Rig::restored(3, hard_state(7, Some(1)), &[1], 0);
    stuck.append(2, 3, position(1, 1), &[], 0);
    let answer = stuck.actions.send[0].message.clone();
    let (mut leader, _) = Rig::leader(3, &[]);
    leader.step(Event::Receive { from: NodeId(3), message: answer });
    assert_eq!((leader.role(), leader.term()), (Role::Follower, 7));
}

/// Raft §5.1, thesis §9.6 (scenario 6): a pre-vote of a lower term with a better log learns the term from the refusal.
#[test]
fn refused_pre_vote_teaches_the_term() {
    let mut behind = Rig::restored(3, hard_state(2, None), &[1, 2], 0);
    behind.time_out();
    behind.receive(3, 7, Body::PreVoteReply { granted: false });
    assert_eq!((behind.role(), behind.term()), (Role::Follower, 7));
    behind.durable();
    behind.time_out();
    assert_eq!(behind.actions.send[0].message.term, Term(8));
}

// Replication (Raft §5.3).

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

// Authority (Raft §6, thesis §6.2), transfer (thesis §3.10).

/// Thesis §6.2: a leader that does not hear from a quorum for an election timeout steps down.
#[test]
fn leader_without_a_quorum_steps_down() {
    let (mut rig, _) = Rig::leader(5, &[]);
    rig.now = rig.now + (TIMEOUT - HEARTBEAT);
    rig.acknowledge(2, 1, 0);
    rig.acknowledge(3, 1, 0);
    rig.wait(TIMEOUT / 2);
    assert_eq!(rig.role(), Role::Leader);
    rig.wait(TIMEOUT / 2);
    assert_eq!((rig.role(), rig.node.status().leader), (Role::Follower, None));
}

/// Thesis §6.2 (scenario 9): a leader that was paused does nothing on stale authority.
#[test]
fn paused_leader_refuses_what_it_is_asked_first() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.now = rig.now + TIMEOUT * 10;
    rig.propose("x");
    assert_eq!(rig.actions.proposal, Some(Err(ProposeError::NotLeader { leader: None })));
}

/// Thesis §6.2 (scenario 8): a leader whose disk hangs steps down though it hears everybody, and stands again only when the disk answers.
#[test]
fn leader_with_a_hanging_disk_steps_down() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.propose("x");
    for _ in 0..11 {
        rig.now = rig.now + HEARTBEAT;
        rig.acknowledge(2, 1, 0);
    }
    assert_eq!(rig.role(), Role::Follower);
    rig.time_out();
    assert_eq!(rig.role(), Role::Follower);
    rig.durable();
    rig.time_out();
    assert_eq!(rig.role(), Role::PreCandidate);
}

/// Thesis §3.10: the target is caught up, then told to campaign; meanwhile proposals and reads are refused.
#[test]
fn transfer_catches_the_target_up_first() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.propose("x");
    rig.step(Event::TransferLeadership { target: Some(NodeId(2)) });
    assert!(!rig.sent_to(2).contains(&&Body::TimeoutNow));
    rig.propose("y");
    assert_eq!(rig.actions.proposal, Some(Err(ProposeError::Transferring { target: NodeId(2) })));
    assert_eq!(rig.step(Event::Read { token: 1 }).reads_refused, [1]);
    rig.acknowledge(2, 2, 0);
    assert!(rig.sent_to(2).contains(&&Body::TimeoutNow));
}

/// Thesis §3.10: a transfer that does not succeed within an election timeout is given up.
#[test]
fn transfer_is_given_up_after_an_election_timeout() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.step(Event::TransferLeadership { target: Some(NodeId(3)) });
    for _ in 0..11 {
        rig.now = rig.now + HEARTBEAT;
        rig.acknowledge(2, 1, 0);
    }
    assert!(rig.propose("x").proposal.unwrap().is_ok());
}

/// Thesis §3.10: who is told to campaign does so at once, and voters do not protect the leader that asked for it.
#[test]
fn transfer_overrides_the_lease() {
    let mut target = Rig::follower(2, &[2]);
    target.receive(2, 2, Body::TimeoutNow);
    assert_eq!((target.role(), target.term()), (Role::Candidate, 3));
    target.durable();
    let request: Message = target.actions.send.iter().find(|send| send.to == NodeId(3)).unwrap().message.clone();
    assert_eq!(request.body, Body::Vote { last: position(1, 2), transfer: true });
    let mut voter = Rig::follower(2, &[2]);
    voter.step(Event::Receive { from: NodeId(3), message: request });
    assert_eq!(voter.node.status().vote, Some(NodeId(3)));
}

/// Thesis §3.10: only this term's leader may ask for an election.
#[test]
fn others_cannot_ask_for_an_election() {
    let mut rig = Rig::follower(2, &[2]);
    rig.receive(3, 2, Body::TimeoutNow);
    assert_eq!((rig.role(), rig.actions.dropped), (Role::Follower, Some(DropReason::Unexpected)));
}

// Reads (Raft §8, thesis §6.4).

/// Thesis §6.4 (scenario 37): a read gets its index when a quorum confirms the leader after the read came in.
#[test]
fn read_waits_for_a_quorum() {
    let (mut rig, _) = Rig::leader(5, &[]);
    rig.acknowledge(2, 1, 0);
    rig.acknowledge(3, 1, 0);
    assert!(rig.step(Event::Read { token: 7 }).reads.is_empty());
    assert!(rig.sent_to(4).iter().any(|body| matches!(body, Body::Append { read_round: 1, .. })));
    assert!(rig.acknowledge(2, 1, 1).reads.is_empty());
    assert!(rig.acknowledge(2, 1, 1).reads.is_empty());
    assert!(rig.acknowledge(3, 1, 0).reads.is_empty());
    assert_eq!(rig.acknowledge(4, 0, 1).reads, [ReadReady { token: 7, index: LogIndex(1) }]);
}

/// Raft §8: before it has committed in its term, a leader serves no reads.
#[test]
fn read_waits_for_the_first_commit_of_the_term() {
    let (mut rig, _) = Rig::leader(3, &[1, 1]);
    rig.step(Event::Read { token: 7 });
    assert!(rig.acknowledge(2, 2, 0).reads.is_empty());
    rig.acknowledge(2, 3, 0);
    assert_eq!(rig.acknowledge(2, 3, 1).reads, [ReadReady { token: 7, index: LogIndex(3) }]);
}

/// Thesis §6.4 (scenario 38): an echo counts for the rounds up to its own, never for a later one; one that was never sent is refused.
#[test]
fn duplicated_echo_confirms_nothing_later() {
    let (mut rig, _) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    rig.step(Event::Read { token: 1 });
    rig.step(Event::Read { token: 2 });
    assert_eq!(rig.acknowledge(2, 1, 1).reads.len(), 1);
    assert!(rig.acknowledge(2, 1, 1).reads.is_empty());
    assert_eq!(rig.acknowledge(2, 1, 99).dropped, Some(DropReason::Malformed));
    assert_eq!(rig.acknowledge(2, 1, 2).reads, [ReadReady { token: 2, index: LogIndex(1) }]);
}

/// Thesis §6.4: a single node confirms itself.
#[test]
fn single_node_reads_at_once() {
    let mut rig = Rig::new(1);
    rig.step(Event::Wake);
    rig.durable();
    rig.durable();
    assert_eq!(rig.step(Event::Read { token: 3 }).reads, [ReadReady { token: 3, index: LogIndex(1) }]);
}

/// Thesis §6.4: a follower asks the leader for the index, again if need be, and gives up after an election timeout.
#[test]
fn follower_asks_the_leader_for_a_read_index() {
    let mut rig = Rig::follower(2, &[2]);
    rig.step(Event::Read { token: 5 });
    let [Body::ReadIndex { request }] = rig.sent_to(2)[..] else { panic!("{:?}", rig.actions.send) };
    let request = *request;
    rig.wait(HEARTBEAT);
    assert_eq!(rig.sent_to(2), [&Body::ReadIndex { request }]);
    let reply = Body::ReadIndexReply { request, index: Some(LogIndex(9)) };
    rig.receive(3, 2, reply.clone());
    assert_eq!(rig.actions.dropped, Some(DropReason::Unexpected));
    assert_eq!(rig.receive(2, 2, reply).reads, [ReadReady { token: 5, index: LogIndex(9) }]);
    rig.step(Event::Read { token: 6 });
    rig.now = rig.now + TIMEOUT;
    rig.append(2, 2, position(1, 2), &[], 0);
    assert_eq!(rig.actions.reads_refused, [6]);
}

/// Thesis §6.4: a read is refused, never lost, when its leader is gone.
#[test]
fn reads_are_refused_when_the_leader_changes() {
    let (mut leader, term) = Rig::leader(3, &[]);
    leader.acknowledge(2, 1, 0);
    leader.step(Event::Read { token: 1 });
    leader.step(Event::Read { token: 2 });
    assert_eq!(leader.append(2, term + 1, position(0, 0), &[], 0).reads_refused, [1, 2]);
    let mut follower = Rig::follower(2, &[]);
    follower.step(Event::Read { token: 3 });
    assert_eq!(follower.append(3, 3, position(0, 0), &[], 0).reads_refused, [3]);
    let mut alone = Rig::new(3);
    assert_eq!(alone.step(Event::Read { token: 4 }).reads_refused, [4]);
}

// Snapshots (Raft §7).

/// A leader of three with entries 1 to 4 committed and 1 to 3 compacted away.
fn compacted_leader() -> (Rig, u64) {
    let (mut rig, term) = Rig::leader(3, &[1, 1, 1]);
    rig.acknowledge(2, 4, 0);
    rig.step(Event::Applied { index: LogIndex(4) });
    rig.step(Event::Compacted { position: position(3, 1) });
    (rig, term)
}

/// Raft §7: a follower whose next entry is compacted away is offered a snapshot, again with every heartbeat.
#[test]
fn follower_too_far_behind_is_offered_a_snapshot() {
    let (mut rig, term) = compacted_leader();
    let offer = Body::SnapshotOffer { position: position(3, 1) };
    let outcome = AppendOutcome::Mismatch { previous: LogIndex(3), hint: position(1, 1) };
    rig.receive(3, term, Body::AppendReply { outcome, read_round: 0, repair: None });
    assert!(rig.sent_to(3).contains(&&offer));
    rig.wait(HEARTBEAT);
    assert!(rig.sent_to(3).contains(&&offer));
    rig.acknowledge(3, 3, 0);
    assert_eq!(rig.ranges_to(3), [range(4, 4)]);
}

/// Raft §7: a follower fetches what it is offered, one at a time, and not what it has.
#[test]
fn follower_fetches_what_it_lacks() {
    let mut rig = Rig::follower(5, &[1, 1]);
    let offer = Body::SnapshotOffer { position: position(8, 4) };
    let fetch = rig.receive(2, 5, offer.clone()).fetch_snapshot.unwrap();
    assert_eq!((fetch.from, fetch.at_least), (NodeId(2), position(8, 4)));
    assert_eq!(rig.receive(2, 5, offer.clone()).fetch_snapshot, None);
    rig.step(Event::SnapshotFailed);
    assert!(rig.receive(2, 5, offer).fetch_snapshot.is_some());
    let mut ahead = Rig::restored(3, hard_state(5, None), &[1, 1, 1], 3);
    ahead.receive(2, 5, Body::SnapshotOffer { position: position(2, 1) });
    assert_eq!((ahead.actions.fetch_snapshot, ahead.acknowledged_to(2)), (None, Some(3)));
}

/// Raft §7 (scenarios 22, 27): the log is replaced by the snapshot; what follows stays only if the snapshot's last entry is
/// in the log.
#[test]
fn snapshot_replaces_the_log_unless_its_last_entry_is_there() {
    for (fetched, keep, terms) in [(position(3, 2), true, vec![2, 2]), (position(3, 4), false, vec![])] {
        let mut rig = Rig::follower(5, &[1, 1, 2, 2, 2]);
        rig.receive(2, 5, Body::SnapshotOffer { position: fetched });
        let membership = Membership::new((1..=3).map(NodeId));
        let install = rig.step(Event::SnapshotFetched { position: fetched, membership }).install_snapshot.unwrap();
        assert_eq!((install.position, install.keep_suffix), (fetched, keep));
        rig.step(Event::SnapshotInstalled { position: fetched });
        assert_eq!((rig.terms(), rig.commit(), rig.node.status().applied), (terms, 3, LogIndex(3)));
        assert_eq!(rig.node.log().start(), fetched);
        assert_eq!(rig.acknowledged_to(2), Some(3));
    }
}

/// Raft §7 (scenario 30): appends that come while a snapshot takes the log's place change nothing and are answered truthfully.
#[test]
fn log_stands_still_while_a_snapshot_is_installed() {
    let mut rig = Rig::follower(5, &[1, 1]);
    rig.receive(2, 5, Body::SnapshotOffer { position: position(8, 4) });
    let membership = Membership::new((1..=3).map(NodeId));
    rig.step(Event::SnapshotFetched { position: position(9, 4), membership });
    rig.append(2, 5, position(2, 1), &[5], 0);
    assert_eq!((rig.terms(), rig.acknowledged_to(2)), (vec![1, 1], Some(0)));
    rig.time_out();
    assert_eq!(rig.role(), Role::Follower);
    rig.receive(2, 5, Body::TimeoutNow);
    assert_eq!(rig.role(), Role::Follower);
    rig.step(Event::SnapshotInstalled { position: position(9, 4) });
    rig.append(2, 5, position(9, 4), &[5], 0);
    assert_eq!(rig.terms(), [5]);
}

/// Raft §7: a snapshot that is no longer of use is not installed.
#[test]
fn snapshot_behind_the_commit_index_is_not_installed() {
    let mut rig = Rig::follower(5, &[1, 1]);
    rig.receive(2, 5, Body::SnapshotOffer { position: position(3, 1) });
    rig.append(2, 5, position(2, 1), &[1, 5], 4);
    let membership = Membership::new((1..=3).map(NodeId));
    let actions = rig.step(Event::SnapshotFetched { position: position(3, 1), membership });
    assert_eq!(actions.install_snapshot, None);
}

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
