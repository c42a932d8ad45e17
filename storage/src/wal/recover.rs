//! Opening a log: first find out what it holds, changing nothing; then, if that is in order, make it ready to append.
//!
//! The rules are in the [module](super)'s essay. In short: replay complete writes in order from the first segment; where that
//! stops, look behind for proof that the missing write had been flushed; compare with the high-water mark.

use super::contents::{Contents, RecordItem, objection_to_hard_state};
use super::disk::Disk;
use super::error::{Damage, LogError, OpenError};
use super::factory::write_zeros;
use super::format::{
    FILE_HEADER_BYTES, FIRST_RECORD, FORMAT_VERSION, FileHeader, FileHeaderFault, Head, RecordHeader, RecordKind,
    SegmentEnd, decode_hard_state, decode_position, decode_table,
};
use super::high_water::{FILE as HIGH_WATER, HighWater, Mark};
use super::scan::{Invalid, Window, later_write, record_at, tail};
use super::segment::{FileRole, Segment, spare_name};
use super::{LogConfig, RecoveredLog, TornTail};
use raft::{EntryKind, HardState, LogIndex, LogPosition, Term};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

/// What the directory holds: found without changing anything.
pub(super) struct Scan {
    pub(super) contents: Contents,
    /// The last complete write.
    pub(super) write_sequence: u64,
    /// Where the log goes on; `None` if nothing was ever written.
    pub(super) active: Option<Active>,
    /// All segments of the log, oldest first, the active one last.
    pub(super) segments: Vec<Arc<Segment>>,
    /// Segments that hold nothing of the log, oldest first.
    pub(super) surplus: Vec<String>,
    pub(super) spares: Vec<(u64, String)>,
    unfinished: Vec<String>,
    pub(super) torn_tail: Option<TornTail>,
    high_water: Option<HighWater>,
}

/// The segment the log goes on in.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    /// The last complete write.
    last_write: Range<u64>,
    /// Bytes behind it that are not zero.
    dirty: Option<(u64, u64)>,
}

impl Active {
    pub(super) fn end(&self) -> u64 {
        self.last_write.end
    }
}

/// One change to the contents, found in a record and not applied before its write is complete.
enum Effect {
    Head(Head),
    HardState(HardState),
    Entries { item: RecordItem, entries: Vec<(Term, EntryKind)> },
    Compact(LogPosition),
    Reset(LogPosition),
}

/// Whether `disk` holds a log, in whatever state: a segment of it or its high-water mark. A log that was opened once has had the mark, durably, since
/// before it was first written to, so where neither is, there has never been a log, or it is lost. Which of the two is not known here. Reads only.
///
/// # Errors
///
/// What the system says.
pub fn holds_log(disk: &dyn Disk) -> io::Result<bool> {
    let is_of_a_log = |name: &String| name == HIGH_WATER || matches!(FileRole::of(name), FileRole::Segment(_));
    Ok(disk.list()?.iter().any(is_of_a_log))
}

/// Finds out what the log holds. Reads only.
pub(super) fn scan(disk: &dyn Disk, config: &LogConfig) -> Result<Scan, OpenError> {
    let names = disk.list().map_err(|source| LogError::io("list", &disk.path(""), source))?;
    let mut sequences = Vec::new();
    let (mut spares, mut unfinished) = (Vec::new(), Vec::new());
    for name in names.iter().cloned() {
        match FileRole::of(&name) {
            FileRole::Segment(sequence) => sequences.push((sequence, name)),
            FileRole::Spare(number) => spares.push((number, name)),
            FileRole::Unfinished => unfinished.push(name),
            FileRole::Other => {}
        }
    }
    sequences.sort_unstable();
    let marked = if names.iter().any(|name| name == HIGH_WATER) { Some(HighWater::open(disk)?) } else { None };
    // Recycling removes the oldest first, but a power cut may keep a later renaming and lose an earlier one: what
    // stands before a gap is not part of the log. If it should have been, the first segment after the gap tells.
    let run = sequences.windows(2).rposition(|pair| pair[1].0 != pair[0].0 + 1).map_or(0, |at| at + 1);
    let mut surplus: Vec<String> = sequences.drain(..run).map(|(_, name)| name).collect();
    let mut segments = Vec::new();
    for (sequence, name) in sequences {
        segments.push(open_segment(disk, config, sequence, name)?);
    }
    if marked.is_none() && !segments.is_empty() {
        return Err(OpenError::HighWaterLost { file: disk.path(HIGH_WATER) });
    }

    let mut replay = Replay::new(config, marked.as_ref().is_some_and(|(_, mark)| mark.write_sequence > 0));
    let end = replay.segments(&segments)?;
    let held = end.as_ref().map_or(0, |end| end.segments);
    surplus.extend(segments.drain(held..).map(|segment| segment.name.clone()));
    let scan = Scan {
        contents: replay.contents,
        write_sequence: replay.write_sequence,
        torn_tail: end.as_ref().and_then(|end| end.torn_tail.clone()),
        active: end.and_then(|end| end.active),
        segments,
        surplus,
        spares,
        unfinished,
        high_water: marked.as_ref().map(|(file, _)| file.clone()),
    };
    scan.check_acknowledged(disk, marked.map(|(_, mark)| mark))?;
    Ok(scan)
}

fn open_segment(disk: &dyn Disk, config: &LogConfig, sequence: u64, name: String) -> Result<Arc<Segment>, OpenError> {
    let path = disk.path(&name);
    let error = |source| LogError::io("read", &path, source);
    let file = disk.open(&name).map_err(error)?;
    let mut window = Window::new(Arc::clone(&file)).map_err(error)?;
    let decoded = match window.at(0, FILE_HEADER_BYTES as u64).map_err(error)? {
        Some(bytes) => FileHeader::decode(bytes.try_into().expect("as long as a file header")),
        None => Err(FileHeaderFault::Damaged),
    };
    let header = match decoded {
        Err(FileHeaderFault::Version(found)) => {
            return Err(OpenError::UnknownVersion { file: path, found, known: FORMAT_VERSION });
        }
        Ok(header) if header.sequence == sequence => header,
        _ => return Err(OpenError::Corrupt { file: path, offset: 0, damage: Damage::SegmentHeader }),
    };
    if header.group != config.group {
        return Err(OpenError::WrongGroup { file: path, found: header.group, expected: config.group });
    }
    Ok(Arc::new(Segment { header, name, path, file }))
}

fn corrupt(segment: &Segment, offset: u64, damage: Damage) -> OpenError {
    OpenError::Corrupt { file: segment.path.clone(), offset, damage }
}

fn read_error(segment: &Segment) -> impl Fn(std::io::Error) -> LogError {
    let path = segment.path.clone();
    move |source| LogError::io("read", &path, source)
}

/// How a log ended.
struct End {
    active: Option<Active>,
    /// How many of the segments hold writes of the log.
    segments: usize,
    torn_tail: Option<TornTail>,
}

/// Where the records of one segment stop making complete writes.
struct Stop {
    /// The last complete write in the segment; empty and at the first record if there is none.
    last_write: Range<u64>,
    /// The first record that is not valid.
    offset: u64,
    damage: Damage,
}

/// What stands behind the end of a log, once it is known to be harmless.
struct Behind {
    /// Bytes that are not zero.
    dirty: Option<(u64, u64)>,
    torn_tail: Option<TornTail>,
}

struct Replay<'a> {
    config: &'a LogConfig,
    /// Something was flushed once, according to the high-water mark.
    used: bool,
    contents: Contents,
    write_sequence: u64,
}

impl<'a> Replay<'a> {
    fn new(config: &'a LogConfig, used: bool) -> Replay<'a> {
        Replay { config, used, contents: Contents::default(), write_sequence: 0 }
    }

    /// Replays consecutive segments. `None` if there are none.
    fn segments(&mut self, segments: &[Arc<Segment>]) -> Result<Option<End>, OpenError> {
        let mut previous: Option<(usize, Stop)> = None;
        for (at, segment) in segments.iter().enumerate() {
            let stop = self.segment(segment, previous.as_ref().map(|(before, stop)| (&segments[*before], stop)))?;
            if stop.last_write.is_empty() {
                // Nothing of the log in here: it ended in the segment before, or this write never came to an end.
                return self.end(segments, previous, Some((at, stop))).map(Some);
            }
            previous = Some((at, stop));
        }
        if previous.is_none() { Ok(None) } else { self.end(segments, previous, None).map(Some) }
    }

    /// Replays one segment up to where complete writes stop.
    fn segment(&mut self, segment: &Arc<Segment>, previous: Option<(&Arc<Segment>, &Stop)>) -> Result<Stop, OpenError> {
        let io = read_error(segment);
        let mut window = Window::new(Arc::clone(&segment.file)).map_err(&io)?;
        let mut stop = Stop { last_write: FIRST_RECORD..FIRST_RECORD, offset: FIRST_RECORD, damage: Damage::Header };
        let mut effects = Vec::new();
        let mut expected_end = previous.map(|(segment, stop)| SegmentEnd {
            epoch: segment.header.epoch,
            offset: stop.last_write.end,
            write_sequence: self.write_sequence,
        });
        loop {
            let (epoch, group) = (segment.header.epoch, self.config.group);
            let (header, body) = match record_at(&mut window, epoch, group, stop.offset).map_err(&io)? {
                Ok(record) => record,
                Err(Invalid { damage, .. }) => {
                    stop.damage = damage;
                    return Ok(stop);
                }
            };
            let first = stop.offset == FIRST_RECORD;
            let effect =
                effect(segment, &header, body, stop.offset).map_err(|damage| corrupt(segment, stop.offset, damage))?;
            if first != matches!(effect, Effect::Head(_)) {
                return Err(corrupt(
                    segment,
                    stop.offset,
                    Damage::Malformed { reason: "a head stands first, and only there" },
                ));
            }
            if let (true, Effect::Head(head)) = (first, &effect) {
                self.check_head(segment, &header, head, expected_end.take(), previous)?;
            }
            let expected = self.write_sequence + 1;
            if header.write_sequence < expected {
                // Left over from before: not part of the log, and proof of nothing.
                stop.damage = Damage::OutOfOrder { expected, found: header.write_sequence };
                return Ok(stop);
            }
            if header.write_sequence > expected || usize::from(header.part) != effects.len() {
                let damage = Damage::OutOfOrder { expected, found: header.write_sequence };
                return Err(corrupt(segment, stop.offset, damage));
            }
            effects.push((stop.offset, effect));
            stop.offset += header.span();
            if header.last {
                for (offset, effect) in effects.drain(..) {
                    self.apply(effect).map_err(|reason| corrupt(segment, offset, Damage::Malformed { reason }))?;
                }
                self.write_sequence = header.write_sequence;
                stop.last_write = stop.last_write.end..stop.offset;
            }
        }
    }

    /// The head of a segment says what is true before it. The first head is believed; later ones must agree with what was replayed.
    fn check_head(
        &mut self,
        segment: &Segment,
        header: &RecordHeader,
        head: &Head,
        end: Option<SegmentEnd>,
        previous: Option<(&Arc<Segment>, &Stop)>,
    ) -> Result<(), OpenError> {
        if let (Some(end), Some((before, stop))) = (end, previous) {
            if head.previous != end {
                let damage = Damage::SegmentEnd {
                    expected_end: head.previous.offset,
                    expected_sequence: head.previous.write_sequence,
                    found_sequence: self.write_sequence,
                };
                return Err(corrupt(before, stop.offset, damage));
            }
            let known = self.contents.term_at(head.last.index).is_none_or(|term| term == head.last.term);
            let contents = &self.contents;
            let agrees = head.hard_state == contents.hard_state && head.start == contents.start;
            if !agrees || head.last.index != contents.last || !known {
                return Err(corrupt(segment, FIRST_RECORD, Damage::Head));
            }
            return Ok(());
        }
        let first_ever = segment.header.sequence == 1;
        let plausible = head.last.index >= head.start.index
            && head.previous.write_sequence + 1 == header.write_sequence
            && first_ever == (head.previous == SegmentEnd::default());
        if !plausible {
            return Err(corrupt(segment, FIRST_RECORD, Damage::Head));
        }
        self.contents = Contents::from_head(head.hard_state, head.start, head.last);
        self.write_sequence = head.previous.write_sequence;
        Ok(())
    }

    fn apply(&mut self, effect: Effect) -> Result<(), &'static str> {
        let objection = match &effect {
            Effect::Head(_) | Effect::Reset(_) => None,
            Effect::HardState(hard_state) => objection_to_hard_state(self.contents.hard_state, *hard_state),
            Effect::Entries { item, entries } => {
                let first = LogPosition { term: entries[0].0, index: item.first };
                let back = entries.windows(2).any(|pair| pair[1].0 < pair[0].0);
                self.contents.objection_to_append(first).or(back.then_some("entries whose terms go back"))
            }
            Effect::Compact(position) => self.contents.objection_to_compact(*position),
        };
        if let Some(reason) = objection {
            return Err(reason);
        }
        match effect {
            Effect::Head(_) => {}
            Effect::HardState(hard_state) => self.contents.hard_state = hard_state,
            Effect::Entries { item, entries } => self.contents.append(item, entries.into_iter()),
            Effect::Compact(position) => self.contents.compact(position),
            Effect::Reset(position) => self.contents.reset(position),
        }
        Ok(())
    }

    /// The log ended: in `previous`, the last segment with a complete write, or, if there is none, before the first record of all.
    /// `incomplete` is the segment after it, without a complete write. Decides between a torn tail and corruption.
    fn end(
        &self,
        segments: &[Arc<Segment>],
        previous: Option<(usize, Stop)>,
        incomplete: Option<(usize, Stop)>,
    ) -> Result<End, OpenError> {
        if let (None, Some((at, stop))) = (&previous, &incomplete) {
            // The first segment of a log that has dropped segments before it always holds a flushed write, and the high-water mark
            // is flushed before any segment is dropped.
            if segments[*at].header.sequence > 1 && self.used {
                return Err(corrupt(&segments[*at], stop.offset, stop.damage));
            }
        }
        let mut torn_tail = None;
        let mut active = None;
        if let Some((at, stop)) = &previous {
            let segment = &segments[*at];
            let found = self.look_behind(segment, stop)?;
            torn_tail = found.torn_tail;
            active =
                Some(Active { segment: Arc::clone(segment), last_write: stop.last_write.clone(), dirty: found.dirty });
        }
        if let Some((at, stop)) = &incomplete {
            let found = self.look_behind(&segments[*at], stop)?;
            torn_tail = torn_tail.or(found.torn_tail);
            for later in &segments[at + 1..] {
                if later_write(later, self.write_sequence).map_err(read_error(later))?.is_some() {
                    return Err(corrupt(&segments[*at], stop.offset, stop.damage));
                }
            }
        }
        if let Some(missing) = self.contents.missing() {
            let damage = Damage::MissingEntries { first: missing.first, last: missing.last };
            return Err(corrupt(&segments[0], 0, damage));
        }
        Ok(End { active, segments: previous.map_or(0, |(at, _)| at + 1), torn_tail })
    }

    /// Looks for proof that the write that is missing after `stop` had been flushed. Returns what is dirty behind it, and a torn tail.
    fn look_behind(&self, segment: &Segment, stop: &Stop) -> Result<Behind, OpenError> {
        let mut window = Window::new(Arc::clone(&segment.file)).map_err(read_error(segment))?;
        let from = stop.last_write.end;
        let found = tail(&mut window, segment, from, self.write_sequence).map_err(read_error(segment))?;
        if found.later_write.is_some() {
            return Err(corrupt(segment, stop.offset, stop.damage));
        }
        // In a file that began with zeros, anything that is not zero was a write. In one used before, only a header tells.
        let end = match (found.torn_end, found.dirty) {
            (torn, Some((_, dirty_end))) if segment.header.zeroed => {
                Some(torn.map_or(dirty_end, |end| end.max(dirty_end)))
            }
            (torn, _) => torn,
        };
        let torn_tail = end.map(|end| TornTail { file: segment.path.clone(), offset: from, bytes: end - from });
        Ok(Behind { dirty: found.dirty, torn_tail })
    }
}

/// What a valid record says.
fn effect(segment: &Arc<Segment>, header: &RecordHeader, body: &[u8], offset: u64) -> Result<Effect, Damage> {
    Ok(match header.kind {
        RecordKind::Head => Effect::Head(Head::decode(body)?),
        RecordKind::HardState => Effect::HardState(decode_hard_state(body)?),
        RecordKind::Compact => Effect::Compact(decode_position(body)?),
        RecordKind::Reset => Effect::Reset(decode_position(body)?),
        RecordKind::Entries => {
            let entries = decode_table(body, header.count)?.iter().map(|line| (line.term, line.kind)).collect();
            if header.first_index == LogIndex::ZERO
                || header.first_index.0.checked_add(u64::from(header.count)).is_none()
            {
                return Err(Damage::Malformed { reason: "impossible first index" });
            }
            let (first, count) = (header.first_index, header.count);
            let item = RecordItem { first, count, segment: Arc::clone(segment), offset, span: header.span() };
            Effect::Entries { item, entries }
        }
    })
}

impl Scan {
    /// Compares what was found with the high-water mark.
    fn check_acknowledged(&self, disk: &dyn Disk, marked: Option<Mark>) -> Result<(), OpenError> {
        let Some(expected) = marked.filter(|mark| mark.write_sequence > self.write_sequence) else { return Ok(()) };
        let (file, offset) = match &self.active {
            Some(active) => (active.segment.path.clone(), active.end()),
            None => (disk.path(&super::segment::segment_name(expected.segment)), 0),
        };
        Err(OpenError::AcknowledgedLost { file, offset, expected, found: self.write_sequence })
    }

    pub(super) fn recovered(&self) -> RecoveredLog {
        RecoveredLog {
            hard_state: self.contents.hard_state,
            start: self.contents.start,
            last: self.contents.last,
            term_runs: self.contents.term_runs(),
            memberships: self.contents.memberships(),
            torn_tail: self.torn_tail.clone(),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            write_sequence: self.write_sequence,
            last_index: self.contents.last,
            segment: self.active.as_ref().map_or(0, |active| active.segment.header.sequence),
        }
    }

    /// Makes the log ready to append: the last write is certainly on disk, nothing stands behind it, only segments of the log are
    /// called so. A crash in the middle leaves a log that recovers to the same contents.
    pub(super) fn settle(&mut self, disk: &dyn Disk, config: &LogConfig) -> Result<HighWater, LogError> {
        if let Some(active) = &self.active {
            active.settle()?;
        }
        let free = self.spares.iter().map(|(number, _)| number + 1).max().unwrap_or(1);
        // The newest first, each durably: a gap in the sequence must never leave an empty segment behind it.
        for (number, name) in (free..).zip(std::mem::take(&mut self.surplus).into_iter().rev()) {
            let path = disk.path(&name);
            let spare = spare_name(number);
            disk.rename(&name, &spare).map_err(|source| LogError::io("recycle", &path, source))?;
            disk.sync_directory().map_err(|source| LogError::io("flush the directory of", &path, source))?;
            self.spares.push((number, spare));
        }
        self.discard_spares(disk, config)?;
        disk.sync_directory().map_err(|source| LogError::io("flush the directory", &disk.path(""), source))?;
        let high_water = match self.high_water.take() {
            Some(high_water) => high_water,
            None => HighWater::create(disk)?,
        };
        high_water.write(&self.mark())?;
        high_water.sync()?;
        Ok(high_water)
    }

    /// Removes unfinished files, spare ones of another length and those beyond the configured number, plus the one that is needed next.
    fn discard_spares(&mut self, disk: &dyn Disk, config: &LogConfig) -> Result<(), LogError> {
        let remove = |name: &str| disk.remove(name).map_err(|source| LogError::io("remove", &disk.path(name), source));
        for name in self.unfinished.drain(..) {
            remove(&name)?;
        }
        let length = config.segment_bytes.next_multiple_of(FIRST_RECORD);
        let mut kept = Vec::new();
        for (number, name) in self.spares.drain(..) {
            let file = disk.open(&name).and_then(|file| file.length());
            let actual = file.map_err(|source| LogError::io("read", &disk.path(&name), source))?;
            if actual == length && kept.len() <= config.recycled_segments_max {
                kept.push((number, name));
            } else {
                remove(&name)?;
            }
        }
        self.spares = kept;
        Ok(())
    }
}

impl Active {
    /// Writes the last write once more and zeros behind it, then flushes. Reading it back proves nothing about the disk: after a failed
    /// flush the page cache may hold, marked clean, what the disk does not (scenario 53).
    fn settle(&self) -> Result<(), LogError> {
        const STEP_BYTES: u64 = 1 << 20;
        let Segment { file, path, header, .. } = &*self.segment;
        let error = |source| LogError::io("rewrite the end of", path, source);
        // A file that was cut short gets its length back, and with it the padding of its last record.
        let length = file.length().map_err(error)?;
        if length < header.length {
            write_zeros(&**file, length, header.length - length).map_err(error)?;
        }
        let mut buffer = Vec::new();
        let mut offset = self.last_write.start;
        while offset < self.last_write.end {
            let step = STEP_BYTES.min(self.last_write.end - offset);
            buffer.resize(usize::try_from(step).expect("one step fits in memory"), 0);
            file.read_at(&mut buffer, offset).map_err(error)?;
            file.write_at(&mut [IoSlice::new(&buffer)], offset).map_err(error)?;
            offset += step;
        }
        if let Some((from, to)) = self.dirty {
            write_zeros(&**file, from, to - from).map_err(error)?;
        }
        file.sync().map_err(error)
    }
}
