//! The log itself: open, write, compact, reset.

use super::background::Workshop;
use super::contents::{RecordItem, objection_to_hard_state};
use super::disk::{Disk, RealDisk};
use super::encode::{Encoder, Part, Placement, split};
use super::error::{LogError, OpenError};
use super::factory::Factory;
use super::format::{FIRST_RECORD, Head, SegmentEnd};
use super::high_water::{HighWater, Mark};
use super::reader::{Poison, Shared};
use super::recover::scan;
use super::segment::Segment;
use super::{LogConfig, LogReader, LogStore, LogWrite, RecoveredLog};
use raft::{Entry, HardState, LogIndex, LogPosition};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The segmented write-ahead log. See the [module](super).
pub struct SegmentedLog {
    directory: PathBuf,
    config: LogConfig,
    shared: Arc<Shared>,
    /// All segments of the log, oldest first; the last one is written to. None before the first write of all.
    segments: VecDeque<Arc<Segment>>,
    /// Where the next write goes in the last segment.
    offset: u64,
    /// The last write done.
    write_sequence: u64,
    encoder: Encoder,
    high_water: HighWater,
    workshop: Workshop,
    bytes: Arc<AtomicU64>,
}

impl std::fmt::Debug for SegmentedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentedLog")
            .field("directory", &self.directory)
            .field("write_sequence", &self.write_sequence)
            .finish_non_exhaustive()
    }
}

impl SegmentedLog {
    /// Opens the log in `directory`, creating both if there is none, and says what it holds.
    ///
    /// # Errors
    ///
    /// Any [`OpenError`]. If what was acknowledged is not all there, nothing is changed.
    pub fn open(directory: &Path, config: LogConfig) -> Result<(SegmentedLog, RecoveredLog), OpenError> {
        let disk = RealDisk::create(directory).map_err(|source| LogError::io("create", directory, source))?;
        SegmentedLog::open_on(Arc::new(disk), config)
    }

    /// Opens the log on a disk of the caller's.
    ///
    /// # Errors
    ///
    /// As [`SegmentedLog::open`].
    pub fn open_on(disk: Arc<dyn Disk>, config: LogConfig) -> Result<(SegmentedLog, RecoveredLog), OpenError> {
        config.check()?;
        let directory = disk.path("");
        let mut found = scan(&*disk, &config)?;
        let high_water = found.settle(&*disk, &config)?;
        let recovered = found.recovered();
        let length = config.segment_bytes.next_multiple_of(FIRST_RECORD);
        let held: u64 = found.segments.iter().map(|segment| segment.header.length).sum();
        let bytes = Arc::new(AtomicU64::new(held + found.spares.len() as u64 * length));
        let next_spare = found.spares.iter().map(|(number, _)| number + 1).max().unwrap_or(1);
        let spares = found.spares.into_iter().map(|(_, name)| name).collect();
        let factory = Factory::new(disk, config, spares, next_spare, Arc::clone(&bytes));
        let offset = found.active.as_ref().map_or(FIRST_RECORD, |active| active.end());
        let next = found.segments.last().map_or(1, |segment| segment.header.sequence + 1);
        let poison = Arc::new(Poison::default());
        let mut workshop =
            Workshop::start(factory, high_water.clone(), Arc::clone(&poison), config.preparation, &directory)?;
        workshop.prepare(next);
        let log = SegmentedLog {
            directory,
            config,
            shared: Arc::new(Shared::new(found.contents, poison)),
            segments: found.segments.into(),
            offset,
            write_sequence: found.write_sequence,
            encoder: Encoder::default(),
            high_water,
            workshop,
            bytes,
        };
        Ok((log, recovered))
    }

    /// Writes `parts` as one write, durably, and raises the high-water mark. Fails for ever after a failure.
    fn commit(&mut self, parts: Vec<Part<'_>>, last: LogIndex) -> Result<(), LogError> {
        self.shared.poison.check()?;
        self.try_commit(parts, last).inspect_err(|error| self.shared.poison.record(error))
    }

    fn try_commit(&mut self, mut parts: Vec<Part<'_>>, last: LogIndex) -> Result<(), LogError> {
        let bytes: u64 = parts.iter().map(Part::span).sum();
        if self.segments.back().is_none_or(|segment| self.offset + bytes > segment.header.length) {
            let head = self.roll(bytes)?;
            parts.insert(0, Part::Head(head));
        }
        let segment = Arc::clone(self.segments.back().expect("rolled to one above, if there was none"));
        let term = parts.iter().find_map(|part| if let Part::HardState(new) = part { Some(new.term) } else { None });
        let place = Placement {
            epoch: segment.header.epoch,
            offset: self.offset,
            group: self.config.group,
            term: term.unwrap_or(self.shared.contents().hard_state.term),
            write_sequence: self.write_sequence + 1,
        };
        let bytes: u64 = parts.iter().map(Part::span).sum();
        let room = segment.header.length - place.offset;
        assert!(bytes <= room, "a write of {bytes} bytes where there is room for {room}");
        let encoded = self.encoder.encode(&parts, place);
        let written = segment.file.write_at(&mut encoded.slices(), place.offset);
        written.map_err(|source| LogError::io("write to", &segment.path, source))?;
        segment.file.sync().map_err(|source| LogError::io("flush", &segment.path, source))?;
        self.index(&parts, &segment);
        self.offset += bytes;
        self.write_sequence += 1;
        let mark = Mark { write_sequence: self.write_sequence, last_index: last, segment: segment.header.sequence };
        self.high_water.write(&mark)
    }

    /// Goes on in the next segment, with room for a write of `bytes`. Returns the head that the write begins with.
    fn roll(&mut self, bytes: u64) -> Result<Head, LogError> {
        let full = self.segments.back().map(|segment| segment.header);
        let sequence = full.map_or(1, |header| header.sequence + 1);
        let needed = FIRST_RECORD + Part::Head(Head::default()).span() + bytes;
        let next = self.workshop.take(sequence, needed, &self.directory)?;
        let previous = full.map_or(SegmentEnd::default(), |header| SegmentEnd {
            epoch: header.epoch,
            offset: self.offset,
            write_sequence: self.write_sequence,
        });
        self.segments.push_back(next);
        self.offset = FIRST_RECORD;
        self.workshop.sync_high_water();
        self.workshop.prepare(sequence + 1);
        let contents = self.shared.contents();
        let last = contents.last_position();
        Ok(Head { hard_state: contents.hard_state, start: contents.start, last, previous })
    }

    /// Enters a durable write into the contents.
    fn index(&self, parts: &[Part<'_>], segment: &Arc<Segment>) {
        let mut contents = self.shared.contents_mut();
        let mut offset = self.offset;
        for part in parts {
            let span = part.span();
            match part {
                Part::Head(_) => {}
                Part::HardState(hard_state) => contents.hard_state = *hard_state,
                Part::Compact(position) => contents.compact(*position),
                Part::Reset(position) => contents.reset(*position),
                Part::Entries(entries) => {
                    let first = entries[0].index;
                    let count = u32::try_from(entries.len()).expect("bounded by RECORD_ENTRIES_MAX");
                    let item = RecordItem { first, count, segment: Arc::clone(segment), offset, span };
                    contents.append(item, entries.iter().map(|entry| (entry.term, entry.kind)));
                }
            }
            offset += span;
        }
    }

    /// Gives back the segments before the first one that holds an entry of the log.
    fn recycle(&mut self) {
        let active = self.segments.back().expect("something was written").header.sequence;
        let needed = self.shared.contents().oldest_segment().unwrap_or(active);
        let mut files = Vec::new();
        while self.segments.front().is_some_and(|segment| segment.header.sequence < needed) {
            let segment = self.segments.pop_front().expect("looked at above");
            files.push((segment.name.clone(), segment.header.length));
        }
        if !files.is_empty() {
            self.workshop.retire(files);
        }
    }
}

impl LogStore for SegmentedLog {
    fn write(&mut self, writes: &[LogWrite]) -> Result<(), LogError> {
        self.shared.poison.check()?;
        let mut entries: Vec<&Entry> = Vec::new();
        let mut parts = Vec::new();
        let last = {
            let contents = self.shared.contents();
            if let Some(hard_state) = merge_hard_states(writes, contents.hard_state) {
                parts.push(Part::HardState(hard_state));
            }
            merge_entries(writes, &mut entries);
            if let Some(first) = entries.first() {
                let objection = contents.objection_to_append(first.position());
                let last = contents.last;
                assert!(
                    objection.is_none(),
                    "{} at {}, the log ends at {last}",
                    objection.unwrap_or(""),
                    first.position()
                );
            }
            entries.last().map_or(contents.last, |entry| entry.index)
        };
        split(&entries, self.config.record_bytes_max, &mut parts);
        if parts.is_empty() {
            return Ok(());
        }
        self.commit(parts, last)
    }

    fn compact(&mut self, position: LogPosition) -> Result<(), LogError> {
        self.shared.poison.check()?;
        let last = {
            let contents = self.shared.contents();
            if position.index <= contents.start.index {
                return Ok(());
            }
            let objection = contents.objection_to_compact(position);
            let last = contents.last;
            assert!(objection.is_none(), "{} at {position}, the log ends at {last}", objection.unwrap_or(""));
            last
        };
        self.commit(vec![Part::Compact(position)], last)?;
        self.recycle();
        self.shared.poison.check()
    }

    fn reset(&mut self, start: LogPosition) -> Result<(), LogError> {
        self.commit(vec![Part::Reset(start)], start.index)?;
        self.recycle();
        self.shared.poison.check()
    }

    fn reader(&self) -> LogReader {
        LogReader::new(Arc::<Shared>::clone(&self.shared))
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for SegmentedLog {
    fn drop(&mut self) {
        // A closed log leaves an exact mark behind. After a failure nothing is touched any more.
        if self.shared.poison.check().is_ok() {
            self.workshop.sync_high_water();
        }
        self.workshop.stop();
    }
}

/// The hard state after all of `writes`, if any says one.
fn merge_hard_states(writes: &[LogWrite], mut current: HardState) -> Option<HardState> {
    let mut newest = None;
    for hard_state in writes.iter().filter_map(|write| write.hard_state) {
        let objection = objection_to_hard_state(current, hard_state);
        assert!(objection.is_none(), "{}: {hard_state:?} after {current:?}", objection.unwrap_or(""));
        current = hard_state;
        newest = Some(hard_state);
    }
    newest
}

/// The entries that all of `writes` leave behind: one run, because a later write replaces the end of an earlier one.
fn merge_entries<'a>(writes: &'a [LogWrite], into: &mut Vec<&'a Entry>) {
    for write in writes {
        if let (Some(first), Some(start)) = (write.entries.first(), into.first().map(|entry| entry.index)) {
            let keep = usize::try_from(first.index.0.saturating_sub(start.0)).expect("a batch fits in memory");
            into.truncate(keep);
        }
        for entry in &write.entries {
            if let Some(before) = into.last() {
                assert_eq!(entry.index, before.index.next(), "entries of one batch leave no gap");
                assert!(entry.term >= before.term, "term went back from {} to {}", before.position(), entry.position());
            }
            into.push(entry);
        }
    }
}
