//! Transactions that cannot write, over a state in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use super::*;
use raft::{Entry, EntryKind, LogIndex, Membership, NodeId, Term};
use storage::command::{BatchEncoder, Command, Put};
use storage::state::{Bootstrap, MemoryEngine, StateMachine};
use transport::proto::client::ErrorCode;

const LIMITS: RangeLimits = RangeLimits { keys_max: 100, bytes_max: 10_000 };

/// A state in which each of these was put, one revision after the other, from 2 on.
fn state(puts: &[(&str, &str)]) -> StateMachine<MemoryEngine> {
    let membership = Membership::new([NodeId(1)]);
    let bootstrap = Bootstrap { cluster: "test".to_owned(), membership };
    let mut machine = StateMachine::open(MemoryEngine::default(), &bootstrap).unwrap();
    let mut encoder = BatchEncoder::new();
    for (key, value) in puts {
        encoder.append(&Command::Put(Put::new(key.as_bytes(), value.as_bytes())));
    }
    let entry = Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Command, payload: encoder.take() };
    machine.apply(&[entry], &mut Vec::new()).unwrap();
    machine
}

/// Three keys; `a` was written twice.
fn fruit() -> StateMachine<MemoryEngine> {
    state(&[("a", "pear"), ("b", "apple"), ("c", "plum"), ("a", "fig")])
}

fn range_outcome(machine: &StateMachine<MemoryEngine>, read: RangeRead<'_>) -> RangeOutcome {
    let transaction = Transaction { success: vec![Operation::Range(read)], ..Transaction::default() };
    let (_, outcome) = evaluate(&machine.reader(), &transaction, LIMITS).unwrap();
    let [OperationOutcome::Range(range)] = &outcome.operations[..] else { panic!("one range was read: {outcome:?}") };
    range.clone()
}

fn keys(outcome: &RangeOutcome) -> String {
    outcome.pairs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

fn succeeds(machine: &StateMachine<MemoryEngine>, compares: &[Compare<'_>]) -> bool {
    let transaction = Transaction { compares: compares.to_vec(), ..Transaction::default() };
    evaluate(&machine.reader(), &transaction, LIMITS).unwrap().1.succeeded
}

fn single(key: &'static str) -> KeyRange<'static> {
    let (start, end) = match key {
        "a" => ("a", "a\0"),
        "missing" => ("missing", "missing\0"),
        other => panic!("no test compares {other}"),
    };
    KeyRange { start: start.as_bytes(), end: Some(end.as_bytes()) }
}

#[test]
fn all_is_read_at_one_revision_and_that_is_told() {
    let (revision, outcome) = evaluate(&fruit().reader(), &Transaction::default(), LIMITS).unwrap();
    assert_eq!((revision, outcome.succeeded), (5, true));
}

#[test]
fn a_compare_looks_at_what_it_names() {
    let machine = fruit();
    let cases = [
        (CompareTarget::Version(2), Relation::Equal, true),
        (CompareTarget::Version(2), Relation::NotEqual, false),
        (CompareTarget::CreateRevision(2), Relation::Equal, true),
        (CompareTarget::ModRevision(4), Relation::Greater, true),
        (CompareTarget::ModRevision(5), Relation::Less, false),
        (CompareTarget::Lease(0), Relation::Equal, true),
        (CompareTarget::Value(b"fig"), Relation::Equal, true),
        (CompareTarget::Value(b"fog"), Relation::Less, true),
    ];
    for (target, relation, expected) in cases {
        let compare = Compare { range: single("a"), target, relation };
        assert_eq!(succeeds(&machine, &[compare]), expected, "{target:?} {relation:?}");
    }
}

#[test]
fn a_missing_key_has_zeros_and_no_value() {
    let machine = fruit();
    let compare = |target, relation| Compare { range: single("missing"), target, relation };
    assert!(succeeds(&machine, &[compare(CompareTarget::Version(0), Relation::Equal)]));
    assert!(succeeds(&machine, &[compare(CompareTarget::ModRevision(1), Relation::Less)]));
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater] {
        assert!(!succeeds(&machine, &[compare(CompareTarget::Value(b""), relation)]), "{relation:?}");
    }
}

#[test]
fn a_compare_over_a_range_holds_if_it_does_for_every_key() {
    let machine = fruit();
    let compare = |version| Compare {
        range: KeyRange::ALL,
        target: CompareTarget::Version(version),
        relation: Relation::Greater,
    };
    assert!(succeeds(&machine, &[compare(0)]));
    assert!(!succeeds(&machine, &[compare(1)]));
    assert!(!succeeds(&machine, &[compare(0), compare(1)]), "all compares must hold");
}

#[test]
fn what_is_carried_out_depends_on_the_compares_also_in_transactions_within() {
    let machine = fruit();
    let count = |start: &'static [u8]| {
        let range = KeyRange { start, end: None };
        Operation::Range(RangeRead { count_only: true, ..RangeRead::all_of(range) })
    };
    let compares = vec![Compare { range: single("a"), target: CompareTarget::Version(9), relation: Relation::Equal }];
    let within = Transaction { compares, success: vec![count(b"")], failure: vec![count(b"c"), count(b"b")] };
    let transaction = Transaction { success: vec![Operation::Transaction(within)], ..Transaction::default() };
    let (_, outcome) = evaluate(&machine.reader(), &transaction, LIMITS).unwrap();
    let [OperationOutcome::Transaction(within)] = &outcome.operations[..] else { panic!("{outcome:?}") };
    assert!(outcome.succeeded && !within.succeeded);
    let counted = |count| OperationOutcome::Range(RangeOutcome { pairs: Vec::new(), count, more: false });
    assert_eq!(within.operations, [counted(1), counted(2)]);
}

#[test]
fn ranges_are_sorted_and_cut_as_asked() {
    let machine = fruit();
    let all = RangeRead::all_of(KeyRange::ALL);
    let cases = [
        (SortBy::Key, false, None, "abc", false),
        (SortBy::Key, true, None, "cba", false),
        (SortBy::Key, true, Some(2), "cb", true),
        (SortBy::Key, false, Some(3), "abc", false),
        (SortBy::Version, false, None, "bca", false),
        (SortBy::Version, true, None, "abc", false),
        (SortBy::CreateRevision, true, Some(1), "c", true),
        (SortBy::ModRevision, false, None, "bca", false),
        (SortBy::ModRevision, true, Some(2), "ac", true),
        (SortBy::Value, false, None, "bac", false),
        (SortBy::Value, true, Some(1), "c", true),
    ];
    for (sort_by, descending, limit, expected, more) in cases {
        let outcome = range_outcome(&machine, RangeRead { sort_by, descending, limit, ..all });
        let what = format!("{sort_by:?}, descending: {descending}, limit: {limit:?}");
        assert_eq!((keys(&outcome).as_str(), outcome.more, outcome.count), (expected, more, 3), "{what}");
    }
}

#[test]
fn what_a_limit_leaves_out_is_counted_on_request() {
    let machine = fruit();
    let first = RangeRead { limit: Some(1), count: false, ..RangeRead::all_of(KeyRange::ALL) };
    for sort_by in [SortBy::Key, SortBy::Value] {
        let outcome = range_outcome(&machine, RangeRead { sort_by, ..first });
        assert_eq!((outcome.count, outcome.more), (1, true), "{sort_by:?}");
        assert_eq!(range_outcome(&machine, RangeRead { sort_by, count: true, ..first }).count, 3, "{sort_by:?}");
    }
}

#[test]
fn filters_leave_keys_out_and_the_count_does_not_mind() {
    let machine = fruit();
    let all = RangeRead::all_of(KeyRange::ALL);
    let cases = [
        (RangeRead { mod_revision_min: Some(4), ..all }, "ac"),
        (RangeRead { mod_revision_max: Some(4), ..all }, "bc"),
        (RangeRead { create_revision_min: Some(3), ..all }, "bc"),
        (RangeRead { create_revision_max: Some(3), sort_by: SortBy::Value, ..all }, "ba"),
    ];
    for (read, expected) in cases {
        let outcome = range_outcome(&machine, read);
        assert_eq!((keys(&outcome).as_str(), outcome.count), (expected, 3), "{read:?}");
    }
}

#[test]
fn a_range_may_be_read_at_a_revision_of_its_own() {
    let machine = fruit();
    let read = RangeRead { revision: Some(3), ..RangeRead::all_of(KeyRange::ALL) };
    let outcome = range_outcome(&machine, read);
    let values: Vec<_> = outcome.pairs.iter().map(|kv| kv.value.clone()).collect();
    assert_eq!((values, outcome.count), (vec![Bytes::from("pear"), Bytes::from("apple")], 2));
    let future = RangeRead { revision: Some(6), ..read };
    let transaction = Transaction { success: vec![Operation::Range(future)], ..Transaction::default() };
    let error = evaluate(&machine.reader(), &transaction, LIMITS).unwrap_err();
    assert!(matches!(error, QuestionError::Read(ReadError::Future { requested: 6, current: 5 })), "{error:?}");
}

#[test]
fn values_are_left_out_where_only_keys_are_asked_for_also_when_they_are_sorted_by() {
    let machine = fruit();
    for sort_by in [SortBy::Key, SortBy::Version, SortBy::Value] {
        let read = RangeRead { keys_only: true, sort_by, ..RangeRead::all_of(KeyRange::ALL) };
        let outcome = range_outcome(&machine, read);
        assert!(outcome.pairs.iter().all(|kv| kv.value.is_empty()), "{sort_by:?}");
        assert_eq!(outcome.pairs.len(), 3);
    }
}

#[test]
fn what_is_kept_is_bounded_altogether() {
    let machine = fruit();
    let all = Operation::Range(RangeRead::all_of(KeyRange::ALL));
    let two = Transaction { success: vec![all.clone(), all], ..Transaction::default() };
    let evaluated = |limits| evaluate(&machine.reader(), &two, limits);
    assert!(evaluated(RangeLimits { keys_max: 6, bytes_max: 30 }).is_ok());
    for limits in [RangeLimits { keys_max: 5, bytes_max: 30 }, RangeLimits { keys_max: 6, bytes_max: 29 }] {
        let Err(QuestionError::Refused(error)) = evaluated(limits) else { panic!("{limits:?} were kept") };
        assert_eq!((error.code(), error.limit), (ErrorCode::TooLarge, limits.bytes_max));
    }
}

/// Of a sorted range with a limit only the best are kept, however many there are.
#[test]
fn what_a_limit_leaves_out_is_not_counted_against_the_bounds() {
    let puts: Vec<(String, String)> =
        (0..50).map(|number| (format!("{number:02}"), format!("{}", 99 - number))).collect();
    let puts: Vec<(&str, &str)> = puts.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let machine = state(&puts);
    for sort_by in [SortBy::Key, SortBy::Value] {
        let read = RangeRead { sort_by, limit: Some(3), ..RangeRead::all_of(KeyRange::ALL) };
        let transaction = Transaction { success: vec![Operation::Range(read)], ..Transaction::default() };
        let limits = RangeLimits { keys_max: 3, bytes_max: 12 };
        let (_, outcome) = evaluate(&machine.reader(), &transaction, limits).unwrap();
        let [OperationOutcome::Range(range)] = &outcome.operations[..] else { panic!("{outcome:?}") };
        let expected = if sort_by == SortBy::Key { "000102" } else { "494847" };
        assert_eq!((keys(range).as_str(), range.count, range.more), (expected, 50, true));
    }
}
