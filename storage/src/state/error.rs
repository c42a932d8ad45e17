//! What can go wrong with the state, one enum per kind of work.

use super::engine::{EngineError, Table};
use super::layout::LayoutError;
use super::range::SelectionTooLarge;
use crate::command::UnknownFeature;
use raft::{LogIndex, MembershipError};
use thiserror::Error;

/// Opening the state or applying to it failed. After an error from `apply`, no more is applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A stored row is not what this program writes.
    #[error(transparent)]
    Corrupt(#[from] CorruptRow),
    /// The format in effect, or one that the log raises to, is not known here. Nothing was changed.
    #[error(
        "the cluster uses format {found}, and this program knows formats up to {known}: nothing was changed; start this node with a version of raftkv that knows it (or without node.format_max, if its configuration holds it back)"
    )]
    UnknownFormat {
        /// The version found.
        found: u32,
        /// The version this program knows.
        known: u32,
    },
    /// The state is another cluster's.
    #[error(
        "the state belongs to cluster {found:?}, not to {expected:?}: check the data directory in the configuration"
    )]
    OtherCluster {
        /// The cluster that was expected.
        expected: String,
        /// The cluster found.
        found: String,
    },
    /// There is data, and nothing that says what it is.
    #[error(
        "table {table:?} has rows, but the state's own description is missing: the state is damaged; leave this node stopped, do not start it with an empty directory, and see \"A damaged node\" in docs/operations.md"
    )]
    DescriptionMissing {
        /// A table that has rows.
        table: Table,
    },
    /// There is nothing.
    #[error("the state is empty: it was never set up")]
    Empty,
    /// A committed entry needs a feature that this program lacks. Applying the entry without it would make this node differ
    /// from the others.
    #[error("log entry {index} cannot be applied: {feature}; run a version of raftkv that knows it on this node")]
    UnknownFeature {
        /// The entry.
        index: LogIndex,
        /// What is unknown.
        feature: UnknownFeature,
    },
    /// A committed entry changes the membership in a form that this program does not know.
    #[error(
        "log entry {index} changes the membership, and cannot be read: {cause}; run a version of raftkv that knows it on this node"
    )]
    MembershipChange {
        /// The entry.
        index: LogIndex,
        /// What is wrong with it.
        cause: MembershipError,
    },
    /// An earlier run failed, and what became of it is unknown.
    #[error("nothing is applied any more, because applying failed before: restart the node")]
    FailedBefore,
}

/// A read could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// History before `compacted_revision` is gone.
    #[error("revision {requested} has been compacted; the oldest readable one is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: u64,
        /// The oldest revision that can be read.
        compacted: u64,
    },
    /// The revision does not exist on this node, or not yet.
    #[error("revision {requested} is in the future; the newest one here is {current}")]
    Future {
        /// The revision asked for.
        requested: u64,
        /// The newest revision of this node.
        current: u64,
    },
    /// An order other than by key was asked for, and takes too much memory.
    #[error(transparent)]
    TooLarge(#[from] SelectionTooLarge),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A stored row is not what this program writes.
    #[error(transparent)]
    Corrupt(#[from] CorruptRow),
}

/// A stored row is not what this program writes: the disk or the file lied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the row {} of table {table:?} is damaged: {cause}; leave this node stopped, do not start it with an empty directory, and see \"A damaged node\" in docs/operations.md", key.escape_ascii())]
pub struct CorruptRow {
    /// The table.
    pub table: Table,
    /// The row's key.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub cause: LayoutError,
}

impl CorruptRow {
    pub(crate) fn new(table: Table, key: &[u8], cause: LayoutError) -> CorruptRow {
        CorruptRow { table, key: key.to_vec(), cause }
    }
}
