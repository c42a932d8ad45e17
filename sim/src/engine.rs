//! The state's engine: the one in memory, with a moment between a write and the word of it.
//!
//! In a real node read threads look at the state while the apply thread writes. Here all is one thread, so what they meet has to be brought about: whoever
//! wants to read at such a moment leaves word, and is called when a run is written and not yet announced.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use storage::state::{Engine, EngineError, MemoryBatch, MemoryEngine, MemorySnapshot, Table};

/// What is done at the next such moment.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// See the module. Clones share everything.
#[derive(Clone, Default)]
pub(crate) struct SimEngine {
    inner: MemoryEngine,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

impl SimEngine {
    /// An empty engine.
    pub(crate) fn new() -> SimEngine {
        SimEngine::default()
    }

    /// See [`MemoryEngine::crash`].
    pub(crate) fn crash(&self) {
        // Whoever left word is gone with the process.
        *self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.inner.crash();
    }

    /// See [`MemoryEngine::fork`].
    pub(crate) fn fork(&self) -> SimEngine {
        SimEngine { inner: self.inner.fork(), meanwhile: Arc::default() }
    }

    /// See [`MemoryEngine::bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    /// Does this once, as soon as the next batch is written, before the writer goes on.
    pub(crate) fn meanwhile(&self, work: Meanwhile) {
        *self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    }
}

impl Engine for SimEngine {
    type Snapshot<'a> = MemorySnapshot;
    type Batch<'a> = MemoryBatch;

    fn snapshot(&self) -> MemorySnapshot {
        self.inner.snapshot()
    }

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.load(table, key)
    }

    fn load_durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.load_durable(table, key)
    }

    fn batch(&self, bytes_hint: usize) -> MemoryBatch {
        self.inner.batch(bytes_hint)
    }

    fn write(&self, batch: MemoryBatch) -> Result<(), EngineError> {
        self.inner.write(batch)?;
        let work = self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(work) = work {
            work();
        }
        Ok(())
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
