//! The apply thread: the only one that writes to the state machine.
//!
//! Each job is a run of committed entries and becomes one atomic batch in the engine; then the clients that wait for these
//! entries are answered, then the driver is told. An entry that deletes a range ends a batch, because all that it deletes lies in
//! memory until the batch is written and the clients are answered: so there is one such entry at a time. Switching to a snapshot
//! goes through here too, so that it never meets an apply half-way.

use crate::driver::{ApplyEntries, ApplyJob, EntryWaiters, Input, WriteOutcome, WriteRefusal};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::state::NodeState;
use crossbeam_channel::Receiver;
use raft::{Entry, EntryKind, LogIndex, LogPosition, LogRange};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use storage::command::deletes_a_range;
use storage::state::Applied;
use storage::wal::{LogError, LogReader};

/// Bytes of entries read from disk at a time.
const READ_BYTES_MAX: usize = 8 << 20;
/// How often RocksDB is asked what it has flushed.
const FLUSHED_INTERVAL: Duration = Duration::from_millis(250);

/// What the apply thread is asked to do. In order.
pub(crate) enum StateJob {
    /// Apply entries.
    Apply(ApplyJob),
    /// Switch to the snapshot that was received.
    Install {
        /// Its position.
        position: LogPosition,
        /// Called when the switch is durable.
        done: Box<dyn FnOnce() + Send>,
    },
}

/// Everything the thread works with.
pub(crate) struct ApplyThread {
    /// The state machine and the readers' view of it.
    pub(crate) state: NodeState,
    /// The log, for entries that are not in the core's cache.
    pub(crate) log: LogReader,
    /// The driver.
    pub(crate) driver: Inbox,
    /// Where to say that it cannot go on.
    pub(crate) failures: FailureReporter,
}

impl ApplyThread {
    /// Runs until the sender of the jobs is gone, then flushes.
    pub(crate) fn run(mut self, jobs: &Receiver<StateJob>) {
        let mut outcomes = Vec::new();
        let mut flushed = (LogIndex::ZERO, None::<Instant>);
        for job in jobs {
            let done = match job {
                StateJob::Apply(job) => self.apply(job, &mut outcomes, &mut flushed),
                StateJob::Install { position, done } => self.install(position, done),
            };
            if let Err(error) = done {
                self.failures.report(error);
                return;
            }
        }
        if let Err(error) = self.state.machine().flush(true) {
            self.failures.report(FatalError::State(error.into()));
        }
    }

    fn install(&mut self, position: LogPosition, done: Box<dyn FnOnce() + Send>) -> Result<(), FatalError> {
        self.state.switch_to_received(position).map_err(FatalError::Install)?;
        done();
        Ok(())
    }

    fn apply(
        &mut self,
        job: ApplyJob,
        outcomes: &mut Vec<Applied>,
        flushed: &mut (LogIndex, Option<Instant>),
    ) -> Result<(), FatalError> {
        let mut waiters: VecDeque<EntryWaiters> = job.waiters.into();
        let index = match job.entries {
            ApplyEntries::Cached(entries) => self.apply_entries(&entries, &mut waiters, outcomes)?,
            ApplyEntries::OnDisk(range) => self.apply_from_disk(range, &mut waiters, outcomes)?,
        };
        assert!(waiters.is_empty(), "{} waiters wait for entries that were not in their job", waiters.len());
        if flushed.1.is_none_or(|asked| asked.elapsed() >= FLUSHED_INTERVAL) {
            *flushed = (self.state.machine().flushed().map_err(FatalError::State)?.index, Some(Instant::now()));
        }
        self.driver.push(Input::Applied { index, flushed: flushed.0 });
        Ok(())
    }

    fn apply_from_disk(
        &mut self,
        range: LogRange,
        waiters: &mut VecDeque<EntryWaiters>,
        outcomes: &mut Vec<Applied>,
    ) -> Result<LogIndex, FatalError> {
        let mut first = range.first;
        while first <= range.last {
            let entries =
                self.log.entries(LogRange { first, last: range.last }, READ_BYTES_MAX).map_err(FatalError::Log)?;
            first = self.apply_entries(&entries, waiters, outcomes)?.next();
        }
        Ok(range.last)
    }

    fn apply_entries(
        &mut self,
        entries: &[Entry],
        waiters: &mut VecDeque<EntryWaiters>,
        outcomes: &mut Vec<Applied>,
    ) -> Result<LogIndex, FatalError> {
        let last = entries
            .last()
            .expect("an apply run has entries: the core hands out no empty range, the log reads at least one");
        for run in runs(entries) {
            outcomes.clear();
            self.state.machine().apply(run, outcomes).map_err(FatalError::State)?;
            self.state.publish();
            for (entry, applied) in run.iter().zip(outcomes.drain(..)) {
                assert_eq!(entry.index, applied.index, "outcomes come in the order of the entries");
                if waiters.front().is_some_and(|waiting| waiting.position.index == entry.index) {
                    let waiting = waiters.pop_front().expect("the front was just looked at");
                    answer(waiting, entry, applied);
                }
            }
        }
        Ok(last.index)
    }
}

/// The entries in runs, each of which ends with the first entry in it that deletes a range.
fn runs(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    entries.split_inclusive(|entry| entry.kind == EntryKind::Command && deletes_a_range(&entry.payload))
}

fn answer(waiting: EntryWaiters, entry: &Entry, applied: Applied) {
    if waiting.position.term != entry.term {
        // Another leader's entry was committed in its place: these commands are certainly not applied.
        for waiter in waiting.waiters {
            waiter(Err(WriteRefusal::NotLeader { leader: None }));
        }
        return;
    }
    assert_eq!(waiting.waiters.len(), applied.results.len(), "each command of entry {} has one waiter", entry.index);
    for (waiter, outcome) in waiting.waiters.into_iter().zip(applied.results) {
        waiter(Ok(WriteOutcome { index: entry.index, outcome }));
    }
}

/// Reads entries for followers that are behind the core's cache. Runs until the sender is gone.
pub(crate) fn run_loader(log: &LogReader, loads: &Receiver<raft::Load>, driver: &Inbox, failures: &FailureReporter) {
    for load in loads {
        let entries = match log.entries(load.entries, load.bytes_max) {
            Ok(entries) => entries,
            // Dropped or replaced since it was asked for: the core asks again for what it still needs.
            Err(LogError::Compacted { .. } | LogError::NotWritten { .. }) => Vec::new(),
            Err(error) => {
                failures.report(FatalError::Log(error));
                return;
            }
        };
        driver.push(Input::Loaded { peer: load.peer, entries });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft::Term;
    use storage::command::{BatchEncoder, Command, DeleteLimits, KeyRange};

    #[test]
    fn an_entry_that_deletes_a_range_ends_a_run() {
        let limits = DeleteLimits { keys_max: 1, bytes_max: 1 };
        let delete = |start, end| Command::DeleteRange { range: KeyRange { start, end }, limits, previous: false };
        let put = Command::Put { key: b"k", value: b"v", lease: 0, condition: None, previous: false };
        let key = delete(b"k", Some(b"k\0"));
        let range = delete(b"a", None);
        let entries: Vec<Entry> = (1..)
            .zip([put, range, range, key, put])
            .map(|(index, command)| {
                let mut encoder = BatchEncoder::new();
                encoder.append(&command);
                Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload: encoder.take() }
            })
            .chain([Entry { term: Term(1), index: LogIndex(6), kind: EntryKind::Noop, payload: Bytes::new() }])
            .collect();
        let lengths: Vec<usize> = runs(&entries).map(<[Entry]>::len).collect();
        assert_eq!(lengths, [2, 1, 3]);
    }
}
