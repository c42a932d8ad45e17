//! Leases: how long each lives, when it ends, and how many keys live by it.
//!
//! All leases are kept in memory, in the order of their ends too, so that applying looks nothing up and knows what is due. Which keys live by one is on
//! disk only. Rows in `meta`, each written once in a run, when it ends:
//!
//! | key | value |
//! |---|---|
//! | `lease/`, number (8) | format (1), flags (1; bit 0: of one key), time to live in ms (8), end (8), keys (4), keys at most (4) |
//! | `lease-key/`, number (8), the user's key | empty |
//! | `lease-next` | the next number to give out (8); missing before the first |
//!
//! A key's record names its lease, so who deletes or overwrites a key knows what to unbind. A *lease of one key* was made by a put with a time to live:
//! nothing else can be bound to it, and it ends when its key gets another lease or none.
//!
//! Invariants: a record names a lease if and only if there is the lease and its row for the key; a lease's count of keys is that of its
//! rows; `ends` has each lease once.
//!
//! Bound: about 200 bytes of memory for each lease. A grant carries the most leases that there may be; puts with a time to live may
//! make leases until there are [`LEASES_MAX`].
//!
//! Changes of the command under way can be taken back ([`Leases::roll_back`]), because a transaction may be refused at its last operation.

use super::engine::{Batch, Cursor, Engine, Snapshot, Table};
use super::error::{CorruptRow, StateError};
use super::layout::LayoutError;
use super::meta;
use super::outcome::CommandOutcome;
use crate::command::{LeaseBinding, LeaseLimits};
use std::collections::{BTreeMap, BTreeSet};

/// Puts with a time to live are refused while there are so many leases. It decides what becomes of a command, so it belongs to format 4.
pub(crate) const LEASES_MAX: u32 = 1 << 20;

pub(crate) const LEASE_PREFIX: &[u8] = b"lease/";
const KEY_PREFIX: &[u8] = b"lease-key/";
const NEXT: &[u8] = b"lease-next";

const ROW_FORMAT: u8 = 1;
const ROW_BYTES: usize = 26;
const FLAG_OF_ONE_KEY: u8 = 1 << 0;

/// A lease, as of what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Its number.
    pub id: u64,
    /// How long it lives without a word from its holder, in milliseconds.
    pub ttl_ms: u64,
    /// When it ends, in milliseconds of the cluster's time: see [`StateReader::time_ms`](super::StateReader::time_ms).
    pub ends_at_ms: u64,
    /// How many keys live by it.
    pub keys: u32,
    /// It was made by a put with a time to live, for that key alone.
    pub of_one_key: bool,
}

/// What is kept of a lease in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ttl_ms: u64,
    pub(crate) ends_at_ms: u64,
    pub(crate) keys: u32,
    pub(crate) keys_max: u32,
    pub(crate) of_one_key: bool,
}

impl Lease {
    fn encode(&self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        row[0] = ROW_FORMAT;
        row[1] = if self.of_one_key { FLAG_OF_ONE_KEY } else { 0 };
        row[2..10].copy_from_slice(&self.ttl_ms.to_be_bytes());
        row[10..18].copy_from_slice(&self.ends_at_ms.to_be_bytes());
        row[18..22].copy_from_slice(&self.keys.to_be_bytes());
        row[22..].copy_from_slice(&self.keys_max.to_be_bytes());
        row
    }

    fn decode(row: &[u8]) -> Result<Lease, LayoutError> {
        let row: &[u8; ROW_BYTES] = row.try_into().map_err(|_| LayoutError::Short { bytes: row.len() })?;
        if row[0] != ROW_FORMAT {
            return Err(LayoutError::Format { found: row[0] });
        }
        let u64_at = |at: usize| u64::from_be_bytes(row[at..at + 8].try_into().expect("eight bytes of the row"));
        let u32_at = |at: usize| u32::from_be_bytes(row[at..at + 4].try_into().expect("four bytes of the row"));
        Ok(Lease {
            ttl_ms: u64_at(2),
            ends_at_ms: u64_at(10),
            keys: u32_at(18),
            keys_max: u32_at(22),
            of_one_key: row[1] & FLAG_OF_ONE_KEY != 0,
        })
    }
}

/// A row of a lease, read back.
pub(crate) fn decode_status(row_key: &[u8], row: &[u8]) -> Result<LeaseStatus, CorruptRow> {
    let decode = || {
        let id = meta::number_after(LEASE_PREFIX, row_key)?;
        let Lease { ttl_ms, ends_at_ms, keys, of_one_key, .. } = Lease::decode(row)?;
        Ok(LeaseStatus { id, ttl_ms, ends_at_ms, keys, of_one_key })
    };
    decode().map_err(|cause| CorruptRow::new(Table::Meta, row_key, cause))
}

/// The key of a lease's row.
pub(crate) fn lease_row(id: u64) -> Vec<u8> {
    meta::numbered(LEASE_PREFIX, id)
}

/// What the keys of all rows of a lease's keys begin with, followed by the user's key.
pub(crate) fn key_rows(id: u64) -> Vec<u8> {
    meta::numbered(KEY_PREFIX, id)
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<u64, Lease>,
    /// End and number of each.
    ends: BTreeSet<(u64, u64)>,
    /// The next number to give out, if it is not taken.
    next: u64,
    /// What the command under way has changed, as it was before.
    before: Vec<(u64, Option<Lease>)>,
    next_before: u64,
    /// Leases whose rows the run has to write.
    changed: BTreeSet<u64>,
    /// Keys that the run has bound to a lease, or unbound from it.
    bound: BTreeMap<(u64, Vec<u8>), bool>,
    next_written: u64,
}

impl Leases {
    /// None, as in a new state.
    pub(crate) fn new() -> Leases {
        Leases { next: 1, next_before: 1, next_written: 1, ..Leases::default() }
    }

    /// As the rows say.
    pub(crate) fn load<E: Engine>(engine: &E) -> Result<Leases, StateError> {
        let mut leases = Leases::new();
        if let Some(row) = engine.load(Table::Meta, NEXT)? {
            leases.next = meta::decode_u64(NEXT, &row)?;
            (leases.next_before, leases.next_written) = (leases.next, leases.next);
        }
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.cursor(Table::Meta, LEASE_PREFIX, Some(&meta::after(LEASE_PREFIX)));
        cursor.seek_first();
        while let Some((row_key, row)) = cursor.item() {
            let decode = || Ok((meta::number_after(LEASE_PREFIX, row_key)?, Lease::decode(row)?));
            let (id, lease) = decode().map_err(|cause| CorruptRow::new(Table::Meta, row_key, cause))?;
            leases.replace(id, Some(lease));
            cursor.next();
        }
        cursor.check()?;
        Ok(leases)
    }

    pub(crate) fn lease(&self, id: u64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// When the next one ends.
    pub(crate) fn next_end_ms(&self) -> Option<u64> {
        self.ends.first().map(|(ends_at_ms, _)| *ends_at_ms)
    }

    /// The one that is due the longest.
    pub(crate) fn first_due(&self, now_ms: u64) -> Option<(u64, Lease)> {
        let (_, id) = self.ends.first().filter(|(ends_at_ms, _)| *ends_at_ms <= now_ms)?;
        Some((*id, *self.leases.get(id).expect("whatever has an end is a lease")))
    }

    /// Makes a lease. Zero as its number: the next that is free.
    pub(crate) fn grant(
        &mut self,
        id: u64,
        ttl_ms: u64,
        limits: LeaseLimits,
        now_ms: u64,
    ) -> Result<u64, CommandOutcome> {
        if self.leases.contains_key(&id) {
            return Err(CommandOutcome::LeaseExists { id });
        }
        let LeaseLimits { leases_max, keys_max } = limits;
        if self.leases.len() as u64 >= u64::from(leases_max) {
            return Err(CommandOutcome::LeasesFull { leases_max });
        }
        let id = if id == 0 { self.free_number() } else { id };
        let ends_at_ms = now_ms.saturating_add(ttl_ms);
        self.set(id, Some(Lease { ttl_ms, ends_at_ms, keys: 0, keys_max, of_one_key: false }));
        Ok(id)
    }

    /// Lets a lease live for its whole time from now on, and says how long that is.
    pub(crate) fn keep_alive(&mut self, id: u64, now_ms: u64) -> Result<u64, CommandOutcome> {
        let lease = *self.leases.get(&id).ok_or(CommandOutcome::LeaseUnknown { id })?;
        self.set(id, Some(Lease { ends_at_ms: now_ms.saturating_add(lease.ttl_ms), ..lease }));
        Ok(lease.ttl_ms)
    }

    /// Removes a lease, whose keys are deleted.
    pub(crate) fn end(&mut self, id: u64) {
        if let Some(lease) = self.leases.get(&id) {
            assert!(lease.keys == 0, "lease {id} ends while {} keys live by it", lease.keys);
            self.set(id, None);
        }
    }

    /// Gives a key that has lived by `old` (zero: none) what `binding` says, and returns the number of that (zero: none).
    pub(crate) fn rebind(&mut self, old: u64, binding: LeaseBinding, now_ms: u64) -> Result<u64, CommandOutcome> {
        let new = match binding {
            LeaseBinding::None => 0,
            LeaseBinding::Keep => old,
            LeaseBinding::Lease(id) => {
                let lease = self.leases.get(&id).ok_or(CommandOutcome::LeaseUnknown { id })?;
                if id != old && lease.keys >= lease.keys_max {
                    return Err(CommandOutcome::LeaseFull { id, keys_max: lease.keys_max });
                }
                id
            }
            LeaseBinding::TimeToLive { ttl_ms } => {
                if self.leases.len() as u64 >= u64::from(LEASES_MAX) {
                    return Err(CommandOutcome::LeasesFull { leases_max: LEASES_MAX });
                }
                let id = self.free_number();
                let ends_at_ms = now_ms.saturating_add(ttl_ms);
                self.set(id, Some(Lease { ttl_ms, ends_at_ms, keys: 0, keys_max: 1, of_one_key: true }));
                id
            }
        };
        if new != old {
            if old != 0 {
                self.unbind(old);
            }
            if new != 0 {
                let lease = *self.leases.get(&new).expect("the new lease was just looked up or made");
                self.set(new, Some(Lease { keys: lease.keys + 1, ..lease }));
            }
        }
        Ok(new)
    }

    /// A key that has lived by the lease does so no more.
    pub(crate) fn unbind(&mut self, id: u64) {
        let lease = *self.leases.get(&id).expect("what a record names as its lease is one");
        assert!(lease.keys > 0, "a key is unbound from lease {id}, which has none");
        let rest = Lease { keys: lease.keys - 1, ..lease };
        self.set(id, (!lease.of_one_key).then_some(rest));
    }

    /// Notes for the rows that a key has come to live by `new` in place of `old`; zero: none.
    pub(crate) fn moved(&mut self, key: &[u8], old: u64, new: u64) {
        for (id, is_bound) in [(old, false), (new, true)] {
            if id != 0 {
                self.bound.insert((id, key.to_vec()), is_bound);
            }
        }
    }

    /// The keys that live by a lease, in order, what the run has changed so far included.
    pub(crate) fn keys<E: Engine>(&self, engine: &E, id: u64) -> Result<Vec<Vec<u8>>, StateError> {
        let prefix = key_rows(id);
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.cursor(Table::Meta, &prefix, Some(&meta::after(&prefix)));
        cursor.seek_first();
        let mut keys = BTreeSet::new();
        while let Some((row_key, _)) = cursor.item() {
            keys.insert(row_key[prefix.len()..].to_vec());
            cursor.next();
        }
        cursor.check()?;
        for ((_, key), is_bound) in self.bound.range((id, Vec::new())..).take_while(|((lease, _), _)| *lease == id) {
            if *is_bound {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys.into_iter().collect())
    }

    /// The command under way is through. Calls `hash` with the key of the row of each lease that it has changed, ascending, and the row, or `None` for a lease
    /// that has ended.
    pub(crate) fn commit(&mut self, mut hash: impl FnMut(&[u8], Option<&[u8]>)) {
        self.next_before = self.next;
        if self.before.is_empty() {
            return;
        }
        let mut changed: Vec<u64> = self.before.drain(..).map(|(id, _)| id).collect();
        changed.sort_unstable();
        changed.dedup();
        for id in &changed {
            let row = self.leases.get(id).map(Lease::encode);
            hash(&lease_row(*id), row.as_ref().map(|row| &row[..]));
        }
        self.changed.extend(changed);
    }

    /// Takes back what the command under way has changed.
    pub(crate) fn roll_back(&mut self) {
        self.next = self.next_before;
        while let Some((id, before)) = self.before.pop() {
            self.replace(id, before);
        }
    }

    /// Writes the rows that the run has changed.
    pub(crate) fn write(&mut self, batch: &mut impl Batch) {
        assert!(self.before.is_empty(), "a command is under way while its run ends");
        for id in std::mem::take(&mut self.changed) {
            match self.leases.get(&id) {
                Some(lease) => batch.put(Table::Meta, &lease_row(id), &lease.encode()),
                None => batch.delete(Table::Meta, &lease_row(id)),
            }
        }
        for ((id, key), is_bound) in std::mem::take(&mut self.bound) {
            let row_key = [&key_rows(id)[..], &key].concat();
            if is_bound {
                batch.put(Table::Meta, &row_key, b"");
            } else {
                batch.delete(Table::Meta, &row_key);
            }
        }
        if self.next != self.next_written {
            batch.put(Table::Meta, NEXT, &self.next.to_be_bytes());
            self.next_written = self.next;
        }
    }

    fn free_number(&mut self) -> u64 {
        while self.leases.contains_key(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }

    fn set(&mut self, id: u64, lease: Option<Lease>) {
        let before = self.replace(id, lease);
        if self.before.last().is_none_or(|(last, _)| *last != id) {
            self.before.push((id, before));
        }
    }

    fn replace(&mut self, id: u64, lease: Option<Lease>) -> Option<Lease> {
        let before = match lease {
            Some(lease) => self.leases.insert(id, lease),
            None => self.leases.remove(&id),
        };
        let end = |lease: Option<Lease>| lease.map(|lease| lease.ends_at_ms);
        if end(before) != end(lease) {
            if let Some(ended_at_ms) = end(before) {
                self.ends.remove(&(ended_at_ms, id));
            }
            if let Some(ends_at_ms) = end(lease) {
                self.ends.insert((ends_at_ms, id));
            }
        }
        before
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    const LIMITS: LeaseLimits = LeaseLimits { leases_max: 3, keys_max: 2 };

    fn all(leases: &Leases) -> Vec<(u64, Lease)> {
        leases.leases.iter().map(|(id, lease)| (*id, *lease)).collect()
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut leases = Leases::new();
        leases.grant(7, 1_000, LIMITS, 0).unwrap();
        leases.rebind(0, LeaseBinding::Lease(7), 0).unwrap();
        leases.commit(|_, _| {});
        let (before, ends, next) = (all(&leases), leases.ends.clone(), leases.next);
        let own = leases.rebind(7, LeaseBinding::TimeToLive { ttl_ms: 5 }, 10).unwrap();
        leases.keep_alive(7, 20).unwrap();
        leases.rebind(own, LeaseBinding::None, 20).unwrap();
        assert!(leases.lease(own).is_none(), "a lease of one key ends with its key");
        leases.end(7);
        assert_ne!(all(&leases), before);
        leases.roll_back();
        assert_eq!((all(&leases), leases.ends.clone(), leases.next), (before, ends, next));
    }

    #[test]
    fn numbers_that_are_taken_are_passed_over_and_none_is_given_out_twice() {
        let mut leases = Leases::new();
        leases.grant(2, 1, LIMITS, 0).unwrap();
        assert_eq!(leases.grant(0, 1, LIMITS, 0).unwrap(), 1);
        assert_eq!(leases.grant(0, 1, LIMITS, 0).unwrap(), 3);
        assert_eq!(leases.grant(0, 1, LIMITS, 0), Err(CommandOutcome::LeasesFull { leases_max: 3 }));
        leases.end(3);
        assert_eq!(leases.grant(0, 1, LIMITS, 0).unwrap(), 4);
        assert_eq!(leases.grant(4, 1, LIMITS, 0), Err(CommandOutcome::LeaseExists { id: 4 }));
    }

    #[test]
    fn a_put_with_a_time_to_live_is_refused_while_there_are_too_many_leases() {
        let mut leases = Leases::new();
        let limits = LeaseLimits { leases_max: u32::MAX, keys_max: 1 };
        for id in 1..=u64::from(LEASES_MAX) {
            leases.grant(id, 1, limits, 0).unwrap();
        }
        let full = CommandOutcome::LeasesFull { leases_max: LEASES_MAX };
        assert_eq!(leases.rebind(0, LeaseBinding::TimeToLive { ttl_ms: 1 }, 0), Err(full));
        leases.end(7);
        // The first number that is free, and that nobody was given because the client chose none.
        assert_eq!(leases.rebind(0, LeaseBinding::TimeToLive { ttl_ms: 1 }, 0), Ok(7));
    }

    #[test]
    fn the_row_is_this_to_the_byte_and_a_cut_one_is_refused() {
        let lease = Lease { ttl_ms: 1, ends_at_ms: 0x0102, keys: 3, keys_max: 4, of_one_key: true };
        let row = lease.encode();
        let expected = [&[1, 1][..], &[0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 1, 2], &[0, 0, 0, 3, 0, 0, 0, 4]];
        assert_eq!(row[..], expected.concat());
        assert_eq!(Lease::decode(&row), Ok(lease));
        for length in 0..ROW_BYTES {
            assert_eq!(Lease::decode(&row[..length]), Err(LayoutError::Short { bytes: length }));
        }
        assert_eq!(lease_row(1), b"lease/\0\0\0\0\0\0\0\x01");
    }
}
