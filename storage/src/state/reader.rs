//! Reading the state, from any thread, while it is applied to.
//!
//! A point read of the latest value is one lookup in `current`. A point read at revision R looks there too, and into `history`
//! only if the key has changed since; in this order no snapshot is needed, because a value that leaves `current` between the
//! two lookups is in `history` from the same moment on. Ranges are read through a snapshot and so never see half a revision.
//!
//! A reader belongs to one database. When a node switches to a snapshot, its state machine is replaced and so must its readers
//! be; an old reader goes on seeing the old state, whose files stay until the last reader is dropped.

use super::engine::{Cursor, Engine, EngineError, Snapshot, Table};
use super::error::{CorruptRow, ReadError, StateError};
use super::layout::{KeyValue, LayoutError, RecordHeader};
use super::meta::{self, Progress};
use super::rocks::{RocksEngine, RocksOptions, RocksStatistics};
use super::scan::{Scan, ScanOptions};
use super::walk::{self, At, Visit};
use crate::command::KeyRange;
use bytes::Bytes;
use raft::LogPosition;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// Reads one state machine. Clones are cheap and may be used from any thread.
#[derive(Debug)]
pub struct StateReader<E: Engine = RocksEngine> {
    shared: Arc<Shared<E>>,
}

#[derive(Debug)]
struct Shared<E> {
    engine: E,
    /// The newest revision that readers may ask for: everything of it is written.
    revision: AtomicU64,
    /// The oldest one.
    compacted: AtomicU64,
}

impl<E: Engine> Clone for StateReader<E> {
    fn clone(&self) -> StateReader<E> {
        StateReader { shared: Arc::clone(&self.shared) }
    }
}

impl<E: Engine> StateReader<E> {
    pub(crate) fn new(engine: E, revision: u64, compacted: u64) -> StateReader<E> {
        let (revision, compacted) = (AtomicU64::new(revision), AtomicU64::new(compacted));
        StateReader { shared: Arc::new(Shared { engine, revision, compacted }) }
    }

    /// Everything up to `revision` is written. Called by whoever wrote it, and by whoever has read something of it: between the
    /// write and the writer's word, a reader may see a revision that it must then be able to ask for.
    pub(crate) fn publish(&self, revision: u64) {
        if revision > self.revision() {
            self.shared.revision.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// The engine underneath.
    #[must_use]
    pub fn engine(&self) -> &E {
        &self.shared.engine
    }

    /// The newest revision. An empty state is at 1.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// The oldest revision that can still be read; zero: all can.
    #[must_use]
    pub fn compacted_revision(&self) -> u64 {
        self.shared.compacted.load(Ordering::Acquire)
    }

    /// As a compaction that readers hear of while they read.
    #[cfg(test)]
    pub(crate) fn raise_compacted(&self, revision: u64) {
        self.shared.compacted.fetch_max(revision, Ordering::AcqRel);
    }

    /// What a key holds, or held at a revision.
    pub fn get(&self, key: &[u8], revision: Option<u64>) -> Result<Option<KeyValue>, ReadError> {
        if let Some(requested) = revision {
            self.check_revision(requested, self.revision())?;
        }
        let latest = self.engine().load(Table::Current, key)?;
        if let Some(record) = latest {
            let header = RecordHeader::decode(&record);
            let header = header.map_err(|cause| CorruptRow::new(Table::Current, key, cause))?;
            self.publish(header.mod_revision);
            if revision.is_none_or(|revision| header.mod_revision <= revision) {
                return Ok(Some(key_value(key, &record)?));
            }
        }
        let Some(revision) = revision else { return Ok(None) };
        match walk::superseded_value(&self.engine().snapshot(), key, revision)? {
            Some(record) => Ok(Some(key_value(key, &record)?)),
            None => Ok(None),
        }
    }

    /// Goes through a range of keys, all at one revision. The first part is read at once, so a revision that cannot be read is
    /// an error here.
    pub fn scan(&self, options: ScanOptions) -> Result<Scan<E>, ReadError> {
        Scan::start(self.clone(), options)
    }

    /// How many keys a range holds, or held at a revision. Goes through all of them.
    pub fn count(&self, range: KeyRange<'_>, revision: Option<u64>) -> Result<u64, ReadError> {
        let mut count = 0;
        self.walk(range, false, revision, &mut |_, _, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Goes through a range in a snapshot of its own, and says at which revision.
    pub(crate) fn walk(
        &self,
        range: KeyRange<'_>,
        reverse: bool,
        revision: Option<u64>,
        visit: &mut Visit<'_>,
    ) -> Result<u64, ReadError> {
        let snapshot = self.engine().snapshot();
        let latest = progress(snapshot.load(Table::Meta, meta::PROGRESS)?.as_ref())?.revision;
        self.publish(latest);
        let revision = revision.unwrap_or(latest);
        self.check_revision(revision, latest)?;
        let at = if revision == latest { At::Latest } else { At::Revision(revision) };
        walk::walk(&snapshot, range, reverse, at, visit)?;
        Ok(revision)
    }

    fn check_revision(&self, requested: u64, current: u64) -> Result<(), ReadError> {
        let compacted = self.compacted_revision();
        if requested > current {
            return Err(ReadError::Future { requested, current });
        }
        if requested < compacted {
            return Err(ReadError::Compacted { requested, compacted });
        }
        Ok(())
    }

    /// The last entry whose effects are durable: what the log has to keep starts after it.
    pub fn flushed(&self) -> Result<LogPosition, StateError> {
        Ok(progress(self.engine().load_durable(Table::Meta, meta::PROGRESS)?.as_ref())?.applied)
    }

    /// Makes everything applied so far durable; with `wait` false, only starts to, and [`flushed`](StateReader::flushed) tells
    /// when it is done. Never blocks applying, but may itself wait while the engine is short of room: not for the thread that
    /// applies.
    pub fn flush(&self, wait: bool) -> Result<(), EngineError> {
        self.engine().flush(wait)
    }

    /// A hash over every row of every table, but for the membership that a state was set up with, in which nodes may differ. Reads all of
    /// the state.
    ///
    /// Equal on all nodes at the same applied index, until history is compacted in the background at each node's own pace.
    pub fn content_hash(&self) -> Result<[u8; 16], EngineError> {
        let snapshot = self.engine().snapshot();
        let mut hasher = Xxh3::new();
        for table in Table::ALL {
            let mut cursor = snapshot.cursor(table, b"", None);
            cursor.seek_first();
            while let Some((key, value)) = cursor.item() {
                if table == Table::Meta && key == meta::BOOTSTRAP {
                    cursor.next();
                    continue;
                }
                hasher.update(&[table as u8]);
                hasher.update(&(key.len() as u64).to_be_bytes());
                hasher.update(&(value.len() as u64).to_be_bytes());
                hasher.update(key);
                hasher.update(value);
                cursor.next();
            }
            cursor.check()?;
        }
        Ok(hasher.digest128().to_be_bytes())
    }
}

impl StateReader<RocksEngine> {
    /// Writes everything applied so far as a database of its own into `directory`, which must not exist, and returns the last
    /// entry in it. Applying goes on meanwhile, so the position is read back from what was written.
    pub fn checkpoint(&self, directory: &Path) -> Result<LogPosition, StateError> {
        self.engine().checkpoint(directory)?;
        let written = RocksEngine::open_read_only(directory, &RocksOptions::default())?;
        Ok(progress(written.load(Table::Meta, meta::PROGRESS)?.as_ref())?.applied)
    }

    /// How the database is doing.
    pub fn statistics(&self) -> Result<RocksStatistics, EngineError> {
        self.engine().statistics()
    }
}

pub(crate) fn progress(row: Option<&Bytes>) -> Result<Progress, CorruptRow> {
    let row = row.ok_or_else(|| CorruptRow::new(Table::Meta, meta::PROGRESS, LayoutError::Missing))?;
    Progress::decode(row)
}

fn key_value(key: &[u8], record: &Bytes) -> Result<KeyValue, CorruptRow> {
    KeyValue::from_record(Bytes::copy_from_slice(key), record)
        .map_err(|cause| CorruptRow::new(Table::Current, key, cause))
}
