//! What a run knows of keys, and going through ranges with it.
//!
//! The engine shows what was there before the run. The overlay holds what the run has loaded or changed since, `None` for a key that does not
//! exist, and rules where it knows a key.
//!
//! What keys held in the middle of the run, at revisions that the run itself has given out, is nowhere but here; [`Superseded`] keeps it, in the
//! rare run that reads at a revision which it names.

use super::super::engine::{Cursor, Engine, Snapshot, Table};
use super::super::error::{CorruptRow, ReadError, StateError};
use super::super::layout::{KeyValue, RECORD_HEADER_BYTES, RecordHeader};
use super::super::walk::{self, At};
use crate::command::{KeyRange, RangeLimits};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

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
    /// Put earlier in the run: the value, still in the log entry.
    Logged(&'a [u8]),
    /// Put earlier in the run with the value that the key held before.
    Kept(Bytes),
}

impl<'a> Slot<'a> {
    pub(super) fn stored(key: &[u8], record: Bytes) -> Result<Slot<'a>, CorruptRow> {
        let header = RecordHeader::decode(&record);
        let header = header.map_err(|cause| CorruptRow::new(Table::Current, key, cause))?;
        Ok(Slot { header, value: SlotValue::Stored(record) })
    }

    pub(super) fn value(&self) -> &[u8] {
        match &self.value {
            SlotValue::Stored(record) => &record[RECORD_HEADER_BYTES..],
            SlotValue::Logged(value) => value,
            SlotValue::Kept(value) => value,
        }
    }

    /// The value for a put that keeps it.
    pub(super) fn kept_value(&self) -> SlotValue<'a> {
        match &self.value {
            SlotValue::Stored(record) => SlotValue::Kept(record.slice(RECORD_HEADER_BYTES..)),
            SlotValue::Logged(value) => SlotValue::Logged(value),
            SlotValue::Kept(value) => SlotValue::Kept(value.clone()),
        }
    }

    pub(super) fn key_value(&self, key: &[u8]) -> KeyValue {
        let value = match &self.value {
            SlotValue::Stored(record) => record.slice(RECORD_HEADER_BYTES..),
            SlotValue::Logged(value) => Bytes::copy_from_slice(value),
            SlotValue::Kept(value) => value.clone(),
        };
        KeyValue::new(Bytes::copy_from_slice(key), self.header, value)
    }
}

/// What is known of keys: `None` if they do not exist.
pub(super) type Overlay<'a> = BTreeMap<Cow<'a, [u8]>, Option<Slot<'a>>>;

/// What keys held until a revision of this run, by key and revision, ascending.
pub(super) type Superseded<'a> = BTreeMap<Cow<'a, [u8]>, Vec<(u64, Option<Slot<'a>>)>>;

pub(super) fn bounds(range: KeyRange<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.start), range.end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// How much one command has read, compared and deleted.
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

    /// A key that is only counted.
    pub(super) fn add_key(&mut self) {
        self.keys += 1;
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
        let flow = match known.next_if(|(same, _)| *same == key) {
            Some((_, Some(slot))) => visit(pair(key, slot)),
            Some((_, None)) => ControlFlow::Continue(()),
            None => visit(Pair { key, header, value: &record[RECORD_HEADER_BYTES..] }),
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

fn pair<'p>(key: &'p [u8], slot: &'p Slot<'_>) -> Pair<'p> {
    Pair { key, header: slot.header, value: slot.value() }
}

/// Brings what the engine has in the range, and the overlay does not know better, into the overlay. False, and nothing is brought, if that makes
/// `size`, which counts all that the range holds, exceed the limits.
pub(super) fn load_range<E: Engine>(
    engine: &E,
    overlay: &mut Overlay<'_>,
    range: KeyRange<'_>,
    limits: RangeLimits,
    size: &mut RangeSize,
) -> Result<bool, StateError> {
    for (key, slot) in overlay.range::<[u8], _>(bounds(range)) {
        if let Some(slot) = slot {
            size.add(key.len(), slot.value().len());
        }
    }
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Table::Current, range.start, range.end);
    let mut found = Vec::new();
    cursor.seek_first();
    while size.fits(limits)
        && let Some((key, record)) = cursor.item()
    {
        if !overlay.contains_key(key) {
            size.add(key.len(), record.len().saturating_sub(RECORD_HEADER_BYTES));
            // Before it is copied: this one may be the one too many.
            if size.fits(limits) {
                found.push((Cow::Owned(key.to_vec()), Some(Slot::stored(key, Bytes::copy_from_slice(record))?)));
            }
        }
        cursor.next();
    }
    cursor.check()?;
    let fits = size.fits(limits);
    if fits {
        overlay.extend(found);
    }
    Ok(fits)
}
