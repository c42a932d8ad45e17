//! What commands come to.

use super::layout::KeyValue;
use crate::command::InvalidCommand;
use bytes::Bytes;
use raft::LogIndex;

/// What became of one log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub index: LogIndex,
    /// One outcome per command, in order; none if the entry carries no commands. A change of the membership has none.
    pub results: Vec<CommandOutcome>,
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandOutcome {
    /// The key was written.
    Put {
        /// The revision it got.
        revision: u64,
        /// What the key held before, if that was asked for and it existed.
        previous: Option<KeyValue>,
    },
    /// The put's condition did not hold. Nothing was written.
    ConditionFailed {
        /// What the key holds, its value only if what was there was asked for.
        existing: Option<KeyValue>,
    },
    /// Keys were deleted, or there were none.
    Deleted {
        /// How many.
        count: u64,
        /// The revision they were deleted at; if there were none, the revision the state is at.
        revision: u64,
        /// What they held, in key order, if that was asked for.
        previous: Vec<KeyValue>,
    },
    /// The ranges of the command hold more than it was allowed to delete and read. Nothing was changed.
    LimitExceeded {
        /// The keys it was allowed.
        keys_max: u32,
        /// The bytes of keys and values it was allowed.
        bytes_max: u64,
    },
    /// A transaction was carried out.
    Transaction {
        /// The revision of what it changed; if it changed nothing, the revision the state is at.
        revision: u64,
        /// What it did.
        outcome: TransactionOutcome,
    },
    /// A put keeps the value or the lease of a key that does not exist. Nothing was changed.
    KeyUnknown {
        /// The key.
        key: Bytes,
    },
    /// A revision to read in a transaction, or to compact to, has been compacted away. Nothing was changed.
    RevisionCompacted {
        /// The revision asked for.
        requested: u64,
        /// The oldest that can be read.
        compacted: u64,
    },
    /// A revision to read in a transaction, or to compact to, is still to come. Nothing was changed.
    RevisionFuture {
        /// The revision asked for.
        requested: u64,
        /// The newest.
        current: u64,
    },
    /// There is the lease.
    LeaseGranted {
        /// Its number.
        id: u64,
        /// How long it lives, in milliseconds.
        ttl_ms: u64,
    },
    /// The number is taken.
    LeaseExists {
        /// The number asked for.
        id: u64,
    },
    /// There is no such lease. Nothing was changed.
    LeaseUnknown {
        /// The number asked for.
        id: u64,
    },
    /// The lease lives for its whole time again.
    LeaseKeptAlive {
        /// The whole time, in milliseconds.
        ttl_ms: u64,
    },
    /// The lease is over.
    LeaseRevoked {
        /// How many keys were deleted with it.
        deleted: u64,
        /// The revision they were deleted at; if there were none, the revision the state is at.
        revision: u64,
    },
    /// There are as many leases as there may be.
    LeasesFull {
        /// So many.
        leases_max: u32,
    },
    /// The lease holds as many keys as it may. Nothing was changed.
    LeaseFull {
        /// The lease.
        id: u64,
        /// So many.
        keys_max: u32,
    },
    /// What was due is over.
    Expired {
        /// Leases.
        leases: u64,
        /// Sessions.
        sessions: u64,
        /// Keys deleted.
        deleted: u64,
    },
    /// Revisions before this one cannot be read any more.
    Compacted {
        /// The oldest that can.
        revision: u64,
    },
    /// There is the session.
    SessionOpened {
        /// Its number.
        id: u64,
    },
    /// The session is over, or was before.
    SessionClosed,
    /// There is no such session, or no more. The command was not carried out; one that came earlier under the same number may have been.
    SessionUnknown {
        /// The session named.
        id: u64,
    },
    /// The client had said that it has the answer; it is not kept. The command was not carried out again.
    AnswerForgotten {
        /// The command's number.
        sequence: u64,
        /// The lowest number whose answer is kept.
        oldest: u64,
    },
    /// There are as many sessions as there may be.
    SessionsFull {
        /// So many.
        sessions_max: u32,
    },
    /// As many answers are kept for the session as may be. The command was not carried out.
    AnswersFull {
        /// So many.
        answers_max: u32,
    },
    /// A raise of the format.
    FormatRaised {
        /// The format in effect after it.
        format: u32,
    },
    /// The command makes no sense. Nothing was written.
    Invalid {
        /// Why not. After a truncated command, the rest of the entry could not be read.
        reason: InvalidCommand,
    },
}

impl CommandOutcome {
    /// Bytes of the keys and values that it returns.
    pub(crate) fn returned_bytes(&self) -> usize {
        match self {
            CommandOutcome::Put { previous: pair, .. } | CommandOutcome::ConditionFailed { existing: pair } => {
                bytes_of(pair)
            }
            CommandOutcome::Deleted { previous, .. } => bytes_of(previous),
            CommandOutcome::Transaction { outcome, .. } => outcome.returned_bytes(),
            CommandOutcome::LimitExceeded { .. }
            | CommandOutcome::KeyUnknown { .. }
            | CommandOutcome::RevisionCompacted { .. }
            | CommandOutcome::RevisionFuture { .. }
            | CommandOutcome::LeaseGranted { .. }
            | CommandOutcome::LeaseExists { .. }
            | CommandOutcome::LeaseUnknown { .. }
            | CommandOutcome::LeaseKeptAlive { .. }
            | CommandOutcome::LeaseRevoked { .. }
            | CommandOutcome::LeasesFull { .. }
            | CommandOutcome::LeaseFull { .. }
            | CommandOutcome::Expired { .. }
            | CommandOutcome::Compacted { .. }
            | CommandOutcome::SessionOpened { .. }
            | CommandOutcome::SessionClosed
            | CommandOutcome::SessionUnknown { .. }
            | CommandOutcome::AnswerForgotten { .. }
            | CommandOutcome::SessionsFull { .. }
            | CommandOutcome::AnswersFull { .. }
            | CommandOutcome::FormatRaised { .. }
            | CommandOutcome::Invalid { .. } => 0,
        }
    }
}

impl TransactionOutcome {
    fn returned_bytes(&self) -> usize {
        let operation = |operation: &OperationOutcome| match operation {
            OperationOutcome::Put { previous } => bytes_of(previous),
            OperationOutcome::Deleted { previous, .. } => bytes_of(previous),
            OperationOutcome::Range(range) => bytes_of(&range.pairs),
            OperationOutcome::Transaction(outcome) => outcome.returned_bytes(),
        };
        self.operations.iter().map(operation).sum()
    }
}

fn bytes_of<'a>(pairs: impl IntoIterator<Item = &'a KeyValue>) -> usize {
    pairs.into_iter().map(|pair| pair.key.len() + pair.value.len()).sum()
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOutcome {
    /// All compares held.
    pub succeeded: bool,
    /// One for each operation of the list that was carried out, in order.
    pub operations: Vec<OperationOutcome>,
}

/// What one operation of a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationOutcome {
    /// The key was written.
    Put {
        /// What it held before, if that was asked for and it existed.
        previous: Option<KeyValue>,
    },
    /// Keys were deleted, or there were none.
    Deleted {
        /// How many.
        count: u64,
        /// What they held, in key order, if that was asked for.
        previous: Vec<KeyValue>,
    },
    /// A range was read.
    Range(RangeOutcome),
    /// A transaction was carried out.
    Transaction(TransactionOutcome),
}

/// What a range holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeOutcome {
    /// The pairs, in the order asked for.
    pub pairs: Vec<KeyValue>,
    /// How many there are in the range, those left out by filters and by the limit included.
    pub count: u64,
    /// The limit left some out.
    pub more: bool,
}
