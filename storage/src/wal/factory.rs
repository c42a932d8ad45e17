//! Makes segments and takes them back: zero-filled files from nothing, or spare ones used again.
//!
//! A file becomes a segment only once its header is flushed: spare ones get their header under the name of a spare, new ones under the name of an
//! unfinished file, and the renaming comes last. So a crash at any point leaves either no segment or a whole, empty one.

use super::LogConfig;
use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::format::{FIRST_RECORD, FileHeader};
use super::segment::{Segment, segment_name, spare_name, unfinished_name};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ZEROS_BYTES: usize = 1 << 20;
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];

/// Writes zeros over `bytes` bytes from `offset` on.
pub(super) fn write_zeros(file: &dyn DiskFile, mut offset: u64, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(ZEROS_BYTES);
        file.write_at(&mut [IoSlice::new(&ZEROS[..step])], offset)?;
        offset += step as u64;
        bytes -= step as u64;
    }
    Ok(())
}

/// Fills a new file, flushing step by step: one flush of the whole would keep the disk from the log's own flushes for as long as it takes.
fn fill_with_zeros(file: &dyn DiskFile, length: u64) -> io::Result<()> {
    for offset in (0..length).step_by(ZEROS_BYTES) {
        write_zeros(file, offset, (length - offset).min(ZEROS_BYTES as u64))?;
        file.sync()?;
    }
    Ok(())
}

/// The maker of segments. One at a time, by one thread.
pub(super) struct Factory {
    disk: Arc<dyn Disk>,
    config: LogConfig,
    /// Spare files, all of the configured length.
    spares: Vec<String>,
    next_spare: u64,
    /// A segment made ahead, already under its name.
    prepared: Option<Arc<Segment>>,
    bytes: Arc<AtomicU64>,
}

impl Factory {
    /// `next_spare` is above the number of any spare file; `bytes` counts what is on disk.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        spares: Vec<String>,
        next_spare: u64,
        bytes: Arc<AtomicU64>,
    ) -> Factory {
        Factory { disk, config, spares, next_spare, prepared: None, bytes }
    }

    /// Makes segment `sequence` ahead of its use.
    pub(super) fn prepare(&mut self, sequence: u64) -> Result<(), LogError> {
        let segment = self.take(sequence, 0)?;
        self.prepared = Some(segment);
        Ok(())
    }

    /// Segment `sequence` with room for at least `length_min` bytes, the file header included.
    pub(super) fn take(&mut self, sequence: u64, length_min: u64) -> Result<Arc<Segment>, LogError> {
        if let Some(prepared) = self.prepared.take() {
            if prepared.header.sequence == sequence && prepared.header.length >= length_min {
                return Ok(prepared);
            }
            // A write larger than a segment: the one made ahead gives way to a larger one of the same number.
            self.retire(&[(prepared.name.clone(), prepared.header.length)])?;
        }
        let length = length_min.max(self.config.segment_bytes).next_multiple_of(FIRST_RECORD);
        let usual = length == self.config.segment_bytes.next_multiple_of(FIRST_RECORD);
        if let Some(spare) = usual.then(|| self.spares.pop()).flatten() {
            return self.reuse(&spare, sequence, length);
        }
        self.create(sequence, length)
    }

    fn reuse(&self, spare: &str, sequence: u64, length: u64) -> Result<Arc<Segment>, LogError> {
        let path = self.disk.path(spare);
        let error = |source| LogError::io("reuse the spare segment", &path, source);
        let file = self.disk.open(spare).map_err(error)?;
        self.finish(file, spare, sequence, length, false).map_err(error)
    }

    fn create(&self, sequence: u64, length: u64) -> Result<Arc<Segment>, LogError> {
        let name = unfinished_name(sequence);
        let path = self.disk.path(&name);
        let error = |source| LogError::io("prepare the log segment", &path, source);
        let file = self.disk.create(&name).map_err(error)?;
        if let Err(source) = fill_with_zeros(&*file, length) {
            // Give back what little there was; the failure to write is the one to report.
            let _ = self.disk.remove(&name);
            return Err(error(source));
        }
        self.bytes.fetch_add(length, Ordering::Relaxed);
        self.finish(file, &name, sequence, length, true).map_err(error)
    }

    /// Writes and flushes the header, then gives the file its name, durably.
    fn finish(
        &self,
        file: Arc<dyn DiskFile>,
        from: &str,
        sequence: u64,
        length: u64,
        zeroed: bool,
    ) -> io::Result<Arc<Segment>> {
        let header = FileHeader { epoch: self.disk.random()?, sequence, group: self.config.group, length, zeroed };
        file.write_at(&mut [IoSlice::new(&header.encode())], 0)?;
        file.sync()?;
        let name = segment_name(sequence);
        self.disk.rename(from, &name)?;
        self.disk.sync_directory()?;
        let path = self.disk.path(&name);
        Ok(Arc::new(Segment { header, name, path, file }))
    }

    /// Takes files that are of no use any more, oldest first: keeps some as spares, removes the rest. Durable when it returns.
    pub(super) fn retire(&mut self, files: &[(String, u64)]) -> Result<(), LogError> {
        for (name, length) in files {
            let path = self.disk.path(name);
            let fits = *length == self.config.segment_bytes.next_multiple_of(FIRST_RECORD);
            if fits && self.spares.len() < self.config.recycled_segments_max {
                let spare = spare_name(self.next_spare);
                self.next_spare += 1;
                self.disk.rename(name, &spare).map_err(|source| LogError::io("recycle", &path, source))?;
                self.spares.push(spare);
            } else {
                self.disk.remove(name).map_err(|source| LogError::io("remove", &path, source))?;
                self.bytes.fetch_sub(*length, Ordering::Relaxed);
            }
        }
        if let Some((name, _)) = files.first() {
            let path = self.disk.path(name);
            self.disk.sync_directory().map_err(|source| LogError::io("flush the directory of", &path, source))?;
        }
        Ok(())
    }
}
