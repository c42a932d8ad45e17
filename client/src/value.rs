//! What comes back: pairs, and the outcomes of single requests.

use bytes::Bytes;
use std::sync::Arc;
use transport::proto::client as wire;

/// A key with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a scan of keys only.
    pub value: Bytes,
    /// The revision at which the key came to exist.
    pub create_revision: u64,
    /// The revision of its last change.
    pub mod_revision: u64,
    /// 1 at creation, one more at each change, anew after a delete.
    pub version: u64,
    /// The lease that it ends with, if any.
    pub lease: Option<u64>,
}

impl From<wire::KeyValue> for KeyValue {
    fn from(kv: wire::KeyValue) -> KeyValue {
        KeyValue {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: (kv.lease != 0).then_some(kv.lease),
        }
    }
}

/// A put that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOutcome {
    /// The store's revision after it: the key's new `mod_revision`.
    pub revision: u64,
    /// The log index that it took.
    pub index: u64,
    /// What the key held before, when asked for.
    pub previous: Option<KeyValue>,
}

/// A delete that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The store's revision after it.
    pub revision: u64,
    /// The log index that it took.
    pub index: u64,
    /// Keys deleted.
    pub deleted: u64,
    /// What they held, when asked for.
    pub previous: Vec<KeyValue>,
    /// The node that answered, as `host:port`.
    pub endpoint: Arc<str>,
}

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The store's revision when it answered.
    pub revision: u64,
    /// The pair, unless the key does not exist.
    pub kv: Option<KeyValue>,
    /// The node that answered, as `host:port`.
    pub endpoint: Arc<str>,
}

/// Revision and log index out of a header; absent reads as zero, as protobuf has it.
pub(crate) fn header(header: Option<wire::Header>) -> (u64, u64) {
    header.map_or((0, 0), |header| (header.revision, header.index))
}
