//! The rules of snapshots: Raft §7.

use super::*;

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
