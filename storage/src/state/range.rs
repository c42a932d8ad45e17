//! What is read of a range: which pairs, in which order, how many. Pure, over any source of pairs.
//!
//! As etcd has it: filters look at revisions; then comes the order, then the limit, and `more` says that the limit left some out. The count is of
//! the whole range, whatever filters and limit leave of it, and costs going through all of it, so it is made only on demand.
//!
//! A [`RangeSelection`] is offered the pairs one by one, in any order or in the order that is wanted, and keeps what the outcome will have. With
//! a limit it keeps the best so far and no more than those, so that the first ten of a million by value take the memory of ten. What it keeps is
//! bounded in bytes, too: an order other than by key needs everything before the first pair can be given out.
//!
//! | offered | wanted by key, with a limit, and no count | otherwise |
//! |---|---|---|
//! | in the order that is wanted | ends at the first pair beyond the limit | goes through all |
//! | in any order | goes through all | goes through all |
//!
//! Large ranges in key order need none of this: a [`Scan`](super::Scan) streams them.

use super::layout::KeyValue;
use super::outcome::RangeOutcome;
use crate::command::{RangeRead, SortBy};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use thiserror::Error;

/// What a pair takes in memory beside its key and value, about.
const PAIR_OVERHEAD_BYTES: u64 = 128;

/// Which revisions a pair may have, both ends inclusive; `None`: any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RevisionFilter {
    /// Leave out keys written before this revision.
    pub mod_revision_min: Option<u64>,
    /// Leave out keys written after this revision.
    pub mod_revision_max: Option<u64>,
    /// Leave out keys created before this revision.
    pub create_revision_min: Option<u64>,
    /// Leave out keys created after this revision.
    pub create_revision_max: Option<u64>,
}

impl RevisionFilter {
    /// Whether a pair with these revisions stays.
    #[must_use]
    pub fn admits(&self, mod_revision: u64, create_revision: u64) -> bool {
        let within = |revision: u64, least: Option<u64>, most: Option<u64>| {
            least.is_none_or(|least| revision >= least) && most.is_none_or(|most| revision <= most)
        };
        within(mod_revision, self.mod_revision_min, self.mod_revision_max)
            && within(create_revision, self.create_revision_min, self.create_revision_max)
    }
}

impl From<&RangeRead<'_>> for RevisionFilter {
    fn from(read: &RangeRead<'_>) -> RevisionFilter {
        RevisionFilter {
            mod_revision_min: read.mod_revision_min,
            mod_revision_max: read.mod_revision_max,
            create_revision_min: read.create_revision_min,
            create_revision_max: read.create_revision_max,
        }
    }
}

/// In which order pairs are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// By key, from the least to the greatest or, if the read is by key and descending, from the greatest to the least.
    InOrder,
    /// Somehow.
    InAnyOrder,
}

/// What is kept of a range would take more memory than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "what is read would take more than {bytes_max} bytes of memory; set a limit, sort by key, or ask for keys only if it is not sorted by value"
)]
pub struct SelectionTooLarge {
    /// Bytes of keys and values that it may take, what each pair takes beside them included.
    pub bytes_max: u64,
}

/// What a read of a range has come to so far.
#[derive(Debug)]
pub struct RangeSelection {
    filter: RevisionFilter,
    order: Order,
    keys_only: bool,
    count_only: bool,
    /// Pairs kept, at most.
    limit: Option<usize>,
    offered: Offered,
    /// The count is wanted, whatever it costs.
    count_all: bool,
    bytes_max: u64,
    bytes: u64,
    /// The worst is on top.
    kept: BinaryHeap<Ranked>,
    count: u64,
    more: bool,
}

/// What comes first.
#[derive(Debug, Clone, Copy)]
struct Order {
    by: SortBy,
    descending: bool,
}

/// A pair among those that are kept: the later it comes in the outcome, the greater it is.
#[derive(Debug)]
struct Ranked {
    pair: KeyValue,
    order: Order,
}

impl RangeSelection {
    /// A selection for `read`, which keeps no more than `bytes_max` bytes. With `count_all` every pair of the range must be offered and is counted;
    /// without, the outcome's count is of the pairs that were offered until it had enough.
    #[must_use]
    pub fn new(read: &RangeRead<'_>, offered: Offered, count_all: bool, bytes_max: u64) -> RangeSelection {
        RangeSelection {
            filter: RevisionFilter::from(read),
            order: Order { by: read.sort_by, descending: read.descending },
            keys_only: read.keys_only,
            count_only: read.count_only,
            limit: read.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            offered,
            count_all,
            bytes_max,
            bytes: 0,
            kept: BinaryHeap::new(),
            count: 0,
            more: false,
        }
    }

    /// Takes in the next pair of the range. Breaks off when no other can change the outcome.
    ///
    /// # Errors
    /// When what is kept takes too much memory. The selection is of no use then.
    pub fn offer(&mut self, pair: &KeyValue) -> Result<ControlFlow<()>, SelectionTooLarge> {
        self.count += 1;
        if self.count_only || !self.filter.admits(pair.mod_revision, pair.create_revision) {
            return Ok(ControlFlow::Continue(()));
        }
        let is_full = self.limit.is_some_and(|limit| self.kept.len() >= limit);
        if is_full && self.offered == Offered::InOrder && self.order.by == SortBy::Key {
            self.more = true;
            return Ok(if self.count_all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
        }
        if is_full {
            self.more = true;
            let is_better = self.kept.peek().is_some_and(|worst| self.order.compare(pair, &worst.pair).is_lt());
            if !is_better {
                return Ok(ControlFlow::Continue(()));
            }
            let worst = self.kept.pop().expect("a worse one was just looked at");
            self.bytes -= bytes_of(&worst.pair);
        }
        // Sorting by value needs the value, even if only keys are given out.
        let is_valued = !self.keys_only || self.order.by == SortBy::Value;
        let value = if is_valued { pair.value.clone() } else { Bytes::new() };
        let pair = KeyValue { key: pair.key.clone(), value, ..*pair };
        self.bytes += bytes_of(&pair);
        if self.bytes > self.bytes_max {
            return Err(SelectionTooLarge { bytes_max: self.bytes_max });
        }
        self.kept.push(Ranked { pair, order: self.order });
        Ok(ControlFlow::Continue(()))
    }

    /// How many pairs it keeps, and how many bytes their keys and values have.
    #[must_use]
    pub fn kept(&self) -> (u64, u64) {
        let keys = self.kept.len() as u64;
        (keys, self.bytes - keys * PAIR_OVERHEAD_BYTES)
    }

    /// What became of the read.
    #[must_use]
    pub fn finish(self) -> RangeOutcome {
        let keys_only = self.keys_only;
        let in_order = self.kept.into_sorted_vec().into_iter();
        let pairs = in_order.map(|Ranked { pair, .. }| {
            let value = if keys_only { Bytes::new() } else { pair.value };
            KeyValue { value, ..pair }
        });
        RangeOutcome { pairs: pairs.collect(), count: self.count, more: self.more }
    }
}

fn bytes_of(pair: &KeyValue) -> u64 {
    (pair.key.len() + pair.value.len()) as u64 + PAIR_OVERHEAD_BYTES
}

impl Order {
    fn compare(self, a: &KeyValue, b: &KeyValue) -> Ordering {
        let ordering = match self.by {
            SortBy::Key => a.key.cmp(&b.key),
            SortBy::Version => a.version.cmp(&b.version),
            SortBy::CreateRevision => a.create_revision.cmp(&b.create_revision),
            SortBy::ModRevision => a.mod_revision.cmp(&b.mod_revision),
            SortBy::Value => a.value.cmp(&b.value),
        };
        let ordering = if self.descending { ordering.reverse() } else { ordering };
        ordering.then_with(|| a.key.cmp(&b.key))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.order.compare(&self.pair, &other.pair)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use crate::command::KeyRange;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    const PLENTY: u64 = 1 << 40;

    fn pair(key: u8, version: u64, create_revision: u64, mod_revision: u64, value: u8) -> KeyValue {
        let (key, value) = (Bytes::copy_from_slice(&[key]), Bytes::copy_from_slice(&[value]));
        KeyValue { key, value, create_revision, mod_revision, version, lease: 0 }
    }

    fn select(read: &RangeRead<'_>, offered: Offered, count_all: bool, pairs: &[KeyValue]) -> RangeOutcome {
        let mut selection = RangeSelection::new(read, offered, count_all, PLENTY);
        for pair in pairs {
            if selection.offer(pair).unwrap().is_break() {
                break;
            }
        }
        selection.finish()
    }

    /// The same by sorting everything, as etcd does it.
    fn naive(read: &RangeRead<'_>, pairs: &[KeyValue]) -> RangeOutcome {
        let count = pairs.len() as u64;
        if read.count_only {
            return RangeOutcome { count, ..RangeOutcome::default() };
        }
        let filter = RevisionFilter::from(read);
        let mut chosen: Vec<KeyValue> =
            pairs.iter().filter(|pair| filter.admits(pair.mod_revision, pair.create_revision)).cloned().collect();
        chosen.sort_by(|a, b| Order { by: read.sort_by, descending: read.descending }.compare(a, b));
        let limit = read.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
        let more = chosen.len() > limit;
        chosen.truncate(limit);
        if read.keys_only {
            chosen.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        RangeOutcome { pairs: chosen, count, more }
    }

    fn pairs() -> impl Strategy<Value = Vec<KeyValue>> {
        let one = (0u8..40, 1u64..4, 1u64..9, 1u64..9, 0u8..4);
        prop::collection::btree_map(0u8..40, one, 0..20).prop_map(|chosen| {
            let pairs = chosen.into_iter();
            pairs
                .map(|(key, (_, version, create, modified, value))| pair(key, version, create, modified, value))
                .collect()
        })
    }

    fn reads() -> impl Strategy<Value = RangeRead<'static>> {
        let sort_by = prop::sample::select(vec![
            SortBy::Key,
            SortBy::Version,
            SortBy::CreateRevision,
            SortBy::ModRevision,
            SortBy::Value,
        ]);
        let bound = || prop::option::of(0u64..10);
        let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
        (sort_by, flags, prop::option::of(1u64..8), bound(), bound(), bound(), bound()).prop_map(
            |(sort_by, (descending, keys_only, count_only), limit, min, max, create_min, create_max)| RangeRead {
                limit,
                sort_by,
                descending,
                keys_only,
                count_only,
                mod_revision_min: min,
                mod_revision_max: max,
                create_revision_min: create_min,
                create_revision_max: create_max,
                ..RangeRead::all_of(KeyRange::ALL)
            },
        )
    }

    proptest! {
        #![proptest_config(Config { cases: 3000, rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Config::default() })]

        #[test]
        fn keeping_the_best_is_the_same_as_sorting_everything(pairs in pairs(), read in reads(), turned in 0usize..20) {
            let expected = naive(&read, &pairs);
            let mut in_order = pairs.clone();
            if read.sort_by == SortBy::Key && read.descending {
                in_order.reverse();
            }
            prop_assert_eq!(&select(&read, Offered::InOrder, true, &in_order), &expected);
            let mut mixed = pairs.clone();
            mixed.rotate_left(turned % pairs.len().max(1));
            prop_assert_eq!(&select(&read, Offered::InAnyOrder, true, &mixed), &expected);
            let uncounted = select(&read, Offered::InOrder, false, &in_order);
            prop_assert_eq!((&uncounted.pairs, uncounted.more), (&expected.pairs, expected.more));
        }
    }

    #[test]
    fn a_limit_in_key_order_ends_the_reading() {
        let read = RangeRead { limit: Some(2), ..RangeRead::all_of(KeyRange::ALL) };
        let mut selection = RangeSelection::new(&read, Offered::InOrder, false, PLENTY);
        let flows: Vec<bool> = (0..3).map(|key| selection.offer(&pair(key, 1, 1, 1, 0)).unwrap().is_break()).collect();
        assert_eq!(flows, [false, false, true]);
    }

    #[test]
    fn the_best_ten_take_the_memory_of_ten() {
        let read = RangeRead { limit: Some(10), sort_by: SortBy::Value, ..RangeRead::all_of(KeyRange::ALL) };
        let room_for_ten = 10 * (PAIR_OVERHEAD_BYTES + 2);
        let offer_all = |bytes_max| {
            let mut selection = RangeSelection::new(&read, Offered::InAnyOrder, true, bytes_max);
            (0..200).try_for_each(|key| selection.offer(&pair(key, 1, 1, 1, 200 - key)).map(|_| ()))?;
            Ok(selection.finish().pairs.len())
        };
        assert_eq!(offer_all(room_for_ten), Ok(10));
        assert_eq!(offer_all(room_for_ten - 1), Err(SelectionTooLarge { bytes_max: room_for_ten - 1 }));
    }
}
