//! A transaction that cannot write, evaluated over a reader.
//!
//! All of it is read at one revision, the newest when it begins, but for ranges that name another. As in the state machine (etcd's semantics): a compare over a
//! range holds if it holds for every key in it; an empty range is compared as a key that does not exist; the count of a range is of all its keys,
//! whatever filters and limit leave out.
//!
//! Bounds: what is kept for the answer counts towards the limits of the transaction, keys and bytes. Of a range that is sorted otherwise than
//! by key, with a limit, only the best so many are kept at any moment. Comparing and counting keep nothing and are not bounded: they take a read thread its time.

use super::{Excess, QuestionError};
use bytes::Bytes;
use storage::command::{
    Compare, CompareTarget, KeyRange, Operation, RangeLimits, RangeRead, Relation, SortBy, Transaction,
};
use storage::state::{
    Engine, KeyValue, Offered, OperationOutcome, RangeOutcome, RangeSelection, ReadError, RevisionFilter, ScanOptions,
    StateReader, TransactionOutcome,
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
    /// Kept so far.
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
        let read = RangeRead { revision: Some(revision), ..*read };
        let is_by_key = read.sort_by == SortBy::Key;
        let needs_values = !read.keys_only || read.sort_by == SortBy::Value;
        // What it may keep is bounded here, together with all else that the transaction reads.
        let mut selection = RangeSelection::new(&read, Offered::InOrder, false, u64::MAX);
        let mut is_whole = true;
        for kv in self.pairs(read.range, is_by_key && read.descending, !needs_values, revision)? {
            is_whole = selection.offer(&kv?).map_err(ReadError::from)?.is_continue();
            let (keys, bytes) = selection.kept();
            self.check(self.keys + keys, self.bytes + bytes)?;
            if !is_whole {
                break;
            }
        }
        let (keys, bytes) = selection.kept();
        (self.keys, self.bytes) = (self.keys + keys, self.bytes + bytes);
        let outcome = selection.finish();
        let count = match (read.count, is_whole) {
            (false, _) => outcome.pairs.len() as u64,
            (true, true) => outcome.count,
            // Counting what is left out needs no values.
            (true, false) => self.reader.count(read.range, Some(revision))?,
        };
        Ok(RangeOutcome { count, ..outcome })
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

    fn check(&self, keys: u64, bytes: u64) -> Result<(), QuestionError> {
        let RangeLimits { keys_max, bytes_max } = self.limits;
        if keys > u64::from(keys_max) || bytes > bytes_max {
            return Err(Excess { keys_max, bytes_max }.refused(true).into());
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests;
