//! What a run knows of keys, and going through ranges with it.
//!
//! The engine shows what was there before the run. The overlay holds what the run has loaded or changed since, `None` for a key that does not
//! exist, and rules where it knows a key.
//!
//! Of what it loads it holds values up to a number of bytes, all together. Those beyond are *left*: the overlay knows the header and how long the value is, and who needs
//! the value itself reads it from the engine, which goes on showing it until the run is written. So a run over large values takes no more memory than one over
//! small ones, and is none the wiser.
//!
//! What keys held in the middle of the run, at revisions that the run itself has given out, is nowhere but here; [`Superseded`] keeps it, in the
//! rare run that reads at a revision which it names.

use super::super::engine::{Cursor, Engine, Snapshot, Table};
use super::super::error::{CorruptRow, ReadError, StateError};
use super::super::layout::{KeyValue, LayoutError, RECORD_HEADER_BYTES, RecordHeader};
use super::super::walk::{self, At};
use crate::command::{KeyRange, RangeLimits};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow, Deref};

/// What a key holds in the middle of a run.
#[derive(Clone)]
pub(super) struct Slot<'a> {
    pub(super) header: RecordHeader,
    pub(super) value: SlotValue<'a>,
}

#[derive(Clone)]
pub(super) enum SlotValue<'a> {
    /// Loaded: the whole record.
    Stored(Bytes),
    /// That of the record which the engine has in `current`, and not in memory. So many bytes.
    Left(usize),
    /// Put earlier in the run: the value, still in the log entry.
    Logged(&'a [u8]),
    /// Put earlier in the run with the value that the key held before.
    Kept(Bytes),
}

/// Bytes at hand: borrowed, or shared.
pub(super) enum BytesAtHand<'b> {
    Borrowed(&'b [u8]),
    Shared(Bytes),
}

impl BytesAtHand<'_> {
    /// Copied only if they are borrowed.
    fn into_bytes(self) -> Bytes {
        match self {
            BytesAtHand::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            BytesAtHand::Shared(bytes) => bytes,
        }
    }
}

impl Deref for BytesAtHand<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            BytesAtHand::Borrowed(bytes) => bytes,
            BytesAtHand::Shared(bytes) => bytes,
        }
    }
}

impl<'a> Slot<'a> {
    pub(super) fn value_bytes(&self) -> usize {
        match &self.value {
            SlotValue::Stored(record) => record.len() - RECORD_HEADER_BYTES,
            SlotValue::Left(bytes) => *bytes,
            SlotValue::Logged(value) => value.len(),
            SlotValue::Kept(value) => value.len(),
        }
    }

    /// The value, from the engine if it was left there.
    pub(super) fn value<E: Engine>(&self, engine: &E, key: &[u8]) -> Result<BytesAtHand<'_>, StateError> {
        match self.value_here() {
            Some(value) => Ok(BytesAtHand::Borrowed(value)),
            None => Ok(BytesAtHand::Shared(load_left(engine, key, self.value_bytes())?)),
        }
    }

    /// The value, if it is in memory.
    fn value_here(&self) -> Option<&[u8]> {
        match &self.value {
            SlotValue::Stored(record) => Some(&record[RECORD_HEADER_BYTES..]),
            SlotValue::Left(_) => None,
            SlotValue::Logged(value) => Some(value),
            SlotValue::Kept(value) => Some(value),
        }
    }

    /// The value for a put that keeps it.
    pub(super) fn kept_value(&self) -> SlotValue<'a> {
        match &self.value {
            SlotValue::Stored(record) => SlotValue::Kept(record.slice(RECORD_HEADER_BYTES..)),
            SlotValue::Left(bytes) => SlotValue::Left(*bytes),
            SlotValue::Logged(value) => SlotValue::Logged(value),
            SlotValue::Kept(value) => SlotValue::Kept(value.clone()),
        }
    }

    pub(super) fn key_value<E: Engine>(&self, engine: &E, key: &[u8]) -> Result<KeyValue, StateError> {
        let value = match &self.value {
            SlotValue::Stored(record) => record.slice(RECORD_HEADER_BYTES..),
            SlotValue::Kept(value) => value.clone(),
            SlotValue::Left(_) | SlotValue::Logged(_) => self.value(engine, key)?.into_bytes(),
        };
        Ok(KeyValue::new(Bytes::copy_from_slice(key), self.header, value))
    }
}

/// A value that was left where it is.
fn load_left<E: Engine>(engine: &E, key: &[u8], bytes: usize) -> Result<Bytes, StateError> {
    let corrupt = |cause| CorruptRow::new(Table::Current, key, cause);
    let record = engine.load(Table::Current, key)?.ok_or_else(|| corrupt(LayoutError::Missing))?;
    if record.len() != RECORD_HEADER_BYTES + bytes {
        return Err(corrupt(LayoutError::Short { bytes: record.len() }).into());
    }
    Ok(record.slice(RECORD_HEADER_BYTES..))
}

/// What is known of keys: `None` if they do not exist.
pub(super) struct Overlay<'a> {
    slots: BTreeMap<Cow<'a, [u8]>, Option<Slot<'a>>>,
    /// How many bytes of loaded records it may still hold.
    room_bytes: usize,
    /// About how many bytes it takes to know of the keys that were found in ranges.
    learned_bytes: usize,
}

impl<'a> Overlay<'a> {
    /// Nothing is known yet; loaded records of so many bytes may be held.
    pub(super) fn new(held_bytes_max: usize) -> Overlay<'a> {
        Overlay { slots: BTreeMap::new(), room_bytes: held_bytes_max, learned_bytes: 0 }
    }

    /// Takes in what the engine has of a key that is not known.
    pub(super) fn load(&mut self, key: Cow<'a, [u8]>, record: Option<BytesAtHand<'_>>) -> Result<(), CorruptRow> {
        let slot = match record {
            None => None,
            Some(record) => {
                let header = RecordHeader::decode(&record);
                let header = header.map_err(|cause| CorruptRow::new(Table::Current, &key, cause))?;
                let value = match self.room_bytes.checked_sub(record.len()) {
                    Some(room_bytes) => {
                        self.room_bytes = room_bytes;
                        SlotValue::Stored(record.into_bytes())
                    }
                    None => SlotValue::Left(record.len() - RECORD_HEADER_BYTES),
                };
                Some(Slot { header, value })
            }
        };
        self.slots.insert(key, slot);
        Ok(())
    }

    /// Takes in what the engine has of a key that no command has named.
    pub(super) fn learn(&mut self, key: Vec<u8>, record: Option<BytesAtHand<'_>>) -> Result<(), CorruptRow> {
        self.learned_bytes += key.len() + SLOT_BYTES;
        self.load(Cow::Owned(key), record)
    }

    /// About how many bytes it takes to know what it has learned, values not counted.
    pub(super) fn learned_bytes(&self) -> usize {
        self.learned_bytes
    }

    pub(super) fn knows(&self, key: &[u8]) -> bool {
        self.slots.contains_key(key)
    }

    /// What a key holds that is known.
    ///
    /// # Panics
    /// If it is not: a run loads what its commands touch before they touch it.
    pub(super) fn slot(&self, key: &[u8]) -> Option<&Slot<'a>> {
        self.slots.get(key).expect(LOADED_BEFORE).as_ref()
    }

    /// The same, to change it.
    ///
    /// # Panics
    /// As [`slot`](Overlay::slot).
    pub(super) fn slot_mut(&mut self, key: &[u8]) -> &mut Option<Slot<'a>> {
        self.slots.get_mut(key).expect(LOADED_BEFORE)
    }

    /// What is known of a range, in key order.
    pub(super) fn range(&self, range: KeyRange<'_>) -> impl Iterator<Item = (&Cow<'a, [u8]>, Option<&Slot<'a>>)> {
        self.slots.range::<[u8], _>(bounds(range)).map(|(key, slot)| (key, slot.as_ref()))
    }
}

/// About what a key takes of a run beside its bytes: a slot, a change, rows in the batch.
const SLOT_BYTES: usize = 256;

const LOADED_BEFORE: &str = "a key is loaded before a command touches it";

/// What keys held until a revision of this run, by key and revision, ascending.
pub(super) type Superseded<'a> = BTreeMap<Cow<'a, [u8]>, Vec<(u64, Option<Slot<'a>>)>>;

pub(super) fn bounds(range: KeyRange<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.start), range.end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// A key that is deleted counts once more for each so many bytes. It decides what becomes of a command, so it belongs to format 4.
const LONG_KEY_BYTES: usize = 256;

/// How much one command has looked at and deleted, and how much of it is kept for its answer.
#[derive(Default)]
pub(super) struct RangeSize {
    keys: u64,
    bytes: u64,
}

impl RangeSize {
    pub(super) fn add(&mut self, key_bytes: usize, value_bytes: usize) {
        self.keys += 1;
        self.bytes += (key_bytes + value_bytes) as u64;
    }

    /// A key that is only looked at.
    pub(super) fn add_key(&mut self) {
        self.keys += 1;
    }

    /// A key that is deleted, and perhaps returned. Until the run is written it is in memory a few times, so a long one counts as several.
    pub(super) fn add_deleted(&mut self, key_bytes: usize, value_bytes: usize, returned: bool) {
        if returned {
            self.add(key_bytes, value_bytes)
        } else {
            self.add_key()
        }
        self.keys += (key_bytes / LONG_KEY_BYTES) as u64;
    }

    pub(super) fn fits(&self, limits: RangeLimits) -> bool {
        self.keys <= u64::from(limits.keys_max) && self.bytes <= limits.bytes_max
    }
}

/// A key that a range holds, with header and value.
#[derive(Clone, Copy)]
pub(super) struct Pair<'p> {
    pub(super) key: &'p [u8],
    pub(super) header: RecordHeader,
    pub(super) value: &'p [u8],
}

/// Calls `visit` with every pair of the range in key order, until it breaks off: as the engine has them at `at`, where `known`, which comes in key
/// order, does not know better.
pub(super) fn merge<'k, 's: 'k, E: Engine>(
    engine: &E,
    range: KeyRange<'_>,
    at: At,
    known: impl Iterator<Item = (&'k [u8], Option<&'k Slot<'s>>)>,
    visit: &mut dyn FnMut(Pair<'_>) -> ControlFlow<()>,
) -> Result<(), StateError> {
    let mut known = known.peekable();
    let snapshot = engine.snapshot();
    let mut is_over = false;
    let walked = walk::walk(&snapshot, range, false, at, &mut |key, header, record| {
        while let Some((before, slot)) = known.next_if(|(before, _)| *before < key) {
            if let Some(slot) = slot
                && visit(pair(before, slot)).is_break()
            {
                is_over = true;
                return ControlFlow::Break(());
            }
        }
        let stored = &record[RECORD_HEADER_BYTES..];
        let flow = match known.next_if(|(same, _)| *same == key) {
            // A value that was left in the engine is the one that is there.
            Some((_, Some(slot))) => {
                visit(Pair { key, header: slot.header, value: slot.value_here().unwrap_or(stored) })
            }
            Some((_, None)) => ControlFlow::Continue(()),
            None => visit(Pair { key, header, value: stored }),
        };
        is_over = flow.is_break();
        flow
    });
    walked.map_err(|error| match error {
        ReadError::Engine(error) => StateError::Engine(error),
        ReadError::Corrupt(row) => StateError::Corrupt(row),
        ReadError::Compacted { .. } | ReadError::Future { .. } | ReadError::TooLarge(_) => {
            unreachable!("a walk leaves it to its caller which revisions can be read, and how much")
        }
    })?;
    if !is_over {
        for (key, slot) in known {
            if let Some(slot) = slot
                && visit(pair(key, slot)).is_break()
            {
                break;
            }
        }
    }
    Ok(())
}

/// Of a key that the engine does not show.
fn pair<'p>(key: &'p [u8], slot: &'p Slot<'_>) -> Pair<'p> {
    let value = slot.value_here().expect("a value is left in the engine only if it is there");
    Pair { key, header: slot.header, value }
}

/// Brings what the engine has in the range, and the overlay does not know better, into the overlay, as far as `size` fits the limits, which counts all that the range
/// holds: with values if they are `returned`. False: it does not fit.
pub(super) fn load_range<E: Engine>(
    engine: &E,
    overlay: &mut Overlay<'_>,
    range: KeyRange<'_>,
    returned: bool,
    limits: RangeLimits,
    size: &mut RangeSize,
) -> Result<bool, StateError> {
    for (key, slot) in overlay.range(range) {
        if let Some(slot) = slot {
            size.add_deleted(key.len(), slot.value_bytes(), returned);
        }
    }
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Table::Current, range.start, range.end);
    cursor.seek_first();
    while size.fits(limits)
        && let Some((key, record)) = cursor.item()
    {
        if !overlay.knows(key) {
            size.add_deleted(key.len(), record.len().saturating_sub(RECORD_HEADER_BYTES), returned);
            // Before it is copied: this one may be the one too many.
            if size.fits(limits) {
                overlay.learn(key.to_vec(), Some(BytesAtHand::Borrowed(record)))?;
            }
        }
        cursor.next();
    }
    cursor.check()?;
    Ok(size.fits(limits))
}
