//! What the driver hands to the log thread and the apply thread.

use super::WriteWaiter;
use raft::{Entry, HardState, Instant, LogMark, LogPosition, LogRange};

/// One write to the log.
#[derive(Debug)]
pub struct PersistJob {
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Reported back when durable.
    pub hard_state_sequence: u64,
    /// Entries to append; the first may replace the end of the log.
    pub entries: Vec<Entry>,
    /// Reported back when durable.
    pub mark: Option<LogMark>,
}

/// Committed entries to apply.
pub struct ApplyJob {
    /// The entries.
    pub entries: ApplyEntries,
    /// Who waits for which of them, by ascending index.
    pub waiters: Vec<EntryWaiters>,
}

/// Where the entries of an apply job are.
pub enum ApplyEntries {
    /// Here.
    Cached(Vec<Entry>),
    /// In the log on disk.
    OnDisk(LogRange),
}

/// The waiters of one entry, in the order of its commands.
pub struct EntryWaiters {
    /// Where the entry was proposed. If another entry is committed there, these commands were not applied.
    pub position: LogPosition,
    /// When.
    pub proposed_at: Instant,
    /// One for each command of the entry.
    pub waiters: Vec<WriteWaiter>,
    /// What its commands count for at the admission.
    pub cost: usize,
}
