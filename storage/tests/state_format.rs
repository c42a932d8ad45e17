//! The format in effect and the cluster's time as part of the state (scenario 63).

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raft::{Entry, EntryKind, LogIndex, Term};
use raftkv_storage::command::{BatchEncoder, Command, LeaseBinding, Put};
use raftkv_storage::state::{
    CommandOutcome, FORMAT_WITH_TIME, MemoryEngine, STATE_FORMAT, STATE_FORMAT_OLDEST, StateError, StateMachine,
};
use state_support::{apply_in_runs, open};

fn batch(index: u64, command: &Command<'_>, time_ms: Option<u64>) -> Entry {
    let mut encoder = BatchEncoder::new();
    encoder.append(command);
    let payload: Bytes = match time_ms {
        Some(time_ms) => encoder.take_at(time_ms),
        None => encoder.take(),
    };
    Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload }
}

const WRITE: Command<'static> =
    Command::Put(Put { key: b"k", value: Some(b"v"), lease: LeaseBinding::None, condition: None, previous: false });

fn raise(index: u64, to: u32) -> Entry {
    batch(index, &Command::RaiseFormat { to }, None)
}

fn log() -> Vec<Entry> {
    vec![
        batch(1, &WRITE, None),
        raise(2, FORMAT_WITH_TIME),
        batch(3, &WRITE, Some(5_000)),
        // The next leader's clock is behind.
        batch(4, &WRITE, Some(4_000)),
        raise(5, FORMAT_WITH_TIME),
        batch(6, &WRITE, Some(5_001)),
    ]
}

#[test]
fn format_and_time_are_the_same_however_runs_are_cut() {
    let mut hashes = Vec::new();
    for runs in [&[1][..], &[6], &[2, 4], &[3]] {
        let engine = MemoryEngine::new();
        let mut machine = open(engine.clone());
        assert_eq!((machine.format(), machine.time_ms()), (STATE_FORMAT_OLDEST, 0), "a new state");
        let outcomes = apply_in_runs(&mut machine, &log()[..4], runs);
        assert_eq!(outcomes[1].results, [CommandOutcome::FormatRaised { format: FORMAT_WITH_TIME }]);
        assert_eq!((machine.format(), machine.time_ms()), (FORMAT_WITH_TIME, 5_000), "time does not go back");
        apply_in_runs(&mut machine, &log()[4..], runs);
        assert_eq!((machine.format(), machine.time_ms()), (FORMAT_WITH_TIME, 5_001));
        assert_eq!(machine.reader().time_ms(), 5_001);
        hashes.push((machine.state_hash(), machine.reader().content_hash().unwrap()));
        machine.flush(true).unwrap();
        drop(machine);
        let machine = open(engine);
        assert_eq!((machine.format(), machine.time_ms()), (FORMAT_WITH_TIME, 5_001), "after a restart");
        assert_eq!(machine.reader().time_ms(), 5_001, "after a restart");
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

#[test]
fn the_format_is_raised_one_step_at_a_time_up_to_the_newest() {
    let mut machine = open(MemoryEngine::new());
    let log = [raise(1, 4), raise(2, 3), raise(3, 3), raise(4, 4), raise(5, 3)];
    let outcomes = apply_in_runs(&mut machine, &log, &[2]);
    let found: Vec<_> = outcomes.into_iter().flat_map(|applied| applied.results).collect();
    assert_eq!(found, [2, 3, 3, 4, 4].map(|format| CommandOutcome::FormatRaised { format }));
    assert_eq!(machine.format(), STATE_FORMAT);
}

#[test]
fn the_time_counts_in_the_hash() {
    let hash = |time_ms| {
        let mut machine = open(MemoryEngine::new());
        apply_in_runs(&mut machine, &[batch(1, &WRITE, Some(time_ms))], &[1]);
        machine.state_hash()
    };
    assert_ne!(hash(5_000), hash(5_001));
}

#[test]
fn a_raise_to_what_is_not_known_stops_before_anything_is_applied() {
    let mut machine = open(MemoryEngine::new());
    machine.hold_format(STATE_FORMAT_OLDEST).unwrap();
    let mut outcomes = Vec::new();
    let error = machine.apply(&log()[..3], &mut outcomes).unwrap_err();
    assert_eq!(error, StateError::UnknownFormat { found: FORMAT_WITH_TIME, known: STATE_FORMAT_OLDEST });
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!((machine.applied().index, outcomes.len()), (LogIndex(0), 0));
}

#[test]
fn a_program_that_does_not_know_the_format_does_not_open_the_state() {
    let engine = MemoryEngine::new();
    let mut machine = open(engine.clone());
    apply_in_runs(&mut machine, &log(), &[6]);
    machine.flush(true).unwrap();
    let mut machine = StateMachine::open_existing(engine).unwrap();
    let error = machine.hold_format(STATE_FORMAT_OLDEST).unwrap_err();
    assert_eq!(error, StateError::UnknownFormat { found: FORMAT_WITH_TIME, known: STATE_FORMAT_OLDEST });
}
