//! Reading the state, from any thread, while it is applied to.
//!
//! A point read of the latest value is one lookup in `current`. A point read at revision R looks there too, and into `history`
//! only if the key has changed since; in this order no snapshot is needed, because a value that leaves `current` between the
//! two lookups is in `history` from the same moment on. Ranges are read through a snapshot and so never see half a revision.
//!
//! History that is compacted away may be dropped while it is read. So whoever has read a key at a revision looks once more whether that can be read, and
//! what was read counts only then: the word that it cannot is out before anything of it may go. Whoever reads ranges holds their revision meanwhile (`hold`).
//!
//! A reader belongs to one database. When a node switches to a snapshot, its state machine is replaced and so must its readers
//! be; an old reader goes on seeing the old state, whose files stay until the last reader is dropped.

use super::apply::Clockwork;
use super::engine::{Cursor, Engine, EngineError, Snapshot, Table};
use super::error::{CorruptRow, ReadError, StateError};
use super::hold::Holds;
use super::layout::{KeyValue, LayoutError, RecordHeader};
use super::lease::{self, LeaseStatus};
use super::meta::{self, Progress};
use super::outcome::RangeOutcome;
use super::range::{Offered, RangeSelection, RevisionFilter};
use super::reclaim::is_dead;
use super::rocks::{RocksEngine, RocksOptions, RocksStatistics};
use super::scan::{Scan, ScanOptions};
use super::walk;
use crate::command::{KeyRange, RangeRead, SortBy};
use bytes::Bytes;
use raft::LogPosition;
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
    /// Revisions that are still read, whether or not they may be asked for.
    holds: Holds,
    /// The cluster's time in milliseconds since 1970.
    time_ms: AtomicU64,
}

/// A lease, as [`StateReader::lease_with_keys`] has read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseWithKeys {
    /// What the rest is as of: the newest when it was read.
    pub revision: u64,
    /// The lease.
    pub status: LeaseStatus,
    /// The keys that live by it, in order, unless they were too many.
    pub keys: Option<Vec<Bytes>>,
}

impl<E: Engine> Clone for StateReader<E> {
    fn clone(&self) -> StateReader<E> {
        StateReader { shared: Arc::clone(&self.shared) }
    }
}

impl<E: Engine> StateReader<E> {
    pub(crate) fn new(engine: E, revision: u64, clockwork: Clockwork) -> StateReader<E> {
        let (compacted, time_ms) = (AtomicU64::new(clockwork.compacted), AtomicU64::new(clockwork.time_ms));
        let (revision, holds) = (AtomicU64::new(revision), Holds::default());
        StateReader { shared: Arc::new(Shared { engine, revision, compacted, holds, time_ms }) }
    }

    /// Everything up to `revision` is written. Called by whoever wrote it, and by whoever has read something of it: between the
    /// write and the writer's word, a reader may see a revision that it must then be able to ask for.
    pub(crate) fn publish(&self, revision: u64) {
        if revision > self.revision() {
            self.shared.revision.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// What is before `revision` is not to be read any more. Called before it is written.
    pub(crate) fn publish_compacted(&self, revision: u64) {
        self.shared.compacted.fetch_max(revision, Ordering::AcqRel);
    }

    pub(crate) fn publish_time(&self, time_ms: u64) {
        self.shared.time_ms.fetch_max(time_ms, Ordering::AcqRel);
    }

    pub(super) fn holds(&self) -> &Holds {
        &self.shared.holds
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

    /// The cluster's time in milliseconds since 1970: the greatest that any batch applied carried. Zero before the first.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.shared.time_ms.load(Ordering::Acquire)
    }

    /// A lease, if there is one of that number.
    pub fn lease(&self, id: u64) -> Result<Option<LeaseStatus>, ReadError> {
        let row_key = lease::lease_row(id);
        let row = self.engine().load(Table::Meta, &row_key)?;
        Ok(row.map(|row| lease::decode_status(&row_key, &row)).transpose()?)
    }

    /// Leases by number, from the first after `after` on, `limit` at most.
    pub fn leases(&self, after: u64, limit: usize) -> Result<Vec<LeaseStatus>, ReadError> {
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        let (first, end) = (lease::lease_row(first), meta::after(lease::LEASE_PREFIX));
        let snapshot = self.engine().snapshot();
        let mut cursor = snapshot.cursor(Table::Meta, &first, Some(&end));
        let mut found = Vec::new();
        cursor.seek_first();
        while found.len() < limit
            && let Some((row_key, row)) = cursor.item()
        {
            found.push(lease::decode_status(row_key, row)?);
            cursor.next();
        }
        cursor.check()?;
        Ok(found)
    }

    /// A lease and all that lives by it, as of one revision, if there is a lease of that number. Without the keys, if they have more bytes than `bytes_max`.
    pub fn lease_with_keys(&self, id: u64, bytes_max: usize) -> Result<Option<LeaseWithKeys>, ReadError> {
        let snapshot = self.engine().snapshot();
        let revision = progress(snapshot.load(Table::Meta, meta::PROGRESS)?.as_ref())?.revision;
        self.publish(revision);
        let row_key = lease::lease_row(id);
        let Some(row) = snapshot.load(Table::Meta, &row_key)? else { return Ok(None) };
        let status = lease::decode_status(&row_key, &row)?;
        let prefix = lease::key_rows(id);
        let end = meta::after(&prefix);
        let mut cursor = snapshot.cursor(Table::Meta, &prefix, Some(&end));
        let (mut keys, mut bytes) = (Vec::new(), 0);
        cursor.seek_first();
        while let Some((row_key, _)) = cursor.item() {
            let key = Bytes::copy_from_slice(&row_key[prefix.len()..]);
            bytes += key.len();
            if bytes > bytes_max {
                return Ok(Some(LeaseWithKeys { revision, status, keys: None }));
            }
            keys.push(key);
            cursor.next();
        }
        cursor.check()?;
        Ok(Some(LeaseWithKeys { revision, status, keys: Some(keys) }))
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
        let record = walk::superseded_value(&self.engine().snapshot(), key, revision)?;
        self.check_not_compacted(revision)?;
        Ok(record.map(|record| key_value(key, &record)).transpose()?)
    }

    /// What a key holds, and a revision at which it holds just this: one that was the newest at some moment of the read. Whoever then asks for
    /// what happened after that revision misses nothing.
    pub fn get_newest(&self, key: &[u8]) -> Result<(u64, Option<KeyValue>), ReadError> {
        let before = self.revision();
        if let Some(found) = self.get(key, None)? {
            // It has not changed since its revision, so if that is older, it held the same at the revision before the look-up.
            return Ok((before.max(found.mod_revision), Some(found)));
        }
        // A key that is not there does not say since when.
        let snapshot = self.engine().snapshot();
        let revision = progress(snapshot.load(Table::Meta, meta::PROGRESS)?.as_ref())?.revision;
        self.publish(revision);
        let record = snapshot.load(Table::Current, key)?;
        Ok((revision, record.map(|record| key_value(key, &record)).transpose()?))
    }

    /// Goes through a range of keys, all at one revision. The first part is read at once, so a revision that cannot be read is
    /// an error here. What is left to read stays for as long as the scan lives, and [`HOLD_TIME_MAX`](super::HOLD_TIME_MAX) at most once a compaction has overtaken it.
    pub fn scan(&self, options: ScanOptions) -> Result<Scan<E>, ReadError> {
        Scan::start(self, options)
    }

    /// Reads a range in any order, all at one revision, and says at which. With `count_all` all of the range is gone through and counted. Everything
    /// that is given out is held in memory: for large ranges in key order there is [`scan`](StateReader::scan).
    ///
    /// # Errors
    /// When the revision cannot be read, or more than `bytes_max` bytes would have to be held.
    pub fn range(
        &self,
        read: &RangeRead<'_>,
        count_all: bool,
        bytes_max: u64,
    ) -> Result<(u64, RangeOutcome), ReadError> {
        let scan = self.scan(ScanOptions {
            start: Bytes::copy_from_slice(read.range.start),
            end: read.range.end.map(Bytes::copy_from_slice),
            reverse: read.sort_by == SortBy::Key && read.descending,
            limit: None,
            keys_only: read.count_only || (read.keys_only && read.sort_by != SortBy::Value),
            revision: read.revision,
            // What is filtered counts all the same.
            filter: if count_all || read.count_only { RevisionFilter::default() } else { RevisionFilter::from(read) },
        })?;
        let revision = scan.revision();
        let mut selection = RangeSelection::new(read, Offered::InOrder, count_all, bytes_max);
        for pair in scan {
            if selection.offer(&pair?)?.is_break() {
                break;
            }
        }
        Ok((revision, selection.finish()))
    }

    /// How many keys a range holds, or held at a revision. Goes through all of them.
    pub fn count(&self, range: KeyRange<'_>, revision: Option<u64>) -> Result<u64, ReadError> {
        self.hold(revision)?.count(range)
    }

    pub(super) fn check_revision(&self, requested: u64, current: u64) -> Result<(), ReadError> {
        if requested > current {
            return Err(ReadError::Future { requested, current });
        }
        self.check_not_compacted(requested)
    }

    fn check_not_compacted(&self, requested: u64) -> Result<(), ReadError> {
        let compacted = self.compacted_revision();
        if requested < compacted { Err(ReadError::Compacted { requested, compacted }) } else { Ok(()) }
    }

    /// The last entry whose effects are durable: what the log has to keep starts after it.
    pub fn flushed(&self) -> Result<LogPosition, StateError> {
        Ok(progress(self.engine().load_durable(Table::Meta, meta::PROGRESS)?.as_ref())?.applied)
    }

    /// The oldest revision that can be read, as it would be found if the process died now.
    pub(crate) fn durably_compacted(&self) -> Result<u64, StateError> {
        let row = self.engine().load_durable(Table::Meta, meta::COMPACTED)?;
        Ok(row.map_or(Ok(0), |row| meta::decode_u64(meta::COMPACTED, &row))?)
    }

    /// Makes everything applied so far durable; with `wait` false, only starts to, and [`flushed`](StateReader::flushed) tells
    /// when it is done. Never blocks applying, but may itself wait while the engine is short of room: not for the thread that
    /// applies. What is durably compacted afterwards may be dropped, but for what scans hold.
    pub fn flush(&self, wait: bool) -> Result<(), StateError> {
        self.engine().flush(wait)?;
        self.release().map(|_| ())
    }

    /// A hash over every row of every table, but for the membership that a state was set up with, in which nodes may differ, and for rows that
    /// compaction has made dead, which each node drops when it likes. Reads all of the state.
    ///
    /// Equal on all nodes at the same applied index.
    pub fn content_hash(&self) -> Result<[u8; 16], StateError> {
        loop {
            let snapshot = self.engine().snapshot().in_bulk();
            let compacted = snapshot.load(Table::Meta, meta::COMPACTED)?;
            let compacted = compacted.map_or(Ok(0), |row| meta::decode_u64(meta::COMPACTED, &row))?;
            let hash = hash_living_rows(&snapshot, compacted)?;
            // Otherwise rows that this snapshot should have may have been dropped meanwhile.
            if self.engine().let_go_before() <= compacted {
                return Ok(hash);
            }
        }
    }
}

fn hash_living_rows<S: Snapshot>(snapshot: &S, compacted: u64) -> Result<[u8; 16], EngineError> {
    let mut hasher = Xxh3::new();
    for table in Table::ALL {
        let mut cursor = snapshot.cursor(table, b"", None);
        cursor.seek_first();
        while let Some((key, value)) = cursor.item() {
            let is_own = table == Table::Meta && key == meta::BOOTSTRAP;
            if !is_own && !is_dead(table, key, compacted) {
                hasher.update(&[table as u8]);
                hasher.update(&(key.len() as u64).to_be_bytes());
                hasher.update(&(value.len() as u64).to_be_bytes());
                hasher.update(key);
                hasher.update(value);
            }
            cursor.next();
        }
        cursor.check()?;
    }
    Ok(hasher.digest128().to_be_bytes())
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
