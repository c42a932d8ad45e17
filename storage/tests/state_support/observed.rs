//! An engine in memory that notes how much each batch holds, fails when it is told to, and lets something happen in between.

use bytes::Bytes;
use raftkv_storage::state::{Batch, Engine, EngineError, MemoryBatch, MemoryEngine, MemorySnapshot, Table};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

type Meanwhile = Box<dyn FnOnce() + Send>;

/// Clones share everything.
#[derive(Clone, Default)]
pub(crate) struct ObservedEngine {
    pub(crate) inner: MemoryEngine,
    writes: Arc<Mutex<Writes>>,
    after_load: Arc<Mutex<Option<Meanwhile>>>,
}

#[derive(Debug, Default)]
struct Writes {
    bytes: Vec<usize>,
    /// How many more succeed; `None`: all.
    left: Option<usize>,
}

impl ObservedEngine {
    /// The bytes of keys and values in each batch that was written since this was last asked.
    pub(crate) fn take_written(&self) -> Vec<usize> {
        std::mem::take(&mut self.writes.lock().unwrap().bytes)
    }

    /// After so many more writes, no write succeeds. `None`: all do.
    pub(crate) fn fail_after(&self, writes: Option<usize>) {
        self.writes.lock().unwrap().left = writes;
    }

    /// Does this once, as soon as one value has been looked up.
    pub(crate) fn after_next_load(&self, work: impl FnOnce() + Send + 'static) {
        *self.after_load.lock().unwrap() = Some(Box::new(work));
    }
}

#[derive(Debug, Default)]
pub(crate) struct ObservedBatch {
    inner: MemoryBatch,
    bytes: usize,
}

impl Batch for ObservedBatch {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        self.inner.put(table, key, value);
    }

    fn delete(&mut self, table: Table, key: &[u8]) {
        self.bytes += key.len();
        self.inner.delete(table, key);
    }
}

impl Engine for ObservedEngine {
    type Snapshot<'a> = MemorySnapshot;
    type Batch<'a> = ObservedBatch;

    fn snapshot(&self) -> MemorySnapshot {
        self.inner.snapshot()
    }

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.inner.load(table, key);
        let meanwhile = self.after_load.lock().unwrap().take();
        meanwhile.into_iter().for_each(|happens| happens());
        found
    }

    fn load_durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.load_durable(table, key)
    }

    fn batch(&self, _bytes_hint: usize) -> ObservedBatch {
        ObservedBatch::default()
    }

    fn write(&self, batch: ObservedBatch) -> Result<(), EngineError> {
        let mut writes = self.writes.lock().unwrap();
        match &mut writes.left {
            Some(0) => return Err(EngineError::TableMissing { directory: PathBuf::new(), table: Table::Meta }),
            Some(left) => *left -= 1,
            None => {}
        }
        writes.bytes.push(batch.bytes);
        self.inner.write(batch.inner)
    }

    fn flush(&self, wait: bool) -> Result<(), EngineError> {
        self.inner.flush(wait)
    }

    fn let_go(&self, revision: u64) {
        self.inner.let_go(revision);
    }

    fn let_go_before(&self) -> u64 {
        self.inner.let_go_before()
    }
}
