//! The membership as part of the state: applied, kept, carried by checkpoints, hashed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raft::{Entry, EntryKind, LogIndex, MemberRole, Membership, MembershipChange, NodeId, Term};
use raftkv_storage::state::{Bootstrap, Engine, MemoryEngine, RocksEngine, StateMachine};
use state_support::{apply_in_runs, bootstrap, entries_from, open, put, small_options};

/// Founded by 1 to 3; then 4 comes as a learner, and becomes a voter in place of 1.
fn memberships() -> [Membership; 3] {
    let change = |roles: &[(u64, MemberRole)], context: &'static [u8]| MembershipChange {
        roles: roles.iter().map(|(id, role)| (NodeId(*id), *role)).collect(),
        context: Some(Bytes::from_static(context)),
    };
    let learner = bootstrap().membership.changed(&change(&[(4, MemberRole::Learner)], b"with n4")).unwrap();
    let joint = learner.changed(&change(&[(4, MemberRole::Voter), (1, MemberRole::Removed)], b"without n1")).unwrap();
    let left = joint.left();
    [learner, joint, left]
}

fn entry(index: u64, membership: &Membership) -> Entry {
    let term = Term(1 + index / 7);
    Entry { term, index: LogIndex(index), kind: EntryKind::Membership, payload: membership.encode() }
}

/// A put, then the memberships with puts between them.
fn log() -> Vec<Entry> {
    let [learner, joint, left] = memberships();
    let write = |index: u64| entries_from(index, &[vec![put(b"k", &[index as u8])]]).remove(0);
    vec![write(1), entry(2, &learner), write(3), entry(4, &joint), entry(5, &left), write(6)]
}

/// A node that has joined: its state was set up without members.
fn open_joining<E: Engine>(engine: E) -> StateMachine<E> {
    StateMachine::open(engine, &Bootstrap { membership: Membership::default(), ..bootstrap() }).unwrap()
}

fn hashes<E: Engine>(machine: &StateMachine<E>) -> ([u8; 16], [u8; 16]) {
    (machine.state_hash(), machine.reader().content_hash().unwrap())
}

#[test]
fn the_newest_membership_applied_is_the_states_however_runs_are_cut() {
    let [learner, _, left] = memberships();
    for runs in [&[1][..], &[6], &[2, 4], &[3]] {
        let mut machine = open(MemoryEngine::new());
        assert_eq!(*machine.membership(), bootstrap().membership);
        let outcomes = apply_in_runs(&mut machine, &log()[..3], runs);
        assert_eq!(*machine.membership(), learner);
        assert!(outcomes[1].results.is_empty(), "a change of the membership answers nobody");
        apply_in_runs(&mut machine, &log()[3..], runs);
        assert_eq!(*machine.membership(), left);
        assert_eq!(machine.revision(), 4);
    }
}

#[test]
fn membership_outlives_a_restart_exactly_as_far_as_the_data_does() {
    let engine = MemoryEngine::new();
    let mut machine = open(engine.clone());
    apply_in_runs(&mut machine, &log()[..2], &[2]);
    machine.flush(true).unwrap();
    apply_in_runs(&mut machine, &log()[2..], &[9]);
    drop(machine);
    engine.crash();
    let mut machine = open(engine);
    assert_eq!((machine.applied().index, machine.membership()), (LogIndex(2), &memberships()[0]));
    apply_in_runs(&mut machine, &log()[2..], &[9]);
    assert_eq!(*machine.membership(), memberships()[2]);
}

#[test]
fn checkpoint_carries_the_membership_with_its_context() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = state_support::rocks(&directory.path().join("db"));
    let mut twin = open(MemoryEngine::new());
    for (at, run) in log().chunks(2).enumerate() {
        machine.apply(run, &mut Vec::new()).unwrap();
        twin.apply(run, &mut Vec::new()).unwrap();
        assert_eq!(hashes(&machine), hashes(&twin));
        let target = directory.path().join(format!("checkpoint-{at}"));
        machine.checkpoint(&target).unwrap();
        let copy =
            StateMachine::open_existing(RocksEngine::open_read_only(&target, &small_options()).unwrap()).unwrap();
        assert_eq!((copy.membership(), copy.applied()), (machine.membership(), machine.applied()));
        assert_eq!(copy.membership().context(), twin.membership().context());
        assert_eq!(hashes(&copy), hashes(&twin));
    }
}

#[test]
fn a_joined_node_has_the_hashes_of_a_founder_at_every_position() {
    let (mut founder, mut joined) = (open(MemoryEngine::new()), open_joining(MemoryEngine::new()));
    assert!(joined.membership().is_empty());
    assert_eq!(hashes(&founder), hashes(&joined));
    for entry in log() {
        for machine in [&mut founder, &mut joined] {
            machine.apply(std::slice::from_ref(&entry), &mut Vec::new()).unwrap();
        }
        assert_eq!(hashes(&founder), hashes(&joined), "after entry {}", entry.index);
    }
    assert_eq!(founder.membership(), joined.membership());
}

#[test]
fn different_memberships_have_different_hashes() {
    let [learner, joint, left] = memberships();
    let renamed = learner.clone().with_context(Bytes::from_static(b"with n5"));
    let hashes: Vec<_> = [learner, joint, left, renamed]
        .iter()
        .map(|membership| {
            let mut machine = open(MemoryEngine::new());
            machine.apply(&[entry(1, membership)], &mut Vec::new()).unwrap();
            hashes(&machine)
        })
        .collect();
    for (at, (state, content)) in hashes.iter().enumerate() {
        assert!(hashes[..at].iter().all(|(other, _)| other != state), "state hash {at}");
        assert!(hashes[..at].iter().all(|(_, other)| other != content), "content hash {at}");
    }
}
