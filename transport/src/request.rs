//! What a client can ask and a node can answer, and how each travels: one frame kind for one protobuf body.

use crate::frame::{Frame, put_frame};
use crate::proto::client as wire;
use bytes::BytesMut;
use prost::Message as _;

/// Kinds of frame on the client protocol. Asking kinds are odd, answering kinds even.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const HELLO_REPLY: u8 = 2;
    pub(crate) const ERROR: u8 = 4;
    pub(crate) const PUT: u8 = 5;
    pub(crate) const PUT_REPLY: u8 = 6;
    pub(crate) const DELETE: u8 = 7;
    pub(crate) const DELETE_REPLY: u8 = 8;
    pub(crate) const GET: u8 = 9;
    pub(crate) const GET_REPLY: u8 = 10;
    pub(crate) const SCAN: u8 = 11;
    pub(crate) const SCAN_REPLY: u8 = 12;
    pub(crate) const STATUS: u8 = 13;
    pub(crate) const STATUS_REPLY: u8 = 14;
    pub(crate) const MEMBER_CHANGE: u8 = 15;
    pub(crate) const MEMBER_CHANGE_REPLY: u8 = 16;
    pub(crate) const NODE_CONFIG: u8 = 17;
    pub(crate) const NODE_CONFIG_REPLY: u8 = 18;
    pub(crate) const LEADER_TRANSFER: u8 = 19;
    pub(crate) const LEADER_TRANSFER_REPLY: u8 = 20;
    pub(crate) const TRANSACTION: u8 = 21;
    pub(crate) const TRANSACTION_REPLY: u8 = 22;
    pub(crate) const LEASE_GRANT: u8 = 23;
    pub(crate) const LEASE_GRANT_REPLY: u8 = 24;
    pub(crate) const LEASE_KEEP_ALIVE: u8 = 25;
    pub(crate) const LEASE_KEEP_ALIVE_REPLY: u8 = 26;
    pub(crate) const LEASE_REVOKE: u8 = 27;
    pub(crate) const LEASE_REVOKE_REPLY: u8 = 28;
    pub(crate) const LEASE_SHOW: u8 = 29;
    pub(crate) const LEASE_SHOW_REPLY: u8 = 30;
    pub(crate) const LEASE_LIST: u8 = 31;
    pub(crate) const LEASE_LIST_REPLY: u8 = 32;
    pub(crate) const SESSION_OPEN: u8 = 33;
    pub(crate) const SESSION_OPEN_REPLY: u8 = 34;
    pub(crate) const SESSION_CLOSE: u8 = 35;
    pub(crate) const SESSION_CLOSE_REPLY: u8 = 36;
    pub(crate) const COMPACT: u8 = 37;
    pub(crate) const COMPACT_REPLY: u8 = 38;
    pub(crate) const WATCH: u8 = 39;
    pub(crate) const WATCH_REPLY: u8 = 40;
}

/// A request that has one answer. Scans and watches have many and go another way.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Write one key.
    Put(wire::PutRequest),
    /// Delete keys.
    Delete(wire::DeleteRequest),
    /// Read one key.
    Get(wire::GetRequest),
    /// How is the node?
    Status(wire::StatusRequest),
    /// Change who is a member.
    MemberChange(wire::MemberChangeRequest),
    /// What a new member starts with.
    NodeConfig(wire::NodeConfigRequest),
    /// Hand leadership over.
    LeaderTransfer(wire::LeaderTransferRequest),
    /// Compare, and then do one thing or the other.
    Transaction(wire::TransactionRequest),
    /// Make a lease.
    LeaseGrant(wire::LeaseGrantRequest),
    /// Let a lease live on.
    LeaseKeepAlive(wire::LeaseKeepAliveRequest),
    /// End a lease.
    LeaseRevoke(wire::LeaseRevokeRequest),
    /// What is known of a lease.
    LeaseShow(wire::LeaseShowRequest),
    /// All leases.
    LeaseList(wire::LeaseListRequest),
    /// Make a session.
    SessionOpen(wire::SessionOpenRequest),
    /// End a session.
    SessionClose(wire::SessionCloseRequest),
    /// Let go of old revisions.
    Compact(wire::CompactRequest),
}

/// The answer to a [`Request`]: of the same name, or an error.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// To [`Request::Put`].
    Put(wire::PutReply),
    /// To [`Request::Delete`].
    Delete(wire::DeleteReply),
    /// To [`Request::Get`].
    Get(wire::GetReply),
    /// To [`Request::Status`].
    Status(wire::StatusReply),
    /// To [`Request::MemberChange`].
    MemberChange(wire::MemberChangeReply),
    /// To [`Request::NodeConfig`].
    NodeConfig(wire::NodeConfigReply),
    /// To [`Request::LeaderTransfer`].
    LeaderTransfer(wire::LeaderTransferReply),
    /// To [`Request::Transaction`].
    Transaction(wire::TransactionReply),
    /// To [`Request::LeaseGrant`].
    LeaseGrant(wire::LeaseGrantReply),
    /// To [`Request::LeaseKeepAlive`].
    LeaseKeepAlive(wire::LeaseKeepAliveReply),
    /// To [`Request::LeaseRevoke`].
    LeaseRevoke(wire::LeaseRevokeReply),
    /// To [`Request::LeaseShow`].
    LeaseShow(wire::LeaseShowReply),
    /// To [`Request::LeaseList`].
    LeaseList(wire::LeaseListReply),
    /// To [`Request::SessionOpen`].
    SessionOpen(wire::SessionOpenReply),
    /// To [`Request::SessionClose`].
    SessionClose(wire::SessionCloseReply),
    /// To [`Request::Compact`].
    Compact(wire::CompactReply),
    /// To any.
    Error(wire::Error),
}

/// Why a frame is no request or no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("frame kind {0} is not known here")]
    Kind(u8),
    #[error("the body does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
}

impl Request {
    /// Whether it changes data or members: losing its answer leaves its outcome unknown.
    #[must_use]
    pub fn is_write(&self) -> bool {
        match self {
            Request::Put(_)
            | Request::Delete(_)
            | Request::MemberChange(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_) => true,
            Request::Transaction(request) => request.transaction.as_ref().is_some_and(can_write),
            Request::Get(_)
            | Request::Status(_)
            | Request::NodeConfig(_)
            | Request::LeaseShow(_)
            | Request::LeaseList(_) => false,
            // Of these a second one does no harm: leadership is handed over once, a lease lives from the last one on, an earlier compaction changes
            // nothing, and a session too many ends by itself.
            Request::LeaderTransfer(_)
            | Request::LeaseKeepAlive(_)
            | Request::Compact(_)
            | Request::SessionOpen(_)
            | Request::SessionClose(_) => false,
        }
    }

    /// Where it says in which session it comes; `None` if no session can number it.
    pub fn session_mut(&mut self) -> Option<&mut Option<wire::SessionCall>> {
        match self {
            Request::Put(request) => Some(&mut request.session),
            Request::Delete(request) => Some(&mut request.session),
            Request::Transaction(request) => Some(&mut request.session),
            Request::LeaseGrant(request) => Some(&mut request.session),
            Request::LeaseRevoke(request) => Some(&mut request.session),
            Request::Get(_)
            | Request::Status(_)
            | Request::MemberChange(_)
            | Request::NodeConfig(_)
            | Request::LeaderTransfer(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseShow(_)
            | Request::LeaseList(_)
            | Request::SessionOpen(_)
            | Request::SessionClose(_)
            | Request::Compact(_) => None,
        }
    }

    /// In which session it comes, and under which number; `None`: in none.
    #[must_use]
    pub fn session(&self) -> Option<wire::SessionCall> {
        match self {
            Request::Put(request) => request.session,
            Request::Delete(request) => request.session,
            Request::Transaction(request) => request.session,
            Request::LeaseGrant(request) => request.session,
            Request::LeaseRevoke(request) => request.session,
            Request::Get(_)
            | Request::Status(_)
            | Request::MemberChange(_)
            | Request::NodeConfig(_)
            | Request::LeaderTransfer(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseShow(_)
            | Request::LeaseList(_)
            | Request::SessionOpen(_)
            | Request::SessionClose(_)
            | Request::Compact(_) => None,
        }
    }

    pub(crate) fn decode(frame: Frame) -> Result<Request, BodyError> {
        Ok(match frame.kind {
            kind::PUT => Request::Put(wire::PutRequest::decode(frame.body)?),
            kind::DELETE => Request::Delete(wire::DeleteRequest::decode(frame.body)?),
            kind::GET => Request::Get(wire::GetRequest::decode(frame.body)?),
            kind::STATUS => Request::Status(wire::StatusRequest::decode(frame.body)?),
            kind::MEMBER_CHANGE => Request::MemberChange(wire::MemberChangeRequest::decode(frame.body)?),
            kind::NODE_CONFIG => Request::NodeConfig(wire::NodeConfigRequest::decode(frame.body)?),
            kind::LEADER_TRANSFER => Request::LeaderTransfer(wire::LeaderTransferRequest::decode(frame.body)?),
            kind::TRANSACTION => Request::Transaction(wire::TransactionRequest::decode(frame.body)?),
            kind::LEASE_GRANT => Request::LeaseGrant(wire::LeaseGrantRequest::decode(frame.body)?),
            kind::LEASE_KEEP_ALIVE => Request::LeaseKeepAlive(wire::LeaseKeepAliveRequest::decode(frame.body)?),
            kind::LEASE_REVOKE => Request::LeaseRevoke(wire::LeaseRevokeRequest::decode(frame.body)?),
            kind::LEASE_SHOW => Request::LeaseShow(wire::LeaseShowRequest::decode(frame.body)?),
            kind::LEASE_LIST => Request::LeaseList(wire::LeaseListRequest::decode(frame.body)?),
            kind::SESSION_OPEN => Request::SessionOpen(wire::SessionOpenRequest::decode(frame.body)?),
            kind::SESSION_CLOSE => Request::SessionClose(wire::SessionCloseRequest::decode(frame.body)?),
            kind::COMPACT => Request::Compact(wire::CompactRequest::decode(frame.body)?),
            other => return Err(BodyError::Kind(other)),
        })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut, request: u64) {
        match self {
            Request::Put(body) => put_frame(out, kind::PUT, request, body),
            Request::Delete(body) => put_frame(out, kind::DELETE, request, body),
            Request::Get(body) => put_frame(out, kind::GET, request, body),
            Request::Status(body) => put_frame(out, kind::STATUS, request, body),
            Request::MemberChange(body) => put_frame(out, kind::MEMBER_CHANGE, request, body),
            Request::NodeConfig(body) => put_frame(out, kind::NODE_CONFIG, request, body),
            Request::LeaderTransfer(body) => put_frame(out, kind::LEADER_TRANSFER, request, body),
            Request::Transaction(body) => put_frame(out, kind::TRANSACTION, request, body),
            Request::LeaseGrant(body) => put_frame(out, kind::LEASE_GRANT, request, body),
            Request::LeaseKeepAlive(body) => put_frame(out, kind::LEASE_KEEP_ALIVE, request, body),
            Request::LeaseRevoke(body) => put_frame(out, kind::LEASE_REVOKE, request, body),
            Request::LeaseShow(body) => put_frame(out, kind::LEASE_SHOW, request, body),
            Request::LeaseList(body) => put_frame(out, kind::LEASE_LIST, request, body),
            Request::SessionOpen(body) => put_frame(out, kind::SESSION_OPEN, request, body),
            Request::SessionClose(body) => put_frame(out, kind::SESSION_CLOSE, request, body),
            Request::Compact(body) => put_frame(out, kind::COMPACT, request, body),
        }
    }

    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Request::Put(body) => body.encoded_len(),
            Request::Delete(body) => body.encoded_len(),
            Request::Get(body) => body.encoded_len(),
            Request::Status(body) => body.encoded_len(),
            Request::MemberChange(body) => body.encoded_len(),
            Request::NodeConfig(body) => body.encoded_len(),
            Request::LeaderTransfer(body) => body.encoded_len(),
            Request::Transaction(body) => body.encoded_len(),
            Request::LeaseGrant(body) => body.encoded_len(),
            Request::LeaseKeepAlive(body) => body.encoded_len(),
            Request::LeaseRevoke(body) => body.encoded_len(),
            Request::LeaseShow(body) => body.encoded_len(),
            Request::LeaseList(body) => body.encoded_len(),
            Request::SessionOpen(body) => body.encoded_len(),
            Request::SessionClose(body) => body.encoded_len(),
            Request::Compact(body) => body.encoded_len(),
        }
    }
}

impl Response {
    pub(crate) fn decode(frame: Frame) -> Result<Response, BodyError> {
        Ok(match frame.kind {
            kind::PUT_REPLY => Response::Put(wire::PutReply::decode(frame.body)?),
            kind::DELETE_REPLY => Response::Delete(wire::DeleteReply::decode(frame.body)?),
            kind::GET_REPLY => Response::Get(wire::GetReply::decode(frame.body)?),
            kind::STATUS_REPLY => Response::Status(wire::StatusReply::decode(frame.body)?),
            kind::MEMBER_CHANGE_REPLY => Response::MemberChange(wire::MemberChangeReply::decode(frame.body)?),
            kind::NODE_CONFIG_REPLY => Response::NodeConfig(wire::NodeConfigReply::decode(frame.body)?),
            kind::LEADER_TRANSFER_REPLY => Response::LeaderTransfer(wire::LeaderTransferReply::decode(frame.body)?),
            kind::TRANSACTION_REPLY => Response::Transaction(wire::TransactionReply::decode(frame.body)?),
            kind::LEASE_GRANT_REPLY => Response::LeaseGrant(wire::LeaseGrantReply::decode(frame.body)?),
            kind::LEASE_KEEP_ALIVE_REPLY => Response::LeaseKeepAlive(wire::LeaseKeepAliveReply::decode(frame.body)?),
            kind::LEASE_REVOKE_REPLY => Response::LeaseRevoke(wire::LeaseRevokeReply::decode(frame.body)?),
            kind::LEASE_SHOW_REPLY => Response::LeaseShow(wire::LeaseShowReply::decode(frame.body)?),
            kind::LEASE_LIST_REPLY => Response::LeaseList(wire::LeaseListReply::decode(frame.body)?),
            kind::SESSION_OPEN_REPLY => Response::SessionOpen(wire::SessionOpenReply::decode(frame.body)?),
            kind::SESSION_CLOSE_REPLY => Response::SessionClose(wire::SessionCloseReply::decode(frame.body)?),
            kind::COMPACT_REPLY => Response::Compact(wire::CompactReply::decode(frame.body)?),
            kind::ERROR => Response::Error(wire::Error::decode(frame.body)?),
            other => return Err(BodyError::Kind(other)),
        })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut, request: u64) {
        match self {
            Response::Put(body) => put_frame(out, kind::PUT_REPLY, request, body),
            Response::Delete(body) => put_frame(out, kind::DELETE_REPLY, request, body),
            Response::Get(body) => put_frame(out, kind::GET_REPLY, request, body),
            Response::Status(body) => put_frame(out, kind::STATUS_REPLY, request, body),
            Response::MemberChange(body) => put_frame(out, kind::MEMBER_CHANGE_REPLY, request, body),
            Response::NodeConfig(body) => put_frame(out, kind::NODE_CONFIG_REPLY, request, body),
            Response::LeaderTransfer(body) => put_frame(out, kind::LEADER_TRANSFER_REPLY, request, body),
            Response::Transaction(body) => put_frame(out, kind::TRANSACTION_REPLY, request, body),
            Response::LeaseGrant(body) => put_frame(out, kind::LEASE_GRANT_REPLY, request, body),
            Response::LeaseKeepAlive(body) => put_frame(out, kind::LEASE_KEEP_ALIVE_REPLY, request, body),
            Response::LeaseRevoke(body) => put_frame(out, kind::LEASE_REVOKE_REPLY, request, body),
            Response::LeaseShow(body) => put_frame(out, kind::LEASE_SHOW_REPLY, request, body),
            Response::LeaseList(body) => put_frame(out, kind::LEASE_LIST_REPLY, request, body),
            Response::SessionOpen(body) => put_frame(out, kind::SESSION_OPEN_REPLY, request, body),
            Response::SessionClose(body) => put_frame(out, kind::SESSION_CLOSE_REPLY, request, body),
            Response::Compact(body) => put_frame(out, kind::COMPACT_REPLY, request, body),
            Response::Error(body) => put_frame(out, kind::ERROR, request, body),
        }
    }

    /// An error with nothing but a code and a text.
    #[must_use]
    pub fn error(code: wire::ErrorCode, message: impl Into<String>) -> Response {
        Response::Error(wire::Error {
            code: code.into(),
            message: message.into(),
            leader: None,
            limit: 0,
            keys_limit: None,
            compacted: None,
        })
    }
}

/// Whether a transaction can change data, whichever way it goes.
fn can_write(transaction: &wire::Transaction) -> bool {
    use wire::operation::Kind;
    transaction.success.iter().chain(&transaction.failure).any(|operation| match &operation.kind {
        Some(Kind::Put(_) | Kind::Delete(_)) => true,
        Some(Kind::Transaction(transaction)) => can_write(transaction),
        Some(Kind::Range(_)) | None => false,
    })
}
