//! The log on disk: a segmented write-ahead log.
//!
//! # The idea
//!
//! A commit waits for a disk flush, so the log is laid out for the cheapest flush there is: `pwritev` plus `fdatasync` over
//! blocks that have been written before. Segments are files of a fixed size, filled with zeros ahead of time by a background
//! thread and, after compaction, used again under a new name. Such a flush changes no file size and allocates no block.
//!
//! Everything one [`LogStore::write`] carries is one *write*: one positional vectored write into one segment, then one
//! `fdatasync`. Its records carry the same *write sequence*, a number that goes up by one from write to write for ever, and the
//! last one is flagged. A write whose last record is not there never happened.
//!
//! # Torn tail or corruption (scenarios 51 and 54)
//!
//! Write k+1 begins only after the `fdatasync` of write k has returned. That one rule tells what a bad record means. Let b be
//! the last complete write that recovery finds, in order, from the log's first segment; what follows is broken, and would be
//! write b+1.
//!
//! * If a record header of write b+2 or later stands anywhere behind, in this segment or in a later one, then write b+2 had
//!   begun, so write b+1 had been flushed and may have been acknowledged: **corruption**. The log refuses to open, names the
//!   file and the offset, and changes nothing.
//! * Otherwise write b+1 was the last one, so it had either not been flushed or was not followed by any other. The
//!   high-water mark (`high_water.rs`) decides: it is written after each flush, before [`LogStore::write`] returns. If it stands
//!   above b, then b+1 was **acknowledged and lost**: refused as well. If not, b+1 was never acknowledged: a **torn tail**,
//!   dropped as a whole.
//!
//! A header proves this by itself, whatever became of its body: it carries its own checksum, salted by the segment's random
//! epoch and by its offset, so neither left-overs of the segment's former life nor a copy of a record inside a payload can pass
//! for it.
//!
//! # Left-overs
//!
//! Before the log appends behind a recovered tail it overwrites everything that is not zero from there to the end of the segment with
//! zeros and flushes that. Within an epoch, then, everything behind the end was written by the current life of the log, and pieces
//! of a dropped write can never be completed by a later one. A later segment into which a torn write had gone gets a new epoch.
//!
//! # A flush that failed (scenario 53)
//!
//! After any I/O error every later call fails. A failed `fdatasync` may have marked pages clean that never reached the disk, and
//! a restarted process would read them back from the page cache as if they had. Only one write can be in that state, the last one, so
//! recovery writes the last complete write once more, in place, and flushes it before it reports it.
//!
//! # Invariants
//!
//! * A write is within one segment. The first record of a segment is a head that repeats hard state, log start and
//!   the end of the segment before it, so whole segments can be dropped and a segment that is missing or short is noticed.
//! * A file called `*.wal` has a flushed, valid header: it is renamed to that only afterwards.
//! * The high-water mark is never ahead of what has been flushed.
//! * The durable log start never moves past an entry before the record that says so is flushed; segments are recycled only afterwards.
//!
//! # Caveats and what is absent
//!
//! * The high-water mark survives a crash of the process exactly. A power cut may set it back to where it was flushed last (start, segment
//!   roll, close): damage to the very last writes before a power cut can then not be told from a torn tail.
//! * One sector of 512 bytes is assumed to be written whole or not at all when it is written over with the bytes it already has. Every
//!   log that packs writes assumes this.
//! * No lock: whoever owns the data directory keeps a second process out. No repair: a refused log is repaired from peers.
//! * No compression and no encryption. One group; the field is there for more.
//!
//! The format is described in `docs/formats.md`, the choice in `docs/decisions/0002-log.md`.

mod background;
mod contents;
pub mod disk;
mod encode;
mod error;
mod factory;
mod format;
mod high_water;
mod inspect;
mod log;
mod reader;
mod recover;
mod scan;
mod segment;

use raft::{Entry, GroupId, HardState, LogIndex, LogPosition, LogRange, Term};
use std::path::PathBuf;
use std::sync::Arc;

pub use error::{Damage, LogError, OpenError};
pub use format::{ENTRY_BYTES_MAX, FORMAT_VERSION, RecordKind};
pub use high_water::Mark as HighWaterMark;
pub use inspect::{InspectError, Inspection, RecordSummary, Records, SegmentHeader, SegmentSummary, Verdict};
pub use log::SegmentedLog;
pub use recover::holds_log;

/// A durable log of one node. Owned by the log thread; readers are handed out with [`LogStore::reader`].
pub trait LogStore: Send {
    /// Carries all of `writes` out in order, as one write and one flush. Durable when it returns, as a whole or, after a crash before it
    /// returns, possibly not at all. Entries that start at or before the last index replace everything from there on (Raft §5.3).
    ///
    /// # Errors
    ///
    /// Any error poisons the log: its outcome is unknown until the next open, and every later call fails.
    ///
    /// # Panics
    ///
    /// If the entries leave a gap, begin at or before the log's start, or go back in term: the caller broke the protocol.
    fn write(&mut self, writes: &[LogWrite]) -> Result<(), LogError>;

    /// Gives up all entries up to and including `position`; whole segments are recycled. Durable when it returns. Does nothing if the log
    /// starts there or later already.
    ///
    /// # Errors
    ///
    /// As [`LogStore::write`].
    ///
    /// # Panics
    ///
    /// If `position` is beyond the end of the log or of another term than the entry there.
    fn compact(&mut self, position: LogPosition) -> Result<(), LogError>;

    /// Drops every entry: the log starts, empty, after `start`. Hard state stays. Durable when it returns. For a snapshot that the log does
    /// not connect to.
    ///
    /// # Errors
    ///
    /// As [`LogStore::write`].
    fn reset(&mut self, start: LogPosition) -> Result<(), LogError>;

    /// A handle for reading entries from any thread, beside the writing.
    fn reader(&self) -> LogReader;

    /// Bytes on disk: segments, spare ones included.
    fn bytes(&self) -> u64;
}

/// One thing to write: hard state, entries, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogWrite {
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Consecutive entries. If the first is at or before the last index, everything from there on is replaced.
    pub entries: Vec<Entry>,
}

/// Reads entries back. Cheap to clone; usable from any thread, also after the log itself is gone.
#[derive(Clone)]
pub struct LogReader {
    inner: Arc<dyn ReadEntries>,
}

/// What a kind of log brings to serve a [`LogReader`].
pub trait ReadEntries: Send + Sync {
    /// See [`LogReader::entries`].
    ///
    /// # Errors
    ///
    /// See [`LogReader::entries`].
    fn entries(&self, range: LogRange, bytes_max: usize) -> Result<Vec<Entry>, LogError>;
}

impl LogReader {
    /// A reader on top of `inner`.
    pub fn new(inner: Arc<dyn ReadEntries>) -> LogReader {
        LogReader { inner }
    }

    /// Entries of `range` from its first one on, at least one, as many as fit in `bytes_max` payload bytes, none for an empty range. All of one
    /// moment: a truncation that happens meanwhile is seen as a whole or not at all. Checksums are checked.
    ///
    /// # Errors
    ///
    /// [`LogError::Compacted`] and [`LogError::NotWritten`] if the first entry is not there, which is no failure of the log.
    /// Anything else is one, and poisons it.
    pub fn entries(&self, range: LogRange, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        self.inner.entries(range, bytes_max)
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").finish_non_exhaustive()
    }
}

/// Settings of a [`SegmentedLog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The group whose log this is.
    pub group: GroupId,
    /// Size of a segment file. 16 KiB to 4 GiB. Default 64 MiB. A write that does not fit in one gets a larger segment of its own.
    pub segment_bytes: u64,
    /// Segments kept for use again after compaction, beside the one in use and the one prepared; more are deleted. Default 4.
    pub recycled_segments_max: usize,
    /// Payload bytes after which a record ends and the next one begins: what a read of one entry costs at most, unless the entry itself is
    /// larger. 1 KiB to 64 MiB. Default 256 KiB.
    pub record_bytes_max: usize,
    /// Who prepares segments.
    pub preparation: Preparation,
}

/// Who prepares the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// A background thread, one segment ahead. For production.
    Background,
    /// The caller, when the segment is needed. For the simulator: no threads, so the same order every time.
    Inline,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            group: GroupId::ONLY,
            segment_bytes: 64 << 20,
            recycled_segments_max: 4,
            record_bytes_max: 256 << 10,
            preparation: Preparation::Background,
        }
    }
}

impl LogConfig {
    fn check(&self) -> Result<(), OpenError> {
        let bounds = [
            ("segment_bytes", self.segment_bytes, 16 << 10, 4 << 30),
            ("record_bytes_max", self.record_bytes_max as u64, 1 << 10, 64 << 20),
        ];
        for (setting, value, min, max) in bounds {
            if value < min || value > max {
                return Err(OpenError::Config { setting, value, min, max });
            }
        }
        Ok(())
    }
}

/// What a log held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The newest durable term and vote.
    pub hard_state: HardState,
    /// The entry just before the first one.
    pub start: LogPosition,
    /// The last index; equal to `start.index` if the log is empty.
    pub last: LogIndex,
    /// Where runs of entries of one term begin, ascending, as [`raft::Restored::term_runs`] wants them.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// Where membership entries stand, ascending. They take effect by being in the log, so the core is told of those that are not applied.
    pub memberships: Vec<LogIndex>,
    /// An incomplete last write that was dropped. It had never been acknowledged.
    pub torn_tail: Option<TornTail>,
}

/// An incomplete last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment it was in.
    pub file: PathBuf,
    /// Where it began.
    pub offset: u64,
    /// How far it reached at least, as far as can be told.
    pub bytes: u64,
}
