//! Random logs, with commands of every kind over few keys, so that they meet one another.

use super::{NO_LIMITS, batch_entry};
use proptest::prelude::*;
use raft::Entry;
use raftkv_storage::command::{
    Command, Compare, CompareTarget, Condition, EncodedCommand, KeyRange, LeaseBinding, LeaseLimits, Operation, Put,
    RangeLimits, RangeRead, Relation, SessionCall, SortBy, Transaction,
};

pub(crate) type OwnedRange = (Vec<u8>, Option<Vec<u8>>);

pub(crate) fn range((start, end): &OwnedRange) -> KeyRange<'_> {
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
    (sort_by, any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), numbers).prop_map(
        |(sort_by, descending, keys_only, count, count_only, numbers)| {
            let (revision, limit, mod_min, mod_max, create_min, create_max) = numbers;
            RangeRead {
                revision,
                limit,
                sort_by,
                descending,
                keys_only,
                count_only,
                count,
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
pub(crate) struct Case {
    /// The time of each batch, if it carries one, and its commands.
    pub(crate) batches: Vec<(Option<u64>, Vec<EncodedCommand>)>,
    pub(crate) runs: Vec<usize>,
    pub(crate) other_runs: Vec<usize>,
    pub(crate) scans: Vec<ReadCase>,
}

impl Case {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        (1..).zip(&self.batches).map(|(index, (time_ms, commands))| batch_entry(index, *time_ms, commands)).collect()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ReadCase {
    pub(crate) bounds: OwnedRange,
    pub(crate) reverse: bool,
    pub(crate) limit: Option<u64>,
    pub(crate) keys_only: bool,
    /// Of all revisions that can be read, as a share of 1.
    pub(crate) revision: Option<f64>,
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
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
