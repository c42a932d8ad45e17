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
}

/// A request that has one answer. Scans have many and go another way.
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
            Request::Put(_) | Request::Delete(_) | Request::MemberChange(_) => true,
            // A transfer that is asked for twice hands leadership over once.
            Request::Get(_) | Request::Status(_) | Request::NodeConfig(_) | Request::LeaderTransfer(_) => false,
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
        })
    }
}
