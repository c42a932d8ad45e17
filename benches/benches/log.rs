//! The log: one write with its flush, and reading back.
//!
//! `cargo bench -p raftkv-benches --bench log`. Set `RAFTKV_BENCH_DIR` to a directory on the disk to measure; the default is the
//! system's directory for temporary files.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use raft::{Entry, EntryKind, LogIndex, LogPosition, LogRange, Term};
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;
use storage::wal::{LogConfig, LogStore, LogWrite, SegmentedLog};

/// Small segments, so that those in use have been recycled, as in a node that has run for a while.
const SEGMENT_BYTES: u64 = 16 << 20;
/// The log is compacted whenever this much has been written.
const COMPACTED_EVERY_BYTES: u64 = 8 << 20;

fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("RAFTKV_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

fn batch(first: u64, entries: u64, payload: &Bytes) -> LogWrite {
    let entry =
        |index| Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload: payload.clone() };
    LogWrite { hard_state: None, entries: (first..first + entries).map(entry).collect() }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/append+fdatasync");
    group.measurement_time(Duration::from_secs(5));
    for (name, entries, bytes) in
        [("256 B", 1, 256), ("4 KiB", 1, 4096), ("64 KiB", 1, 64 << 10), ("256 x 256 B", 256, 256)]
    {
        let directory = directory();
        let config = LogConfig { segment_bytes: SEGMENT_BYTES, ..LogConfig::default() };
        let (mut log, _) = SegmentedLog::open(directory.path(), config).unwrap();
        let payload = Bytes::from(vec![7; bytes]);
        let (mut next, mut since_compaction) = (65, 0);
        let filling = Bytes::from(vec![1; 1 << 20]);
        (1..65).for_each(|index| log.write(&[batch(index, 1, &filling)]).unwrap());
        log.compact(LogPosition { term: Term(1), index: LogIndex(64) }).unwrap();
        let log = RefCell::new(log);
        group.throughput(Throughput::Bytes(entries * bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    since_compaction += entries * bytes as u64;
                    if since_compaction > COMPACTED_EVERY_BYTES {
                        since_compaction = 0;
                        let position = LogPosition { term: Term(1), index: LogIndex(next - 1) };
                        log.borrow_mut().compact(position).unwrap();
                    }
                    let write = batch(next, entries, &payload);
                    next += entries;
                    [write]
                },
                |write| log.borrow_mut().write(&write).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/read");
    for (name, bytes, read_bytes) in [("256 B", 256, 0), ("64 KiB", 256, 64 << 10), ("1 MiB", 4096, 1 << 20)] {
        let directory = directory();
        let (mut log, _) = SegmentedLog::open(directory.path(), LogConfig::default()).unwrap();
        let payload = Bytes::from(vec![7; bytes]);
        for round in 0..100 {
            log.write(&[batch(round * 64 + 1, 64, &payload)]).unwrap();
        }
        let (reader, mut first) = (log.reader(), 1);
        let mut read = || {
            first = first * 31 % 4000 + 1;
            reader.entries(LogRange { first: LogIndex(first), last: LogIndex(6400) }, read_bytes).unwrap()
        };
        group.throughput(Throughput::Bytes(read_bytes.max(bytes) as u64));
        group.bench_function(name, |bencher| bencher.iter(&mut read));
    }
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
