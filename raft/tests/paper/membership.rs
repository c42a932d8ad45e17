//! The rules of membership changes, repair and leases: Raft §6, thesis §4 and §6.4.1.

use super::common::rig::{HEARTBEAT, Rig, TIMEOUT, entries as log_entries, position};
use super::common::small_config;
use raftkv_raft::{
    AppendOutcome, Body, ChangeError, ChangeInvalid, Config, DropReason, Entry, EntryKind, Event, HardState, LogIndex,
    MemberRole, Membership, MembershipChange, NodeId, ReadReady, RepairId, RepairReport, Replication, Restored, Role,
    Term, TransferError,
};

const VOTER: MemberRole = MemberRole::Voter;
const LEARNER: MemberRole = MemberRole::Learner;
const REMOVED: MemberRole = MemberRole::Removed;

fn change(roles: &[(u64, MemberRole)]) -> Event {
    let roles = roles.iter().map(|(id, role)| (NodeId(*id), *role)).collect();
    Event::ChangeMembership { change: MembershipChange { roles, context: None } }
}

fn refused(rig: &Rig) -> ChangeError {
    rig.actions.membership_proposal.expect("a change is answered at once").expect_err("it is refused")
}

fn voters(rig: &Rig) -> (Vec<u64>, Vec<u64>) {
    let membership = rig.node.status().membership;
    let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.0).collect();
    (numbers(membership.voters()), numbers(membership.voters_outgoing()))
}

/// A leader of three that has committed its first entry.
fn leader() -> (Rig, u64) {
    let (mut rig, term) = Rig::leader(3, &[]);
    rig.acknowledge(2, 1, 0);
    assert_eq!(rig.commit(), 1);
    (rig, term)
}

fn membership_entry(index: u64, term: u64, membership: &Membership) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Membership, payload: membership.encode() }
}

fn three() -> Membership {
    Membership::new((1..=3).map(NodeId))
}

fn with(membership: &Membership, roles: &[(u64, MemberRole)]) -> Membership {
    let Event::ChangeMembership { change } = change(roles) else { unreachable!() };
    membership.changed(&change).unwrap()
}

/// A follower of node 2 in term 2 that takes in these entries after index 0.
fn follower_with(entries: Vec<Entry>, commit: u64) -> Rig {
    let mut rig = Rig::follower(2, &[]);
    let body = Body::Append { previous: position(0, 0), commit: LogIndex(commit), read_round: 0, entries };
    rig.receive(2, 2, body);
    rig.durable();
    rig
}

/// Raft §6: a server uses the latest configuration in its log as soon as it is there, committed or not.
#[test]
fn membership_takes_effect_when_it_is_appended() {
    let (mut rig, _) = leader();
    rig.step(change(&[(4, VOTER)]));
    assert_eq!(rig.actions.membership_proposal, Some(Ok(position(2, 1))));
    assert_eq!((voters(&rig), rig.commit()), ((vec![1, 2, 3, 4], vec![1, 2, 3]), 1));
    assert!(rig.actions.membership_changed);
    let joint = with(&three(), &[(4, VOTER)]);
    let follower = follower_with(vec![membership_entry(1, 2, &joint)], 0);
    assert_eq!(voters(&follower), (vec![1, 2, 3, 4], vec![1, 2, 3]));
    assert_eq!(follower.node.status().membership_committed, &three());
}

/// Raft §6: while the change is joint, both majorities decide; then the leader moves on by itself.
#[test]
fn joint_membership_needs_both_majorities_and_is_left_when_committed() {
    let (mut rig, _) = leader();
    rig.step(change(&[(4, VOTER), (5, VOTER), (2, REMOVED), (3, REMOVED)]));
    rig.durable();
    rig.acknowledge(4, 2, 0);
    rig.acknowledge(5, 2, 0);
    assert_eq!(rig.commit(), 1, "the old majority is missing");
    rig.acknowledge(3, 2, 0);
    assert_eq!((rig.commit(), voters(&rig)), (2, (vec![1, 4, 5], vec![])));
    assert_eq!(rig.terms().len(), 3);
    rig.durable();
    rig.acknowledge(2, 3, 0);
    rig.acknowledge(3, 3, 0);
    assert_eq!(rig.commit(), 2, "who is removed does not count");
    rig.acknowledge(5, 3, 0);
    assert_eq!((rig.commit(), rig.node.status().membership_committed.voters().len()), (3, 3));
}

/// Thesis §4.2.1: a learner receives the log, and counts neither for commits nor for elections.
#[test]
fn learner_receives_the_log_and_does_not_count() {
    let (mut rig, _) = leader();
    rig.step(change(&[(4, LEARNER)]));
    assert_eq!(voters(&rig), (vec![1, 2, 3], vec![]));
    assert!(!rig.sent_to(4).is_empty());
    rig.durable();
    rig.acknowledge(4, 2, 0);
    assert_eq!(rig.commit(), 1);
    rig.acknowledge(3, 2, 0);
    assert_eq!(rig.commit(), 2);
}

/// A learner does not campaign; asked for its vote, it answers, because the candidate may know more (thesis §4.2.2).
#[test]
fn learner_answers_votes_and_does_not_campaign() {
    let membership = with(&Membership::new([NodeId(2), NodeId(3)]), &[(1, LEARNER)]);
    let mut rig = Rig::with(small_config(NodeId(1)), Restored::new(membership));
    rig.time_out();
    assert_eq!((rig.role(), rig.actions.send.len()), (Role::Follower, 0));
    rig.receive(2, 5, Body::Vote { last: position(0, 0), transfer: false });
    rig.durable();
    assert_eq!(rig.sent_to(2), [&Body::VoteReply { granted: true }]);
}

/// Thesis §4.1: one change at a time.
#[test]
fn second_change_waits_for_the_first() {
    let (mut rig, _) = leader();
    rig.step(change(&[(4, LEARNER)]));
    rig.step(change(&[(5, LEARNER)]));
    assert_eq!(refused(&rig), ChangeError::Pending { index: LogIndex(2) });
    rig.durable();
    rig.acknowledge(2, 2, 0);
    rig.step(change(&[(5, LEARNER)]));
    assert_eq!(rig.actions.membership_proposal, Some(Ok(position(3, 1))));
}

/// Thesis §4.1 with its erratum: no change before the leader has committed in its own term (scenario 32).
#[test]
fn change_waits_for_a_commit_of_the_leaders_own_term() {
    let (mut rig, _) = Rig::leader(3, &[1]);
    rig.step(change(&[(4, LEARNER)]));
    assert_eq!(refused(&rig), ChangeError::TooEarly);
}

/// Changes are the leader's business, and not while it hands over (thesis §3.10).
#[test]
fn only_a_leader_that_stays_changes_the_membership() {
    let mut follower = Rig::follower(2, &[]);
    follower.step(change(&[(4, LEARNER)]));
    assert_eq!(refused(&follower), ChangeError::NotLeader { leader: Some(NodeId(2)) });
    let (mut rig, _) = leader();
    rig.step(Event::TransferLeadership { target: Some(NodeId(2)) });
    rig.step(change(&[(4, LEARNER)]));
    assert_eq!(refused(&rig), ChangeError::Transferring { target: NodeId(2) });
}

/// Thesis §4.1: changes that make no sense do not enter the log.
#[test]
fn senseless_change_is_refused() {
    let (mut rig, _) = leader();
    rig.step(change(&[(1, REMOVED), (2, REMOVED), (3, REMOVED)]));
    assert_eq!(refused(&rig), ChangeError::Invalid(ChangeInvalid::NoVoters));
    rig.step(change(&[(9, REMOVED)]));
    assert_eq!(refused(&rig), ChangeError::Invalid(ChangeInvalid::NotAMember(NodeId(9))));
    assert_eq!(rig.terms().len(), 1);
}

/// Raft §6: a membership whose entry is truncated is taken back.
#[test]
fn truncated_membership_is_taken_back() {
    let mut rig = follower_with(vec![membership_entry(1, 2, &with(&three(), &[(4, VOTER)]))], 0);
    rig.append(3, 3, position(0, 0), &[3], 0);
    assert_eq!((voters(&rig), rig.actions.membership_changed), ((vec![1, 2, 3], vec![]), true));
}

/// Raft §7, thesis §5.1 (scenario 26): a snapshot takes an uncommitted membership away together with the log that held it.
#[test]
fn snapshot_replaces_an_uncommitted_membership() {
    let mut rig = follower_with(vec![membership_entry(1, 2, &with(&three(), &[(4, VOTER)]))], 0);
    rig.receive(3, 3, Body::SnapshotOffer { position: position(9, 3) });
    let membership = Membership::new((1..=5).map(NodeId));
    rig.step(Event::SnapshotFetched { position: position(9, 3), membership: membership.clone() });
    rig.step(Event::SnapshotInstalled { position: position(9, 3) });
    let status = rig.node.status();
    assert_eq!((status.membership, status.membership_committed), (&membership, &membership));
}

/// Raft §6, §7: a committed membership that stands in the log after a snapshot stays committed when that snapshot is installed. Were it
/// taken back, two majorities without a common node could decide.
#[test]
fn snapshot_does_not_take_back_a_membership_committed_after_it() {
    let moved = Membership::new([1, 4, 5].map(NodeId));
    let joint = with(&three(), &[(2, REMOVED), (3, REMOVED), (4, VOTER), (5, VOTER)]);
    assert_eq!(joint.left(), moved);
    // Node 1 lacks everything, and the fetch of the snapshot that its leader offers takes its time.
    let mut rig = Rig::follower(2, &[]);
    rig.receive(2, 2, Body::SnapshotOffer { position: position(3, 1) });
    assert!(rig.actions.fetch_snapshot.is_some());
    // The next leader has the log, and does not know yet what of it is committed. That the entry at 5 is, the one at 8 says.
    let mut entries = log_entries(1, &[1, 1, 1]);
    entries.extend([membership_entry(4, 1, &joint), membership_entry(5, 1, &moved)]);
    entries.extend(log_entries(6, &[1, 1]));
    entries.push(membership_entry(8, 2, &moved.clone().with_context("learners to come".into())));
    rig.receive(3, 3, Body::Append { previous: position(0, 0), commit: LogIndex(0), read_round: 0, entries });
    rig.durable();
    assert_eq!((rig.commit(), rig.node.status().membership_committed), (0, &moved));

    rig.step(Event::SnapshotFetched { position: position(3, 1), membership: three() });
    assert!(rig.actions.install_snapshot.is_some_and(|install| install.keep_suffix));
    rig.step(Event::SnapshotInstalled { position: position(3, 1) });
    assert_eq!(rig.node.status().membership_committed, &moved);

    // The leader after that never had the entry at 8.
    rig.append(4, 4, position(7, 1), &[4], 3);
    rig.durable();
    assert_eq!((rig.terms(), rig.node.status().membership), (vec![1, 1, 1, 1, 4], &moved));
    // Node 2 is no member any more: with its vote alone node 1 leads nobody.
    rig.time_out();
    rig.receive(2, 5, Body::PreVoteReply { granted: true });
    assert_eq!((rig.actions.dropped, rig.role()), (Some(DropReason::UnknownSender), Role::PreCandidate));
}

/// Raft §6, thesis §4.3 (scenario 33): after a crash in the middle of a change, what stands in the log is in effect, and a new leader ends the change.
#[test]
fn new_leader_ends_a_change_that_it_finds_in_its_log() {
    let joint = with(&three(), &[(3, REMOVED)]);
    let restored = Restored {
        hard_state: HardState { term: Term(2), vote: None },
        log_last: LogIndex(1),
        term_runs: vec![(LogIndex(1), Term(2))],
        memberships: vec![(LogIndex(1), joint)],
        ..Restored::new(three())
    };
    let mut rig = Rig::with(small_config(NodeId(1)), restored);
    rig.campaign();
    rig.receive(2, 3, Body::VoteReply { granted: true });
    rig.durable();
    assert_eq!((rig.role(), voters(&rig)), (Role::Leader, (vec![1, 2], vec![1, 2, 3])));
    rig.acknowledge(2, 2, 0);
    assert_eq!((rig.commit(), voters(&rig)), (2, (vec![1, 2], vec![])));
    rig.step(change(&[(4, LEARNER)]));
    assert_eq!(refused(&rig), ChangeError::Pending { index: LogIndex(3) });
}

/// Raft §6, thesis §4.3: an election during a joint membership needs both majorities.
#[test]
fn joint_election_needs_both_majorities() {
    let joint = with(&three(), &[(4, VOTER), (5, VOTER), (2, REMOVED), (3, REMOVED)]);
    let mut rig = Rig::with(small_config(NodeId(1)), Restored::new(joint));
    rig.time_out();
    for voter in [4, 5] {
        rig.receive(voter, 1, Body::PreVoteReply { granted: true });
    }
    assert_eq!(rig.role(), Role::PreCandidate);
    rig.receive(2, 1, Body::PreVoteReply { granted: true });
    assert_eq!(rig.role(), Role::Candidate);
}

/// Thesis §4.2.2: a leader that removes itself leads until that is committed, does not count itself, then hands over.
#[test]
fn removed_leader_leads_until_its_removal_is_committed() {
    let (mut rig, _) = leader();
    rig.step(change(&[(1, REMOVED)]));
    rig.durable();
    rig.acknowledge(2, 2, 0);
    assert_eq!(rig.commit(), 1, "the leader does not count among the new voters");
    rig.acknowledge(3, 2, 0);
    rig.durable();
    assert_eq!((rig.commit(), rig.role(), voters(&rig)), (2, Role::Leader, (vec![2, 3], vec![])));
    rig.acknowledge(2, 3, 0);
    assert_eq!((rig.commit(), rig.role()), (2, Role::Leader), "two of the two that are left");
    rig.acknowledge(3, 3, 0);
    assert_eq!((rig.commit(), rig.role()), (3, Role::Follower));
    let told = [2, 3].map(|id| rig.sent_to(id).contains(&&Body::TimeoutNow));
    assert!(told[0] ^ told[1], "one voter is told to campaign: {told:?}");
    rig.time_out();
    assert_eq!((rig.role(), rig.actions.send.len()), (Role::Follower, 0));
}

/// Thesis §4.2.2: a voter whose removal is not committed may have to lead once more, because the others may lack the entry.
#[test]
fn voter_may_campaign_until_its_removal_is_committed() {
    let joint = with(&Membership::new([NodeId(1)]), &[(2, VOTER), (1, REMOVED)]);
    let restored = Restored {
        hard_state: HardState { term: Term(2), vote: None },
        log_last: LogIndex(2),
        term_runs: vec![(LogIndex(1), Term(2))],
        memberships: vec![(LogIndex(1), joint.clone()), (LogIndex(2), joint.left())],
        ..Restored::new(Membership::new([NodeId(1)]))
    };
    let mut rig = Rig::with(small_config(NodeId(1)), restored);
    rig.time_out();
    assert_eq!(rig.role(), Role::Follower, "nobody is known to need it");
    rig.receive(2, 3, Body::PreVote { last: position(1, 2) });
    assert!(rig.sent_to(2).contains(&&Body::PreVoteReply { granted: false }));
    rig.time_out();
    assert_eq!(rig.role(), Role::PreCandidate);
    rig.receive(2, 3, Body::PreVoteReply { granted: true });
    rig.durable();
    rig.receive(2, 3, Body::VoteReply { granted: true });
    rig.durable();
    rig.acknowledge(2, 3, 0);
    assert_eq!((rig.commit(), rig.role()), (3, Role::Follower));
}

/// Node 4, in term 2, whose log of entries of these terms begins with the one that makes it a learner.
fn learner(terms: &[u64]) -> Rig {
    let restored = Restored {
        hard_state: HardState { term: Term(2), vote: None },
        log_last: LogIndex(terms.len() as u64),
        term_runs: (1..).map(LogIndex).zip(terms.iter().copied().map(Term)).collect(),
        memberships: vec![(LogIndex(1), with(&three(), &[(4, LEARNER)]))],
        ..Restored::new(three())
    };
    Rig::with(small_config(NodeId(4)), restored)
}

/// Thesis §4.2.2: a node that others need leads although it is no voter by its own log; only once it knows what is committed, by an
/// entry of its own that it does not count itself for, it hands over.
#[test]
fn learner_that_is_needed_leads_until_its_own_entry_is_committed() {
    let mut rig = learner(&[1, 2]);
    rig.receive(1, 3, Body::PreVote { last: position(2, 1) });
    rig.time_out();
    assert_eq!(rig.role(), Role::PreCandidate);
    rig.receive(1, 3, Body::PreVoteReply { granted: true });
    assert_eq!(rig.role(), Role::PreCandidate, "its own vote does not count");
    rig.receive(3, 3, Body::PreVoteReply { granted: true });
    rig.durable();
    rig.receive(1, 3, Body::VoteReply { granted: true });
    rig.receive(3, 3, Body::VoteReply { granted: true });
    rig.durable();
    assert_eq!(rig.role(), Role::Leader);
    rig.acknowledge(1, 3, 0);
    assert_eq!((rig.commit(), rig.role()), (0, Role::Leader), "its own log does not count");
    rig.acknowledge(3, 3, 0);
    assert_eq!((rig.commit(), rig.role()), (3, Role::Follower));
    let told = [1, 2, 3].map(|id| rig.sent_to(id).contains(&&Body::TimeoutNow));
    assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
}

/// Thesis §4.2.2, §4.2.3: a node that is needed is so only while nobody leads.
#[test]
fn learner_is_needed_only_while_nobody_leads() {
    let mut rig = learner(&[2]);
    rig.receive(1, 3, Body::PreVote { last: position(1, 1) });
    rig.receive(2, 3, Body::Append { previous: position(1, 2), commit: LogIndex(0), read_round: 0, entries: vec![] });
    rig.durable();
    rig.receive(1, 4, Body::PreVote { last: position(1, 1) });
    rig.time_out();
    assert_eq!(rig.role(), Role::Follower, "a leader was heard after it was asked, and before it was asked again");

    let mut rig = learner(&[2]);
    rig.receive(1, 3, Body::PreVote { last: position(1, 2) });
    rig.time_out();
    assert_eq!(rig.role(), Role::Follower, "it granted what it was asked for");
}

/// Thesis §4.2.3: who is removed is sent to until the removal is committed and for an election timeout after, so that it usually learns of it.
#[test]
fn removed_follower_is_told_before_it_is_let_go() {
    let (mut rig, _) = leader();
    rig.acknowledge(3, 1, 0);
    rig.step(change(&[(3, REMOVED)]));
    rig.durable();
    rig.acknowledge(2, 2, 0);
    rig.durable();
    rig.acknowledge(2, 3, 0);
    assert_eq!(rig.commit(), 3);
    rig.acknowledge(3, 3, 0);
    let told = rig.sent_to(3).iter().any(|body| matches!(body, Body::Append { commit: LogIndex(3), .. }));
    assert!(told, "{:?}", rig.actions.send);
    for _ in 0..11 {
        rig.now = rig.now + HEARTBEAT;
        rig.acknowledge(2, 3, 0);
    }
    assert_eq!(rig.node.peer_progress().map(|peer| peer.id.0).collect::<Vec<_>>(), [2]);
    rig.acknowledge(3, 3, 0);
    assert_eq!(rig.actions.dropped, Some(DropReason::UnknownSender));
}

/// Thesis §4.1, §4.2.1: a node that has not joined knows nobody, follows whoever leads, and learns its membership from the log.
#[test]
fn node_that_joins_follows_the_first_leader_it_hears() {
    let mut rig = Rig::with(small_config(NodeId(9)), Restored::new(Membership::default()));
    rig.time_out();
    assert_eq!((rig.role(), rig.actions.send.len()), (Role::Follower, 0));
    let membership = with(&three(), &[(9, LEARNER)]);
    let entries = vec![membership_entry(1, 4, &membership)];
    rig.receive(2, 4, Body::Append { previous: position(0, 0), commit: LogIndex(1), read_round: 0, entries });
    rig.durable();
    assert_eq!((rig.acknowledged_to(2), rig.node.status().membership), (Some(1), &membership));
}

/// Raft §6: a membership counts as soon as it is in the log, so one that this program cannot read is not acknowledged.
#[test]
fn membership_that_cannot_be_read_is_dropped() {
    let mut rig = Rig::follower(2, &[]);
    for payload in [&b"nonsense"[..], &Membership::default().encode()] {
        let kind = EntryKind::Membership;
        let entry = Entry { term: Term(2), index: LogIndex(1), kind, payload: payload.to_vec().into() };
        let entries = vec![entry];
        rig.receive(2, 2, Body::Append { previous: position(0, 0), commit: LogIndex(0), read_round: 0, entries });
        assert_eq!((rig.actions.dropped, rig.terms().len()), (Some(DropReason::Malformed), 0));
    }
}

/// Thesis §3.10: leadership goes to voters that stay and answer.
#[test]
fn transfer_to_nobody_who_can_lead_is_refused() {
    let (mut rig, _) = leader();
    for (target, expected) in [(4, TransferError::NotAVoter { target: NodeId(4) }), (1, TransferError::LeadsAlready)] {
        rig.step(Event::TransferLeadership { target: Some(NodeId(target)) });
        assert_eq!(rig.actions.transfer, Some(Err(expected)));
    }
    let (mut alone, _) = Rig::leader(1, &[]);
    alone.step(Event::TransferLeadership { target: None });
    assert_eq!(alone.actions.transfer, Some(Err(TransferError::NobodyElse)));
    let mut follower = Rig::follower(2, &[]);
    follower.step(Event::TransferLeadership { target: None });
    assert_eq!(follower.actions.transfer, Some(Err(TransferError::NotLeader { leader: Some(NodeId(2)) })));
}

/// Thesis §3.10: while leadership is handed over the leader takes no requests, so it does not wait for a target that has been silent for
/// an election timeout; of those that answer it chooses the one that is furthest along.
#[test]
fn transfer_to_a_silent_voter_is_refused() {
    let (mut rig, _) = leader();
    rig.acknowledge(3, 1, 0);
    // Node 2 answers all the time, and node 3 does not.
    for _ in 0..10 {
        rig.wait(TIMEOUT / 10);
        rig.acknowledge(2, 1, 0);
    }
    assert_eq!(rig.role(), Role::Leader);
    rig.step(Event::TransferLeadership { target: Some(NodeId(3)) });
    assert_eq!(rig.actions.transfer, Some(Err(TransferError::Silent { target: NodeId(3) })));
    rig.propose("a");
    assert!(rig.actions.proposal.as_ref().is_some_and(Result::is_ok));
    rig.step(Event::TransferLeadership { target: None });
    assert_eq!(rig.actions.transfer, Some(Ok(NodeId(2))));
}

// Repair (scenario 35).

const LOSS: RepairId = RepairId(77);

fn amnesiac() -> Rig {
    Rig::with(small_config(NodeId(1)), Restored { repair: Some(LOSS), ..Restored::new(three()) })
}

const PENDING: Option<RepairReport> = Some(RepairReport { id: LOSS, done: false });
const DONE: Option<RepairReport> = Some(RepairReport { id: LOSS, done: true });

fn answer(match_index: u64, repair: Option<RepairReport>) -> Body {
    echo(match_index, repair, 0)
}

fn echo(match_index: u64, repair: Option<RepairReport>, read_round: u64) -> Body {
    let outcome = AppendOutcome::Durable { match_index: LogIndex(match_index) };
    Body::AppendReply { outcome, read_round, repair }
}

/// The round in which node 3 was asked last.
fn round_of_third(rig: &Rig) -> u64 {
    let mut rounds = rig.sent_to(3).into_iter().map(|body| match body {
        Body::Append { read_round, .. } => *read_round,
        other => panic!("{other:?}"),
    });
    rounds.next_back().expect("something was sent")
}

/// A leader to which node 3 has told of its loss, and told again when it was asked.
fn leader_that_knows_of_a_loss() -> (Rig, u64) {
    let (mut rig, term) = leader();
    rig.receive(3, term, answer(0, PENDING));
    let round = round_of_third(&rig);
    rig.receive(3, term, echo(0, PENDING, round));
    (rig, term)
}

/// Thesis §3.8 (scenario 35): a node that has lost what it had promised neither votes nor stands for election.
#[test]
fn amnesiac_neither_votes_nor_campaigns() {
    let mut rig = amnesiac();
    rig.receive(2, 5, Body::PreVote { last: position(9, 4) });
    assert_eq!(rig.sent_to(2), [&Body::PreVoteReply { granted: false }]);
    rig.receive(2, 5, Body::Vote { last: position(9, 4), transfer: false });
    assert_eq!((rig.sent_to(2), rig.node.status().vote), (vec![&Body::VoteReply { granted: false }], None));
    rig.time_out();
    assert_eq!((rig.role(), rig.actions.send.len()), (Role::Follower, 0));
    rig.append(2, 5, position(0, 0), &[5], 0);
    rig.receive(2, 5, Body::TimeoutNow);
    assert_eq!(rig.role(), Role::Follower);
}

/// Thesis §3.8: it takes the log, and says with every answer that the answer does not count.
#[test]
fn amnesiac_says_so_with_every_answer() {
    let mut rig = amnesiac();
    rig.append(2, 5, position(0, 0), &[5], 0);
    rig.durable();
    assert_eq!(rig.sent_to(2), [&answer(1, PENDING)]);
    rig.append(2, 5, position(8, 5), &[5], 0);
    assert!(matches!(
        rig.sent_to(2)[..],
        [Body::AppendReply { outcome: AppendOutcome::Mismatch { .. }, repair: PENDING, .. }]
    ));
}

/// Thesis §3.8: the leader counts nothing that an amnesiac says: no copy, no echo of a read, no sign of life.
#[test]
fn answers_of_an_amnesiac_do_not_count() {
    let (mut rig, term) = leader();
    rig.propose("x");
    rig.durable();
    rig.receive(3, term, answer(2, PENDING));
    assert_eq!(rig.commit(), 1);
    rig.step(Event::Read { token: 1 });
    let outcome = AppendOutcome::Durable { match_index: LogIndex(2) };
    rig.receive(3, term, Body::AppendReply { outcome, read_round: 1, repair: PENDING });
    assert!(rig.actions.reads.is_empty());
    for _ in 0..11 {
        rig.now = rig.now + HEARTBEAT;
        rig.receive(3, term, answer(2, PENDING));
    }
    assert_eq!(rig.role(), Role::Follower);
}

/// Thesis §3.8: what a peer once acknowledged is forgotten when it says that it has lost it.
#[test]
fn leader_forgets_what_an_amnesiac_once_held() {
    let (mut rig, term) = leader();
    rig.acknowledge(3, 1, 0);
    rig.receive(3, term, answer(0, PENDING));
    let round = round_of_third(&rig);
    rig.receive(3, term, echo(0, PENDING, round));
    let progress = rig.node.peer_progress().find(|peer| peer.id == NodeId(3)).unwrap();
    assert_eq!((progress.matched, progress.next, progress.repair), (LogIndex(0), LogIndex(2), Some(LOSS)));
    assert_eq!(progress.replication, Replication::Replicate);
    // A late answer from before the loss changes nothing.
    rig.receive(3, term, answer(1, None));
    assert_eq!(rig.actions.dropped, Some(DropReason::Unexpected));
}

/// Thesis §3.8: a member that has lost its promises loses its vote through the log, and gets it back when it holds the log again.
#[test]
fn amnesiac_is_demoted_repaired_and_promoted() {
    let (mut rig, term) = leader_that_knows_of_a_loss();
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2], vec![1, 2, 3]));
    rig.durable();
    rig.receive(3, term, answer(2, PENDING));
    assert_eq!(rig.commit(), 1, "its own answer does not help to take its vote");
    rig.acknowledge(2, 2, 0);
    rig.durable();
    rig.acknowledge(2, 3, 0);
    assert_eq!((rig.commit(), voters(&rig)), (3, (vec![1, 2], vec![])));
    rig.receive(3, term, answer(3, PENDING));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2], vec![]), "it has not said that it is repaired");
    // A late answer of its former life tells of a log that it has lost.
    rig.receive(3, term, answer(3, None));
    assert_eq!(rig.actions.dropped, Some(DropReason::Unexpected));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2], vec![]), "it has not said that it is repaired");
    rig.receive(3, term, answer(3, DONE));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2, 3], vec![1, 2]));
    // An answer from before it was repaired comes late: it is not taken for a new loss.
    rig.receive(3, term, answer(3, PENDING));
    assert_eq!(rig.actions.dropped, Some(DropReason::Unexpected));
}

/// Thesis §3.8, §6.4: a report that comes late, of a loss that the node has been repaired from since, makes no learner of a voter.
#[test]
fn late_report_of_an_earlier_loss_changes_nothing() {
    let (mut rig, term) = leader();
    rig.acknowledge(3, 1, 0);
    rig.receive(3, term, answer(0, PENDING));
    assert_eq!(rig.actions.dropped, Some(DropReason::Unexpected));
    let round = round_of_third(&rig);
    // Once more, no later; and what it says now, which is that nothing is lost.
    rig.receive(3, term, echo(0, PENDING, round - 1));
    assert!(rig.actions.send.is_empty(), "one question is enough: {:?}", rig.actions.send);
    rig.receive(3, term, echo(1, None, round));
    // What it said in that round before it was repaired comes later still.
    rig.receive(3, term, echo(0, PENDING, round));
    let round = round_of_third(&rig);
    rig.receive(3, term, echo(1, None, round));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2, 3], vec![]));
    let progress = rig.node.peer_progress().find(|peer| peer.id == NodeId(3)).unwrap();
    assert_eq!((progress.matched, progress.repair), (LogIndex(1), None));
    rig.propose("x");
    rig.durable();
    rig.acknowledge(3, 2, round);
    assert_eq!(rig.commit(), 2);
    // A loss that comes after all is believed when it is told in a round of its own.
    rig.receive(3, term, echo(0, Some(RepairReport { id: RepairId(78), done: false }), round));
    let round = round_of_third(&rig);
    rig.receive(3, term, echo(0, Some(RepairReport { id: RepairId(78), done: false }), round));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2], vec![1, 2, 3]));
}

/// Thesis §3.8, §6.4: the same under a leader that did not take its vote, when the word that it is repaired overtakes the report.
#[test]
fn report_that_the_word_of_the_repair_overtakes_changes_nothing() {
    let repairing = three().with_repair(NodeId(3), LOSS).unwrap().left();
    let mut rig = Rig::with(small_config(NodeId(1)), Restored::new(repairing));
    rig.campaign();
    rig.receive(2, 1, Body::VoteReply { granted: true });
    rig.durable();
    rig.acknowledge(2, 1, 0);
    let term = rig.term();
    rig.receive(3, term, answer(1, PENDING));
    let round = round_of_third(&rig);
    rig.receive(3, term, echo(1, DONE, round));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2, 3], vec![1, 2]));
    rig.durable();
    rig.acknowledge(2, 2, 0);
    rig.durable();
    rig.acknowledge(2, 3, 0);
    assert_eq!(voters(&rig), (vec![1, 2, 3], vec![]));
    rig.receive(3, term, echo(1, PENDING, round));
    assert_eq!(rig.actions.dropped, Some(DropReason::Unexpected));
    let round = round_of_third(&rig);
    rig.receive(3, term, echo(3, None, round));
    rig.wait(HEARTBEAT);
    assert_eq!(voters(&rig), (vec![1, 2, 3], vec![]));
}

/// Thesis §3.8: it is repaired when it has applied a committed membership with the number of its own loss; an earlier repair proves nothing.
#[test]
fn amnesiac_is_repaired_by_its_own_number_only() {
    let mut rig = amnesiac();
    let earlier = three().with_repair(NodeId(1), RepairId(1)).unwrap();
    let own = |from: &Membership| from.with_repair(NodeId(1), LOSS).unwrap();
    let mut log = vec![membership_entry(1, 5, &earlier), membership_entry(2, 5, &earlier.left())];
    log.push(membership_entry(3, 5, &own(&earlier.left())));
    for (commit, repaired) in [(2, false), (3, true)] {
        let (previous, commit) = (position(0, 0), LogIndex(commit));
        rig.receive(2, 5, Body::Append { previous, commit, read_round: 0, entries: log.clone() });
        let at_once = rig.actions.repaired;
        rig.durable();
        assert_eq!(at_once || rig.actions.repaired, repaired, "committed up to {commit}");
    }
    rig.step(Event::Repaired);
    assert_eq!(rig.node.status().repair, None);
    rig.append(2, 5, position(3, 5), &[5], 3);
    rig.durable();
    assert_eq!(rig.sent_to(2), [&answer(4, DONE)]);
}

/// Thesis §3.8: nobody under repair is given a vote.
#[test]
fn amnesiac_is_not_promoted_by_request() {
    let (mut rig, _) = leader_that_knows_of_a_loss();
    rig.step(change(&[(3, VOTER), (4, LEARNER)]));
    assert_eq!(refused(&rig), ChangeError::Invalid(ChangeInvalid::UnderRepair(NodeId(3))));
    rig.step(Event::TransferLeadership { target: Some(NodeId(3)) });
    assert_eq!(rig.actions.transfer, Some(Err(TransferError::UnderRepair { target: NodeId(3) })));
}

// Leases (thesis §6.4.1).

fn lease_config(id: u64) -> Config {
    Config { lease_reads: true, ..small_config(NodeId(id)) }
}

/// A leader of three with leases on that a quorum has just heard.
fn lease_leader() -> Rig {
    let mut rig = Rig::with(lease_config(1), Restored::new(three()));
    rig.campaign();
    rig.receive(2, 1, Body::VoteReply { granted: true });
    rig.durable();
    rig.acknowledge(2, 1, 0);
    rig.wait(HEARTBEAT);
    let round = rig.sent_to(2).iter().find_map(|body| match body {
        Body::Append { read_round, .. } => Some(*read_round),
        _ => None,
    });
    rig.acknowledge(2, 1, round.unwrap());
    rig
}

/// Thesis §6.4.1: while the lease lasts, a read needs no round of messages; the lease counts from when the round was sent.
#[test]
fn lease_read_is_answered_at_once_while_the_lease_lasts() {
    let mut rig = lease_leader();
    assert_eq!(rig.step(Event::LeaseRead { token: 1 }).reads, [ReadReady { token: 1, index: LogIndex(1) }]);
    rig.now = rig.now + TIMEOUT / 4 * 3;
    let actions = rig.step(Event::LeaseRead { token: 2 });
    assert!(actions.reads.is_empty() && actions.reads_refused.is_empty());
}

/// Thesis §6.4.1: without the setting, a lease read is a plain read.
#[test]
fn lease_read_without_leases_asks_the_quorum() {
    let (mut rig, _) = leader();
    assert!(rig.step(Event::LeaseRead { token: 1 }).reads.is_empty());
    assert_eq!(rig.acknowledge(2, 1, 1).reads, [ReadReady { token: 1, index: LogIndex(1) }]);
}

/// A leader that asked somebody to campaign has no lease any more in its term, even if nothing comes of it (thesis §3.10).
#[test]
fn lease_ends_with_a_transfer() {
    let mut rig = lease_leader();
    rig.step(Event::TransferLeadership { target: Some(NodeId(2)) });
    for round in 2..14 {
        rig.now = rig.now + HEARTBEAT;
        rig.acknowledge(2, 1, round - 1);
    }
    assert!(rig.propose("x").proposal.unwrap().is_ok(), "the transfer was given up");
    assert!(rig.step(Event::LeaseRead { token: 1 }).reads.is_empty());
}

/// Thesis §6.4.1 (scenario 39): voters keep the lease's promise over a restart and over a term they learn of.
#[test]
fn voter_keeps_the_promise_of_a_lease() {
    let vote = Body::Vote { last: position(9, 9), transfer: false };
    let mut restarted = Rig::with(lease_config(1), Restored::new(three()));
    restarted.receive(3, 5, vote.clone());
    assert_eq!((restarted.term(), restarted.actions.send.len()), (0, 0));
    restarted.now = restarted.now + TIMEOUT;
    restarted.receive(3, 5, vote.clone());
    assert_eq!(restarted.node.status().vote, Some(NodeId(3)));

    let mut led = Rig::with(lease_config(1), Restored::new(three()));
    led.now = led.now + TIMEOUT * 3;
    led.append(2, 5, position(0, 0), &[], 0);
    led.receive(3, 7, Body::VoteReply { granted: false });
    assert_eq!((led.term(), led.node.status().leader), (7, None));
    led.receive(3, 7, vote.clone());
    assert_eq!(led.node.status().vote, None);
    led.now = led.now + TIMEOUT;
    led.receive(3, 7, vote);
    assert_eq!(led.node.status().vote, Some(NodeId(3)));
}
