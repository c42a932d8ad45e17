//! Why a connection was not made, in a form that a program can act on and a person can read.
//!
//! Three parties can say no. Our own checks can turn the other side down; the other side's TLS can turn us down, with an alert;
//! and the other side's identity check can close the connection with a [`RefusalCode`] and a sentence. In TLS 1.3 the dialling side
//! has finished its handshake before the other side has looked at its certificate, so the last two arrive while the Hello is under
//! way, and [`ConnectError`] is what the whole exchange comes to, never the handshake alone.

use crate::alert::{self, alert_of};
use crate::identity::{Identity, IdentityError};
use quinn::{ConnectionError, VarInt};
use std::io;
use std::time::Duration;

/// Why one side closed a connection that TLS had allowed, or broke a stream off: QUIC application codes of both protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// An ordinary end: shutdown, or no longer needed.
    Done,
    /// The certificate's cluster is another one.
    WrongCluster,
    /// The certificate's role has no business on this port.
    WrongRole,
    /// Not the node that was dialled, or not a member.
    WrongNode,
    /// The certificate carries no identity that can be read.
    NoIdentity,
    /// Cluster-wide settings differ.
    SettingsDiffer,
    /// A frame that breaks the protocol.
    Protocol,
    /// The Hello took too long.
    HelloTimeout,
    /// Of a stream: what was asked for on it is not taken.
    NotTaken,
    /// A code that this version does not know.
    Unknown(u32),
}

impl RefusalCode {
    const ALL: [RefusalCode; 9] = [
        RefusalCode::Done,
        RefusalCode::WrongCluster,
        RefusalCode::WrongRole,
        RefusalCode::WrongNode,
        RefusalCode::NoIdentity,
        RefusalCode::SettingsDiffer,
        RefusalCode::Protocol,
        RefusalCode::HelloTimeout,
        RefusalCode::NotTaken,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            RefusalCode::Done => 0,
            RefusalCode::WrongCluster => 1,
            RefusalCode::WrongRole => 2,
            RefusalCode::WrongNode => 3,
            RefusalCode::NoIdentity => 4,
            RefusalCode::SettingsDiffer => 5,
            RefusalCode::Protocol => 6,
            RefusalCode::HelloTimeout => 7,
            RefusalCode::NotTaken => 8,
            RefusalCode::Unknown(code) => code,
        }
    }

    pub(crate) fn from_wire(code: VarInt) -> RefusalCode {
        let number = u32::try_from(code.into_inner()).unwrap_or(u32::MAX);
        RefusalCode::ALL.into_iter().find(|known| known.code() == number).unwrap_or(RefusalCode::Unknown(number))
    }

    /// Whether it is about who the other side is: trying again changes nothing.
    #[must_use]
    pub fn is_permission(self) -> bool {
        match self {
            RefusalCode::WrongCluster
            | RefusalCode::WrongRole
            | RefusalCode::WrongNode
            | RefusalCode::NoIdentity
            | RefusalCode::SettingsDiffer => true,
            RefusalCode::Done
            | RefusalCode::Protocol
            | RefusalCode::HelloTimeout
            | RefusalCode::NotTaken
            | RefusalCode::Unknown(_) => false,
        }
    }
}

/// A refusal about to be sent, or received: a code, and the cause for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    /// What a program acts on.
    pub(crate) code: RefusalCode,
    /// What a person reads.
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, reason: impl Into<String>) -> Refusal {
        Refusal { code, reason: reason.into() }
    }

    pub(crate) fn close(&self, connection: &quinn::Connection) {
        connection.close(VarInt::from_u32(self.code.code()), self.reason.as_bytes());
    }
}

/// Why no connection came about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The address is not `host:port`, or its host does not resolve.
    #[error("{address} does not resolve: {detail}")]
    Resolve {
        /// What was asked for.
        address: String,
        /// What the resolver said.
        detail: String,
    },
    /// No local socket could be made.
    #[error("no local socket for {address}: {detail}")]
    Socket {
        /// Whom it was for.
        address: String,
        /// What the operating system said.
        detail: String,
    },
    /// TLS failed: a certificate is not of this cluster's authority, has expired, is missing, or the protocols differ.
    #[error("{address}: TLS: {reason}")]
    Tls {
        /// Whom we dialled.
        address: String,
        /// The TLS alert, as in RFC 8446 section 6.
        alert: u8,
        /// Whether the other side turned us down; otherwise we turned it down.
        by_peer: bool,
        /// The cause and the next step.
        reason: String,
    },
    /// The other side's certificate is good but it is not who we want.
    #[error("{address} is {found}, but {wanted} was wanted")]
    WrongPeer {
        /// Whom we dialled.
        address: String,
        /// Who answered.
        found: Identity,
        /// Who should have.
        wanted: String,
    },
    /// The other side's certificate says nothing we understand.
    #[error("{address}: {cause}")]
    PeerIdentity {
        /// Whom we dialled.
        address: String,
        /// What is wrong with it.
        cause: IdentityError,
    },
    /// The other side closed the connection and said why.
    #[error("{address} refused: {reason}")]
    Refused {
        /// Whom we dialled.
        address: String,
        /// What a program acts on.
        code: RefusalCode,
        /// What a person reads.
        reason: String,
    },
    /// Nobody answered, or the connection broke before the Hello was through.
    #[error("{address} is unreachable: {reason}")]
    Unreachable {
        /// Whom we dialled.
        address: String,
        /// The cause.
        reason: String,
    },
    /// No answer within the time allowed.
    #[error("{address} did not answer within {} ms", after.as_millis())]
    TimedOut {
        /// Whom we dialled.
        address: String,
        /// The time allowed.
        after: Duration,
    },
    /// The other side answered with something that is not this protocol.
    #[error("{address} does not speak this protocol: {reason}")]
    Protocol {
        /// Whom we dialled.
        address: String,
        /// What was wrong.
        reason: String,
    },
}

impl ConnectError {
    /// Whether the cause is certificates or permission: trying again changes nothing, and a command-line tool says so with an exit
    /// code of its own.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            ConnectError::Tls { .. } | ConnectError::WrongPeer { .. } | ConnectError::PeerIdentity { .. } => true,
            ConnectError::Refused { code, .. } => code.is_permission(),
            ConnectError::Resolve { .. }
            | ConnectError::Socket { .. }
            | ConnectError::Unreachable { .. }
            | ConnectError::TimedOut { .. }
            | ConnectError::Protocol { .. } => false,
        }
    }

    pub(crate) fn socket(address: &str, error: &io::Error) -> ConnectError {
        ConnectError::Socket { address: address.to_owned(), detail: error.to_string() }
    }

    pub(crate) fn from_connection(address: &str, error: &ConnectionError) -> ConnectError {
        let address = address.to_owned();
        match error {
            ConnectionError::TransportError(error) => match alert_of(error.code) {
                Some(alert) => ConnectError::Tls {
                    address,
                    alert,
                    by_peer: false,
                    reason: alert::explain_rejected_peer(alert, &error.reason),
                },
                None => ConnectError::Unreachable { address, reason: error.to_string() },
            },
            ConnectionError::ConnectionClosed(close) => match alert_of(close.error_code) {
                Some(alert) => {
                    let detail = String::from_utf8_lossy(&close.reason);
                    ConnectError::Tls {
                        address,
                        alert,
                        by_peer: true,
                        reason: alert::explain_rejected_us(alert, &detail),
                    }
                }
                None => ConnectError::Unreachable { address, reason: close.to_string() },
            },
            ConnectionError::ApplicationClosed(close) => ConnectError::Refused {
                address,
                code: RefusalCode::from_wire(close.error_code),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            ConnectionError::VersionMismatch
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => ConnectError::Unreachable { address, reason: error.to_string() },
        }
    }
}
