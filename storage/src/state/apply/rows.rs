//! Laying rows out, into the batch and into the hash.
//!
//! The hash takes in every row of `current`, `history` and `changes` as it is written, and of `meta` what is said of leases and sessions as each
//! command leaves them, not as a run ends: so it is the same however entries are grouped into runs.
//!
//! A run is one batch, but for rows of `history` beyond a number of bytes: these are written *ahead*, a few MiB at a time, so that what a run overwrites is not
//! in memory as a whole. Such a row says what a key held until a revision that does not exist yet, and that is what the key still holds: who reads at any revision
//! there is finds the same in it as in `current`, and who reads at the newest one does not look. Only changes that are made for good are written, so after a crash the same
//! entries write the same rows again.

use super::super::engine::{Batch, Engine, EngineError, Table};
use super::super::error::StateError;
use super::super::layout::{self, ChangeKind};
use super::super::meta;
use super::change::Change;
use super::overlay::{Slot, SlotValue};
use raft::LogPosition;
use xxhash_rust::xxh3::Xxh3;

/// In the place of a table's number: the row is removed.
const REMOVED: u8 = 0x80;

pub(super) struct Writer<'a, E: Engine> {
    engine: &'a E,
    pub(super) batch: E::Batch<'a>,
    /// Rows of `history` that do not fit the batch any more.
    ahead: Option<E::Batch<'a>>,
    /// Bytes of `history` in the batch, or in the one that is written ahead.
    history_bytes: usize,
    history_bytes_max: usize,
    hasher: Xxh3,
    row_key: Vec<u8>,
    record: Vec<u8>,
    change: Vec<u8>,
}

impl<'a, E: Engine> Writer<'a, E> {
    /// A batch with room for about `bytes_hint` bytes, and for rows of `history` of `history_bytes_max` bytes.
    pub(super) fn new(engine: &'a E, bytes_hint: usize, history_bytes_max: usize) -> Writer<'a, E> {
        Writer {
            engine,
            batch: engine.batch(bytes_hint),
            ahead: None,
            history_bytes: 0,
            history_bytes_max,
            hasher: Xxh3::new(),
            row_key: Vec::new(),
            record: Vec::new(),
            change: Vec::new(),
        }
    }

    /// Writes what is not written yet: the batch last, which makes all of it true.
    pub(super) fn finish(self) -> Result<(), EngineError> {
        if let Some(ahead) = self.ahead {
            self.engine.write(ahead)?;
        }
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
        self.row_key.clear();
        layout::history_key(key, revision, &mut self.row_key);
        let record = match &old.value {
            SlotValue::Stored(record) => &record[..],
            SlotValue::Left(_) | SlotValue::Logged(_) | SlotValue::Kept(_) => {
                self.record.clear();
                old.header.encode(&old.value(self.engine, key)?, &mut self.record);
                &self.record[..]
            }
        };
        hash_row(&mut self.hasher, Table::History as u8, &self.row_key, record);
        let bytes = self.row_key.len() + record.len();
        if self.history_bytes + bytes > self.history_bytes_max {
            let next = self.engine.batch(self.history_bytes_max);
            if let Some(full) = self.ahead.replace(next) {
                self.engine.write(full)?;
            }
            self.history_bytes = 0;
        }
        self.history_bytes += bytes;
        self.ahead.as_mut().unwrap_or(&mut self.batch).put(Table::History, &self.row_key, record);
        Ok(())
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
