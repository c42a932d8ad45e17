//! Laying rows out, into the batch and into the hash.
//!
//! The hash takes in every row of `current`, `history` and `changes` as it is written, and of `meta` what is said of leases and sessions as each
//! command leaves them, not as a run ends: so it is the same however entries are grouped into runs.
//!
//! A run is one batch, but for rows of `history` beyond a number of bytes: these are written *ahead*, a few MiB at a time, so that what a run overwrites is not
//! in memory as a whole. They are written in the order in which they came to be, so what is there of a run's history is always all of it up to some change. A key's first row in it
//! says what the key held until a revision that does not exist yet, and that is what it still holds: who reads at any revision
//! there is takes that row, and finds the same in it as in `current`; who reads at the newest one does not look. (Without the order, a second row of the key
//! might be there alone, which says that at all revisions there are the key did not exist.) Only changes that are made for good are written, so after a crash the same
//! entries write the same rows again.

use super::super::engine::{Batch, Engine, EngineError, Table};
use super::super::error::StateError;
use super::super::layout::{self, ChangeKind};
use super::super::meta;
use super::change::Change;
use super::overlay::{Slot, SlotValue};
use bytes::Bytes;
use raft::LogPosition;
use xxhash_rust::xxh3::Xxh3;

/// In the place of a table's number: the row is removed.
const REMOVED: u8 = 0x80;

pub(super) struct Writer<'a, E: Engine> {
    engine: &'a E,
    pub(super) batch: E::Batch<'a>,
    /// Rows of `history` that are not written, in order.
    history: Vec<(Vec<u8>, Bytes)>,
    history_bytes: usize,
    history_bytes_max: usize,
    hasher: Xxh3,
    record: Vec<u8>,
    change: Vec<u8>,
}

impl<'a, E: Engine> Writer<'a, E> {
    /// A batch with room for about `bytes_hint` bytes, and for rows of `history` of `history_bytes_max` bytes.
    pub(super) fn new(engine: &'a E, bytes_hint: usize, history_bytes_max: usize) -> Writer<'a, E> {
        Writer {
            engine,
            batch: engine.batch(bytes_hint),
            history: Vec::new(),
            history_bytes: 0,
            history_bytes_max,
            hasher: Xxh3::new(),
            record: Vec::new(),
            change: Vec::new(),
        }
    }

    /// Writes what is not written yet: the batch last, which makes all of it true.
    pub(super) fn finish(mut self) -> Result<(), EngineError> {
        self.history.iter().for_each(|(row_key, record)| self.batch.put(Table::History, row_key, record));
        self.engine.write(self.batch)
    }

    pub(super) fn start_entry(&mut self, hash_before: &[u8; 16], position: LogPosition) {
        self.hasher.reset();
        self.hasher.update(hash_before);
        self.hasher.update(&position.index.0.to_be_bytes());
        self.hasher.update(&position.term.0.to_be_bytes());
    }

    /// The hash after the entry.
    pub(super) fn hash(&self) -> [u8; 16] {
        self.hasher.digest128().to_be_bytes()
    }

    /// Replaces a row that every node has.
    pub(super) fn meta(&mut self, key: &[u8], value: &[u8]) {
        self.hash_meta(key, value);
        self.batch.put(Table::Meta, key, value);
    }

    pub(super) fn membership(&mut self, encoded: &[u8]) {
        self.meta(meta::MEMBERSHIP, encoded);
    }

    /// Takes in a row of `meta` that the run writes when it ends.
    pub(super) fn hash_meta(&mut self, key: &[u8], value: &[u8]) {
        hash_row(&mut self.hasher, Table::Meta as u8, key, value);
    }

    /// Takes in that a row of `meta` goes when the run ends.
    pub(super) fn hash_meta_removed(&mut self, key: &[u8]) {
        hash_row(&mut self.hasher, Table::Meta as u8 | REMOVED, key, b"");
    }

    /// What becomes of a key, as the `number`th change of the revision. The command is through: nothing takes that back.
    pub(super) fn change(&mut self, change: &Change<'_>, revision: u64, number: u32) -> Result<(), StateError> {
        let key = &change.key[..];
        if let Some(old) = &change.old {
            self.supersede(key, old, revision)?;
        }
        match &change.new {
            Some(new) => {
                self.put(key, new)?;
                self.event(ChangeKind::Put, key, revision, number);
            }
            None => {
                self.batch.delete(Table::Current, key);
                self.event(ChangeKind::Delete, key, revision, number);
            }
        }
        Ok(())
    }

    /// Moves what a key holds to history.
    fn supersede(&mut self, key: &[u8], old: &Slot<'_>, revision: u64) -> Result<(), StateError> {
        let mut row_key = Vec::new();
        layout::history_key(key, revision, &mut row_key);
        let record = match &old.value {
            SlotValue::Stored(record) => record.clone(),
            SlotValue::Left(_) | SlotValue::Logged(_) | SlotValue::Kept(_) => {
                let mut record = Vec::new();
                old.header.encode(&old.value(self.engine, key)?, &mut record);
                record.into()
            }
        };
        hash_row(&mut self.hasher, Table::History as u8, &row_key, &record);
        let bytes = row_key.len() + record.len();
        if self.history_bytes + bytes > self.history_bytes_max {
            self.write_ahead()?;
        }
        self.history_bytes += bytes;
        self.history.push((row_key, record));
        Ok(())
    }

    /// Writes the rows of history that are not written.
    fn write_ahead(&mut self) -> Result<(), EngineError> {
        let mut ahead = self.engine.batch(self.history_bytes);
        self.history.drain(..).for_each(|(row_key, record)| ahead.put(Table::History, &row_key, &record));
        self.history_bytes = 0;
        self.engine.write(ahead)
    }

    fn put(&mut self, key: &[u8], new: &Slot<'_>) -> Result<(), StateError> {
        self.record.clear();
        new.header.encode(&new.value(self.engine, key)?, &mut self.record);
        hash_row(&mut self.hasher, Table::Current as u8, key, &self.record);
        self.batch.put(Table::Current, key, &self.record);
        Ok(())
    }

    fn event(&mut self, kind: ChangeKind, key: &[u8], revision: u64, number: u32) {
        self.change.clear();
        self.change.push(kind as u8);
        self.change.extend_from_slice(key);
        let row_key = layout::change_key(revision, number);
        hash_row(&mut self.hasher, Table::Changes as u8, &row_key, &self.change);
        self.batch.put(Table::Changes, &row_key, &self.change);
    }
}

fn hash_row(hasher: &mut Xxh3, table: u8, key: &[u8], value: &[u8]) {
    let mut lengths = [0; 17];
    lengths[0] = table;
    lengths[1..9].copy_from_slice(&(key.len() as u64).to_be_bytes());
    lengths[9..].copy_from_slice(&(value.len() as u64).to_be_bytes());
    hasher.update(&lengths);
    hasher.update(key);
    hasher.update(value);
}
