//! Compaction of history: what it takes away, what it leaves, and that its space comes back while reads and writes go on.
//!
//! The row `compacted` is written here by hand, as the command that raises it does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use raft::{Entry, EntryKind, Term};
use raftkv_storage::command::{BatchEncoder, Command, KeyRange, Put};
use raftkv_storage::state::{
    Batch, CommandOutcome, Cursor, Engine, MemoryEngine, ReadError, Reclaimed, Reclaimer, RocksEngine, ScanOptions,
    Snapshot, StateMachine, StateReader, Table,
};
use state_support::{
    NO_LIMITS, apply, apply_in_runs, copy_directory, delete_range, entries, one_at, open, put, rocks, small_options,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn compact<E: Engine>(reader: &StateReader<E>, revision: u64) {
    let engine = reader.engine();
    let mut batch = engine.batch(64);
    batch.put(Table::Meta, b"compacted", &revision.to_be_bytes());
    engine.write(batch).unwrap();
}

fn rows<E: Engine>(reader: &StateReader<E>, table: Table) -> usize {
    let snapshot = reader.engine().snapshot();
    let mut cursor = snapshot.cursor(table, b"", None);
    let mut count = 0;
    cursor.seek_first();
    while cursor.item().is_some() {
        count += 1;
        cursor.next();
    }
    cursor.check().unwrap();
    count
}

/// Steps until there is nothing to do, without resting.
fn reclaim_all(reader: &StateReader<RocksEngine>, reclaimer: &mut Reclaimer) -> u64 {
    let mut steps = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < deadline, "space is reclaimed for ever");
        match reclaimer.step(reader, Instant::now()).unwrap() {
            Reclaimed::Nothing => return steps,
            Reclaimed::Later => std::thread::yield_now(),
            Reclaimed::Step { .. } => steps += 1,
        }
    }
}

fn directory_bytes(directory: &Path) -> u64 {
    let tables = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    // A file that is dropped between the two calls takes no space.
    let sizes = tables.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "sst"));
    sizes.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len())).sum()
}

/// 40 revisions over 5 keys, from 2 to 41.
fn small_log() -> Vec<Entry> {
    let batch = |number: u64| vec![put(format!("k{}", number % 5).as_bytes(), &number.to_be_bytes())];
    entries(&(0..40).map(batch).collect::<Vec<_>>())
}

fn pairs<E: Engine>(reader: &StateReader<E>, revision: u64) -> Result<Vec<(Vec<u8>, u64)>, ReadError> {
    let scan = reader.scan(ScanOptions { revision: Some(revision), ..ScanOptions::default() })?;
    scan.map(|kv| kv.map(|kv| (kv.key.to_vec(), kv.mod_revision))).collect()
}

#[test]
fn what_is_compacted_is_refused_and_what_is_not_reads_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    apply_in_runs(&mut machine, &small_log(), &[7]);
    let reader = machine.reader();
    let before: BTreeMap<u64, _> = (20..=41).map(|revision| (revision, pairs(&reader, revision).unwrap())).collect();
    compact(&reader, 20);
    reader.flush(true).unwrap();
    assert_eq!(reader.compacted_revision(), 20);
    reclaim_all(&reader, &mut Reclaimer::new(Instant::now(), Duration::ZERO));
    for (revision, expected) in &before {
        assert_eq!(&pairs(&reader, *revision).unwrap(), expected, "revision {revision}");
    }
    let refusal = ReadError::Compacted { requested: 19, compacted: 20 };
    assert_eq!(pairs(&reader, 19), Err(refusal.clone()));
    assert_eq!(reader.get(b"k1", Some(19)), Err(refusal.clone()));
    assert_eq!(reader.count(KeyRange::ALL, Some(19)), Err(refusal));
    // Each of the revisions 20 to 41 changed one key; each from 21 on superseded a value.
    assert_eq!((rows(&reader, Table::Changes), rows(&reader, Table::History)), (22, 21));
}

#[test]
fn nodes_agree_whatever_they_have_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let mut on_disk = rocks(&directory.path().join("db"));
    let mut in_memory = open(MemoryEngine::new());
    let mut keeps_all = open(MemoryEngine::new());
    let log = small_log();
    apply_in_runs(&mut on_disk, &log, &[7]);
    apply_in_runs(&mut in_memory, &log, &[3]);
    apply_in_runs(&mut keeps_all, &log, &[5]);
    let hash_before = keeps_all.reader().content_hash().unwrap();
    compact(&on_disk.reader(), 30);
    compact(&in_memory.reader(), 30);
    compact(&keeps_all.reader(), 30);
    reclaim_all(&on_disk.reader(), &mut Reclaimer::new(Instant::now(), Duration::ZERO));
    on_disk.flush(true).unwrap();
    reclaim_all(&on_disk.reader(), &mut Reclaimer::new(Instant::now(), Duration::ZERO));
    in_memory.flush(true).unwrap();

    assert_eq!(rows(&keeps_all.reader(), Table::Changes), 40);
    assert_eq!(rows(&in_memory.reader(), Table::Changes), 12);
    assert_eq!(rows(&on_disk.reader(), Table::Changes), 12);
    let hash = keeps_all.reader().content_hash().unwrap();
    assert_ne!(hash, hash_before, "what can be read is another thing");
    assert_eq!(in_memory.reader().content_hash().unwrap(), hash);
    assert_eq!(on_disk.reader().content_hash().unwrap(), hash);
}

#[test]
fn a_compaction_is_made_durable_in_its_turn() {
    const TURN: Duration = Duration::from_secs(6);
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    apply_in_runs(&mut machine, &small_log(), &[7]);
    let reader = machine.reader();
    let start = Instant::now();
    let mut reclaimer = Reclaimer::new(start, TURN);
    let mut durable_at = |seconds: u64| {
        let now = start + Duration::from_secs(seconds);
        while let Reclaimed::Step { .. } = reclaimer.step(&reader, now).unwrap() {}
        reader.release().unwrap()
    };
    let mut compact = |revision| {
        let outcome = one_at(&mut machine, 0, Command::Compact { revision });
        assert_eq!(outcome, CommandOutcome::Compacted { revision });
    };
    compact(10);
    assert_eq!(durable_at(1), 0, "its turn begins when it is noticed");
    compact(20);
    assert_eq!((durable_at(6), durable_at(7)), (0, 20), "what comes meanwhile goes along");
    compact(25);
    assert_eq!(durable_at(8), 20);
    reader.flush(true).unwrap();
    compact(30);
    assert_eq!((durable_at(15), durable_at(20)), (25, 25), "a flush came by itself, and the turn begins again");
    assert_eq!(durable_at(21), 30);
}

#[test]
fn nothing_is_dropped_before_the_compaction_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let mut machine = rocks(&live);
    apply_in_runs(&mut machine, &small_log(), &[7]);
    let reader = machine.reader();
    reader.flush(true).unwrap();
    compact(&reader, 20);
    assert_eq!(reader.release().unwrap(), 0);
    assert_eq!(reader.engine().let_go_before(), 0);
    // Nobody was told of the compaction, so there is nothing to flush for.
    reclaim_all(&reader, &mut Reclaimer::new(Instant::now(), Duration::ZERO));

    let crashed = directory.path().join("crashed");
    copy_directory(&live, &crashed);
    let recovered = open(RocksEngine::open(&crashed, &small_options()).unwrap());
    assert_eq!(recovered.reader().compacted_revision(), 0);
    assert_eq!(pairs(&recovered.reader(), 10).unwrap().len(), 5);

    reader.flush(true).unwrap();
    assert_eq!((reader.compacted_revision(), reader.engine().let_go_before()), (20, 20));
}

#[test]
fn a_memory_engine_that_crashes_has_no_holes_either() {
    let engine = MemoryEngine::new();
    let mut machine = open(engine.clone());
    apply_in_runs(&mut machine, &small_log(), &[7]);
    machine.flush(true).unwrap();
    compact(&machine.reader(), 20);
    machine.reader().flush(true).unwrap();
    assert_eq!(rows(&machine.reader(), Table::Changes), 22);
    engine.crash();
    let reader = open(engine).reader();
    assert_eq!(reader.compacted_revision(), 20);
    assert_eq!(pairs(&reader, 20).unwrap().len(), 5);
    assert!(pairs(&reader, 19).is_err());
}

#[test]
fn a_scan_under_way_ends_when_its_revision_is_compacted() {
    let mut machine = open(MemoryEngine::new());
    let keys: Vec<_> = (0..2000u32).map(|number| vec![put(&number.to_be_bytes(), b"v")]).collect();
    apply_in_runs(&mut machine, &entries(&keys), &[100]);
    let reader = machine.reader();
    let mut scan = reader.scan(ScanOptions { revision: Some(1900), ..ScanOptions::default() }).unwrap();
    assert_eq!(scan.next().unwrap().unwrap().mod_revision, 2);
    compact(&reader, 2000);
    reader.flush(true).unwrap();
    let outcome: Result<Vec<_>, _> = scan.collect();
    assert_eq!(outcome, Err(ReadError::Compacted { requested: 1900, compacted: 2000 }));
}

#[test]
fn what_was_deleted_gives_its_space_back_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut machine = rocks(&path);
    let value = |number: u64| (0..40).flat_map(|part| value_of(number * 64 + part)).collect::<Vec<u8>>();
    let keys: u64 = 2000;
    for number in 0..keys {
        apply(&mut machine, &[vec![put(&number.to_be_bytes(), &value(number))]]);
    }
    machine.flush(true).unwrap();
    let reader = machine.reader();
    let mut reclaimer = Reclaimer::new(Instant::now(), Duration::ZERO);
    let full = directory_bytes(&path);
    apply(&mut machine, &[vec![delete_range(b"", None, NO_LIMITS)]]);
    machine.flush(true).unwrap();
    reclaim_all(&reader, &mut reclaimer);
    assert!(directory_bytes(&path) >= full, "it stays readable");
    compact(&reader, machine.revision());
    machine.flush(true).unwrap();
    reclaim_all(&reader, &mut reclaimer);
    let left = directory_bytes(&path);
    assert!(left * 20 < full, "{full} bytes before, {left} after");
}

const REVISIONS: u64 = 1_000_000;
/// Written during the reclaiming at most, so that what is kept stays small beside what goes, however long that takes.
const WRITTEN_MAX: u64 = 250_000;
const KEYS: u64 = 50;
const VALUE_BYTES: usize = 100;

/// What revision `revision` writes: the keys take turns, each with a value that does not compress.
fn key_of(revision: u64) -> String {
    format!("key-{:02}", revision % KEYS)
}

fn value_of(revision: u64) -> Vec<u8> {
    let mut state = revision;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

/// Applies the revisions up to and including `to`, 500 to an entry.
fn write_up_to(machine: &mut StateMachine<RocksEngine>, to: u64) {
    while machine.revision() < to {
        let (first, index) = (machine.revision() + 1, machine.applied().index.next());
        let mut encoder = BatchEncoder::new();
        for revision in first..=to.min(first + 499) {
            encoder.append(&Command::Put(Put::new(key_of(revision).as_bytes(), &value_of(revision))));
        }
        let entry = Entry { term: Term(1), index, kind: EntryKind::Command, payload: encoder.take() };
        machine.apply(&[entry], &mut Vec::new()).unwrap();
    }
}

fn check_revision(reader: &StateReader<RocksEngine>, revision: u64) {
    let scan = reader.scan(ScanOptions { revision: Some(revision), ..ScanOptions::default() }).unwrap();
    let mut found = 0;
    for kv in scan {
        let kv = kv.unwrap();
        found += 1;
        assert!(kv.mod_revision <= revision && kv.mod_revision + KEYS > revision, "{kv:?} at {revision}");
        assert_eq!(kv.key, key_of(kv.mod_revision).as_bytes());
        assert_eq!(kv.value, value_of(kv.mod_revision), "{kv:?} at {revision}");
    }
    assert_eq!(found, KEYS, "keys at {revision}");
}

#[test]
fn the_directory_shrinks_while_reads_and_writes_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut machine = rocks(&path);
    write_up_to(&mut machine, REVISIONS);
    machine.flush(true).unwrap();
    let reader = machine.reader();
    let mut reclaimer = Reclaimer::new(Instant::now(), Duration::ZERO);
    assert_eq!(reclaim_all(&reader, &mut reclaimer), 0, "nothing is compacted yet");
    let full = directory_bytes(&path);
    let compacted = REVISIONS - 10_000;
    compact(&reader, compacted);
    reader.flush(true).unwrap();

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut revision = compacted;
            while !done.load(Ordering::Relaxed) {
                check_revision(&reader, revision);
                assert!(matches!(reader.get(b"key-00", Some(compacted - 1)), Err(ReadError::Compacted { .. })));
                revision = if revision + 701 > REVISIONS { compacted } else { revision + 701 };
            }
        });
        let writer = scope.spawn(|| {
            // Writes are never held up: RocksDB's own sign of it.
            while !done.load(Ordering::Relaxed) && machine.revision() < REVISIONS + WRITTEN_MAX {
                let next = machine.revision() + 500;
                write_up_to(&mut machine, next);
                assert!(!machine.statistics().unwrap().write_stopped);
                std::thread::yield_now();
            }
            machine.revision()
        });
        reclaim_all(&reader, &mut reclaimer);
        done.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap() - REVISIONS;
        assert!(written > 0, "writes went on");
    });
    let left = directory_bytes(&path);
    // Twice what is kept takes, for what RocksDB has yet to merge, and a quarter besides: less than before, whatever was written meanwhile.
    let kept = machine.revision() - compacted;
    let allowed = full / 4 + 2 * full * kept / REVISIONS;
    assert!(
        left < allowed && allowed < full,
        "{full} bytes before, {left} after, {allowed} allowed for {kept} revisions"
    );
    let history = rows(&reader, Table::History) as u64;
    assert!(history <= kept, "{history} rows of history for {kept} revisions");
}
