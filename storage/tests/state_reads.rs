//! What reads cost, and that they see one revision whatever happens meanwhile.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raftkv_storage::state::{
    Cursor, Engine, EngineError, KeyValue, MemoryBatch, MemoryCursor, MemoryEngine, MemorySnapshot, ScanOptions,
    Snapshot, Table,
};
use state_support::{Owned, apply, delete, open, put, rocks};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts what is asked of the engine underneath.
#[derive(Debug, Clone, Default)]
struct CountingEngine {
    inner: MemoryEngine,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    loads: AtomicU64,
    history_cursors: AtomicU64,
    moves: AtomicU64,
}

impl Counts {
    fn take(&self) -> (u64, u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.loads), take(&self.history_cursors), take(&self.moves))
    }
}

struct CountingSnapshot {
    inner: MemorySnapshot,
    counts: Arc<Counts>,
}

struct CountingCursor<'a> {
    inner: MemoryCursor<'a>,
    counts: &'a Counts,
}

impl Engine for CountingEngine {
    type Snapshot<'a> = CountingSnapshot;
    type Batch<'a> = MemoryBatch;

    fn snapshot(&self) -> CountingSnapshot {
        CountingSnapshot { inner: self.inner.snapshot(), counts: Arc::clone(&self.counts) }
    }

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.counts.loads.fetch_add(1, Ordering::Relaxed);
        self.inner.load(table, key)
    }

    fn load_durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.load_durable(table, key)
    }

    fn batch(&self, bytes_hint: usize) -> MemoryBatch {
        self.inner.batch(bytes_hint)
    }

    fn write(&self, batch: MemoryBatch) -> Result<(), EngineError> {
        self.inner.write(batch)
    }

    fn flush(&self, wait: bool) -> Result<(), EngineError> {
        self.inner.flush(wait)
    }
}

impl Snapshot for CountingSnapshot {
    type Cursor<'a> = CountingCursor<'a>;

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.load(table, key)
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: Option<&[u8]>) -> CountingCursor<'_> {
        if table == Table::History {
            self.counts.history_cursors.fetch_add(1, Ordering::Relaxed);
        }
        CountingCursor { inner: self.inner.cursor(table, lower, upper), counts: &self.counts }
    }
}

impl CountingCursor<'_> {
    fn count(&self) {
        self.counts.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Cursor for CountingCursor<'_> {
    fn seek_first(&mut self) {
        self.count();
        self.inner.seek_first();
    }
    fn seek_last(&mut self) {
        self.count();
        self.inner.seek_last();
    }
    fn seek(&mut self, key: &[u8]) {
        self.count();
        self.inner.seek(key);
    }
    fn seek_at_or_before(&mut self, key: &[u8]) {
        self.count();
        self.inner.seek_at_or_before(key);
    }
    fn next(&mut self) {
        self.count();
        self.inner.next();
    }
    fn previous(&mut self) {
        self.count();
        self.inner.previous();
    }
    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.inner.item()
    }
    fn check(&self) -> Result<(), EngineError> {
        self.inner.check()
    }
}

#[test]
fn reads_cost_the_same_however_long_the_history() {
    let costs = [3u64, 3000].map(|versions| {
        let engine = CountingEngine::default();
        let counts = Arc::clone(&engine.counts);
        let mut machine = open(engine);
        let writes: Vec<_> = (0..versions).map(|number| put(b"k", &number.to_be_bytes())).collect();
        apply(&mut machine, &[vec![put(b"a", b""), put(b"z", b"")], writes]);
        let reader = machine.reader();
        counts.take();

        assert_eq!(reader.get(b"k", None).unwrap().unwrap().version, versions);
        let latest = counts.take();
        assert_eq!(latest, (1, 0, 0), "a read of the latest value is one lookup");
        assert_eq!(reader.get(b"k", Some(5)).unwrap().unwrap().version, 2);
        let old = counts.take();
        let scan = |revision, reverse| {
            let scan = reader.scan(ScanOptions { revision, reverse, ..ScanOptions::default() }).unwrap();
            assert_eq!(scan.count(), 3);
            counts.take()
        };
        let scans = [scan(None, false), scan(None, true), scan(Some(5), false), scan(Some(5), true)];
        assert_eq!((scans[0].1, scans[1].1), (0, 0), "a scan of the latest state does not look at history");
        (latest, old, scans)
    });
    assert_eq!(costs[0], costs[1]);
}

fn numbered(number: u64) -> Vec<u8> {
    format!("key-{number:05}").into_bytes()
}

/// Starts a scan, changes everything in the range while it is at its first part, and checks that it goes on as if nothing
/// had happened.
fn scan_survives_changes<E: Engine>(mut machine: raftkv_storage::state::StateMachine<E>) {
    const KEYS: u64 = 3000;
    let fill: Vec<_> = (0..KEYS).map(|number| put(&numbered(number), b"before")).collect();
    apply(&mut machine, &[fill]);
    let reader = machine.reader();
    for reverse in [false, true] {
        let options = ScanOptions { reverse, ..ScanOptions::default() };
        let before: Vec<KeyValue> = reader.scan(options.clone()).unwrap().map(Result::unwrap).collect();
        let mut scan = reader.scan(options).unwrap();
        let revision = machine.revision();
        assert_eq!(scan.revision(), revision);
        let first = scan.next().unwrap().unwrap();

        let changes: Vec<Owned> = (0..KEYS)
            .map(|number| match number % 3 {
                0 => put(&numbered(number), b"after"),
                1 => delete(&numbered(number)),
                _ => put(&[&numbered(number)[..], b"-new"].concat(), b"after"),
            })
            .collect();
        apply(&mut machine, &[changes]);

        let mut found = vec![first];
        found.extend(scan.by_ref().map(Result::unwrap));
        assert_eq!(found, before);
        assert_eq!(scan.revision(), revision);
        assert!(scan.next().is_none());
    }
}

#[test]
fn a_scan_sees_one_revision_while_everything_changes() {
    scan_survives_changes(open(MemoryEngine::new()));
    let directory = tempfile::tempdir().unwrap();
    scan_survives_changes(rocks(&directory.path().join("db")));
}

#[test]
fn readers_never_see_half_a_revision() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    // Each entry moves all keys to the same value; a reader must never see two values.
    let round = |number: u64| (0..20).map(|key| put(&numbered(key), &number.to_be_bytes())).collect::<Vec<_>>();
    apply(&mut machine, &[round(0)]);
    let reader = machine.reader();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut scans = 0u64;
            while !done.load(Ordering::Acquire) || scans == 0 {
                let scan = reader.scan(ScanOptions::default()).unwrap();
                let revision = scan.revision();
                let pairs: Vec<KeyValue> = scan.map(Result::unwrap).collect();
                assert_eq!(pairs.len(), 20);
                assert!(pairs.iter().all(|pair| pair.value == pairs[0].value), "half a run at {revision}");
                // The same again at the same revision, which may be an old one.
                let options = ScanOptions { revision: Some(revision), ..ScanOptions::default() };
                let again: Vec<KeyValue> = reader.scan(options).unwrap().map(Result::unwrap).collect();
                assert_eq!(again, pairs);
                for pair in &pairs {
                    assert_eq!(reader.get(&pair.key, Some(revision)).unwrap().as_ref(), Some(pair));
                }
                scans += 1;
            }
        });
        for number in 1..500 {
            apply(&mut machine, &[round(number)]);
        }
        done.store(true, Ordering::Release);
        watcher.join().unwrap();
    });
}

/// Two keys take turns in being there. A reader that takes the revision it is told for one at which what it read holds must never be wrong.
fn what_is_read_holds_at_the_revision_told<E: Engine + Send + Sync>(
    mut machine: raftkv_storage::state::StateMachine<E>,
) {
    const ROUNDS: u64 = 3_000;
    let reader = machine.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut told = Vec::new();
            while !done.load(Ordering::Acquire) {
                for key in [&b"even"[..], b"odd"] {
                    let (revision, found) = reader.get_newest(key).unwrap();
                    told.push((key, revision, found));
                }
            }
            told
        });
        for _ in 0..ROUNDS {
            apply(&mut machine, &[vec![put(b"even", b""), delete(b"odd")], vec![put(b"odd", b""), delete(b"even")]]);
        }
        done.store(true, Ordering::Release);
        let told = watcher.join().unwrap();
        assert!(!told.is_empty());
        for (key, revision, found) in told {
            let expected = reader.get(key, Some(revision)).unwrap();
            assert_eq!(found, expected, "{} at {revision}", key.escape_ascii());
        }
    });
}

#[test]
fn what_a_get_finds_holds_at_the_revision_that_it_names() {
    what_is_read_holds_at_the_revision_told(open(MemoryEngine::new()));
    let directory = tempfile::tempdir().unwrap();
    what_is_read_holds_at_the_revision_told(rocks(&directory.path().join("db")));
}

/// The two are timed by turns, in blocks, and compared by their medians, so that what else the machine does counts for both.
#[test]
fn a_key_with_a_long_history_is_read_as_fast_as_one_with_none() {
    const REVISIONS: usize = 1_000_000;
    const BATCH: usize = 1_000;
    const BLOCKS: usize = 201;
    const READS: usize = 500;
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    let batch = vec![put(b"many", b"value"); BATCH];
    for number in 0..REVISIONS / BATCH {
        if number == REVISIONS / BATCH / 2 {
            apply(&mut machine, &[vec![put(b"once", b"value")]]);
        }
        apply(&mut machine, std::slice::from_ref(&batch));
    }
    machine.flush(true).unwrap();
    let reader = machine.reader();
    assert_eq!(reader.get(b"many", None).unwrap().unwrap().version, REVISIONS as u64);
    assert_eq!(reader.get(b"once", None).unwrap().unwrap().version, 1);
    let time = |key: &[u8]| {
        let begun = Instant::now();
        for _ in 0..READS {
            black_box(reader.get(black_box(key), None).unwrap());
        }
        begun.elapsed()
    };
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..BLOCKS {
        times[0].push(time(b"once"));
        times[1].push(time(b"many"));
    }
    let [once, many] = times.map(|mut times| {
        times.sort();
        times[BLOCKS / 2]
    });
    assert!(many * 2 <= once * 3, "{READS} reads: {many:?} with {REVISIONS} revisions, {once:?} with one");
}
