//! The high-water mark: the last write that was flushed, kept in a file of its own.
//!
//! Two slots, each with a checksum and in a page of its own, are written in turn, so that a torn slot leaves the one before. A slot is
//! written with a plain `pwrite` after each flush of the log, before the write is reported durable: in the page cache it survives
//! the process, and costs no flush. It is flushed when the log is opened, rolls to a new segment, or is closed; after a power cut it is a lower bound.

use super::disk::{Disk, DiskFile};
use super::error::{LogError, OpenError};
use super::format::{FORMAT_VERSION, u32_at, u64_at};
use raft::LogIndex;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

/// The file's name.
pub(super) const FILE: &str = "high-water";
const MAGIC: [u8; 8] = *b"raftkvHW";
const SLOT_BYTES: usize = 64;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FILE_BYTES: usize = 8192;

/// How far the log had been flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The last write.
    pub write_sequence: u64,
    /// The last index after it. For messages: a truncation may lower it, so it is not what is compared.
    pub last_index: LogIndex,
    /// The segment the write is in. For messages.
    pub segment: u64,
}

impl Mark {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.write_sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last_index.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.segment.to_le_bytes());
        let checksum = Mark::checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The mark and its format version, if the slot is intact.
    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(Mark, u32)> {
        if bytes[..8] != MAGIC || u32_at(bytes, 12) != Mark::checksum(bytes) {
            return None;
        }
        let mark = Mark {
            write_sequence: u64_at(bytes, 16),
            last_index: LogIndex(u64_at(bytes, 24)),
            segment: u64_at(bytes, 32),
        };
        Some((mark, u32_at(bytes, 8)))
    }

    fn checksum(bytes: &[u8; SLOT_BYTES]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }
}

/// The file, open.
#[derive(Clone)]
pub(super) struct HighWater {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
}

impl HighWater {
    /// Creates the file with a mark that says nothing was ever written. Durable when it returns.
    pub(super) fn create(disk: &dyn Disk) -> Result<HighWater, LogError> {
        let unfinished = format!("{FILE}.tmp");
        let path = disk.path(FILE);
        let error = |source| LogError::io("create", &path, source);
        let file = disk.create(&unfinished).map_err(error)?;
        let mut bytes = [0; FILE_BYTES];
        for offset in SLOT_OFFSETS {
            let at = usize::try_from(offset).expect("a slot is within the file");
            bytes[at..at + SLOT_BYTES].copy_from_slice(&Mark::default().encode());
        }
        file.write_at(&mut [IoSlice::new(&bytes)], 0).map_err(error)?;
        file.sync().map_err(error)?;
        disk.rename(&unfinished, FILE).map_err(error)?;
        disk.sync_directory().map_err(error)?;
        Ok(HighWater { file, path })
    }

    /// Opens the file and reads the newer slot. Neither a file cut short nor two unreadable slots are the work of a crash: the file gets its
    /// name when it has been flushed at its full length, and only slots within it are written after that. A slot beyond the end is not
    /// passed over for the other one, which would let the mark go back without a word.
    pub(super) fn open(disk: &dyn Disk) -> Result<(HighWater, Mark), OpenError> {
        let path = disk.path(FILE);
        let error = |source| LogError::io("read", &path, source);
        let file = disk.open(FILE).map_err(error)?;
        if file.length().map_err(error)? < FILE_BYTES as u64 {
            return Err(OpenError::HighWaterLost { file: path });
        }
        let mut newest: Option<Mark> = None;
        for offset in SLOT_OFFSETS {
            let mut bytes = [0; SLOT_BYTES];
            file.read_at(&mut bytes, offset).map_err(error)?;
            match Mark::decode(&bytes) {
                Some((_, found)) if found != FORMAT_VERSION => {
                    return Err(OpenError::UnknownVersion { file: path, found, known: FORMAT_VERSION });
                }
                Some((mark, _)) if newest.is_none_or(|other| mark.write_sequence > other.write_sequence) => {
                    newest = Some(mark);
                }
                _ => {}
            }
        }
        match newest {
            Some(mark) => Ok((HighWater { file, path }, mark)),
            None => Err(OpenError::HighWaterLost { file: path }),
        }
    }

    /// Raises the mark, without a flush.
    pub(super) fn write(&self, mark: &Mark) -> Result<(), LogError> {
        let offset = SLOT_OFFSETS[usize::from(mark.write_sequence % 2 == 1)];
        self.file
            .write_at(&mut [IoSlice::new(&mark.encode())], offset)
            .map_err(|source| LogError::io("write", &self.path, source))
    }

    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync().map_err(|source| LogError::io("flush", &self.path, source))
    }
}
