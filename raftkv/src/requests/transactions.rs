//! Transactions, from the wire to the log or to a read.
//!
//! What is checked here, before the log, is everything that the rules of [`Transaction::check`] and the limits say without the state: how many operations, how
//! deep, no key written twice, no fields that mean nothing inside a transaction. One that cannot write, whichever way it goes, never enters the log: it is read
//! at a read index, or at whatever level its client asks for (`evaluate.rs`).

use super::evaluate::evaluate;
use super::writes::{Asked, Write, session_call};
use super::{
    QuestionError, ReadLevel, Refused, RequestLimits, check_asked, check_revision_min, error, key_value, range_of,
};
use storage::command::{
    Command, Compare, CompareTarget, EncodedCommand, NESTING_MAX, Operation, RangeLimits, RangeRead, Relation, SortBy,
    Transaction, TransactionError,
};
use storage::state::{Engine, OperationOutcome, RangeOutcome, StateReader, TransactionOutcome};
use transport::Response;
use transport::proto::client as wire;
use wire::ErrorCode;

/// How much a transaction that cannot write may return: a test compares it with the longest reply.
pub(super) const QUESTION_LIMITS: RangeLimits = RangeLimits { keys_max: 100_000, bytes_max: 32 << 20 };

impl RequestLimits {
    /// The write that a transaction stands for; `None` if it cannot write, and is a [`Question`](super::Question). The session of one that cannot write is not
    /// looked at: reading twice does no harm.
    ///
    /// # Errors
    /// When it is over a limit or makes no sense.
    pub fn transaction_write(&self, request: &wire::TransactionRequest) -> Result<Option<Write>, Refused> {
        let transaction = self.transaction(request)?;
        if !transaction.is_write() {
            return Ok(None);
        }
        let is_read_asked = request.age_ms_max.is_some() || request.revision_min.is_some();
        if request.level() != wire::ReadLevel::Linearizable || is_read_asked {
            let message = "a transaction that can write is as linearizable as any write: it takes no level, age or revision to read at";
            return Err(error(ErrorCode::Invalid, message));
        }
        let session = session_call(request.session.as_ref())?;
        let command = Command::Transaction { transaction, limits: self.written_limits() };
        Ok(Some(Write { command: EncodedCommand::new(&command, session), asked: Asked::Transaction }))
    }

    /// A transaction that keeps the rules.
    ///
    /// # Errors
    /// When it is over a limit or makes no sense.
    pub fn transaction<'a>(&self, request: &'a wire::TransactionRequest) -> Result<Transaction<'a>, Refused> {
        let sent =
            request.transaction.as_ref().ok_or_else(|| error(ErrorCode::Invalid, "the transaction is missing"))?;
        let mut parts_left = self.transaction_operations_max;
        let transaction = self.checked_transaction(sent, 1, &mut parts_left)?;
        transaction.check().map_err(|cause| error(ErrorCode::Invalid, cause.to_string()))?;
        Ok(transaction)
    }

    fn checked_transaction<'a>(
        &self,
        sent: &'a wire::Transaction,
        depth: usize,
        parts_left: &mut usize,
    ) -> Result<Transaction<'a>, Refused> {
        if depth > NESTING_MAX {
            return Err(error(ErrorCode::Invalid, TransactionError::TooDeep.to_string()));
        }
        let parts = sent.compares.len() + sent.success.len() + sent.failure.len();
        *parts_left = parts_left.checked_sub(parts).ok_or_else(|| self.too_many_operations())?;
        let compares = sent.compares.iter().map(|sent| self.compare(sent)).collect::<Result<_, _>>()?;
        let mut operations = |sent: &'a [wire::Operation]| -> Result<Vec<Operation<'a>>, Refused> {
            sent.iter().map(|sent| self.operation(sent, depth, parts_left)).collect()
        };
        let (success, failure) = (operations(&sent.success)?, operations(&sent.failure)?);
        Ok(Transaction { compares, success, failure })
    }

    fn too_many_operations(&self) -> Refused {
        let most = self.transaction_operations_max;
        let mut refused = error(
            ErrorCode::TooLarge,
            format!(
                "the transaction has more than the {most} compares and operations that this cluster allows; make it several"
            ),
        );
        refused.keys_limit = Some(most as u64);
        refused
    }

    fn compare<'a>(&self, sent: &'a wire::Compare) -> Result<Compare<'a>, Refused> {
        use wire::compare::Target;
        let range = range_of(sent.range.as_ref(), "a compare")?;
        self.check_range(&range)?;
        let relation = match wire::Relation::try_from(sent.relation) {
            Ok(wire::Relation::Equal) => Relation::Equal,
            Ok(wire::Relation::NotEqual) => Relation::NotEqual,
            Ok(wire::Relation::Less) => Relation::Less,
            Ok(wire::Relation::Greater) => Relation::Greater,
            Err(_) => return Err(unknown("relation")),
        };
        let target = match &sent.target {
            Some(Target::Version(number)) => CompareTarget::Version(*number),
            Some(Target::CreateRevision(number)) => CompareTarget::CreateRevision(*number),
            Some(Target::ModRevision(number)) => CompareTarget::ModRevision(*number),
            Some(Target::Lease(number)) => CompareTarget::Lease(*number),
            Some(Target::Value(value)) => {
                self.check_value(value)?;
                CompareTarget::Value(value)
            }
            None => return Err(unknown("target of a compare")),
        };
        Ok(Compare { range, target, relation })
    }

    fn operation<'a>(
        &self,
        sent: &'a wire::Operation,
        depth: usize,
        parts_left: &mut usize,
    ) -> Result<Operation<'a>, Refused> {
        use wire::operation::Kind;
        match &sent.kind {
            Some(Kind::Put(put)) => {
                refuse_part(put.session.is_some(), "a put", "session")?;
                Ok(Operation::Put(self.checked_put(put)?))
            }
            Some(Kind::Delete(delete)) => {
                refuse_part(delete.session.is_some(), "a delete", "session")?;
                let range = range_of(delete.range.as_ref(), "a delete")?;
                self.check_range(&range)?;
                Ok(Operation::DeleteRange { range, previous: delete.previous })
            }
            Some(Kind::Range(range)) => Ok(Operation::Range(self.range_read(range)?)),
            Some(Kind::Transaction(inner)) => {
                Ok(Operation::Transaction(self.checked_transaction(inner, depth + 1, parts_left)?))
            }
            None => Err(unknown("operation")),
        }
    }

    fn range_read<'a>(&self, sent: &'a wire::ScanRequest) -> Result<RangeRead<'a>, Refused> {
        refuse_part(sent.level() != wire::ReadLevel::Linearizable, "a range", "level")?;
        refuse_part(sent.age_ms_max.is_some(), "a range", "age")?;
        refuse_part(sent.revision_min.is_some(), "a range", "revision to wait for")?;
        check_asked(sent.revision)?;
        let range = range_of(sent.range.as_ref(), "a range")?;
        self.check_range(&range)?;
        let sort_by = match wire::SortBy::try_from(sent.sort_by) {
            Ok(wire::SortBy::Key) => SortBy::Key,
            Ok(wire::SortBy::Version) => SortBy::Version,
            Ok(wire::SortBy::CreateRevision) => SortBy::CreateRevision,
            Ok(wire::SortBy::ModRevision) => SortBy::ModRevision,
            Ok(wire::SortBy::Value) => SortBy::Value,
            Err(_) => return Err(unknown("sorting")),
        };
        Ok(RangeRead {
            range,
            revision: sent.revision,
            limit: (sent.limit > 0).then_some(sent.limit),
            sort_by,
            descending: sent.descending || sent.reverse,
            keys_only: sent.keys_only,
            count_only: sent.count_only,
            count: sent.count_total || sent.count_only,
            mod_revision_min: sent.mod_revision_min,
            mod_revision_max: sent.mod_revision_max,
            create_revision_min: sent.create_revision_min,
            create_revision_max: sent.create_revision_max,
        })
    }
}

/// Refuses what means nothing inside a transaction, rather than leave it out.
fn refuse_part(is_there: bool, operation: &str, part: &str) -> Result<(), Refused> {
    if !is_there {
        return Ok(());
    }
    Err(error(
        ErrorCode::Invalid,
        format!("{operation} inside a transaction has no {part} of its own; the transaction may have one"),
    ))
}

fn unknown(what: &str) -> Refused {
    error(ErrorCode::Unsupported, format!("the transaction has a {what} that this node does not know, or none"))
}

/// The level at which a transaction that cannot write is read.
pub(super) fn level(request: &wire::TransactionRequest) -> Result<ReadLevel, Refused> {
    if request.revision_min.is_some() && request.level() != wire::ReadLevel::Stale {
        let message = "a revision to wait for is given for a read that is never old; ask for level stale";
        return Err(error(ErrorCode::Invalid, message));
    }
    ReadLevel::of(request.level(), request.age_ms_max)
}

/// The answer to a transaction that cannot write, once the state may be read.
pub(super) fn answer<E: Engine>(
    limits: &RequestLimits,
    reader: &StateReader<E>,
    request: &wire::TransactionRequest,
) -> Result<Response, QuestionError> {
    let transaction = limits.transaction(request)?;
    check_revision_min(reader.revision(), request.revision_min)?;
    let (revision, outcome) = evaluate(reader, &transaction, QUESTION_LIMITS)?;
    let header = Some(wire::Header { revision, index: 0 });
    Ok(Response::Transaction(wire::TransactionReply { header, outcome: Some(transaction_outcome(outcome)) }))
}

/// What a transaction did, on the wire.
pub(super) fn transaction_outcome(outcome: TransactionOutcome) -> wire::TransactionOutcome {
    let operations = outcome.operations.into_iter().map(operation_outcome).collect();
    wire::TransactionOutcome { succeeded: outcome.succeeded, operations }
}

fn operation_outcome(outcome: OperationOutcome) -> wire::OperationOutcome {
    use wire::operation_outcome::Kind;
    let kind = match outcome {
        OperationOutcome::Put { previous } => Kind::Put(wire::PutOutcome { previous: previous.map(key_value) }),
        OperationOutcome::Deleted { count, previous } => Kind::Delete(wire::DeleteOutcome {
            deleted: count,
            previous: previous.into_iter().map(key_value).collect(),
        }),
        OperationOutcome::Range(RangeOutcome { pairs, count, more }) => {
            let kvs = pairs.into_iter().map(key_value).collect();
            Kind::Range(wire::RangeOutcome { kvs, count, more })
        }
        OperationOutcome::Transaction(inner) => Kind::Transaction(transaction_outcome(inner)),
    };
    wire::OperationOutcome { kind: Some(kind) }
}
