//! What is left of the state after a crash, and what a flush and a checkpoint promise.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use raft::{Entry, LogPosition, NodeId};
use raftkv_storage::command::Command;
use raftkv_storage::state::{
    Bootstrap, Engine, MemoryEngine, RocksEngine, STATE_FORMAT, ScanOptions, StateError, StateMachine, StateReader,
    StateStore, StoreError, Table,
};
use state_support::{
    Owned, apply, apply_in_runs, bootstrap, copy_directory, delete, entries, one_at, open, put, rocks, small_options,
    wait_until,
};
use std::path::Path;

/// A log with overwrites, deletes and no-ops.
fn log(count: u64, value_bytes: usize) -> Vec<Entry> {
    let batch = |number: u64| match number % 5 {
        0 => Vec::new(),
        1 => vec![delete(&key(number)), put(&key(number + 1), &vec![b'v'; value_bytes])],
        _ => vec![put(&key(number), &vec![b'w'; value_bytes]), put(&number.to_be_bytes(), b"once")],
    };
    entries(&(0..count).map(batch).collect::<Vec<Vec<Owned>>>())
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{}", number % 17).into_bytes()
}

fn position(entries: &[Entry]) -> LogPosition {
    entries.last().unwrap().position()
}

/// The state's hashes after a prefix of the log, computed afresh.
fn hashes_after(log: &[Entry]) -> ([u8; 16], [u8; 16]) {
    let mut machine = open(MemoryEngine::new());
    apply_in_runs(&mut machine, log, &[3]);
    hashes(&machine)
}

fn hashes<E: Engine>(machine: &StateMachine<E>) -> ([u8; 16], [u8; 16]) {
    (machine.state_hash(), machine.reader().content_hash().unwrap())
}

fn reopen(directory: &Path) -> StateMachine<RocksEngine> {
    open(RocksEngine::open(directory, &small_options()).unwrap())
}

#[test]
fn a_crash_keeps_exactly_what_was_flushed_and_replay_makes_up_for_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let log = log(60, 20);
    let mut machine = rocks(&live);
    apply_in_runs(&mut machine, &log[..25], &[4]);
    machine.flush(true).unwrap();
    apply_in_runs(&mut machine, &log[25..], &[4]);
    assert_eq!(machine.flushed().unwrap(), position(&log[..25]));

    let crashed = directory.path().join("crashed");
    copy_directory(&live, &crashed);
    let mut recovered = reopen(&crashed);
    assert_eq!(recovered.applied(), position(&log[..25]));
    assert_eq!(recovered.flushed().unwrap(), recovered.applied());
    assert_eq!(hashes(&recovered), hashes_after(&log[..25]));
    assert_eq!(recovered.membership(), &bootstrap().membership);

    apply_in_runs(&mut recovered, &log[25..], &[7]);
    assert_eq!(hashes(&recovered), hashes(&machine));
    assert_eq!(hashes(&recovered), hashes_after(&log));
}

#[test]
fn a_flush_by_itself_covers_all_tables_up_to_one_entry() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    // A write buffer holds 1 MiB, so RocksDB flushes by itself, at moments of its own choice.
    let log = log(3000, 2000);
    let mut machine = rocks(&live);
    for run in log.chunks(50) {
        apply_in_runs(&mut machine, run, &[10]);
    }
    wait_until("RocksDB flushes", || machine.flushed().unwrap().index.0 > 0);
    // Nothing is written any more; background work ends, and then the files stay as they are.
    let files = || std::fs::read_dir(&live).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let flushed = machine.flushed().unwrap();
    let crashed = directory.path().join("crashed");
    wait_until("the files stand still while they are copied", || {
        let before = files();
        let _ = std::fs::remove_dir_all(&crashed);
        std::panic::catch_unwind(|| copy_directory(&live, &crashed)).is_ok() && files() == before
    });
    let recovered = reopen(&crashed);
    assert!(recovered.applied() >= flushed, "{} is before {flushed}", recovered.applied());
    let applied = usize::try_from(recovered.applied().index.0).unwrap();
    assert_eq!(hashes(&recovered), hashes_after(&log[..applied]));
}

#[test]
fn flushed_follows_a_flush_in_the_background() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = rocks(&directory.path().join("db"));
    assert_eq!(machine.flushed().unwrap(), LogPosition::default());
    let log = log(10, 20);
    apply_in_runs(&mut machine, &log[..6], &[2]);
    assert_eq!(machine.flushed().unwrap(), LogPosition::default(), "memtables do not count as durable");
    machine.flush(false).unwrap();
    wait_until("the flush ends", || machine.flushed().unwrap() == position(&log[..6]));
    apply_in_runs(&mut machine, &log[6..], &[2]);
    assert_eq!(machine.flushed().unwrap(), position(&log[..6]));
    // From another thread, as the node does it.
    let reader = machine.reader();
    std::thread::spawn(move || reader.flush(true).unwrap()).join().unwrap();
    assert_eq!(machine.flushed().unwrap(), position(&log));
}

#[test]
fn a_clean_close_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let log = log(30, 20);
    let mut machine = rocks(&path);
    apply_in_runs(&mut machine, &log, &[4]);
    let before = hashes(&machine);
    machine.flush(true).unwrap();
    drop(machine);
    let reopened = reopen(&path);
    assert_eq!((reopened.applied(), hashes(&reopened)), (position(&log), before));
}

#[test]
fn the_memory_engine_crashes_like_rocksdb() {
    let log = log(40, 10);
    let disk = MemoryEngine::new();
    let mut machine = open(disk.clone());
    apply_in_runs(&mut machine, &log[..20], &[3]);
    machine.flush(true).unwrap();
    apply_in_runs(&mut machine, &log[20..], &[3]);
    drop(machine);
    disk.crash();
    let mut recovered = open(disk);
    assert_eq!(recovered.applied(), position(&log[..20]));
    assert_eq!(hashes(&recovered), hashes_after(&log[..20]));
    apply_in_runs(&mut recovered, &log[20..], &[1]);
    assert_eq!(hashes(&recovered), hashes_after(&log));
}

#[test]
fn a_checkpoint_holds_what_was_applied_when_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(50, 20);
    let mut machine = rocks(&directory.path().join("db"));
    apply_in_runs(&mut machine, &log[..30], &[4]);
    let target = directory.path().join("checkpoint");
    assert_eq!(machine.checkpoint(&target).unwrap(), position(&log[..30]));
    apply_in_runs(&mut machine, &log[30..], &[4]);
    let copy = StateMachine::open_existing(RocksEngine::open_read_only(&target, &small_options()).unwrap()).unwrap();
    assert_eq!(copy.applied(), position(&log[..30]));
    assert_eq!(hashes(&copy), hashes_after(&log[..30]));
}

#[test]
fn checkpoints_made_while_entries_are_applied_are_each_a_prefix_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(2000, 200);
    let mut machine = rocks(&directory.path().join("db"));
    let reader: StateReader = machine.reader();
    let made = std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let make = |number: u32| {
                let target = directory.path().join(format!("checkpoint-{number}"));
                (reader.checkpoint(&target).unwrap(), target)
            };
            (0..3).map(make).collect::<Vec<_>>()
        });
        apply_in_runs(&mut machine, &log, &[5]);
        maker.join().unwrap()
    });
    for (position, target) in made {
        let copy = StateMachine::open_existing(RocksEngine::open_read_only(&target, &small_options()).unwrap());
        let copy = copy.unwrap();
        assert_eq!(copy.applied(), position);
        assert_eq!(hashes(&copy), hashes_after(&log[..usize::try_from(position.index.0).unwrap()]));
    }
}

#[test]
fn a_received_snapshot_replaces_the_state_and_old_readers_go_on_until_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(60, 20);
    let mut sender = rocks(&directory.path().join("sender"));
    apply_in_runs(&mut sender, &log, &[9]);
    let sent = directory.path().join("sent");
    sender.checkpoint(&sent).unwrap();

    let state = directory.path().join("state");
    let (mut store, mut machine) = StateStore::open(&state, small_options(), &bootstrap()).unwrap();
    apply(&mut machine, &[vec![put(b"only here", b"old")]]);
    machine.flush(true).unwrap();
    let old_reader = machine.reader();
    let old_database = store.current();

    assert!(store.resume_incoming().unwrap().is_none());
    assert!(matches!(store.verify_incoming("test"), Err(StoreError::NoIncoming { .. })));
    let incoming = store.prepare_incoming().unwrap();
    std::fs::remove_dir(&incoming).unwrap();
    copy_directory(&sent, &incoming);
    assert_eq!(store.resume_incoming().unwrap(), Some(incoming));
    let verified = store.verify_incoming("test").unwrap();
    assert_eq!((verified.position, verified.state_hash), (position(&log), sender.state_hash()));
    assert_eq!(verified.content_hash, sender.reader().content_hash().unwrap());
    assert_eq!(verified.membership, bootstrap().membership);

    let next = store.switch_to_incoming(&machine).unwrap();
    drop(machine);
    assert_eq!((next.applied(), hashes(&next)), (position(&log), hashes(&sender)));
    assert_eq!(old_reader.get(b"only here", None).unwrap().unwrap().value, &b"old"[..]);
    assert!(old_database.exists());
    drop(old_reader);
    assert!(!old_database.exists(), "the old state goes with its last reader");
    drop((store, next));

    let (_store, reopened) = StateStore::open(&state, small_options(), &bootstrap()).unwrap();
    assert_eq!((reopened.applied(), hashes(&reopened)), (position(&log), hashes(&sender)));
}

#[test]
fn a_scan_of_a_state_that_is_replaced_reads_on_and_holds_nothing_of_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut sender = rocks(&directory.path().join("sender"));
    apply_in_runs(&mut sender, &log(60, 20), &[9]);
    let state = directory.path().join("state");
    let (mut store, mut machine) = StateStore::open(&state, small_options(), &bootstrap()).unwrap();
    // More than a scan reads at a time, and one that would hold everything back if it counted for the new state.
    let keys = 1000u32;
    let one = |number: u32| put(&number.to_be_bytes(), b"old");
    apply(&mut machine, &[vec![put(b"first", b"old")]]);
    let early = machine.reader().scan(ScanOptions::default()).unwrap();
    apply(&mut machine, &[(0..keys).map(one).collect()]);
    let scan = machine.reader().scan(ScanOptions::default()).unwrap();
    let incoming = store.prepare_incoming().unwrap();
    std::fs::remove_dir(&incoming).unwrap();
    sender.checkpoint(&incoming).unwrap();

    let mut next = store.switch_to_incoming(&machine).unwrap();
    drop(machine);
    let revision = next.revision();
    assert!(early.revision() < revision);
    one_at(&mut next, 0, Command::Compact { revision });
    next.flush(true).unwrap();
    assert_eq!((next.reader().held_revision(), next.reader().engine().let_go_before()), (None, revision));
    let values = early.chain(scan).map(|kv| kv.unwrap().value);
    assert_eq!(values.filter(|value| *value == b"old"[..]).count(), keys as usize + 2);
}

#[test]
fn a_snapshot_that_leads_back_in_time_or_to_another_cluster_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (mut store, mut machine) = StateStore::open(&state, small_options(), &bootstrap()).unwrap();
    let log = log(10, 20);
    apply_in_runs(&mut machine, &log[..5], &[5]);
    let incoming = store.prepare_incoming().unwrap();
    std::fs::remove_dir(&incoming).unwrap();
    machine.checkpoint(&incoming).unwrap();
    apply_in_runs(&mut machine, &log[5..], &[5]);
    assert!(matches!(store.switch_to_incoming(&machine), Err(StoreError::IncomingOlder { .. })));

    let other = Bootstrap { cluster: "other".to_owned(), ..bootstrap() };
    let incoming = store.prepare_incoming().unwrap();
    let mut foreign = StateMachine::open(RocksEngine::create(&incoming, &small_options()).unwrap(), &other).unwrap();
    apply_in_runs(&mut foreign, &log, &[5]);
    drop(foreign);
    let is_other =
        |error: StoreError| matches!(error, StoreError::State { source: StateError::OtherCluster { .. }, .. });
    assert!(is_other(store.verify_incoming("test").unwrap_err()));
    assert!(is_other(store.switch_to_incoming(&machine).unwrap_err()));

    // The state in use is still in use.
    let before = hashes(&machine);
    machine.flush(true).unwrap();
    drop((store, machine));
    let (_store, machine) = StateStore::open(&state, small_options(), &bootstrap()).unwrap();
    assert_eq!(hashes(&machine), before);
}

#[test]
fn a_damaged_snapshot_is_not_switched_to() {
    let directory = tempfile::tempdir().unwrap();
    let (store, mut machine) =
        StateStore::open(&directory.path().join("state"), small_options(), &bootstrap()).unwrap();
    apply_in_runs(&mut machine, &log(200, 500), &[50]);
    let good = directory.path().join("good");
    machine.checkpoint(&good).unwrap();
    let tables = |directory: &Path| {
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect::<Vec<_>>()
    };
    for damage in ["flip", "cut", "remove"] {
        let incoming = store.prepare_incoming().unwrap();
        std::fs::remove_dir(&incoming).unwrap();
        copy_directory(&good, &incoming);
        let largest = tables(&incoming).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut bytes = std::fs::read(&largest).unwrap();
        match damage {
            "flip" => bytes[100] ^= 1,
            "cut" => bytes.truncate(bytes.len() / 2),
            _ => std::fs::remove_file(&largest).unwrap(),
        }
        if damage != "remove" {
            std::fs::write(&largest, bytes).unwrap();
        }
        let error = store.verify_incoming("test").unwrap_err();
        assert!(matches!(error, StoreError::State { .. }), "{damage}: {error}");
    }
}

#[test]
fn the_state_of_another_cluster_or_without_a_description_is_refused() {
    let engine = MemoryEngine::new();
    drop(open(engine.clone()));
    let other = Bootstrap { cluster: "other".to_owned(), ..bootstrap() };
    let error = StateMachine::open(engine.clone(), &other).unwrap_err();
    assert_eq!(error, StateError::OtherCluster { expected: "other".to_owned(), found: "test".to_owned() });
    // The members the state started with stay, whatever the configuration says later.
    let later = Bootstrap { membership: raft::Membership::new([NodeId(9)]), ..bootstrap() };
    assert_eq!(StateMachine::open(engine.clone(), &later).unwrap().membership(), &bootstrap().membership);

    let write = |engine: &MemoryEngine, table, key: &[u8], value: &[u8]| {
        use raftkv_storage::state::Batch as _;
        let mut batch = engine.batch(0);
        batch.put(table, key, value);
        engine.write(batch).unwrap();
    };
    write(&engine, Table::Meta, b"format", &9u32.to_be_bytes());
    let error = StateMachine::open(engine, &bootstrap()).unwrap_err();
    assert_eq!(error, StateError::UnknownFormat { found: 9, known: STATE_FORMAT });

    let headless = MemoryEngine::new();
    write(&headless, Table::History, b"x", b"y");
    let error = StateMachine::open(headless, &bootstrap()).unwrap_err();
    assert_eq!(error, StateError::DescriptionMissing { table: Table::History });
    assert_eq!(StateMachine::open_existing(MemoryEngine::new()).unwrap_err(), StateError::Empty);
}
