//! What a client's request means, and how its outcome reads on the wire. Pure: no I/O, no waiting, any engine.
//!
//! The service of a real node and the simulator's both come through here, so that limits, conditions, refusals and replies are the
//! same code.

use crate::driver::{ReadRefusal, WriteOutcome, WriteRefusal};
use bytes::Bytes;
use raft::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::command::{Command, Condition, EncodedCommand, KeyRange, LeaseBinding, Put, RangeLimits};
use storage::state::{CommandOutcome, Engine, KeyValue, ReadError, ScanOptions, StateReader};
use transport::Response;
use transport::proto::client as wire;
use wire::ErrorCode;

/// Bytes of keys and values in one piece, about; a single larger pair makes a piece of its own.
const PIECE_BYTES: usize = 64 << 10;
/// Pairs in one piece.
const PIECE_PAIRS_MAX: usize = 512;
/// What a pair takes beside its key and value, about.
const PAIR_OVERHEAD_BYTES: usize = 32;

/// How much one delete may delete. It is held in memory while it is applied, and sent back whole if the client asks for what was there:
/// a test compares it with the longest reply.
const DELETE_LIMITS: RangeLimits = RangeLimits { keys_max: 10_000, bytes_max: 32 << 20 };

/// How long keys and values may be, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct SizeLimits {
    /// Keys.
    pub key_bytes_max: u64,
    /// Values.
    pub value_bytes_max: u64,
}

/// A request refused: boxed, because it is large and rare.
pub type Refused = Box<wire::Error>;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy)]
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

impl SizeLimits {
    /// The command that a put stands for.
    ///
    /// # Errors
    /// When it is over a limit or makes no sense.
    pub fn put_command(&self, request: &wire::PutRequest) -> Result<EncodedCommand, Refused> {
        self.check_key(&request.key, false)?;
        self.check_value(&request.value)?;
        let condition = match request.condition.as_ref().map(|condition| &condition.kind) {
            None => None,
            Some(None | Some(wire::condition::Kind::Absent(false))) => {
                return Err(error(ErrorCode::Invalid, "the condition says nothing"));
            }
            Some(Some(wire::condition::Kind::Absent(true))) => Some(Condition::Absent),
            Some(Some(wire::condition::Kind::ModRevision(revision))) => Some(Condition::ModRevision(*revision)),
            Some(Some(wire::condition::Kind::Value(value))) => {
                self.check_value(value)?;
                Some(Condition::Value(value))
            }
        };
        let (key, value, previous) = (&request.key[..], Some(&request.value[..]), request.previous);
        let put = Put { key, value, lease: LeaseBinding::None, condition, previous };
        Ok(EncodedCommand::new(&Command::Put(put), None))
    }

    /// The command that a delete stands for.
    ///
    /// # Errors
    /// When it is over a limit or makes no sense.
    pub fn delete_command(&self, request: &wire::DeleteRequest) -> Result<EncodedCommand, Refused> {
        let range =
            request.range.as_ref().ok_or_else(|| error(ErrorCode::Invalid, "a delete needs a range of keys"))?;
        self.check_key(&range.start, true)?;
        if let Some(end) = &range.end {
            self.check_key(end, true)?;
        }
        let range = KeyRange { start: &range.start, end: range.end.as_deref() };
        let command = Command::DeleteRange { range, limits: DELETE_LIMITS, previous: request.previous };
        Ok(EncodedCommand::new(&command, None))
    }

    /// Checks a key, or an end of a range, which may be one byte longer: the key itself and the zero byte after it.
    ///
    /// # Errors
    /// When it is empty and must not be, or too long.
    pub fn check_key(&self, key: &Bytes, is_bound: bool) -> Result<(), Refused> {
        if key.is_empty() && !is_bound {
            return Err(error(ErrorCode::Invalid, "the key is empty; a key has at least one byte"));
        }
        let limit = self.key_bytes_max;
        if key.len() as u64 > limit + u64::from(is_bound) {
            return Err(too_large("key", key.len(), limit));
        }
        Ok(())
    }

    fn check_value(&self, value: &Bytes) -> Result<(), Refused> {
        let limit = self.value_bytes_max;
        if value.len() as u64 > limit { Err(too_large("value", value.len(), limit)) } else { Ok(()) }
    }
}

/// The answer to a write that was applied. `is_put` and `wants_values` are of the request.
#[must_use]
pub fn write_reply(done: WriteOutcome, is_put: bool, wants_values: bool) -> Response {
    let header = |revision| Some(wire::Header { revision, index: done.index.0 });
    match done.outcome {
        CommandOutcome::Put { revision, previous } => Response::Put(wire::PutReply {
            header: header(revision),
            succeeded: true,
            previous: previous.map(key_value),
        }),
        CommandOutcome::ConditionFailed { existing } => Response::Put(wire::PutReply {
            header: header(existing.as_ref().map_or(0, |kv| kv.mod_revision)),
            succeeded: false,
            // Large values travel only to those who asked for them.
            previous: existing
                .map(key_value)
                .map(|kv| if wants_values { kv } else { wire::KeyValue { value: Bytes::new(), ..kv } }),
        }),
        CommandOutcome::Deleted { count, revision, previous } => Response::Delete(wire::DeleteReply {
            header: header(revision),
            deleted: count,
            previous: previous.into_iter().map(key_value).collect(),
        }),
        CommandOutcome::FormatRaised { .. }
        | CommandOutcome::Transaction { .. }
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
        | CommandOutcome::AnswersFull { .. } => unreachable!("no client could ask for it"),
        CommandOutcome::LimitExceeded { keys_max, bytes_max } => Response::Error(*range_too_large(keys_max, bytes_max)),
        CommandOutcome::Invalid { reason } => {
            let what = if is_put { "put" } else { "delete" };
            Response::Error(*error(ErrorCode::Invalid, format!("the {what} makes no sense: {reason}")))
        }
    }
}

/// The answer to a get, once the state may be read.
///
/// # Errors
/// When the revision cannot be read, or the engine fails.
pub fn get_reply<E: Engine>(reader: &StateReader<E>, request: &wire::GetRequest) -> Result<wire::GetReply, ReadError> {
    let found = reader.get(&request.key, request.revision)?;
    let header = Some(wire::Header { revision: reader.revision(), index: 0 });
    Ok(wire::GetReply { header, kv: found.map(key_value) })
}

/// The answers to a scan, piece by piece, once the state may be read. `send` takes each and says whether to go on.
///
/// # Errors
/// When the revision cannot be read, or the engine fails; pieces may have been sent before.
pub fn scan_replies<E: Engine>(
    reader: &StateReader<E>,
    range: &wire::KeyRange,
    request: &wire::ScanRequest,
    send: &mut dyn FnMut(wire::ScanReply) -> bool,
) -> Result<(), ReadError> {
    if request.count_only {
        let revision = request.revision.unwrap_or_else(|| reader.revision());
        let range = KeyRange { start: &range.start, end: range.end.as_deref() };
        let count = reader.count(range, Some(revision))?;
        let header = Some(wire::Header { revision, index: 0 });
        // Whoever asked may have gone.
        let _ = send(wire::ScanReply { header, kvs: Vec::new(), last: true, count, more: false, total: None });
        return Ok(());
    }
    let limit = (request.limit > 0).then_some(request.limit);
    let scan = reader.scan(ScanOptions {
        start: range.start.clone(),
        end: range.end.clone(),
        reverse: request.reverse,
        // One more than asked for tells whether there is more.
        limit: limit.map(|limit| limit.saturating_add(1)),
        keys_only: request.keys_only,
        revision: request.revision,
    })?;
    let header = Some(wire::Header { revision: scan.revision(), index: 0 });
    let mut piece = Vec::new();
    let (mut bytes, mut count, mut more) = (0, 0, false);
    for kv in scan {
        let kv = kv?;
        if limit.is_some_and(|limit| count == limit) {
            more = true;
            break;
        }
        count += 1;
        bytes += kv.key.len() + kv.value.len() + PAIR_OVERHEAD_BYTES;
        piece.push(key_value(kv));
        if bytes >= PIECE_BYTES || piece.len() >= PIECE_PAIRS_MAX {
            let kvs = std::mem::take(&mut piece);
            bytes = 0;
            if !send(wire::ScanReply { header, kvs, last: false, count: 0, more: false, total: None }) {
                return Ok(());
            }
        }
    }
    let _ = send(wire::ScanReply { header, kvs: piece, last: true, count, more, total: None });
    Ok(())
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

/// How a read that the state machine could not answer reads on the wire.
#[must_use]
pub fn read_failed(cause: &ReadError) -> Refused {
    let code = match cause {
        ReadError::Compacted { .. } => ErrorCode::Compacted,
        ReadError::Future { .. } => ErrorCode::FutureRevision,
        ReadError::Corrupt(_) => ErrorCode::Corrupt,
        ReadError::Engine(engine) if engine.is_corruption() => ErrorCode::Corrupt,
        ReadError::Engine(_) => ErrorCode::Internal,
    };
    error(code, cause.to_string())
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

fn range_too_large(keys_max: u32, bytes_max: u64) -> Refused {
    let message = format!(
        "the range holds more than the {keys_max} keys, or the {bytes_max} bytes of keys and values, that one delete may delete; \
         nothing was deleted; delete smaller ranges"
    );
    let keys_limit = Some(u64::from(keys_max));
    Box::new(wire::Error {
        code: ErrorCode::TooLarge.into(),
        message,
        leader: None,
        limit: bytes_max,
        keys_limit,
        compacted: None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use transport::{ClientLimits, REPLY_BYTES_MAX};

    /// Everything that one delete may delete, with numbers as long as they get.
    #[test]
    fn the_answer_to_the_largest_delete_fits_a_reply() {
        let keys = usize::try_from(DELETE_LIMITS.keys_max).expect("u32 fits usize");
        let bytes = usize::try_from(DELETE_LIMITS.bytes_max).expect("a few megabytes fit usize");
        let most = u64::MAX;
        let (key, value) = (Bytes::from(vec![0; 4]), Bytes::from(vec![0; bytes / keys - 4]));
        let kv = KeyValue { key, value, create_revision: most, mod_revision: most, version: most, lease: most };
        let outcome = CommandOutcome::Deleted { count: keys as u64, revision: most, previous: vec![kv; keys] };
        let done = WriteOutcome { index: raft::LogIndex(most), outcome };
        let Response::Delete(reply) = write_reply(done, false, true) else { panic!("a delete is answered as one") };
        let length = reply.encoded_len();
        assert!(length > bytes / 2 && length <= REPLY_BYTES_MAX, "{length} bytes");
        assert!(length <= ClientLimits::default().reply_bytes_max, "{length} bytes");
    }

    #[test]
    fn a_range_too_large_is_refused_with_both_limits_and_the_next_step() {
        let outcome = CommandOutcome::LimitExceeded { keys_max: 5, bytes_max: 77 };
        let done = WriteOutcome { index: raft::LogIndex(1), outcome };
        let Response::Error(error) = write_reply(done, false, false) else { panic!("it is an error") };
        assert_eq!((error.code(), error.limit, error.keys_limit), (ErrorCode::TooLarge, 77, Some(5)));
        for part in ["5 keys", "77 bytes", "nothing was deleted", "smaller ranges"] {
            assert!(error.message.contains(part), "{part} is not in: {}", error.message);
        }
    }
}
