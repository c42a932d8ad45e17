//! Transactions: all of it at one revision, or nothing; what etcd's users rely on, case by case. The model of `state_model.rs` has them at random.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raftkv_storage::command::{
    Command, Compare, CompareTarget, KeyRange, LeaseBinding, LeaseLimits, Operation, Put, RangeLimits, RangeRead,
    Relation, SortBy, Transaction,
};
use raftkv_storage::state::{
    CommandOutcome, KeyValue, MemoryEngine, OperationOutcome, RangeOutcome, RunBounds, StateMachine, TransactionOutcome,
};
use state_support::{NO_LIMITS, apply_at, one_at, only, open, plain};

type Machine = StateMachine<MemoryEngine>;

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::Put(Put::new(key, value))
}

fn delete<'a>(range: KeyRange<'a>) -> Operation<'a> {
    Operation::DeleteRange { range, previous: false }
}

fn read<'a>(range: KeyRange<'a>) -> Operation<'a> {
    Operation::Range(RangeRead::all_of(range))
}

fn all_of<'a>(success: Vec<Operation<'a>>) -> Transaction<'a> {
    Transaction { success, ..Transaction::default() }
}

fn compare<'a>(range: KeyRange<'a>, target: CompareTarget<'a>, relation: Relation) -> Compare<'a> {
    Compare { range, target, relation }
}

fn commit(machine: &mut Machine, transaction: Transaction<'_>) -> CommandOutcome {
    one_at(machine, 0, Command::Transaction { transaction, limits: NO_LIMITS })
}

/// What a transaction did; it must have come to its end, at this revision.
fn done(outcome: CommandOutcome, at: u64) -> TransactionOutcome {
    let CommandOutcome::Transaction { revision, outcome } = outcome else {
        panic!("the transaction was refused: {outcome:?}")
    };
    assert_eq!(revision, at);
    outcome
}

fn operations(outcome: CommandOutcome, at: u64) -> Vec<OperationOutcome> {
    done(outcome, at).operations
}

fn range_of(operation: &OperationOutcome) -> &RangeOutcome {
    let OperationOutcome::Range(range) = operation else { panic!("a range was to be read: {operation:?}") };
    range
}

fn succeeds(machine: &mut Machine, compares: Vec<Compare<'_>>) -> bool {
    let revision = machine.revision();
    done(commit(machine, Transaction { compares, ..Transaction::default() }), revision).succeeded
}

fn keys(outcome: &RangeOutcome) -> Vec<&[u8]> {
    outcome.pairs.iter().map(|pair| &pair.key[..]).collect()
}

/// `a`, `b`, `c` with values 3, 1, 2, written at revisions 2, 3, 4.
fn three() -> Machine {
    let mut machine = open(MemoryEngine::new());
    for (key, value) in [(b"a", b"3"), (b"b", b"1"), (b"c", b"2")] {
        one_at(&mut machine, 0, Command::Put(Put::new(key, value)));
    }
    machine
}

#[test]
fn all_changes_have_one_revision_and_are_numbered_in_the_order_in_which_they_were_made() {
    use raftkv_storage::state::{Cursor as _, Engine as _, Snapshot as _, Table};
    let mut machine = three();
    let outcome = commit(
        &mut machine,
        all_of(vec![put(b"z", b"1"), delete(KeyRange { start: b"a", end: Some(b"c") }), put(b"c", b"9")]),
    );
    assert_eq!(operations(outcome, 5).len(), 3);
    assert_eq!(machine.revision(), 5);
    let reader = machine.reader();
    assert_eq!(reader.get(b"z", None).unwrap().unwrap().mod_revision, 5);
    assert_eq!(reader.get(b"c", None).unwrap().unwrap().version, 2);
    assert_eq!(reader.get(b"a", Some(4)).unwrap().unwrap().value, &b"3"[..]);
    assert_eq!(reader.get(b"a", Some(5)).unwrap(), None);
    let snapshot = reader.engine().snapshot();
    let mut cursor = snapshot.cursor(Table::Changes, &5u64.to_be_bytes(), None);
    cursor.seek_first();
    let mut changes = Vec::new();
    while let Some((row, change)) = cursor.item() {
        changes.push((row[11], change.to_vec()));
        cursor.next();
    }
    let expected = [(0, &b"\x01z"[..]), (1, b"\x02a"), (2, b"\x02b"), (3, b"\x01c")];
    assert_eq!(changes, expected.map(|(number, change)| (number, change.to_vec())));
}

#[test]
fn a_transaction_that_changes_nothing_takes_no_revision() {
    let mut machine = three();
    let nothing = KeyRange { start: b"x", end: None };
    assert_eq!(operations(commit(&mut machine, all_of(vec![delete(nothing), read(KeyRange::ALL)])), 4).len(), 2);
    assert_eq!(operations(commit(&mut machine, Transaction::default()), 4), []);
    assert_eq!(machine.revision(), 4);
}

/// Of a key that is put with the value that it has, only the value may still be in the engine.
#[test]
fn a_value_that_is_not_in_memory_is_read_with_what_the_run_has_made_of_its_key() {
    for held_bytes_max in [0, 1 << 20] {
        let mut machine = three();
        machine.bound_runs(RunBounds { held_bytes_max, ..RunBounds::default() });
        let keep = || Operation::Put(Put { value: None, previous: true, ..Put::new(b"a", b"") });
        let first = all_of(vec![keep(), read(KeyRange::ALL), read(only(b"a\0"))]);
        let second = Transaction {
            compares: vec![compare(
                KeyRange { start: b"a", end: Some(b"b") },
                CompareTarget::Version(2),
                Relation::Equal,
            )],
            success: vec![keep(), delete(only(b"b\0"))],
            failure: Vec::new(),
        };
        let limits = NO_LIMITS;
        let both = [first, second].map(|transaction| plain(Command::Transaction { transaction, limits }));
        let [first, second] = apply_at(&mut machine, 0, &both).try_into().unwrap();
        let first = operations(first, 5);
        for read in &first[1..] {
            let kv = &range_of(read).pairs[0];
            assert_eq!((&kv.value[..], kv.version, kv.mod_revision), (&b"3"[..], 2, 5));
        }
        let second = operations(second, 6);
        let OperationOutcome::Put { previous: Some(previous) } = &second[0] else { panic!("{second:?}") };
        assert_eq!((&previous.value[..], previous.version), (&b"3"[..], 2));
        let versions = [4, 5, 6].map(|revision| {
            let kv = machine.reader().get(b"a", Some(revision)).unwrap().unwrap();
            assert_eq!(kv.value, "3");
            kv.version
        });
        assert_eq!(versions, [1, 2, 3]);
    }
}

#[test]
fn operations_see_what_those_before_them_did() {
    let mut machine = three();
    let all = read(KeyRange::ALL);
    let outcome = commit(&mut machine, all_of(vec![put(b"d", b"4"), all.clone(), delete(only(b"a\0")), all]));
    let done = operations(outcome, 5);
    let [_, OperationOutcome::Range(first), _, OperationOutcome::Range(second)] = &done[..] else {
        panic!("two ranges were read: {done:?}")
    };
    assert_eq!(keys(first), [b"a", b"b", b"c", b"d"]);
    assert_eq!((first.pairs[3].mod_revision, first.pairs[3].version), (5, 1));
    assert_eq!(keys(second), [b"b", b"c", b"d"]);
}

/// As in etcd: which way a transaction goes is decided before any of it is done.
#[test]
fn compares_of_inner_transactions_look_at_the_state_before_the_whole() {
    let mut machine = three();
    let exists = |key_and_zero| compare(only(key_and_zero), CompareTarget::Version(0), Relation::Greater);
    let inner = Transaction {
        compares: vec![exists(b"new\0")],
        success: vec![put(b"seen", b"")],
        failure: vec![put(b"unseen", b"")],
    };
    let outcome = commit(&mut machine, all_of(vec![put(b"new", b""), Operation::Transaction(inner)]));
    let done = operations(outcome, 5);
    let inner = TransactionOutcome { succeeded: false, operations: vec![OperationOutcome::Put { previous: None }] };
    assert_eq!(done[1], OperationOutcome::Transaction(inner));
    assert!(machine.reader().get(b"unseen", None).unwrap().is_some());
}

#[test]
fn a_compare_holds_for_all_keys_of_its_range_or_for_the_missing_one() {
    let mut machine = three();
    let (all, none) = (KeyRange::ALL, KeyRange { start: b"x", end: None });
    use CompareTarget::{CreateRevision, Lease, ModRevision, Value, Version};
    for (range, target, relation, expected) in [
        (all, Version(1), Relation::Equal, true),
        (all, ModRevision(1), Relation::Greater, true),
        (all, ModRevision(3), Relation::Greater, false),
        (all, CreateRevision(5), Relation::Less, true),
        (all, Value(b"2"), Relation::NotEqual, false),
        (all, Value(b"0"), Relation::Greater, true),
        (all, Lease(0), Relation::Equal, true),
        (none, Version(0), Relation::Equal, true),
        (none, ModRevision(0), Relation::Equal, true),
        (none, CreateRevision(0), Relation::NotEqual, false),
        (none, Lease(1), Relation::Less, true),
        (none, Value(b""), Relation::Equal, false),
        (none, Value(b"x"), Relation::NotEqual, false),
        (only(b"x\0"), Value(b"x"), Relation::NotEqual, false),
        (only(b"a\0"), Value(b"3"), Relation::Equal, true),
        (KeyRange { start: b"b", end: Some(b"a") }, Version(0), Relation::Equal, true),
    ] {
        let found = succeeds(&mut machine, vec![compare(range, target, relation)]);
        assert_eq!(found, expected, "{range:?} {target:?} {relation:?}");
    }
    let [holds, not] = [1, 2].map(|version| compare(all, Version(version), Relation::Equal));
    assert!(succeeds(&mut machine, vec![holds, holds]));
    assert!(!succeeds(&mut machine, vec![holds, not]));
}

#[test]
fn count_is_of_the_whole_range_and_the_limit_applies_after_filters_and_sorting() {
    let mut machine = three();
    let mut range = |change: &dyn Fn(&mut RangeRead<'static>)| {
        let mut read = RangeRead::all_of(KeyRange::ALL);
        change(&mut read);
        let done = operations(commit(&mut machine, all_of(vec![Operation::Range(read)])), 4);
        let outcome = range_of(&done[0]);
        let keys: Vec<u8> = outcome.pairs.iter().map(|pair| pair.key[0]).collect();
        (String::from_utf8(keys).unwrap(), outcome.count, outcome.more)
    };
    let found = |keys: &str, more| (keys.to_owned(), 3, more);
    assert_eq!(range(&|_| {}), found("abc", false));
    assert_eq!(range(&|read| read.limit = Some(3)), found("abc", false));
    assert_eq!(range(&|read| read.limit = Some(2)), found("ab", true));
    assert_eq!(range(&|read| read.limit = Some(0)), found("", true));
    assert_eq!(range(&|read| (read.limit, read.descending) = (Some(2), true)), found("cb", true));
    assert_eq!(range(&|read| read.sort_by = SortBy::Value), found("bca", false));
    assert_eq!(range(&|read| (read.sort_by, read.limit) = (SortBy::Value, Some(1))), found("b", true));
    assert_eq!(range(&|read| (read.sort_by, read.descending) = (SortBy::ModRevision, true)), found("cba", false));
    assert_eq!(range(&|read| (read.sort_by, read.descending) = (SortBy::Version, true)), found("abc", false));
    assert_eq!(range(&|read| read.mod_revision_min = Some(3)), found("bc", false));
    assert_eq!(range(&|read| (read.create_revision_max, read.limit) = (Some(3), Some(1))), found("a", true));
    assert_eq!(range(&|read| (read.mod_revision_min, read.limit) = (Some(4), Some(1))), found("c", false));
    assert_eq!(range(&|read| (read.count_only, read.limit) = (true, Some(1))), found("", false));
}

#[test]
fn keys_alone_are_sorted_by_value_and_have_none() {
    let mut machine = three();
    let read = RangeRead { keys_only: true, sort_by: SortBy::Value, ..RangeRead::all_of(KeyRange::ALL) };
    let done = operations(commit(&mut machine, all_of(vec![Operation::Range(read)])), 4);
    let outcome = range_of(&done[0]);
    assert_eq!(keys(outcome), [b"b", b"c", b"a"]);
    assert!(outcome.pairs.iter().all(|pair| pair.value.is_empty()));
}

/// What the run itself has committed is history too, and what the transaction does is not.
#[test]
fn a_read_at_a_revision_sees_committed_history_alone() {
    let mut machine = three();
    let at = |revision| Operation::Range(RangeRead { revision: Some(revision), ..RangeRead::all_of(KeyRange::ALL) });
    let transaction = all_of(vec![put(b"b", b"in it"), at(3), at(4), at(5), at(6)]);
    let results = apply_at(
        &mut machine,
        0,
        &[
            plain(Command::Put(Put::new(b"b", b"5"))),
            plain(Command::DeleteRange { range: only(b"a\0"), limits: NO_LIMITS, previous: false }),
            plain(Command::Transaction { transaction, limits: NO_LIMITS }),
        ],
    );
    let done = operations(results[2].clone(), 7);
    let values: Vec<Vec<[&[u8]; 2]>> = done[1..]
        .iter()
        .map(|operation| range_of(operation).pairs.iter().map(|pair| [&pair.key[..], &pair.value[..]]).collect())
        .collect();
    let [a, b, c, b_5]: [[&[u8]; 2]; 4] = [[b"a", b"3"], [b"b", b"1"], [b"c", b"2"], [b"b", b"5"]];
    assert_eq!(values, [vec![a, b], vec![a, b, c], vec![a, b_5, c], vec![b_5, c]]);
}

#[test]
fn a_refusal_at_the_last_operation_leaves_no_trace() {
    let refusals: Vec<(Operation<'_>, CommandOutcome)> = vec![
        (
            Operation::Put(Put { lease: LeaseBinding::Lease(99), ..Put::new(b"x", b"") }),
            CommandOutcome::LeaseUnknown { id: 99 },
        ),
        (
            Operation::Put(Put { lease: LeaseBinding::Lease(1), ..Put::new(b"y", b"") }),
            CommandOutcome::LeaseFull { id: 1, keys_max: 1 },
        ),
        (
            Operation::Put(Put { value: None, ..Put::new(b"x", b"") }),
            CommandOutcome::KeyUnknown { key: Bytes::from_static(b"x") },
        ),
        (
            Operation::Put(Put { lease: LeaseBinding::Keep, ..Put::new(b"x", b"") }),
            CommandOutcome::KeyUnknown { key: Bytes::from_static(b"x") },
        ),
        (
            Operation::Range(RangeRead { revision: Some(5), ..RangeRead::all_of(KeyRange::ALL) }),
            CommandOutcome::RevisionFuture { requested: 5, current: 4 },
        ),
        (
            Operation::Range(RangeRead { revision: Some(2), ..RangeRead::all_of(KeyRange::ALL) }),
            CommandOutcome::RevisionCompacted { requested: 2, compacted: 3 },
        ),
    ];
    for (last, expected) in refusals {
        let prepare = || {
            let mut machine = three();
            let limits = LeaseLimits { leases_max: 9, keys_max: 1 };
            one_at(&mut machine, 0, Command::GrantLease { id: 1, ttl_ms: 1_000, limits });
            one_at(&mut machine, 0, Command::Compact { revision: 3 });
            machine
        };
        let (mut machine, mut twin) = (prepare(), prepare());
        let leased = Operation::Put(Put { lease: LeaseBinding::Lease(1), ..Put::new(b"l", b"") });
        let lived = Operation::Put(Put { lease: LeaseBinding::TimeToLive { ttl_ms: 5 }, ..Put::new(b"t", b"") });
        let done = vec![put(b"a", b"9"), delete(only(b"b\0")), leased, lived];
        let inner = Transaction { success: vec![last], ..Transaction::default() };
        let whole = all_of([done, vec![Operation::Transaction(inner)]].concat());
        assert_eq!(commit(&mut machine, whole), expected);
        // A transaction that nothing was done in.
        assert_eq!(
            commit(&mut twin, Transaction::default()),
            CommandOutcome::Transaction {
                revision: 4,
                outcome: TransactionOutcome { succeeded: true, operations: Vec::new() },
            }
        );
        let content = |machine: &Machine| machine.reader().content_hash().unwrap();
        // The hash is chained over positions and rows, and there were none.
        assert_eq!((machine.state_hash(), content(&machine)), (twin.state_hash(), content(&twin)), "{expected:?}");
        assert_eq!(machine.next_expiry_ms(), twin.next_expiry_ms());
        // The run goes on from what there was.
        for machine in [&mut machine, &mut twin] {
            one_at(machine, 1, Command::Put(Put::new(b"a", b"on")));
        }
        assert_eq!((machine.state_hash(), content(&machine)), (twin.state_hash(), content(&twin)), "{expected:?}");
    }
}

#[test]
fn limits_count_what_is_compared_read_and_deleted_together() {
    let some = KeyRange { start: b"a", end: Some(b"c") };
    let transaction = || Transaction {
        compares: vec![compare(some, CompareTarget::Version(0), Relation::Greater)],
        success: vec![read(some), delete(some), put(b"new", b"not counted")],
        failure: Vec::new(),
    };
    let limited = |limits| {
        let mut machine = three();
        let outcome = one_at(&mut machine, 0, Command::Transaction { transaction: transaction(), limits });
        (outcome, machine.revision())
    };
    // Two keys of two bytes, three times; what is read is kept.
    let (outcome, revision) = limited(RangeLimits { keys_max: 6, bytes_max: 4 });
    assert_eq!((operations(outcome, 5).len(), revision), (3, 5));
    for limits in [RangeLimits { keys_max: 5, ..NO_LIMITS }, RangeLimits { bytes_max: 3, ..NO_LIMITS }] {
        let RangeLimits { keys_max, bytes_max } = limits;
        assert_eq!(limited(limits), (CommandOutcome::LimitExceeded { keys_max, bytes_max }, 4));
    }
}

#[test]
fn single_keys_and_returned_values_count_too() {
    let value = [7; 100];
    let mut machine = open(MemoryEngine::new());
    one_at(&mut machine, 0, Command::Put(Put::new(b"k", &value)));
    let limits = RangeLimits { keys_max: 1, bytes_max: 100 };
    let exceeded = CommandOutcome::LimitExceeded { keys_max: 1, bytes_max: 100 };
    for operation in [
        read(only(b"k\0")),
        Operation::DeleteRange { range: only(b"k\0"), previous: true },
        Operation::Put(Put { previous: true, ..Put::new(b"k", b"") }),
        Operation::Put(Put { value: None, ..Put::new(b"k", b"") }),
    ] {
        let transaction = all_of(vec![operation]);
        assert_eq!(one_at(&mut machine, 0, Command::Transaction { transaction, limits }), exceeded);
    }
    assert_eq!(machine.revision(), 2);
    // What is neither returned nor put again is not kept.
    let transaction = Transaction {
        compares: vec![compare(only(b"k\0"), CompareTarget::Value(&value), Relation::Equal)],
        success: vec![Operation::Put(Put::new(b"k", b""))],
        failure: vec![read(only(b"k\0"))],
    };
    let done = one_at(&mut machine, 0, Command::Transaction { transaction, limits });
    assert_eq!(operations(done, 3).len(), 1);
}

/// What a limit in key order leaves out, or a count alone, costs keys and no bytes.
#[test]
fn what_is_only_counted_takes_no_bytes() {
    let mut machine = three();
    let limits = RangeLimits { keys_max: 3, bytes_max: 2 };
    for (read, count) in [
        (RangeRead { limit: Some(1), ..RangeRead::all_of(KeyRange::ALL) }, 1),
        (RangeRead { count_only: true, ..RangeRead::all_of(KeyRange::ALL) }, 0),
    ] {
        let transaction = all_of(vec![Operation::Range(read)]);
        let done = operations(one_at(&mut machine, 0, Command::Transaction { transaction, limits }), 4);
        let outcome = range_of(&done[0]);
        assert_eq!((outcome.pairs.len(), outcome.count), (count, 3));
    }
}

#[test]
fn a_limit_bounds_what_is_looked_at_unless_all_is_to_be_counted() {
    let mut machine = three();
    let limits = RangeLimits { keys_max: 2, bytes_max: 100 };
    let mut done = |read| {
        let transaction = all_of(vec![Operation::Range(read), Operation::Put(Put::new(b"z", b""))]);
        one_at(&mut machine, 0, Command::Transaction { transaction, limits })
    };
    let first = RangeRead { limit: Some(1), ..RangeRead::all_of(KeyRange::ALL) };
    assert!(matches!(done(first), CommandOutcome::LimitExceeded { .. }));
    for (read, is_taken) in [
        (RangeRead { count: false, ..first }, true),
        (RangeRead { count: false, descending: true, ..first }, false),
        (RangeRead { count: false, sort_by: SortBy::Value, ..first }, false),
    ] {
        let done = done(read);
        if !is_taken {
            assert!(matches!(done, CommandOutcome::LimitExceeded { .. }), "{read:?}: {done:?}");
            continue;
        }
        let CommandOutcome::Transaction { outcome, .. } = done else { panic!("{read:?}: {done:?}") };
        let outcome = range_of(&outcome.operations[0]);
        assert_eq!((outcome.pairs.len(), outcome.count, outcome.more), (1, 1, true));
    }
}

#[test]
fn puts_in_it_return_keep_and_count_like_puts_alone() {
    let mut machine = three();
    let kept = Operation::Put(Put { value: None, previous: true, ..Put::new(b"a", b"") });
    let done = operations(commit(&mut machine, all_of(vec![kept])), 5);
    let held = KeyValue {
        key: Bytes::from_static(b"a"),
        value: Bytes::from_static(b"3"),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 0,
    };
    assert_eq!(done, [OperationOutcome::Put { previous: Some(held.clone()) }]);
    let written = KeyValue { mod_revision: 5, version: 2, ..held.clone() };
    assert_eq!(machine.reader().get(b"a", None).unwrap(), Some(written));
    assert_eq!(machine.reader().get(b"a", Some(4)).unwrap(), Some(held));
}
