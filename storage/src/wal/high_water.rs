//! The high-water mark: the last write that was flushed, kept in a file of its own.
//!
//! Two slots, each with a checksum and in a sector of its own, are written in turn with a plain `pwrite` after each flush of the log,
//! before the write is reported durable: in the page cache the mark survives the process, and costs no flush. The file is flushed when
//! the log is opened, rolls to a new segment, or is closed; after a power cut the mark is a lower bound.
//!
//! A power cut may tear both slots, because both may have been written since the last flush. So a flush first writes the mark to one of
//! two *anchors*, in turn, which are written at no other time: the anchor of the flush before is on the disk and stands still, whatever
//! becomes of the rest.

use super::disk::{Disk, DiskFile};
use super::error::{LogError, OpenError};
use super::format::{FORMAT_VERSION, u32_at, u64_at};
use raft::LogIndex;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The file's name.
pub(super) const FILE: &str = "high-water";
const MAGIC: [u8; 8] = *b"raftkvHW";
const SLOT_BYTES: usize = 64;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const ANCHOR_OFFSETS: [u64; 2] = [2048, 6144];
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
    /// What the next flush writes to an anchor.
    mark: Arc<Mutex<Mark>>,
    /// The anchor it writes to.
    flushing: Arc<Mutex<usize>>,
}

impl HighWater {
    /// Creates the file with a mark that says nothing was ever written. Durable when it returns.
    pub(super) fn create(disk: &dyn Disk) -> Result<HighWater, LogError> {
        let unfinished = format!("{FILE}.tmp");
        let path = disk.path(FILE);
        let error = |source| LogError::io("create", &path, source);
        let file = disk.create(&unfinished).map_err(error)?;
        let mut bytes = [0; FILE_BYTES];
        for offset in SLOT_OFFSETS.into_iter().chain(ANCHOR_OFFSETS) {
            let at = usize::try_from(offset).expect("a slot is within the file");
            bytes[at..at + SLOT_BYTES].copy_from_slice(&Mark::default().encode());
        }
        file.write_at(&mut [IoSlice::new(&bytes)], 0).map_err(error)?;
        file.sync().map_err(error)?;
        disk.rename(&unfinished, FILE).map_err(error)?;
        disk.sync_directory().map_err(error)?;
        Ok(HighWater::new(file, path, Mark::default(), 0))
    }

    fn new(file: Arc<dyn DiskFile>, path: PathBuf, mark: Mark, turn: usize) -> HighWater {
        HighWater { file, path, mark: Arc::new(Mutex::new(mark)), flushing: Arc::new(Mutex::new(turn)) }
    }

    /// Opens the file and reads the newest of slots and anchors. Neither a file cut short nor one without a readable slot is the work of a
    /// crash: the file gets its name when it has been flushed at its full length, and only slots within it are written after that. A slot beyond the end is not
    /// passed over for the other one, which would let the mark go back without a word.
    pub(super) fn open(disk: &dyn Disk) -> Result<(HighWater, Mark), OpenError> {
        let path = disk.path(FILE);
        let error = |source| LogError::io("read", &path, source);
        let file = disk.open(FILE).map_err(error)?;
        if file.length().map_err(error)? < FILE_BYTES as u64 {
            return Err(OpenError::HighWaterLost { file: path });
        }
        let mut newest: Option<Mark> = None;
        let mut anchors: [Option<u64>; 2] = [None; 2];
        for (place, offset) in SLOT_OFFSETS.into_iter().chain(ANCHOR_OFFSETS).enumerate() {
            let mut bytes = [0; SLOT_BYTES];
            file.read_at(&mut bytes, offset).map_err(error)?;
            let Some((mark, found)) = Mark::decode(&bytes) else { continue };
            if found != FORMAT_VERSION {
                return Err(OpenError::UnknownVersion { file: path, found, known: FORMAT_VERSION });
            }
            if newest.is_none_or(|other| mark.write_sequence > other.write_sequence) {
                newest = Some(mark);
            }
            if let Some(anchor) = place.checked_sub(SLOT_OFFSETS.len()) {
                anchors[anchor] = Some(mark.write_sequence);
            }
        }
        let Some(mark) = newest else { return Err(OpenError::HighWaterLost { file: path }) };
        // The older anchor is the one to write over; one that cannot be read is older than any.
        let turn = usize::from(anchors[1] < anchors[0]);
        Ok((HighWater::new(file, path, mark, turn), mark))
    }

    /// Raises the mark, without a flush.
    pub(super) fn write(&self, mark: &Mark) -> Result<(), LogError> {
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = *mark;
        let offset = SLOT_OFFSETS[usize::from(mark.write_sequence % 2 == 1)];
        self.file
            .write_at(&mut [IoSlice::new(&mark.encode())], offset)
            .map_err(|source| LogError::io("write", &self.path, source))
    }

    /// Makes the mark durable.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        // Held across the flush: the other anchor must not be written before this one is on the disk.
        let mut flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = *self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        self.file
            .write_at(&mut [IoSlice::new(&mark.encode())], ANCHOR_OFFSETS[*flushing])
            .map_err(|source| LogError::io("write", &self.path, source))?;
        self.file.sync().map_err(|source| LogError::io("flush", &self.path, source))?;
        *flushing = 1 - *flushing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::super::disk::RealDisk;
    use super::*;

    fn mark(write_sequence: u64) -> Mark {
        Mark { write_sequence, last_index: LogIndex(write_sequence), segment: 1 }
    }

    /// Both slots were written since the last flush, and the power cut tore both.
    #[test]
    fn torn_slots_leave_the_mark_of_the_last_flush() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::create(folder.path()).unwrap();
        let high_water = HighWater::create(&disk).unwrap();
        for flushed in [3, 7, 8] {
            high_water.write(&mark(flushed)).unwrap();
            high_water.sync().unwrap();
            for sequence in [flushed + 1, flushed + 2] {
                high_water.write(&mark(sequence)).unwrap();
            }
            assert_eq!(HighWater::open(&disk).unwrap().1, mark(flushed + 2));
            for offset in SLOT_OFFSETS {
                high_water.file.write_at(&mut [IoSlice::new(&[0xaa; 40])], offset).unwrap();
            }
            let (reopened, found) = HighWater::open(&disk).unwrap();
            assert_eq!(found, mark(flushed));
            let next = *reopened.flushing.lock().unwrap();
            assert_eq!(next, *high_water.flushing.lock().unwrap(), "the older anchor is next");
        }
    }

    /// The power cut came during a flush and tore what the flush wrote, too.
    #[test]
    fn a_torn_anchor_leaves_the_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::create(folder.path()).unwrap();
        let high_water = HighWater::create(&disk).unwrap();
        for sequence in [1, 2] {
            high_water.write(&mark(sequence)).unwrap();
            high_water.sync().unwrap();
        }
        let flushing = *high_water.flushing.lock().unwrap();
        for offset in SLOT_OFFSETS.into_iter().chain([ANCHOR_OFFSETS[flushing]]) {
            high_water.file.write_at(&mut [IoSlice::new(&[0xaa; 40])], offset).unwrap();
        }
        assert_eq!(HighWater::open(&disk).unwrap().1, mark(2));
    }
}
