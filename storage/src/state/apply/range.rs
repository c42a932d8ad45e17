//! Reading ranges in the middle of a transaction.
//!
//! Without a revision, a read sees what the transaction has done so far. With one, it sees committed history and nothing of the transaction,
//! as etcd has it; what this very run has committed included, which is not in the engine yet.
//!
//! Every key that is looked at counts against the limits of the transaction, returned or not: all of a range if it is to be counted, or sorted otherwise than
//! by ascending keys, and else as far as the limit. The bytes of a pair
//! count if it is kept: what a limit in key order leaves out, or a count alone, takes no memory.

use super::super::engine::Engine;
use super::super::error::StateError;
use super::super::layout::KeyValue;
use super::super::outcome::{CommandOutcome, RangeOutcome};
use super::super::walk::At;
use super::Run;
use super::change::Stop;
use super::overlay::{self, Pair, RangeSize, bounds};
use crate::command::{KeyRange, RangeLimits, RangeRead, SortBy};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// What is left to a transaction of what it may read and delete.
pub(super) struct Budget {
    pub(super) limits: RangeLimits,
    pub(super) size: RangeSize,
}

impl Budget {
    pub(super) fn new(limits: RangeLimits) -> Budget {
        Budget { limits, size: RangeSize::default() }
    }

    pub(super) fn check(&self) -> Result<(), Stop> {
        if self.size.fits(self.limits) { Ok(()) } else { Err(exceeded(self.limits)) }
    }
}

pub(super) fn exceeded(RangeLimits { keys_max, bytes_max }: RangeLimits) -> Stop {
    CommandOutcome::LimitExceeded { keys_max, bytes_max }.into()
}

impl<E: Engine> Run<'_, E> {
    /// Carries out a read.
    pub(super) fn read(&self, read: &RangeRead<'_>, budget: &mut Budget) -> Result<RangeOutcome, Stop> {
        if let Some(requested) = read.revision {
            let (current, compacted) = (self.progress.revision, self.clockwork.compacted);
            if requested > current {
                return Err(CommandOutcome::RevisionFuture { requested, current }.into());
            }
            if requested < compacted {
                return Err(CommandOutcome::RevisionCompacted { requested, compacted }.into());
            }
        }
        let mut collector = Collector::new(read);
        let mut visit = |pair: Pair<'_>| {
            let flow = collector.offer(pair, &mut budget.size);
            if budget.size.fits(budget.limits) { flow } else { ControlFlow::Break(()) }
        };
        match read.revision {
            None => self.visit_now(read.range, &mut visit)?,
            Some(revision) => self.visit_at(read.range, revision, &mut visit)?,
        }
        budget.check()?;
        Ok(collector.finish())
    }

    /// Goes through a range as it is, with what is staged.
    pub(super) fn visit_now(
        &self,
        range: KeyRange<'_>,
        visit: &mut dyn FnMut(Pair<'_>) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        if let Some(key) = range.single_key() {
            if let Some(slot) = self.overlay.slot(key) {
                // There is no other pair, so it is all the same whether it breaks off.
                let _ = visit(Pair { key, header: slot.header, value: &slot.value(self.engine, key)? });
            }
            return Ok(());
        }
        if range.is_empty() {
            return Ok(());
        }
        let known = self.overlay.range(range).map(|(key, slot)| (&key[..], slot));
        overlay::merge(self.engine, range, At::Latest, known, visit)
    }

    /// Goes through a range as it was at a revision that is committed.
    fn visit_at(
        &self,
        range: KeyRange<'_>,
        revision: u64,
        visit: &mut dyn FnMut(Pair<'_>) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        if range.is_empty() {
            return Ok(());
        }
        if revision < self.revision_before {
            return overlay::merge(self.engine, range, At::Revision(revision), std::iter::empty(), visit);
        }
        // The engine shows the revision before the run; of what has changed since, what was superseded after the revision is what there was.
        let superseded = self.superseded.as_ref().expect("a run that reads at a revision keeps what it supersedes");
        let known = superseded.range::<[u8], _>(bounds(range)).map(|(key, until)| {
            let held = until.iter().find(|(superseded_at, _)| *superseded_at > revision).map(|(_, slot)| slot.as_ref());
            (&key[..], held.unwrap_or_else(|| self.overlay.slot(key)))
        });
        overlay::merge(self.engine, range, At::Latest, known, visit)
    }
}

/// Takes in the pairs of a range, in key order, and keeps those that were asked for.
struct Collector<'r> {
    read: &'r RangeRead<'r>,
    /// As many as can be given.
    pairs_max: usize,
    /// The order is that of the keys, so that what comes after the limit need not be kept.
    is_in_order: bool,
    outcome: RangeOutcome,
}

impl<'r> Collector<'r> {
    fn new(read: &'r RangeRead<'r>) -> Collector<'r> {
        let pairs_max = read.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let is_in_order = read.sort_by == SortBy::Key && !read.descending;
        Collector { read, pairs_max, is_in_order, outcome: RangeOutcome::default() }
    }

    /// Takes in the next pair, or leaves it out. Breaks off when no other can change the outcome.
    fn offer(&mut self, pair: Pair<'_>, size: &mut RangeSize) -> ControlFlow<()> {
        let Pair { key, header, value } = pair;
        self.outcome.count += 1;
        let is_left_out = self.read.count_only || !self.passes(&pair);
        let is_over = self.is_in_order && self.outcome.pairs.len() >= self.pairs_max;
        if is_left_out || is_over {
            self.outcome.more |= !is_left_out;
            size.add_key();
            let is_done = is_over && self.outcome.more && !self.read.count;
            return if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        let value = if self.read.keys_only && self.read.sort_by != SortBy::Value { &[][..] } else { value };
        size.add(key.len(), value.len());
        let pair = KeyValue::new(Bytes::copy_from_slice(key), header, Bytes::copy_from_slice(value));
        self.outcome.pairs.push(pair);
        ControlFlow::Continue(())
    }

    fn passes(&self, Pair { header, .. }: &Pair<'_>) -> bool {
        let within = |revision: u64, min: Option<u64>, max: Option<u64>| {
            min.is_none_or(|min| revision >= min) && max.is_none_or(|max| revision <= max)
        };
        within(header.mod_revision, self.read.mod_revision_min, self.read.mod_revision_max)
            && within(header.create_revision, self.read.create_revision_min, self.read.create_revision_max)
    }

    fn finish(self) -> RangeOutcome {
        let Collector { read, pairs_max, is_in_order, mut outcome } = self;
        let pairs = &mut outcome.pairs;
        if !is_in_order {
            // Stable, so pairs that are equal stay in key order.
            pairs.sort_by(|left, right| {
                let ordering = compare(read.sort_by, left, right);
                if read.descending { ordering.reverse() } else { ordering }
            });
            outcome.more = pairs.len() > pairs_max;
            pairs.truncate(pairs_max);
        }
        if !read.count && !read.count_only {
            outcome.count = pairs.len() as u64;
        }
        let pairs = &mut outcome.pairs;
        if read.keys_only {
            pairs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        outcome
    }
}

fn compare(by: SortBy, left: &KeyValue, right: &KeyValue) -> Ordering {
    match by {
        SortBy::Key => left.key.cmp(&right.key),
        SortBy::Version => left.version.cmp(&right.version),
        SortBy::CreateRevision => left.create_revision.cmp(&right.create_revision),
        SortBy::ModRevision => left.mod_revision.cmp(&right.mod_revision),
        SortBy::Value => left.value.cmp(&right.value),
    }
}
