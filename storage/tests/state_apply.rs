//! What applying does with entries that are not simply good.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raft::{Entry, EntryKind, LogIndex, Membership, MembershipError, NodeId, Term};
use raftkv_storage::command::{
    Command, Condition, EncodedCommand, InvalidCommand, KeyRange, LeaseBinding, LeaseLimits, Operation, Put,
    RangeLimits, Transaction, UnknownFeature,
};
use raftkv_storage::state::{CommandOutcome, MemoryEngine, RunBounds, ScanOptions, StateError};
use state_support::observed::ObservedEngine;
use state_support::{
    NO_LIMITS, Owned, apply, apply_at, batch_entry, delete, delete_range, entries, entries_from, one_at, open, plain,
    put,
};

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
    for (limits, previous) in limits.into_iter().zip([false, true]) {
        let (mut machine, mut twin) = (open(MemoryEngine::new()), open(MemoryEngine::new()));
        let four: Vec<_> = [b"a", b"b", b"c", b"d"].map(|key| put(key, b"0123456789")).into();
        apply(&mut machine, std::slice::from_ref(&four));
        apply(&mut twin, &[four, vec![delete(b"never there")]]);
        let RangeLimits { keys_max, bytes_max } = limits;

        let ranged = |end| Owned::Delete { start: Vec::new(), end, limits, previous };
        let outcomes = apply(&mut machine, &[vec![ranged(None)]]);
        assert_eq!(outcomes[0].results, [CommandOutcome::LimitExceeded { keys_max, bytes_max }]);
        assert_eq!(machine.revision(), 5);
        assert_eq!(machine.reader().content_hash().unwrap(), twin.reader().content_hash().unwrap());

        let outcomes = apply(&mut machine, &[vec![ranged(Some(b"d".to_vec()))]]);
        let [CommandOutcome::Deleted { count: 3, revision: 6, previous: returned }] = &outcomes[0].results[..] else {
            panic!("{outcomes:?}");
        };
        assert_eq!(returned.len(), if previous { 3 } else { 0 });
    }
}

#[test]
fn a_long_key_counts_as_several() {
    let mut machine = open(MemoryEngine::new());
    apply(&mut machine, &[vec![put(&[b'a'; 255], b""), put(&[b'b'; 256], b""), put(&[b'c'; 600], b"")]]);
    let delete = |keys_max| {
        let limits = RangeLimits { keys_max, ..NO_LIMITS };
        Command::DeleteRange { range: KeyRange { start: b"a", end: None }, limits, previous: false }
    };
    let refused = CommandOutcome::LimitExceeded { keys_max: 5, bytes_max: NO_LIMITS.bytes_max };
    assert_eq!(one_at(&mut machine, 0, delete(5)), refused);
    let CommandOutcome::Deleted { count: 3, .. } = one_at(&mut machine, 0, delete(6)) else {
        panic!("six are allowed")
    };
}

/// What a command of the same run has written or deleted counts like what is stored.
#[test]
fn limits_count_what_the_run_itself_has_changed() {
    let limits = RangeLimits { keys_max: 1, bytes_max: 0 };
    let too_large = CommandOutcome::LimitExceeded { keys_max: 1, bytes_max: 0 };
    let mut machine = open(MemoryEngine::new());
    apply(&mut machine, &[vec![put(b"a", b"1"), put(b"b", b"22")]]);
    let range = || delete_range(b"a", None, limits);
    let outcomes = apply(&mut machine, &[vec![range(), delete(b"b"), put(b"c", b""), range(), delete(b"c"), range()]]);
    let deleted = |revision| CommandOutcome::Deleted { count: 1, revision, previous: Vec::new() };
    let put_c = CommandOutcome::Put { revision: 5, previous: None };
    assert_eq!(outcomes[0].results, [too_large.clone(), deleted(4), put_c, too_large, deleted(6), deleted(7)]);
}

/// Forty values of 10,000 bytes, overwritten or deleted in every way that there is: what they held is written in pieces, and is all there.
#[test]
fn what_a_run_overwrites_is_never_in_one_batch() {
    const VALUE: [u8; 10_000] = [7; 10_000];
    const BOUNDS: RunBounds = RunBounds { held_bytes_max: 25_000, history_bytes_max: 35_000, kept_bytes_max: 0 };
    /// What the last batch holds beside history: the new rows of forty keys.
    const OTHER_ROWS: usize = 10_000;
    let keys: Vec<Vec<u8>> = (10..50u32).map(|number| number.to_string().into_bytes()).collect();
    let puts = || keys.iter().map(|key| Put::new(key, b"short"));
    let transaction = Transaction { success: puts().map(Operation::Put).collect(), ..Transaction::default() };
    let ways = [
        puts().map(Command::Put).collect(),
        vec![Command::Transaction { transaction, limits: NO_LIMITS }],
        vec![Command::DeleteRange { range: KeyRange::ALL, limits: NO_LIMITS, previous: false }],
        vec![Command::RevokeLease { id: 7 }],
        vec![Command::Expire { leases_max: 1, sessions_max: 0, keys_max: 100 }],
    ];
    for way in ways {
        let engine = ObservedEngine::default();
        let mut machine = open(engine.clone());
        machine.bound_runs(BOUNDS);
        let limits = LeaseLimits { leases_max: 1, keys_max: 40 };
        one_at(&mut machine, 0, Command::GrantLease { id: 7, ttl_ms: 1, limits });
        for key in &keys {
            one_at(&mut machine, 0, Command::Put(Put { lease: LeaseBinding::Lease(7), ..Put::new(key, &VALUE) }));
        }
        let revision = machine.revision();
        engine.take_written();
        let way: Vec<EncodedCommand> = way.into_iter().map(plain).collect();
        apply_at(&mut machine, 1, &way);
        let written = engine.take_written();
        let largest = written.iter().max().unwrap();
        assert!(written.len() >= 13 && *largest <= BOUNDS.history_bytes_max + OTHER_ROWS, "{way:?}: {written:?}");
        for key in &keys {
            assert!(machine.reader().get(key, None).unwrap().is_none_or(|now| now.value == "short"));
            assert_eq!(machine.reader().get(key, Some(revision)).unwrap().unwrap().value, VALUE[..]);
        }
    }
}

/// A key that is changed twice in a run: of its history only the beginning may be there while the run is under way, or is lost.
#[test]
fn what_is_written_ahead_hides_no_key_from_who_reads_the_past() {
    for (history_bytes_max, lost_after) in [(100, 1), (100, 2), (0, 1), (0, 2), (0, 3), (1_000, 1)] {
        let engine = ObservedEngine::default();
        let mut machine = open(engine.clone());
        apply(&mut machine, &[vec![put(b"a", b"1"), put(b"k", b"old"), put(b"z", b"1")]]);
        // The newest revision is read from what there is now alone.
        let revision = machine.revision() - 1;
        machine.bound_runs(RunBounds { held_bytes_max: 0, history_bytes_max, ..RunBounds::default() });
        engine.fail_after(Some(lost_after));
        let run =
            entries_from(2, &[vec![put(b"k", &[7; 500]), put(b"k", &[8; 500])], vec![delete(b"k"), put(b"k", b"new")]]);
        // Whether or not all of it is written: who reads at the revision before finds what there was.
        let _written_or_lost = machine.apply(&run, &mut Vec::new());
        let reader = open(engine.clone()).reader();
        let options = ScanOptions { revision: Some(revision), ..ScanOptions::default() };
        let pairs: Vec<_> = reader.scan(options).unwrap().map(Result::unwrap).collect();
        let found: Vec<_> = pairs.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect();
        let wanted: [(&[u8], &[u8]); 2] = [(b"a", b"1"), (b"k", b"old")];
        assert_eq!(found, wanted, "{history_bytes_max} bytes at a time, lost after {lost_after} writes");
    }
}

/// How many entries go into each run: what is returned or put again counts, and what is learned of ranges; not what is overwritten.
#[test]
fn a_run_ends_with_the_entry_that_keeps_too_much() {
    let value = [7; 1_000];
    let put = Put::new(b"k", &value);
    let returned = || vec![Command::Put(Put { previous: true, ..put })];
    let refused = || vec![Command::Put(Put { condition: Some(Condition::Absent), previous: true, ..put })];
    let touched = || vec![Command::Put(Put { value: None, ..put })];
    let plain = || vec![Command::Put(put)];
    let range = KeyRange { start: b"r", end: None };
    let deleted = || vec![Command::DeleteRange { range, limits: NO_LIMITS, previous: false }];
    let membership = Vec::new;
    let cases = [
        (vec![plain(), plain(), plain(), plain()], vec![4]),
        (vec![returned(), returned(), returned(), plain(), returned()], vec![3, 2]),
        (vec![returned(), [refused(), touched()].concat(), plain(), plain()], vec![2, 2]),
        (vec![refused(), touched(), membership(), touched(), membership()], vec![4, 1]),
        (vec![deleted(), plain()], vec![1, 1]),
    ];
    for (entries, expected) in cases {
        let mut machine = open(MemoryEngine::new());
        apply(&mut machine, &[vec![self::put(b"k", &value)], (0..20).map(|at| self::put(&[b'r', at], b"")).collect()]);
        machine.bound_runs(RunBounds { kept_bytes_max: 2_500, ..RunBounds::default() });
        let before = machine.membership().clone();
        let other = Membership::new([NodeId(7)]);
        let entries: Vec<Entry> = (3..)
            .zip(entries)
            .map(|(index, commands)| match &commands[..] {
                [] => entry(index, EntryKind::Membership, &other.encode()),
                _ => batch_entry(index, None, &commands.into_iter().map(state_support::plain).collect::<Vec<_>>()),
            })
            .collect();
        let (mut rest, mut runs) = (&entries[..], Vec::new());
        while !rest.is_empty() {
            let mut outcomes = Vec::new();
            machine.apply_run(rest, &mut outcomes).unwrap();
            let (run, later) = rest.split_at(outcomes.len());
            assert_eq!(machine.applied(), run.last().unwrap().position());
            let has_changed = later.len() < entries.len()
                && entries[..entries.len() - later.len()].iter().any(|entry| entry.kind == EntryKind::Membership);
            assert_eq!(machine.membership(), if has_changed { &other } else { &before });
            runs.push(run.len());
            rest = later;
        }
        assert_eq!(runs, expected);
    }
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
