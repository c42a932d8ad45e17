//! What the stores answer, in one form for both.

use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
    pub lease: u64,
}

/// Errors by kind; their words differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Compacted,
    FutureRevision,
    LeaseUnknown,
    LeaseExists,
    KeyUnknown,
    DuplicateKey,
    Invalid,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub pairs: Vec<Pair>,
    pub count: u64,
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Put { previous: Option<Pair> },
    Deleted { count: u64, previous: Vec<Pair> },
    Read(Found),
    Transaction { succeeded: bool, steps: Vec<Done> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub deleted: bool,
    /// Of a delete: the key, and its revision as mod revision.
    pub pair: Pair,
    pub previous: Option<Pair>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The store's revision afterwards, and what was done.
    Done {
        revision: u64,
        done: Done,
    },
    Compacted,
    /// With how many seconds to live.
    Granted(u64),
    /// For how many seconds.
    KeptAlive(u64),
    Revoked {
        revision: u64,
    },
    Lease {
        granted_seconds: u64,
        remaining_seconds: u64,
        keys: Vec<Bytes>,
    },
    /// Their numbers.
    Leases(Vec<u64>),
    Events(Vec<Event>),
    Error(Kind),
}

/// What comes on a watch that is open.
pub type Coming = tokio::sync::mpsc::UnboundedReceiver<Result<Vec<Event>, Kind>>;
