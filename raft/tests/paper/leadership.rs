//! The rules of authority and transfer: Raft §6, thesis §6.2 and §3.10.

use super::*;

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
