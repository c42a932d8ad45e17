//! The state machine on RocksDB: applying, point reads, scans.
//!
//! Applying writes 300-byte values under fresh keys in random order, 64 commands to a log entry, with flushes and compactions going on
//! in the background as they do in a node. Reads are of a state of 200,000 keys, mostly in files.

#![allow(missing_docs, reason = "the benches' entry points are made by a macro")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on should stop")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use raft::{Entry, EntryKind, LogIndex, Membership, NodeId, Term};
use std::hint::black_box;
use std::time::Duration;
use storage::command::{BatchEncoder, Command, Put};
use storage::state::{Bootstrap, RocksEngine, RocksOptions, ScanOptions, StateMachine};

const VALUE: [u8; 300] = [b'v'; 300];
const COMMANDS_PER_ENTRY: u64 = 64;
const KEYS: u64 = 200_000;

/// Makes a log of puts, entry after entry, every key once and in no order.
struct Log {
    index: u64,
    keys: u64,
    encoder: BatchEncoder,
}

fn key(number: u64) -> [u8; 20] {
    let mut key = *b"key-0000000000000000";
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (at, byte) in key[4..].iter_mut().enumerate() {
        let nibble = (scattered >> (60 - 4 * at)) & 15;
        *byte = b"0123456789abcdef"[usize::try_from(nibble).unwrap()];
    }
    key
}

impl Log {
    fn new() -> Log {
        Log { index: 0, keys: 0, encoder: BatchEncoder::new() }
    }

    fn puts(&mut self, count: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let end = self.keys + count;
        while self.keys < end {
            for number in self.keys..end.min(self.keys + COMMANDS_PER_ENTRY) {
                let key = key(number);
                let put = Command::Put(Put::new(&key, &VALUE));
                self.encoder.append(&put);
            }
            self.keys = end.min(self.keys + COMMANDS_PER_ENTRY);
            self.index += 1;
            let (term, index) = (Term(1), LogIndex(self.index));
            entries.push(Entry { term, index, kind: EntryKind::Command, payload: self.encoder.take() });
        }
        entries
    }
}

fn machine(directory: &tempfile::TempDir) -> StateMachine {
    let engine = RocksEngine::create(&directory.path().join("db"), &RocksOptions::default()).unwrap();
    let bootstrap = Bootstrap { cluster: "bench".to_owned(), membership: Membership::new([NodeId(1)]) };
    StateMachine::open(engine, &bootstrap).unwrap()
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state/apply");
    group.sample_size(20).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    for run in [1u64, 64, 1024] {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = machine(&directory);
        let mut log = Log::new();
        group.throughput(Throughput::Elements(run));
        group.bench_function(format!("{run} puts"), |bencher| {
            bencher.iter_batched(
                || log.puts(run),
                |entries| {
                    let mut outcomes = Vec::new();
                    machine.apply(&entries, &mut outcomes).unwrap();
                    (entries, outcomes)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn overwrite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state/overwrite");
    group.sample_size(20).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    let directory = tempfile::tempdir().unwrap();
    let mut machine = machine(&directory);
    let mut log = Log::new();
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 puts over 10,000 keys", |bencher| {
        bencher.iter_batched(
            || {
                if log.keys > 10_000 {
                    log.keys = 0;
                }
                log.puts(64)
            },
            |entries| {
                let mut outcomes = Vec::new();
                machine.apply(&entries, &mut outcomes).unwrap();
                (entries, outcomes)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = machine(&directory);
    let mut log = Log::new();
    for _ in 0..KEYS / 1000 {
        machine.apply(&log.puts(1000), &mut Vec::new()).unwrap();
    }
    machine.flush(true).unwrap();
    let reader = machine.reader();
    let mut group = criterion.benchmark_group("state/read");
    let mut number = 0u64;
    group.bench_function("get hit", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % KEYS;
            reader.get(black_box(&key(number)), None).unwrap().unwrap()
        });
    });
    group.bench_function("get miss", |bencher| {
        bencher.iter(|| {
            number += 1;
            let found = reader.get(black_box(&key(KEYS + number)), None).unwrap();
            assert!(found.is_none());
        });
    });
    let old = machine.revision() / 2;
    group.bench_function("get hit at an old revision", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % (KEYS / 2 - 1);
            reader.get(black_box(&key(number)), Some(old)).unwrap().unwrap()
        });
    });
    group.throughput(Throughput::Elements(1000));
    group.bench_function("scan of 1000", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % KEYS;
            let start = Bytes::copy_from_slice(&key(number)[..8]);
            let scan = reader.scan(ScanOptions { start, limit: Some(1000), ..ScanOptions::default() }).unwrap();
            scan.map(|pair| pair.unwrap().value.len()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, apply, overwrite, read);
criterion_main!(benches);
