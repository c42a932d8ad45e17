//! An engine in memory, for the simulator: the production state machine runs on it unchanged.
//!
//! It keeps two images, what is written and what is durable, so that a crash can drop everything since the last flush
//! ([`MemoryEngine::crash`]), as RocksDB without its own log does. Clones share the same images: one clone is given to the state
//! machine, another plays the disk that outlives it.
//!
//! Images are copied when they are written to while a snapshot or the durable image shares them: a write after each flush
//! costs a full copy. Fine for simulated states of a few thousand keys, wrong for anything larger.

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
    images: Arc<Mutex<Images>>,
}

#[derive(Debug, Clone, Default)]
struct Images {
    written: Arc<Image>,
    durable: Arc<Image>,
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
        let mut images = self.lock();
        images.written = Arc::clone(&images.durable);
    }

    /// An independent engine with what is written here now, all of it durable: what a checkpoint is to RocksDB.
    #[must_use]
    pub fn fork(&self) -> MemoryEngine {
        let images = self.lock();
        let forked = Images { durable: Arc::clone(&images.written), ..images.clone() };
        MemoryEngine { images: Arc::new(Mutex::new(forked)) }
    }

    fn lock(&self) -> MutexGuard<'_, Images> {
        self.images.lock().expect("nobody panics while holding the lock: it is held for pure map operations")
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
        Ok(self.lock().durable[table as usize].get(key).cloned())
    }

    fn batch(&self, _bytes_hint: usize) -> MemoryBatch {
        MemoryBatch::default()
    }

    fn write(&self, batch: MemoryBatch) -> Result<(), EngineError> {
        let mut images = self.lock();
        let image = Arc::make_mut(&mut images.written);
        for (table, key, value) in batch.operations {
            let table = &mut image[table as usize];
            match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self, _wait: bool) -> Result<(), EngineError> {
        let mut images = self.lock();
        images.durable = Arc::clone(&images.written);
        Ok(())
    }

    fn let_go(&self, revision: u64) {
        let mut images = self.lock();
        if revision <= images.let_go_before {
            return;
        }
        images.let_go_before = revision;
        let is_shared = Arc::ptr_eq(&images.written, &images.durable);
        drop_dead_rows(&mut images.written, revision);
        if is_shared {
            images.durable = Arc::clone(&images.written);
        } else {
            drop_dead_rows(&mut images.durable, revision);
        }
    }

    fn let_go_before(&self) -> u64 {
        self.lock().let_go_before
    }
}

fn drop_dead_rows(image: &mut Arc<Image>, compacted: u64) {
    let image = Arc::make_mut(image);
    for table in [Table::History, Table::Changes] {
        image[table as usize].retain(|key, _| !is_dead(table, key, compacted));
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
