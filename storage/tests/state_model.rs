//! The state machine against a model that is too simple to be wrong, with random commands of every kind: however runs are cut, on both engines, with
//! restarts and crashes in between.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use raft::Entry;
use raftkv_storage::command::BatchDecoder;
use raftkv_storage::state::{
    CommandOutcome, Cursor, Engine, KeyValue, MemoryEngine, ReadError, RocksEngine, RunBounds, ScanOptions, Snapshot,
    StateMachine, StateReader, Table,
};
use state_support::generate::{ReadCase, cases, range};
use state_support::model::Model;
use state_support::observed::ObservedEngine;
use state_support::{apply_in_runs, entries, open, rocks, small_options};
use std::collections::BTreeMap;

/// Nothing that is loaded is held, and little history is written at a time, or each row of it by itself.
fn tight() -> impl Strategy<Value = RunBounds> {
    (prop::sample::select(vec![0usize, 60, 200, 500]), prop::sample::select(vec![0usize, 1 << 20])).prop_map(
        |(history_bytes_max, kept_bytes_max)| RunBounds { held_bytes_max: 0, history_bytes_max, kept_bytes_max },
    )
}

/// What the model says about every command of a log.
fn expected_of(entries: &[Entry], model: &mut Model) -> Vec<Vec<CommandOutcome>> {
    let of_entry = |entry: &Entry| {
        if entry.payload.is_empty() {
            return Vec::new();
        }
        let batch = BatchDecoder::new(&entry.payload);
        model.time_ms = model.time_ms.max(batch.time_ms().unwrap_or(0));
        batch.map(|item| model.apply(&item.unwrap())).collect()
    };
    entries.iter().map(of_entry).collect()
}

fn check_state<E: Engine>(machine: &StateMachine<E>, model: &Model, scans: &[ReadCase]) {
    let reader = machine.reader();
    assert_eq!((machine.format(), machine.time_ms(), reader.time_ms()), (model.format, model.time_ms, model.time_ms));
    assert_eq!((reader.revision(), reader.compacted_revision()), (model.revision, model.compacted));
    assert_eq!(machine.next_expiry_ms(), model.next_expiry_ms());
    check_leases(&reader, model);
    check_changes(&reader, model);
    for revision in 0..=model.revision {
        for key in model.keys.keys() {
            let found = reader.get(key, Some(revision));
            if revision < model.compacted {
                let compacted = model.compacted;
                assert_eq!(found, Err(ReadError::Compacted { requested: revision, compacted }));
            } else {
                assert_eq!(found.unwrap(), model.at(key, revision), "{key:?} at {revision}");
            }
        }
    }
    for key in model.keys.keys() {
        assert_eq!(reader.get(key, None).unwrap(), model.at(key, model.revision), "{key:?}");
    }
    assert_eq!(reader.get(b"never", None).unwrap(), None);
    let (requested, current) = (model.revision + 1, model.revision);
    assert_eq!(reader.get(b"a", Some(requested)), Err(ReadError::Future { requested, current }));
    for scan in scans {
        check_scan(&reader, model, scan);
    }
}

fn check_leases<E: Engine>(reader: &StateReader<E>, model: &Model) {
    let leases = model.leases();
    assert_eq!(reader.leases(0, usize::MAX).unwrap(), leases);
    assert_eq!(reader.leases(0, 1).unwrap()[..], leases[..leases.len().min(1)]);
    for lease in &leases {
        assert_eq!(reader.lease(lease.id).unwrap(), Some(*lease));
        let shown = reader.lease_with_keys(lease.id, usize::MAX).unwrap().unwrap();
        assert_eq!(
            (shown.revision, shown.status, shown.keys),
            (model.revision, *lease, Some(model.lease_keys(lease.id)))
        );
    }
    assert_eq!(reader.lease(u64::MAX).unwrap(), None);
}

fn check_changes<E: Engine>(reader: &StateReader<E>, model: &Model) {
    let snapshot = reader.engine().snapshot();
    let mut cursor = snapshot.cursor(Table::Changes, b"", None);
    let mut found = Vec::new();
    cursor.seek_first();
    while let Some((key, value)) = cursor.item() {
        let revision = u64::from_be_bytes(key[..8].try_into().unwrap());
        let number = u32::from_be_bytes(key[8..].try_into().unwrap());
        found.push((revision, number, value[0], value[1..].to_vec()));
        cursor.next();
    }
    // What compaction has made dead may be gone already.
    let living = |changes: &[(u64, u32, u8, Vec<u8>)]| -> Vec<(u64, u32, u8, Vec<u8>)> {
        changes.iter().filter(|(revision, ..)| *revision >= model.compacted).cloned().collect()
    };
    assert_eq!(living(&found), living(&model.changes));
    assert!(found.iter().all(|change| model.changes.contains(change)), "{found:?} of {:?}", model.changes);
}

fn check_scan<E: Engine>(reader: &StateReader<E>, model: &Model, read: &ReadCase) {
    let oldest = model.compacted.max(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
    let revision = read.revision.map(|share| oldest + (share * (model.revision - oldest) as f64) as u64);
    let at = revision.unwrap_or(model.revision);
    let mut expected = model.range_at(range(&read.bounds), at);
    assert_eq!(reader.count(range(&read.bounds), revision).unwrap(), expected.len() as u64, "{read:?}");
    if read.reverse {
        expected.reverse();
    }
    let limited = read.limit.is_some_and(|limit| limit < expected.len() as u64);
    expected.truncate(read.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
    if read.keys_only {
        expected.iter_mut().for_each(|pair| pair.value = Bytes::new());
    }
    let (start, end) = read.bounds.clone();
    let options = ScanOptions {
        start: start.into(),
        end: end.map(Bytes::from),
        reverse: read.reverse,
        limit: read.limit,
        keys_only: read.keys_only,
        revision,
        ..ScanOptions::default()
    };
    let mut scan = reader.scan(options).unwrap();
    let found: Vec<KeyValue> = scan.by_ref().map(Result::unwrap).collect();
    assert_eq!(found, expected, "{read:?}");
    assert_eq!((scan.revision(), scan.limited()), (at, limited), "{read:?}");
}

fn outcomes<E: Engine>(machine: &mut StateMachine<E>, entries: &[Entry], runs: &[usize]) -> Vec<Vec<CommandOutcome>> {
    apply_in_runs(machine, entries, runs).into_iter().map(|applied| applied.results).collect()
}

fn hashes<E: Engine>(machine: &StateMachine<E>) -> ([u8; 16], [u8; 16]) {
    (machine.state_hash(), machine.reader().content_hash().unwrap())
}

proptest! {
    #![proptest_config(Config { cases: 400, rng_seed: RngSeed::Fixed(2), failure_persistence: None, ..Config::default() })]

    #[test]
    fn memory_state_behaves_like_the_model_however_runs_are_cut(case in cases(), bounds in tight()) {
        let mut model = Model::new();
        let entries = case.entries();
        let expected = expected_of(&entries, &mut model);
        let mut machine = open(MemoryEngine::new());
        prop_assert_eq!(&outcomes(&mut machine, &entries, &case.runs), &expected);
        check_state(&machine, &model, &case.scans);

        let mut other = open(MemoryEngine::new());
        other.bound_runs(bounds);
        prop_assert_eq!(&outcomes(&mut other, &entries, &case.other_runs), &expected);
        prop_assert_eq!(hashes(&other), hashes(&machine));
        prop_assert_eq!(other.applied(), machine.applied());
    }

    /// A crash takes back what was not flushed, leases and sessions included; what is applied again then comes to the same.
    #[test]
    fn a_state_that_crashes_over_and_over_comes_to_the_same(case in cases(), steps in prop::collection::vec(1usize..4, 1..6)) {
        let entries = case.entries();
        let mut twin = open(MemoryEngine::new());
        let expected = outcomes(&mut twin, &entries, &case.runs);
        let engine = MemoryEngine::new();
        let mut machine = open(engine.clone());
        for (round, step) in steps.iter().cycle().enumerate() {
            let applied = usize::try_from(machine.applied().index.0).unwrap();
            if applied == entries.len() {
                break;
            }
            // Some further than the flush, which covers at least one entry more in each round.
            let flushed = (applied + step).min(entries.len());
            let lost = (flushed + round % 3).min(entries.len());
            prop_assert_eq!(&outcomes(&mut machine, &entries[applied..flushed], &case.runs), &expected[applied..flushed]);
            machine.flush(true).unwrap();
            prop_assert_eq!(&outcomes(&mut machine, &entries[flushed..lost], &case.other_runs), &expected[flushed..lost]);
            drop(machine);
            engine.crash();
            machine = open(engine.clone());
        }
        prop_assert_eq!(hashes(&machine), hashes(&twin));
        prop_assert_eq!(machine.next_expiry_ms(), twin.next_expiry_ms());
    }

    /// What a run writes ahead says nothing that is not so, and stays when the rest of the run is lost.
    #[test]
    fn a_crash_in_the_middle_of_a_run_leaves_the_state_before_it(
        case in cases(),
        bounds in tight(),
        writes in prop::collection::vec(0usize..6, 1..8),
    ) {
        let entries = case.entries();
        let mut twin = open(MemoryEngine::new());
        let expected = outcomes(&mut twin, &entries, &case.runs);
        let engine = ObservedEngine::default();
        let mut machine = open(engine.clone());
        let mut writes = writes.into_iter();
        loop {
            machine.bound_runs(bounds);
            let applied = usize::try_from(machine.applied().index.0).unwrap();
            if applied == entries.len() {
                break;
            }
            let run = (applied + 1 + case.other_runs[applied % case.other_runs.len()]).min(entries.len());
            engine.fail_after(writes.next());
            let mut outcomes = Vec::new();
            if machine.apply(&entries[applied..run], &mut outcomes).is_ok() {
                let outcomes: Vec<_> = outcomes.into_iter().map(|applied| applied.results).collect();
                prop_assert_eq!(&outcomes[..], &expected[applied..run]);
                continue;
            }
            // Whatever was written has become durable.
            machine = open(engine.clone());
            let (mut model, applied) = (Model::new(), usize::try_from(machine.applied().index.0).unwrap());
            expected_of(&entries[..applied], &mut model);
            check_state(&machine, &model, &case.scans);
        }
        prop_assert_eq!(hashes(&machine), hashes(&twin));
    }
}

proptest! {
    #![proptest_config(Config { cases: 40, rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Config::default() })]

    #[test]
    fn rocksdb_state_behaves_like_the_model_and_like_memory(case in cases()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let mut machine = rocks(&path);
        let mut model = Model::new();
        let entries = case.entries();
        let expected = expected_of(&entries, &mut model);
        let mut twin = open(MemoryEngine::new());
        outcomes(&mut twin, &entries, &case.other_runs);
        // A third comes from files and a life before, a third from files, the rest from memtables.
        let (first, rest) = entries.split_at(entries.len() / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        let mut found = outcomes(&mut machine, first, &case.runs);
        machine.flush(true).unwrap();
        drop(machine);
        let mut machine = open(RocksEngine::open(&path, &small_options()).unwrap());
        found.extend(outcomes(&mut machine, second, &case.runs));
        machine.flush(true).unwrap();
        found.extend(outcomes(&mut machine, third, &case.runs));

        prop_assert_eq!(found, expected);
        check_state(&machine, &model, &case.scans);
        prop_assert_eq!(hashes(&twin), hashes(&machine));
    }
}

/// The cases above are worth something only if they meet everything that can become of a command.
#[test]
fn the_random_commands_meet_every_outcome() {
    const CASES: usize = 400;
    let config = Config { rng_seed: RngSeed::Fixed(2), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..CASES {
        let case = cases().new_tree(&mut runner).unwrap().current();
        for outcome in expected_of(&case.entries(), &mut Model::new()).into_iter().flatten() {
            let name = format!("{outcome:?}");
            let name = name.split([' ', '{']).next().unwrap();
            *met.entry(name.to_owned()).or_default() += 1;
        }
    }
    let all = "AnswerForgotten AnswersFull Compacted ConditionFailed Deleted Expired FormatRaised KeyUnknown LeaseExists \
               LeaseFull LeaseGranted LeaseKeptAlive LeaseRevoked LeaseUnknown LeasesFull LimitExceeded Put \
               RevisionCompacted RevisionFuture SessionClosed SessionOpened SessionUnknown SessionsFull Transaction";
    for name in all.split_whitespace() {
        assert!(met.get(name).is_some_and(|count| *count >= 20), "{name} is met too rarely: {met:?}");
    }
}

#[test]
fn different_logs_have_different_hashes() {
    let hash = |batches: &[Vec<state_support::Owned>]| {
        let mut machine = open(MemoryEngine::new());
        apply_in_runs(&mut machine, &entries(batches), &[1]);
        machine.state_hash()
    };
    let one = hash(&[vec![state_support::put(b"k", b"v")]]);
    assert_ne!(one, hash(&[vec![state_support::put(b"k", b"w")]]));
    assert_ne!(one, hash(&[vec![state_support::put(b"kv", b"")]]));
    assert_ne!(one, hash(&[vec![], vec![state_support::put(b"k", b"v")]]));
    assert_ne!(one, hash(&[vec![state_support::put(b"k", b"v")], vec![]]));
    assert_eq!(one, hash(&[vec![state_support::put(b"k", b"v")]]));
}
