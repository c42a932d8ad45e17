//! What can go wrong, one enum per operation.

use super::HighWaterMark;
use raft::{GroupId, LogIndex};
use std::io;
use std::path::{Path, PathBuf};

/// Why a call on an open log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The entries have been compacted away. The log is fine.
    #[error("log entry {first} has been compacted away: the log starts after {start}")]
    Compacted {
        /// The first entry asked for.
        first: LogIndex,
        /// The last index that is gone.
        start: LogIndex,
    },
    /// The entries are beyond the end of the log. The log is fine.
    #[error("log entry {first} is not written: the log ends at {last}")]
    NotWritten {
        /// The first entry asked for.
        first: LogIndex,
        /// The last index there is.
        last: LogIndex,
    },
    /// The disk is full. The log is poisoned; what was acknowledged is safe.
    #[error("no space to {operation} {}: free some space on that file system, then start again", file.display())]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk failed. The log is poisoned; whether the write happened is decided at the next start.
    #[error("could not {operation} {}: check the disk (kernel log, SMART), then start again", file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A record that was written and indexed does not read back. The log is poisoned.
    #[error("log record damaged in {} at offset {offset}: {damage}; stop the node and inspect with `raftkv inspect wal`", file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        damage: Damage,
    },
    /// An earlier call failed, and after an I/O failure no more work is accepted.
    #[error("the log stopped after a failure to {operation} {} ({kind}): restart the node", file.display())]
    Poisoned {
        /// What failed first.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What kind of failure.
        kind: io::ErrorKind,
    },
}

impl LogError {
    pub(super) fn io(operation: &'static str, file: &Path, source: io::Error) -> LogError {
        let file = file.to_path_buf();
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            LogError::DiskFull { operation, file, source }
        } else {
            LogError::Io { operation, file, source }
        }
    }
}

/// What is wrong with a place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No record header with a valid checksum.
    #[error("no valid record header")]
    Header,
    /// The header is valid and says the record goes beyond the end of the file.
    #[error("the record's {bytes} bytes go beyond the end of the file")]
    Length {
        /// The length of the body.
        bytes: u64,
    },
    /// The header is valid, the body is not what it was.
    #[error("the record's body does not match its checksum")]
    Body,
    /// Valid checksums around something that makes no sense.
    #[error("the record makes no sense: {reason}")]
    Malformed {
        /// In what way.
        reason: &'static str,
    },
    /// A valid record of another write than the one that should follow.
    #[error("a record of write {found} stands where write {expected} should begin or go on")]
    OutOfOrder {
        /// The write that should be there.
        expected: u64,
        /// The write that is.
        found: u64,
    },
    /// The file ends here.
    #[error("the file ends")]
    EndOfFile,
    /// The segment's own header is not valid.
    #[error("the segment's header is not valid")]
    SegmentHeader,
    /// The following segment says that this one ended elsewhere.
    #[error(
        "the next segment says that this one ends at offset {expected_end} with write {expected_sequence}, found write {found_sequence}"
    )]
    SegmentEnd {
        /// The end according to the next segment.
        expected_end: u64,
        /// The last write according to the next segment.
        expected_sequence: u64,
        /// The last complete write found.
        found_sequence: u64,
    },
    /// The head of a segment contradicts what the segments before it say.
    #[error("the segment's head contradicts the segments before it")]
    Head,
    /// Entries between the log's start and the first segment are gone.
    #[error("a segment is missing: entries {first} to {last} are nowhere")]
    MissingEntries {
        /// The first missing one.
        first: LogIndex,
        /// The last missing one.
        last: LogIndex,
    },
}

/// Why a log could not be opened. Nothing was changed, except with [`OpenError::Log`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of its bounds.
    #[error("log setting {setting} is {value}, which is not between {min} and {max}: correct the configuration")]
    Config {
        /// Which one.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// Records that had been made durable are damaged.
    #[error(
        "the log is corrupt in {} at offset {offset}: {damage}; acknowledged data may be lost",
        file.display()
    )]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// The log ends before the last write that was acknowledged.
    #[error(
        "the log ends in {} at offset {offset} with write {found}, but write {} (index {}) had been acknowledged: acknowledged data is lost",
        file.display(), expected.write_sequence, expected.last_index
    )]
    AcknowledgedLost {
        /// The segment in which the log ends.
        file: PathBuf,
        /// Where it ends.
        offset: u64,
        /// The high-water mark.
        expected: HighWaterMark,
        /// The last write found.
        found: u64,
    },
    /// There are segments, but no high-water mark that is whole and readable, so nobody can tell whether the log is complete.
    #[error(
        "the high-water mark {} is missing, cut short or unreadable, so it cannot be told whether the log is complete",
        file.display()
    )]
    HighWaterLost {
        /// The file.
        file: PathBuf,
    },
    /// Written by another version of this program.
    #[error(
        "{} has log format version {found}; this program knows version {known}. Nothing was changed. Start it with the version of raftkv that wrote it",
        file.display()
    )]
    UnknownVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The version this program writes and reads.
        known: u32,
    },
    /// The log of another group.
    #[error("{} belongs to group {found}, not to group {expected}. Nothing was changed. Check the data directory", file.display())]
    WrongGroup {
        /// The file.
        file: PathBuf,
        /// The group in it.
        found: GroupId,
        /// The group asked for.
        expected: GroupId,
    },
    /// The log could not be read or prepared. Starting again is safe.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl OpenError {
    /// What to do if nobody repairs the node: for a log that is not whole. A node that has lost its log and starts with none could vote a second
    /// time in a term, so the obvious way out, an empty directory, is the one to warn of.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let is_damage = matches!(
            self,
            OpenError::Corrupt { .. } | OpenError::AcknowledgedLost { .. } | OpenError::HighWaterLost { .. }
        );
        is_damage.then_some(
            "The node does not start, and nothing was changed. Bring back what was moved, if anything was; otherwise leave this node stopped, and do \
             not start it with an empty directory while the others need its vote. Look at the log with `raftkv inspect wal` and keep a copy of the \
             directory; the section \"A damaged node\" in docs/operations.md says what can be done",
        )
    }
}
