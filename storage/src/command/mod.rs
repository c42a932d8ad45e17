//! The payload of a log entry: a batch of client commands.
//!
//! The bytes go through the log, over the wire and into the state machine exactly as they were laid out here, so the
//! format is a promise to every node that will ever replay them (`docs/formats.md`, "Commands"). It is laid by hand: big-endian,
//! every command length-prefixed, nothing optional that is not announced by a flag.
//!
//! | file | what it knows |
//! |---|---|
//! | `mod` | what a command can be, and why bytes are none |
//! | `transaction` | compares and operations, and the rules by which one makes sense |
//! | `encode`, `decode` | the bytes |
//!
//! Two kinds of bad bytes are told apart. What this program *does not know* (a version, a kind, a flag) may be a
//! feature of a newer program: applying the entry without it would make this node differ from the others, so it has to stop
//! ([`DecodeError::Unknown`]). What *no* program could mean (a length past the end, an empty key) is the same nonsense to every
//! node: it becomes [`CommandOutcome::Invalid`](crate::state::CommandOutcome::Invalid) everywhere and changes nothing.
//!
//! A batch of version 2 carries the cluster's time; versions, kinds and flags are written as the *format in effect* allows (`state/format.rs`,
//! [`EncodedCommand::format`]), and read for ever.
//!
//! Every limit that decides what becomes of a command lies in the command: it comes to the same on every node, whatever the node is configured to.

mod decode;
mod encode;
mod transaction;

pub use decode::BatchDecoder;
pub use encode::{BatchEncoder, EncodedCommand};
pub use transaction::{
    Compare, CompareTarget, NESTING_MAX, Operation, RangeRead, Relation, SortBy, Transaction, TransactionError,
};

use thiserror::Error;

/// The newest version of the batch format that this program reads. It writes this one, with the cluster's time, or version 1, without.
pub const BATCH_VERSION: u8 = 2;

const VERSION_WITHOUT_TIME: u8 = 1;
const TIME_BYTES: usize = 8;
/// Room for version, time and count; without the time, the first bytes of it are left out.
const BATCH_HEADER_BYTES: usize = 5 + TIME_BYTES;

const KIND_PUT: u8 = 1;
const KIND_DELETE_RANGE: u8 = 2;
const KIND_RAISE_FORMAT: u8 = 3;
const KIND_TRANSACTION: u8 = 4;
const KIND_GRANT_LEASE: u8 = 5;
const KIND_KEEP_LEASE_ALIVE: u8 = 6;
const KIND_REVOKE_LEASE: u8 = 7;
const KIND_EXPIRE: u8 = 8;
const KIND_COMPACT: u8 = 9;
const KIND_OPEN_SESSION: u8 = 10;
const KIND_CLOSE_SESSION: u8 = 11;

const FLAG_PREVIOUS: u8 = 1 << 0;
const FLAG_END: u8 = 1 << 1;
/// Of a put: the number in place of the lease is a time to live.
const FLAG_TIME_TO_LIVE: u8 = 1 << 2;
/// Of a put: the key keeps the lease it has.
const FLAG_KEEP_LEASE: u8 = 1 << 3;
/// Of a put: the key keeps the value it has.
const FLAG_KEEP_VALUE: u8 = 1 << 4;

const CONDITION_NONE: u8 = 0;
const CONDITION_ABSENT: u8 = 1;
const CONDITION_MOD_REVISION: u8 = 2;
const CONDITION_VALUE: u8 = 3;

/// One client command. Borrows its bytes: from the request when encoding, from the log entry when applying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// Write one key.
    Put(Put<'a>),
    /// Delete every key in a range, or none if it holds more than the limits allow.
    DeleteRange {
        /// Which keys.
        range: KeyRange<'a>,
        /// How much may be deleted at once.
        limits: RangeLimits,
        /// Return what was deleted.
        previous: bool,
    },
    /// From here on everybody may use what this format has: see `state/format.rs`. Asked for by a leader, never by a client.
    RaiseFormat {
        /// The next one.
        to: u32,
    },
    /// Compares, and then one list of operations or the other, all at one revision or not at all. Format 4.
    Transaction {
        /// What to compare and do.
        transaction: Transaction<'a>,
        /// How much it may read and delete, altogether.
        limits: RangeLimits,
    },
    /// Make a lease. Format 4.
    GrantLease {
        /// Its number; zero: the next that is free.
        id: u64,
        /// How long it lives without a word from its holder, in milliseconds.
        ttl_ms: u64,
        /// How many leases there may be, and how many keys this one may hold.
        limits: LeaseLimits,
    },
    /// Let a lease live for its whole time again. Format 4.
    KeepLeaseAlive {
        /// Its number.
        id: u64,
    },
    /// End a lease, and delete its keys at one revision. Format 4.
    RevokeLease {
        /// Its number.
        id: u64,
    },
    /// End leases and sessions that are due by the time of the batch, the longest due first. Asked for by a leader, never by a client. Format 4.
    Expire {
        /// Leases at most.
        leases_max: u32,
        /// Sessions at most.
        sessions_max: u32,
        /// Keys at most; the first lease goes whatever it holds.
        keys_max: u32,
    },
    /// Let go of everything that only revisions before this one need. Format 4.
    Compact {
        /// The oldest revision that can be read afterwards.
        revision: u64,
    },
    /// Make a session, in which a retry is harmless. Format 4.
    OpenSession {
        /// How long it lives without a command, in milliseconds.
        ttl_ms: u64,
        /// How many sessions there may be.
        sessions_max: u32,
        /// How many answers this one may have kept at a time.
        answers_max: u32,
    },
    /// End a session, with the answers kept in it. Format 4.
    CloseSession {
        /// Its number.
        id: u64,
    },
}

/// A put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put<'a> {
    /// Not empty.
    pub key: &'a [u8],
    /// May be empty. `None`: the key keeps what it holds, and must exist. Format 4.
    pub value: Option<&'a [u8]>,
    /// What the key lives by.
    pub lease: LeaseBinding,
    /// Write only if this holds.
    pub condition: Option<Condition<'a>>,
    /// Return what the key held before.
    pub previous: bool,
}

impl<'a> Put<'a> {
    /// A put that asks for nothing else.
    #[must_use]
    pub fn new(key: &'a [u8], value: &'a [u8]) -> Put<'a> {
        Put { key, value: Some(value), lease: LeaseBinding::None, condition: None, previous: false }
    }

    /// See [`Command::values_held`].
    fn values_held(&self) -> u32 {
        // A value that is put again is there a few times: as it was, as a row of history, and as the row that is written.
        u32::from(self.previous) + if self.value.is_none() { 4 } else { 0 }
    }
}

/// What a key that is put lives by from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseBinding {
    /// Until it is deleted.
    None,
    /// A lease that there is. Not zero. Format 4: before, the number meant nothing.
    Lease(u64),
    /// A lease of its own, made for it. Format 4.
    TimeToLive {
        /// How long, in milliseconds.
        ttl_ms: u64,
    },
    /// What it has lived by so far; it must exist. Format 4.
    Keep,
}

/// How much one command may look at and delete, and how much of it may be kept: what bounds the time and the memory that applying it takes, and its answer. A delete of a single
/// key always fits; in a transaction single keys count like others. Kept is what is returned, and a value that is put again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeLimits {
    /// Keys.
    pub keys_max: u32,
    /// Bytes of keys and values together.
    pub bytes_max: u64,
}

/// How many leases there may be, and of what size: what bounds memory, and what the end of one lease takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Leases, those of single keys included.
    pub leases_max: u32,
    /// Keys that live by one lease.
    pub keys_max: u32,
}

/// What must hold for a put to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    ModRevision(u64),
    /// The key exists with this value.
    Value(&'a [u8]),
}

/// In which session a command comes, and as the how-manieth: a command that comes twice is carried out once. Format 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCall {
    /// The session. Not zero.
    pub session: u64,
    /// The command's own number in it; the answer is kept under it. Not zero.
    pub sequence: u64,
    /// The lowest number whose answer the client may still ask for again; those before it are forgotten.
    pub oldest: u64,
}

/// A command as it lies in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchItem<'a> {
    /// In which session.
    pub session: Option<SessionCall>,
    /// What to do.
    pub command: Command<'a>,
}

/// Keys from `start`, inclusive, to `end`, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRange<'a> {
    /// The first key in it, if it exists.
    pub start: &'a [u8],
    /// The first key after it; `None`: to the last key.
    pub end: Option<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };

    /// The only key in the range, if the range is written as `key .. key + 0x00`.
    #[must_use]
    pub fn single_key(self) -> Option<&'a [u8]> {
        let (last, key) = self.end?.split_last()?;
        (*last == 0 && key == self.start && !key.is_empty()).then_some(key)
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(self, key: &[u8]) -> bool {
        key >= self.start && self.end.is_none_or(|end| key < end)
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
}

impl Command<'_> {
    /// The oldest format in effect in which this may be written to the log.
    #[must_use]
    pub fn format(&self) -> u32 {
        use crate::state::{FORMAT_WITH_TRANSACTIONS, STATE_FORMAT_OLDEST};
        let is_old = match self {
            Command::Put(put) => put.value.is_some() && matches!(put.lease, LeaseBinding::None),
            Command::DeleteRange { .. } | Command::RaiseFormat { .. } => true,
            Command::Transaction { .. }
            | Command::GrantLease { .. }
            | Command::KeepLeaseAlive { .. }
            | Command::RevokeLease { .. }
            | Command::Expire { .. }
            | Command::Compact { .. }
            | Command::OpenSession { .. }
            | Command::CloseSession { .. } => false,
        };
        if is_old { STATE_FORMAT_OLDEST } else { FORMAT_WITH_TRANSACTIONS }
    }

    /// How many values beyond its own applying it may have in memory at a time, because they are returned, kept as an answer, or put again. One that goes through
    /// ranges or ends leases counts as [`VALUES_HELD_MAX`].
    #[must_use]
    pub fn values_held(&self) -> u32 {
        match self {
            Command::Put(put) => put.values_held(),
            Command::DeleteRange { range, previous, .. } => match range.single_key() {
                Some(_) => u32::from(*previous),
                None => VALUES_HELD_MAX,
            },
            Command::Transaction { transaction, .. } if transaction.touches_ranges() => VALUES_HELD_MAX,
            Command::Transaction { transaction, .. } => transaction.values_held(),
            Command::RevokeLease { .. } | Command::Expire { .. } => VALUES_HELD_MAX,
            Command::RaiseFormat { .. }
            | Command::GrantLease { .. }
            | Command::KeepLeaseAlive { .. }
            | Command::Compact { .. }
            | Command::OpenSession { .. }
            | Command::CloseSession { .. } => 0,
        }
    }
}

/// How many values the commands of one entry may have in memory together: see [`Command::values_held`]. One command may hold more by itself; its own limits bound it.
pub const VALUES_HELD_MAX: u32 = 32;

/// Why a batch, or one command of it, cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Written by a newer program. Whoever applies the entry must stop.
    #[error("{0}")]
    Unknown(#[from] UnknownFeature),
    /// Nonsense to every program. Whoever applies the entry reports it and goes on.
    #[error("{0}")]
    Invalid(#[from] InvalidCommand),
}

/// Something in a command that this program does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnknownFeature {
    /// The batch has another format.
    #[error("batch format version {found} is unknown, this program knows version {known}")]
    Version {
        /// The version found.
        found: u8,
        /// The version this program knows.
        known: u8,
    },
    /// A kind of command.
    #[error("command kind {found} is unknown")]
    Kind {
        /// The kind found.
        found: u8,
    },
    /// A flag of a command.
    #[error("flags {found:#010b} of command kind {kind} are unknown")]
    Flags {
        /// The command's kind.
        kind: u8,
        /// The unknown flags.
        found: u8,
    },
    /// A kind of condition.
    #[error("condition kind {found} is unknown")]
    Condition {
        /// The kind found.
        found: u8,
    },
    /// A part of a transaction.
    #[error("{part} {found} of a transaction is unknown")]
    TransactionPart {
        /// What part.
        part: &'static str,
        /// What was found in its place.
        found: u8,
    },
}

/// Why a command makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidCommand {
    /// A length points past the end of the bytes. Nothing after it in the entry can be read.
    #[error("the command is cut short: {needed} more bytes announced than the {available} there are")]
    Truncated {
        /// How many bytes were announced.
        needed: usize,
        /// How many there were.
        available: usize,
    },
    /// Bytes follow where the command, or the last command of the batch, should have ended.
    #[error("{count} bytes follow the end")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The key of a put is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// The batch says that it holds no command.
    #[error("the batch is empty")]
    EmptyBatch,
    /// A number that must not be zero is.
    #[error("{what} is zero")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// A put says two things about one lease.
    #[error("the put both keeps the key's lease and names another")]
    LeaseTwice,
    /// A transaction against its rules.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
}

#[cfg(test)]
mod tests;
