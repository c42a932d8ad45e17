//! What a client's request means, and how its outcome reads on the wire. Pure: no I/O, no waiting, any engine.
//!
//! The service of a real node and the simulator's both come through here, so that limits, conditions, refusals and replies are the
//! same code.
//!
//! | file | what it knows |
//! |---|---|
//! | this one | limits, levels, gets, scans, and errors that several kinds of request share |
//! | `writes` | what goes through the log: puts, deletes, compaction; and every outcome as a reply |
//! | `transactions`, `evaluate` | transactions on the wire; those that cannot write, read |
//! | `leases`, `sessions` | their bounds, and questions about leases |

mod evaluate;
mod leases;
mod ranges;
mod sessions;
mod transactions;
mod writes;

pub use leases::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN};
pub(crate) use ranges::is_sorted;
pub use ranges::{ScanReplies, check_state};
pub use sessions::{SESSION_TTL_MS_DEFAULT, SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN};
pub use writes::{Asked, Write, write_reply};

use crate::driver::{ReadRefusal, WriteRefusal};
use bytes::Bytes;
use raft::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::command::{KeyRange, RangeLimits};
use storage::state::{Engine, KeyValue, ReadError, StateReader};
use transport::Response;
use transport::proto::client as wire;
use wire::ErrorCode;

/// The limits to which requests are held before they enter the log, or that they take with them into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// How long keys may be, in bytes.
    pub key_bytes_max: u64,
    /// How long values may be, in bytes.
    pub value_bytes_max: u64,
    /// Compares and operations in one transaction, those of transactions in it included.
    pub transaction_operations_max: usize,
    /// Leases, those of single keys included.
    pub leases_max: u32,
    /// Keys that live by one lease.
    pub lease_keys_max: u32,
    /// Sessions.
    pub sessions_max: u32,
    /// Answers kept for one session.
    pub session_answers_max: u32,
}

/// Keys that one command may look at or delete: others wait that long for it.
const KEYS_MAX: u32 = 100_000;
/// Bytes that one command may return, or longer ones if a single pair may be.
const RETURNED_BYTES_MAX: u64 = 8 << 20;

/// A request refused: boxed, because it is large and rare.
pub type Refused = Box<wire::Error>;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    /// As fresh as the last write acknowledged before it was asked.
    Linearizable,
    /// The same, but the leader's lease will do, if the cluster has leases on.
    Lease,
    /// Whatever the node has, up to an age.
    Stale {
        /// How old it may be; `None`: any age.
        age_max: Option<Duration>,
    },
}

impl ReadLevel {
    /// The level that a request asks for.
    ///
    /// # Errors
    /// When the request contradicts itself.
    pub fn of(level: wire::ReadLevel, age_ms_max: Option<u64>) -> Result<ReadLevel, Refused> {
        match (level, age_ms_max) {
            (wire::ReadLevel::Linearizable, None) => Ok(ReadLevel::Linearizable),
            (wire::ReadLevel::Lease, None) => Ok(ReadLevel::Lease),
            (wire::ReadLevel::Linearizable | wire::ReadLevel::Lease, Some(_)) => {
                Err(error(ErrorCode::Invalid, "an age is given for a read that is never old; ask for level stale"))
            }
            (wire::ReadLevel::Stale, age) => Ok(ReadLevel::Stale { age_max: age.map(Duration::from_millis) }),
        }
    }
}

impl RequestLimits {
    /// What a delete or a transaction that can write is held to. What it returns goes into every node's state if it comes in a session, so it may be as much as one
    /// put may write, and others wait for it no longer than for that.
    fn written_limits(&self) -> RangeLimits {
        let longest_pair = self.key_bytes_max + self.value_bytes_max;
        RangeLimits { keys_max: KEYS_MAX, bytes_max: longest_pair.max(RETURNED_BYTES_MAX) }
    }

    /// Checks a key, or an end of a range, which may be one byte longer: the key itself and the zero byte after it.
    ///
    /// # Errors
    /// When it is empty and must not be, or too long.
    pub fn check_key(&self, key: &[u8], is_bound: bool) -> Result<(), Refused> {
        if key.is_empty() && !is_bound {
            return Err(error(ErrorCode::Invalid, "the key is empty; a key has at least one byte"));
        }
        let limit = self.key_bytes_max;
        if key.len() as u64 > limit + u64::from(is_bound) {
            return Err(too_large("key", key.len(), limit));
        }
        Ok(())
    }

    /// Checks both ends of a range.
    fn check_range(&self, range: &KeyRange<'_>) -> Result<(), Refused> {
        self.check_key(range.start, true)?;
        range.end.map_or(Ok(()), |end| self.check_key(end, true))
    }

    fn check_value(&self, value: &Bytes) -> Result<(), Refused> {
        let limit = self.value_bytes_max;
        if value.len() as u64 > limit { Err(too_large("value", value.len(), limit)) } else { Ok(()) }
    }
}

/// A range that a request has to name.
fn range_of<'a>(range: Option<&'a wire::KeyRange>, what: &str) -> Result<KeyRange<'a>, Refused> {
    let range = range.ok_or_else(|| error(ErrorCode::Invalid, format!("{what} needs a range of keys")))?;
    Ok(KeyRange { start: &range.start, end: range.end.as_deref() })
}

/// Something asked of the state that one reply answers, beside gets.
#[derive(Debug, Clone)]
pub enum Question {
    /// A transaction that cannot write.
    Transaction(wire::TransactionRequest),
    /// What is known of a lease.
    LeaseShow(wire::LeaseShowRequest),
    /// All leases.
    LeaseList(wire::LeaseListRequest),
}

/// Why a question was not answered.
#[derive(Debug)]
pub enum QuestionError {
    /// The state machine could not answer.
    Read(ReadError),
    /// It makes no sense, asks too much, or there is nothing to tell.
    Refused(Refused),
}

impl From<ReadError> for QuestionError {
    fn from(cause: ReadError) -> QuestionError {
        QuestionError::Read(cause)
    }
}

impl From<Refused> for QuestionError {
    fn from(refused: Refused) -> QuestionError {
        QuestionError::Refused(refused)
    }
}

impl Question {
    /// How fresh the answer must be.
    ///
    /// # Errors
    /// When the request contradicts itself.
    pub fn level(&self) -> Result<ReadLevel, Refused> {
        match self {
            Question::Transaction(request) => transactions::level(request),
            Question::LeaseShow(_) | Question::LeaseList(_) => Ok(ReadLevel::Linearizable),
        }
    }

    /// The answer, once the state may be read.
    ///
    /// # Errors
    /// See [`QuestionError`].
    pub fn answer<E: Engine>(
        &self,
        limits: &RequestLimits,
        reader: &StateReader<E>,
    ) -> Result<Response, QuestionError> {
        match self {
            Question::Transaction(request) => transactions::answer(limits, reader, request),
            Question::LeaseShow(request) => leases::show(reader, request),
            Question::LeaseList(request) => leases::list(reader, request),
        }
    }
}

/// Refuses to answer from a state that is not at a revision yet.
fn check_revision_min(revision: u64, least: Option<u64>) -> Result<(), Refused> {
    match least {
        Some(least) if revision < least => {
            let message = format!(
                "the state of this node is at revision {revision}, and {least} is asked for; ask another node, or wait"
            );
            Err(error(ErrorCode::Unavailable, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks the revision that a read asks for.
///
/// # Errors
/// If there can be none of that number.
pub fn check_asked(revision: Option<u64>) -> Result<(), Refused> {
    match revision {
        Some(0) => Err(error(ErrorCode::Invalid, "revisions begin at 1; without one, a read is of the newest")),
        Some(_) | None => Ok(()),
    }
}

/// The answer to a get, once the state may be read.
///
/// # Errors
/// When the revision cannot be read, or the engine fails.
pub fn get_reply<E: Engine>(reader: &StateReader<E>, request: &wire::GetRequest) -> Result<wire::GetReply, ReadError> {
    let (newest, found) = match request.revision {
        None => reader.get_newest(&request.key)?,
        Some(_) => {
            let found = reader.get(&request.key, request.revision)?;
            (reader.revision(), found)
        }
    };
    let header = Some(wire::Header { revision: newest, index: 0 });
    Ok(wire::GetReply { header, kv: found.map(key_value) })
}

/// A key with its value, on the wire.
#[must_use]
pub fn key_value(kv: KeyValue) -> wire::KeyValue {
    wire::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// A key with its value, or with all but its value.
fn key_value_or_name(kv: KeyValue, wants_value: bool) -> wire::KeyValue {
    let kv = key_value(kv);
    if wants_value { kv } else { wire::KeyValue { value: Bytes::new(), ..kv } }
}

/// How a read that the state machine could not answer reads on the wire.
#[must_use]
pub fn read_failed(cause: &ReadError) -> Refused {
    let (code, compacted, limit) = match cause {
        ReadError::Compacted { compacted, .. } => (ErrorCode::Compacted, Some(*compacted), 0),
        ReadError::Future { .. } => (ErrorCode::FutureRevision, None, 0),
        ReadError::TooLarge(too_large) => (ErrorCode::TooLarge, None, too_large.bytes_max),
        ReadError::Corrupt(_) => (ErrorCode::Corrupt, None, 0),
        ReadError::Engine(engine) if engine.is_corruption() => (ErrorCode::Corrupt, None, 0),
        ReadError::Engine(_) => (ErrorCode::Internal, None, 0),
    };
    Box::new(wire::Error { compacted, limit, ..*error(code, cause.to_string()) })
}

/// An error with nothing but a code and a message.
pub fn error(code: ErrorCode, message: impl Into<String>) -> Refused {
    Box::new(wire::Error {
        code: code.into(),
        message: message.into(),
        leader: None,
        limit: 0,
        keys_limit: None,
        compacted: None,
    })
}

fn too_large(what: &str, bytes: usize, limit: u64) -> Refused {
    let message = format!("the {what} has {bytes} bytes; the limit of this cluster is {limit} bytes");
    Box::new(wire::Error {
        code: ErrorCode::TooLarge.into(),
        message,
        leader: None,
        limit,
        keys_limit: None,
        compacted: None,
    })
}

/// A command or question holds more than it may.
#[derive(Debug, Clone, Copy)]
struct Excess {
    keys_max: u32,
    bytes_max: u64,
}

impl Excess {
    fn refused(self, is_transaction: bool) -> Refused {
        let Excess { keys_max, bytes_max } = self;
        let message = if is_transaction {
            format!(
                "the transaction looks at or deletes more than {keys_max} keys, or returns or keeps more than {bytes_max} bytes of keys and \
                 values; nothing was done; name smaller ranges, read large values in a request of their own, or set limits and ask for no \
                 counts: every key counts that has to be looked at"
            )
        } else {
            format!(
                "the range holds more than the {keys_max} keys that one delete may delete, or, if what they held is to be returned, more than \
                 {bytes_max} bytes of keys and values; nothing was deleted; delete smaller ranges"
            )
        };
        let mut refused = error(ErrorCode::TooLarge, message);
        (refused.limit, refused.keys_limit) = (bytes_max, Some(u64::from(keys_max)));
        refused
    }
}

pub(crate) fn not_leader(leader: Option<NodeId>, members: &BTreeMap<NodeId, wire::Member>) -> Refused {
    let leader = leader.and_then(|leader| members.get(&leader).cloned());
    let message = match &leader {
        Some(leader) => format!("this node does not lead; {} does, at {}", leader.name, leader.client_address),
        None => "this node does not lead, and it knows of no leader at this moment".to_owned(),
    };
    Box::new(wire::Error {
        code: ErrorCode::NotLeader.into(),
        message,
        leader,
        limit: 0,
        keys_limit: None,
        compacted: None,
    })
}

/// How a write that was refused reads on the wire.
#[must_use]
pub fn write_refused(refusal: &WriteRefusal, members: &BTreeMap<NodeId, wire::Member>) -> Refused {
    match refusal {
        WriteRefusal::NotLeader { leader } => not_leader(*leader, members),
        WriteRefusal::Overloaded | WriteRefusal::FormatPending(_) | WriteRefusal::Stopping => {
            error(ErrorCode::Unavailable, refusal.to_string())
        }
        WriteRefusal::NoSpace { bytes_max, .. } => {
            Box::new(wire::Error { limit: *bytes_max, ..*error(ErrorCode::NoSpace, refusal.to_string()) })
        }
        WriteRefusal::OutcomeUnknown => error(ErrorCode::OutcomeUnknown, refusal.to_string()),
    }
}

/// How a read that was refused reads on the wire.
#[must_use]
pub fn read_refused(refusal: ReadRefusal, members: &BTreeMap<NodeId, wire::Member>) -> Refused {
    match refusal {
        ReadRefusal::NotLeader { leader } => not_leader(leader, members),
        ReadRefusal::Stopping | ReadRefusal::TooOld { .. } => error(ErrorCode::Unavailable, refusal.to_string()),
    }
}
