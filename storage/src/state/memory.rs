//! An engine in memory, for the simulator: the production state machine runs on it unchanged.
//!
//! It keeps what is written, and beside it what a crash would take back: for every row written since the last flush, what the row held then. So
//! a crash can drop everything since the last flush ([`MemoryEngine::crash`]), as RocksDB without its own log does, and neither a write nor a flush
//! copies the image. Clones share one content: one clone is given to the state machine, another plays the disk that outlives it.
//!
//! A write while a snapshot is held copies the whole image. Fine for simulated states of a few thousand keys, and for readers that do not
//! linger.

use super::engine::{Batch, Cursor, Engine, EngineError, Snapshot, Table};
use super::reclaim::is_dead;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

type Image = [BTreeMap<Bytes, Bytes>; Table::ALL.len()];

/// An engine in memory. Clones share its content.
#[derive(Debug, Clone, Default)]
pub struct MemoryEngine {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug, Default)]
struct Content {
    written: Arc<Image>,
    /// What the rows written since the last flush held at that flush; `None`: they were not there.
    flushed: [BTreeMap<Bytes, Option<Bytes>>; Table::ALL.len()],
    /// Rows that only revisions before this one need are dropped.
    let_go_before: u64,
}

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// Drops everything written since the last flush, as a power cut would. No state machine may be using the engine: it
    /// would not know.
    pub fn crash(&self) {
        let mut content = self.lock();
        let Content { written, flushed, .. } = &mut *content;
        let image = Arc::make_mut(written);
        for (table, rows) in image.iter_mut().zip(flushed) {
            for (key, value) in std::mem::take(rows) {
                match value {
                    Some(value) => table.insert(key, value),
                    None => table.remove(&key),
                };
            }
        }
    }

    /// An independent engine with what is written here now, all of it durable: what a checkpoint is to RocksDB.
    #[must_use]
    pub fn fork(&self) -> MemoryEngine {
        let content = self.lock();
        let (written, let_go_before) = (Arc::clone(&content.written), content.let_go_before);
        MemoryEngine { content: Arc::new(Mutex::new(Content { written, let_go_before, ..Content::default() })) }
    }

    /// Bytes of all keys and values that are written here now. Goes through all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let written = Arc::clone(&self.lock().written);
        written.iter().flatten().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("nobody panics while holding the lock: it is held for pure map operations")
    }
}

impl Engine for MemoryEngine {
    type Snapshot<'a> = MemorySnapshot;
    type Batch<'a> = MemoryBatch;

    fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot { image: Arc::clone(&self.lock().written) }
    }

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock().written[table as usize].get(key).cloned())
    }

    fn load_durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let content = self.lock();
        match content.flushed[table as usize].get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(content.written[table as usize].get(key).cloned()),
        }
    }

    fn batch(&self, _bytes_hint: usize) -> MemoryBatch {
        MemoryBatch::default()
    }

    fn write(&self, batch: MemoryBatch) -> Result<(), EngineError> {
        let mut content = self.lock();
        let Content { written, flushed, .. } = &mut *content;
        let image = Arc::make_mut(written);
        for (table, key, value) in batch.operations {
            let (rows, flushed) = (&mut image[table as usize], &mut flushed[table as usize]);
            let before = match value {
                Some(value) => rows.insert(key.clone(), value),
                None => rows.remove(&key),
            };
            flushed.entry(key).or_insert(before);
        }
        Ok(())
    }

    fn flush(&self, _wait: bool) -> Result<(), EngineError> {
        self.lock().flushed = Default::default();
        Ok(())
    }

    fn let_go(&self, revision: u64) {
        let mut content = self.lock();
        if revision <= content.let_go_before {
            return;
        }
        content.let_go_before = revision;
        let Content { written, flushed, .. } = &mut *content;
        let image = Arc::make_mut(written);
        for table in [Table::History, Table::Changes] {
            image[table as usize].retain(|key, _| !is_dead(table, key, revision));
            // What a crash would bring back is dead as well.
            flushed[table as usize].retain(|key, _| !is_dead(table, key, revision));
        }
    }

    fn let_go_before(&self) -> u64 {
        self.lock().let_go_before
    }
}

/// Writes that happen together.
#[derive(Debug, Default)]
pub struct MemoryBatch {
    operations: Vec<(Table, Bytes, Option<Bytes>)>,
}

impl Batch for MemoryBatch {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.operations.push((table, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value))));
    }

    fn delete(&mut self, table: Table, key: &[u8]) {
        self.operations.push((table, Bytes::copy_from_slice(key), None));
    }
}

/// One image, kept.
#[derive(Debug, Clone)]
pub struct MemorySnapshot {
    image: Arc<Image>,
}

impl Snapshot for MemorySnapshot {
    type Cursor<'a> = MemoryCursor<'a>;

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.image[table as usize].get(key).cloned())
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: Option<&[u8]>) -> MemoryCursor<'_> {
        MemoryCursor {
            map: &self.image[table as usize],
            lower: Bytes::copy_from_slice(lower),
            upper: upper.map(Bytes::copy_from_slice),
            item: None,
        }
    }
}

/// A place in one table of an image.
#[derive(Debug)]
pub struct MemoryCursor<'a> {
    map: &'a BTreeMap<Bytes, Bytes>,
    lower: Bytes,
    upper: Option<Bytes>,
    item: Option<(&'a Bytes, &'a Bytes)>,
}

impl<'a> MemoryCursor<'a> {
    /// The first item from `from` on, if it is within the bounds.
    fn first_from(&self, from: Bound<&[u8]>) -> Option<(&'a Bytes, &'a Bytes)> {
        let item = self.map.range::<[u8], _>((from, Bound::Unbounded)).next()?;
        self.upper.as_ref().is_none_or(|upper| item.0 < upper).then_some(item)
    }

    /// The last item up to `to`, if it is within the bounds.
    fn last_to(&self, to: Bound<&[u8]>) -> Option<(&'a Bytes, &'a Bytes)> {
        let item = self.map.range::<[u8], _>((Bound::Unbounded, to)).next_back()?;
        (*item.0 >= self.lower).then_some(item)
    }

    fn here(&self) -> &'a [u8] {
        self.item.expect("a cursor is moved on only from an item").0
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek_first(&mut self) {
        self.item = self.first_from(Bound::Included(&self.lower));
    }

    fn seek_last(&mut self) {
        let to = self.upper.as_ref().map_or(Bound::Unbounded, |upper| Bound::Excluded(&upper[..]));
        self.item = self.last_to(to);
    }

    fn seek(&mut self, key: &[u8]) {
        self.item = self.first_from(Bound::Included(key.max(&self.lower)));
    }

    fn seek_at_or_before(&mut self, key: &[u8]) {
        let to = match &self.upper {
            Some(upper) if key >= &upper[..] => Bound::Excluded(&upper[..]),
            Some(_) | None => Bound::Included(key),
        };
        self.item = self.last_to(to);
    }

    fn next(&mut self) {
        self.item = self.first_from(Bound::Excluded(self.here()));
    }

    fn previous(&mut self) {
        self.item = self.last_to(Bound::Excluded(self.here()));
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.item.map(|(key, value)| (&key[..], &value[..]))
    }

    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn write(engine: &MemoryEngine, key: &[u8], value: &[u8]) {
        let mut batch = engine.batch(0);
        batch.put(Table::Current, key, value);
        engine.write(batch).unwrap();
    }

    #[test]
    fn crash_drops_what_was_not_flushed() {
        let engine = MemoryEngine::new();
        write(&engine, b"kept", b"1");
        engine.flush(true).unwrap();
        write(&engine, b"lost", b"2");
        assert_eq!(engine.load_durable(Table::Current, b"lost").unwrap(), None);
        engine.crash();
        assert_eq!(engine.load(Table::Current, b"lost").unwrap(), None);
        assert_eq!(engine.load(Table::Current, b"kept").unwrap().unwrap(), &b"1"[..]);
    }

    #[test]
    fn crash_brings_back_what_was_overwritten_or_deleted_since_the_flush() {
        let engine = MemoryEngine::new();
        for (key, value) in [(b"overwritten", b"1"), (b"deletedlate", b"1")] {
            write(&engine, key, value);
        }
        engine.flush(true).unwrap();
        for value in [b"2", b"3"] {
            write(&engine, b"overwritten", value);
        }
        let mut batch = engine.batch(0);
        batch.delete(Table::Current, b"deletedlate");
        batch.put(Table::Current, b"new", b"1");
        batch.delete(Table::Current, b"new");
        engine.write(batch).unwrap();
        let durable = |key: &[u8]| engine.load_durable(Table::Current, key).unwrap();
        let written = |key: &[u8]| engine.load(Table::Current, key).unwrap();
        for key in [&b"overwritten"[..], b"deletedlate"] {
            assert_eq!(durable(key).unwrap(), &b"1"[..]);
        }
        assert_eq!((written(b"overwritten").unwrap(), written(b"deletedlate")), (Bytes::from_static(b"3"), None));
        engine.crash();
        for key in [&b"overwritten"[..], b"deletedlate"] {
            assert_eq!((written(key), durable(key)), (Some(Bytes::from_static(b"1")), Some(Bytes::from_static(b"1"))));
        }
        assert_eq!(written(b"new"), None);
    }

    #[test]
    fn snapshot_and_fork_do_not_see_later_writes() {
        let engine = MemoryEngine::new();
        write(&engine, b"k", b"1");
        let snapshot = engine.snapshot();
        let fork = engine.fork();
        write(&engine, b"k", b"2");
        assert_eq!(snapshot.load(Table::Current, b"k").unwrap().unwrap(), &b"1"[..]);
        fork.crash();
        assert_eq!(fork.load(Table::Current, b"k").unwrap().unwrap(), &b"1"[..]);
        assert_eq!(engine.load(Table::Current, b"k").unwrap().unwrap(), &b"2"[..]);
    }

    #[test]
    fn cursor_stays_within_its_bounds() {
        let engine = MemoryEngine::new();
        for key in [b"a", b"b", b"c", b"d"] {
            write(&engine, key, b"");
        }
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.cursor(Table::Current, b"b", Some(b"d"));
        let key = |cursor: &MemoryCursor<'_>| cursor.item().map(|(key, _)| key.to_vec());
        cursor.seek_first();
        assert_eq!(key(&cursor).unwrap(), b"b");
        cursor.previous();
        assert_eq!(key(&cursor), None);
        cursor.seek_last();
        assert_eq!(key(&cursor).unwrap(), b"c");
        cursor.next();
        assert_eq!(key(&cursor), None);
        cursor.seek(b"a");
        assert_eq!(key(&cursor).unwrap(), b"b");
        cursor.seek_at_or_before(b"z");
        assert_eq!(key(&cursor).unwrap(), b"c");
        cursor.seek_at_or_before(b"a");
        assert_eq!(key(&cursor), None);
    }
}
