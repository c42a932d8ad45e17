//! Requests that go through the log: which command each stands for, and how its outcome reads on the wire.
//!
//! Everything that can be known without the state is checked here, before the log: sizes, numbers that make no sense, a lease that is named twice. Every
//! limit that the state machine has to hold goes into the command, so that it is the same on every node.
//!
//! A request in a session may be answered with the outcome of an earlier one under the same number. That is the client's business: the outcome says
//! itself what kind of reply it is.

use super::transactions::transaction_outcome;
use super::{Excess, Refused, RequestLimits, error, key_value, key_value_or_name, range_of};
use crate::driver::WriteOutcome;
use storage::command::{Command, Condition, EncodedCommand, LeaseBinding, Put, SessionCall};
use storage::state::CommandOutcome;
use transport::Response;
use transport::proto::client as wire;
use wire::ErrorCode;

/// A request that goes through the log.
#[derive(Debug)]
pub struct Write {
    /// What to replicate.
    pub command: EncodedCommand,
    /// What is left to know when it is answered.
    pub asked: Asked,
}

/// What a write asked for, as far as its answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To write a key.
    Put {
        /// Return values.
        previous: bool,
    },
    /// To delete keys.
    Delete,
    /// A transaction.
    Transaction,
    /// Something about a lease.
    Lease,
    /// Something about a session.
    Session {
        /// How long a new one lives, in milliseconds.
        ttl_ms: u64,
    },
    /// To let go of old revisions.
    Compaction,
}

impl Asked {
    /// As it is called in a message.
    fn name(self) -> &'static str {
        match self {
            Asked::Put { .. } => "put",
            Asked::Delete => "delete",
            Asked::Transaction => "transaction",
            Asked::Lease => "request about a lease",
            Asked::Session { .. } => "request about a session",
            Asked::Compaction => "compaction",
        }
    }
}

impl RequestLimits {
    /// The write that a put stands for.
    ///
    /// # Errors
    /// When it is over a limit or makes no sense.
    pub fn put(&self, request: &wire::PutRequest) -> Result<Write, Refused> {
        let put = self.checked_put(request)?;
        let command = EncodedCommand::new(&Command::Put(put), session_call(request.session.as_ref())?);
        Ok(Write { command, asked: Asked::Put { previous: request.previous } })
    }

    /// The write that a delete stands for.
    ///
    /// # Errors
    /// When it is over a limit or makes no sense.
    pub fn delete(&self, request: &wire::DeleteRequest) -> Result<Write, Refused> {
        let range = range_of(request.range.as_ref(), "a delete")?;
        self.check_range(&range)?;
        let command = Command::DeleteRange { range, limits: self.written_limits(), previous: request.previous };
        let session = session_call(request.session.as_ref())?;
        Ok(Write { command: EncodedCommand::new(&command, session), asked: Asked::Delete })
    }

    /// The write that a compaction stands for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn compact(&self, request: wire::CompactRequest) -> Result<Write, Refused> {
        if request.revision == 0 {
            return Err(error(ErrorCode::Invalid, "revisions count from 1"));
        }
        let command = Command::Compact { revision: request.revision };
        Ok(Write { command: EncodedCommand::new(&command, None), asked: Asked::Compaction })
    }

    /// A put, by itself or in a transaction. Its session is not looked at.
    pub(super) fn checked_put<'a>(&self, request: &'a wire::PutRequest) -> Result<Put<'a>, Refused> {
        self.check_key(&request.key, false)?;
        self.check_value(&request.value)?;
        if request.keep_value && !request.value.is_empty() {
            return Err(error(ErrorCode::Invalid, "the put both keeps the key's value and brings another"));
        }
        Ok(Put {
            key: &request.key,
            value: (!request.keep_value).then_some(&request.value[..]),
            lease: self.lease_binding(request.lease.as_ref())?,
            condition: request.condition.as_ref().map(|condition| self.condition(condition)).transpose()?,
            previous: request.previous,
        })
    }

    fn condition<'a>(&self, condition: &'a wire::Condition) -> Result<Condition<'a>, Refused> {
        match &condition.kind {
            None | Some(wire::condition::Kind::Absent(false)) => {
                Err(error(ErrorCode::Invalid, "the condition says nothing"))
            }
            Some(wire::condition::Kind::Absent(true)) => Ok(Condition::Absent),
            Some(wire::condition::Kind::ModRevision(revision)) => Ok(Condition::ModRevision(*revision)),
            Some(wire::condition::Kind::Value(value)) => {
                self.check_value(value)?;
                Ok(Condition::Value(value))
            }
        }
    }

    fn lease_binding(&self, lease: Option<&wire::put_request::Lease>) -> Result<LeaseBinding, Refused> {
        match lease {
            None => Ok(LeaseBinding::None),
            Some(wire::put_request::Lease::LeaseId(0)) => {
                Err(error(ErrorCode::Invalid, "leases have numbers from 1 on; leave the lease out for none"))
            }
            Some(wire::put_request::Lease::LeaseId(id)) => Ok(LeaseBinding::Lease(*id)),
            Some(wire::put_request::Lease::TtlMs(ttl_ms)) => {
                self.check_lease_ttl(*ttl_ms)?;
                Ok(LeaseBinding::TimeToLive { ttl_ms: *ttl_ms })
            }
            Some(wire::put_request::Lease::KeepLease(true)) => Ok(LeaseBinding::Keep),
            Some(wire::put_request::Lease::KeepLease(false)) => {
                Err(error(ErrorCode::Invalid, "`keep_lease` is always true when it is set"))
            }
        }
    }
}

/// In which session a write comes.
pub(super) fn session_call(call: Option<&wire::SessionCall>) -> Result<Option<SessionCall>, Refused> {
    let Some(wire::SessionCall { session, sequence, oldest }) = call else { return Ok(None) };
    if *session == 0 || *sequence == 0 {
        return Err(error(ErrorCode::Invalid, "sessions, and the writes in one, have numbers from 1 on"));
    }
    if oldest > sequence {
        let message =
            format!("write {sequence} of the session says that the answers before {oldest} are not needed: its own is");
        return Err(error(ErrorCode::Invalid, message));
    }
    Ok(Some(SessionCall { session: *session, sequence: *sequence, oldest: *oldest }))
}

/// The answer to a write that was applied.
///
/// # Panics
/// On an outcome of something that only a leader asks for.
#[must_use]
pub fn write_reply(done: WriteOutcome, asked: Asked) -> Response {
    let WriteOutcome { index, revision: current, outcome } = done;
    let at = |revision| Some(wire::Header { revision, index: index.0 });
    let header = at(current);
    match outcome {
        CommandOutcome::Put { revision, previous } => {
            let previous = previous.map(key_value);
            Response::Put(wire::PutReply { header: at(revision), succeeded: true, previous })
        }
        CommandOutcome::ConditionFailed { existing } => {
            // Large values travel only to those who asked for them.
            let wants_values = asked == Asked::Put { previous: true };
            let previous = existing.map(|kv| key_value_or_name(kv, wants_values));
            Response::Put(wire::PutReply { header, succeeded: false, previous })
        }
        CommandOutcome::Deleted { count, revision, previous } => Response::Delete(wire::DeleteReply {
            header: at(revision),
            deleted: count,
            previous: previous.into_iter().map(key_value).collect(),
        }),
        CommandOutcome::Transaction { revision, outcome } => Response::Transaction(wire::TransactionReply {
            header: at(revision),
            outcome: Some(transaction_outcome(outcome)),
        }),
        CommandOutcome::LeaseGranted { id, ttl_ms } => {
            Response::LeaseGrant(wire::LeaseGrantReply { header, id, ttl_ms })
        }
        CommandOutcome::LeaseKeptAlive { ttl_ms } => {
            Response::LeaseKeepAlive(wire::LeaseKeepAliveReply { header, ttl_ms })
        }
        CommandOutcome::LeaseRevoked { deleted, revision } => {
            Response::LeaseRevoke(wire::LeaseRevokeReply { header: at(revision), deleted })
        }
        CommandOutcome::Compacted { revision } => Response::Compact(wire::CompactReply { header, compacted: revision }),
        CommandOutcome::SessionOpened { id } => {
            let Asked::Session { ttl_ms } = asked else { unreachable!("a session was opened by a {}", asked.name()) };
            Response::SessionOpen(wire::SessionOpenReply { header, session: id, ttl_ms })
        }
        CommandOutcome::SessionClosed => Response::SessionClose(wire::SessionCloseReply { header }),
        CommandOutcome::LimitExceeded { .. }
        | CommandOutcome::KeyUnknown { .. }
        | CommandOutcome::RevisionCompacted { .. }
        | CommandOutcome::RevisionFuture { .. }
        | CommandOutcome::LeaseExists { .. }
        | CommandOutcome::LeaseUnknown { .. }
        | CommandOutcome::LeasesFull { .. }
        | CommandOutcome::LeaseFull { .. }
        | CommandOutcome::SessionUnknown { .. }
        | CommandOutcome::AnswerForgotten { .. }
        | CommandOutcome::SessionsFull { .. }
        | CommandOutcome::AnswersFull { .. }
        | CommandOutcome::Invalid { .. } => Response::Error(*outcome_refused(&outcome, asked)),
        CommandOutcome::FormatRaised { .. } | CommandOutcome::Expired { .. } => {
            unreachable!("only a leader asks for it, and waits for no answer: {outcome:?}")
        }
    }
}

/// How an outcome reads that is a refusal: nothing was changed.
fn outcome_refused(outcome: &CommandOutcome, asked: Asked) -> Refused {
    let what = asked.name();
    match outcome {
        CommandOutcome::LimitExceeded { keys_max, bytes_max } => {
            Excess { keys_max: *keys_max, bytes_max: *bytes_max }.refused(asked == Asked::Transaction)
        }
        CommandOutcome::KeyUnknown { key } => error(
            ErrorCode::KeyUnknown,
            format!("the {what} keeps what the key `{}` has, and there is no such key", key.escape_ascii()),
        ),
        CommandOutcome::RevisionCompacted { requested, compacted } => revision_compacted(*requested, *compacted),
        CommandOutcome::RevisionFuture { requested, current } => {
            let message = format!("revision {requested} is still to come; the newest one is {current}");
            error(ErrorCode::FutureRevision, message)
        }
        CommandOutcome::LeaseExists { id } => {
            error(ErrorCode::LeaseExists, format!("there is a lease {id} already; ask for another number, or for none"))
        }
        CommandOutcome::LeaseUnknown { id } => lease_unknown(*id),
        CommandOutcome::LeasesFull { leases_max } => too_many(format!(
            "there are {leases_max} leases, and no more are allowed; revoke some, or raise `cluster.limits.leases_max`"
        )),
        CommandOutcome::LeaseFull { id, keys_max } => too_many(format!(
            "{keys_max} keys live by lease {id}, and no more may; grant another lease, or raise `cluster.limits.lease_keys_max`"
        )),
        CommandOutcome::SessionsFull { sessions_max } => too_many(format!(
            "there are {sessions_max} sessions, and no more are allowed; close some, or raise `cluster.limits.sessions_max`"
        )),
        CommandOutcome::AnswersFull { answers_max } => too_many(format!(
            "{answers_max} answers are kept for the session, and no more may be; wait for answers, and say that they are there, \
             before sending more"
        )),
        CommandOutcome::SessionUnknown { id } => error(
            ErrorCode::SessionUnknown,
            format!(
                "there is no session {id}, or no more; the {what} was not carried out, an earlier one under the same number may have been"
            ),
        ),
        CommandOutcome::AnswerForgotten { sequence, oldest } => error(
            ErrorCode::AnswerForgotten,
            format!(
                "the answers of the session before number {oldest} are not kept, and this is number {sequence}: it was answered before, \
                 and was not carried out again"
            ),
        ),
        CommandOutcome::Invalid { reason } => error(ErrorCode::Invalid, format!("the {what} makes no sense: {reason}")),
        CommandOutcome::Put { .. }
        | CommandOutcome::ConditionFailed { .. }
        | CommandOutcome::Deleted { .. }
        | CommandOutcome::Transaction { .. }
        | CommandOutcome::LeaseGranted { .. }
        | CommandOutcome::LeaseKeptAlive { .. }
        | CommandOutcome::LeaseRevoked { .. }
        | CommandOutcome::Expired { .. }
        | CommandOutcome::Compacted { .. }
        | CommandOutcome::SessionOpened { .. }
        | CommandOutcome::SessionClosed
        | CommandOutcome::FormatRaised { .. } => unreachable!("it is no refusal: {outcome:?}"),
    }
}

fn too_many(message: String) -> Refused {
    error(ErrorCode::TooMany, message)
}

pub(super) fn lease_unknown(id: u64) -> Refused {
    error(ErrorCode::LeaseUnknown, format!("there is no lease {id}, or no more; grant one, and write its keys again"))
}

fn revision_compacted(requested: u64, compacted: u64) -> Refused {
    let message = format!("revision {requested} has been compacted; the oldest that can be read is {compacted}");
    let mut refused = error(ErrorCode::Compacted, message);
    refused.compacted = Some(compacted);
    refused
}

#[cfg(test)]
mod tests;
