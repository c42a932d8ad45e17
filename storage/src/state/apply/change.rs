//! Changes of keys: staged while a command is carried out, made once it has come to its end, taken back if it is refused.
//!
//! A command works on the overlay itself, so that what it does next sees what it did before, and notes what each key held. Rows, the revision and
//! the hash follow only when it is through. So a transaction that is refused half way has left no trace, and a put goes the
//! same way as a transaction of a hundred.
//!
//! Within one command a key is changed once at most, or two values would have one revision. Transactions that would are refused before they are
//! applied.

use super::super::engine::Engine;
use super::super::error::{CorruptRow, StateError};
use super::super::layout::{KeyValue, RecordHeader};
use super::super::outcome::CommandOutcome;
use super::Run;
use super::overlay::{Slot, SlotValue};
use crate::command::{LeaseBinding, Put};
use bytes::Bytes;
use std::borrow::Cow;

/// A key that the command under way has changed.
pub(super) struct Change<'a> {
    pub(super) key: Cow<'a, [u8]>,
    /// What it held before the command.
    pub(super) old: Option<Slot<'a>>,
    pub(super) new: Option<Slot<'a>>,
}

impl Change<'_> {
    fn leases(&self) -> (u64, u64) {
        let lease = |slot: &Option<Slot<'_>>| slot.as_ref().map_or(0, |slot| slot.header.lease);
        (lease(&self.old), lease(&self.new))
    }
}

/// Why a command does not come to its end.
pub(super) enum Stop {
    /// It must not. The state stays as it is, on every node.
    Refused(Box<CommandOutcome>),
    /// This node cannot go on.
    Failed(StateError),
}

impl From<CommandOutcome> for Stop {
    fn from(outcome: CommandOutcome) -> Stop {
        Stop::Refused(Box::new(outcome))
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Stop {
        Stop::Failed(error)
    }
}

impl From<CorruptRow> for Stop {
    fn from(row: CorruptRow) -> Stop {
        Stop::Failed(row.into())
    }
}

impl<'a, E: Engine> Run<'a, E> {
    /// The revision of what is staged, or the newest one if nothing is.
    pub(super) fn staged_revision(&self) -> u64 {
        self.progress.revision + u64::from(!self.changes.is_empty())
    }

    /// Puts a key, whatever condition the put has, and returns what the key held if the put asks for that.
    pub(super) fn stage_put(&mut self, put: &Put<'a>) -> Result<Option<KeyValue>, Stop> {
        let revision = self.progress.revision + 1;
        let slot = self.overlay.slot_mut(put.key);
        let unknown = || CommandOutcome::KeyUnknown { key: Bytes::copy_from_slice(put.key) };
        let old_lease = slot.as_ref().map_or(0, |old| old.header.lease);
        let lease = match put.lease {
            LeaseBinding::None if old_lease == 0 => 0,
            LeaseBinding::Keep if slot.is_none() => return Err(unknown().into()),
            LeaseBinding::Keep => old_lease,
            LeaseBinding::None | LeaseBinding::Lease(_) | LeaseBinding::TimeToLive { .. } => {
                self.leases.rebind(old_lease, put.lease, self.clockwork.time_ms)?
            }
        };
        let value = match (put.value, slot.as_ref()) {
            (Some(value), _) => SlotValue::Logged(value),
            (None, Some(old)) => {
                self.kept_bytes += old.value_bytes();
                old.kept_value()
            }
            (None, None) => return Err(unknown().into()),
        };
        let previous =
            slot.as_ref().filter(|_| put.previous).map(|old| old.key_value(self.engine, put.key)).transpose()?;
        let (create_revision, version) = match slot {
            Some(old) => (old.header.create_revision, old.header.version + 1),
            None => (revision, 1),
        };
        let header = RecordHeader { mod_revision: revision, create_revision, version, lease };
        let new = Slot { header, value };
        let old = slot.replace(new.clone());
        self.stage(Change { key: Cow::Borrowed(put.key), old, new: Some(new) });
        Ok(previous)
    }

    /// Deletes a key that the overlay knows, and returns what it held if that is asked for. `None`: it does not exist.
    pub(super) fn stage_delete(
        &mut self,
        key: Cow<'a, [u8]>,
        previous: bool,
    ) -> Result<Option<Option<KeyValue>>, StateError> {
        let Some(old) = self.overlay.slot_mut(&key).take() else { return Ok(None) };
        if old.header.lease != 0 {
            self.leases.unbind(old.header.lease);
        }
        let held = previous.then(|| old.key_value(self.engine, &key)).transpose()?;
        self.stage(Change { key, old: Some(old), new: None });
        Ok(Some(held))
    }

    fn stage(&mut self, change: Change<'a>) {
        if let Some(superseded) = &mut self.superseded {
            let until = (self.progress.revision + 1, change.old.clone());
            superseded.entry(change.key.clone()).or_default().push(until);
        }
        self.changes.push(change);
    }

    /// Makes what is staged, at one revision. Nothing, if nothing is staged.
    pub(super) fn commit(&mut self) -> Result<(), StateError> {
        if !self.changes.is_empty() {
            self.progress.revision += 1;
            for (number, change) in (0..).zip(self.changes.drain(..)) {
                self.writer.change(&change, self.progress.revision, number)?;
                let (old, new) = change.leases();
                if old != new {
                    self.leases.moved(&change.key, old, new);
                }
            }
        }
        self.leases.commit(|key, row| match row {
            Some(row) => self.writer.hash_meta(key, row),
            None => self.writer.hash_meta_removed(key),
        });
        Ok(())
    }

    /// Takes back what is staged.
    pub(super) fn roll_back(&mut self) {
        for change in self.changes.drain(..) {
            if let Some(superseded) = &mut self.superseded {
                let until = superseded.get_mut(&change.key).and_then(Vec::pop);
                assert!(until.is_some(), "what is staged was noted");
            }
            *self.overlay.slot_mut(&change.key) = change.old;
        }
        self.leases.roll_back();
    }
}
