//! What applying does with entries that are not simply good.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raft::{Entry, EntryKind, LogIndex, Membership, MembershipError, Term};
use raftkv_storage::command::{InvalidCommand, RangeLimits, UnknownFeature};
use raftkv_storage::state::{CommandOutcome, MemoryEngine, StateError};
use state_support::{NO_LIMITS, apply, delete, delete_range, entries, entries_from, open, put};

fn entry(index: u64, kind: EntryKind, payload: &[u8]) -> Entry {
    Entry { term: Term(1), index: LogIndex(index), kind, payload: Bytes::copy_from_slice(payload) }
}

#[test]
fn nonsense_is_reported_and_changes_nothing_but_the_position() {
    let mut machine = open(MemoryEngine::new());
    let mut cut = entries(&[vec![put(b"a", b"1"), put(b"b", b"2")]]).remove(0);
    cut.payload.truncate(cut.payload.len() - 1);
    let empty_key = entries_from(2, &[vec![put(b"", b"1"), put(b"c", b"3")]]).remove(0);
    let mut outcomes = Vec::new();
    machine.apply(&[cut, empty_key, entry(3, EntryKind::Command, b"")], &mut outcomes).unwrap();
    assert_eq!(machine.applied().index, LogIndex(3));
    let results: Vec<_> = outcomes.iter().map(|applied| applied.results.clone()).collect();
    let written = |revision| CommandOutcome::Put { revision, previous: None };
    let invalid = |reason| CommandOutcome::Invalid { reason };
    assert_eq!(results[0][0], written(2));
    assert!(matches!(results[0][1], CommandOutcome::Invalid { reason: InvalidCommand::Truncated { .. } }));
    assert_eq!(results[1], [invalid(InvalidCommand::EmptyKey), written(3)]);
    assert_eq!(results[2], [invalid(InvalidCommand::Truncated { needed: 1, available: 0 })]);
    assert_eq!(machine.revision(), 3);
}

#[test]
fn what_is_unknown_stops_the_state_before_anything_of_the_run_is_written() {
    let mut machine = open(MemoryEngine::new());
    apply(&mut machine, &[vec![put(b"a", b"1")]]);
    let before = (machine.applied(), machine.state_hash(), machine.reader().content_hash().unwrap());
    let good = entries_from(2, &[vec![put(b"b", b"2")]]).remove(0);
    let mut outcomes = Vec::new();
    let run = [good, entry(3, EntryKind::Command, &[9, 0, 0, 0, 1])];
    let error = machine.apply(&run, &mut outcomes).unwrap_err();
    let feature = UnknownFeature::Version { found: 9, known: 2 };
    assert_eq!(error, StateError::UnknownFeature { index: LogIndex(3), feature });
    assert!(outcomes.is_empty());
    assert_eq!((machine.applied(), machine.state_hash(), machine.reader().content_hash().unwrap()), before);
    assert_eq!(machine.apply(&run[..1], &mut outcomes), Err(StateError::FailedBefore));

    let nobody = Membership::default().encode();
    let cases: [(&[u8], MembershipError); 3] = [
        (b"", MembershipError::Length),
        (b"x", MembershipError::Version(b'x')),
        (&nobody, MembershipError::Contradiction),
    ];
    for (payload, cause) in cases {
        let mut machine = open(MemoryEngine::new());
        let error = machine.apply(&[entry(1, EntryKind::Membership, payload)], &mut outcomes).unwrap_err();
        assert_eq!(error, StateError::MembershipChange { index: LogIndex(1), cause });
        assert_eq!(machine.applied().index, LogIndex::ZERO);
    }
}

#[test]
fn a_range_at_its_limits_is_deleted_and_one_over_them_is_left_alone() {
    let limits = [RangeLimits { keys_max: 3, ..NO_LIMITS }, RangeLimits { bytes_max: 3 * 11, ..NO_LIMITS }];
    for limits in limits {
        let (mut machine, mut twin) = (open(MemoryEngine::new()), open(MemoryEngine::new()));
        let four: Vec<_> = [b"a", b"b", b"c", b"d"].map(|key| put(key, b"0123456789")).into();
        apply(&mut machine, std::slice::from_ref(&four));
        apply(&mut twin, &[four, vec![delete(b"never there")]]);
        let RangeLimits { keys_max, bytes_max } = limits;

        let outcomes = apply(&mut machine, &[vec![delete_range(b"", None, limits)]]);
        assert_eq!(outcomes[0].results, [CommandOutcome::LimitExceeded { keys_max, bytes_max }]);
        assert_eq!(machine.revision(), 5);
        assert_eq!(machine.reader().content_hash().unwrap(), twin.reader().content_hash().unwrap());

        let outcomes = apply(&mut machine, &[vec![delete_range(b"", Some(b"d"), limits)]]);
        let deleted = |count, revision| CommandOutcome::Deleted { count, revision, previous: Vec::new() };
        assert_eq!(outcomes[0].results, [deleted(3, 6)]);
    }
}

/// What a command of the same run has written or deleted counts like what is stored.
#[test]
fn limits_count_what_the_run_itself_has_changed() {
    let limits = RangeLimits { keys_max: 1, bytes_max: 2 };
    let too_large = CommandOutcome::LimitExceeded { keys_max: 1, bytes_max: 2 };
    let mut machine = open(MemoryEngine::new());
    apply(&mut machine, &[vec![put(b"a", b"1"), put(b"b", b"22")]]);
    let range = || delete_range(b"a", None, limits);
    let outcomes = apply(&mut machine, &[vec![range(), delete(b"b"), put(b"c", b""), range(), delete(b"c"), range()]]);
    let deleted = |revision| CommandOutcome::Deleted { count: 1, revision, previous: Vec::new() };
    let put_c = CommandOutcome::Put { revision: 5, previous: None };
    assert_eq!(outcomes[0].results, [too_large.clone(), deleted(4), put_c, too_large, deleted(6), deleted(7)]);
}

#[test]
fn a_single_key_is_deleted_however_large_it_is() {
    let mut machine = open(MemoryEngine::new());
    apply(&mut machine, &[vec![put(b"k", &[7; 4096])]]);
    let none = RangeLimits { keys_max: 0, bytes_max: 0 };
    let outcomes = apply(&mut machine, &[vec![delete_range(b"k", Some(b"k\0"), none)]]);
    assert_eq!(outcomes[0].results, [CommandOutcome::Deleted { count: 1, revision: 3, previous: Vec::new() }]);
}

#[test]
fn revisions_start_like_etcd() {
    let mut machine = open(MemoryEngine::new());
    assert_eq!(machine.revision(), 1);
    let outcomes = apply(&mut machine, &[vec![], vec![put(b"k", b"v")]]);
    assert!(outcomes[0].results.is_empty());
    assert_eq!(outcomes[1].results, [CommandOutcome::Put { revision: 2, previous: None }]);
    assert_eq!((outcomes[0].index, outcomes[1].index), (LogIndex(1), LogIndex(2)));
}

#[test]
#[should_panic(expected = "entry 3 (term 1) does not follow on entry 1 (term 1)")]
fn a_gap_in_the_log_is_never_applied() {
    let mut machine = open(MemoryEngine::new());
    let mut log = entries(&[vec![], vec![], vec![]]);
    log.remove(1);
    let _ = machine.apply(&log, &mut Vec::new());
}

#[test]
#[should_panic(expected = "does not follow on")]
fn an_entry_is_never_applied_twice() {
    let mut machine = open(MemoryEngine::new());
    let log = entries(&[vec![put(b"k", b"v")]]);
    machine.apply(&log, &mut Vec::new()).unwrap();
    let _ = machine.apply(&log, &mut Vec::new());
}
