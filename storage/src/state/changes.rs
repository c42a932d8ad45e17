//! The changes of revisions, in order: what a watch tells.
//!
//! The table `changes` says which keys a revision wrote and deleted; the values are where reads at that revision find them, in `current` or
//! `history`. A key is changed at most once in a revision, so key and revision name the change.
//!
//! Reading goes in parts of whole revisions, or of one that is too large to be read at once. Each part has a snapshot of its own and copies what it returns, so a reader that takes
//! its time holds nothing. The caller says of each change, by its key alone, whether it is wanted: of others no value is looked up.
//!
//! Compaction goes on meanwhile, and what it makes dead may vanish even from a snapshot (`docs/decisions/0009-commands-of-format-4.md`). So the
//! oldest readable revision is looked at before and after: a part that begins before it is refused, not returned with holes. The
//! changes *of* the oldest readable revision are whole; what a key held before that one is gone, and left out.

use super::engine::{Cursor, Engine, Snapshot, Table};
use super::error::{CorruptRow, ReadError};
use super::layout::{self, ChangeKind, KeyValue, LayoutError};
use super::meta;
use super::reader::{StateReader, progress};
use super::walk;
use bytes::Bytes;

/// A part ends, between two revisions, once it has gone through so many changes: a caller that wants few of them hears how far it is.
const PART_CHANGES_MAX: usize = 16_384;

/// What became of one key in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision.
    pub revision: u64,
    /// The key.
    pub key: Bytes,
    /// What it holds from this revision on; `None`: it was deleted.
    pub value: Option<KeyValue>,
    /// What it held before, if that was asked for. `None` also for changes of the oldest readable revision: what was before is compacted.
    pub previous: Option<KeyValue>,
}

impl Change {
    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
        self.key.len() + held(&self.value) + held(&self.previous)
    }
}

/// What a caller wants to know of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// Nothing: it is left out.
    Nothing,
    /// What it did.
    Change,
    /// What it did, and what was there before.
    WithPrevious,
}

/// A place before one change of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangePosition {
    /// The revision.
    pub revision: u64,
    /// How many of its changes are before this place.
    pub number: u32,
}

impl ChangePosition {
    /// Before the first change of a revision.
    #[must_use]
    pub fn start_of(revision: u64) -> ChangePosition {
        ChangePosition { revision, number: 0 }
    }
}

/// How much is read at a time, in bytes of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartBounds {
    /// A part ends between two revisions once it has so much.
    pub bytes: usize,
    /// It ends within a revision once it has so much of that one alone.
    pub revision_bytes: usize,
}

/// Some whole revisions, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The changes that were wanted, in order.
    pub changes: Vec<Change>,
    /// Where to go on. Everything that was wanted before it is in `changes`, from where reading began.
    pub next: ChangePosition,
}

impl Changes {
    /// The last revision that was gone through as a whole.
    #[must_use]
    pub fn through(&self) -> u64 {
        self.next.revision - 1
    }

    /// Whether it ends within a revision, of which it holds a part and nothing of any other.
    #[must_use]
    pub fn is_within_revision(&self) -> bool {
        self.next.number > 0
    }
}

/// What bounds a read of changes from below.
#[derive(Debug, Clone, Copy)]
enum Floor {
    /// What anybody may ask for.
    Readable,
    /// What is there.
    Kept,
}

impl<E: Engine> StateReader<E> {
    /// Reads the changes from a place on, up to and including the revision `last`, until there are enough of them or many have been gone
    /// through: whole revisions, at least one, or else a part of the first. `interest` is asked for each, by its key and whether
    /// it is a delete.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] when the first revision is no longer readable, [`ReadError::Future`] when the last one does not exist here yet.
    ///
    /// # Panics
    /// If `last` is before that place.
    pub fn changes(
        &self,
        from: ChangePosition,
        last: u64,
        bounds: PartBounds,
        interest: &mut dyn FnMut(&[u8], bool) -> Interest,
    ) -> Result<Changes, ReadError> {
        self.changes_from(Floor::Readable, from, last, bounds, interest)
    }

    /// The same for whoever tells of changes as they come: also of revisions that a compaction has put out of reach meanwhile, as long as the engine was not
    /// allowed to drop anything of them. What a key held before may be left out of any change at or before the compaction.
    ///
    /// # Errors
    /// As [`changes`](StateReader::changes).
    ///
    /// # Panics
    /// If the range holds no revision.
    pub fn recent_changes(
        &self,
        from: ChangePosition,
        last: u64,
        bounds: PartBounds,
        interest: &mut dyn FnMut(&[u8], bool) -> Interest,
    ) -> Result<Changes, ReadError> {
        self.changes_from(Floor::Kept, from, last, bounds, interest)
    }

    /// The oldest revision whose changes can be read.
    fn floor(&self, floor: Floor) -> u64 {
        match floor {
            Floor::Readable => self.compacted_revision(),
            Floor::Kept => self.engine().let_go_before(),
        }
    }

    fn check_floor(&self, floor: Floor, requested: u64) -> Result<(), ReadError> {
        let compacted = self.floor(floor);
        if requested < compacted { Err(ReadError::Compacted { requested, compacted }) } else { Ok(()) }
    }

    fn changes_from(
        &self,
        floor: Floor,
        from: ChangePosition,
        last: u64,
        bounds: PartBounds,
        interest: &mut dyn FnMut(&[u8], bool) -> Interest,
    ) -> Result<Changes, ReadError> {
        let first = from.revision;
        assert!(first <= last, "a read of the changes of no revision, from {first} to {last}");
        let snapshot = self.engine().snapshot();
        let newest = progress(snapshot.load(Table::Meta, meta::PROGRESS)?.as_ref())?.revision;
        if last > newest {
            return Err(ReadError::Future { requested: last, current: newest });
        }
        self.check_floor(floor, first)?;
        let outcome = self.read_part(floor, &snapshot, from, last, bounds, interest);
        // First: a row that is missing was compacted rather than lost.
        self.check_floor(floor, first)?;
        outcome
    }

    fn read_part<S: Snapshot>(
        &self,
        floor: Floor,
        snapshot: &S,
        from: ChangePosition,
        last: u64,
        bounds: PartBounds,
        interest: &mut dyn FnMut(&[u8], bool) -> Interest,
    ) -> Result<Changes, ReadError> {
        let (lower, upper) = (layout::change_key(from.revision, from.number), layout::change_key(last + 1, 0));
        let mut cursor = snapshot.cursor(Table::Changes, &lower, Some(&upper));
        cursor.seek_first();
        let mut part = Changes { changes: Vec::new(), next: ChangePosition::start_of(last + 1) };
        let (mut gone_through, mut bytes) = (0, 0);
        // Of the revision under way: its number, and what the part holds of it.
        let (mut current, mut current_bytes, mut current_changes) = (from.revision, 0, 0);
        while let Some((row, value)) = cursor.item() {
            let corrupt = |cause| CorruptRow::new(Table::Changes, row, cause);
            let (revision, number) = layout::split_change_key(row).map_err(corrupt)?;
            if revision != current {
                if bytes >= bounds.bytes || gone_through >= PART_CHANGES_MAX {
                    part.next = ChangePosition::start_of(revision);
                    break;
                }
                (current, current_bytes, current_changes) = (revision, 0, 0);
            }
            if current_changes > 0 && current_bytes >= bounds.revision_bytes {
                part.next = if revision == from.revision {
                    ChangePosition { revision, number }
                } else {
                    // Those before it are whole; this one is read by itself.
                    part.changes.truncate(part.changes.len() - current_changes);
                    ChangePosition::start_of(revision)
                };
                break;
            }
            let (kind, key) = layout::split_change(value).map_err(corrupt)?;
            let wanted = interest(key, kind == ChangeKind::Delete);
            if wanted != Interest::Nothing {
                let change = self.change(floor, snapshot, revision, kind, key, wanted == Interest::WithPrevious)?;
                bytes += change.bytes();
                current_bytes += change.bytes();
                current_changes += 1;
                part.changes.push(change);
            }
            gone_through += 1;
            cursor.next();
        }
        cursor.check()?;
        Ok(part)
    }

    fn change<S: Snapshot>(
        &self,
        floor: Floor,
        snapshot: &S,
        revision: u64,
        kind: ChangeKind,
        key: &[u8],
        with_previous: bool,
    ) -> Result<Change, ReadError> {
        let key = Bytes::copy_from_slice(key);
        let missing = || CorruptRow::new(Table::Current, &key, LayoutError::Missing);
        let value = match kind {
            ChangeKind::Put => {
                let written = held_at(snapshot, &key, revision)?.filter(|kv| kv.mod_revision == revision);
                Some(written.ok_or_else(missing)?)
            }
            ChangeKind::Delete => None,
        };
        let is_new = value.as_ref().is_some_and(|kv| kv.version == 1);
        let previous = if with_previous && !is_new {
            let held = held_at(snapshot, &key, revision - 1)?;
            // Asked after the look: what is gone then was gone by compaction.
            if revision <= self.floor(floor) { None } else { Some(held.ok_or_else(missing)?) }
        } else {
            None
        };
        Ok(Change { revision, key, value, previous })
    }
}

/// What a key held at a revision, all of it in one snapshot.
fn held_at<S: Snapshot>(snapshot: &S, key: &Bytes, revision: u64) -> Result<Option<KeyValue>, ReadError> {
    let pair = |table, record: &Bytes| {
        KeyValue::from_record(key.clone(), record).map_err(|cause| CorruptRow::new(table, key, cause))
    };
    if let Some(record) = snapshot.load(Table::Current, key)? {
        let kv = pair(Table::Current, &record)?;
        if kv.mod_revision <= revision {
            return Ok(Some(kv));
        }
    }
    let superseded = walk::superseded_value(snapshot, key, revision)?;
    Ok(superseded.map(|record| pair(Table::History, &record)).transpose()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use crate::command::{BatchEncoder, Command, Put};
    use crate::state::apply::Clockwork;
    use crate::state::{Bootstrap, MemoryEngine, STATE_FORMAT, StateMachine};
    use raft::{Entry, EntryKind, LogIndex, Membership, Term};

    const BOUNDS: PartBounds = PartBounds { bytes: 1 << 20, revision_bytes: 1 << 20 };

    fn from(revision: u64) -> ChangePosition {
        ChangePosition::start_of(revision)
    }

    /// The key `k`, put at revisions 2 to 5, and compacted up to `compacted` as far as the reader knows.
    fn reader(compacted: u64) -> StateReader<MemoryEngine> {
        let engine = MemoryEngine::new();
        let bootstrap = Bootstrap { cluster: "test".to_owned(), membership: Membership::default() };
        let mut machine = StateMachine::open(engine.clone(), &bootstrap).unwrap();
        let mut encoder = BatchEncoder::new();
        (2..=5).for_each(|revision: u64| encoder.append(&Command::Put(Put::new(b"k", &revision.to_be_bytes()))));
        let payload = encoder.take();
        machine
            .apply(&[Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Command, payload }], &mut Vec::new())
            .unwrap();
        StateReader::new(engine, 5, Clockwork { format: STATE_FORMAT, time_ms: 0, compacted })
    }

    #[test]
    fn compacted_revisions_are_refused_and_the_oldest_readable_one_is_whole() {
        let reader = reader(4);
        let refused = reader.changes(from(3), 5, BOUNDS, &mut |_, _| Interest::WithPrevious);
        assert_eq!(refused, Err(ReadError::Compacted { requested: 3, compacted: 4 }));
        let part = reader.changes(from(4), 5, BOUNDS, &mut |_, _| Interest::WithPrevious).unwrap();
        let revisions: Vec<u64> = part.changes.iter().map(|change| change.revision).collect();
        assert_eq!(revisions, [4, 5]);
        assert_eq!(part.changes[0].previous, None, "what was before the oldest readable revision is compacted");
        assert_eq!(part.changes[1].previous.as_ref().unwrap().mod_revision, 4);
    }

    #[test]
    fn who_tells_of_changes_as_they_come_reads_what_is_still_there() {
        let reader = reader(4);
        let read = || reader.recent_changes(from(3), 5, BOUNDS, &mut |_, _| Interest::WithPrevious);
        let part = read().unwrap();
        let told: Vec<_> = part.changes.iter().map(|change| (change.revision, change.previous.is_some())).collect();
        assert_eq!(told, [(3, true), (4, true), (5, true)]);
        reader.engine().let_go(3);
        assert_eq!(read().unwrap().changes[0].previous, None, "what was before it may be gone");
        reader.engine().let_go(4);
        assert_eq!(read(), Err(ReadError::Compacted { requested: 3, compacted: 4 }));
    }

    #[test]
    fn a_compaction_during_the_read_ends_it() {
        let reader = reader(0);
        let refused = reader.changes(from(2), 5, BOUNDS, &mut |_, _| {
            reader.publish_compacted(3);
            Interest::Change
        });
        assert_eq!(refused, Err(ReadError::Compacted { requested: 2, compacted: 3 }));
    }
}
