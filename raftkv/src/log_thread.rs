//! The log thread: the only one that writes to the log.
//!
//! It takes everything that waits, writes it together and makes it durable with one fdatasync, then tells the driver. What
//! arrives during the fdatasync makes the next write. If writing fails, nothing more is acknowledged and the node stops
//! (scenarios 16 and 53).

use crate::driver::PersistJob;
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::log_worker::LogWorker;
use crossbeam_channel::Receiver;
use raft::{InstallSnapshot, LogPosition};
use storage::wal::LogStore;

/// Entries' bytes written together, beyond which the rest waits for the next write.
const GATHER_BYTES_MAX: usize = 4 << 20;

/// What the log thread is asked to do. In order.
pub(crate) enum LogJob {
    /// Write and make durable.
    Persist(PersistJob),
    /// Drop the log up to here.
    Compact(LogPosition),
    /// The state machine has switched to a snapshot: start the log after it, then call `finished`.
    Install {
        /// The snapshot.
        install: InstallSnapshot,
        /// Called when the log is durable.
        finished: Box<dyn FnOnce() + Send>,
    },
}

/// Runs until the sender of the jobs is gone.
pub(crate) fn run<L: LogStore>(log: L, jobs: &Receiver<LogJob>, driver: &Inbox, failures: &FailureReporter) {
    let mut log = LogWorker::new(log);
    let mut gathered = Vec::new();
    let mut next = None;
    while let Some(job) = next.take().or_else(|| jobs.recv().ok()) {
        let done = match job {
            LogJob::Persist(job) => {
                next = gather(job, jobs, &mut gathered);
                log.write(&mut gathered)
            }
            LogJob::Compact(position) => log.compact(position),
            LogJob::Install { install, finished } => log.start_after(install).inspect(|_| finished()),
        };
        match done {
            Ok(input) => driver.push(input),
            Err(error) => {
                failures.report(FatalError::Log(error));
                return;
            }
        }
    }
}

/// Takes further writes that wait already. Returns the job that ended the gathering, if it is not a write.
fn gather(first: PersistJob, jobs: &Receiver<LogJob>, gathered: &mut Vec<PersistJob>) -> Option<LogJob> {
    let mut bytes = payload_bytes(&first);
    gathered.push(first);
    while bytes < GATHER_BYTES_MAX {
        match jobs.try_recv() {
            Ok(LogJob::Persist(job)) => {
                bytes += payload_bytes(&job);
                gathered.push(job);
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

fn payload_bytes(job: &PersistJob) -> usize {
    job.entries.iter().map(|entry| entry.payload.len()).sum()
}
