//! The driver without threads: changes of the membership, and leadership handed over.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver_world;

use driver_world::World;
use raft::{Body, LogIndex, LogPosition, Message, NodeId, Role};
use raftkv::directory::MemberDirectory;
use raftkv::driver::{ChangeBusy, ChangeRefusal, ChangeReport, Input, MemberEdit, NewMember, Quorum, TransferRefusal};
use raftkv::members::MemberView;
use std::time::Duration;
use transport::InboundPermit;

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn quorum(voters: &[u64], learners: &[u64], needed: usize, reachable: &[u64]) -> Quorum {
    Quorum { voters: ids(voters), learners: ids(learners), needed, reachable: ids(reachable) }
}

fn new_member(number: u64) -> NewMember {
    NewMember {
        id: None,
        name: format!("n{number}"),
        peer_address: format!("host{number}:7421"),
        client_address: format!("host{number}:7420"),
        http_address: None,
    }
}

fn add(number: u64) -> MemberEdit {
    MemberEdit::Add(new_member(number))
}

fn promote(number: u64) -> MemberEdit {
    MemberEdit::Promote(NodeId(number))
}

fn remove(number: u64) -> MemberEdit {
    MemberEdit::Remove(NodeId(number))
}

/// The number of the node at this place.
fn number(node: usize) -> u64 {
    node as u64 + 1
}

/// Three founders of whom one leads and all know it, and others that wait.
fn world_with(joining: u64) -> (World, usize) {
    let mut world = World::with(3, joining);
    let leader = world.elect();
    world.pass(Duration::from_millis(300));
    (world, leader)
}

/// A change that is made.
fn changed(world: &mut World, leader: usize, changes: &[MemberEdit]) -> ChangeReport {
    let outcome = world.change(leader, changes);
    world.pass(Duration::from_millis(200));
    outcome.try_recv().expect("it is done").expect("it is made")
}

#[test]
fn a_node_joins_as_a_learner_and_becomes_a_voter() {
    let (mut world, leader) = world_with(1);
    let added = world.change(leader, &[add(4)]);
    world.settle();
    let report = added.try_recv().unwrap().unwrap();
    assert_eq!(report.added, ids(&[4]));
    assert_eq!(report.before, quorum(&[1, 2, 3], &[], 2, &[1, 2, 3]));
    assert_eq!(report.after, quorum(&[1, 2, 3], &[4], 2, &[1, 2, 3]));
    assert!(report.index.is_some());

    world.until("the learner has everything", |world| world.nodes[3].applied == world.nodes[leader].applied);
    let promoted = world.change(leader, &[promote(4)]);
    let report = loop {
        world.pass(Duration::from_millis(10));
        if let Ok(outcome) = promoted.try_recv() {
            break outcome.unwrap();
        }
    };
    assert_eq!(report.after, quorum(&[1, 2, 3, 4], &[], 3, &[1, 2, 3, 4]));
    let (effective, committed) = world.nodes[leader].host.0.borrow().memberships.clone();
    assert_eq!(effective, committed, "answered when the change was done");
    assert_eq!((effective.voters(), effective.is_joint()), (&ids(&[1, 2, 3, 4])[..], false));
    world.until("everybody knows", |world| {
        world.nodes.iter().all(|node| node.host.0.borrow().memberships == (effective.clone(), effective.clone()))
    });
    let directory = MemberDirectory::of(&effective, &MemberDirectory::default());
    assert_eq!((directory.id_max, directory.member(NodeId(4)).unwrap().name.as_str()), (4, "n4"));
    assert!(promoted.try_recv().is_err(), "a second answer came");
}

#[test]
fn a_dry_run_says_what_would_become_of_it_and_changes_nothing() {
    let (mut world, leader) = world_with(0);
    let before = world.nodes[leader].driver.status();
    let outcome = world.change_request(leader, &[add(4), remove(number((leader + 1) % 3))], true);
    let report = outcome.try_recv().expect("at once").unwrap();
    assert_eq!((report.index, report.added), (None, ids(&[4])));
    assert_eq!((report.after.voters.len(), report.after.needed, report.after.learners), (2, 2, ids(&[4])));
    world.settle();
    let after = world.nodes[leader].driver.status();
    assert_eq!((after.membership, after.log_last), (before.membership, before.log_last));
}

#[test]
fn a_follower_refuses_changes_and_transfers_and_names_the_leader() {
    let (mut world, leader) = world_with(0);
    let known = Some(NodeId(number(leader)));
    for dry_run in [false, true] {
        let outcome = world.change_request((leader + 1) % 3, &[add(4)], dry_run);
        assert_eq!(outcome.try_recv().unwrap(), Err(ChangeRefusal::NotLeader { leader: known }));
    }
    let outcome = world.transfer((leader + 1) % 3, None);
    assert_eq!(outcome.try_recv().unwrap(), Err(TransferRefusal::NotLeader { leader: known }));
}

#[test]
fn changes_that_make_no_sense_are_refused_with_the_reason() {
    let (mut world, leader) = world_with(1);
    changed(&mut world, leader, &[add(4)]);
    let with = |change: &dyn Fn(&mut NewMember)| {
        let mut member = new_member(9);
        change(&mut member);
        MemberEdit::Add(member)
    };
    let cases = [
        (vec![], "like that already"),
        (vec![with(&|it| it.id = Some(NodeId(4)))], "node 4 is a member already"),
        (vec![with(&|it| it.name = "n 9".to_owned())], "`n 9` is not a name"),
        (vec![with(&|it| it.name = "n2".to_owned())], "node 2 has the name `n2` already"),
        (vec![with(&|it| it.peer_address = "nowhere".to_owned())], "`nowhere` is not an address"),
        (vec![with(&|it| it.peer_address = "host4:7420".to_owned())], "host4:7420 is that of node 4"),
        (vec![with(&|it| it.peer_address = it.client_address.clone())], "is given twice"),
        (vec![add(9), add(9)], "node 5 has the name `n9` already"),
        (vec![remove(7)], "node 7 is not a member"),
        (vec![promote(1)], "node 1 votes already"),
        (vec![MemberEdit::Demote(NodeId(4))], "node 4 is a learner already"),
        (vec![promote(4), remove(4)], "names node 4 twice"),
    ];
    for (changes, reason) in cases {
        for dry_run in [true, false] {
            let outcome = world.change_request(leader, &changes, dry_run).try_recv().unwrap();
            let Err(ChangeRefusal::Invalid(text)) = &outcome else { panic!("{changes:?}: {outcome:?}") };
            assert!(text.contains(reason), "{changes:?}: {text}");
        }
    }
}

/// Scenario 34.
#[test]
fn a_number_is_never_given_out_twice() {
    let (mut world, leader) = world_with(2);
    changed(&mut world, leader, &[add(4)]);
    changed(&mut world, leader, &[remove(4)]);
    let again = MemberEdit::Add(NewMember { id: Some(NodeId(4)), ..new_member(4) });
    let outcome = world.change(leader, &[again]).try_recv().unwrap();
    let Err(ChangeRefusal::Invalid(text)) = &outcome else { panic!("{outcome:?}") };
    assert!(text.contains("number 4 was given out before") && text.contains("the next free one is 5"), "{text}");
    assert_eq!(changed(&mut world, leader, &[add(4)]).added, ids(&[5]));
}

#[test]
fn a_change_that_would_lose_the_quorum_is_refused_and_its_opposite_is_not() {
    let (mut world, leader) = world_with(0);
    let (alive, dead) = ((leader + 1) % 3, (leader + 2) % 3);
    world.cut_off.insert(dead);
    world.pass(Duration::from_millis(1500));
    for dry_run in [true, false] {
        let outcome = world.change_request(leader, &[remove(number(alive))], dry_run).try_recv().unwrap();
        let Err(ChangeRefusal::Unsafe { report, reason }) = outcome else { panic!("{outcome:?}") };
        assert_eq!((report.before.needed, report.before.reachable.len(), report.before.voters.len()), (2, 2, 3));
        assert_eq!((report.after.needed, report.after.reachable.len(), report.after.voters.len()), (2, 1, 2));
        assert_eq!(report.index, None);
        assert!(reason.contains(&format!("node {} first", number(dead))), "{reason}");
    }
    for dry_run in [true, false] {
        let all = [remove(1), remove(2), remove(3)];
        let outcome = world.change_request(leader, &all, dry_run).try_recv().unwrap();
        let Err(ChangeRefusal::Unsafe { report, reason }) = outcome else { panic!("{outcome:?}") };
        assert_eq!((report.before.voters.len(), report.after), (3, quorum(&[], &[], 1, &[])));
        assert!(reason.contains("no voter would be left"), "{reason}");
    }
    assert_eq!(changed(&mut world, leader, &[remove(number(dead))]).after.voters.len(), 2);
}

/// A leader that was elected a moment ago knows as little of a node that is down as of one that will answer at once.
#[test]
fn a_new_leader_relies_on_nobody_who_has_not_answered_it() {
    let (mut world, leader) = world_with(0);
    let (next, dead) = ((leader + 1) % 3, (leader + 2) % 3);
    world.cut_off.insert(dead);
    world.pass(Duration::from_secs(6));
    let _outcome = world.transfer(leader, Some(number(next)));
    world.until("the other leads", |world| world.leader() == Some(next));
    for _ in 0..400 {
        for dry_run in [true, false] {
            match world.change_request(next, &[remove(number(leader))], dry_run).try_recv().unwrap() {
                Err(ChangeRefusal::Busy(ChangeBusy::Unheard { node })) => assert_eq!(node, NodeId(number(dead))),
                Err(ChangeRefusal::Unsafe { report, .. }) => {
                    assert_eq!(report.after.reachable, ids(&[number(next)]));
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        world.pass(Duration::from_millis(10));
    }
    panic!("it is never known that node {} does not answer", number(dead));
}

#[test]
fn a_learner_that_does_not_answer_is_not_promoted() {
    let (mut world, leader) = world_with(1);
    world.cut_off.insert(3);
    changed(&mut world, leader, &[add(4)]);
    world.pass(Duration::from_millis(1500));
    let refused = world.change(leader, &[promote(4)]).try_recv().unwrap();
    assert_eq!(refused, Err(ChangeRefusal::Lagging { node: NodeId(4), behind: None }));
    // A dry run only shows it: three of four will do.
    let shown = world.change_request(leader, &[promote(4)], true).try_recv().unwrap().unwrap();
    assert_eq!(shown.after, quorum(&[1, 2, 3, 4], &[], 3, &[1, 2, 3]));
    world.cut_off.clear();
    world.until("it has caught up", |world| world.nodes[3].applied == world.nodes[leader].applied);
    changed(&mut world, leader, &[promote(4)]);
}

#[test]
fn one_change_at_a_time() {
    let (mut world, leader) = world_with(0);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    world.cut_off.extend(others);
    let first = world.change(leader, &[remove(number(others[0]))]);
    let second = world.change(leader, &[add(4)]).try_recv().unwrap();
    assert!(matches!(second, Err(ChangeRefusal::Busy(ChangeBusy::Pending { .. }))), "{second:?}");
    assert!(first.try_recv().is_err(), "nobody has committed it");
    world.cut_off.clear();
    world.pass(Duration::from_millis(300));
    assert!(first.try_recv().unwrap().is_ok());
}

#[test]
fn a_leader_that_is_removed_answers_and_another_leads() {
    let (mut world, leader) = world_with(0);
    let outcome = world.change(leader, &[remove(number(leader))]);
    world.pass(Duration::from_millis(200));
    let report = outcome.try_recv().unwrap().unwrap();
    assert_eq!(report.after.voters.len(), 2);
    let next = world.elect();
    assert_ne!(next, leader);
    let kept = world.write(next, "kept");
    world.settle();
    assert!(kept.try_recv().unwrap().is_ok());
    let (effective, committed) = world.nodes[leader].host.0.borrow().memberships.clone();
    assert!(!effective.contains(NodeId(number(leader))) && effective == committed, "it knows that it is removed");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.nodes[leader].driver.status().role, Role::Follower, "and leaves the others alone");
    assert_eq!(world.leader(), Some(next));
}

/// A voter that is removed decides until the joint membership is left, however long that takes.
#[test]
fn a_voter_that_is_removed_is_linked_to_as_long_as_it_decides() {
    let (mut world, leader) = world_with(2);
    changed(&mut world, leader, &[add(4)]);
    let removed = (leader + 1) % 3;
    let outcome = world.change(leader, &[remove(number(removed))]);
    let (joint, _) = world.nodes[leader].host.0.borrow().memberships.clone();
    assert!(joint.is_joint(), "{joint:?}");
    let founding = MemberDirectory::default();
    let own = NodeId(number(leader));
    let view = MemberView::new(own, &joint, &joint, &founding);
    assert_eq!(view.peers.members.keys().copied().collect::<Vec<_>>(), ids(&[1, 2, 3, 4]));
    // Its name and address are free for whoever takes its place.
    world.pass(Duration::from_millis(500));
    assert!(outcome.try_recv().unwrap().is_ok());
    let after = world.nodes[leader].host.0.borrow().memberships.0.clone();
    let view = MemberView::new(own, &after, &after, &founding);
    assert_eq!(view.peers.members.len(), 3, "{view:?}");
    let successor = MemberEdit::Add(NewMember { id: Some(NodeId(5)), ..new_member(number(removed)) });
    changed(&mut world, leader, &[successor]);
}

#[test]
fn a_change_whose_place_another_entry_took_is_certainly_not_made() {
    let (mut world, old) = world_with(0);
    world.cut_off.insert(old);
    let lost = world.change(old, &[add(4)]);
    world.settle();
    let new = world.elect();
    let kept = world.write(new, "kept");
    world.settle();
    assert!(kept.try_recv().unwrap().is_ok());
    assert!(lost.try_recv().is_err(), "nothing can be known yet");
    world.cut_off.clear();
    world.until("the old leader applies what the new one wrote", |world| {
        world.nodes[old].applied == world.nodes[new].applied
    });
    let refused = lost.try_recv().unwrap();
    assert_eq!(refused, Err(ChangeRefusal::NotLeader { leader: Some(NodeId(number(new))) }));
    assert_eq!(world.nodes[old].driver.status().membership.learners(), []);
}

#[test]
fn a_change_that_another_leader_finishes_is_answered_by_the_one_that_was_asked() {
    let (mut world, old) = world_with(1);
    changed(&mut world, old, &[add(4)]);
    world.until("the learner has everything", |world| world.nodes[3].applied == world.nodes[old].applied);
    let outcome = world.change(old, &[promote(4)]);
    // The others get the joint membership, and cannot answer.
    while world.deliver(old) {}
    world.cut_off.insert(old);
    let new = world.elect();
    world.until("the new leader finishes it", |world| {
        let membership = world.nodes[new].host.0.borrow().memberships.1.clone();
        membership.voters().len() == 4 && !membership.is_joint()
    });
    assert!(outcome.try_recv().is_err(), "nothing can be known yet");
    world.cut_off.clear();
    world.pass(Duration::from_millis(500));
    let report = outcome.try_recv().unwrap().unwrap();
    assert_eq!(report.after.voters, ids(&[1, 2, 3, 4]));
    assert_eq!(world.nodes[old].driver.status().membership.voters(), &ids(&[1, 2, 3, 4])[..]);
}

#[test]
fn a_change_nobody_can_decide_is_unknown_after_a_while() {
    let (mut world, old) = world_with(0);
    world.cut_off.insert(old);
    let lost = world.change(old, &[add(4)]);
    world.pass(Duration::from_secs(15));
    assert_eq!(lost.try_recv().unwrap(), Err(ChangeRefusal::OutcomeUnknown));
    assert!(lost.try_recv().is_err(), "a second answer came");
}

#[test]
fn closing_answers_whoever_waits_for_a_change_or_a_transfer() {
    let (mut world, leader) = world_with(0);
    world.cut_off.insert(leader);
    let change = world.change(leader, &[add(4)]);
    let transfer = world.transfer(leader, None);
    world.settle();
    world.nodes[leader].driver.close();
    assert_eq!(change.try_recv().unwrap(), Err(ChangeRefusal::OutcomeUnknown));
    assert_eq!(transfer.try_recv().unwrap(), Err(TransferRefusal::Stopping));
}

#[test]
fn leadership_is_handed_over_or_it_is_said_why_not() {
    let (mut world, leader) = world_with(1);
    changed(&mut world, leader, &[add(4)]);
    let refused = |target| Err(TransferRefusal::NotAVoter { target: NodeId(target) });
    assert_eq!(world.transfer(leader, Some(4)).try_recv().unwrap(), refused(4));
    assert_eq!(world.transfer(leader, Some(9)).try_recv().unwrap(), refused(9));
    let own = number(leader);
    assert_eq!(world.transfer(leader, Some(own)).try_recv().unwrap(), Err(TransferRefusal::LeadsAlready));

    let next = (leader + 1) % 3;
    let outcome = world.transfer(leader, Some(number(next)));
    world.pass(Duration::from_millis(300));
    assert_eq!(outcome.try_recv().unwrap(), Ok(NodeId(number(next))));
    assert_eq!(world.leader(), Some(next));

    world.cut_off.insert(leader);
    let outcome = world.transfer(next, Some(own));
    world.pass(Duration::from_secs(2));
    assert_eq!(outcome.try_recv().unwrap(), Err(TransferRefusal::TimedOut { target: NodeId(own) }));
    assert_eq!(world.leader(), Some(next), "it goes on leading");
}

#[test]
fn writes_go_on_when_leadership_is_to_go_to_a_voter_that_is_down() {
    let (mut world, leader) = world_with(0);
    let down = (leader + 1) % 3;
    world.cut_off.insert(down);
    world.pass(Duration::from_secs(5));
    let outcome = world.transfer(leader, Some(number(down)));
    assert_eq!(outcome.try_recv().unwrap(), Err(TransferRefusal::Silent { target: NodeId(number(down)) }));
    let written = world.write(leader, "k");
    world.settle();
    assert!(written.try_recv().unwrap().is_ok());
    // Whoever does not mind who leads gets somebody who answers.
    let outcome = world.transfer(leader, None);
    world.pass(Duration::from_millis(300));
    assert_eq!(outcome.try_recv().unwrap(), Ok(NodeId(number((leader + 2) % 3))));
}

#[test]
fn leadership_that_goes_to_another_than_asked_for_is_no_success() {
    let (mut world, leader) = world_with(0);
    let (target, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.cut_off.insert(target);
    let outcome = world.transfer(leader, Some(number(target)));
    // Meanwhile the third node is elected, and says so.
    let term = world.nodes[leader].driver.status().term.next();
    let body =
        Body::Append { previous: LogPosition::default(), commit: LogIndex(0), read_round: 0, entries: Vec::new() };
    let from = NodeId(number(other));
    let input = Input::Message { from, message: Message { term, body }, permit: InboundPermit::unmetered() };
    world.nodes[leader].driver.handle(world.now, input);
    let refusal = TransferRefusal::WentElsewhere { target: NodeId(number(target)), leader: from };
    assert_eq!(outcome.try_recv().unwrap(), Err(refusal));
}

#[test]
fn a_group_of_one_grows() {
    let mut world = World::with(1, 2);
    let leader = world.elect();
    for node in [2, 3] {
        let added = world.change(leader, &[add(node)]);
        world.until("the learner has everything", |world| {
            world.nodes[node as usize - 1].applied == world.nodes[leader].applied
        });
        assert!(added.try_recv().unwrap().is_ok());
        let promoted = world.change(leader, &[promote(node)]);
        world.pass(Duration::from_millis(200));
        assert_eq!(promoted.try_recv().unwrap().unwrap().after.voters.len(), node as usize);
    }
    world.cut_off.insert(leader);
    let next = world.elect();
    let kept = world.write(next, "kept");
    world.settle();
    assert!(kept.try_recv().unwrap().unwrap().index > LogIndex::ZERO);
}
