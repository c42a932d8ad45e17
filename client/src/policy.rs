//! What to do when an attempt fails: the one place that decides whether a request may be sent again.
//!
//! The rule is short. A write goes again only if it was certainly not applied: the connection did not come about, the request did not
//! leave, or the node said so (`NOT_LEADER`, `UNAVAILABLE`). Everything after "it may have arrived" is [`Error::OutcomeUnknown`], whatever
//! else there would be to say. A read goes again after anything that another node or a later moment may mend.
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

const _: () = assert!(PAUSE_FIRST.as_nanos() < PAUSE_MAX.as_nanos());
const _: () = assert!(DIAL_FIRST.as_nanos() < DIAL_MAX.as_nanos());

/// What a request is for, which decides where it may go and whether it may go twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Changes data: to the leader, once.
    Write,
    /// Changes nothing: to any node.
    Read,
    /// Changes nothing: to the leader if it is known, to any other node otherwise.
    LeaseRead,
    /// Changes nothing, and the caller chose the node.
    StaleRead,
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
    /// Try elsewhere, or here again after a pause.
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
        Failure::Lost(cause) => arrived_maybe(purpose, endpoint, cause),
        Failure::Silent(after) => match purpose {
            Purpose::Write => Verdict::Fail(Error::OutcomeUnknown {
                endpoint: endpoint_owned(),
                cause: format!("no answer within {}", Human(after)),
            }),
            Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
                let cause = "the node did not answer".to_owned();
                retry(Error::TimedOut { endpoint: endpoint_owned(), after, cause }, Weight::Silence)
            }
        },
        Failure::Excess(Excess { part, bytes, limit }) => {
            Verdict::Fail(Error::TooLarge { endpoint: endpoint_owned(), part, bytes: Some(bytes), limit })
        }
        Failure::Node(error) => node_error(purpose, endpoint, error),
        Failure::Nonsense => {
            let cause = "the answer is of another kind than the request".to_owned();
            match purpose {
                Purpose::Write => Verdict::Fail(Error::OutcomeUnknown { endpoint: endpoint_owned(), cause }),
                Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
                    Verdict::Fail(Error::Internal { endpoint: endpoint_owned(), cause })
                }
            }
        }
    }
}

fn retry(error: Error, weight: Weight) -> Verdict {
    Verdict::Retry { leader: None, error, weight }
}

/// The request may have arrived and there will be no answer.
fn arrived_maybe(purpose: Purpose, endpoint: &str, cause: String) -> Verdict {
    let endpoint = endpoint.to_owned();
    match purpose {
        Purpose::Write => Verdict::Fail(Error::OutcomeUnknown { endpoint, cause }),
        Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
            retry(Error::Unavailable { endpoint, cause }, Weight::Silence)
        }
    }
}

fn node_error(purpose: Purpose, endpoint: &str, error: wire::Error) -> Verdict {
    let wire::Error { code, message: cause, leader, limit, keys_limit } = error;
    let endpoint_owned = endpoint.to_owned();
    match ErrorCode::try_from(code) {
        Ok(ErrorCode::NotLeader) => {
            let leader = leader.map(|member| member.client_address).filter(|address| !address.is_empty());
            let weight = if leader.is_some() { Weight::Redirect } else { Weight::Word };
            Verdict::Retry { leader, error: Error::Unavailable { endpoint: endpoint_owned, cause }, weight }
        }
        Ok(ErrorCode::Unavailable) => retry(Error::Unavailable { endpoint: endpoint_owned, cause }, Weight::Word),
        // Nothing says that the write had not entered the log before things went wrong.
        Ok(ErrorCode::OutcomeUnknown | ErrorCode::Timeout) => match purpose {
            Purpose::Write => Verdict::Fail(Error::OutcomeUnknown { endpoint: endpoint_owned, cause }),
            Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
                retry(Error::Unavailable { endpoint: endpoint_owned, cause }, Weight::Word)
            }
        },
        Ok(ErrorCode::Internal) => match purpose {
            Purpose::Write => {
                let cause = format!("internal error: {cause}");
                Verdict::Fail(Error::OutcomeUnknown { endpoint: endpoint_owned, cause })
            }
            Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
                Verdict::Fail(Error::Internal { endpoint: endpoint_owned, cause })
            }
        },
        Ok(ErrorCode::TooLarge) => Verdict::Fail(match keys_limit {
            Some(keys_max) => Error::RangeTooLarge { endpoint: endpoint_owned, keys_max, bytes_max: limit },
            None => Error::TooLarge { endpoint: endpoint_owned, part: Part::Request, bytes: None, limit },
        }),
        Ok(ErrorCode::Invalid | ErrorCode::Unsupported) => {
            Verdict::Fail(Error::Invalid { endpoint: endpoint_owned, cause })
        }
        // Each attempt stops writes for a while, so whether there is another is for whoever asked to decide.
        Ok(ErrorCode::NotHandedOver) => Verdict::Fail(Error::Unavailable { endpoint: endpoint_owned, cause }),
        Ok(ErrorCode::Permission) => Verdict::Fail(Error::Permission { endpoint: endpoint_owned, cause }),
        Ok(ErrorCode::Compacted) => Verdict::Fail(Error::CompactedRevision { endpoint: endpoint_owned, cause }),
        Ok(ErrorCode::FutureRevision) => Verdict::Fail(Error::FutureRevision { endpoint: endpoint_owned, cause }),
        Ok(ErrorCode::Corrupt) => Verdict::Fail(Error::Corrupt { endpoint: endpoint_owned, cause }),
        Err(_) => {
            let cause = format!("the node answered with error {code}, which this version does not know: {cause}");
            match purpose {
                Purpose::Write => Verdict::Fail(Error::OutcomeUnknown { endpoint: endpoint_owned, cause }),
                Purpose::Read | Purpose::LeaseRead | Purpose::StaleRead => {
                    Verdict::Fail(Error::Internal { endpoint: endpoint_owned, cause })
                }
            }
        }
    }
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

/// How long to wait for the answer to a read before asking elsewhere: a third of what is left, so that two others get a turn.
pub fn read_attempt_timeout(remaining: Duration) -> Duration {
    (remaining / 3).max(READ_ATTEMPT_MIN).min(remaining)
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
            Failure::Node(wire::Error { code: 999, message: String::new(), leader: None, limit: 0, keys_limit: None }),
        ];
        for failure in doubtful {
            let shown = format!("{failure:?}");
            let verdict = judge(Purpose::Write, "n1:1", failure);
            assert!(matches!(verdict, Verdict::Fail(Error::OutcomeUnknown { .. })), "{shown} came to {verdict:?}");
        }
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
            ] {
                let shown = format!("{failure:?}");
                let verdict = judge(purpose, "n1:1", failure);
                assert!(is_retry(&verdict), "{shown} came to {verdict:?}");
            }
        }
    }

    #[test]
    fn what_no_node_will_answer_otherwise_fails_at_once() {
        for purpose in [Purpose::Write, Purpose::Read, Purpose::StaleRead] {
            for code in [
                ErrorCode::Invalid,
                ErrorCode::Unsupported,
                ErrorCode::TooLarge,
                ErrorCode::Permission,
                ErrorCode::Compacted,
                ErrorCode::FutureRevision,
                ErrorCode::Corrupt,
            ] {
                let verdict = judge(purpose, "n1:1", answered(code));
                assert!(matches!(verdict, Verdict::Fail(_)), "{code:?} came to {verdict:?}");
            }
        }
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
        let verdict = judge(Purpose::Write, "n1:1", Failure::Node(wire::Error { keys_limit: Some(3), ..error }));
        assert_eq!(verdict, Verdict::Fail(Error::RangeTooLarge { endpoint: "n1:1".into(), keys_max: 3, bytes_max: 7 }));
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
        assert_eq!(read_attempt_timeout(remaining), remaining);
        assert_eq!(read_attempt_timeout(Duration::from_secs(6)), Duration::from_secs(2));
    }
}
