//! Holding a revision: what a scan has still to read stays, although a compaction overtakes it.
//!
//! The compacted revision is the cluster's, and says what may be asked for. What is dropped because of it is each node's own matter, and may lag behind. So a
//! scan that has begun at a revision that could be read *holds* it until it ends: the engine may drop what is dead at the least of the compacted revision and
//! of all that are held. Only its beginning is refused for being below the compacted revision.
//!
//! **Why nothing that is held is dropped.** Let H be what the engine was last allowed to let go of ([`Engine::let_go_before`]). H never goes back, and everything
//! that drops rows goes by H, or by what H was a while ago: a filter looks at it for each row, and files are dropped up to it. A row that is
//! dead at H is needed by nobody who reads at H or later. So all that a hold at R needs is there as long as H ≤ R; two rules keep it so, under one lock:
//!
//! 1. H is raised with the lock, to no more than the least revision that is held then.
//! 2. A hold is taken with the lock, if R is not below the compacted revision. H is not above that: readers are told of a compaction before the lock is taken
//!    to raise H to it, so whoever has the lock after that finds both.
//!
//! So it does not matter which of the two comes first: either H stops at the hold, or the hold is refused. A merge that is under way is no
//! exception: what it has dropped by an older H was dead at that one too, and for each further row it looks at H anew.
//!
//! **What bounds it.** A hold ends [`HOLD_TIME_MAX`] after the first step of a [`Reclaimer`](super::Reclaimer) that finds a compaction past it, whoever still
//! has it: no row stays longer than that for the sake of scans. Where room is short it ends at once ([`StateReader::end_overtaken_holds`]). Who reads
//! on is refused once H has passed: like any reader of the past, one with a hold looks again *after* it has read.
//!
//! Holds are of one database, and in memory. After a restart there are none. A state that replaces this one begins without any, and scans of the old one read
//! on in its files, which stay until they are done.

use super::engine::{Engine, Snapshot, Table};
use super::error::ReadError;
use super::meta;
use super::reader::{StateReader, progress};
use super::rocks::RocksEngine;
use super::walk::{self, At, Visit};
use crate::command::KeyRange;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a revision is held, at most, once a compaction has overtaken it.
pub const HOLD_TIME_MAX: Duration = Duration::from_secs(3600);

/// The revisions of one database that are held.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Held>);

/// One hold among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HoldKey {
    // First: the least key is that of the oldest revision.
    revision: u64,
    /// Tells those who hold one revision apart.
    number: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// All holds, and when each was first found to be overtaken.
    overtaken_at: BTreeMap<HoldKey, Option<Instant>>,
    /// How many there have ever been.
    taken: u64,
}

impl Held {
    fn take(&mut self, revision: u64) -> HoldKey {
        self.taken += 1;
        let key = HoldKey { revision, number: self.taken };
        self.overtaken_at.insert(key, None);
        key
    }

    fn oldest(&self) -> Option<u64> {
        self.overtaken_at.first_key_value().map(|(key, _)| key.revision)
    }
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0
            .lock()
            .expect("nobody panics while holding the lock: it is for a map, and for telling the engine a number")
    }
}

impl<E: Engine> StateReader<E> {
    /// Holds a revision, or the newest one.
    ///
    /// # Errors
    /// When it is compacted or does not exist yet, or the engine fails.
    ///
    /// # Panics
    /// If something of it was let go of.
    pub(super) fn hold(&self, revision: Option<u64>) -> Result<Hold<E>, ReadError> {
        let newest = progress(self.engine().load(Table::Meta, meta::PROGRESS)?.as_ref())?.revision;
        self.publish(newest);
        let revision = revision.unwrap_or(newest);
        let key = {
            let mut held = self.holds().lock();
            self.check_revision(revision, newest)?;
            held.take(revision)
        };
        let hold = Hold { reader: self.clone(), key };
        let let_go_before = self.engine().let_go_before();
        assert!(
            let_go_before <= revision,
            "revision {revision} is held, and what is before {let_go_before} was let go of"
        );
        Ok(hold)
    }

    /// Lets the engine drop what is dead at `compacted`, which is durable, but for what is held.
    ///
    /// # Panics
    /// If readers have not been told of it.
    pub(super) fn let_go(&self, compacted: u64) {
        let readable = self.compacted_revision();
        assert!(
            compacted <= readable,
            "what is before {compacted} is let go of, and readers may ask from {readable} on"
        );
        let held = self.holds().lock();
        let revision = held.oldest().map_or(compacted, |oldest| compacted.min(oldest));
        self.engine().let_go(revision);
    }

    /// The oldest revision that is held for a scan although it is compacted: what went out of reach since then keeps its space meanwhile. None:
    /// nothing does.
    #[must_use]
    pub fn held_revision(&self) -> Option<u64> {
        let oldest = self.holds().lock().oldest();
        oldest.filter(|revision| *revision < self.compacted_revision())
    }

    /// Ends holds that compactions have overtaken: their scans end soon after, as compacted. For where room is short.
    pub fn end_overtaken_holds(&self) {
        self.end_holds("room is short", |_| true);
    }

    /// Ends holds that were overtaken too long ago. `now` is the caller's monotonic clock.
    pub(super) fn end_long_holds(&self, now: Instant) {
        self.end_holds("it takes too long", |overtaken_at| {
            now.saturating_duration_since(*overtaken_at.get_or_insert(now)) >= HOLD_TIME_MAX
        });
    }

    fn end_holds(&self, reason: &str, mut is_over: impl FnMut(&mut Option<Instant>) -> bool) {
        let compacted = self.compacted_revision();
        let mut ended = Vec::new();
        self.holds().lock().overtaken_at.retain(|key, overtaken_at| {
            let ends = key.revision < compacted && is_over(overtaken_at);
            if ends {
                ended.push(key.revision);
            }
            !ends
        });
        for revision in ended {
            tracing::warn!(revision, compacted, reason, "what a scan reads is not kept for it any longer");
        }
    }
}

/// A revision that is held until this is dropped, and reading ranges at it.
#[derive(Debug)]
pub(super) struct Hold<E: Engine = RocksEngine> {
    reader: StateReader<E>,
    key: HoldKey,
}

impl<E: Engine> Hold<E> {
    pub(super) fn revision(&self) -> u64 {
        self.key.revision
    }

    /// Goes through a range, in a snapshot of its own. `in_bulk`: it is part of something large.
    pub(super) fn walk(
        &self,
        range: KeyRange<'_>,
        reverse: bool,
        in_bulk: bool,
        visit: &mut Visit<'_>,
    ) -> Result<(), ReadError> {
        let snapshot = self.reader.engine().snapshot();
        let snapshot = if in_bulk { snapshot.in_bulk() } else { snapshot };
        let newest = progress(snapshot.load(Table::Meta, meta::PROGRESS)?.as_ref())?.revision;
        self.reader.publish(newest);
        if self.revision() == newest {
            return walk::walk(&snapshot, range, reverse, At::Latest, visit);
        }
        walk::walk(&snapshot, range, reverse, At::Revision(self.revision()), visit)?;
        self.check_kept()
    }

    /// How many keys a range holds. Goes through all of them.
    pub(super) fn count(&self, range: KeyRange<'_>) -> Result<u64, ReadError> {
        let mut count = 0;
        self.walk(range, false, true, &mut |_, _, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Whether all that was there when this was taken is still there: always, unless the hold was ended.
    fn check_kept(&self) -> Result<(), ReadError> {
        let requested = self.revision();
        if requested >= self.reader.engine().let_go_before() {
            return Ok(());
        }
        Err(ReadError::Compacted { requested, compacted: self.reader.compacted_revision() })
    }
}

impl<E: Engine> Drop for Hold<E> {
    fn drop(&mut self) {
        // It is not there any more if it was ended.
        self.reader.holds().lock().overtaken_at.remove(&self.key);
    }
}
