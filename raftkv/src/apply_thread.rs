//! The apply thread: the only one that writes to the state machine.
//!
//! What it does with a job is in `apply_worker.rs`; then the driver is told. Switching to a snapshot goes through here too, so that it
//! never meets an apply half-way.

use crate::apply_worker::ApplyWorker;
use crate::driver::{ApplyJob, Input, StateFacts};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::members::Members;
use crate::peers::PeersNote;
use crate::state::{NodeState, published};
use crate::watch::WatchBell;
use crossbeam_channel::Receiver;
use raft::{LogIndex, LogPosition};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::wal::{LogError, LogReader};

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
    /// What applies and answers.
    pub(crate) worker: ApplyWorker,
    /// The driver.
    pub(crate) driver: Inbox,
    /// Where to say that it cannot go on.
    pub(crate) failures: FailureReporter,
    /// Tells watchers that more is applied.
    pub(crate) watches: WatchBell,
    /// Says whether what is applied removes this node.
    pub(crate) members: Arc<Members>,
    /// Says whether others could repair this node, for the case that it loses something.
    pub(crate) peers: PeersNote,
}

impl ApplyThread {
    /// Runs until the sender of the jobs is gone, then flushes.
    pub(crate) fn run(mut self, jobs: &Receiver<StateJob>) {
        let mut flushed = (LogIndex::ZERO, None::<Instant>);
        let mut is_removed = false;
        for job in jobs {
            let done = match job {
                StateJob::Apply(job) => self.apply(job, &mut flushed),
                StateJob::Install { position, done } => self.install(position, done),
            };
            if let Err(error) = done {
                self.failures.report(error);
                return;
            }
            // Only now: it is in the state, so the next start knows it too.
            if !is_removed && self.members.removes_this_node(self.state.machine().membership()) {
                is_removed = true;
                self.failures.report(FatalError::Removed { node: self.members.own() });
            }
        }
        if let Err(error) = self.state.machine().flush(true) {
            self.failures.report(FatalError::State(error));
        }
    }

    fn install(&mut self, position: LogPosition, done: Box<dyn FnOnce() + Send>) -> Result<(), FatalError> {
        self.state.switch_to_received(position).map_err(FatalError::Install)?;
        self.note_peers()?;
        self.driver.push(Input::StateReplaced { facts: StateFacts::of(self.state.machine()) });
        self.watches.ring();
        done();
        Ok(())
    }

    fn apply(&mut self, job: ApplyJob, flushed: &mut (LogIndex, Option<Instant>)) -> Result<(), FatalError> {
        let (machine, shared) = self.state.parts();
        let format = machine.format();
        let watches = &self.watches;
        let index = self.worker.apply(machine, job, |machine, _| {
            shared.publish(published(machine));
            watches.ring();
        })?;
        if flushed.1.is_none_or(|asked| asked.elapsed() >= FLUSHED_INTERVAL) {
            *flushed = (self.state.machine().flushed().map_err(FatalError::State)?.index, Some(Instant::now()));
        }
        self.note_peers()?;
        let facts = StateFacts::of(self.state.machine());
        if facts.format != format {
            tracing::info!(format = facts.format, "the format was raised: every member knows it");
        }
        self.driver.push(Input::Applied { index, flushed: flushed.0, facts });
        Ok(())
    }

    /// Before the driver hears of what is applied, and lets the log go that has it too.
    fn note_peers(&mut self) -> Result<(), FatalError> {
        let machine = self.state.machine();
        let noted = self.peers.follow(machine.applied().index, machine.membership());
        noted.map_err(|source| FatalError::Marker { path: self.peers.path(), source })
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
