//! The engine on disk: RocksDB, one column family per table.
//!
//! **No log of its own.** The Raft log is the write-ahead log; RocksDB's would be a second fdatasync for every write. So a crash
//! loses what was not flushed, and two things make that harmless: `atomic_flush` makes a flush cover all tables up to the same
//! batch, and the row that says which entry has been applied is in the same batch as the data. What a flush has made durable is
//! read with a read that skips the memtables ([`Engine::load_durable`]).
//!
//! **Sized for two cores and bounded.** The block cache, the memtables (four generations of each table's write buffer), the
//! open files and the background jobs all have limits in [`RocksOptions`]. New tables are compressed with LZ4, the bottom level,
//! where most data ends up, with Zstandard.
//!
//! **Stalls.** RocksDB slows writers down when level 0 holds 24 files and stops them at 48, or when four memtables wait for the
//! flush. [`RocksStatistics`] shows how near that is.
//!
//! **Space.** What is dead is left out whenever RocksDB merges files; `reclaim` says what that is and goes through what is not merged by itself.
//!
//! **Retirement.** RocksDB opens its files when it needs them, so the directory of a database that is still read from must
//! stay. [`RocksEngine::retire`] therefore only marks it; it is removed when the last user drops the engine.

use super::engine::{Batch, Cursor, Engine, EngineError, Snapshot, Table};
use super::reclaim::{DeadRowFilters, Horizon, Pace, TableFiles};
use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRawIterator, FlushOptions, LiveFile, Options, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Level-0 files at which RocksDB starts to merge them, slows writers down, and stops them.
const LEVEL0_FILES: [i32; 3] = [4, 24, 48];
/// Generations of a table's write buffer: one written to, the others waiting for their flush.
const WRITE_BUFFERS_MAX: i32 = 4;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// The share of a write buffer given to its own bloom filter: most keys that are put are not in it.
const MEMTABLE_BLOOM_SHARE: f64 = 0.05;
const BLOCK_BYTES: usize = 8 << 10;
/// Written files are handed to the disk in pieces of this size, so that one large write-back does not hold up the log's fsync.
const SYNC_BYTES: u64 = 1 << 20;
/// A piece is waited for before the next but one is handed over: otherwise a merge, which writes faster than the disk, leaves it all for the
/// end. RocksDB's C interface has no setter for this.
const SYNC_STRICTLY: &str = "strict_bytes_per_sync=true";
/// Merging cuts files at this size. Removing a file holds up the log's fsync for as long as it takes to free its blocks, by ext4 with `discard` a
/// millisecond for each 6 MiB.
const FILE_BYTES: u64 = 8 << 20;
/// A file is cut earlier where it would lie above more than this of the next level: it is merged with all of that at once. Where compaction has dropped
/// most of the upper level, a file of full size would lie above the whole of the lower one. By RocksDB's own default it is 25 files.
const MERGE_BYTES: u64 = 4 * FILE_BYTES;
const INFO_LOG_BYTES_MAX: usize = 8 << 20;
const INFO_LOG_FILES_MAX: usize = 3;

/// Settings of a node's own; they do not change what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RocksOptions {
    /// Memory for cached blocks, indexes and filters. At least 8 MiB. Default 256 MiB.
    pub block_cache_bytes: usize,
    /// Size at which a table's memtable is flushed, together with the other tables'. Up to four generations of three tables
    /// exist at a time in the worst case. 1 MiB to 1 GiB. Default 32 MiB.
    pub write_buffer_bytes: usize,
    /// Files kept open. At least 64. Default 1,024.
    pub open_files_max: u32,
    /// Threads for flushes and compactions. 2 to 64. Default 2.
    pub background_jobs: u32,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        RocksOptions {
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 32 << 20,
            open_files_max: 1024,
            background_jobs: 2,
        }
    }
}

/// How the database is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RocksStatistics {
    /// Bytes of all table files.
    pub disk_bytes: u64,
    /// Bytes of all memtables, those being flushed included.
    pub memtable_bytes: u64,
    /// About how many keys exist.
    pub keys_estimate: u64,
    /// Bytes that compaction still has to rewrite.
    pub compaction_pending_bytes: u64,
    /// The most level-0 files of any table. Writers are slowed down at 24, stopped at 48.
    pub level0_files_max: u64,
    /// The rate writers are held down to; zero: they are not.
    pub delayed_write_bytes_per_second: u64,
    /// Writers are stopped until a flush or compaction is done.
    pub write_stopped: bool,
    /// Failures of background work. Anything but zero: the disk is full or broken.
    pub background_errors: u64,
}

impl RocksStatistics {
    /// Whether writers are held up because merges have not kept up.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.delayed_write_bytes_per_second > 0 || self.write_stopped
    }
}

/// RocksDB behind the [`Engine`] trait.
pub struct RocksEngine {
    // Dropped before `retirement`, which may remove its directory.
    db: DB,
    retirement: Retirement,
    read: ReadOptions,
    read_durable: ReadOptions,
    write: WriteOptions,
    /// What may be dropped.
    horizon: Horizon,
    /// How hard merges work.
    pace: Pace,
}

/// A span of keys, both ends inclusive. It has two ends because RocksDB flushes all tables before it rewrites a span that has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySpan {
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

struct Retirement {
    directory: PathBuf,
    retired: AtomicBool,
}

impl Drop for Retirement {
    fn drop(&mut self) {
        if *self.retired.get_mut()
            && let Err(error) = std::fs::remove_dir_all(&self.directory)
        {
            // Harmless: whatever is not in use is removed when the store is opened the next time.
            tracing::warn!(directory = %self.directory.display(), %error, "cannot remove the replaced state");
        }
    }
}

impl fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksEngine").field("directory", &self.retirement.directory).finish_non_exhaustive()
    }
}

enum Access {
    Create,
    Open,
    ReadOnly,
}

impl RocksEngine {
    /// Makes a new, empty database. The directory must not hold one; its parent must exist.
    pub fn create(directory: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        RocksEngine::open_as(directory, options, &Access::Create)
    }

    /// Opens a database for reading and writing. It must exist, and no other process may have it open.
    pub fn open(directory: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        RocksEngine::open_as(directory, options, &Access::Open)
    }

    /// Opens a database for reading, without changing anything on disk. Sees what is flushed, of a running node too.
    pub fn open_read_only(directory: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        RocksEngine::open_as(directory, options, &Access::ReadOnly)
    }

    /// The directory of the database.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.retirement.directory
    }

    /// Lets the directory be removed once the last user has dropped the engine. What it is still merging it does not rest at.
    pub fn retire(&self) {
        self.retirement.retired.store(true, Ordering::SeqCst);
        self.pace.set_gentle(false);
    }

    /// Writes a database with everything written so far into `directory`, which must not exist. Flushes, then links files
    /// where it can and copies where it must.
    pub fn checkpoint(&self, directory: &Path) -> Result<(), EngineError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(|source| self.error("prepare a checkpoint", source))?;
        checkpoint.create_checkpoint(directory).map_err(|source| self.error("write a checkpoint", source))
    }

    /// How the database is doing.
    pub fn statistics(&self) -> Result<RocksStatistics, EngineError> {
        let of_table = |table, property: &str| {
            let value = self.db.property_int_value_cf(self.family(table), property);
            value.map(Option::unwrap_or_default).map_err(|source| self.error("read a property", source))
        };
        let sum = |property: &str| Table::ALL.iter().map(|table| of_table(*table, property)).sum::<Result<u64, _>>();
        let mut level0_files_max = 0;
        for table in Table::ALL {
            let files = self.db.property_value_cf(self.family(table), "rocksdb.num-files-at-level0");
            let files = files.map_err(|source| self.error("read a property", source))?;
            level0_files_max = level0_files_max.max(files.and_then(|text| text.parse().ok()).unwrap_or(0));
        }
        Ok(RocksStatistics {
            disk_bytes: sum("rocksdb.total-sst-files-size")?,
            memtable_bytes: sum("rocksdb.cur-size-all-mem-tables")?,
            keys_estimate: of_table(Table::Current, "rocksdb.estimate-num-keys")?,
            compaction_pending_bytes: sum("rocksdb.estimate-pending-compaction-bytes")?,
            level0_files_max,
            delayed_write_bytes_per_second: of_table(Table::Current, "rocksdb.actual-delayed-write-rate")?,
            write_stopped: of_table(Table::Current, "rocksdb.is-write-stopped")? != 0,
            background_errors: of_table(Table::Current, "rocksdb.background-errors")?,
        })
    }

    /// From now on merges of `history` and `changes` rest most of the time, or none.
    pub(super) fn set_gentle_merges(&self, gentle: bool) {
        self.pace.set_gentle(gentle);
        // It may have been retired in between.
        if self.retirement.retired.load(Ordering::SeqCst) {
            self.pace.set_gentle(false);
        }
    }

    /// What there is of a table in files.
    pub(super) fn files(&self, table: Table) -> Result<TableFiles, EngineError> {
        let sum = |files: TableFiles, file: LiveFile| TableFiles {
            bytes: files.bytes + file.size as u64,
            rows: files.rows + file.num_entries,
            deletes: files.deletes + file.num_deletions,
        };
        Ok(self.live_files(table)?.fold(TableFiles::default(), sum))
    }

    /// What there is of a table in files, in spans of about so many bytes, cut between files. Files of level 0 do not count: they overlap, and there
    /// are few.
    pub(super) fn spans(&self, table: Table, bytes: u64) -> Result<Vec<KeySpan>, EngineError> {
        let mut files: Vec<LiveFile> = self.live_files(table)?.collect();
        files.sort_by(|a, b| a.end_key.cmp(&b.end_key));
        let Some(end) = files.last().and_then(|file| file.end_key.clone()) else { return Ok(Vec::new()) };
        let mut spans = Vec::new();
        let (mut first, mut gathered) = (Vec::new(), 0);
        for file in files.iter().filter(|file| file.level > 0) {
            gathered += file.size as u64;
            if let Some(last) = &file.end_key
                && gathered >= bytes
            {
                gathered = 0;
                let next = [last, &[0][..]].concat();
                spans.push(KeySpan { first: std::mem::replace(&mut first, next), last: last.clone() });
            }
        }
        if first <= end {
            spans.push(KeySpan { first, last: end });
        }
        Ok(spans)
    }

    fn live_files(&self, table: Table) -> Result<impl Iterator<Item = LiveFile>, EngineError> {
        let files = self.db.live_files().map_err(|source| self.error("list the files", source))?;
        Ok(files.into_iter().filter(move |file| file.column_family_name == name(table)))
    }

    /// Drops the files below level 0 that hold nothing after `last`, unread.
    pub(super) fn delete_files(&self, table: Table, last: &[u8]) -> Result<(), EngineError> {
        let dropped = self.db.delete_file_in_range_cf(self.family(table), &[][..], last);
        dropped.map_err(|source| self.error("drop files", source))
    }

    /// Merges what there is in a span down to the lowest level, and what lies there anew if it may have dead rows, beside RocksDB's own merging. Blocks until it is done. A failure stops RocksDB's
    /// background work, and the next write says so.
    pub(super) fn rewrite(&self, table: Table, span: &KeySpan) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // Where nothing is filtered, what lies at the bottom alone stays as it is.
        options.set_bottommost_level_compaction(match table {
            Table::History | Table::Changes => BottommostLevelCompaction::ForceOptimized,
            Table::Meta | Table::Current => BottommostLevelCompaction::IfHaveCompactionFilter,
        });
        let KeySpan { first, last } = span;
        self.db.compact_range_cf_opt(self.family(table), Some(first), Some(last), &options);
    }

    fn open_as(directory: &Path, options: &RocksOptions, access: &Access) -> Result<RocksEngine, EngineError> {
        let cache = Cache::new_lru_cache(options.block_cache_bytes.max(8 << 20));
        let (horizon, pace) = (Horizon::default(), Pace::default());
        let families = Table::ALL.map(|table| {
            let mut family = table_options(table, options, &cache);
            if matches!(table, Table::History | Table::Changes) {
                let (horizon, pace) = (horizon.clone(), pace.clone());
                family.set_compaction_filter_factory(DeadRowFilters { table, horizon, pace });
            }
            ColumnFamilyDescriptor::new(name(table), family)
        });
        let mut database = database_options(options);
        let opened = match access {
            Access::Create => {
                database.create_if_missing(true);
                database.create_missing_column_families(true);
                database.set_error_if_exists(true);
                DB::open_cf_descriptors(&database, directory, families)
            }
            Access::Open => DB::open_cf_descriptors(&database, directory, families),
            Access::ReadOnly => DB::open_cf_descriptors_read_only(&database, directory, families, false),
        };
        let operation = match access {
            Access::Create => "create the database",
            Access::Open | Access::ReadOnly => "open the database",
        };
        let directory = directory.to_path_buf();
        let db = opened.map_err(|source| EngineError::Rocks { operation, directory: directory.clone(), source })?;
        for table in Table::ALL {
            if db.cf_handle(name(table)).is_none() {
                return Err(EngineError::TableMissing { directory, table });
            }
        }
        let mut read_durable = ReadOptions::default();
        read_durable.set_read_tier(ReadTier::Persisted);
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        let retirement = Retirement { directory, retired: AtomicBool::new(false) };
        Ok(RocksEngine { db, retirement, read: ReadOptions::default(), read_durable, write, horizon, pace })
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(name(table)).expect("every table was checked when the database was opened")
    }

    fn error(&self, operation: &'static str, source: rocksdb::Error) -> EngineError {
        EngineError::Rocks { operation, directory: self.retirement.directory.clone(), source }
    }
}

fn name(table: Table) -> &'static str {
    match table {
        // Every RocksDB database has a family of this name.
        Table::Meta => "default",
        Table::Current => "current",
        Table::History => "history",
        Table::Changes => "changes",
    }
}

fn database_options(options: &RocksOptions) -> Options {
    let strict = Options::default().get_options_from_string(SYNC_STRICTLY);
    let mut database = strict.expect("RocksDB knows the option");
    database.set_atomic_flush(true);
    // There is one writer, the apply thread. Without concurrent writers a memtable remembers where it inserted last, so
    // ascending keys (every row of `changes`) need no search.
    database.set_allow_concurrent_memtable_write(false);
    database.set_paranoid_checks(true);
    database.set_max_background_jobs(clamp_i32(options.background_jobs.clamp(2, 64)));
    database.set_max_open_files(clamp_i32(options.open_files_max.max(64)));
    database.set_bytes_per_sync(SYNC_BYTES);
    database.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    database.set_keep_log_file_num(INFO_LOG_FILES_MAX);
    database.set_stats_dump_period_sec(0);
    database
}

fn table_options(table: Table, options: &RocksOptions, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut family = Options::default();
    if table == Table::Current {
        // Only `current` is asked for single keys; the other tables are sought in, which a filter on whole keys cannot help.
        blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        blocks.set_optimize_filters_for_memory(true);
        family.set_memtable_whole_key_filtering(true);
        family.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_SHARE);
    }
    family.set_block_based_table_factory(&blocks);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_bottommost_compression_type(DBCompressionType::Zstd);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_write_buffer_size(options.write_buffer_bytes.clamp(1 << 20, 1 << 30));
    family.set_max_write_buffer_number(WRITE_BUFFERS_MAX);
    family.set_target_file_size_base(FILE_BYTES);
    family.set_max_compaction_bytes(MERGE_BYTES);
    let [compact, slow_down, stop] = LEVEL0_FILES;
    family.set_level_zero_file_num_compaction_trigger(compact);
    family.set_level_zero_slowdown_writes_trigger(slow_down);
    family.set_level_zero_stop_writes_trigger(stop);
    family
}

fn clamp_i32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Engine for RocksEngine {
    type Snapshot<'a> = RocksSnapshot<'a>;
    type Batch<'a> = RocksBatch<'a>;

    fn snapshot(&self) -> RocksSnapshot<'_> {
        RocksSnapshot { engine: self, snapshot: self.db.snapshot(), fills_cache: true }
    }

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get_pinned_cf_opt(self.family(table), key, &self.read);
        let value = value.map_err(|source| self.error("read a key", source))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn load_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let keys = keys.iter().copied();
        let values = self.db.batched_multi_get_cf_opt(self.family(table), keys, true, &self.read);
        let copy = |value: Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>| match value {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(source) => Err(self.error("read keys", source)),
        };
        values.into_iter().map(copy).collect()
    }

    fn load_durable(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get_pinned_cf_opt(self.family(table), key, &self.read_durable);
        let value = value.map_err(|source| self.error("read a flushed key", source))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn batch(&self, bytes_hint: usize) -> RocksBatch<'_> {
        RocksBatch {
            families: Table::ALL.map(|table| self.family(table)),
            batch: WriteBatch::with_capacity_bytes(bytes_hint),
        }
    }

    fn write(&self, batch: RocksBatch<'_>) -> Result<(), EngineError> {
        self.db.write_opt(batch.batch, &self.write).map_err(|source| self.error("write", source))
    }

    fn flush(&self, wait: bool) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        let families = Table::ALL.map(|table| self.family(table));
        self.db.flush_cfs_opt(&families, &options).map_err(|source| self.error("flush", source))
    }

    fn let_go(&self, revision: u64) {
        self.horizon.advance(revision);
    }

    fn let_go_before(&self) -> u64 {
        self.horizon.get()
    }
}

/// Writes that happen together.
pub struct RocksBatch<'a> {
    families: [&'a ColumnFamily; Table::ALL.len()],
    batch: WriteBatch,
}

impl Batch for RocksBatch<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.families[table as usize], key, value);
    }

    fn delete(&mut self, table: Table, key: &[u8]) {
        self.batch.delete_cf(self.families[table as usize], key);
    }
}

/// A consistent view of all tables. While it lives, RocksDB keeps every version it can see: hold it for one read, not for one
/// client.
pub struct RocksSnapshot<'a> {
    engine: &'a RocksEngine,
    snapshot: rocksdb::Snapshot<'a>,
    /// Whether the blocks that its cursors read are kept in the cache.
    fills_cache: bool,
}

impl Snapshot for RocksSnapshot<'_> {
    type Cursor<'a>
        = RocksCursor<'a>
    where
        Self: 'a;

    fn in_bulk(mut self) -> Self {
        self.fills_cache = false;
        self
    }

    fn load(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get_pinned_cf(self.engine.family(table), key);
        let value = value.map_err(|source| self.engine.error("read a key", source))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: Option<&[u8]>) -> RocksCursor<'_> {
        let mut options = ReadOptions::default();
        options.fill_cache(self.fills_cache);
        options.set_iterate_lower_bound(lower);
        if let Some(upper) = upper {
            options.set_iterate_upper_bound(upper);
        }
        let iterator = self.snapshot.raw_iterator_cf_opt(self.engine.family(table), options);
        RocksCursor { engine: self.engine, iterator }
    }
}

/// A place in one table.
pub struct RocksCursor<'a> {
    engine: &'a RocksEngine,
    iterator: DBRawIterator<'a>,
}

impl Cursor for RocksCursor<'_> {
    fn seek_first(&mut self) {
        self.iterator.seek_to_first();
    }

    fn seek_last(&mut self) {
        self.iterator.seek_to_last();
    }

    fn seek(&mut self, key: &[u8]) {
        self.iterator.seek(key);
    }

    fn seek_at_or_before(&mut self, key: &[u8]) {
        self.iterator.seek_for_prev(key);
    }

    fn next(&mut self) {
        self.iterator.next();
    }

    fn previous(&mut self) {
        self.iterator.prev();
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }

    fn check(&self) -> Result<(), EngineError> {
        self.iterator.status().map_err(|source| self.engine.error("read a range", source))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_merging_writes_is_handed_to_the_disk_evenly_and_in_small_files() {
        let parent = tempfile::tempdir().unwrap();
        let engine = RocksEngine::create(&parent.path().join("state"), &RocksOptions::default()).unwrap();
        let names = std::fs::read_dir(engine.directory()).unwrap().map(|entry| entry.unwrap().path());
        let options = names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("OPTIONS"));
        let text = std::fs::read_to_string(options.max().unwrap()).unwrap();
        let lines = [
            "strict_bytes_per_sync=true",
            "bytes_per_sync=1048576",
            "target_file_size_base=8388608",
            "max_compaction_bytes=33554432",
        ];
        for line in lines {
            assert!(text.lines().any(|found| found.trim() == line), "{line} is not among\n{text}");
        }
    }

    fn put(engine: &RocksEngine, key: &str) {
        let mut batch = engine.batch(64);
        batch.put(Table::Current, key.as_bytes(), b"value");
        engine.write(batch).unwrap();
    }

    #[test]
    fn what_is_not_in_files_is_left_alone_when_the_rest_is_rewritten() {
        let parent = tempfile::tempdir().unwrap();
        let engine = RocksEngine::create(&parent.path().join("state"), &RocksOptions::default()).unwrap();
        assert_eq!(engine.spans(Table::Current, 1).unwrap(), []);
        for round in 0..3 {
            for key in ["a", "b", "c"] {
                put(&engine, &format!("{key}{round}"));
            }
            engine.flush(true).unwrap();
        }
        let whole = KeySpan { first: Vec::new(), last: b"c2".to_vec() };
        assert_eq!(
            engine.spans(Table::Current, 1).unwrap(),
            std::slice::from_ref(&whole),
            "files of level 0 do not count"
        );
        put(&engine, "d");
        engine.rewrite(Table::Current, &whole);
        assert_eq!(engine.files(Table::Current).unwrap().rows, 9);
        assert_eq!(engine.load_durable(Table::Current, b"d").unwrap(), None, "it was flushed");
        // In files below level 0 now; the last span ends where the last file does.
        assert_eq!(engine.spans(Table::Current, 1).unwrap(), [KeySpan { first: Vec::new(), last: b"c2".to_vec() }]);
        put(&engine, "e");
        engine.flush(true).unwrap();
        let after = KeySpan { first: b"c2\0".to_vec(), last: b"e".to_vec() };
        assert_eq!(engine.spans(Table::Current, 1).unwrap(), [whole, after]);
    }
}
