//! What can be asked. Each request is a value that is built up and handed to the [`Client`](crate::Client).

use crate::error::Part;
use bytes::Bytes;
use std::time::Duration;
use transport::Request;
use transport::proto::client as wire;

/// How current a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// The same, on the word of the leader's lease if the cluster has leases on (`[cluster] lease_reads`): the leader answers without
    /// asking a majority. Then it is as good as the nodes' clocks; otherwise it is as [`Level::Linearizable`].
    Lease,
    /// Whatever the node asked has applied.
    Stale {
        /// Refuse to answer with state older than this; milliseconds count.
        age_max: Option<Duration>,
    },
}

impl Level {
    pub(crate) fn wire(self) -> (i32, Option<u64>) {
        match self {
            Level::Linearizable => (wire::ReadLevel::Linearizable.into(), None),
            Level::Lease => (wire::ReadLevel::Lease.into(), None),
            Level::Stale { age_max } => {
                let age_ms_max = age_max.map(milliseconds);
                (wire::ReadLevel::Stale.into(), age_ms_max)
            }
        }
    }
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent,
    /// The key's `mod_revision` is this.
    Revision(u64),
    /// The key exists with this value.
    Value(Bytes),
}

impl From<Condition> for wire::Condition {
    fn from(condition: Condition) -> wire::Condition {
        use wire::condition::Kind;
        let kind = match condition {
            Condition::Absent => Kind::Absent(true),
            Condition::Revision(revision) => Kind::ModRevision(revision),
            Condition::Value(value) => Kind::Value(value),
        };
        wire::Condition { kind: Some(kind) }
    }
}

/// Write one key.
///
/// ```
/// use raftkv_client::Put;
/// let put = Put::new("leader", "n1").if_absent().with_previous();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    key: Bytes,
    value: Bytes,
    condition: Option<Condition>,
    previous: bool,
    lifetime: Lifetime,
    keep_value: bool,
}

/// What a key lives by once it has been put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Lifetime {
    /// Until it is deleted.
    #[default]
    Unlimited,
    /// A lease that there is.
    Lease(u64),
    /// A lease of its own, made for it.
    TimeToLive(Duration),
    /// What it has lived by before.
    Keep,
}

impl Put {
    /// Write `value` under `key`.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        let (key, value) = (key.into(), value.into());
        Put { key, value, condition: None, previous: false, lifetime: Lifetime::default(), keep_value: false }
    }

    /// Let the key live by this lease: it is deleted when the lease ends. Refused with [`Error::LeaseUnknown`](crate::Error::LeaseUnknown)
    /// if there is none.
    #[must_use]
    pub fn lease(mut self, id: u64) -> Put {
        self.lifetime = Lifetime::Lease(id);
        self
    }

    /// Let the key live for so long, in whole milliseconds, [`LEASE_TTL_MIN`](crate::LEASE_TTL_MIN) to [`LEASE_TTL_MAX`](crate::LEASE_TTL_MAX): then it is deleted, unless it was put anew.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::Put;
    /// use std::time::Duration;
    /// client.put(Put::new("session/7", "ann").ttl(Duration::from_secs(60))).await?;
    /// // Another value; the minute goes on.
    /// client.put(Put::new("session/7", "ann and bob").keep_lease()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ttl(mut self, time_to_live: Duration) -> Put {
        self.lifetime = Lifetime::TimeToLive(time_to_live);
        self
    }

    /// Let the key live by what it has lived by before. Refused with [`Error::KeyUnknown`](crate::Error::KeyUnknown) if it does not exist.
    /// Without this, and without a lease or time to live, a put makes its key live until it is deleted.
    #[must_use]
    pub fn keep_lease(mut self) -> Put {
        self.lifetime = Lifetime::Keep;
        self
    }

    /// Keep the value that the key has; the one given is not sent. Refused with [`Error::KeyUnknown`](crate::Error::KeyUnknown) if it does
    /// not exist. With [`Put::lease`] or [`Put::ttl`], it changes what a key lives by, and nothing else.
    #[must_use]
    pub fn keep_value(mut self) -> Put {
        self.keep_value = true;
        self.value = Bytes::new();
        self
    }

    /// Only under this condition.
    #[must_use]
    pub fn only_if(mut self, condition: Condition) -> Put {
        self.condition = Some(condition);
        self
    }

    /// Only if the key does not exist.
    #[must_use]
    pub fn if_absent(self) -> Put {
        self.only_if(Condition::Absent)
    }

    /// Only if the key was last changed at this revision.
    #[must_use]
    pub fn if_revision(self, revision: u64) -> Put {
        self.only_if(Condition::Revision(revision))
    }

    /// Only if the key exists and holds this value.
    #[must_use]
    pub fn if_value(self, value: impl Into<Bytes>) -> Put {
        self.only_if(Condition::Value(value.into()))
    }

    /// Answer with what the key held before; when a condition does not hold, with the value that it holds.
    #[must_use]
    pub fn with_previous(mut self) -> Put {
        self.previous = true;
        self
    }

    pub(crate) fn into_wire(self) -> wire::PutRequest {
        use wire::put_request::Lease;
        wire::PutRequest {
            key: self.key,
            value: self.value,
            condition: self.condition.map(Into::into),
            previous: self.previous,
            keep_value: self.keep_value,
            session: None,
            lease: match self.lifetime {
                Lifetime::Unlimited => None,
                Lifetime::Lease(id) => Some(Lease::LeaseId(id)),
                Lifetime::TimeToLive(duration) => Some(Lease::TtlMs(milliseconds(duration))),
                Lifetime::Keep => Some(Lease::KeepLease(true)),
            },
        }
    }
}

/// A duration as it travels; what is longer than the field holds is as good as for ever.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<K: Into<Bytes>, V: Into<Bytes>> From<(K, V)> for Put {
    fn from((key, value): (K, V)) -> Put {
        Put::new(key, value)
    }
}

/// Read one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    key: Bytes,
    revision: Option<u64>,
    level: Level,
    revision_min: Option<u64>,
}

impl Get {
    /// Read `key` as it is.
    pub fn new(key: impl Into<Bytes>) -> Get {
        Get { key: key.into(), revision: None, level: Level::Linearizable, revision_min: None }
    }

    /// Read it as it was at this revision.
    #[must_use]
    pub fn at_revision(mut self, revision: u64) -> Get {
        self.revision = Some(revision);
        self
    }

    /// How current the answer has to be.
    #[must_use]
    pub fn level(mut self, level: Level) -> Get {
        self.level = level;
        self
    }

    /// Of a stale read: only from a node whose state is at this revision or later; one that is not there yet is tried again, and others are asked. What
    /// a write returned as its revision is seen by such a read, without asking a leader.
    #[must_use]
    pub fn at_least_revision(mut self, revision: u64) -> Get {
        self.revision_min = Some(revision);
        self
    }

    pub(crate) fn read_level(&self) -> Level {
        self.level
    }

    pub(crate) fn into_wire(self) -> wire::GetRequest {
        let (level, age_ms_max) = self.level.wire();
        let Get { key, revision, revision_min, .. } = self;
        wire::GetRequest { key, revision, level, age_ms_max, revision_min }
    }
}

impl<K: Into<Bytes>> From<K> for Get {
    fn from(key: K) -> Get {
        Get::new(key)
    }
}

/// Keys from a first one to before a last one, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Range {
    /// The first key, inclusive.
    pub start: Bytes,
    /// The end, exclusive. `None` goes on to the last key.
    pub end: Option<Bytes>,
}

impl Range {
    /// Every key.
    #[must_use]
    pub fn all() -> Range {
        Range::default()
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Range {
        let start = key.into();
        let end = successor(&start);
        Range { start, end: Some(end) }
    }

    /// Every key that begins with these bytes.
    pub fn prefix(prefix: impl Into<Bytes>) -> Range {
        let start = prefix.into();
        let end = prefix_end(&start);
        Range { start, end }
    }

    /// From `start`, inclusive, to `end`, exclusive.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Range {
        Range { start: start.into(), end: Some(end.into()) }
    }

    /// From `start`, inclusive, to the last key.
    pub fn from(start: impl Into<Bytes>) -> Range {
        Range { start: start.into(), end: None }
    }

    /// Whether no key can lie in it, because it ends where it begins, or before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    pub(crate) fn into_wire(self) -> wire::KeyRange {
        wire::KeyRange { start: self.start, end: self.end }
    }
}

/// The first key after `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The first key after all that begin with `prefix`; none when nothing can follow, as for "" and 0xff 0xff.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Delete keys.
///
/// ```
/// use raftkv_client::{Delete, Range};
/// let one = Delete::key("color");
/// let many = Delete::range(Range::prefix("session/")).with_previous();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    range: Range,
    previous: bool,
}

impl Delete {
    /// Delete one key.
    pub fn key(key: impl Into<Bytes>) -> Delete {
        Delete::range(Range::key(key))
    }

    /// Delete every key in a range, all at one revision; refused with [`Error::RangeTooLarge`](crate::Error::RangeTooLarge) when it holds
    /// too much for that.
    #[must_use]
    pub fn range(range: Range) -> Delete {
        Delete { range, previous: false }
    }

    /// Answer with what the keys held.
    #[must_use]
    pub fn with_previous(mut self) -> Delete {
        self.previous = true;
        self
    }

    pub(crate) fn into_wire(self) -> wire::DeleteRequest {
        wire::DeleteRequest { range: Some(self.range.into_wire()), previous: self.previous, session: None }
    }
}

/// What pairs are sorted by. Pairs that are equal in it come in key order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// The key: streamed, however many there are.
    #[default]
    Key,
    /// The version.
    Version,
    /// The revision at which it was created.
    CreateRevision,
    /// The revision at which it was last written.
    ModRevision,
    /// The value, as bytes.
    Value,
}

impl From<SortBy> for wire::SortBy {
    fn from(sort_by: SortBy) -> wire::SortBy {
        match sort_by {
            SortBy::Key => wire::SortBy::Key,
            SortBy::Version => wire::SortBy::Version,
            SortBy::CreateRevision => wire::SortBy::CreateRevision,
            SortBy::ModRevision => wire::SortBy::ModRevision,
            SortBy::Value => wire::SortBy::Value,
        }
    }
}

/// Read a range, in order, all at one revision. Once it has begun, a compaction of that revision does not end it, as long as it stays at its node and takes
/// no more than an hour.
///
/// ```
/// use raftkv_client::{Range, Scan, SortBy};
/// let last_keys = Scan::new(Range::prefix("log/")).reverse().limit(10);
/// let changed_last = Scan::new(Range::all()).sort_by(SortBy::ModRevision).reverse().limit(10);
/// let since = Scan::new(Range::all()).min_mod_revision(1200).count_total();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub(crate) range: Range,
    /// 0: none.
    pub(crate) limit: u64,
    pub(crate) reverse: bool,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
    pub(crate) revision: Option<u64>,
    pub(crate) level: Level,
    pub(crate) sort_by: SortBy,
    pub(crate) mod_revision_min: Option<u64>,
    pub(crate) mod_revision_max: Option<u64>,
    pub(crate) create_revision_min: Option<u64>,
    pub(crate) create_revision_max: Option<u64>,
    pub(crate) count_total: bool,
    pub(crate) revision_min: Option<u64>,
}

impl Scan {
    /// Read everything in `range`.
    #[must_use]
    pub fn new(range: Range) -> Scan {
        Scan {
            range,
            limit: 0,
            reverse: false,
            keys_only: false,
            count_only: false,
            revision: None,
            level: Level::Linearizable,
            sort_by: SortBy::Key,
            mod_revision_min: None,
            mod_revision_max: None,
            create_revision_min: None,
            create_revision_max: None,
            count_total: false,
            revision_min: None,
        }
    }

    /// At most so many pairs; 0 means no limit.
    #[must_use]
    pub fn limit(mut self, pairs_max: u64) -> Scan {
        self.limit = pairs_max;
        self
    }

    /// In this order. The node sorts any other than by key in memory: without a limit it refuses what does not fit in 64 MiB, with one it
    /// keeps no more than so many pairs.
    #[must_use]
    pub fn sort_by(mut self, sort_by: SortBy) -> Scan {
        self.sort_by = sort_by;
        self
    }

    /// Only keys that were last written at this revision or later.
    #[must_use]
    pub fn min_mod_revision(mut self, revision: u64) -> Scan {
        self.mod_revision_min = Some(revision);
        self
    }

    /// Only keys that were last written at this revision or earlier.
    #[must_use]
    pub fn max_mod_revision(mut self, revision: u64) -> Scan {
        self.mod_revision_max = Some(revision);
        self
    }

    /// Only keys that were created at this revision or later.
    #[must_use]
    pub fn min_create_revision(mut self, revision: u64) -> Scan {
        self.create_revision_min = Some(revision);
        self
    }

    /// Only keys that were created at this revision or earlier.
    #[must_use]
    pub fn max_create_revision(mut self, revision: u64) -> Scan {
        self.create_revision_max = Some(revision);
        self
    }

    /// Say in the end how many keys the range holds, whatever limit and revisions leave out: [`ScanSummary::total`](crate::ScanSummary). The node goes through
    /// all of them for that.
    #[must_use]
    pub fn count_total(mut self) -> Scan {
        self.count_total = true;
        self
    }

    /// Of a stale read: only from a node whose state is at this revision or later.
    #[must_use]
    pub fn at_least_revision(mut self, revision: u64) -> Scan {
        self.revision_min = Some(revision);
        self
    }

    /// From the last to the first, whatever they are sorted by.
    #[must_use]
    pub fn reverse(mut self) -> Scan {
        self.reverse = true;
        self
    }

    /// Without the values.
    #[must_use]
    pub fn keys_only(mut self) -> Scan {
        self.keys_only = true;
        self
    }

    /// Only how many the range holds: no pairs come, and [`ScanSummary::count`](crate::ScanSummary) tells. Limit and revisions leave nothing out of it.
    #[must_use]
    pub fn count_only(mut self) -> Scan {
        self.count_only = true;
        self
    }

    /// As it was at this revision.
    #[must_use]
    pub fn at_revision(mut self, revision: u64) -> Scan {
        self.revision = Some(revision);
        self
    }

    /// How current the answer has to be.
    #[must_use]
    pub fn level(mut self, level: Level) -> Scan {
        self.level = level;
        self
    }

    pub(crate) fn to_wire(&self) -> wire::ScanRequest {
        let (level, age_ms_max) = self.level.wire();
        wire::ScanRequest {
            range: Some(self.range.clone().into_wire()),
            limit: self.limit,
            reverse: self.reverse,
            keys_only: self.keys_only,
            count_only: self.count_only,
            revision: self.revision,
            level,
            age_ms_max,
            revision_min: self.revision_min,
            sort_by: wire::SortBy::from(self.sort_by).into(),
            descending: false,
            mod_revision_min: self.mod_revision_min,
            mod_revision_max: self.mod_revision_max,
            create_revision_min: self.create_revision_min,
            create_revision_max: self.create_revision_max,
            count_total: self.count_total,
        }
    }
}

/// What a node takes, as it said when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) key_bytes_max: u64,
    pub(crate) value_bytes_max: u64,
}

/// A part of a request that is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// Which part.
    pub part: Part,
    /// Its size.
    pub bytes: u64,
    /// The limit.
    pub limit: u64,
}

impl Limits {
    /// What of a request is too long. Ends of ranges are left to the node: they are not stored, and the end of a single key is
    /// one byte longer than the key.
    pub(crate) fn excess(&self, request: &Request) -> Option<Excess> {
        match request {
            Request::Put(put) => self.put_excess(put),
            Request::Get(get) => self.key_excess(&get.key),
            Request::Delete(delete) => self.range_excess(delete.range.as_ref()),
            Request::Transaction(request) => {
                request.transaction.as_ref().and_then(|transaction| self.transaction_excess(transaction))
            }
            Request::Status(_)
            | Request::MemberChange(_)
            | Request::NodeConfig(_)
            | Request::LeaderTransfer(_)
            | Request::LeaseGrant(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseShow(_)
            | Request::LeaseList(_)
            | Request::SessionOpen(_)
            | Request::SessionClose(_)
            | Request::Compact(_) => None,
        }
    }

    fn put_excess(&self, put: &wire::PutRequest) -> Option<Excess> {
        self.key_excess(&put.key).or_else(|| self.value_excess(&put.value)).or_else(|| {
            match put.condition.as_ref().and_then(|condition| condition.kind.as_ref()) {
                Some(wire::condition::Kind::Value(value)) => self.value_excess(value),
                Some(wire::condition::Kind::Absent(_) | wire::condition::Kind::ModRevision(_)) | None => None,
            }
        })
    }

    fn transaction_excess(&self, transaction: &wire::Transaction) -> Option<Excess> {
        use wire::operation::Kind;
        let compared = transaction.compares.iter().find_map(|compare| {
            self.range_excess(compare.range.as_ref()).or_else(|| match &compare.target {
                Some(wire::compare::Target::Value(value)) => self.value_excess(value),
                Some(
                    wire::compare::Target::Version(_)
                    | wire::compare::Target::CreateRevision(_)
                    | wire::compare::Target::ModRevision(_)
                    | wire::compare::Target::Lease(_),
                )
                | None => None,
            })
        });
        let mut operations = transaction.success.iter().chain(&transaction.failure);
        compared.or_else(|| {
            operations.find_map(|operation| match operation.kind.as_ref()? {
                Kind::Put(put) => self.put_excess(put),
                Kind::Delete(delete) => self.range_excess(delete.range.as_ref()),
                Kind::Range(scan) => self.range_excess(scan.range.as_ref()),
                Kind::Transaction(transaction) => self.transaction_excess(transaction),
            })
        })
    }

    fn range_excess(&self, range: Option<&wire::KeyRange>) -> Option<Excess> {
        self.key_excess(&range?.start)
    }

    fn key_excess(&self, key: &[u8]) -> Option<Excess> {
        excess(Part::Key, key.len(), self.key_bytes_max)
    }

    fn value_excess(&self, value: &[u8]) -> Option<Excess> {
        excess(Part::Value, value.len(), self.value_bytes_max)
    }
}

/// A limit of zero was not told: the node will say itself.
fn excess(part: Part, bytes: usize, limit: u64) -> Option<Excess> {
    let bytes = bytes as u64;
    (limit > 0 && bytes > limit).then_some(Excess { part, bytes, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_first_key_that_does_not_have_it() {
        let cases: [(&[u8], Option<&[u8]>); 6] = [
            (b"a", Some(b"b")),
            (b"a/", Some(b"a0")),
            (b"a\xff", Some(b"b")),
            (b"a\xff\xff", Some(b"b")),
            (b"\xff\xff", None),
            (b"", None),
        ];
        for (prefix, end) in cases {
            assert_eq!(Range::prefix(prefix.to_vec()).end.as_deref(), end, "prefix {prefix:?}");
        }
    }

    #[test]
    fn the_range_of_a_key_holds_that_key_alone() {
        let range = Range::key("k");
        assert_eq!((range.start.as_ref(), range.end.as_deref()), (b"k".as_slice(), Some(b"k\0".as_slice())));
    }

    #[test]
    fn what_is_exactly_at_a_limit_passes_and_one_byte_more_does_not() {
        let limits = Limits { key_bytes_max: 4, value_bytes_max: 8 };
        let put = |key: usize, value: usize| Request::Put(Put::new(vec![b'k'; key], vec![b'v'; value]).into_wire());
        assert_eq!(limits.excess(&put(4, 8)), None);
        assert_eq!(limits.excess(&put(5, 8)), Some(Excess { part: Part::Key, bytes: 5, limit: 4 }));
        assert_eq!(limits.excess(&put(4, 9)), Some(Excess { part: Part::Value, bytes: 9, limit: 8 }));
        let conditional = Request::Put(Put::new("k", "v").if_value(vec![b'v'; 9]).into_wire());
        assert_eq!(limits.excess(&conditional), Some(Excess { part: Part::Value, bytes: 9, limit: 8 }));
        assert_eq!(limits.excess(&Request::Delete(Delete::key("abcd").into_wire())), None);
        let get = Request::Get(Get::new("abcde").into_wire());
        assert_eq!(limits.excess(&get).map(|excess| excess.part), Some(Part::Key));
    }

    #[test]
    fn a_limit_that_was_not_told_limits_nothing() {
        let limits = Limits { key_bytes_max: 0, value_bytes_max: 0 };
        assert_eq!(limits.excess(&Request::Put(Put::new(vec![0; 9000], vec![0; 9000]).into_wire())), None);
    }

    #[test]
    fn ages_travel_in_milliseconds() {
        let get = Get::new("k").level(Level::Stale { age_max: Some(Duration::from_secs(2)) }).into_wire();
        assert_eq!((get.level, get.age_ms_max), (wire::ReadLevel::Stale.into(), Some(2000)));
    }

    #[test]
    fn a_put_says_what_its_key_lives_by() {
        use wire::put_request::Lease;
        let lease = |put: Put| put.into_wire().lease;
        assert_eq!(lease(Put::new("k", "v")), None);
        assert_eq!(lease(Put::new("k", "v").lease(7)), Some(Lease::LeaseId(7)));
        assert_eq!(lease(Put::new("k", "v").ttl(Duration::from_millis(1500))), Some(Lease::TtlMs(1500)));
        assert_eq!(lease(Put::new("k", "v").ttl(Duration::from_secs(1)).keep_lease()), Some(Lease::KeepLease(true)));
        let kept = Put::new("k", "v").keep_value().into_wire();
        assert!(kept.keep_value && kept.value.is_empty(), "a value that is kept must not be sent: {kept:?}");
    }
}
