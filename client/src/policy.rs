//! What to do when an attempt fails: the one place that decides whether a request may be sent again.
//!
//! The rule is short. A write goes again only if it was certainly not applied: the connection did not come about, the request did not
//! leave, or the node said so (`NOT_LEADER`, `UNAVAILABLE`). Everything after "it may have arrived" is [`Error::OutcomeUnknown`], whatever
//! else there would be to say. A read goes again after anything that another node or a later moment may mend.
//!
//! Between the two are writes of which a second application cannot be seen: those that carry a number of a session
//! ([`session`](crate::session)), and those that come to the same twice, such as the keep-alive of a lease. They go again after "it may
//! have arrived" too, but the doubt stays: such a failure is [`Error::OutcomeUnknown`] from the start, and the route that collects failures
//! lets go of it only for an answer.
//!
//! All of it is pure: times and randomness come in as arguments.

use crate::error::{Error, Human, Part};
use crate::request::Excess;
use std::time::Duration;
use transport::ConnectError;
use transport::proto::client as wire;
use wire::ErrorCode;

/// The first pause between two rounds over all endpoints.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What a dial may take in the first round while there are other endpoints to try.
const DIAL_FIRST: Duration = Duration::from_millis(500);
/// What a dial may take at most: a node that starts meanwhile is found by the next dial sooner than by QUIC's retransmissions.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// An attempt at a read is not given up sooner than this.
const READ_ATTEMPT_MIN: Duration = Duration::from_millis(250);
/// An attempt at a write that may be repeated is not given up sooner than this: what is sent twice is in the log twice.
const WRITE_ATTEMPT_MIN: Duration = Duration::from_secs(1);

const _: () = assert!(PAUSE_FIRST.as_nanos() < PAUSE_MAX.as_nanos());
const _: () = assert!(DIAL_FIRST.as_nanos() < DIAL_MAX.as_nanos());

/// What a request is for, which decides where it may go and whether it may go twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Changes data: to the leader, once.
    Write,
    /// Changes data, and may arrive twice without anybody seeing it: to the leader, until there is an answer.
    RepeatableWrite,
    /// Opens a session. As [`Purpose::RepeatableWrite`], but it gives up as soon as a node says that it cannot at this moment: writes can
    /// do without.
    OpenSession,
    /// Changes nothing: to any node.
    Read,
    /// Changes nothing: to the leader if it is known, to any other node otherwise.
    LeaseRead,
    /// Changes nothing, and the caller chose the node.
    StaleRead,
}

impl Purpose {
    /// Whether it changes anything.
    #[must_use]
    pub fn is_write(self) -> bool {
        match self {
            Purpose::Write | Purpose::RepeatableWrite | Purpose::OpenSession => true,
            Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => false,
        }
    }
}

/// How an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// No connection.
    Connect(ConnectError),
    /// The request did not leave.
    NotSent(String),
    /// The request may have arrived; its answer cannot come any more.
    Lost(String),
    /// The request may have arrived; no answer in the time given.
    Silent(Duration),
    /// Over a limit; not sent.
    Excess(Excess),
    /// The node answered with an error.
    Node(wire::Error),
    /// The node answered with something that is no answer to this.
    Nonsense,
}

/// How much an error tells when nothing gets better until the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// A node pointed to another.
    Redirect,
    /// Nobody there.
    Silence,
    /// A node explained itself.
    Word,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try elsewhere, or here again after a pause. With [`Error::OutcomeUnknown`], this attempt may have done its work.
    Retry {
        /// Where the leader is, if the node said.
        leader: Option<String>,
        /// What to say if nothing gets better.
        error: Error,
        /// How much that tells.
        weight: Weight,
    },
    /// It is over.
    Fail(Error),
}

/// Decides.
pub fn judge(purpose: Purpose, endpoint: &str, failure: Failure) -> Verdict {
    let endpoint_owned = || endpoint.to_owned();
    match failure {
        Failure::Connect(cause) => retry(connect_error(endpoint, &cause), Weight::Silence),
        Failure::NotSent(cause) => retry(Error::Unavailable { endpoint: endpoint_owned(), cause }, Weight::Silence),
        Failure::Lost(cause) => arrived_maybe(purpose, endpoint, cause, Weight::Silence),
        Failure::Silent(after) => match purpose {
            Purpose::Write | Purpose::RepeatableWrite | Purpose::OpenSession => {
                arrived_maybe(purpose, endpoint, format!("no answer within {}", Human(after)), Weight::Silence)
            }
            Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
                let cause = "the node did not answer".to_owned();
                retry(Error::TimedOut { endpoint: endpoint_owned(), after, cause }, Weight::Silence)
            }
        },
        Failure::Excess(Excess { part, bytes, limit }) => {
            Verdict::Fail(Error::TooLarge { endpoint: endpoint_owned(), part, bytes: Some(bytes), limit })
        }
        Failure::Node(error) => node_error(purpose, endpoint, error),
        Failure::Nonsense => nonsense(purpose, endpoint_owned(), "the answer is of another kind than the request"),
    }
}

fn retry(error: Error, weight: Weight) -> Verdict {
    Verdict::Retry { leader: None, error, weight }
}

/// The request may have arrived, and this attempt does not tell what came of it.
fn arrived_maybe(purpose: Purpose, endpoint: &str, cause: String, weight: Weight) -> Verdict {
    let endpoint = endpoint.to_owned();
    match purpose {
        Purpose::Write => Verdict::Fail(Error::OutcomeUnknown { endpoint, cause }),
        Purpose::RepeatableWrite | Purpose::OpenSession => retry(Error::OutcomeUnknown { endpoint, cause }, weight),
        Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
            retry(Error::Unavailable { endpoint, cause }, weight)
        }
    }
}

/// An answer that cannot be understood: another attempt would bring the same.
fn nonsense(purpose: Purpose, endpoint: String, cause: impl Into<String>) -> Verdict {
    let cause = cause.into();
    Verdict::Fail(if purpose.is_write() {
        Error::OutcomeUnknown { endpoint, cause }
    } else {
        Error::Internal { endpoint, cause }
    })
}

fn node_error(purpose: Purpose, endpoint: &str, error: wire::Error) -> Verdict {
    let wire::Error { code, message: cause, leader, limit, keys_limit, compacted } = error;
    let endpoint = endpoint.to_owned();
    let Ok(code) = ErrorCode::try_from(code) else {
        let cause = format!("the node answered with error {code}, which this version does not know: {cause}");
        return nonsense(purpose, endpoint, cause);
    };
    Verdict::Fail(match code {
        ErrorCode::NotLeader => {
            let leader = leader.map(|member| member.client_address).filter(|address| !address.is_empty());
            let weight = if leader.is_some() { Weight::Redirect } else { Weight::Word };
            return Verdict::Retry { leader, error: Error::Unavailable { endpoint, cause }, weight };
        }
        ErrorCode::Unavailable if purpose == Purpose::OpenSession => Error::Unavailable { endpoint, cause },
        ErrorCode::Unavailable => return retry(Error::Unavailable { endpoint, cause }, Weight::Word),
        // Nothing says that the write had not entered the log before things went wrong.
        ErrorCode::OutcomeUnknown | ErrorCode::Timeout => {
            return arrived_maybe(purpose, &endpoint, cause, Weight::Word);
        }
        ErrorCode::Internal if purpose.is_write() => {
            return arrived_maybe(purpose, &endpoint, format!("internal error: {cause}"), Weight::Word);
        }
        ErrorCode::Internal => Error::Internal { endpoint, cause },
        ErrorCode::TooLarge => match keys_limit {
            // A transaction of too many compares and operations; of bytes there is no limit then.
            Some(_) if limit == 0 => Error::Invalid { endpoint, cause },
            Some(keys_max) => Error::RangeTooLarge { endpoint, cause, keys_max, bytes_max: limit },
            None if purpose.is_write() => Error::TooLarge { endpoint, part: Part::Request, bytes: None, limit },
            // Of a read it is the answer that is too large, and the node says what to ask instead.
            None => Error::Invalid { endpoint, cause },
        },
        // Another node may have room, or this one in a moment.
        ErrorCode::TooMany | ErrorCode::WatchOverloaded if !purpose.is_write() => {
            return retry(Error::Unavailable { endpoint, cause }, Weight::Word);
        }
        ErrorCode::Invalid | ErrorCode::WatchOverloaded => Error::Invalid { endpoint, cause },
        // Each attempt stops writes for a while, so whether there is another is for whoever asked to decide.
        ErrorCode::NotHandedOver => Error::Unavailable { endpoint, cause },
        ErrorCode::Unsupported => Error::Unsupported { endpoint, cause },
        ErrorCode::LeaseUnknown => Error::LeaseUnknown { endpoint, cause },
        ErrorCode::LeaseExists => Error::LeaseExists { endpoint, cause },
        ErrorCode::SessionUnknown => Error::SessionUnknown { endpoint, cause },
        ErrorCode::AnswerForgotten => Error::AnswerForgotten { endpoint, cause },
        ErrorCode::NoSpace => Error::NoSpace { endpoint, cause },
        ErrorCode::KeyUnknown => Error::KeyUnknown { endpoint, cause },
        ErrorCode::TooMany => Error::TooMany { endpoint, cause },
        ErrorCode::Permission => Error::Permission { endpoint, cause },
        ErrorCode::Compacted => Error::CompactedRevision { endpoint, cause, compacted },
        ErrorCode::FutureRevision => Error::FutureRevision { endpoint, cause },
        ErrorCode::Corrupt => Error::Corrupt { endpoint, cause },
    })
}

/// A failed dial as the caller sees it. The address is in a field of its own, so it is not said twice.
pub fn connect_error(endpoint: &str, error: &ConnectError) -> Error {
    let endpoint = endpoint.to_owned();
    match error {
        ConnectError::Tls { reason, .. } => Error::Tls { endpoint, cause: format!("TLS: {reason}") },
        ConnectError::WrongPeer { found, wanted, .. } => {
            Error::Tls { endpoint, cause: format!("{found} answered, but {wanted} was wanted") }
        }
        ConnectError::PeerIdentity { cause, .. } => {
            Error::Tls { endpoint, cause: format!("the node cannot be identified: {cause}") }
        }
        ConnectError::Refused { reason, .. } if error.is_permission() => {
            Error::Permission { endpoint, cause: format!("the node refused the connection: {reason}") }
        }
        ConnectError::Refused { reason, .. } => {
            Error::Unavailable { endpoint, cause: format!("the node refused the connection: {reason}") }
        }
        ConnectError::Resolve { detail, .. } => {
            Error::Unavailable { endpoint, cause: format!("the address does not resolve: {detail}") }
        }
        ConnectError::Socket { detail, .. } => {
            Error::Unavailable { endpoint, cause: format!("no local socket: {detail}") }
        }
        ConnectError::Unreachable { reason, .. } => {
            Error::Unavailable { endpoint, cause: format!("unreachable: {reason}") }
        }
        ConnectError::TimedOut { after, .. } => {
            Error::Unavailable { endpoint, cause: format!("unreachable: no answer within {}", Human(*after)) }
        }
        ConnectError::Protocol { reason, .. } => {
            Error::Unavailable { endpoint, cause: format!("it does not speak this protocol: {reason}") }
        }
    }
}

/// How long to wait after a round over all endpoints: doubling, and between half and the whole of that, so that clients that failed
/// together do not come back together. `jitter` is from 0 to 1.
pub fn pause(round: u32, jitter: f64) -> Duration {
    assert!((0.0..=1.0).contains(&jitter), "jitter of {jitter} is not between 0 and 1");
    let whole = PAUSE_FIRST.saturating_mul(1_u32 << round.min(10)).min(PAUSE_MAX);
    whole.mul_f64(0.5 + jitter / 2.0)
}

/// How long a dial may take. Short at first, so that a dead endpoint does not keep a request from the others; longer in later rounds,
/// for networks that are slow.
pub fn dial_timeout(round: u32, remaining: Duration) -> Duration {
    DIAL_FIRST.saturating_mul(1_u32 << round.min(10)).min(DIAL_MAX).min(remaining)
}

/// How long to wait for the answer to one attempt: all of what is left for a write that must not be sent again, otherwise a third of it, so
/// that two others get a turn.
pub fn attempt_timeout(purpose: Purpose, remaining: Duration) -> Duration {
    let least = match purpose {
        Purpose::Write => remaining,
        Purpose::RepeatableWrite | Purpose::OpenSession => WRITE_ATTEMPT_MIN,
        Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => READ_ATTEMPT_MIN,
    };
    (remaining / 3).max(least).min(remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: [Purpose; 3] = [Purpose::Read, Purpose::LeaseRead, Purpose::StaleRead];

    fn answered(code: ErrorCode) -> Failure {
        Failure::Node(wire::Error {
            code: code.into(),
            message: "because".into(),
            leader: None,
            limit: 7,
            keys_limit: None,
            compacted: None,
        })
    }

    fn is_retry(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Retry { .. })
    }

    #[test]
    fn a_write_that_may_have_arrived_is_never_sent_again() {
        let doubtful = [
            Failure::Lost("the connection broke".into()),
            Failure::Silent(Duration::from_secs(5)),
            Failure::Nonsense,
            answered(ErrorCode::OutcomeUnknown),
            answered(ErrorCode::Timeout),
            answered(ErrorCode::Internal),
            Failure::Node(wire::Error {
                code: 999,
                message: String::new(),
                leader: None,
                limit: 0,
                keys_limit: None,
                compacted: None,
            }),
        ];
        for failure in doubtful {
            let shown = format!("{failure:?}");
            let verdict = judge(Purpose::Write, "n1:1", failure);
            assert!(matches!(verdict, Verdict::Fail(Error::OutcomeUnknown { .. })), "{shown} came to {verdict:?}");
        }
    }

    #[test]
    fn a_write_that_may_be_repeated_goes_again_and_the_doubt_stays() {
        for failure in [
            Failure::Lost("the connection broke".into()),
            Failure::Silent(Duration::from_secs(5)),
            answered(ErrorCode::OutcomeUnknown),
            answered(ErrorCode::Timeout),
            answered(ErrorCode::Internal),
        ] {
            let shown = format!("{failure:?}");
            let verdict = judge(Purpose::RepeatableWrite, "n1:1", failure);
            let Verdict::Retry { error, .. } = verdict else { panic!("{shown} came to {verdict:?}") };
            assert!(!error.is_certainly_not_applied(), "{shown} came to {error:?}");
        }
        let verdict = judge(Purpose::RepeatableWrite, "n1:1", answered(ErrorCode::Unavailable));
        let Verdict::Retry { error, .. } = verdict else { panic!("a refusal came to {verdict:?}") };
        assert!(error.is_certainly_not_applied());
    }

    #[test]
    fn a_session_is_not_waited_for_when_a_node_says_that_it_cannot() {
        let verdict = judge(Purpose::OpenSession, "n1:1", answered(ErrorCode::Unavailable));
        assert!(matches!(verdict, Verdict::Fail(Error::Unavailable { .. })), "{verdict:?}");
        assert!(is_retry(&judge(Purpose::OpenSession, "n1:1", answered(ErrorCode::NotLeader))));
    }

    #[test]
    fn the_oldest_readable_revision_reaches_the_caller() {
        let Failure::Node(error) = answered(ErrorCode::Compacted) else { panic!("a node's answer is one") };
        let verdict = judge(Purpose::Read, "n1:1", Failure::Node(wire::Error { compacted: Some(30), ..error }));
        let Verdict::Fail(Error::CompactedRevision { compacted, .. }) = verdict else { panic!("{verdict:?}") };
        assert_eq!(compacted, Some(30));
    }

    #[test]
    fn a_write_that_was_certainly_not_applied_goes_again() {
        let unreachable = ConnectError::Unreachable { address: "n1:1".into(), reason: "gone".into() };
        let harmless = [
            Failure::Connect(unreachable),
            Failure::NotSent("the connection had ended".into()),
            answered(ErrorCode::NotLeader),
            answered(ErrorCode::Unavailable),
        ];
        for failure in harmless {
            let shown = format!("{failure:?}");
            let verdict = judge(Purpose::Write, "n1:1", failure);
            assert!(is_retry(&verdict), "{shown} came to {verdict:?}");
        }
    }

    #[test]
    fn a_read_goes_again_after_anything_that_another_node_may_mend() {
        for purpose in READS {
            for failure in [
                Failure::Lost("the connection broke".into()),
                Failure::Silent(Duration::from_secs(1)),
                answered(ErrorCode::OutcomeUnknown),
                answered(ErrorCode::Timeout),
                answered(ErrorCode::NotLeader),
                answered(ErrorCode::Unavailable),
                answered(ErrorCode::TooMany),
            ] {
                let shown = format!("{failure:?}");
                let verdict = judge(purpose, "n1:1", failure);
                assert!(is_retry(&verdict), "{shown} came to {verdict:?}");
            }
        }
    }

    #[test]
    fn what_no_node_will_answer_otherwise_fails_at_once() {
        for purpose in [Purpose::Write, Purpose::RepeatableWrite, Purpose::Read, Purpose::StaleRead] {
            for code in [
                ErrorCode::Invalid,
                ErrorCode::Unsupported,
                ErrorCode::TooLarge,
                ErrorCode::Permission,
                ErrorCode::Compacted,
                ErrorCode::FutureRevision,
                ErrorCode::Corrupt,
                ErrorCode::LeaseUnknown,
                ErrorCode::LeaseExists,
                ErrorCode::SessionUnknown,
                ErrorCode::AnswerForgotten,
                ErrorCode::NoSpace,
                ErrorCode::KeyUnknown,
            ] {
                let verdict = judge(purpose, "n1:1", answered(code));
                assert!(matches!(verdict, Verdict::Fail(_)), "{code:?} came to {verdict:?}");
            }
        }
        // For a read another node may have room.
        let verdict = judge(Purpose::Write, "n1:1", answered(ErrorCode::TooMany));
        assert!(matches!(verdict, Verdict::Fail(Error::TooMany { .. })), "{verdict:?}");
    }

    #[test]
    fn leadership_that_was_not_handed_over_is_not_tried_again() {
        let verdict = judge(Purpose::Write, "n1:1", answered(ErrorCode::NotHandedOver));
        assert!(matches!(verdict, Verdict::Fail(Error::Unavailable { .. })), "{verdict:?}");
    }

    #[test]
    fn a_node_that_is_not_the_leader_says_where_to_go() {
        let leader = wire::Member { client_address: "n2:1".into(), ..wire::Member::default() };
        let failure = Failure::Node(wire::Error {
            code: ErrorCode::NotLeader.into(),
            message: "not the leader".into(),
            leader: Some(leader),
            limit: 0,
            keys_limit: None,
            compacted: None,
        });
        let Verdict::Retry { leader, weight, .. } = judge(Purpose::Write, "n1:1", failure) else {
            panic!("a redirect has to be followed")
        };
        assert_eq!((leader.as_deref(), weight), (Some("n2:1"), Weight::Redirect));
    }

    #[test]
    fn the_limit_of_the_node_reaches_the_caller() {
        let verdict = judge(Purpose::Write, "n1:1", answered(ErrorCode::TooLarge));
        assert_eq!(
            verdict,
            Verdict::Fail(Error::TooLarge { endpoint: "n1:1".into(), part: Part::Request, bytes: None, limit: 7 })
        );
        let Failure::Node(error) = answered(ErrorCode::TooLarge) else { panic!("a node's answer is one") };
        let cause = error.message.clone();
        let too_much = Failure::Node(wire::Error { keys_limit: Some(3), ..error.clone() });
        let expected =
            Error::RangeTooLarge { endpoint: "n1:1".into(), cause: cause.clone(), keys_max: 3, bytes_max: 7 };
        assert_eq!(judge(Purpose::Write, "n1:1", too_much), Verdict::Fail(expected));
        let too_many = Failure::Node(wire::Error { keys_limit: Some(3), limit: 0, ..error });
        let expected = Error::Invalid { endpoint: "n1:1".into(), cause };
        assert_eq!(judge(Purpose::Write, "n1:1", too_many), Verdict::Fail(expected));
    }

    #[test]
    fn refused_certificates_are_told_from_nodes_that_are_down() {
        let address = || "n1:1".to_owned();
        let tls =
            ConnectError::Tls { address: address(), alert: 48, by_peer: true, reason: "unknown authority".into() };
        assert!(connect_error("n1:1", &tls).is_permission());
        let role = ConnectError::Refused {
            address: address(),
            code: transport::RefusalCode::WrongRole,
            reason: "a node's certificate".into(),
        };
        assert!(connect_error("n1:1", &role).is_permission());
        let closing = ConnectError::Refused {
            address: address(),
            code: transport::RefusalCode::Done,
            reason: "the node is shutting down".into(),
        };
        assert!(!connect_error("n1:1", &closing).is_permission());
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_differ_between_clients() {
        assert_eq!((pause(0, 0.0), pause(0, 1.0)), (Duration::from_millis(10), Duration::from_millis(20)));
        assert_eq!(pause(1, 1.0), Duration::from_millis(40));
        assert_eq!((pause(40, 0.0), pause(40, 1.0)), (PAUSE_MAX / 2, PAUSE_MAX));
    }

    #[test]
    fn nothing_waits_beyond_the_deadline() {
        let remaining = Duration::from_millis(100);
        assert_eq!(dial_timeout(0, remaining), remaining);
        assert_eq!(dial_timeout(9, Duration::from_secs(60)), DIAL_MAX);
        for purpose in READS.into_iter().chain([Purpose::Write, Purpose::RepeatableWrite, Purpose::OpenSession]) {
            assert_eq!(attempt_timeout(purpose, remaining), remaining, "{purpose:?}");
        }
        let six = Duration::from_secs(6);
        assert_eq!(attempt_timeout(Purpose::Write, six), six);
        assert_eq!(attempt_timeout(Purpose::RepeatableWrite, six), six / 3);
        assert_eq!(attempt_timeout(Purpose::Read, six), six / 3);
    }
}
