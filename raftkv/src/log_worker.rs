//! What the log thread does with one batch of work, without the thread.
//!
//! Each call is carried out at once and is durable when it returns; the answer is the driver's next input. The log thread calls
//! it for whatever has gathered in its channel, the simulator at the moment at which the write ends in its time.

use crate::driver::{Input, PersistJob};
use raft::{InstallSnapshot, LogPosition};
use storage::wal::{LogError, LogStore, LogWrite};

/// The log, and the one way to it. After an error nothing more may be asked of it: the node stops (scenarios 16 and 53).
#[derive(Debug)]
pub struct LogWorker<L> {
    log: L,
}

impl<L: LogStore> LogWorker<L> {
    /// Takes the log over.
    pub fn new(log: L) -> LogWorker<L> {
        LogWorker { log }
    }

    /// Writes all that is gathered, which must not be nothing, with one flush. Leaves it empty.
    ///
    /// # Errors
    /// Any error of the log is fatal.
    pub fn write(&mut self, gathered: &mut Vec<PersistJob>) -> Result<Input, LogError> {
        let mark = gathered.iter().rev().find_map(|job| job.mark);
        let hard_state_sequence = gathered.last().expect("gathering starts with one write").hard_state_sequence;
        let writes: Vec<LogWrite> =
            gathered.drain(..).map(|job| LogWrite { hard_state: job.hard_state, entries: job.entries }).collect();
        self.log.write(&writes)?;
        Ok(Input::Durable { mark, hard_state_sequence, log_bytes: self.log.bytes() })
    }

    /// Drops the log up to `position`.
    ///
    /// # Errors
    /// Any error of the log is fatal.
    pub fn compact(&mut self, position: LogPosition) -> Result<Input, LogError> {
        self.log.compact(position)?;
        Ok(Input::Compacted { position, log_bytes: self.log.bytes() })
    }

    /// The state machine has switched to a snapshot: starts the log after it. When this returns, state and log agree again, and
    /// the note about the installation may go.
    ///
    /// # Errors
    /// Any error of the log is fatal.
    pub fn start_after(&mut self, install: InstallSnapshot) -> Result<Input, LogError> {
        let InstallSnapshot { position, keep_suffix } = install;
        if keep_suffix {
            self.log.compact(position)?
        } else {
            self.log.reset(position)?
        }
        Ok(Input::SnapshotInstalled { position, log_bytes: self.log.bytes() })
    }
}
