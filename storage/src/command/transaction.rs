//! Transactions: compares, and operations of which one list or the other is carried out.
//!
//! As etcd has it: all compares must hold for the first list, otherwise it is the second. An operation sees what those before it did; a compare
//! looks at the state before the whole transaction, in a transaction within it too. Whatever is changed is changed at one revision, and numbered
//! within it in the order in which it was done.
//!
//! One key must not be written twice on a way through the transaction, because then two values would have one revision. [`Transaction::check`]
//! refuses it before the log, and the state machine once more.

use super::{InvalidCommand, KeyRange, Put};
use std::collections::BTreeSet;
use thiserror::Error;

/// How deep transactions may lie in one another; one that holds none has depth 1.
pub const NESTING_MAX: usize = 4;

/// Compares, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction<'a> {
    /// What must hold, all of it, for `success`.
    pub compares: Vec<Compare<'a>>,
    /// What to do then, in order.
    pub success: Vec<Operation<'a>>,
    /// What to do otherwise, in order.
    pub failure: Vec<Operation<'a>>,
}

/// One thing that must hold, of one key or of all keys in a range.
///
/// A key that does not exist has revisions, version and lease zero, and no value: no comparison of a value holds for it. A range without keys is compared
/// as such a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// What to look at, and what to compare it with.
    pub target: CompareTarget<'a>,
    /// How the key's side must relate to it.
    pub relation: Relation,
}

/// What a compare looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareTarget<'a> {
    /// The number of writes since the key was created.
    Version(u64),
    /// The revision at which it was created.
    CreateRevision(u64),
    /// The revision at which it was last written.
    ModRevision(u64),
    /// The value, compared as bytes.
    Value(&'a [u8]),
    /// The lease it lives by; zero: none.
    Lease(u64),
}

/// How two things must relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Relation {
    /// They are the same.
    Equal = 1,
    /// They differ.
    NotEqual = 2,
    /// The key's side is less.
    Less = 3,
    /// The key's side is greater.
    Greater = 4,
}

impl Relation {
    /// Whether an ordering fulfils it.
    #[must_use]
    pub fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Less => ordering.is_lt(),
            Relation::Greater => ordering.is_gt(),
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Write one key. It has no condition: that is what compares are for.
    Put(Put<'a>),
    /// Delete a range.
    DeleteRange {
        /// Which keys.
        range: KeyRange<'a>,
        /// Return what was deleted.
        previous: bool,
    },
    /// Read a range.
    Range(RangeRead<'a>),
    /// A transaction again.
    Transaction(Transaction<'a>),
}

/// What to read of a range, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeRead<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// As of this revision; `None`: as it is, with what the transaction has done so far.
    pub revision: Option<u64>,
    /// At most this many pairs, after sorting.
    pub limit: Option<u64>,
    /// Sorted by.
    pub sort_by: SortBy,
    /// From the greatest to the least.
    pub descending: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Say how many pairs there are, and give none of them.
    pub count_only: bool,
    /// Say how many pairs the range holds, those that filters and the limit leave out included. Without it the limit bounds what is gone through, in key order.
    pub count: bool,
    /// Leave out keys written before this revision.
    pub mod_revision_min: Option<u64>,
    /// Leave out keys written after this revision.
    pub mod_revision_max: Option<u64>,
    /// Leave out keys created before this revision.
    pub create_revision_min: Option<u64>,
    /// Leave out keys created after this revision.
    pub create_revision_max: Option<u64>,
}

impl<'a> RangeRead<'a> {
    /// All of a range, as it is, in key order, counted.
    #[must_use]
    pub fn all_of(range: KeyRange<'a>) -> RangeRead<'a> {
        RangeRead {
            range,
            revision: None,
            limit: None,
            sort_by: SortBy::Key,
            descending: false,
            keys_only: false,
            count_only: false,
            count: true,
            mod_revision_min: None,
            mod_revision_max: None,
            create_revision_min: None,
            create_revision_max: None,
        }
    }
}

/// What pairs are sorted by. Pairs that are equal in it come in key order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum SortBy {
    /// The key.
    #[default]
    Key = 0,
    /// The version.
    Version = 1,
    /// The revision at which it was created.
    CreateRevision = 2,
    /// The revision at which it was last written.
    ModRevision = 3,
    /// The value, as bytes.
    Value = 4,
}

/// Why a transaction is against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// Two values would have one revision.
    #[error("the transaction writes one key twice, or writes it and deletes a range that holds it")]
    WritesTwice,
    /// Too deep.
    #[error("transactions lie more than {NESTING_MAX} deep in one another")]
    TooDeep,
    /// A put in it has a condition.
    #[error("a put in a transaction has a condition; use a compare")]
    Condition,
}

impl<'a> Transaction<'a> {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// See [`TransactionError`]; and [`InvalidCommand::EmptyKey`] for a put or compare without a key.
    pub fn check(&self) -> Result<(), InvalidCommand> {
        self.written(1).map(|_| ())
    }

    /// How many operations and compares it has, those of transactions in it included.
    #[must_use]
    pub fn operations(&self) -> usize {
        let inner = |operation: &Operation<'_>| match operation {
            Operation::Transaction(transaction) => transaction.operations(),
            Operation::Put(_) | Operation::DeleteRange { .. } | Operation::Range(_) => 0,
        };
        let both = self.success.iter().chain(&self.failure);
        self.compares.len() + both.map(|operation| 1 + inner(operation)).sum::<usize>()
    }

    /// Whether it can change anything, whichever way it goes.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|operation| match operation {
            Operation::Put(_) | Operation::DeleteRange { .. } => true,
            Operation::Range(_) => false,
            Operation::Transaction(transaction) => transaction.is_write(),
        })
    }

    /// Whether it can add data, whichever way it goes.
    #[must_use]
    pub fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|operation| match operation {
            Operation::Put(_) => true,
            Operation::DeleteRange { .. } | Operation::Range(_) => false,
            Operation::Transaction(transaction) => transaction.puts(),
        })
    }

    /// Whether its outcome may hold pairs: it reads, or says what it deletes.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|operation| match operation {
            Operation::Put(put) => put.previous,
            Operation::DeleteRange { previous, .. } => *previous,
            Operation::Range(_) => true,
            Operation::Transaction(transaction) => transaction.reads(),
        })
    }

    /// How many values it may have in memory, of those that its single keys hold: see [`Command::values_held`](super::Command::values_held).
    pub(super) fn values_held(&self) -> u32 {
        let operation = |operation: &Operation<'_>| match operation {
            Operation::Put(put) => put.values_held(),
            Operation::DeleteRange { previous, .. } => u32::from(*previous),
            Operation::Range(read) => u32::from(!read.keys_only && !read.count_only),
            Operation::Transaction(transaction) => transaction.values_held(),
        };
        let way = |operations: &[Operation<'_>]| operations.iter().map(operation).fold(0, u32::saturating_add);
        way(&self.success).max(way(&self.failure))
    }

    /// Whether it reads, compares or deletes a range that may hold more than one key.
    #[must_use]
    pub fn touches_ranges(&self) -> bool {
        let is_wide = |range: &KeyRange<'_>| range.single_key().is_none();
        self.compares.iter().any(|compare| is_wide(&compare.range))
            || self.success.iter().chain(&self.failure).any(|operation| match operation {
                Operation::Put(_) => false,
                Operation::DeleteRange { range, .. } => is_wide(range),
                Operation::Range(read) => is_wide(&read.range),
                Operation::Transaction(transaction) => transaction.touches_ranges(),
            })
    }

    /// Whether it reads at a revision that it names, whichever way it goes.
    #[must_use]
    pub fn reads_history(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|operation| match operation {
            Operation::Put(_) | Operation::DeleteRange { .. } => false,
            Operation::Range(read) => read.revision.is_some(),
            Operation::Transaction(transaction) => transaction.reads_history(),
        })
    }

    /// Calls `visit` with every key that it names as a single one.
    pub fn single_keys(&self, visit: &mut impl FnMut(&'a [u8])) {
        for compare in &self.compares {
            compare.range.single_key().into_iter().for_each(&mut *visit);
        }
        for operation in self.success.iter().chain(&self.failure) {
            match operation {
                Operation::Put(put) => visit(put.key),
                Operation::DeleteRange { range, .. } | Operation::Range(RangeRead { range, .. }) => {
                    range.single_key().into_iter().for_each(&mut *visit);
                }
                Operation::Transaction(transaction) => transaction.single_keys(visit),
            }
        }
    }

    /// What it may write, whichever way it goes.
    fn written(&self, depth: usize) -> Result<Written<'a>, InvalidCommand> {
        if depth > NESTING_MAX {
            return Err(TransactionError::TooDeep.into());
        }
        // The two ways exclude each other, so only each by itself must not write twice.
        let mut written = written_by(&self.success, depth)?;
        written.add_alternative(written_by(&self.failure, depth)?);
        Ok(written)
    }
}

/// Keys that are put, and ranges that are deleted.
#[derive(Default)]
struct Written<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<KeyRange<'a>>,
}

impl<'a> Written<'a> {
    fn add_alternative(&mut self, other: Written<'a>) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }

    /// What is written after it, on the same way.
    fn add(&mut self, next: Written<'a>) -> Result<(), TransactionError> {
        let twice = next.puts.iter().any(|key| self.puts.contains(key))
            || next.deletes.iter().any(|range| self.puts_in(range))
            || self.deletes.iter().any(|range| next.puts_in(range));
        if twice {
            return Err(TransactionError::WritesTwice);
        }
        self.add_alternative(next);
        Ok(())
    }

    fn puts_in(&self, range: &KeyRange<'_>) -> bool {
        self.puts.range(range.start..).next().is_some_and(|key| range.contains(key))
    }
}

fn written_by<'a>(operations: &[Operation<'a>], depth: usize) -> Result<Written<'a>, InvalidCommand> {
    let mut written = Written::default();
    for operation in operations {
        let next = match operation {
            Operation::Put(put) if put.key.is_empty() => return Err(InvalidCommand::EmptyKey),
            Operation::Put(put) if put.condition.is_some() => return Err(TransactionError::Condition.into()),
            Operation::Put(put) => Written { puts: BTreeSet::from([put.key]), deletes: Vec::new() },
            Operation::DeleteRange { range, .. } => Written { puts: BTreeSet::new(), deletes: vec![*range] },
            Operation::Range(_) => Written::default(),
            Operation::Transaction(transaction) => transaction.written(depth + 1)?,
        };
        written.add(next)?;
    }
    Ok(written)
}
