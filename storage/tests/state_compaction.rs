//! Compaction as a command: which revisions can be read afterwards. That rows go is a matter of each node's own.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use raftkv_storage::command::{Command, KeyRange, Put};
use raftkv_storage::state::{
    Batch, CommandOutcome, Cursor, Engine, MemoryEngine, ReadError, ScanOptions, Snapshot, StateMachine, Table,
};
use state_support::observed::ObservedEngine;
use state_support::{apply_at, one_at, open, plain};

/// One key with values at revisions 2 to 6.
fn five() -> StateMachine<MemoryEngine> {
    let mut machine = open(MemoryEngine::new());
    for value in [b"2", b"3", b"4", b"5", b"6"] {
        one_at(&mut machine, 0, Command::Put(Put::new(b"k", value)));
    }
    machine
}

fn compact(machine: &mut StateMachine<MemoryEngine>, revision: u64) -> CommandOutcome {
    one_at(machine, 0, Command::Compact { revision })
}

#[test]
fn what_is_before_the_revision_is_refused_and_the_revision_itself_is_read() {
    let mut machine = five();
    let reader = machine.reader();
    assert_eq!(compact(&mut machine, 4), CommandOutcome::Compacted { revision: 4 });
    assert_eq!((machine.revision(), reader.compacted_revision()), (6, 4), "it takes no revision");
    assert_eq!(reader.get(b"k", Some(4)).unwrap().unwrap().value, &b"4"[..]);
    let refused = ReadError::Compacted { requested: 3, compacted: 4 };
    assert_eq!(reader.get(b"k", Some(3)), Err(refused.clone()));
    assert_eq!(reader.count(KeyRange::ALL, Some(3)), Err(refused.clone()));
    let options = ScanOptions { revision: Some(3), ..ScanOptions::default() };
    assert_eq!(reader.scan(options).map(|_| ()).unwrap_err(), refused);
}

#[test]
fn a_compaction_that_is_not_ahead_of_the_last_or_ahead_of_the_state_changes_nothing() {
    let mut machine = five();
    assert_eq!(compact(&mut machine, 7), CommandOutcome::RevisionFuture { requested: 7, current: 6 });
    assert_eq!(compact(&mut machine, 6), CommandOutcome::Compacted { revision: 6 });
    for requested in [0, 5, 6] {
        let outcome = compact(&mut machine, requested);
        assert_eq!(outcome, CommandOutcome::RevisionCompacted { requested, compacted: 6 });
    }
    assert_eq!(machine.reader().compacted_revision(), 6);
}

#[test]
fn a_compaction_counts_for_what_comes_after_it_in_the_same_run_and_after_a_restart() {
    let engine = MemoryEngine::new();
    let mut machine = open(engine.clone());
    let put = || plain(Command::Put(Put::new(b"k", b"v")));
    let compact = |revision| plain(Command::Compact { revision });
    let results = apply_at(&mut machine, 0, &[put(), put(), compact(3), compact(2), put()]);
    assert_eq!(results[3], CommandOutcome::RevisionCompacted { requested: 2, compacted: 3 });
    machine.flush(true).unwrap();
    drop(machine);
    let machine = open(engine);
    assert_eq!(machine.reader().compacted_revision(), 3);
    let refused = ReadError::Compacted { requested: 2, compacted: 3 };
    assert_eq!(machine.reader().get(b"k", Some(2)), Err(refused));
}

/// Drops all history, as a node may once it is dead.
fn drop_history(engine: &MemoryEngine) {
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Table::History, b"", None);
    let mut batch = engine.batch(0);
    cursor.seek_first();
    while let Some((row, _)) = cursor.item() {
        batch.delete(Table::History, row);
        cursor.next();
    }
    engine.write(batch).unwrap();
}

#[test]
fn a_reader_that_a_compaction_overtakes_refuses_and_takes_no_hole_for_what_there_was() {
    let engine = ObservedEngine::default();
    let mut machine = open(engine.clone());
    for value in [b"2", b"3", b"4"] {
        one_at(&mut machine, 0, Command::Put(Put::new(b"k", value)));
    }
    let reader = machine.reader();
    assert_eq!(reader.get(b"k", Some(2)).unwrap().unwrap().value, &b"2"[..]);
    let memory = engine.inner.clone();
    engine.after_next_load(move || {
        one_at(&mut machine, 0, Command::Compact { revision: 4 });
        drop_history(&memory);
    });
    assert_eq!(reader.get(b"k", Some(2)), Err(ReadError::Compacted { requested: 2, compacted: 4 }));
    assert_eq!(reader.get(b"k", Some(4)).unwrap().unwrap().value, &b"4"[..]);
}
