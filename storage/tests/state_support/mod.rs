//! What the tests of the state machine share.

#![allow(dead_code, reason = "every test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

pub(crate) mod generate;
pub(crate) mod model;
pub(crate) mod observed;

use bytes::Bytes;
use raft::{Entry, EntryKind, LogIndex, Membership, NodeId, Term};
use raftkv_storage::command::{
    BatchEncoder, Command, Condition, EncodedCommand, KeyRange, LeaseBinding, Put, RangeLimits, SessionCall,
};
use raftkv_storage::state::{Applied, Bootstrap, CommandOutcome, Engine, RocksEngine, RocksOptions, StateMachine};
use std::path::Path;
use std::time::{Duration, Instant};

/// Delete as much as there is.
pub(crate) const NO_LIMITS: RangeLimits = RangeLimits { keys_max: u32::MAX, bytes_max: u64::MAX };

/// A command that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owned {
    Put { key: Vec<u8>, value: Vec<u8>, lease: u64, condition: Option<OwnedCondition>, previous: bool },
    Delete { start: Vec<u8>, end: Option<Vec<u8>>, limits: RangeLimits, previous: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedCondition {
    Absent,
    ModRevision(u64),
    Value(Vec<u8>),
}

impl Owned {
    pub(crate) fn borrow(&self) -> Command<'_> {
        match self {
            Owned::Put { key, value, lease, condition, previous } => Command::Put(Put {
                key,
                value: Some(value),
                lease: if *lease == 0 { LeaseBinding::None } else { LeaseBinding::Lease(*lease) },
                condition: condition.as_ref().map(|condition| match condition {
                    OwnedCondition::Absent => Condition::Absent,
                    OwnedCondition::ModRevision(revision) => Condition::ModRevision(*revision),
                    OwnedCondition::Value(value) => Condition::Value(value),
                }),
                previous: *previous,
            }),
            Owned::Delete { start, end, limits, previous } => Command::DeleteRange {
                range: KeyRange { start, end: end.as_deref() },
                limits: *limits,
                previous: *previous,
            },
        }
    }
}

pub(crate) fn put(key: &[u8], value: &[u8]) -> Owned {
    Owned::Put { key: key.to_vec(), value: value.to_vec(), lease: 0, condition: None, previous: false }
}

pub(crate) fn delete(key: &[u8]) -> Owned {
    Owned::Delete { start: key.to_vec(), end: Some([key, &[0]].concat()), limits: NO_LIMITS, previous: false }
}

/// Of everything in `start .. end`, which may be no more than `limits`.
pub(crate) fn delete_range(start: &[u8], end: Option<&[u8]>, limits: RangeLimits) -> Owned {
    Owned::Delete { start: start.to_vec(), end: end.map(<[u8]>::to_vec), limits, previous: false }
}

/// Entries from index 1 on, one per batch; an empty batch is a no-op entry.
pub(crate) fn entries(batches: &[Vec<Owned>]) -> Vec<Entry> {
    entries_from(1, batches)
}

pub(crate) fn entries_from(first: u64, batches: &[Vec<Owned>]) -> Vec<Entry> {
    let mut encoder = BatchEncoder::new();
    let mut entry = |(index, batch): (u64, &Vec<Owned>)| {
        let kind = if batch.is_empty() { EntryKind::Noop } else { EntryKind::Command };
        batch.iter().for_each(|command| encoder.append(&command.borrow()));
        let payload = if batch.is_empty() { Bytes::new() } else { encoder.take() };
        Entry { term: Term(1 + index / 7), index: LogIndex(index), kind, payload }
    };
    (first..).zip(batches).map(&mut entry).collect()
}

/// A command that comes in no session.
pub(crate) fn plain(command: Command<'_>) -> EncodedCommand {
    EncodedCommand::new(&command, None)
}

pub(crate) fn in_session(session: u64, sequence: u64, oldest: u64, command: Command<'_>) -> EncodedCommand {
    EncodedCommand::new(&command, Some(SessionCall { session, sequence, oldest }))
}

/// An entry with a batch that carries the cluster's time, if there is one.
pub(crate) fn batch_entry(index: u64, time_ms: Option<u64>, commands: &[EncodedCommand]) -> Entry {
    let mut encoder = BatchEncoder::new();
    commands.iter().for_each(|command| encoder.append_encoded(command));
    let payload = match time_ms {
        _ if commands.is_empty() => Bytes::new(),
        Some(time_ms) => encoder.take_at(time_ms),
        None => encoder.take(),
    };
    let kind = if commands.is_empty() { EntryKind::Noop } else { EntryKind::Command };
    Entry { term: Term(1 + index / 7), index: LogIndex(index), kind, payload }
}

/// Applies commands as one batch at a time of the cluster, and returns what became of each.
pub(crate) fn apply_at<E: Engine>(
    machine: &mut StateMachine<E>,
    time_ms: u64,
    commands: &[EncodedCommand],
) -> Vec<CommandOutcome> {
    let entry = batch_entry(machine.applied().index.0 + 1, Some(time_ms), commands);
    apply_in_runs(machine, &[entry], &[1]).remove(0).results
}

/// Applies one command that comes in no session.
pub(crate) fn one_at<E: Engine>(machine: &mut StateMachine<E>, time_ms: u64, command: Command<'_>) -> CommandOutcome {
    apply_at(machine, time_ms, &[plain(command)]).remove(0)
}

/// The range of one key.
pub(crate) fn only<'a>(key_and_zero: &'a [u8]) -> KeyRange<'a> {
    let (zero, key) = key_and_zero.split_last().unwrap();
    assert_eq!(*zero, 0, "written with a zero at its end");
    KeyRange { start: key, end: Some(key_and_zero) }
}

pub(crate) fn bootstrap() -> Bootstrap {
    Bootstrap { cluster: "test".to_owned(), membership: Membership::new([1, 2, 3].map(NodeId)) }
}

pub(crate) fn open<E: Engine>(engine: E) -> StateMachine<E> {
    StateMachine::open(engine, &bootstrap()).unwrap()
}

pub(crate) fn small_options() -> RocksOptions {
    RocksOptions { block_cache_bytes: 8 << 20, write_buffer_bytes: 1 << 20, ..RocksOptions::default() }
}

pub(crate) fn rocks(directory: &Path) -> StateMachine<RocksEngine> {
    open(RocksEngine::create(directory, &small_options()).unwrap())
}

/// Applies in runs of the given sizes, over and over.
pub(crate) fn apply_in_runs<E: Engine>(
    machine: &mut StateMachine<E>,
    entries: &[Entry],
    runs: &[usize],
) -> Vec<Applied> {
    let mut outcomes = Vec::new();
    let mut rest = entries;
    for size in runs.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (run, after) = rest.split_at((*size).clamp(1, rest.len()));
        machine.apply(run, &mut outcomes).unwrap();
        rest = after;
    }
    outcomes
}

pub(crate) fn apply<E: Engine>(machine: &mut StateMachine<E>, batches: &[Vec<Owned>]) -> Vec<Applied> {
    let entries = entries_from(machine.applied().index.0 + 1, batches);
    apply_in_runs(machine, &entries, &[usize::MAX])
}

/// What `kill -9` now would leave of a database: its files as they are.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Asks again until it is true, for half a minute at most.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::yield_now();
    }
}
