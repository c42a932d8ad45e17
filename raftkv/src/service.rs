//! What a node does for its clients.
//!
//! Writes go to the driver with a waiter that answers the client. Linearizable reads ask the driver for a read index first and
//! are served by the read threads once that is applied; stale reads go to the read threads at once. Nothing here blocks, and no
//! request costs a task, except scans, which stream.

use crate::clock::Freshness;
use crate::driver::{
    Input, ReadRefusal, ReadWaiter, WriteCommand, WriteCondition, WriteOutcome, WriteRefusal, WriteRequest,
};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::scans::{ScanJob, run_scan};
use crate::shared_state::SharedState;
use crate::status::StatusReporter;
use bytes::Bytes;
use crossbeam_channel::Sender;
use raft::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::command::DeleteLimits;
use storage::state::{CommandOutcome, KeyValue, ReadError};
use transport::proto::client as wire;
use transport::{ClientService, Identity, Request, Responder, Response, ScanResponder};
use wire::ErrorCode;

/// See the module.
pub(crate) struct Service {
    /// To the driver.
    pub(crate) inbox: Inbox,
    /// To the read threads.
    pub(crate) reads: Sender<Vec<ReadWaiter>>,
    /// What reads see.
    pub(crate) shared: Arc<SharedState>,
    /// How old the state is at most.
    pub(crate) freshness: Arc<Freshness>,
    /// The members, by number.
    pub(crate) members: Arc<BTreeMap<NodeId, wire::Member>>,
    /// What the node says of itself.
    pub(crate) reporter: Arc<StatusReporter>,
    /// Where damage found by a read is reported.
    pub(crate) failures: FailureReporter,
    /// Limits on keys and values, for `Hello` and for requests.
    pub(crate) limits: SizeLimits,
    /// Where scans run.
    pub(crate) runtime: tokio::runtime::Handle,
}

/// How much one delete may delete. It is held in memory while it is applied, and sent back whole if the client asks for what was there:
/// a test compares it with the longest reply.
const DELETE_LIMITS: DeleteLimits = DeleteLimits { keys_max: 10_000, bytes_max: 32 << 20 };

/// How long keys and values may be, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SizeLimits {
    /// Keys.
    pub(crate) key_bytes_max: u64,
    /// Values.
    pub(crate) value_bytes_max: u64,
}

impl ClientService for Service {
    fn hello(&self, _client: &Identity) -> wire::HelloReply {
        let own = self.reporter.own();
        wire::HelloReply {
            cluster: self.reporter.cluster().to_owned(),
            node: own.id,
            name: own.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key_bytes_max: self.limits.key_bytes_max,
            value_bytes_max: self.limits.value_bytes_max,
        }
    }

    fn call(&self, _client: &Identity, request: Request, responder: Responder) {
        match request {
            Request::Put(request) => match self.put_command(request) {
                Ok(command) => self.write(command, responder),
                Err(error) => responder.answer(Response::Error(*error)),
            },
            Request::Delete(request) => match self.delete_command(request) {
                Ok(command) => self.write(command, responder),
                Err(error) => responder.answer(Response::Error(*error)),
            },
            Request::Get(request) => self.get(request, responder),
            Request::Status(_) => {
                let members = self.members.clone();
                self.reporter.report(Box::new(move |status| {
                    responder.answer(Response::Status(status.into_reply(members.values().cloned().collect())));
                }));
            }
        }
    }

    fn scan(&self, _client: &Identity, request: wire::ScanRequest, responder: ScanResponder) {
        let range = request.range.clone().unwrap_or_default();
        let checked = self.check_key(&range.start, true).and_then(|()| match &range.end {
            Some(end) => self.check_key(end, true),
            None => Ok(()),
        });
        let level = ReadLevel::of(request.level(), request.age_ms_max);
        let job = ScanJob { range, request, shared: self.shared.clone(), failures: self.failures.clone() };
        let (ready, wait) = tokio::sync::oneshot::channel();
        let members = self.members.clone();
        match checked.and(level) {
            Ok(level) => self.read(
                level,
                Box::new(move |allowed| {
                    // A scan whose client is gone by now has nobody who waits.
                    let _ = ready.send(allowed.map_err(|refusal| read_refused(refusal, &members)));
                }),
            ),
            Err(error) => drop(ready.send(Err(error))),
        }
        self.runtime.spawn(async move {
            let allowed = wait
                .await
                .unwrap_or_else(|_| Err(error(ErrorCode::Unavailable, "the node is stopping; try another one")));
            match allowed {
                Ok(()) => run_scan(job, responder).await,
                // A client that is gone does not need the error.
                Err(error) => drop(responder.send_error(*error).await),
            }
        });
    }
}

/// A request refused: boxed, because it is large and rare.
type Refused = Box<wire::Error>;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy)]
enum ReadLevel {
    Linearizable,
    Stale { age_max: Option<Duration> },
}

impl ReadLevel {
    fn of(level: wire::ReadLevel, age_ms_max: Option<u64>) -> Result<ReadLevel, Refused> {
        match (level, age_ms_max) {
            (wire::ReadLevel::Linearizable, None) => Ok(ReadLevel::Linearizable),
            (wire::ReadLevel::Linearizable, Some(_)) => {
                Err(error(ErrorCode::Invalid, "an age is given for a linearizable read; ask for level stale"))
            }
            (wire::ReadLevel::Stale, age) => Ok(ReadLevel::Stale { age_max: age.map(Duration::from_millis) }),
        }
    }
}

impl Service {
    fn write(&self, command: WriteCommand, responder: Responder) {
        let members = self.members.clone();
        let is_put = matches!(command, WriteCommand::Put { .. });
        let wants_values = match &command {
            WriteCommand::Put { previous, .. } | WriteCommand::DeleteRange { previous, .. } => *previous,
        };
        let waiter = Box::new(move |result: Result<WriteOutcome, WriteRefusal>| {
            responder.answer(match result {
                Ok(outcome) => write_reply(outcome, is_put, wants_values),
                Err(refusal) => Response::Error(*write_refused(refusal, &members)),
            });
        });
        self.inbox.push(Input::Write(WriteRequest { command, waiter }));
    }

    fn get(&self, request: wire::GetRequest, responder: Responder) {
        let level =
            self.check_key(&request.key, false).and_then(|()| ReadLevel::of(request.level(), request.age_ms_max));
        let level = match level {
            Ok(level) => level,
            Err(error) => return responder.answer(Response::Error(*error)),
        };
        let (shared, failures, members) = (self.shared.clone(), self.failures.clone(), self.members.clone());
        self.read(
            level,
            Box::new(move |allowed| {
                responder.answer(match allowed {
                    Ok(()) => get_reply(&shared, &failures, &request),
                    Err(refusal) => Response::Error(*read_refused(refusal, &members)),
                });
            }),
        );
    }

    /// Calls `waiter` on a read thread once the state is as fresh as asked for.
    fn read(&self, level: ReadLevel, waiter: ReadWaiter) {
        match level {
            ReadLevel::Linearizable => self.inbox.push(Input::Read(waiter)),
            ReadLevel::Stale { age_max } => {
                let age = self.freshness.age();
                if age_max.is_some_and(|age_max| age.is_none_or(|age| age > age_max)) {
                    return waiter(Err(ReadRefusal::TooOld { age }));
                }
                // The read threads end only when the node stops; then the waiter's responder answers for itself.
                let _ = self.reads.send(vec![waiter]);
            }
        }
    }

    fn put_command(&self, request: wire::PutRequest) -> Result<WriteCommand, Refused> {
        self.check_key(&request.key, false)?;
        self.check_value(&request.value)?;
        let condition = match request.condition.map(|condition| condition.kind) {
            None => None,
            Some(None | Some(wire::condition::Kind::Absent(false))) => {
                return Err(error(ErrorCode::Invalid, "the condition says nothing"));
            }
            Some(Some(wire::condition::Kind::Absent(true))) => Some(WriteCondition::Absent),
            Some(Some(wire::condition::Kind::ModRevision(revision))) => Some(WriteCondition::ModRevision(revision)),
            Some(Some(wire::condition::Kind::Value(value))) => {
                self.check_value(&value)?;
                Some(WriteCondition::Value(value))
            }
        };
        Ok(WriteCommand::Put { key: request.key, value: request.value, condition, previous: request.previous })
    }

    fn delete_command(&self, request: wire::DeleteRequest) -> Result<WriteCommand, Refused> {
        let range = request.range.ok_or_else(|| error(ErrorCode::Invalid, "a delete needs a range of keys"))?;
        self.check_key(&range.start, true)?;
        if let Some(end) = &range.end {
            self.check_key(end, true)?;
        }
        let (start, end, previous) = (range.start, range.end, request.previous);
        Ok(WriteCommand::DeleteRange { start, end, limits: DELETE_LIMITS, previous })
    }

    /// The end of a range may be one byte longer than a key: the key itself and the zero byte after it.
    fn check_key(&self, key: &Bytes, is_bound: bool) -> Result<(), Refused> {
        if key.is_empty() && !is_bound {
            return Err(error(ErrorCode::Invalid, "the key is empty; a key has at least one byte"));
        }
        let limit = self.limits.key_bytes_max;
        if key.len() as u64 > limit + u64::from(is_bound) {
            return Err(too_large("key", key.len(), limit));
        }
        Ok(())
    }

    fn check_value(&self, value: &Bytes) -> Result<(), Refused> {
        let limit = self.limits.value_bytes_max;
        if value.len() as u64 > limit { Err(too_large("value", value.len(), limit)) } else { Ok(()) }
    }
}

fn write_reply(done: WriteOutcome, is_put: bool, wants_values: bool) -> Response {
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
        CommandOutcome::RangeTooLarge { keys_max, bytes_max } => Response::Error(*range_too_large(keys_max, bytes_max)),
        CommandOutcome::Invalid { reason } => {
            let what = if is_put { "put" } else { "delete" };
            Response::Error(*error(ErrorCode::Invalid, format!("the {what} makes no sense: {reason}")))
        }
    }
}

fn get_reply(shared: &SharedState, failures: &FailureReporter, request: &wire::GetRequest) -> Response {
    let reader = shared.reader();
    match reader.get(&request.key, request.revision) {
        Ok(found) => Response::Get(wire::GetReply {
            header: Some(wire::Header { revision: reader.revision(), index: 0 }),
            kv: found.map(key_value),
        }),
        Err(cause) => Response::Error(*read_failed(cause, failures)),
    }
}

/// A key with its value, on the wire.
pub(crate) fn key_value(kv: KeyValue) -> wire::KeyValue {
    wire::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// A read that the state machine could not answer. Damage stops the node: it must not go on as if it knew its state.
pub(crate) fn read_failed(cause: ReadError, failures: &FailureReporter) -> Refused {
    let text = cause.to_string();
    let code = match cause {
        ReadError::Compacted { .. } => ErrorCode::Compacted,
        ReadError::Future { .. } => ErrorCode::FutureRevision,
        ReadError::Corrupt(row) => {
            failures.report(FatalError::State(row.into()));
            ErrorCode::Corrupt
        }
        ReadError::Engine(engine) if engine.is_corruption() => {
            failures.report(FatalError::State(engine.into()));
            ErrorCode::Corrupt
        }
        ReadError::Engine(_) => ErrorCode::Internal,
    };
    error(code, text)
}

fn error(code: ErrorCode, message: impl Into<String>) -> Refused {
    Box::new(wire::Error { code: code.into(), message: message.into(), leader: None, limit: 0, keys_limit: None })
}

fn too_large(what: &str, bytes: usize, limit: u64) -> Refused {
    let message = format!("the {what} has {bytes} bytes; the limit of this cluster is {limit} bytes");
    Box::new(wire::Error { code: ErrorCode::TooLarge.into(), message, leader: None, limit, keys_limit: None })
}

fn range_too_large(keys_max: u32, bytes_max: u64) -> Refused {
    let message = format!(
        "the range holds more than the {keys_max} keys, or the {bytes_max} bytes of keys and values, that one delete may delete; \
         nothing was deleted; delete smaller ranges"
    );
    let keys_limit = Some(u64::from(keys_max));
    Box::new(wire::Error { code: ErrorCode::TooLarge.into(), message, leader: None, limit: bytes_max, keys_limit })
}

fn not_leader(leader: Option<NodeId>, members: &BTreeMap<NodeId, wire::Member>) -> Refused {
    let leader = leader.and_then(|leader| members.get(&leader).cloned());
    let message = match &leader {
        Some(leader) => format!("this node does not lead; {} does, at {}", leader.name, leader.client_address),
        None => "this node does not lead, and it knows of no leader at this moment".to_owned(),
    };
    Box::new(wire::Error { code: ErrorCode::NotLeader.into(), message, leader, limit: 0, keys_limit: None })
}

fn write_refused(refusal: WriteRefusal, members: &BTreeMap<NodeId, wire::Member>) -> Refused {
    match refusal {
        WriteRefusal::NotLeader { leader } => not_leader(leader, members),
        WriteRefusal::Overloaded | WriteRefusal::Stopping => error(ErrorCode::Unavailable, refusal.to_string()),
        WriteRefusal::OutcomeUnknown => error(ErrorCode::OutcomeUnknown, refusal.to_string()),
    }
}

fn read_refused(refusal: ReadRefusal, members: &BTreeMap<NodeId, wire::Member>) -> Refused {
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
        let outcome = CommandOutcome::RangeTooLarge { keys_max: 5, bytes_max: 77 };
        let done = WriteOutcome { index: raft::LogIndex(1), outcome };
        let Response::Error(error) = write_reply(done, false, false) else { panic!("it is an error") };
        assert_eq!((error.code(), error.limit, error.keys_limit), (ErrorCode::TooLarge, 77, Some(5)));
        for part in ["5 keys", "77 bytes", "nothing was deleted", "smaller ranges"] {
            assert!(error.message.contains(part), "{part} is not in: {}", error.message);
        }
    }
}
