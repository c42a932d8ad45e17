//! Compaction of history: what it takes away, what it leaves, and that its space comes back while reads and writes go on.
//!
//! The row `compacted` is written here by hand, as the command that raises it does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use raft::{Entry, EntryKind, Term};
use raftkv_storage::command::{BatchEncoder, Command, KeyRange, Put};
use raftkv_storage::state::{
    Batch, CommandOutcome, Cursor, Engine, HOLD_TIME_MAX, MemoryEngine, ReadError, Reclaimed, Reclaimer, RocksEngine,
    Scan, ScanOptions, Snapshot, StateMachine, StateReader, Table,
};
use state_support::{
    NO_LIMITS, Owned, apply, apply_in_runs, copy_directory, delete_range, entries, one_at, open, put, rocks,
    small_options, wait_until,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Keys that a scan reads in several parts.
const MANY: u32 = 2000;

fn many(value: &[u8]) -> Vec<Owned> {
    (0..MANY).map(|number| put(&number.to_be_bytes(), value)).collect()
}

/// Writes many keys twice, with a scan that was begun in between and has read one pair. Compacts what it reads, and makes that durable.
fn overtaken_scan<E: Engine>(machine: &mut StateMachine<E>) -> Scan<E> {
    apply(machine, &[many(b"old")]);
    let mut scan = machine.reader().scan(ScanOptions::default()).unwrap();
    assert_eq!(scan.next().unwrap().unwrap().value, &b"old"[..]);
    apply(machine, &[many(b"new"), vec![delete_range(&1990u32.to_be_bytes(), None, NO_LIMITS)]]);
    let revision = machine.revision();
    assert_eq!(one_at(machine, 0, Command::Compact { revision }), CommandOutcome::Compacted { revision });
    machine.flush(true).unwrap();
    scan
}

/// Reads what is left of such a scan, all of it.
fn read_rest<E: Engine>(scan: Scan<E>) {
    let revision = scan.revision();
    let rest: Vec<_> = scan.map(Result::unwrap).collect();
    let keys: Vec<_> = rest.iter().map(|kv| kv.key.to_vec()).collect();
    assert_eq!(keys, (1..MANY).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
    assert!(rest.iter().all(|kv| kv.value == b"old"[..] && kv.mod_revision <= revision));
}

#[test]
fn a_scan_under_way_goes_on_though_a_compaction_overtakes_it() {
    let mut machine = open(MemoryEngine::new());
    let scan = overtaken_scan(&mut machine);
    let reader = machine.reader();
    let refused = ReadError::Compacted { requested: scan.revision(), compacted: machine.revision() };
    assert_eq!(pairs(&reader, scan.revision()), Err(refused.clone()), "whoever begins now is late");
    assert_eq!(reader.count(KeyRange::ALL, Some(scan.revision())), Err(refused.clone()));
    assert_eq!(reader.get(&7u32.to_be_bytes(), Some(scan.revision())), Err(refused));
    assert_eq!(scan.count_range(KeyRange::ALL).unwrap(), u64::from(MANY));
    assert_eq!(reader.held_revision(), Some(scan.revision()));
    let held = scan.revision();
    read_rest(scan);
    assert_eq!((reader.held_revision(), reader.engine().let_go_before()), (None, held));
    reader.release().unwrap();
    assert_eq!(reader.engine().let_go_before(), machine.revision());
    assert_eq!(rows(&reader, Table::History), 0);
}

#[test]
fn what_a_scan_holds_takes_space_until_it_is_over_and_not_longer() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    let reader = machine.reader();
    let mut reclaimer = Reclaimer::new(Instant::now(), Duration::ZERO);
    let scan = overtaken_scan(&mut machine);
    // Once for nothing, so that nothing is left to be done when the hold ends.
    reclaim_all(&reader, &mut reclaimer);
    assert_eq!(reclaim_all(&reader, &mut reclaimer), 0);
    let many = MANY as usize;
    assert_eq!(rows(&reader, Table::History), many + 10, "each key superseded once, ten of them twice");
    assert_eq!(
        rows(&reader, Table::Changes),
        many + 11,
        "the last of the first puts, the second ones, and the deletes"
    );
    read_rest(scan);
    assert!(reclaim_all(&reader, &mut reclaimer) > 0);
    assert_eq!((rows(&reader, Table::History), rows(&reader, Table::Changes)), (0, 10));
}

#[test]
fn a_hold_ends_an_hour_after_a_compaction_has_overtaken_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    let reader = machine.reader();
    let start = Instant::now();
    let mut reclaimer = Reclaimer::new(start, Duration::ZERO);
    let mut reclaim_at =
        |after: Duration| while reclaimer.step(&reader, start + after).unwrap() != Reclaimed::Nothing {};
    let idle = reader.scan(ScanOptions::default()).unwrap();
    let mut scan = overtaken_scan(&mut machine);
    let (held, compacted) = (scan.revision(), machine.revision());
    reclaim_at(Duration::ZERO);
    let newest = reader.scan(ScanOptions::default()).unwrap();
    reclaim_at(HOLD_TIME_MAX - Duration::from_millis(1));
    assert_eq!((reader.held_revision(), reader.engine().let_go_before()), (Some(1), idle.revision()));
    assert!(scan.next().unwrap().is_ok());
    reclaim_at(HOLD_TIME_MAX);
    assert_eq!((reader.held_revision(), rows(&reader, Table::History)), (None, 0));
    let ends: Vec<_> = scan.by_ref().filter_map(Result::err).collect();
    assert_eq!(ends, [ReadError::Compacted { requested: held, compacted }]);
    drop(scan);
    assert_eq!(newest.count(), 1990, "nothing has overtaken it");
}

#[test]
fn where_room_is_short_nothing_is_held() {
    let mut machine = open(MemoryEngine::new());
    let scan = overtaken_scan(&mut machine);
    let (held, compacted) = (scan.revision(), machine.revision());
    let reader = machine.reader();
    let newest = reader.scan(ScanOptions::default()).unwrap();
    reader.end_overtaken_holds();
    reader.release().unwrap();
    assert_eq!(reader.engine().let_go_before(), compacted);
    let end = scan.last();
    assert_eq!(end, Some(Err(ReadError::Compacted { requested: held, compacted })));
    apply(&mut machine, &[many(b"newer")]);
    compact(&reader, machine.revision());
    machine.flush(true).unwrap();
    assert_eq!(newest.map(Result::unwrap).filter(|kv| kv.value == b"new"[..]).count(), 1990, "that one still holds");
}

/// Overwrites all of many keys, each with its revision.
fn write_round(machine: &mut StateMachine<RocksEngine>) {
    let first = machine.revision() + 1;
    let round = (0..MANY).map(|number| put(&number.to_be_bytes(), &(first + u64::from(number)).to_be_bytes()));
    apply(machine, &[round.collect()]);
}

/// Reads a scan of that to its end.
fn check_rounds(scan: Scan<RocksEngine>) {
    let revision = scan.revision();
    let pairs: Vec<_> = scan.map(Result::unwrap).collect();
    assert_eq!(pairs.len(), MANY as usize, "keys at {revision}");
    for kv in pairs {
        let is_of_then = kv.mod_revision <= revision && kv.mod_revision + u64::from(MANY) > revision;
        assert!(is_of_then && kv.value == kv.mod_revision.to_be_bytes()[..], "{kv:?} at {revision}");
    }
}

#[test]
fn scans_hold_what_they_read_while_others_write_compact_and_reclaim() {
    const SCANNERS: u32 = 3;
    const SCANS: u32 = 8;
    /// How far compaction stays behind.
    const KEPT: u64 = 1000;
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    write_round(&mut machine);
    write_round(&mut machine);
    let reader = machine.reader();
    let steps = AtomicU64::new(0);
    let scanner = || {
        for _ in 0..SCANS {
            let scan = loop {
                // An old one, so that the history is needed from the first pair on.
                let revision = Some(reader.revision() - KEPT / 2);
                match reader.scan(ScanOptions { revision, ..ScanOptions::default() }) {
                    Ok(scan) => break scan,
                    Err(ReadError::Compacted { .. }) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            };
            wait_until("a durable compaction overtakes the scan", || reader.release().unwrap() > scan.revision());
            let steps_before = steps.load(Ordering::SeqCst);
            wait_until("what it makes dead is given back", || steps.load(Ordering::SeqCst) >= steps_before + 3);
            check_rounds(scan);
        }
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scanners: Vec<_> = (0..SCANNERS).map(|_| scope.spawn(scanner)).collect();
        scope.spawn(|| {
            let mut reclaimer = Reclaimer::new(Instant::now(), Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                // By itself it makes a compaction durable every few seconds only.
                reader.flush(true).unwrap();
                reclaimer.step(&reader, Instant::now()).unwrap();
                steps.fetch_add(1, Ordering::SeqCst);
            }
        });
        while !scanners.iter().all(|scanner| scanner.is_finished()) {
            write_round(&mut machine);
            let revision = machine.revision() - KEPT;
            one_at(&mut machine, 0, Command::Compact { revision });
        }
        done.store(true, Ordering::Relaxed);
    });
    machine.flush(true).unwrap();
    assert_eq!((reader.held_revision(), reader.engine().let_go_before()), (None, machine.revision() - KEPT));
    reclaim_all(&reader, &mut Reclaimer::new(Instant::now(), Duration::ZERO));
    assert_eq!(rows(&reader, Table::History) as u64, KEPT);
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
