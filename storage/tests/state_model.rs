//! The state machine against a model that is too simple to be wrong: every version of every key in a map.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use raftkv_storage::command::{KeyRange, RangeLimits};
use raftkv_storage::state::{
    CommandOutcome, Engine, KeyValue, MemoryEngine, ReadError, ScanOptions, StateMachine, StateReader,
};
use state_support::{NO_LIMITS, Owned, OwnedCondition, apply_in_runs, entries, open, rocks};
use std::collections::BTreeMap;

#[derive(Default)]
struct Model {
    /// Per key, what it held from which revision on.
    keys: BTreeMap<Vec<u8>, BTreeMap<u64, Option<KeyValue>>>,
    revision: u64,
}

impl Model {
    fn at(&self, key: &[u8], revision: u64) -> Option<KeyValue> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.clone()
    }

    fn range_at(&self, start: &[u8], end: Option<&[u8]>, revision: u64) -> Vec<KeyValue> {
        let inside = |key: &&Vec<u8>| key[..] >= *start && end.is_none_or(|end| key[..] < *end);
        self.keys.keys().filter(inside).filter_map(|key| self.at(key, revision)).collect()
    }

    fn set(&mut self, key: &[u8], value: Option<KeyValue>) {
        self.keys.entry(key.to_vec()).or_default().insert(self.revision, value);
    }

    fn apply(&mut self, command: &Owned) -> CommandOutcome {
        match command {
            Owned::Put { key, value, lease, condition, previous } => {
                let existing = self.at(key, self.revision);
                let holds = match condition {
                    None => true,
                    Some(OwnedCondition::Absent) => existing.is_none(),
                    Some(OwnedCondition::ModRevision(revision)) => {
                        existing.as_ref().map(|existing| existing.mod_revision) == Some(*revision)
                    }
                    Some(OwnedCondition::Value(value)) => {
                        existing.as_ref().map(|existing| &existing.value[..]) == Some(&value[..])
                    }
                };
                if !holds {
                    return CommandOutcome::ConditionFailed { existing };
                }
                self.revision += 1;
                let written = KeyValue {
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                    create_revision: existing.as_ref().map_or(self.revision, |existing| existing.create_revision),
                    mod_revision: self.revision,
                    version: existing.as_ref().map_or(1, |existing| existing.version + 1),
                    lease: *lease,
                };
                self.set(key, Some(written));
                CommandOutcome::Put { revision: self.revision, previous: existing.filter(|_| *previous) }
            }
            Owned::Delete { start, end, limits, previous } => {
                let deleted = self.range_at(start, end.as_deref(), self.revision);
                let bytes: usize = deleted.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
                let is_single = *end == Some([&start[..], &[0]].concat()) && !start.is_empty();
                let too_large = deleted.len() as u64 > u64::from(limits.keys_max) || bytes as u64 > limits.bytes_max;
                if too_large && !is_single {
                    let RangeLimits { keys_max, bytes_max } = *limits;
                    return CommandOutcome::LimitExceeded { keys_max, bytes_max };
                }
                if !deleted.is_empty() {
                    self.revision += 1;
                }
                for pair in &deleted {
                    self.set(&pair.key, None);
                }
                CommandOutcome::Deleted {
                    count: deleted.len() as u64,
                    revision: self.revision,
                    previous: if *previous { deleted } else { Vec::new() },
                }
            }
        }
    }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xff]), 1..3)
}

fn bounds() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
    (prop_oneof![Just(Vec::new()), keys()], prop::option::of(keys()))
}

/// Often less than a range holds here.
fn limits() -> impl Strategy<Value = RangeLimits> {
    prop_oneof![
        Just(NO_LIMITS),
        (0u32..4).prop_map(|keys_max| RangeLimits { keys_max, ..NO_LIMITS }),
        (0u64..8).prop_map(|bytes_max| RangeLimits { bytes_max, ..NO_LIMITS }),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![b"".to_vec(), b"x".to_vec(), b"\0\xff".to_vec()])
}

fn commands() -> impl Strategy<Value = Owned> {
    let condition = prop_oneof![
        5 => Just(None),
        1 => Just(Some(OwnedCondition::Absent)),
        1 => (1u64..30).prop_map(|revision| Some(OwnedCondition::ModRevision(revision))),
        1 => values().prop_map(|value| Some(OwnedCondition::Value(value))),
    ];
    let put = (keys(), values(), 0u64..3, condition, any::<bool>())
        .prop_map(|(key, value, lease, condition, previous)| Owned::Put { key, value, lease, condition, previous });
    let delete = (keys(), limits(), any::<bool>()).prop_map(|(key, limits, previous)| {
        let end = Some([&key[..], &[0]].concat());
        Owned::Delete { start: key, end, limits, previous }
    });
    let delete_range = (bounds(), limits(), any::<bool>()).prop_map(|((start, end), limits, previous)| Owned::Delete {
        start,
        end,
        limits,
        previous,
    });
    prop_oneof![8 => put, 3 => delete, 2 => delete_range]
}

#[derive(Debug, Clone)]
struct Case {
    batches: Vec<Vec<Owned>>,
    runs: Vec<usize>,
    other_runs: Vec<usize>,
    reads: Vec<Read>,
}

#[derive(Debug, Clone)]
struct Read {
    bounds: (Vec<u8>, Option<Vec<u8>>),
    reverse: bool,
    limit: Option<u64>,
    keys_only: bool,
    /// Of all revisions, as a share of 1.
    revision: Option<f64>,
}

fn cases() -> impl Strategy<Value = Case> {
    let revision = prop::option::weighted(0.8, 0.0..=1.0);
    let read = (bounds(), any::<bool>(), prop::option::of(0u64..6), any::<bool>(), revision)
        .prop_map(|(bounds, reverse, limit, keys_only, revision)| Read { bounds, reverse, limit, keys_only, revision });
    let runs = || prop::collection::vec(1usize..6, 1..4);
    let batches = prop::collection::vec(prop::collection::vec(commands(), 0..5), 1..25);
    (batches, runs(), runs(), prop::collection::vec(read, 20)).prop_map(|(batches, runs, other_runs, reads)| Case {
        batches,
        runs,
        other_runs,
        reads,
    })
}

fn check_reads<E: Engine>(reader: &StateReader<E>, model: &Model, reads: &[Read]) {
    assert_eq!(reader.revision(), model.revision);
    for revision in 1..=model.revision {
        for key in model.keys.keys() {
            assert_eq!(reader.get(key, Some(revision)).unwrap(), model.at(key, revision), "{key:?} at {revision}");
        }
    }
    for key in model.keys.keys() {
        assert_eq!(reader.get(key, None).unwrap(), model.at(key, model.revision), "{key:?}");
    }
    assert_eq!(reader.get(b"never", None).unwrap(), None);
    let (requested, current) = (model.revision + 1, model.revision);
    assert_eq!(reader.get(b"a", Some(requested)), Err(ReadError::Future { requested, current }));
    for read in reads {
        check_scan(reader, model, read);
    }
}

fn check_scan<E: Engine>(reader: &StateReader<E>, model: &Model, read: &Read) {
    let (start, end) = &read.bounds;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
    let revision = read.revision.map(|share| 1 + (share * (model.revision - 1) as f64) as u64);
    let at = revision.unwrap_or(model.revision);
    let mut expected = model.range_at(start, end.as_deref(), at);
    let range = KeyRange { start, end: end.as_deref() };
    assert_eq!(reader.count(range, revision).unwrap(), expected.len() as u64, "{read:?}");
    if read.reverse {
        expected.reverse();
    }
    let limited = read.limit.is_some_and(|limit| limit < expected.len() as u64);
    expected.truncate(read.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
    if read.keys_only {
        expected.iter_mut().for_each(|pair| pair.value = Bytes::new());
    }
    let options = ScanOptions {
        start: start.clone().into(),
        end: end.clone().map(Bytes::from),
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

fn check_outcomes<E: Engine>(machine: &mut StateMachine<E>, case: &Case, runs: &[usize]) -> Model {
    let mut model = Model { revision: 1, ..Model::default() };
    let expected: Vec<Vec<CommandOutcome>> =
        case.batches.iter().map(|batch| batch.iter().map(|command| model.apply(command)).collect()).collect();
    let outcomes = apply_in_runs(machine, &entries(&case.batches), runs);
    let found: Vec<Vec<CommandOutcome>> = outcomes.into_iter().map(|applied| applied.results).collect();
    assert_eq!(found, expected);
    model
}

proptest! {
    #![proptest_config(Config { cases: 300, rng_seed: RngSeed::Fixed(2), failure_persistence: None, ..Config::default() })]

    #[test]
    fn memory_state_behaves_like_the_model_however_runs_are_cut(case in cases()) {
        let mut machine = open(MemoryEngine::new());
        let model = check_outcomes(&mut machine, &case, &case.runs);
        check_reads(&machine.reader(), &model, &case.reads);

        let mut other = open(MemoryEngine::new());
        check_outcomes(&mut other, &case, &case.other_runs);
        prop_assert_eq!(other.state_hash(), machine.state_hash());
        prop_assert_eq!(other.applied(), machine.applied());
        prop_assert_eq!(other.reader().content_hash().unwrap(), machine.reader().content_hash().unwrap());
    }
}

proptest! {
    #![proptest_config(Config { cases: 30, rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Config::default() })]

    #[test]
    fn rocksdb_state_behaves_like_the_model_and_like_memory(case in cases()) {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = rocks(&directory.path().join("db"));
        // Half of it comes from files, half from memtables.
        let all = entries(&case.batches);
        let mut twin = open(MemoryEngine::new());
        let model = check_outcomes(&mut twin, &case, &case.other_runs);
        let (first, second) = all.split_at(all.len() / 2);
        apply_in_runs(&mut machine, first, &case.runs);
        machine.flush(true).unwrap();
        apply_in_runs(&mut machine, second, &case.runs);

        check_reads(&machine.reader(), &model, &case.reads);
        prop_assert_eq!(twin.state_hash(), machine.state_hash());
        prop_assert_eq!(twin.reader().content_hash().unwrap(), machine.reader().content_hash().unwrap());
    }
}

#[test]
fn different_logs_have_different_hashes() {
    let hash = |batches: &[Vec<Owned>]| {
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
