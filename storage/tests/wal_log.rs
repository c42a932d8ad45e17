//! The log on a real directory: writing, reading back, compaction, inspection.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "test code")]

mod wal_common;

use raft::{GroupId, HardState, LogIndex, LogRange, NodeId, Term};
use raftkv_storage::wal::{
    Inspection, LogConfig, LogError, LogStore, LogWrite, OpenError, RecordKind, SegmentedLog, Verdict,
};
use std::sync::atomic::{AtomicBool, Ordering};
use wal_common::{Model, entries_write, entry, position, run};

fn config() -> LogConfig {
    LogConfig { segment_bytes: 64 << 10, record_bytes_max: 4 << 10, ..LogConfig::default() }
}

fn range(first: u64, last: u64) -> LogRange {
    LogRange { first: LogIndex(first), last: LogIndex(last) }
}

#[test]
fn everything_written_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (mut log, recovered) = SegmentedLog::open(&path, config()).unwrap();
    assert_eq!(Model::of(&log, &recovered), Model::default());
    let hard_state = HardState { term: Term(4), vote: Some(NodeId(2)) };
    let mut model = Model::default();
    for round in 0..60u64 {
        let write = [
            LogWrite { hard_state: (round == 30).then_some(hard_state), entries: vec![] },
            run(3 + round / 10, round * 4 + 1, 4, 100 + usize::try_from(round).unwrap() * 40),
            run(3 + round / 10, round * 4 + 3, 2, 6000),
        ];
        log.write(&write).unwrap();
        model.write(&write);
    }
    drop(log);
    let (log, recovered) = SegmentedLog::open(&path, config()).unwrap();
    assert_eq!(Model::of(&log, &recovered), model);
    assert_eq!(recovered.hard_state, hard_state);
    assert_eq!(recovered.torn_tail, None);
}

#[test]
fn write_larger_than_a_segment_gets_a_segment_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    for (first, bytes) in [(1, 200_000), (2, 10), (3, 64 << 10), (4, 60 << 10), (5, 1 << 20)] {
        let write = [run(1, first, 1, bytes)];
        log.write(&write).unwrap();
        model.write(&write);
    }
    drop(log);
    let (log, recovered) = SegmentedLog::open(directory.path(), config()).unwrap();
    assert_eq!(Model::of(&log, &recovered), model);
}

#[test]
fn reads_keep_to_their_limits() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    log.write(&[run(1, 1, 20, 1000)]).unwrap();
    let reader = log.reader();
    let count = |range, bytes_max| reader.entries(range, bytes_max).unwrap().len();
    assert_eq!(count(range(3, 20), 0), 1, "at least one");
    assert_eq!(count(range(3, 20), 999), 1);
    assert_eq!(count(range(3, 20), 5000), 5);
    assert_eq!(count(range(3, 6), 1 << 20), 4);
    assert_eq!(count(range(18, 90), 1 << 20), 3, "no further than the log");
    assert_eq!(count(LogRange::EMPTY, 1 << 20), 0);
    assert!(matches!(reader.entries(range(21, 22), 1), Err(LogError::NotWritten { .. })));
    log.compact(position(1, 7)).unwrap();
    match reader.entries(range(7, 9), 1) {
        Err(LogError::Compacted { first: LogIndex(7), start: LogIndex(7) }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(reader.entries(range(8, 9), 1 << 20).unwrap()[0].index, LogIndex(8));
    log.write(&[run(2, 21, 1, 1)]).unwrap();
    assert_eq!(reader.entries(range(8, 99), 1 << 20).unwrap().len(), 14, "a refused read does not poison");
}

#[test]
fn reset_starts_anew_and_keeps_the_vote() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    let hard_state = HardState { term: Term(9), vote: None };
    log.write(&[LogWrite { hard_state: Some(hard_state), entries: run(8, 1, 50, 4000).entries }]).unwrap();
    log.reset(position(9, 1000)).unwrap();
    assert!(matches!(log.reader().entries(range(50, 50), 1), Err(LogError::Compacted { .. })));
    log.write(&[run(9, 1001, 1, 10)]).unwrap();
    drop(log);
    let (log, recovered) = SegmentedLog::open(directory.path(), config()).unwrap();
    assert_eq!(
        (recovered.start, recovered.last, recovered.hard_state),
        (position(9, 1000), LogIndex(1001), hard_state)
    );
    assert_eq!(Model::of(&log, &recovered).entries, run(9, 1001, 1, 10).entries);
}

#[test]
fn readers_in_other_threads_see_whole_entries_while_segments_are_recycled() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    let done = AtomicBool::new(false);
    let expected = |index: u64| run(1, index, 1, 3000).entries.remove(0);
    std::thread::scope(|scope| {
        for offset in [0, 5] {
            let (reader, done) = (log.reader(), &done);
            scope.spawn(move || {
                let (mut index, mut read) = (1 + offset, 0u64);
                while !done.load(Ordering::Acquire) || read == 0 {
                    match reader.entries(range(index, index + 3), 1 << 20) {
                        Ok(entries) => {
                            entries.iter().for_each(|entry| assert_eq!(*entry, expected(entry.index.0)));
                            read += 1;
                            index += 1;
                        }
                        Err(LogError::Compacted { start, .. }) => index = start.0 + 1,
                        Err(LogError::NotWritten { .. }) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for index in 1..=600 {
            log.write(&[run(1, index, 1, 3000)]).unwrap();
            if index % 25 == 0 {
                log.compact(position(1, index - 10)).unwrap();
            }
        }
        done.store(true, Ordering::Release);
    });
    assert!(log.bytes() <= 64 * 1024 * 10, "{}", log.bytes());
}

#[test]
#[should_panic(expected = "entries that leave a gap")]
fn gap_is_a_programming_error() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    log.write(&[run(1, 2, 1, 1)]).unwrap();
}

#[test]
#[should_panic(expected = "a second vote in one term")]
fn second_vote_is_a_programming_error() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    let vote =
        |node| LogWrite { hard_state: Some(HardState { term: Term(1), vote: Some(NodeId(node)) }), entries: vec![] };
    log.write(&[vote(1), vote(2)]).unwrap();
}

#[test]
fn setting_out_of_bounds_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 5, ..LogConfig::default() };
    match SegmentedLog::open(directory.path(), config) {
        Err(OpenError::Config { setting: "segment_bytes", value: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn inspection_shows_records_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentedLog::open(directory.path(), config()).unwrap();
    let hard_state = Some(HardState { term: Term(1), vote: None });
    log.write(&[LogWrite { hard_state, entries: vec![entry(1, 1, b"one")] }]).unwrap();
    log.write(&[entries_write(vec![entry(1, 2, b"two"), entry(1, 3, b"three")])]).unwrap();
    drop(log);
    let inspection = Inspection::open(directory.path()).unwrap();
    let first = &inspection.segments()[0];
    let epoch = first.header.unwrap().epoch;
    let mut records = inspection.records(first).unwrap();
    let found: Vec<_> = records.by_ref().map(Result::unwrap).collect();
    let kinds: Vec<_> = found.iter().map(|record| (record.kind, record.write_sequence, record.count)).collect();
    let expected = [
        (RecordKind::Head, 1, 0),
        (RecordKind::HardState, 1, 0),
        (RecordKind::Entries, 1, 1),
        (RecordKind::Entries, 2, 2),
    ];
    assert_eq!(kinds, expected);
    assert!(found.iter().all(|record| record.damage.is_none() && record.epoch == epoch));
    let end = found[3].offset + found[3].bytes;
    assert_eq!(records.end().unwrap().0, end);
    match inspection.verdict(GroupId::ONLY) {
        Verdict::Opens { recovered, end } => assert_eq!((recovered.last.0, end.write_sequence), (3, 2)),
        Verdict::Refuses(error) => panic!("{error}"),
    }

    // Damage the first write: the record is listed as damaged, the verdict refuses, the file stays as it is.
    let mut bytes = std::fs::read(&first.file).unwrap();
    let at = usize::try_from(found[2].offset).unwrap() + 48 + 16;
    bytes[at] ^= 1;
    std::fs::write(&first.file, &bytes).unwrap();
    let inspection = Inspection::open(directory.path()).unwrap();
    let damaged = inspection
        .records(&inspection.segments()[0])
        .unwrap()
        .map(Result::unwrap)
        .filter(|record| record.damage.is_some());
    assert_eq!(damaged.count(), 1);
    assert!(matches!(inspection.verdict(GroupId::ONLY), Verdict::Refuses(OpenError::Corrupt { .. })));
    assert_eq!(std::fs::read(&inspection.segments()[0].file).unwrap(), bytes);
}
