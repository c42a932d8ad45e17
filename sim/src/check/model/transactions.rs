//! Transactions, as plainly as they can be written: done, and taken back if a part is refused.

use super::{Model, Refusal};
use bytes::Bytes;
use std::cmp::Ordering;
use storage::command::{Compare, CompareTarget, KeyRange, Operation, RangeLimits, RangeRead, SortBy, Transaction};
use storage::state::{CommandOutcome, KeyValue, OperationOutcome, RangeOutcome, TransactionOutcome};

/// What is left of the limits.
struct Budget {
    limits: RangeLimits,
    keys: u64,
    bytes: u64,
}

impl Budget {
    /// The workload never comes near the limits, so it is all the same that more is counted than is kept.
    fn take(&mut self, range: KeyRange<'_>, pairs: &[KeyValue]) -> Result<(), Refusal> {
        if range.single_key().is_some() {
            return Ok(());
        }
        self.keys += pairs.len() as u64;
        self.bytes += pairs.iter().map(|kv| (kv.key.len() + kv.value.len()) as u64).sum::<u64>();
        let RangeLimits { keys_max, bytes_max } = self.limits;
        if self.keys > u64::from(keys_max) || self.bytes > bytes_max {
            return Err(CommandOutcome::LimitExceeded { keys_max, bytes_max });
        }
        Ok(())
    }
}

/// Which list a transaction carries out, and the transactions in that list.
struct Way {
    succeeded: bool,
    inner: Vec<Way>,
}

fn chosen<'t, 'a>(transaction: &'t Transaction<'a>, succeeded: bool) -> &'t [Operation<'a>] {
    if succeeded { &transaction.success } else { &transaction.failure }
}

impl Model {
    pub(super) fn transaction(
        &mut self,
        transaction: &Transaction<'_>,
        limits: RangeLimits,
    ) -> Result<CommandOutcome, Refusal> {
        let revision = self.revision + 1;
        let leases = self.leases.clone();
        let mut budget = Budget { limits, keys: 0, bytes: 0 };
        let done = self.choose(transaction, &mut budget);
        match done.and_then(|way| self.carry_out(transaction, &way, revision, &mut budget)) {
            Ok(outcome) => {
                if self.changes.last().is_some_and(|change| change.revision == revision) {
                    self.revision = revision;
                }
                Ok(CommandOutcome::Transaction { revision: self.revision, outcome })
            }
            Err(refusal) => {
                self.take_back(revision);
                self.leases = leases;
                Err(refusal)
            }
        }
    }

    /// What a transaction that only reads comes to at a revision.
    pub(crate) fn outcome_at(&self, transaction: &Transaction<'_>, revision: u64) -> CommandOutcome {
        let limits = RangeLimits { keys_max: u32::MAX, bytes_max: u64::MAX };
        let done = self.as_of(revision).transaction(transaction, limits);
        done.unwrap_or_else(|refusal| panic!("{transaction:?} only reads, and is refused: {refusal:?}"))
    }

    /// What there was at a revision: keys and their values.
    fn as_of(&self, revision: u64) -> Model {
        let until = |values: &Vec<(u64, Option<KeyValue>)>| {
            let count = values.partition_point(|(since, _)| *since <= revision);
            values[..count].last().cloned().into_iter().collect()
        };
        let keys = self.keys.iter().map(|(key, values)| (key.clone(), until(values))).collect();
        Model { revision, keys, ..Model::default() }
    }

    /// Which way the transaction goes. As in etcd, compares of transactions within it look at the state before all of it.
    fn choose(&self, transaction: &Transaction<'_>, budget: &mut Budget) -> Result<Way, Refusal> {
        let mut succeeded = true;
        for compare in &transaction.compares {
            // All are looked at, so that what is read does not depend on their order.
            succeeded &= self.holds(compare, budget)?;
        }
        let mut inner = Vec::new();
        for operation in chosen(transaction, succeeded) {
            if let Operation::Transaction(transaction) = operation {
                inner.push(self.choose(transaction, budget)?);
            }
        }
        Ok(Way { succeeded, inner })
    }

    fn carry_out(
        &mut self,
        transaction: &Transaction<'_>,
        way: &Way,
        revision: u64,
        budget: &mut Budget,
    ) -> Result<TransactionOutcome, Refusal> {
        let mut ways = way.inner.iter();
        let mut operations = Vec::new();
        for operation in chosen(transaction, way.succeeded) {
            operations.push(match operation {
                Operation::Put(put) => {
                    let previous = self.write(put, revision)?;
                    OperationOutcome::Put { previous: previous.filter(|_| put.previous) }
                }
                Operation::DeleteRange { range, previous } => {
                    let found = self.pairs(*range);
                    budget.take(*range, &found)?;
                    self.delete(&found, revision);
                    let count = found.len() as u64;
                    OperationOutcome::Deleted { count, previous: if *previous { found } else { Vec::new() } }
                }
                Operation::Range(read) => OperationOutcome::Range(self.read(read, budget)?),
                Operation::Transaction(inner) => {
                    let way = ways.next().expect("each inner transaction has its way");
                    OperationOutcome::Transaction(self.carry_out(inner, way, revision, budget)?)
                }
            });
        }
        Ok(TransactionOutcome { succeeded: way.succeeded, operations })
    }

    fn holds(&self, compare: &Compare<'_>, budget: &mut Budget) -> Result<bool, Refusal> {
        let found = self.pairs(compare.range);
        budget.take(compare.range, &found)?;
        let holds = |kv: Option<&KeyValue>| {
            let number = |of: fn(&KeyValue) -> u64, with: u64| Some(kv.map_or(0, of).cmp(&with));
            let ordering = match compare.target {
                CompareTarget::Version(with) => number(|kv| kv.version, with),
                CompareTarget::CreateRevision(with) => number(|kv| kv.create_revision, with),
                CompareTarget::ModRevision(with) => number(|kv| kv.mod_revision, with),
                CompareTarget::Lease(with) => number(|kv| kv.lease, with),
                CompareTarget::Value(with) => kv.map(|kv| kv.value[..].cmp(with)),
            };
            ordering.is_some_and(|ordering| compare.relation.holds(ordering))
        };
        Ok(if found.is_empty() { holds(None) } else { found.iter().all(|kv| holds(Some(kv))) })
    }

    fn read(&self, read: &RangeRead<'_>, budget: &mut Budget) -> Result<RangeOutcome, Refusal> {
        let found = match read.revision {
            None => self.pairs(read.range),
            Some(requested) if requested > self.revision => {
                return Err(CommandOutcome::RevisionFuture { requested, current: self.revision });
            }
            Some(requested) if requested < self.compacted => {
                return Err(CommandOutcome::RevisionCompacted { requested, compacted: self.compacted });
            }
            Some(requested) => self.range(read.range, requested).into_iter().cloned().collect(),
        };
        budget.take(read.range, &found)?;
        Ok(select(read, found))
    }
}

/// What a read asks for, of all that its range holds.
pub(crate) fn select(read: &RangeRead<'_>, found: Vec<KeyValue>) -> RangeOutcome {
    let count = found.len() as u64;
    if read.count_only {
        return RangeOutcome { pairs: Vec::new(), count, more: false };
    }
    let within = |number: u64, min: Option<u64>, max: Option<u64>| {
        min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max)
    };
    let mut pairs: Vec<KeyValue> = found
        .into_iter()
        .filter(|kv| within(kv.mod_revision, read.mod_revision_min, read.mod_revision_max))
        .filter(|kv| within(kv.create_revision, read.create_revision_min, read.create_revision_max))
        .collect();
    pairs.sort_by(|a, b| {
        let ordering = match read.sort_by {
            SortBy::Key => a.key.cmp(&b.key),
            SortBy::Version => a.version.cmp(&b.version),
            SortBy::CreateRevision => a.create_revision.cmp(&b.create_revision),
            SortBy::ModRevision => a.mod_revision.cmp(&b.mod_revision),
            SortBy::Value => a.value.cmp(&b.value),
        };
        let ordering = if read.descending { ordering.reverse() } else { ordering };
        if ordering == Ordering::Equal { a.key.cmp(&b.key) } else { ordering }
    });
    let limit = read.limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let more = pairs.len() as u64 > limit;
    pairs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if read.keys_only {
        pairs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let count = if read.count { count } else { pairs.len() as u64 };
    RangeOutcome { pairs, count, more }
}

/// Keys and values that it may put, in order.
pub(super) fn puts(transaction: &Transaction<'_>) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    for operation in transaction.success.iter().chain(&transaction.failure) {
        match operation {
            Operation::Put(put) => {
                let value = Bytes::copy_from_slice(put.value.unwrap_or_default());
                found.push((Bytes::copy_from_slice(put.key), value));
            }
            Operation::Transaction(inner) => found.extend(puts(inner)),
            Operation::DeleteRange { .. } | Operation::Range(_) => {}
        }
    }
    found
}
