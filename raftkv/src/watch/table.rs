//! Where each watcher stands, and what it gets next. Without threads, clocks and I/O: the hub runs it in a node, and a simulator can.
//!
//! ```text
//!  revisions   1 ───────────── ring_first ─────────── last ────── newest applied
//!              │ on disk only │ wanted events in the ring │ being gathered │
//! ```
//!
//! Somebody gathers: it asks [`gather`](WatchTable::gather) which revisions to read, asks [`interest`](WatchTable::interest) for each change in them, and
//! [`publish`](WatchTable::publish)es those that are wanted. A watcher is a position, `next`, and a mark, `has_more`: whether there may be something for it from there to
//! the newest published revision. Without the mark the position counts as standing behind that revision, so watchers for whom nothing
//! comes move on without being touched.
//!
//! Invariants:
//!
//! - A watcher's position never goes back, and a batch holds whole revisions.
//! - Every event from `ring_first` to `last` that was wanted when it was gathered is in the ring.
//! - What a watcher takes from the ring was gathered when it was there already: everything before its `gathered_from` it reads from disk,
//!   because what it wants may not have been wanted then.
//! - The ring holds no more than its bytes, whoever is behind. One revision that is larger is not kept at all.
//!
//! What an event carries is the caller's: encoded bytes in a node.

use super::interests::Interests;
use super::ranges::WatchedRange;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use storage::state::Interest;

/// Events of the ring that are looked at for one batch: it is looked at while others wait.
const LOOKED_AT_MAX: usize = 4096;

/// Names a watcher; never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// Which events a watcher wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchFilter {
    /// Of which keys.
    pub range: WatchedRange,
    /// With what the key held before.
    pub previous: bool,
    /// Keys that are written.
    pub puts: bool,
    /// Keys that are deleted.
    pub deletes: bool,
}

impl WatchFilter {
    /// What it wants to know of a change.
    #[must_use]
    pub fn interest(&self, key: &[u8], is_delete: bool) -> Interest {
        let wants_kind = if is_delete { self.deletes } else { self.puts };
        match (wants_kind && self.range.contains(key), self.previous) {
            (false, _) => Interest::Nothing,
            (true, false) => Interest::Change,
            (true, true) => Interest::WithPrevious,
        }
    }

    fn wants(&self, key: &[u8], is_delete: bool) -> bool {
        self.interest(key, is_delete) != Interest::Nothing
    }
}

/// An event that somebody wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Gathered<P> {
    /// Its revision.
    pub revision: u64,
    /// Its key.
    pub key: Bytes,
    /// Whether the key was deleted.
    pub is_delete: bool,
    /// What it takes of the ring, and of a batch, in bytes.
    pub bytes: usize,
    /// What watchers get.
    pub payload: P,
}

/// What a watcher does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<P> {
    /// Take these events; perhaps none.
    Batch {
        /// In order, whole revisions.
        events: Vec<Arc<Gathered<P>>>,
        /// The last revision that they cover.
        through: u64,
    },
    /// Read these revisions from disk, all or the first of them, and say so with [`WatchTable::have_read`].
    Disk(RangeInclusive<u64>),
    /// Wait to be woken.
    Wait {
        /// Everything up to and including this revision has been taken.
        through: u64,
    },
}

#[derive(Debug)]
struct Watcher {
    filter: WatchFilter,
    /// The first revision not taken.
    next: u64,
    /// There may be something between `next` and the newest published revision, or the start of what was gathered for it.
    has_more: bool,
    /// The first revision that was gathered with this watcher there.
    gathered_from: u64,
}

/// See the module.
#[derive(Debug)]
pub struct WatchTable<P> {
    interests: Interests,
    watchers: BTreeMap<WatcherId, Watcher>,
    newest_id: u64,
    ring: VecDeque<Arc<Gathered<P>>>,
    ring_bytes: usize,
    ring_bytes_max: usize,
    ring_first: u64,
    /// The newest revision published.
    last: u64,
    /// The revision up to which somebody gathers, or has gathered.
    gathering: u64,
}

impl<P> WatchTable<P> {
    /// A table without watchers, at this revision, with a ring of so many bytes.
    #[must_use]
    pub fn new(revision: u64, ring_bytes_max: usize) -> WatchTable<P> {
        WatchTable {
            interests: Interests::default(),
            watchers: BTreeMap::new(),
            newest_id: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_bytes_max,
            ring_first: revision + 1,
            last: revision,
            gathering: revision,
        }
    }

    /// A watcher comes, who wants the events from revision `from` on. `newest` is the newest revision applied.
    pub fn add(&mut self, filter: WatchFilter, from: u64, newest: u64) -> WatcherId {
        if self.watchers.is_empty() {
            self.move_on(newest);
        }
        self.newest_id += 1;
        let id = WatcherId(self.newest_id);
        self.interests.insert(&filter.range, id);
        let gathered_from = self.gathering + 1;
        let watcher = Watcher { filter, next: from, has_more: from < gathered_from, gathered_from };
        self.watchers.insert(id, watcher);
        id
    }

    /// A watcher goes.
    pub fn remove(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watchers.remove(&id) {
            self.interests.remove(&watcher.filter.range, id);
        }
    }

    /// How many watchers there are.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// Bytes of events in the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// Which revisions are to be gathered, all or the first of them, when `newest` is the newest one applied. None if there are none, or nobody
    /// watches.
    pub fn gather(&mut self, newest: u64) -> Option<RangeInclusive<u64>> {
        if self.watchers.is_empty() {
            self.move_on(newest);
            return None;
        }
        self.gathering = self.gathering.max(newest);
        (self.last < newest).then_some(self.last + 1..=newest)
    }

    /// What is wanted of a change, by all watchers together.
    #[must_use]
    pub fn interest(&self, key: &[u8], is_delete: bool) -> Interest {
        let mut wanted = Interest::Nothing;
        self.interests.around(key, |id| wanted = wanted.max(self.watchers[&id].filter.interest(key, is_delete)));
        wanted
    }

    /// The revisions up to `through` have been gathered, and these are their events that were wanted, in order. Adds to `wake` who has to be woken.
    ///
    /// # Panics
    /// If the events are not of these revisions, or not in order.
    pub fn publish(&mut self, through: u64, events: Vec<Gathered<P>>, wake: &mut Vec<WatcherId>) {
        assert!(through <= self.gathering, "published through {through}, while {} was asked for", self.gathering);
        if through <= self.last {
            // Meanwhile everybody who wanted it left, and whoever came since reads it from disk.
            return;
        }
        let mut before = self.last + 1;
        for event in events {
            let revision = event.revision;
            assert!((before..=through).contains(&revision), "an event of revision {revision} after {before}");
            before = revision;
            let watchers = &mut self.watchers;
            self.interests.around(&event.key, |id| {
                let watcher = watchers.get_mut(&id).expect("who is in the index is in the table");
                if !watcher.has_more && watcher.next <= revision && watcher.filter.wants(&event.key, event.is_delete) {
                    watcher.has_more = true;
                    watcher.next = revision;
                    wake.push(id);
                }
            });
            self.ring_bytes += event.bytes;
            self.ring.push_back(Arc::new(event));
        }
        self.last = through;
        self.shrink();
    }

    /// The revisions up to `through` are not gathered: they are compacted, or too large. Whoever has not come that far has to find out by reading.
    pub fn skip(&mut self, through: u64, wake: &mut Vec<WatcherId>) {
        for (id, watcher) in &mut self.watchers {
            if !watcher.has_more && watcher.next <= through {
                watcher.next = watcher.next.max(self.last + 1);
                watcher.has_more = true;
                wake.push(*id);
            }
        }
        self.move_on(through);
    }

    /// What a watcher does next: a batch ends, between two revisions, once it has `bytes_max` bytes.
    ///
    /// # Panics
    /// If there is no such watcher.
    pub fn step(&mut self, id: WatcherId, bytes_max: usize) -> Step<P> {
        let watcher = self.watchers.get_mut(&id).expect("a watcher takes steps while it is there");
        if !watcher.has_more {
            return Step::Wait { through: self.last.max(watcher.next - 1) };
        }
        let ring_from = self.ring_first.max(watcher.gathered_from);
        if watcher.next < ring_from {
            return Step::Disk(watcher.next..=ring_from - 1);
        }
        let (mut events, mut through) = (Vec::new(), self.last);
        let (mut bytes, mut before) = (0, None);
        let start = self.ring.partition_point(|event| event.revision < watcher.next);
        for (looked_at, event) in self.ring.range(start..).enumerate() {
            let is_full = bytes >= bytes_max || looked_at >= LOOKED_AT_MAX;
            if is_full && before != Some(event.revision) {
                through = event.revision - 1;
                break;
            }
            before = Some(event.revision);
            if watcher.filter.wants(&event.key, event.is_delete) {
                bytes += event.bytes;
                events.push(event.clone());
            }
        }
        watcher.next = through + 1;
        watcher.has_more = through < self.last;
        Step::Batch { events, through }
    }

    /// A watcher has read the revisions up to `through` from disk.
    ///
    /// # Panics
    /// If there is no such watcher, or it was further already.
    pub fn have_read(&mut self, id: WatcherId, through: u64) {
        let watcher = self.watchers.get_mut(&id).expect("a watcher reads while it is there");
        assert!(through >= watcher.next, "read through {through}, having been at {}", watcher.next);
        watcher.next = through + 1;
        watcher.has_more = watcher.next <= self.last.max(watcher.gathered_from - 1);
    }

    /// Forgets what is in the ring: nobody is there who could want it from there.
    fn move_on(&mut self, revision: u64) {
        self.last = self.last.max(revision);
        self.gathering = self.gathering.max(revision);
        self.ring.clear();
        self.ring_bytes = 0;
        self.ring_first = self.last + 1;
    }

    fn shrink(&mut self) {
        while self.ring_bytes > self.ring_bytes_max {
            let oldest = self.ring.front().expect("the bytes are those of events").revision;
            while let Some(event) = self.ring.pop_front_if(|event| event.revision == oldest) {
                self.ring_bytes -= event.bytes;
            }
            self.ring_first = oldest + 1;
        }
    }
}

#[cfg(test)]
mod tests;
