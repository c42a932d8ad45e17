//! The few messages of etcd's v3 API that the comparison sends and reads, written by hand: only the fields it uses. Others that the
//! server sends are skipped, as protobuf has it.

use bytes::Bytes;

/// `etcdserverpb.KV/Put`.
pub(super) const PUT: &str = "/etcdserverpb.KV/Put";
/// `etcdserverpb.KV/Range`.
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
/// `etcdserverpb.Maintenance/Status`.
pub(super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// Writes one key.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// The answer to a put; sent once the entry is committed and applied.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

/// Reads one key, or with more fields a range of them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    /// Reads what the member has, without asking for a quorum. False, the default, is a linearizable read.
    #[prost(bool, tag = "7")]
    pub(super) serializable: bool,
}

/// The answer to a range.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

/// One pair.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
}

/// With every answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    pub(super) member_id: u64,
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

/// Asks a member how it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusRequest {}

/// How a member is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    /// 0: none is known.
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
}
