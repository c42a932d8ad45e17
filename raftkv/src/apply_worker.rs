//! What the apply thread does with one job, without the thread.
//!
//! Each job is some committed entries. They become one atomic batch in the engine, or several, one after the other, if what they return is much; after each the clients that wait for its
//! entries are answered.

use crate::driver::{ApplyEntries, ApplyJob, EntryWaiters, WriteOutcome, WriteRefusal};
use crate::failure::FatalError;
use raft::{Entry, LogIndex, LogRange};
use std::collections::VecDeque;
use storage::state::{Applied, Engine, StateMachine};
use storage::wal::LogReader;

/// Bytes of entries read from disk at a time.
const READ_BYTES_MAX: usize = 8 << 20;

/// Applies jobs, one after the other. The state machine is handed in with each, because a snapshot replaces it in between.
#[derive(Debug)]
pub struct ApplyWorker {
    /// The log, for entries that are not in the core's cache.
    log: LogReader,
    outcomes: Vec<Applied>,
}

impl ApplyWorker {
    /// A worker that finds in `log` what a job does not bring.
    #[must_use]
    pub fn new(log: LogReader) -> ApplyWorker {
        ApplyWorker { log, outcomes: Vec::new() }
    }

    /// Applies the job and answers its waiters. Returns the last index applied.
    ///
    /// `publish` is called after each batch with the entries in it, before any waiter hears of them: whoever is answered finds
    /// the write in the state.
    ///
    /// # Errors
    /// Any error is fatal: what became of the batch is not known until the next start.
    pub fn apply<E: Engine>(
        &mut self,
        machine: &mut StateMachine<E>,
        job: ApplyJob,
        mut publish: impl FnMut(&StateMachine<E>, &[Entry]),
    ) -> Result<LogIndex, FatalError> {
        let mut waiters: VecDeque<EntryWaiters> = job.waiters.into();
        let index = match job.entries {
            ApplyEntries::Cached(entries) => self.apply_entries(machine, &entries, &mut waiters, &mut publish)?,
            ApplyEntries::OnDisk(LogRange { mut first, last }) => {
                while first <= last {
                    let range = LogRange { first, last };
                    let entries = self.log.entries(range, READ_BYTES_MAX).map_err(FatalError::Log)?;
                    first = self.apply_entries(machine, &entries, &mut waiters, &mut publish)?.next();
                }
                last
            }
        };
        assert!(waiters.is_empty(), "{} waiters wait for entries that were not in their job", waiters.len());
        Ok(index)
    }

    fn apply_entries<E: Engine>(
        &mut self,
        machine: &mut StateMachine<E>,
        entries: &[Entry],
        waiters: &mut VecDeque<EntryWaiters>,
        publish: &mut impl FnMut(&StateMachine<E>, &[Entry]),
    ) -> Result<LogIndex, FatalError> {
        let last = entries
            .last()
            .expect("an apply run has entries: the core hands out no empty range, the log reads at least one");
        let mut rest = entries;
        while !rest.is_empty() {
            self.outcomes.clear();
            machine.apply_run(rest, &mut self.outcomes).map_err(FatalError::State)?;
            let (run, later) = rest.split_at(self.outcomes.len());
            rest = later;
            publish(machine, run);
            for (entry, applied) in run.iter().zip(self.outcomes.drain(..)) {
                assert_eq!(entry.index, applied.index, "outcomes come in the order of the entries");
                if waiters.front().is_some_and(|waiting| waiting.position.index == entry.index) {
                    let waiting = waiters.pop_front().expect("the front was just looked at");
                    answer(waiting, entry, applied, machine.revision());
                }
            }
        }
        Ok(last.index)
    }
}

fn answer(waiting: EntryWaiters, entry: &Entry, applied: Applied, revision: u64) {
    if waiting.position.term != entry.term {
        // Another leader's entry was committed in its place: these commands are certainly not applied.
        for waiter in waiting.waiters {
            waiter(Err(WriteRefusal::NotLeader { leader: None }));
        }
        return;
    }
    assert_eq!(waiting.waiters.len(), applied.results.len(), "each command of entry {} has one waiter", entry.index);
    for (waiter, outcome) in waiting.waiters.into_iter().zip(applied.results) {
        waiter(Ok(WriteOutcome { index: entry.index, revision, outcome }));
    }
}
