//! Reads segments front to back, checking everything, with bounded memory: one window of the file at a time.

use super::disk::DiskFile;
use super::error::Damage;
use super::format::{ALIGNMENT, FIRST_RECORD, RECORD_HEADER_BYTES, RecordHeader};
use super::segment::Segment;
use raft::GroupId;
use std::io;
use std::sync::Arc;

/// Bytes read at a time. A record larger than that is read whole.
const WINDOW_BYTES: u64 = 1 << 20;

/// A window onto a file.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    pub(super) length: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl Window {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> io::Result<Window> {
        let length = file.length()?;
        Ok(Window { file, length, buffer: Vec::new(), start: 0 })
    }

    /// `bytes` bytes at `offset`; `None` if the file ends before.
    pub(super) fn at(&mut self, offset: u64, bytes: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(bytes).filter(|end| *end <= self.length) else { return Ok(None) };
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let size = bytes.max(WINDOW_BYTES).min(self.length - offset);
            self.buffer.resize(usize::try_from(size).expect("a window fits in memory"), 0);
            self.start = offset;
            if let Err(error) = self.file.read_at(&mut self.buffer, offset) {
                self.buffer.clear();
                return Err(error);
            }
        }
        let from = usize::try_from(offset - self.start).expect("within the window");
        let to = usize::try_from(end - self.start).expect("within the window");
        Ok(Some(&self.buffer[from..to]))
    }
}

/// A record that is not valid, with as much of its header as can be trusted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invalid {
    pub(super) damage: Damage,
    pub(super) header: Option<RecordHeader>,
}

impl From<Damage> for Invalid {
    fn from(damage: Damage) -> Invalid {
        Invalid { damage, header: None }
    }
}

/// The header at `offset`, if there is a valid one.
pub(super) fn header_at(window: &mut Window, epoch: u64, offset: u64) -> io::Result<Result<RecordHeader, Damage>> {
    let Some(bytes) = window.at(offset, RECORD_HEADER_BYTES as u64)? else { return Ok(Err(Damage::EndOfFile)) };
    Ok(RecordHeader::decode(bytes.try_into().expect("as long as a header"), epoch, offset))
}

/// The record at `offset`, checked: header, length, body, group.
pub(super) fn record_at<'a>(
    window: &'a mut Window,
    epoch: u64,
    group: GroupId,
    offset: u64,
) -> io::Result<Result<(RecordHeader, &'a [u8]), Invalid>> {
    let header = match header_at(window, epoch, offset)? {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage.into())),
    };
    let invalid = |damage| Ok(Err(Invalid { damage, header: Some(header) }));
    let body_bytes = u64::from(header.body_bytes);
    match window.at(offset + RECORD_HEADER_BYTES as u64, body_bytes)? {
        None => invalid(Damage::Length { bytes: body_bytes }),
        Some(body) if crc32c::crc32c(body) != header.body_checksum => invalid(Damage::Body),
        Some(_) if header.group != group => invalid(Damage::Malformed { reason: "of another group" }),
        Some(body) => Ok(Ok((header, body))),
    }
}

/// What stands behind the end of a log in one segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    /// A header of a write later than the first one that is missing: proof that the missing one had been flushed.
    pub(super) later_write: Option<u64>,
    /// The end of the furthest record of the first missing write.
    pub(super) torn_end: Option<u64>,
    /// First and one past the last byte that is not zero.
    pub(super) dirty: Option<(u64, u64)>,
}

/// Looks behind `from` for headers of writes after `last_write`, at every place where one could stand.
pub(super) fn tail(window: &mut Window, segment: &Segment, from: u64, last_write: u64) -> io::Result<Tail> {
    let mut found = Tail::default();
    let mut offset = from;
    while offset < window.length {
        let step = ALIGNMENT.min(window.length - offset);
        let zero = window.at(offset, step)?.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
        if !zero {
            let first = found.dirty.map_or(offset, |(first, _)| first);
            found.dirty = Some((first, offset + step));
        }
        // A header has a non-zero kind in its second eight bytes, so it may begin with zeros only by a checksum of zero.
        if let Ok(header) = header_at(window, segment.header.epoch, offset)? {
            if header.write_sequence > last_write + 1 {
                found.later_write.get_or_insert(header.write_sequence);
            } else if header.write_sequence == last_write + 1 {
                let end = (offset + header.span()).min(window.length);
                found.torn_end = Some(found.torn_end.map_or(end, |other| other.max(end)));
            }
        }
        offset += ALIGNMENT;
    }
    Ok(found)
}

/// Whether a write later than `last_write + 1` has left a header anywhere in the segment.
pub(super) fn later_write(segment: &Segment, last_write: u64) -> io::Result<Option<u64>> {
    let mut window = Window::new(Arc::clone(&segment.file))?;
    Ok(tail(&mut window, segment, FIRST_RECORD, last_write)?.later_write)
}
