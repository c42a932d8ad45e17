//! A transaction that cannot write, evaluated over a reader.
//!
//! All of it is read at one revision, the newest when it begins, but for ranges that name another. As in the state machine (etcd's semantics): a compare over a
//! range holds if it holds for every key in it; an empty range is compared as a key that does not exist; the count of a range is of all its keys,
//! whatever filters and limit leave out.
//!
//! Bounds: what is compared and what is kept for the answer counts towards the limits of the transaction, keys and bytes. Of a range that is sorted otherwise than
//! by key, with a limit, only the best so many are kept at any moment. Counting keeps nothing and is not bounded: it takes a read thread its time.

use super::{Excess, QuestionError};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use storage::command::{
    Compare, CompareTarget, KeyRange, Operation, RangeLimits, RangeRead, Relation, SortBy, Transaction,
};
use storage::state::{
    Engine, KeyValue, OperationOutcome, RangeOutcome, ReadError, RevisionFilter, ScanOptions, StateReader,
    TransactionOutcome,
};

/// How often it is begun again, when what it read was compacted away meanwhile.
const ATTEMPTS: usize = 3;

/// Evaluates a transaction that cannot write, and says at which revision.
///
/// # Errors
/// When a revision that a range names cannot be read, the limits are exceeded, or the engine fails.
///
/// # Panics
/// If it can write.
pub(super) fn evaluate<E: Engine>(
    reader: &StateReader<E>,
    transaction: &Transaction<'_>,
    limits: RangeLimits,
) -> Result<(u64, TransactionOutcome), QuestionError> {
    assert!(!transaction.is_write(), "a transaction that can write goes through the log");
    for attempt in 1.. {
        let revision = reader.revision();
        let mut evaluation = Evaluation { reader, revision, limits, keys: 0, bytes: 0 };
        match evaluation.transaction(transaction) {
            Ok(outcome) => return Ok((revision, outcome)),
            // Not a revision that the client asked for: the newest one a moment ago.
            Err(QuestionError::Read(ReadError::Compacted { requested, .. }))
                if requested == revision && attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("the last attempt returns")
}

struct Evaluation<'a, E: Engine> {
    reader: &'a StateReader<E>,
    revision: u64,
    limits: RangeLimits,
    /// Compared or kept so far.
    keys: u64,
    bytes: u64,
}

impl<E: Engine> Evaluation<'_, E> {
    fn transaction(&mut self, transaction: &Transaction<'_>) -> Result<TransactionOutcome, QuestionError> {
        let mut succeeded = true;
        for compare in &transaction.compares {
            succeeded = succeeded && self.compare(compare)?;
        }
        let operations = if succeeded { &transaction.success } else { &transaction.failure };
        let operations = operations.iter().map(|operation| match operation {
            Operation::Range(read) => self.range(read).map(OperationOutcome::Range),
            Operation::Transaction(inner) => self.transaction(inner).map(OperationOutcome::Transaction),
            Operation::Put(_) | Operation::DeleteRange { .. } => {
                unreachable!("a transaction that can write goes through the log")
            }
        });
        Ok(TransactionOutcome { succeeded, operations: operations.collect::<Result<_, _>>()? })
    }

    fn compare(&mut self, compare: &Compare<'_>) -> Result<bool, QuestionError> {
        let needs_value = matches!(compare.target, CompareTarget::Value(_));
        let mut is_empty = true;
        for kv in self.pairs(compare.range, false, !needs_value, self.revision)? {
            let kv = kv?;
            is_empty = false;
            self.keep(&kv)?;
            if !holds(compare, Some(&kv)) {
                return Ok(false);
            }
        }
        Ok(!is_empty || holds(compare, None))
    }

    fn range(&mut self, read: &RangeRead<'_>) -> Result<RangeOutcome, QuestionError> {
        let revision = read.revision.unwrap_or(self.revision);
        if read.count_only {
            let count = self.reader.count(read.range, Some(revision))?;
            return Ok(RangeOutcome { pairs: Vec::new(), count, more: false });
        }
        let limit = read.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if read.sort_by == SortBy::Key {
            self.range_by_key(read, revision, limit)
        } else {
            self.range_sorted(read, revision, limit)
        }
    }

    /// In key order: read no further than the limit.
    fn range_by_key(
        &mut self,
        read: &RangeRead<'_>,
        revision: u64,
        limit: usize,
    ) -> Result<RangeOutcome, QuestionError> {
        let (mut pairs, mut count, mut more) = (Vec::new(), 0, false);
        for kv in self.pairs(read.range, read.descending, read.keys_only, revision)? {
            let kv = kv?;
            count += 1;
            if !passes(read, &kv) {
                continue;
            }
            if pairs.len() == limit {
                more = true;
                count = self.reader.count(read.range, Some(revision))?;
                break;
            }
            self.keep(&kv)?;
            pairs.push(kv);
        }
        Ok(RangeOutcome { pairs, count, more })
    }

    /// In another order: all of it is read, and the best are kept.
    fn range_sorted(
        &mut self,
        read: &RangeRead<'_>,
        revision: u64,
        limit: usize,
    ) -> Result<RangeOutcome, QuestionError> {
        let keys_only = read.keys_only && read.sort_by != SortBy::Value;
        let (mut best, mut count, mut more) = (BinaryHeap::new(), 0, false);
        for kv in self.pairs(read.range, false, keys_only, revision)? {
            let kv = kv?;
            count += 1;
            if !passes(read, &kv) {
                continue;
            }
            let ranked = Ranked { kv, sort_by: read.sort_by, descending: read.descending };
            if best.len() == limit {
                more = true;
                if best.peek().is_none_or(|worst| ranked >= *worst) {
                    continue;
                }
                let worst = best.pop().expect("the worst was just looked at");
                self.drop_kept(&worst.kv);
            }
            self.keep(&ranked.kv)?;
            best.push(ranked);
        }
        let strip = |ranked: Ranked| {
            if read.keys_only { KeyValue { value: Bytes::new(), ..ranked.kv } } else { ranked.kv }
        };
        let pairs = best.into_sorted_vec().into_iter().map(strip).collect();
        Ok(RangeOutcome { pairs, count, more })
    }

    /// The pairs of a range in key order. A range written as a single key is one look-up.
    fn pairs(
        &self,
        range: KeyRange<'_>,
        reverse: bool,
        keys_only: bool,
        revision: u64,
    ) -> Result<Box<dyn Iterator<Item = Result<KeyValue, ReadError>>>, ReadError>
    where
        E: 'static,
    {
        if let Some(key) = range.single_key() {
            let found = self.reader.get(key, Some(revision))?;
            let strip = move |kv| if keys_only { KeyValue { value: Bytes::new(), ..kv } } else { kv };
            return Ok(Box::new(found.map(strip).map(Ok).into_iter()));
        }
        Ok(Box::new(self.reader.scan(ScanOptions {
            filter: RevisionFilter::default(),
            start: Bytes::copy_from_slice(range.start),
            end: range.end.map(Bytes::copy_from_slice),
            reverse,
            limit: None,
            keys_only,
            revision: Some(revision),
        })?))
    }

    fn keep(&mut self, kv: &KeyValue) -> Result<(), QuestionError> {
        self.keys += 1;
        self.bytes += bytes_of(kv);
        if self.keys > u64::from(self.limits.keys_max) || self.bytes > self.limits.bytes_max {
            let RangeLimits { keys_max, bytes_max } = self.limits;
            return Err(Excess { keys_max, bytes_max }.refused(true).into());
        }
        Ok(())
    }

    fn drop_kept(&mut self, kv: &KeyValue) {
        self.keys -= 1;
        self.bytes -= bytes_of(kv);
    }
}

fn bytes_of(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

/// Whether a compare holds for a key, or for one that does not exist.
fn holds(compare: &Compare<'_>, kv: Option<&KeyValue>) -> bool {
    let number = |of: fn(&KeyValue) -> u64| kv.map_or(0, of);
    let ordering = match compare.target {
        CompareTarget::Version(than) => number(|kv| kv.version).cmp(&than),
        CompareTarget::CreateRevision(than) => number(|kv| kv.create_revision).cmp(&than),
        CompareTarget::ModRevision(than) => number(|kv| kv.mod_revision).cmp(&than),
        CompareTarget::Lease(than) => number(|kv| kv.lease).cmp(&than),
        CompareTarget::Value(than) => {
            // What does not exist has no value to compare.
            let Some(kv) = kv else { return false };
            kv.value[..].cmp(than)
        }
    };
    let relation: Relation = compare.relation;
    relation.holds(ordering)
}

/// Whether the filters of a range let a pair through.
fn passes(read: &RangeRead<'_>, kv: &KeyValue) -> bool {
    read.mod_revision_min.is_none_or(|least| kv.mod_revision >= least)
        && read.mod_revision_max.is_none_or(|most| kv.mod_revision <= most)
        && read.create_revision_min.is_none_or(|least| kv.create_revision >= least)
        && read.create_revision_max.is_none_or(|most| kv.create_revision <= most)
}

/// A pair by its place in the answer: the first ones are the least.
#[derive(Debug, PartialEq, Eq)]
struct Ranked {
    kv: KeyValue,
    sort_by: SortBy,
    descending: bool,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        let (one, two) = (&self.kv, &other.kv);
        let ordering = match self.sort_by {
            SortBy::Key => one.key.cmp(&two.key),
            SortBy::Version => one.version.cmp(&two.version),
            SortBy::CreateRevision => one.create_revision.cmp(&two.create_revision),
            SortBy::ModRevision => one.mod_revision.cmp(&two.mod_revision),
            SortBy::Value => one.value.cmp(&two.value),
        };
        let ordering = if self.descending { ordering.reverse() } else { ordering };
        ordering.then_with(|| one.key.cmp(&two.key))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests;
