//! Looks at a log without changing anything, for `raftkv inspect wal`. Works on a log that does not open, and says why.
//!
//! Looking while the log is being written is allowed; then its end is in motion, and the verdict on it means nothing.

use super::disk::{Disk, RealDisk};
use super::error::{Damage, OpenError};
use super::format::{FILE_HEADER_BYTES, FIRST_RECORD, FileHeader, FileHeaderFault, RecordHeader, RecordKind};
use super::recover::scan;
use super::scan::{Window, record_at};
use super::segment::FileRole;
use super::{HighWaterMark, LogConfig, RecoveredLog};
use raft::{GroupId, LogIndex, Term};
use std::io;
use std::path::{Path, PathBuf};

/// Why a log could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("could not read {}", file.display())]
pub struct InspectError {
    /// The file or directory.
    pub file: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A log's directory, looked at.
pub struct Inspection {
    disk: RealDisk,
    segments: Vec<SegmentSummary>,
}

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The file.
    pub file: PathBuf,
    /// The sequence number in its name.
    pub sequence: u64,
    /// Its length on disk.
    pub bytes: u64,
    /// What its header says; the damage if it is not valid.
    pub header: Result<SegmentHeader, Damage>,
    name: String,
}

/// What the header of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The salt of the checksums in this life of the file.
    pub epoch: u64,
    /// The group.
    pub group: GroupId,
    /// The length it was prepared with.
    pub bytes: u64,
    /// The file was fresh, not recycled.
    pub fresh: bool,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSummary {
    /// The segment.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// What it says.
    pub kind: RecordKind,
    /// The epoch of the segment.
    pub epoch: u64,
    /// The write it belongs to.
    pub write_sequence: u64,
    /// Its place in the write, from 0.
    pub part: u16,
    /// It ends the write.
    pub last_of_write: bool,
    /// The node's term when it was written.
    pub term: Term,
    /// The index of the first entry, or the first index after the position it names.
    pub first_index: LogIndex,
    /// How many entries.
    pub count: u32,
    /// Its length with header and padding.
    pub bytes: u64,
    /// What is wrong with it. Its header is valid, or it would not be listed.
    pub damage: Option<Damage>,
}

/// What opening the log would say.
#[derive(Debug)]
pub enum Verdict {
    /// It would open, holding this; with a torn tail dropped, if there is one.
    Opens {
        /// What it holds.
        recovered: RecoveredLog,
        /// How far it reaches.
        end: HighWaterMark,
    },
    /// It would refuse: corruption, acknowledged data lost, an unknown version and the like.
    Refuses(OpenError),
}

impl Inspection {
    /// Lists the segments in `directory`.
    ///
    /// # Errors
    ///
    /// If the directory or a file cannot be read.
    pub fn open(directory: &Path) -> Result<Inspection, InspectError> {
        let disk = RealDisk::read_only(directory);
        let error = |source| InspectError { file: directory.to_path_buf(), source };
        let mut segments = Vec::new();
        for name in disk.list().map_err(error)? {
            if let FileRole::Segment(sequence) = FileRole::of(&name) {
                let file = disk.path(&name);
                let summary = summarize(&disk, name, sequence);
                segments.push(summary.map_err(|source| InspectError { file, source })?);
            }
        }
        segments.sort_by_key(|segment| segment.sequence);
        Ok(Inspection { disk, segments })
    }

    /// The segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[SegmentSummary] {
        &self.segments
    }

    /// The records of one segment, up to the first place without a valid header: the end of the log, or damage.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn records(&self, segment: &SegmentSummary) -> Result<Records, InspectError> {
        let error = |source| InspectError { file: segment.file.clone(), source };
        let window = self.disk.open(&segment.name).and_then(Window::new).map_err(error)?;
        Ok(Records { file: segment.file.clone(), header: segment.header.ok(), window, offset: FIRST_RECORD, end: None })
    }

    /// What opening the log would say, without opening it.
    #[must_use]
    pub fn verdict(&self, group: GroupId) -> Verdict {
        let config = LogConfig { group, ..LogConfig::default() };
        match scan(&self.disk, &config) {
            Err(error) => Verdict::Refuses(error),
            Ok(found) => Verdict::Opens { recovered: found.recovered(), end: found.mark() },
        }
    }
}

fn summarize(disk: &RealDisk, name: String, sequence: u64) -> io::Result<SegmentSummary> {
    let mut window = Window::new(disk.open(&name)?)?;
    let header = match window.at(0, FILE_HEADER_BYTES as u64)? {
        None => Err(Damage::EndOfFile),
        Some(bytes) => match FileHeader::decode(bytes.try_into().expect("as long as a file header")) {
            Ok(header) => Ok(SegmentHeader {
                epoch: header.epoch,
                group: header.group,
                bytes: header.length,
                fresh: header.zeroed,
            }),
            Err(FileHeaderFault::Damaged) => Err(Damage::SegmentHeader),
            Err(FileHeaderFault::Version(_)) => Err(Damage::Malformed { reason: "unknown format version" }),
        },
    };
    Ok(SegmentSummary { file: disk.path(&name), sequence, bytes: window.length, header, name })
}

/// Iterates over the records of one segment.
pub struct Records {
    file: PathBuf,
    header: Option<SegmentHeader>,
    window: Window,
    offset: u64,
    end: Option<(u64, Damage)>,
}

impl Records {
    /// Once the iteration is over: where the first invalid record stands, and what is wrong with it. At the end of every healthy log
    /// there is such a place; [`Inspection::verdict`] says what it means.
    #[must_use]
    pub fn end(&self) -> Option<(u64, Damage)> {
        self.end
    }

    fn summary(&self, header: &RecordHeader, epoch: u64, damage: Option<Damage>) -> RecordSummary {
        RecordSummary {
            file: self.file.clone(),
            offset: self.offset,
            kind: header.kind,
            epoch,
            write_sequence: header.write_sequence,
            part: header.part,
            last_of_write: header.last,
            term: header.term,
            first_index: header.first_index,
            count: header.count,
            bytes: header.span(),
            damage,
        }
    }
}

impl Iterator for Records {
    type Item = Result<RecordSummary, InspectError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        let Some(segment) = self.header else {
            self.end = Some((0, Damage::SegmentHeader));
            return None;
        };
        let found = record_at(&mut self.window, segment.epoch, segment.group, self.offset);
        let found = found.map(|found| found.map(|(header, _)| header));
        let (header, damage) = match found {
            Err(source) => {
                self.end = Some((self.offset, Damage::EndOfFile));
                return Some(Err(InspectError { file: self.file.clone(), source }));
            }
            Ok(Ok(header)) => (header, None),
            Ok(Err(invalid)) => match invalid.header {
                Some(header) => (header, Some(invalid.damage)),
                None => {
                    self.end = Some((self.offset, invalid.damage));
                    return None;
                }
            },
        };
        let summary = self.summary(&header, segment.epoch, damage);
        self.offset += header.span();
        Some(Ok(summary))
    }
}
