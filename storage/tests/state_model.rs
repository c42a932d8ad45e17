//! The state machine against a model that is too simple to be wrong, with random commands of every kind: however runs are cut, on both engines, with
//! restarts and crashes in between.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use raft::Entry;
use raftkv_storage::command::{
    BatchDecoder, Command, Compare, CompareTarget, Condition, EncodedCommand, KeyRange, LeaseBinding, LeaseLimits,
    Operation, Put, RangeLimits, RangeRead, Relation, SessionCall, SortBy, Transaction,
};
use raftkv_storage::state::{
    CommandOutcome, Cursor, Engine, KeyValue, MemoryEngine, ReadError, RocksEngine, ScanOptions, Snapshot,
    StateMachine, StateReader, Table,
};
use state_support::model::Model;
use state_support::{NO_LIMITS, apply_in_runs, batch_entry, entries, open, rocks, small_options};
use std::collections::BTreeMap;

type OwnedRange = (Vec<u8>, Option<Vec<u8>>);

fn range((start, end): &OwnedRange) -> KeyRange<'_> {
    KeyRange { start, end: end.as_deref() }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xff]), 1..3)
}

fn bounds() -> impl Strategy<Value = OwnedRange> {
    let single = keys().prop_map(|key| (key.clone(), Some([&key[..], &[0]].concat())));
    prop_oneof![(prop_oneof![Just(Vec::new()), keys()], prop::option::of(keys())), single]
}

/// Often less than a range holds here.
fn limits() -> impl Strategy<Value = RangeLimits> {
    prop_oneof![
        4 => Just(NO_LIMITS),
        1 => (0u32..6).prop_map(|keys_max| RangeLimits { keys_max, ..NO_LIMITS }),
        1 => (0u64..12).prop_map(|bytes_max| RangeLimits { bytes_max, ..NO_LIMITS }),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![b"".to_vec(), b"x".to_vec(), b"\0\xff".to_vec(), vec![b'l'; 5_000]])
}

fn bindings() -> impl Strategy<Value = LeaseBinding> {
    prop_oneof![
        4 => Just(LeaseBinding::None),
        3 => (1u64..6).prop_map(LeaseBinding::Lease),
        1 => (1u64..4_000).prop_map(|ttl_ms| LeaseBinding::TimeToLive { ttl_ms }),
        1 => Just(LeaseBinding::Keep),
    ]
}

#[derive(Debug, Clone)]
enum OwnedCondition {
    Absent,
    ModRevision(u64),
    Value(Vec<u8>),
}

impl OwnedCondition {
    fn borrow(&self) -> Condition<'_> {
        match self {
            OwnedCondition::Absent => Condition::Absent,
            OwnedCondition::ModRevision(revision) => Condition::ModRevision(*revision),
            OwnedCondition::Value(value) => Condition::Value(value),
        }
    }
}

fn conditions() -> impl Strategy<Value = Option<OwnedCondition>> {
    prop_oneof![
        5 => Just(None),
        1 => Just(Some(OwnedCondition::Absent)),
        1 => (1u64..30).prop_map(|revision| Some(OwnedCondition::ModRevision(revision))),
        1 => values().prop_map(|value| Some(OwnedCondition::Value(value))),
    ]
}

#[derive(Debug, Clone)]
struct OwnedPut {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    lease: LeaseBinding,
    previous: bool,
}

impl OwnedPut {
    fn borrow<'a>(&'a self, condition: Option<Condition<'a>>) -> Put<'a> {
        let OwnedPut { key, value, lease, previous } = self;
        Put { key, value: value.as_deref(), lease: *lease, condition, previous: *previous }
    }
}

fn puts() -> impl Strategy<Value = OwnedPut> {
    let parts = (keys(), prop::option::weighted(0.9, values()), bindings(), any::<bool>());
    parts.prop_map(|(key, value, lease, previous)| OwnedPut { key, value, lease, previous })
}

#[derive(Debug, Clone)]
struct OwnedCompare {
    range: OwnedRange,
    relation: Relation,
    /// Which target; what it is compared with is `number`, or `value`.
    target: u8,
    number: u64,
    value: Vec<u8>,
}

fn compares() -> impl Strategy<Value = OwnedCompare> {
    let relation = prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    (bounds(), relation, 0u8..5, 0u64..6, values()).prop_map(|(range, relation, target, number, value)| OwnedCompare {
        range,
        relation,
        target,
        number,
        value,
    })
}

impl OwnedCompare {
    fn borrow(&self) -> Compare<'_> {
        let target = match self.target {
            0 => CompareTarget::Version(self.number),
            1 => CompareTarget::CreateRevision(self.number),
            2 => CompareTarget::ModRevision(self.number),
            3 => CompareTarget::Lease(self.number),
            _ => CompareTarget::Value(&self.value),
        };
        Compare { range: range(&self.range), target, relation: self.relation }
    }
}

#[derive(Debug, Clone)]
enum OwnedOperation {
    Put(OwnedPut),
    Delete(OwnedRange, bool),
    Read(OwnedRange, RangeRead<'static>),
    Transaction(OwnedTransaction),
}

#[derive(Debug, Clone)]
struct OwnedTransaction {
    compares: Vec<OwnedCompare>,
    success: Vec<OwnedOperation>,
    failure: Vec<OwnedOperation>,
}

impl OwnedOperation {
    fn borrow(&self) -> Operation<'_> {
        match self {
            OwnedOperation::Put(put) => Operation::Put(put.borrow(None)),
            OwnedOperation::Delete(keys, previous) => {
                Operation::DeleteRange { range: range(keys), previous: *previous }
            }
            OwnedOperation::Read(keys, read) => Operation::Range(RangeRead { range: range(keys), ..*read }),
            OwnedOperation::Transaction(inner) => Operation::Transaction(inner.borrow()),
        }
    }
}

impl OwnedTransaction {
    fn borrow(&self) -> Transaction<'_> {
        Transaction {
            compares: self.compares.iter().map(OwnedCompare::borrow).collect(),
            success: self.success.iter().map(OwnedOperation::borrow).collect(),
            failure: self.failure.iter().map(OwnedOperation::borrow).collect(),
        }
    }
}

fn reads() -> impl Strategy<Value = RangeRead<'static>> {
    let sort_by = prop::sample::select(vec![
        SortBy::Key,
        SortBy::Version,
        SortBy::CreateRevision,
        SortBy::ModRevision,
        SortBy::Value,
    ]);
    let revision = |weight: f64| prop::option::weighted(weight, prop_oneof![0u64..8, 0u64..30]);
    let numbers =
        (revision(0.4), prop::option::of(0u64..4), revision(0.2), revision(0.2), revision(0.2), revision(0.2));
    (sort_by, any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), numbers).prop_map(
        |(sort_by, descending, keys_only, count_only, numbers)| {
            let (revision, limit, mod_min, mod_max, create_min, create_max) = numbers;
            RangeRead {
                revision,
                limit,
                sort_by,
                descending,
                keys_only,
                count_only,
                mod_revision_min: mod_min,
                mod_revision_max: mod_max,
                create_revision_min: create_min,
                create_revision_max: create_max,
                ..RangeRead::all_of(KeyRange::ALL)
            }
        },
    )
}

fn transactions() -> impl Strategy<Value = OwnedTransaction> {
    let operation = prop_oneof![
        4 => puts().prop_map(OwnedOperation::Put),
        2 => (bounds(), any::<bool>()).prop_map(|(keys, previous)| OwnedOperation::Delete(keys, previous)),
        3 => (bounds(), reads()).prop_map(|(keys, read)| OwnedOperation::Read(keys, read)),
    ];
    let leaf = transaction_of(operation);
    leaf.prop_recursive(2, 12, 3, |inner| {
        transaction_of(prop_oneof![
            2 => inner.prop_map(OwnedOperation::Transaction),
            2 => puts().prop_map(OwnedOperation::Put),
            1 => (bounds(), reads()).prop_map(|(keys, read)| OwnedOperation::Read(keys, read)),
        ])
    })
}

fn transaction_of(
    operation: impl Strategy<Value = OwnedOperation> + Clone + 'static,
) -> impl Strategy<Value = OwnedTransaction> + Clone {
    let operations = prop::collection::vec(operation, 0..4);
    (prop::collection::vec(compares().boxed(), 0..3), operations.clone(), operations)
        .prop_map(|(compares, success, failure)| OwnedTransaction { compares, success, failure })
        .boxed()
}

/// Commands of single keys and ranges, and transactions; those against the rules are proposed by nobody.
fn data_commands() -> impl Strategy<Value = EncodedCommand> {
    let put = (puts(), conditions(), calls()).prop_map(|(put, condition, call)| {
        let condition = condition.as_ref().map(OwnedCondition::borrow);
        EncodedCommand::new(&Command::Put(put.borrow(condition)), call)
    });
    let delete = (bounds(), limits(), any::<bool>(), calls()).prop_map(|(keys, limits, previous, call)| {
        EncodedCommand::new(&Command::DeleteRange { range: range(&keys), limits, previous }, call)
    });
    let transaction = (transactions(), limits(), calls())
        .prop_filter("it makes sense", |(transaction, _, _)| transaction.borrow().check().is_ok())
        .prop_map(|(transaction, limits, call)| {
            EncodedCommand::new(&Command::Transaction { transaction: transaction.borrow(), limits }, call)
        });
    prop_oneof![6 => put, 3 => delete, 5 => transaction]
}

fn calls() -> impl Strategy<Value = Option<SessionCall>> {
    let call = (1u64..4, 1u64..8, prop_oneof![3 => Just(0u64), 1 => 0u64..8])
        .prop_map(|(session, sequence, oldest)| SessionCall { session, sequence, oldest });
    prop::option::weighted(0.3, call)
}

fn commands() -> impl Strategy<Value = EncodedCommand> {
    let lease_limits = (1u32..8, 0u32..4).prop_map(|(leases_max, keys_max)| LeaseLimits { leases_max, keys_max });
    let other = prop_oneof![
        4 => (0u64..5, 1u64..6_000, lease_limits)
            .prop_map(|(id, ttl_ms, limits)| Command::GrantLease { id, ttl_ms, limits }),
        1 => (1u64..6).prop_map(|id| Command::KeepLeaseAlive { id }),
        1 => (1u64..6).prop_map(|id| Command::RevokeLease { id }),
        2 => (0u32..4, 0u32..3, 0u32..4).prop_map(|(leases_max, sessions_max, keys_max)| Command::Expire {
            leases_max,
            sessions_max,
            keys_max
        }),
        2 => (0u64..14).prop_map(|revision| Command::Compact { revision }),
        6 => (prop_oneof![1u64..6_000, Just(1_000_000)], 1u32..4, 0u32..5)
            .prop_map(|(ttl_ms, sessions_max, answers_max)| Command::OpenSession { ttl_ms, sessions_max, answers_max }),
        1 => (1u64..4).prop_map(|id| Command::CloseSession { id }),
        1 => (2u32..5).prop_map(|to| Command::RaiseFormat { to }),
    ];
    let other = (other, calls()).prop_map(|(command, call)| EncodedCommand::new(&command, call));
    prop_oneof![5 => data_commands(), 2 => other]
}

#[derive(Debug, Clone)]
struct Case {
    /// The time of each batch, if it carries one, and its commands.
    batches: Vec<(Option<u64>, Vec<EncodedCommand>)>,
    runs: Vec<usize>,
    other_runs: Vec<usize>,
    scans: Vec<ReadCase>,
}

impl Case {
    fn entries(&self) -> Vec<Entry> {
        (1..).zip(&self.batches).map(|(index, (time_ms, commands))| batch_entry(index, *time_ms, commands)).collect()
    }
}

#[derive(Debug, Clone)]
struct ReadCase {
    bounds: OwnedRange,
    reverse: bool,
    limit: Option<u64>,
    keys_only: bool,
    /// Of all revisions that can be read, as a share of 1.
    revision: Option<f64>,
}

fn cases() -> impl Strategy<Value = Case> {
    let revision = prop::option::weighted(0.8, 0.0..=1.0);
    let read = (bounds(), any::<bool>(), prop::option::of(0u64..6), any::<bool>(), revision).prop_map(
        |(bounds, reverse, limit, keys_only, revision)| ReadCase { bounds, reverse, limit, keys_only, revision },
    );
    let runs = || prop::collection::vec(1usize..6, 1..4);
    // Times go back now and then, as with a leader whose clock is behind.
    let time = prop::option::weighted(0.9, 0u64..1_500);
    let batches = prop::collection::vec((time, prop::collection::vec(commands(), 0..6)), 1..35);
    (batches, runs(), runs(), prop::collection::vec(read, 20)).prop_map(|(batches, runs, other_runs, scans)| {
        let timed = |(number, (jitter, commands)): (u64, (Option<u64>, Vec<EncodedCommand>))| {
            (jitter.map(|jitter| number * 500 + jitter), commands)
        };
        Case { batches: (0..).zip(batches).map(timed).collect(), runs, other_runs, scans }
    })
}

/// What the model says about every command of a log.
fn expected(entries: &[Entry], model: &mut Model) -> Vec<Vec<CommandOutcome>> {
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
        let keys = model.lease_keys(lease.id);
        assert_eq!(reader.lease_keys(lease.id, None, usize::MAX).unwrap(), keys);
        if let Some(first) = keys.first() {
            assert_eq!(reader.lease_keys(lease.id, Some(first), 1).unwrap()[..], keys[1..keys.len().min(2)]);
        }
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
    assert_eq!(found, model.changes);
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
    fn memory_state_behaves_like_the_model_however_runs_are_cut(case in cases()) {
        let mut model = Model::new();
        let entries = case.entries();
        let expected = expected(&entries, &mut model);
        let mut machine = open(MemoryEngine::new());
        prop_assert_eq!(&outcomes(&mut machine, &entries, &case.runs), &expected);
        check_state(&machine, &model, &case.scans);

        let mut other = open(MemoryEngine::new());
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
        let expected = expected(&entries, &mut model);
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
        for outcome in expected(&case.entries(), &mut Model::new()).into_iter().flatten() {
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
