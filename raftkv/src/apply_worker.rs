//! What the apply thread does with one job, without the thread.
//!
//! Each job is a run of committed entries and becomes one atomic batch in the engine; then the clients that wait for these
//! entries are answered. Entries whose commands together may hold too many values in memory, because they return or keep them, are applied in several runs.

use crate::driver::{ApplyEntries, ApplyJob, EntryWaiters, WriteOutcome, WriteRefusal};
use crate::failure::FatalError;
use raft::{Entry, EntryKind, LogIndex, LogRange};
use std::collections::VecDeque;
use storage::command::{VALUES_HELD_MAX, values_held};
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
        for run in runs(entries) {
            self.outcomes.clear();
            machine.apply(run, &mut self.outcomes).map_err(FatalError::State)?;
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

/// The entries in runs that hold no more values than they may, or one entry that does by itself.
fn runs(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut held = entries.first().map_or(0, values_held_by);
    entries.chunk_by(move |_, next| {
        let held_by_next = values_held_by(next);
        let together = held.saturating_add(held_by_next);
        let fits = together <= VALUES_HELD_MAX;
        held = if fits { together } else { held_by_next };
        fits
    })
}

fn values_held_by(entry: &Entry) -> u32 {
    match entry.kind {
        EntryKind::Command => values_held(&entry.payload),
        EntryKind::Noop | EntryKind::Membership => 0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft::Term;
    use storage::command::{BatchEncoder, Command, KeyRange, Put, RangeLimits};

    #[test]
    fn a_run_holds_no_more_values_than_it_may() {
        let limits = RangeLimits { keys_max: 1, bytes_max: 1 };
        let put = Command::Put(Put::new(b"k", b"v"));
        let range = Command::DeleteRange { range: KeyRange { start: b"a", end: None }, limits, previous: false };
        let returned = Command::Put(Put { previous: true, ..Put::new(b"k", b"v") });
        let most = vec![returned.clone(); VALUES_HELD_MAX as usize];
        let lengths = |batches: &[&[Command<'_>]]| -> Vec<usize> {
            let entry = |(index, commands): (u64, &&[Command<'_>])| {
                let mut encoder = BatchEncoder::new();
                commands.iter().for_each(|command| encoder.append(command));
                Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload: encoder.take() }
            };
            let noop = Entry { term: Term(1), index: LogIndex(9), kind: EntryKind::Noop, payload: Bytes::new() };
            let entries: Vec<Entry> = (1..).zip(batches).map(entry).chain([noop]).collect();
            runs(&entries).map(<[Entry]>::len).collect()
        };
        let (put, range, returned) = (&[put][..], &[range][..], &[returned][..]);
        assert_eq!(lengths(&[put, range, range, put, put]), [2, 4]);
        assert_eq!(lengths(&[returned, range, returned, returned]), [1, 1, 3]);
        assert_eq!(lengths(&[&most[1..], returned, returned, &most]), [2, 1, 2]);
        assert_eq!(lengths(&[]), [1]);
    }
}
