//! The vocabulary of the core: identifiers, terms, log positions, time, entries.
//!
//! Everything is a newtype, so that a term cannot be passed for an index, and `Option` says "none": zero never does, except
//! for [`LogIndex::ZERO`] and [`Term::ZERO`], which are the position and the term before the first entry (Raft §5.3).

use bytes::Bytes;
use core::fmt;
use core::time::Duration;

/// A member of the group. Chosen when the node is provisioned, never used again after the node is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The Raft group a message or a log record belongs to. There is one group, number 1; the field exists so that the wire and
/// the log need no new format on the day there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The only group there is.
    pub const ONLY: GroupId = GroupId(1);
}

/// An election term (Raft §5.1). Never goes back on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl Term {
    /// The term of a node that has never seen an election, and of the position before the first entry.
    pub const ZERO: Term = Term(0);

    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

/// A position in the log (Raft §5.3). The first entry is at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The position before the first entry.
    pub const ZERO: LogIndex = LogIndex(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The position before this one; [`LogIndex::ZERO`] stays where it is.
    #[must_use]
    pub fn previous(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

/// A moment on the caller's monotonic clock, in nanoseconds since an origin of the caller's choice.
///
/// The core reads no clock: every call passes `now`. Two nodes' instants are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant {
    nanos: u64,
}

impl Instant {
    /// The origin of the clock.
    pub const ORIGIN: Instant = Instant { nanos: 0 };

    /// The moment `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant { nanos }
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Time since `earlier`, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant { nanos: self.nanos.saturating_add(nanos) }
    }
}

/// The term and index of one entry: what election restriction and log matching compare (Raft §5.3, §5.4.1).
///
/// Ordered by term first, as the election restriction asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPosition {
    /// The term in which the entry was created.
    pub term: Term,
    /// Where the entry stands.
    pub index: LogIndex,
}

/// How far a log is durable, and under whose leadership it was written: the name of an append.
///
/// Ordered lexicographically. An index alone would not do: after a truncation the same index is written again, and a late
/// acknowledgement of the first write would be taken for one of the second. A later leader's append always carries a higher
/// `leader_term`, so acknowledgements of different lives of one index never compare equal (thesis §10.2.1, which lets a log be written beside
/// replication; scenarios 17 and 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogMark {
    /// The term of the leader that asked for the append (not the term of the entry).
    pub leader_term: Term,
    /// The last index of the log once the append is done.
    pub index: LogIndex,
}

/// What must be on disk before a vote or an acknowledgement leaves the node (Raft Figure 2, "persistent state").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// What an entry carries (commands: Raft §5.3; a term's first entry: Raft §8; memberships: Raft §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A batch of client commands. Opaque to the core.
    Command,
    /// Nothing: what a leader appends first, so that it can learn what is committed (Raft §8).
    Noop,
    /// A membership, encoded by the core.
    Membership,
}

/// One entry of the replicated log (Raft §5.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The term in which a leader created it.
    pub term: Term,
    /// Where it stands.
    pub index: LogIndex,
    /// What the payload is.
    pub kind: EntryKind,
    /// The payload: cheap to clone, shared between the log, the wire and the state machine.
    pub payload: Bytes,
}

impl Entry {
    /// Term and index together.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition { term: self.term, index: self.index }
    }
}

/// Consecutive log positions, both ends included; empty when `last` is before `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogRange {
    /// The first position.
    pub first: LogIndex,
    /// The last position.
    pub last: LogIndex,
}

impl LogRange {
    /// The range that holds nothing.
    pub const EMPTY: LogRange = LogRange { first: LogIndex(1), last: LogIndex(0) };

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.last < self.first
    }

    /// How many positions it holds.
    #[must_use]
    pub fn len(self) -> u64 {
        if self.is_empty() { 0 } else { self.last.0 - self.first.0 + 1 }
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_number!(NodeId, GroupId, Term, LogIndex);

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {})", self.index, self.term)
    }
}
