//! Laying rows out, into the batch and into the hash.
//!
//! The hash takes in every row of `current`, `history` and `changes` as it is written, and of `meta` what is said of leases and sessions as each
//! command leaves them, not as a run ends: so it is the same however entries are grouped into runs.

use super::super::engine::{Batch, Table};
use super::super::layout::{self, ChangeKind, RecordHeader};
use super::super::meta;
use super::change::Change;
use super::overlay::{Slot, SlotValue};
use raft::LogPosition;
use xxhash_rust::xxh3::Xxh3;

/// In the place of a table's number: the row is removed.
const REMOVED: u8 = 0x80;

pub(super) struct Writer<B> {
    pub(super) batch: B,
    hasher: Xxh3,
    row_key: Vec<u8>,
    record: Vec<u8>,
    change: Vec<u8>,
}

impl<B: Batch> Writer<B> {
    pub(super) fn new(batch: B) -> Writer<B> {
        Writer { batch, hasher: Xxh3::new(), row_key: Vec::new(), record: Vec::new(), change: Vec::new() }
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

    /// What becomes of a key, as the `number`th change of the revision.
    pub(super) fn change(&mut self, change: &Change<'_>, revision: u64, number: u32) {
        let key = &change.key[..];
        if let Some(old) = &change.old {
            self.supersede(key, old, revision);
        }
        match &change.new {
            Some(new) => {
                self.put(key, &new.header, new.value());
                self.event(ChangeKind::Put, key, revision, number);
            }
            None => {
                self.batch.delete(Table::Current, key);
                self.event(ChangeKind::Delete, key, revision, number);
            }
        }
    }

    /// Moves what a key holds to history.
    fn supersede(&mut self, key: &[u8], old: &Slot<'_>, revision: u64) {
        self.row_key.clear();
        layout::history_key(key, revision, &mut self.row_key);
        let record = match &old.value {
            SlotValue::Stored(record) => &record[..],
            SlotValue::Logged(_) | SlotValue::Kept(_) => {
                self.record.clear();
                old.header.encode(old.value(), &mut self.record);
                &self.record[..]
            }
        };
        hash_row(&mut self.hasher, Table::History as u8, &self.row_key, record);
        self.batch.put(Table::History, &self.row_key, record);
    }

    fn put(&mut self, key: &[u8], header: &RecordHeader, value: &[u8]) {
        self.record.clear();
        header.encode(value, &mut self.record);
        hash_row(&mut self.hasher, Table::Current as u8, key, &self.record);
        self.batch.put(Table::Current, key, &self.record);
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
