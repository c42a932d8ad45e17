//! Puts and deletes that are commands of their own, and compaction.
//!
//! What bounds a range delete are the limits that lie in the log with the command: the range is counted while it is read, its values too if they are
//! returned, and as soon as it holds more, reading ends and the command has changed nothing. What a command of the same run has put or deleted counts as it
//! would after that run, so the outcome does not depend on how entries are grouped.

use super::super::engine::Engine;
use super::super::error::StateError;
use super::super::layout::KeyValue;
use super::super::meta;
use super::super::outcome::CommandOutcome;
use super::Run;
use super::change::Stop;
use super::overlay::{self, RangeSize, Slot};
use super::range::exceeded;
use crate::command::{Condition, KeyRange, Put, RangeLimits};
use bytes::Bytes;
use std::borrow::Cow;

impl<'a, E: Engine> Run<'a, E> {
    pub(super) fn put(&mut self, put: &Put<'a>) -> Result<CommandOutcome, Stop> {
        if let Some(condition) = put.condition {
            let slot = self.overlay.slot(put.key);
            if !self.condition_holds(condition, put.key, slot)? {
                let existing = match slot {
                    Some(slot) if put.previous => Some(slot.key_value(self.engine, put.key)?),
                    Some(slot) => Some(KeyValue::new(Bytes::copy_from_slice(put.key), slot.header, Bytes::new())),
                    None => None,
                };
                return Ok(CommandOutcome::ConditionFailed { existing });
            }
        }
        let previous = self.stage_put(put)?;
        Ok(CommandOutcome::Put { revision: self.staged_revision(), previous })
    }

    pub(super) fn delete(
        &mut self,
        range: KeyRange<'a>,
        limits: RangeLimits,
        previous: bool,
    ) -> Result<CommandOutcome, Stop> {
        let (count, previous) = if let Some(key) = range.single_key() {
            let deleted = self.stage_delete(Cow::Borrowed(key), previous)?;
            (u64::from(deleted.is_some()), deleted.flatten().into_iter().collect())
        } else if range.is_empty() {
            (0, Vec::new())
        } else {
            let mut size = RangeSize::default();
            if !overlay::load_range(self.engine, &mut self.overlay, range, previous, limits, &mut size)? {
                return Err(exceeded(limits));
            }
            self.stage_delete_loaded(range, previous)?
        };
        Ok(CommandOutcome::Deleted { count, revision: self.staged_revision(), previous })
    }

    /// Deletes a range all of which the overlay knows. How many keys that were, and what they held if that is asked for.
    pub(super) fn stage_delete_loaded(
        &mut self,
        range: KeyRange<'a>,
        previous: bool,
    ) -> Result<(u64, Vec<KeyValue>), StateError> {
        let known = self.overlay.range(range);
        let keys: Vec<Cow<'a, [u8]>> = known.filter(|(_, slot)| slot.is_some()).map(|(key, _)| key.clone()).collect();
        let mut held = Vec::new();
        let count = keys.len() as u64;
        for key in keys {
            let deleted = self.stage_delete(key, previous)?.expect("the key was just found to exist");
            held.extend(deleted);
        }
        Ok((count, held))
    }

    /// Raises the oldest revision that can be read.
    pub(super) fn compact(&mut self, requested: u64) -> CommandOutcome {
        let (current, compacted) = (self.progress.revision, self.clockwork.compacted);
        if requested > current {
            return CommandOutcome::RevisionFuture { requested, current };
        }
        if requested <= compacted {
            return CommandOutcome::RevisionCompacted { requested, compacted };
        }
        self.clockwork.compacted = requested;
        self.writer.meta(meta::COMPACTED, &requested.to_be_bytes());
        CommandOutcome::Compacted { revision: requested }
    }

    fn condition_holds(
        &self,
        condition: Condition<'_>,
        key: &[u8],
        slot: Option<&Slot<'a>>,
    ) -> Result<bool, StateError> {
        Ok(match (condition, slot) {
            (Condition::Absent, slot) => slot.is_none(),
            (Condition::ModRevision(_) | Condition::Value(_), None) => false,
            (Condition::ModRevision(revision), Some(slot)) => slot.header.mod_revision == revision,
            (Condition::Value(value), Some(slot)) => *slot.value(self.engine, key)? == *value,
        })
    }
}
