//! The log against a disk that dies at any operation, any number of times: what was acknowledged is there, at most the one
//! operation under way is there besides, and never anything else.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

mod wal_common;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use raft::{HardState, LogIndex, LogPosition, NodeId, Term};
use raftkv_storage::wal::{LogError, LogStore, LogWrite, OpenError, SegmentedLog};
use std::sync::Arc;
use wal_common::{Fault, FaultDisk, Model, read_all, run, small_config};

#[derive(Clone, Debug)]
enum Operation {
    Write { batches: Vec<Batch> },
    Compact { keep: u64 },
    Reset { ahead: u64 },
    Reopen,
}

#[derive(Clone, Debug)]
struct Batch {
    back: u64,
    count: u64,
    bytes: usize,
    new_term: bool,
    hard_state: bool,
}

fn batch() -> impl Strategy<Value = Batch> {
    let bytes = prop_oneof![4 => 0..300usize, 2 => 300..3000usize, 1 => 4000..9000usize];
    let back = prop_oneof![3 => Just(0u64), 1 => 0..6u64];
    (back, 0..5u64, bytes, any::<bool>(), any::<bool>()).prop_map(|(back, count, bytes, new_term, hard_state)| Batch {
        back,
        count,
        bytes,
        new_term,
        hard_state,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => prop::collection::vec(batch(), 1..4).prop_map(|batches| Operation::Write { batches }),
        2 => (0..12u64).prop_map(|keep| Operation::Compact { keep }),
        1 => (0..5u64).prop_map(|ahead| Operation::Reset { ahead }),
        1 => Just(Operation::Reopen),
    ]
}

/// Turns a drawn operation into one that is allowed in this state, and carries it out on the model.
enum Step {
    Write(Vec<LogWrite>),
    Compact(LogPosition),
    Reset(LogPosition),
    Reopen,
}

fn plan(operation: &Operation, model: &mut Model) -> Step {
    match operation {
        Operation::Reopen => Step::Reopen,
        Operation::Reset { ahead } => {
            let last = model.last();
            let start = LogPosition { term: Term(last.term.0 + 1), index: LogIndex(last.index.0 + ahead) };
            model.reset(start);
            Step::Reset(start)
        }
        Operation::Compact { keep } => {
            let at = model.entries.len().saturating_sub(usize::try_from(*keep).unwrap());
            let Some(position) = at.checked_sub(1).map(|at| model.entries[at].position()) else { return Step::Reopen };
            model.compact(position);
            Step::Compact(position)
        }
        Operation::Write { batches } => {
            let mut writes = Vec::new();
            for batch in batches {
                let last = model.last();
                let back = batch.back.min(model.entries.len() as u64);
                let term = last.term.0.max(1) + u64::from(batch.new_term || back > 0);
                let mut write = run(term, last.index.0 - back + 1, batch.count, batch.bytes);
                if batch.hard_state {
                    let term = Term(model.hard_state.term.0.max(term));
                    let vote = if term == model.hard_state.term { model.hard_state.vote } else { None };
                    write.hard_state = Some(HardState { term, vote: vote.or(Some(NodeId(term.0 % 3 + 1))) });
                }
                model.write(std::slice::from_ref(&write));
                writes.push(write);
            }
            Step::Write(writes)
        }
    }
}

fn carry_out(log: &mut SegmentedLog, step: &Step) -> Result<(), LogError> {
    match step {
        Step::Write(writes) => log.write(writes),
        Step::Compact(position) => log.compact(*position),
        Step::Reset(start) => log.reset(*start),
        Step::Reopen => Ok(()),
    }
}

/// Opens the log, however often the disk dies while it does.
fn open_at_last(disk: &FaultDisk, crashes: &mut impl Iterator<Item = Crash>) -> (SegmentedLog, Model) {
    loop {
        match SegmentedLog::open_on(Arc::new(disk.clone()), small_config()) {
            Ok((log, recovered)) => {
                let model = Model::of(&log, &recovered);
                return (log, model);
            }
            Err(OpenError::Log(_)) if disk.is_dead() => crash(disk, crashes),
            Err(error) => panic!("the log does not open: {error}"),
        }
    }
}

#[derive(Clone, Debug)]
struct Crash {
    after: u64,
    power: bool,
}

/// The crash that was due happens, and the next one is set.
fn crash(disk: &FaultDisk, crashes: &mut impl Iterator<Item = Crash>) {
    let next = crashes.next();
    if next.as_ref().is_none_or(|crash| crash.power) {
        disk.cut_power()
    } else {
        disk.crash_process()
    }
    let at = next.map(|crash| Fault::Dies { at: disk.operations() + crash.after });
    disk.set_fault(at);
}

fn check(seed: u64, operations: &[Operation], crashes: Vec<Crash>) {
    let disk = FaultDisk::new(seed);
    let mut crashes = crashes.into_iter();
    crash(&disk, &mut crashes);
    let (mut log, mut model) = open_at_last(&disk, &mut crashes);
    assert_eq!(model, Model::default());
    for operation in operations {
        let before = model.clone();
        let step = plan(operation, &mut model);
        let done = carry_out(&mut log, &step).is_ok();
        if done && !matches!(step, Step::Reopen) {
            assert_eq!(read_all(&log, model.start, model.last().index), model.entries);
            continue;
        }
        drop(log);
        if disk.is_dead() {
            crash(&disk, &mut crashes);
        }
        let (reopened, found) = open_at_last(&disk, &mut crashes);
        if done {
            assert_eq!(found, model, "everything acknowledged, nothing else");
        } else {
            assert!(found == before || found == model, "found {found:#?}\nbefore {before:#?}\nafter {model:#?}");
        }
        (log, model) = (reopened, found);
    }
    drop(log);
    disk.cut_power();
    let (_, found) = open_at_last(&disk, &mut std::iter::empty());
    assert_eq!(found, model);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_260_101),
        ..ProptestConfig::default()
    })]

    #[test]
    fn acknowledged_writes_survive_any_crash(
        seed in any::<u64>(),
        operations in prop::collection::vec(operation(), 1..60),
        crashes in prop::collection::vec((1..60u64, any::<bool>()).prop_map(|(after, power)| Crash { after, power }), 0..12),
    ) {
        check(seed, &operations, crashes);
    }
}

/// Recycling, rolling and a write larger than a segment, with the machine dying at every single operation of them.
#[test]
fn crash_at_every_operation_of_recycling_recovers() {
    let plain = |count, bytes| Operation::Write {
        batches: vec![Batch { back: 0, count, bytes, new_term: false, hard_state: true }],
    };
    let mut operations = Vec::new();
    for round in 0..4 {
        operations.extend([plain(4, 2000), plain(2, 3000), plain(1, 9000), Operation::Compact { keep: round }]);
    }
    operations.extend([plain(5, 7000), Operation::Reset { ahead: 3 }, plain(3, 3000), plain(4, 2500)]);
    for power in [false, true] {
        for after in 1..160 {
            for seed in 0..3 {
                check(seed, &operations, vec![Crash { after, power }, Crash { after: u64::MAX / 2, power }]);
            }
        }
    }
}
