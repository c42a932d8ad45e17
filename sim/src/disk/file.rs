//! What one file holds: what is read from it, and what a power cut leaves.

use super::SECTOR_BYTES;
use crate::random::Random;
use std::collections::BTreeSet;
use std::io;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FileState {
    /// What is read.
    current: Vec<u8>,
    /// What has reached the disk.
    durable: Vec<u8>,
    /// Sectors written since the last flush.
    dirty: BTreeSet<usize>,
}

impl FileState {
    pub(super) fn length(&self) -> u64 {
        self.current.len() as u64
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let part = self.current.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let from = usize::try_from(offset).expect("simulated files are small");
        let to = from + bytes.len();
        if self.current.len() < to {
            self.current.resize(to, 0);
        }
        self.current[from..to].copy_from_slice(bytes);
        self.dirty.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (from, to) = bounds(sector, self.current.len());
            self.durable[from..to].copy_from_slice(&self.current[from..to]);
        }
    }

    /// What was written passes for flushed, and is not.
    pub(super) fn forget(&mut self) {
        self.dirty.clear();
    }

    /// The power goes. Says how many sectors were lost and torn.
    pub(super) fn crash(&mut self, random: &mut Random) -> (u64, u64) {
        let (mut lost, mut torn) = (0, 0);
        let grown = self.current.len() > self.durable.len() && random.chance(500);
        if grown {
            self.durable.resize(self.current.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let (from, to) = bounds(sector, self.durable.len());
            if from >= to {
                continue;
            }
            let kept = match random.below(3) {
                0 => 0,
                1 => to - from,
                _ => random.index(to - from),
            };
            lost += u64::from(kept == 0);
            torn += u64::from(kept > 0 && kept < to - from);
            self.durable[from..from + kept].copy_from_slice(&self.current[from..from + kept]);
        }
        self.current.clone_from(&self.durable);
        (lost, torn)
    }

    /// Flips a bit on the disk and in the cache. Says in which byte.
    pub(super) fn rot(&mut self, random: &mut Random) -> Option<u64> {
        let length = self.durable.len().min(self.current.len());
        if length == 0 {
            return None;
        }
        // Bytes that hold something are what matters; most of a log is zeros.
        let at =
            (0..64).map(|_| random.index(length)).find(|at| self.durable[*at] != 0).unwrap_or(random.index(length));
        let bit = 1 << random.below(8);
        self.durable[at] ^= bit;
        self.current[at] ^= bit;
        Some(at as u64)
    }
}

fn bounds(sector: usize, length: usize) -> (usize, usize) {
    (sector * SECTOR_BYTES, ((sector + 1) * SECTOR_BYTES).min(length))
}
