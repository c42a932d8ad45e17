//! What went wrong, and above all: what happened to the write.

use crate::member::MemberChange;
use crate::value::KeyValue;
use std::fmt;
use std::time::Duration;

/// Which part of a request is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The key.
    Key,
    /// The value, or the value of a condition.
    Value,
    /// The request as a whole.
    Request,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Key => "key",
            Part::Value => "value",
            Part::Request => "request",
        })
    }
}

/// Why a request has no result. Each names the endpoint that it was last tried at, the cause, and with [`Error::next_step`] what to do.
///
/// Everything but [`Error::OutcomeUnknown`] and [`Error::AnswerForgotten`] means for a write: certainly not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No node took the request until the deadline: none answers, there is no leader, or they are overloaded.
    #[error("unavailable: {cause}")]
    Unavailable {
        /// Where it was last tried.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The write was sent and its answer did not come: it may be applied, now or later, or not.
    #[error("the outcome of the write is unknown: {cause}")]
    OutcomeUnknown {
        /// Where it was sent.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// A read had no answer before the deadline.
    #[error("no answer within {}: {cause}", Human(*after))]
    TimedOut {
        /// Where it was last tried.
        endpoint: String,
        /// The deadline.
        after: Duration,
        /// The last attempt's end.
        cause: String,
    },
    /// No connection because of certificates: ours, or the node's.
    #[error("{cause}")]
    Tls {
        /// Where it was tried.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The node knows who we are and says no.
    #[error("permission denied: {cause}")]
    Permission {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// Over a limit of the node.
    #[error("{}", too_large(*part, *bytes, *limit))]
    TooLarge {
        /// Whose limit it is.
        endpoint: String,
        /// What is too large.
        part: Part,
        /// Its bytes, where known.
        bytes: Option<u64>,
        /// The limit in bytes.
        limit: u64,
    },
    /// The range holds more than one delete may delete or return, or a transaction looks at, deletes or returns more than it may; nothing was done.
    #[error("{cause}")]
    RangeTooLarge {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
        /// The most keys that one delete may delete, or one transaction look at and delete.
        keys_max: u64,
        /// The most bytes of keys and values that it may return.
        bytes_max: u64,
    },
    /// The write's condition did not hold; nothing was written.
    #[error("the condition did not hold: {}", describe(existing.as_deref()))]
    PreconditionFailed {
        /// Who said so.
        endpoint: String,
        /// What the key holds, its value only if [`Put::with_previous`](crate::Put::with_previous) asked for it; `None` when it does not exist.
        existing: Option<Box<KeyValue>>,
    },
    /// The members were not changed: the group could not go on afterwards.
    #[error("the change is refused as unsafe: {cause}")]
    Unsafe {
        /// Who said so.
        endpoint: String,
        /// What would happen, and what to do first.
        cause: String,
        /// Who decides before, and who would decide afterwards.
        change: Box<MemberChange>,
    },
    /// The revision asked for has been compacted away. Nothing was changed.
    #[error("{cause}")]
    CompactedRevision {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
        /// The oldest revision that can be read, if the node said.
        compacted: Option<u64>,
    },
    /// The revision asked for is still to come.
    #[error("{cause}")]
    FutureRevision {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The request makes no sense.
    #[error("the node does not take the request: {cause}")]
    Invalid {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The node's software does not know such requests.
    #[error("the node does not know such requests: {cause}")]
    Unsupported {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// There is no such lease, or no more. Nothing was changed.
    #[error("there is no such lease: {cause}")]
    LeaseUnknown {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The number asked for is another lease's. Nothing was changed.
    #[error("there is such a lease already: {cause}")]
    LeaseExists {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// A put keeps the value or the lease of a key that does not exist. Nothing was changed.
    #[error("there is no such key, so it has nothing to keep: {cause}")]
    KeyUnknown {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The store has grown to its quota. Nothing was changed; deletes are still taken.
    #[error("the store is full: {cause}")]
    NoSpace {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// More leases, keys of one lease, sessions or kept answers than there may be. Nothing was changed.
    #[error("too many: {cause}")]
    TooMany {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// There is no such session, or no more, again and again, however often a new one was opened. The write was not carried out.
    #[error("there is no such session: {cause}")]
    SessionUnknown {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The write was carried out, or refused, and its answer is not kept any more. This client gives a number up only when it does not want
    /// the answer, so something else uses its session.
    #[error("the write was decided before, and the answer is not kept: {cause}")]
    AnswerForgotten {
        /// Who said so.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// Something is wrong inside the node, or between it and this client.
    #[error("internal error: {cause}")]
    Internal {
        /// Where.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The node found stored data damaged.
    #[error("corrupt data: {cause}")]
    Corrupt {
        /// Where.
        endpoint: String,
        /// The cause.
        cause: String,
    },
}

impl Error {
    /// The node that it happened with, as `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        match self {
            Error::Unavailable { endpoint, .. }
            | Error::OutcomeUnknown { endpoint, .. }
            | Error::TimedOut { endpoint, .. }
            | Error::Tls { endpoint, .. }
            | Error::Permission { endpoint, .. }
            | Error::TooLarge { endpoint, .. }
            | Error::RangeTooLarge { endpoint, .. }
            | Error::PreconditionFailed { endpoint, .. }
            | Error::Unsafe { endpoint, .. }
            | Error::CompactedRevision { endpoint, .. }
            | Error::FutureRevision { endpoint, .. }
            | Error::Invalid { endpoint, .. }
            | Error::Unsupported { endpoint, .. }
            | Error::LeaseUnknown { endpoint, .. }
            | Error::LeaseExists { endpoint, .. }
            | Error::KeyUnknown { endpoint, .. }
            | Error::NoSpace { endpoint, .. }
            | Error::TooMany { endpoint, .. }
            | Error::SessionUnknown { endpoint, .. }
            | Error::AnswerForgotten { endpoint, .. }
            | Error::Internal { endpoint, .. }
            | Error::Corrupt { endpoint, .. } => endpoint,
        }
    }

    /// Whether the write, if it was one, has certainly not been applied and never will be: it may be repeated as it is.
    #[must_use]
    pub fn is_certainly_not_applied(&self) -> bool {
        !matches!(self, Error::OutcomeUnknown { .. } | Error::AnswerForgotten { .. })
    }

    /// Whether the replicated state itself has decided so, as the answer that it keeps for a write in a session: whichever attempt the
    /// write was carried out with, this is what came of it. Other refusals come from before the log, and speak of one attempt alone.
    pub(crate) fn is_outcome(&self) -> bool {
        matches!(
            self,
            Error::LeaseUnknown { .. }
                | Error::LeaseExists { .. }
                | Error::KeyUnknown { .. }
                | Error::RangeTooLarge { .. }
                | Error::CompactedRevision { .. }
                | Error::FutureRevision { .. }
        )
    }

    /// Whether certificates or permissions are the cause: trying again changes nothing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Error::Tls { .. } | Error::Permission { .. })
    }

    /// What to do about it, in a sentence.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Error::Unavailable { .. } | Error::TimedOut { .. } => {
                "check that a majority of the nodes runs and that an endpoint is reachable, then repeat the request"
            }
            Error::OutcomeUnknown { .. } => "read the key to see whether the write happened before repeating it",
            Error::Tls { .. } => "use the CA file, certificate and key that were issued for this cluster's clients",
            Error::Permission { .. } => "use a certificate that is allowed to do this",
            Error::TooLarge { .. } => "send less, or raise the limit in the configuration of every node",
            Error::RangeTooLarge { .. } => "take smaller ranges, one after the other",
            Error::PreconditionFailed { .. } => "read the key again and decide anew",
            Error::Unsafe { .. } => "start the nodes that do not answer, or make another change first",
            Error::CompactedRevision { .. } => "read at a newer revision",
            Error::FutureRevision { .. } => "read at a revision that exists, or without one",
            Error::Invalid { .. } => "correct the request; if client and node differ in version, use the same",
            Error::Unsupported { .. } => "upgrade the nodes to this client's version",
            Error::LeaseUnknown { .. } => "grant a new lease, and put again what is to live by it",
            Error::LeaseExists { .. } => "choose another number, or none: then the cluster chooses",
            Error::KeyUnknown { .. } => "put the key with a value, and with a lease if it is to have one",
            Error::NoSpace { .. } => "delete keys, compact old revisions, or raise the quota; reads and deletes go on",
            Error::TooMany { .. } => "end what is not needed any more, or raise the limit that the message names",
            Error::SessionUnknown { .. } => "repeat the request; if that does not help, see the nodes' logs",
            Error::AnswerForgotten { .. } => "read the key to see what became of the write",
            Error::Internal { .. } => "see the node's log",
            Error::Corrupt { .. } => "see the node's log; do not delete anything, the other nodes hold the data",
        }
    }
}

fn too_large(part: Part, bytes: Option<u64>, limit: u64) -> String {
    match bytes {
        Some(bytes) => format!("the {part} is too large: {bytes} bytes, the limit is {limit} bytes"),
        None => format!("the {part} is too large: the limit is {limit} bytes"),
    }
}

fn describe(existing: Option<&KeyValue>) -> String {
    match existing {
        Some(kv) => format!("the key exists with mod_revision {} and version {}", kv.mod_revision, kv.version),
        None => "the key does not exist".to_owned(),
    }
}

/// A duration as people write it.
pub(crate) struct Human(pub(crate) Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded up: nothing was waited for 0 s.
        let milliseconds = self.0.as_micros().div_ceil(1000);
        if milliseconds.is_multiple_of(1000) {
            write!(f, "{} s", milliseconds / 1000)
        } else {
            write!(f, "{milliseconds} ms")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_outcome_leaves_a_doubt() {
        let endpoint = || "n1:1".to_owned();
        let unknown = Error::OutcomeUnknown { endpoint: endpoint(), cause: "the connection broke".into() };
        assert!(!unknown.is_certainly_not_applied());
        let refused = Error::Unavailable { endpoint: endpoint(), cause: "no leader".into() };
        assert!(refused.is_certainly_not_applied());
        assert_eq!(refused.endpoint(), "n1:1");
        let forgotten = Error::AnswerForgotten { endpoint: endpoint(), cause: "number 7".into() };
        assert!(!forgotten.is_certainly_not_applied());
    }

    #[test]
    fn messages_carry_the_limit_and_the_existing_revision() {
        let too_large =
            Error::TooLarge { endpoint: "n1:1".into(), part: Part::Value, bytes: Some(9_000_000), limit: 8_388_608 };
        assert_eq!(too_large.to_string(), "the value is too large: 9000000 bytes, the limit is 8388608 bytes");
        let cause = "the range holds too much".to_owned();
        let range = Error::RangeTooLarge { endpoint: "n1:1".into(), cause, keys_max: 10, bytes_max: 4096 };
        assert_eq!(range.to_string(), "the range holds too much");
        assert!(range.is_certainly_not_applied());
        let absent = Error::PreconditionFailed { endpoint: "n1:1".into(), existing: None };
        assert_eq!(absent.to_string(), "the condition did not hold: the key does not exist");
        let timed_out =
            Error::TimedOut { endpoint: "n1:1".into(), after: Duration::from_millis(1500), cause: "silence".into() };
        assert_eq!(timed_out.to_string(), "no answer within 1500 ms: silence");
    }
}
