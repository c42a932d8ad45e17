//! Transactions: compares, and two lists of operations of which one is carried out, all at one revision or not at all.
//!
//! A transaction is the one way to change several keys together, or one key depending on others. All its compares are looked at first; if
//! every one of them holds, the operations of `then` are carried out in order, otherwise those of `otherwise`. An operation sees what those
//! before it have done. One key must not be written twice on one way through.
//!
//! A transaction that cannot write, whichever way it goes, is a read: it goes where reads of its level go, and never enters the log.
//!
//! A key that does not exist has version, revisions and lease 0, and no value: no compare of its value holds, not even that it differs.

use crate::client::{Client, nonsense, read_purpose};
use crate::error::Error;
use crate::request::{Delete, Level, Put, Range, Scan};
use crate::value::{KeyValue, header};
use bytes::Bytes;
use transport::proto::client as wire;
use transport::{Request, Response};
use wire::compare::Target;

/// What to compare and what to do.
///
/// ```no_run
/// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
/// use raftkv_client::{Compare, Operation, Put, Transaction};
/// let move_it = Transaction::new()
///     .when(Compare::value("queue/7").equals("waiting"))
///     .when(Compare::exists("workers/ann"))
///     .then(Operation::put(("queue/7", "running")))
///     .then(Operation::put(Put::new("runs/7", "ann").ttl(std::time::Duration::from_secs(60))))
///     .otherwise(Operation::get("queue/7"));
/// let outcome = client.transaction(move_it).await?;
/// if outcome.succeeded {
///     println!("done at revision {}", outcome.revision);
/// } else if let Some(kv) = outcome.operations[0].pairs().first() {
///     println!("somebody was faster: {:?}", kv.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transaction {
    body: wire::Transaction,
    level: Level,
}

impl Transaction {
    /// Nothing to compare and nothing to do.
    #[must_use]
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// One more thing that has to hold. With none, everything holds.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Transaction {
        self.body.compares.push(compare.0);
        self
    }

    /// One more thing to do if everything holds.
    #[must_use]
    pub fn then(mut self, operation: Operation) -> Transaction {
        self.body.success.push(operation.0);
        self
    }

    /// One more thing to do if something does not hold.
    #[must_use]
    pub fn otherwise(mut self, operation: Operation) -> Transaction {
        self.body.failure.push(operation.0);
        self
    }

    /// How current the answer has to be, of a transaction that cannot write. Without meaning for any other, and for one inside another.
    #[must_use]
    pub fn level(mut self, level: Level) -> Transaction {
        self.level = level;
        self
    }

    /// What is carried out if every compare holds, or else if one does not. An outcome has a result for each of them, in the same order.
    pub fn operations(&self, succeeded: bool) -> impl Iterator<Item = Operation> {
        let operations = if succeeded { &self.body.success } else { &self.body.failure };
        operations.iter().cloned().map(Operation)
    }

    fn into_wire(self) -> wire::TransactionRequest {
        let (level, age_ms_max) = self.level.wire();
        let transaction = Some(self.body);
        wire::TransactionRequest { transaction, level, age_ms_max, revision_min: None, session: None }
    }
}

/// One thing that has to hold, of one key or of every key in a range. A range without keys is compared as a key that does not exist.
///
/// ```
/// use raftkv_client::{Compare, Range};
/// let unchanged = Compare::mod_revision("config").equals(12);
/// let all_old = Compare::create_revision_in(Range::prefix("jobs/")).less_than(100);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Compare(wire::Compare);

/// A compare of a number that waits for its other side.
#[derive(Debug, Clone)]
#[must_use = "a compare needs its other side"]
pub struct NumberCompare {
    range: Range,
    target: fn(u64) -> Target,
}

/// A compare of a value that waits for its other side.
#[derive(Debug, Clone)]
#[must_use = "a compare needs its other side"]
pub struct ValueCompare {
    range: Range,
}

impl Compare {
    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Compare {
        Compare::create_revision(key).greater_than(0)
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Compare::create_revision(key).equals(0)
    }

    /// The value of a key, in the order of bytes.
    pub fn value(key: impl Into<Bytes>) -> ValueCompare {
        Compare::value_in(Range::key(key))
    }

    /// The value of every key in a range.
    pub fn value_in(range: Range) -> ValueCompare {
        ValueCompare { range }
    }

    /// The number of changes since a key was created, that one included.
    pub fn version(key: impl Into<Bytes>) -> NumberCompare {
        Compare::version_in(Range::key(key))
    }

    /// The version of every key in a range.
    pub fn version_in(range: Range) -> NumberCompare {
        NumberCompare { range, target: Target::Version }
    }

    /// The revision at which a key was created.
    pub fn create_revision(key: impl Into<Bytes>) -> NumberCompare {
        Compare::create_revision_in(Range::key(key))
    }

    /// The revision at which every key in a range was created.
    pub fn create_revision_in(range: Range) -> NumberCompare {
        NumberCompare { range, target: Target::CreateRevision }
    }

    /// The revision at which a key was last changed.
    pub fn mod_revision(key: impl Into<Bytes>) -> NumberCompare {
        Compare::mod_revision_in(Range::key(key))
    }

    /// The revision at which every key in a range was last changed.
    pub fn mod_revision_in(range: Range) -> NumberCompare {
        NumberCompare { range, target: Target::ModRevision }
    }

    /// The lease that a key lives by; 0 for none.
    pub fn lease(key: impl Into<Bytes>) -> NumberCompare {
        Compare::lease_in(Range::key(key))
    }

    /// The lease that every key in a range lives by.
    pub fn lease_in(range: Range) -> NumberCompare {
        NumberCompare { range, target: Target::Lease }
    }

    fn of(range: Range, relation: wire::Relation, target: Target) -> Compare {
        let (range, relation) = (Some(range.into_wire()), relation.into());
        Compare(wire::Compare { range, relation, target: Some(target) })
    }
}

impl NumberCompare {
    /// It is this.
    #[must_use]
    pub fn equals(self, number: u64) -> Compare {
        Compare::of(self.range, wire::Relation::Equal, (self.target)(number))
    }

    /// It is another.
    #[must_use]
    pub fn differs_from(self, number: u64) -> Compare {
        Compare::of(self.range, wire::Relation::NotEqual, (self.target)(number))
    }

    /// It is less.
    #[must_use]
    pub fn less_than(self, number: u64) -> Compare {
        Compare::of(self.range, wire::Relation::Less, (self.target)(number))
    }

    /// It is greater.
    #[must_use]
    pub fn greater_than(self, number: u64) -> Compare {
        Compare::of(self.range, wire::Relation::Greater, (self.target)(number))
    }
}

impl ValueCompare {
    /// It is this.
    #[must_use]
    pub fn equals(self, value: impl Into<Bytes>) -> Compare {
        Compare::of(self.range, wire::Relation::Equal, Target::Value(value.into()))
    }

    /// It is another.
    #[must_use]
    pub fn differs_from(self, value: impl Into<Bytes>) -> Compare {
        Compare::of(self.range, wire::Relation::NotEqual, Target::Value(value.into()))
    }

    /// It comes before this.
    #[must_use]
    pub fn less_than(self, value: impl Into<Bytes>) -> Compare {
        Compare::of(self.range, wire::Relation::Less, Target::Value(value.into()))
    }

    /// It comes after this.
    #[must_use]
    pub fn greater_than(self, value: impl Into<Bytes>) -> Compare {
        Compare::of(self.range, wire::Relation::Greater, Target::Value(value.into()))
    }
}

/// One thing to do in a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation(wire::Operation);

impl Operation {
    /// Write one key. A put with a condition is refused: that is what compares are for.
    pub fn put(put: impl Into<Put>) -> Operation {
        Operation::of(wire::operation::Kind::Put(put.into().into_wire()))
    }

    /// Delete one key or a range.
    #[must_use]
    pub fn delete(delete: Delete) -> Operation {
        Operation::of(wire::operation::Kind::Delete(delete.into_wire()))
    }

    /// Read one key.
    pub fn get(key: impl Into<Bytes>) -> Operation {
        Operation::range(Scan::new(Range::key(key)))
    }

    /// Read a range. All of it is in the answer, so a transaction that reads too much is refused with
    /// [`Error::RangeTooLarge`]. The level is the transaction's.
    #[must_use]
    pub fn range(scan: Scan) -> Operation {
        Operation::scan(wire::ScanRequest { level: 0, age_ms_max: None, revision_min: None, ..scan.to_wire() })
    }

    pub(crate) fn scan(scan: wire::ScanRequest) -> Operation {
        Operation::of(wire::operation::Kind::Range(scan))
    }

    /// A transaction again. Its compares look at the state before all of it, as those of the outermost one do; its operations see what those before them have
    /// done. They lie four deep in one another at most.
    #[must_use]
    pub fn transaction(transaction: Transaction) -> Operation {
        Operation::of(wire::operation::Kind::Transaction(transaction.body))
    }

    /// The keys that it writes, deletes or reads; `None` of a transaction.
    #[must_use]
    pub fn keys(&self) -> Option<Range> {
        use wire::operation::Kind;
        let range = match self.0.kind.as_ref()? {
            Kind::Put(put) => return Some(Range::key(put.key.clone())),
            Kind::Delete(delete) => delete.range.as_ref(),
            Kind::Range(scan) => scan.range.as_ref(),
            Kind::Transaction(_) => None,
        };
        range.map(|range| Range { start: range.start.clone(), end: range.end.clone() })
    }

    /// The transaction that it is, if it is one.
    #[must_use]
    pub fn nested(&self) -> Option<Transaction> {
        match self.0.kind.as_ref()? {
            wire::operation::Kind::Transaction(body) => {
                Some(Transaction { body: body.clone(), level: Level::default() })
            }
            wire::operation::Kind::Put(_) | wire::operation::Kind::Delete(_) | wire::operation::Kind::Range(_) => None,
        }
    }

    fn of(kind: wire::operation::Kind) -> Operation {
        Operation(wire::Operation { kind: Some(kind) })
    }
}

/// A transaction that was carried out, one way or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOutcome {
    /// The store's revision after it: that of its changes, if it changed anything.
    pub revision: u64,
    /// The log index that it took; `None` for one that cannot write.
    pub index: Option<u64>,
    /// Every compare held.
    pub succeeded: bool,
    /// One for each operation of the list that was carried out, in order.
    pub operations: Vec<OperationOutcome>,
}

/// What one operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationOutcome {
    /// A key was written.
    Put {
        /// What it held before, when asked for.
        previous: Option<KeyValue>,
    },
    /// Keys were deleted, or there were none.
    Delete {
        /// How many.
        deleted: u64,
        /// What they held, when asked for.
        previous: Vec<KeyValue>,
    },
    /// A key or a range was read.
    Range {
        /// The pairs, in the order asked for.
        pairs: Vec<KeyValue>,
        /// Pairs given; all in the range, whatever was left out, if [`Scan::count_total`](crate::Scan::count_total) or
        /// [`Scan::count_only`](crate::Scan::count_only) asked for that.
        count: u64,
        /// The limit left some out.
        more: bool,
    },
    /// A transaction was carried out.
    Transaction {
        /// Every compare of it held.
        succeeded: bool,
        /// One for each operation of the list that was carried out, in order.
        operations: Vec<OperationOutcome>,
    },
}

impl OperationOutcome {
    /// The pairs that it brought: those read, or those that were there before.
    #[must_use]
    pub fn pairs(&self) -> &[KeyValue] {
        match self {
            OperationOutcome::Put { previous } => previous.as_slice(),
            OperationOutcome::Delete { previous: pairs, .. } | OperationOutcome::Range { pairs, .. } => pairs,
            OperationOutcome::Transaction { .. } => &[],
        }
    }
}

impl Client {
    /// Carries out a transaction. When it returns, what it wrote is durable on a majority of the nodes.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Error::RangeTooLarge`] when it reads and deletes more than one transaction may; [`Error::Invalid`] when it
    /// writes one key twice, is too deep, or has too many operations. That the compares do not hold is no error.
    pub async fn transaction(&self, transaction: Transaction) -> Result<TransactionOutcome, Error> {
        let read = read_purpose(transaction.level);
        let request = Request::Transaction(transaction.into_wire());
        let is_write = request.is_write();
        let (address, response) = if is_write { self.write(request).await? } else { self.call(read, request).await? };
        let purpose = if is_write { crate::policy::Purpose::Write } else { read };
        let nonsense = || nonsense(purpose, &address);
        let Response::Transaction(wire::TransactionReply { header: head, outcome: Some(outcome) }) = response else {
            return Err(nonsense());
        };
        let (revision, index) = header(head);
        let operations = operations(outcome.operations).ok_or_else(nonsense)?;
        Ok(TransactionOutcome { revision, index: is_write.then_some(index), succeeded: outcome.succeeded, operations })
    }
}

/// `None` if one is of a kind that this version does not know.
fn operations(outcomes: Vec<wire::OperationOutcome>) -> Option<Vec<OperationOutcome>> {
    let pairs = |kvs: Vec<wire::KeyValue>| kvs.into_iter().map(KeyValue::from).collect();
    let outcome = |outcome: wire::OperationOutcome| {
        use wire::operation_outcome::Kind;
        Some(match outcome.kind? {
            Kind::Put(put) => OperationOutcome::Put { previous: put.previous.map(Into::into) },
            Kind::Delete(delete) => {
                OperationOutcome::Delete { deleted: delete.deleted, previous: pairs(delete.previous) }
            }
            Kind::Range(range) => {
                OperationOutcome::Range { pairs: pairs(range.kvs), count: range.count, more: range.more }
            }
            Kind::Transaction(inner) => {
                OperationOutcome::Transaction { succeeded: inner.succeeded, operations: operations(inner.operations)? }
            }
        })
    };
    outcomes.into_iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn compares_name_their_keys_target_and_relation() {
        let Compare(compare) = Compare::value("k").less_than("v");
        let range = compare.range.unwrap();
        assert_eq!((range.start.as_ref(), range.end.as_deref()), (b"k".as_slice(), Some(b"k\0".as_slice())));
        assert_eq!(compare.relation, i32::from(wire::Relation::Less));
        assert_eq!(compare.target, Some(Target::Value("v".into())));
        let Compare(absent) = Compare::absent("k");
        assert_eq!((absent.relation, absent.target), (wire::Relation::Equal.into(), Some(Target::CreateRevision(0))));
        let Compare(leases) = Compare::lease_in(Range::prefix("a/")).differs_from(3);
        assert_eq!(
            (leases.range.unwrap().end.unwrap().as_ref(), leases.target),
            (b"a0".as_slice(), Some(Target::Lease(3)))
        );
    }

    #[test]
    fn the_level_is_the_transactions_and_not_its_operations() {
        let inner = Scan::new(Range::all()).level(Level::Stale { age_max: None });
        let transaction = Transaction::new().then(Operation::range(inner)).level(Level::Lease).into_wire();
        assert_eq!(transaction.level, i32::from(wire::ReadLevel::Lease));
        let Some(wire::operation::Kind::Range(scan)) = &transaction.transaction.unwrap().success[0].kind else {
            panic!("a range became something else")
        };
        assert_eq!(scan.level, 0);
    }

    #[test]
    fn operations_are_those_of_the_way_taken_and_name_their_keys() {
        let inner = Transaction::new().then(Operation::get("i"));
        let transaction = Transaction::new()
            .then(Operation::put(("k", "v")))
            .then(Operation::delete(Delete::range(Range::prefix("old/"))))
            .then(Operation::transaction(inner.clone()))
            .otherwise(Operation::range(Scan::new(Range::from("a"))));
        let keys = |succeeded| transaction.operations(succeeded).map(|operation| operation.keys()).collect::<Vec<_>>();
        assert_eq!(keys(true), [Some(Range::key("k")), Some(Range::prefix("old/")), None]);
        assert_eq!(keys(false), [Some(Range::from("a"))]);
        let nested = transaction.operations(true).map(|operation| operation.nested()).collect::<Vec<_>>();
        assert_eq!(nested, [None, None, Some(inner)]);
    }

    #[test]
    fn an_outcome_of_an_unknown_kind_is_not_guessed() {
        let inner =
            wire::TransactionOutcome { succeeded: true, operations: vec![wire::OperationOutcome { kind: None }] };
        let outer = wire::OperationOutcome { kind: Some(wire::operation_outcome::Kind::Transaction(inner)) };
        assert_eq!(operations(vec![outer]), None);
    }
}
