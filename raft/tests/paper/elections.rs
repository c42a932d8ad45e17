//! The rules of terms and elections: Raft §5.1, §5.2 and §5.4.1.

use super::*;

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
