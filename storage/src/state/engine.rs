//! What the state machine needs of an ordered key-value engine.
//!
//! Four tables of byte strings in key order, batches that are written whole or not at all *across* tables, snapshots, and a
//! clear line between "written" and "durable": an engine may lose everything written since its last flush, and then loses all
//! of it after some batch, never part of a batch and never a batch before one it keeps. The Raft log makes up for the loss.
//!
//! Two engines: [`RocksEngine`](super::RocksEngine) for the disk, [`MemoryEngine`](super::MemoryEngine) for the simulator.

use bytes::Bytes;
use std::fmt::Debug;
use std::path::PathBuf;
use thiserror::Error;

/// The tables, by what they hold. The order is that of [`content_hash`](super::StateReader::content_hash).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// What is true of the state as a whole: format, cluster, position, membership.
    Meta = 0,
    /// The latest value of each key.
    Current = 1,
    /// Values that were overwritten or deleted.
    History = 2,
    /// What each revision changed.
    Changes = 3,
}

impl Table {
    /// All of them, in order.
    pub const ALL: [Table; 4] = [Table::Meta, Table::Current, Table::History, Table::Changes];
}

/// An ordered key-value engine. One writer, any number of readers.
pub trait Engine: Send + Sync + 'static {
    /// A consistent view of all tables.
    type Snapshot<'a>: Snapshot
    where
        Self: 'a;
    /// Writes that happen together.
    type Batch<'a>: Batch
    where
        Self: 'a;

    /// What is written at this moment, all tables at once.
    fn snapshot(&self) -> Self::Snapshot<'_>;

    /// One value as it is now.
    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The values of many keys, which are ascending and distinct, in their order.
    fn load_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, EngineError> {
        keys.iter().map(|key| self.load(table, key)).collect()
    }

    /// One value as it would be found if the process died now.
    fn load_durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// An empty batch, with room for about `bytes_hint` bytes.
    fn batch(&self, bytes_hint: usize) -> Self::Batch<'_>;

    /// Makes everything in the batch visible at once. Durable only after a flush.
    fn write(&self, batch: Self::Batch<'_>) -> Result<(), EngineError>;

    /// Makes everything written so far durable; with `wait` false, only starts to.
    fn flush(&self, wait: bool) -> Result<(), EngineError>;

    /// Allows the engine to drop, whenever it likes and from snapshots too, the rows that nobody needs who reads at `revision` or later
    /// (`reclaim`). It must be durable that nobody else begins to read, and nobody be left who does (`hold`). Never goes back.
    fn let_go(&self, _revision: u64) {}

    /// The revision that was let go of last; zero: none. An engine that drops nothing need not know.
    fn let_go_before(&self) -> u64 {
        0
    }
}

/// Writes that happen together. Of two writes to one key the later one counts.
pub trait Batch {
    /// Writes one value.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]);
    /// Deletes one key, which need not exist.
    fn delete(&mut self, table: Table, key: &[u8]);
}

/// A consistent view of all tables.
pub trait Snapshot {
    /// A place in one table.
    type Cursor<'a>: Cursor
    where
        Self: 'a;

    /// The same view for whoever reads much, and once: what its cursors read displaces nothing that others read again and again. Costs an
    /// engine nothing that has no cache.
    #[must_use]
    fn in_bulk(self) -> Self
    where
        Self: Sized,
    {
        self
    }

    /// One value.
    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// A cursor over the keys from `lower`, inclusive, to `upper`, exclusive. It stands nowhere yet.
    fn cursor(&self, table: Table, lower: &[u8], upper: Option<&[u8]>) -> Self::Cursor<'_>;
}

/// A place in one table, between the bounds it was made with.
///
/// An engine that cannot read on reports no item, and then [`check`](Cursor::check) says why: ask it before taking "no item"
/// for the end.
pub trait Cursor {
    /// Goes to the first key.
    fn seek_first(&mut self);
    /// Goes to the last key.
    fn seek_last(&mut self);
    /// Goes to the first key at or after this one.
    fn seek(&mut self, key: &[u8]);
    /// Goes to the last key at or before this one.
    fn seek_at_or_before(&mut self, key: &[u8]);
    /// Goes to the next key. There must be an item.
    fn next(&mut self);
    /// Goes to the previous key. There must be an item.
    fn previous(&mut self);
    /// Key and value here, if there is an item.
    fn item(&self) -> Option<(&[u8], &[u8])>;
    /// Whether reading has failed.
    fn check(&self) -> Result<(), EngineError>;
}

/// The engine could not do what was asked. Nothing more should be asked of it after a failed write or flush.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// RocksDB reported a failure.
    #[error("RocksDB cannot {operation} in {}: {source}", directory.display())]
    Rocks {
        /// What was tried.
        operation: &'static str,
        /// The database.
        directory: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// The database lacks one of the tables: it was not written by this program.
    #[error("the database in {} has no table {table:?}; it was not written by this program", directory.display())]
    TableMissing {
        /// The database.
        directory: PathBuf,
        /// The table.
        table: Table,
    },
}

impl EngineError {
    /// Whether what is on disk is damaged, as opposed to a disk that fails or is full.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        match self {
            EngineError::Rocks { source, .. } => source.kind() == rocksdb::ErrorKind::Corruption,
            EngineError::TableMissing { .. } => true,
        }
    }
}
