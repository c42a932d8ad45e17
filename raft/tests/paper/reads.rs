//! The rules of reads: Raft §8, thesis §6.4.

use super::*;

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
