//! Ranges with options, read from a state that is larger than the parts in which it is read.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use raftkv_storage::command::{KeyRange, RangeRead, SortBy};
use raftkv_storage::state::{
    KeyValue, MemoryEngine, ReadError, RevisionFilter, ScanOptions, SelectionTooLarge, StateReader,
};
use state_support::{apply_in_runs, entries, open, put};

const KEYS: u32 = 40_000;

/// Key number n is written at revision n + 2, with a value that runs against the keys.
fn state() -> StateReader<MemoryEngine> {
    let mut machine = open(MemoryEngine::new());
    let puts: Vec<_> = (0..KEYS).map(|number| put(&number.to_be_bytes(), &(KEYS - number).to_be_bytes())).collect();
    apply_in_runs(&mut machine, &entries(&[puts]), &[1]);
    machine.reader()
}

fn number(pair: &KeyValue) -> u32 {
    u32::from_be_bytes(pair.key[..].try_into().unwrap())
}

#[test]
fn a_filtered_scan_finds_the_same_however_much_it_leaves_out() {
    let reader = state();
    // Fewer pass than are looked at for one part, and they lie in its middle, at its end and behind.
    for (least, most, reverse, limit) in [
        (100, 103, false, None),
        (100, 103, true, None),
        (16_380, 16_390, false, Some(11)),
        (16_380, 16_390, true, Some(10)),
        (39_990, 39_995, false, Some(3)),
        (0, 3, true, Some(4)),
        (20_000, 21_500, false, Some(512)),
        (20_000, 21_500, true, None),
    ] {
        let filter = RevisionFilter {
            mod_revision_min: Some(u64::from(least) + 2),
            create_revision_max: Some(u64::from(most) + 2),
            ..RevisionFilter::default()
        };
        let mut scan = reader.scan(ScanOptions { reverse, limit, filter, ..ScanOptions::default() }).unwrap();
        let found: Vec<u32> = scan.by_ref().map(|pair| number(&pair.unwrap())).collect();
        let mut expected: Vec<u32> = (least..=most).collect();
        if reverse {
            expected.reverse();
        }
        let all = expected.len();
        expected.truncate(limit.map_or(all, |limit| usize::try_from(limit).unwrap()));
        assert_eq!(found, expected);
        assert_eq!(scan.limited(), expected.len() < all, "{least}..={most} {limit:?}");
    }
}

#[test]
fn sorted_by_value_the_first_of_many_are_found_in_little_memory() {
    let reader = state();
    let read = RangeRead { sort_by: SortBy::Value, limit: Some(3), ..RangeRead::all_of(KeyRange::ALL) };
    let (revision, outcome) = reader.range(&read, true, 4096).unwrap();
    assert_eq!(outcome.pairs.iter().map(number).collect::<Vec<_>>(), [KEYS - 1, KEYS - 2, KEYS - 3]);
    assert_eq!((revision, outcome.count, outcome.more), (u64::from(KEYS) + 1, u64::from(KEYS), true));
}

#[test]
fn sorted_by_value_without_a_limit_all_of_it_must_fit() {
    let reader = state();
    let read = RangeRead { sort_by: SortBy::Value, ..RangeRead::all_of(KeyRange::ALL) };
    let refusal = ReadError::TooLarge(SelectionTooLarge { bytes_max: 1 << 20 });
    assert_eq!(reader.range(&read, false, 1 << 20), Err(refusal));
    assert_eq!(reader.range(&read, false, 1 << 30).unwrap().1.pairs.len(), KEYS as usize);
}

#[test]
fn a_limit_in_key_order_reads_no_further_unless_all_is_to_be_counted() {
    let reader = state();
    let read = RangeRead { limit: Some(2), ..RangeRead::all_of(KeyRange::ALL) };
    let (_, outcome) = reader.range(&read, false, 4096).unwrap();
    assert_eq!((outcome.pairs.len(), outcome.count, outcome.more), (2, 3, true));
    let (_, outcome) = reader.range(&read, true, 4096).unwrap();
    assert_eq!((outcome.pairs.len(), outcome.count, outcome.more), (2, u64::from(KEYS), true));
}

#[test]
fn a_range_is_read_at_the_revision_asked_for() {
    let reader = state();
    let read = RangeRead { revision: Some(4), descending: true, ..RangeRead::all_of(KeyRange::ALL) };
    let (revision, outcome) = reader.range(&read, true, 4096).unwrap();
    assert_eq!((revision, outcome.pairs.iter().map(number).collect::<Vec<_>>()), (4, vec![2, 1, 0]));
    let later = RangeRead { revision: Some(u64::from(KEYS) + 9), ..read };
    assert!(matches!(reader.range(&later, true, 4096), Err(ReadError::Future { .. })));
}
