//! Giving back the space of what compaction has made dead.
//!
//! A row is dead by its own key, once a revision C says what can still be read: a row of `history` that was superseded at or before C, a row of
//! `changes` before C. So nothing has to be looked up to drop it, and RocksDB does so by the way, with a filter, whenever it merges files. Rows
//! that lie at the bottom are merged again only if something new comes above them; for those a [`Reclaimer`] goes through the tables.
//!
//! - Files of `changes` fill up in the order of revisions. They are dropped as a whole, unread, some at a time, and what is left of them is one file's worth.
//! - `history` is rewritten a span of keys at a time, dead rows left out. It costs writing the living once more, so it begins when at least a third
//!   of the revisions kept is dead, or an hour after the last time. `current` goes along where many keys were deleted.
//!
//! **What makes it safe** is the order in which C becomes known (decision 9). First it is durable: whoever loses its memtables must not find
//! holes where it believes it can read. Then readers refuse what is before it, and look at it again after they have read. Only then may rows be
//! dropped ([`Engine::let_go`]), but for those that a scan still needs which had begun before (`hold`). A snapshot of RocksDB does not protect dead rows, which is
//! why readers look twice, and scans hold.
//!
//! Everything here goes by what was let go of, not by what is compacted. So what a hold has kept is as good as alive, and when the hold ends it is as
//! if it had been compacted then: it is dropped, and weighed for another pass, like anything that has just died.
//!
//! **What makes it harmless** is that merges rest. Every row of `history` and `changes` that one meets passes through the filter, and there it sleeps for seven eighths of the time, so that it never
//! holds a processor for long, RocksDB's own merges no less than those that are asked for here; not so while RocksDB is behind, or the store short of room ([`StateReader::pace_merges`]). Besides, each step is
//! small, the caller rests in between, files are small and handed to the disk evenly (`rocks`), since an fsync of the log waits for what else the disk does, and each node
//! waits for its turn before it begins. Manual compactions run beside the automatic ones, in the same few threads.
//!
//! All databases of a process share RocksDB's threads, so a merge of one that rests keeps others waiting: a database that is replaced does not rest.
//!
//! Absent: a bound on how long dead rows stay in files that nothing is written to, other than the hour; knowledge of which spans have dead rows, so
//! a pass rewrites those without any too.

use super::engine::{Engine, EngineError, Table};
use super::error::StateError;
use super::layout;
use super::reader::StateReader;
use super::rocks::{KeySpan, RocksEngine, RocksStatistics};
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use std::collections::VecDeque;
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes that one step rewrites or drops, about: a tenth of a second of one thread's work, and seven times that if merges rest.
const STEP_BYTES: u64 = 8 << 20;
/// From the end of one step to the next, unless there are too many: then less.
const STEP_INTERVAL: Duration = Duration::from_millis(500);
/// What the rests between all steps that are planned together come to, at most.
const RESTS_MAX: Duration = Duration::from_secs(1800);
/// A table of up to this size is gone through whenever anything in it may be dead.
const SMALL_TABLE_BYTES: u64 = 64 << 20;
/// The least time between two flushes for the sake of compaction.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// The most time that dead rows stay at the bottom of `history`, plus the time of a pass.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// A merge that works gently looks at the clock after so many rows, or bytes of them.
const ROWS_PER_LOOK: u32 = 128;
const BYTES_PER_LOOK: usize = 64 << 10;
/// And rests after so much work.
const WORK_TIME: Duration = Duration::from_micros(500);
/// So many times as long as it worked: it takes an eighth of a processor.
const GENTLE_REST: u32 = 7;
/// But not longer than this, whatever held it up.
const GENTLE_REST_MAX: Duration = Duration::from_millis(100);
/// Files of level 0 up to which merges work gently: at 4 RocksDB begins one, and those that come meanwhile wait for it.
const LEVEL0_FILES_GENTLE: u64 = 6;
/// Bytes that RocksDB has still to merge, up to which it does so gently. It slows writers down at 64 GiB.
const PENDING_BYTES_GENTLE: u64 = 4 << 30;
/// Files of level 0 from which on RocksDB has enough to do. It starts to merge them at 4, and slows writers down at 24.
const LEVEL0_FILES_BUSY: u64 = 10;
/// The share of deletes among the rows of `current`, as a divisor, from which on they are brought to the bottom, where the deleted rows are.
const DELETED_SHARE: u64 = 64;
/// In a table of up to this size, any delete is.
const DELETES_CHEAP_BYTES: u64 = 1 << 30;

/// Whether a row is needed by nobody who reads at `compacted` or later.
pub(crate) fn is_dead(table: Table, key: &[u8], compacted: u64) -> bool {
    match table {
        Table::Meta | Table::Current => false,
        // A row that is not laid out as it should be is for a reader to find.
        Table::History => layout::split_history_key(key).is_ok_and(|(_, superseded_at)| superseded_at <= compacted),
        Table::Changes => key.first_chunk::<8>().is_some_and(|revision| u64::from_be_bytes(*revision) < compacted),
    }
}

/// The last possible key of `changes` that is dead at `compacted`, if there can be one.
pub(super) fn last_dead_change(compacted: u64) -> Option<[u8; 12]> {
    compacted.checked_sub(1).map(|revision| layout::change_key(revision, u32::MAX))
}

/// What RocksDB may drop, shared with its filters.
#[derive(Debug, Clone, Default)]
pub(super) struct Horizon(Arc<AtomicU64>);

impl Horizon {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn advance(&self, revision: u64) {
        self.0.fetch_max(revision, Ordering::AcqRel);
    }
}

/// How hard merges work, shared with the filters: each row of a merge of `history` or `changes` passes through one. At first as hard as they can.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<AtomicBool>);

impl Pace {
    /// From now on merges rest most of the time, or none.
    pub(super) fn set_gentle(&self, gentle: bool) {
        self.0.store(gentle, Ordering::SeqCst);
    }

    /// How long a merge rests that has worked for so long.
    fn rest_after(&self, worked: Duration) -> Duration {
        if self.0.load(Ordering::Relaxed) { (worked * GENTLE_REST).min(GENTLE_REST_MAX) } else { Duration::ZERO }
    }
}

/// One merge that rests now and then.
#[derive(Debug)]
struct PacedWork {
    pace: Pace,
    rows: u32,
    bytes: usize,
    since: Instant,
}

impl PacedWork {
    fn new(pace: Pace) -> PacedWork {
        PacedWork { pace, rows: 0, bytes: 0, since: Instant::now() }
    }

    /// Called for each row; sleeps when it is time to.
    fn row(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
        if self.rows < ROWS_PER_LOOK && self.bytes < BYTES_PER_LOOK {
            return;
        }
        (self.rows, self.bytes) = (0, 0);
        let worked = self.since.elapsed();
        if worked < WORK_TIME {
            return;
        }
        let rest = self.pace.rest_after(worked);
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        self.since = Instant::now();
    }
}

/// Makes one filter for each compaction of a table.
pub(super) struct DeadRowFilters {
    pub(super) table: Table,
    pub(super) horizon: Horizon,
    pub(super) pace: Pace,
}

/// Leaves dead rows out of what one compaction writes. It looks at the horizon anew for each row: what makes a compaction durable is a flush, and
/// that often begins a merge, which would write out once more all that is dead a moment later.
pub(super) struct DeadRowFilter {
    table: Table,
    horizon: Horizon,
    work: PacedWork,
}

impl CompactionFilterFactory for DeadRowFilters {
    type Filter = DeadRowFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> DeadRowFilter {
        let work = PacedWork::new(self.pace.clone());
        DeadRowFilter { table: self.table, horizon: self.horizon.clone(), work }
    }

    fn name(&self) -> &CStr {
        c"raftkv dead rows"
    }
}

impl CompactionFilter for DeadRowFilter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        self.work.row(key.len() + value.len());
        if is_dead(self.table, key, self.horizon.get()) { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &CStr {
        c"raftkv dead rows"
    }
}

/// What one step of a [`Reclaimer`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// There is nothing to do.
    Nothing,
    /// RocksDB has more urgent work. Ask again in a second or so.
    Later,
    /// Something was done, and there may be more.
    Step {
        /// How long to wait before the next one.
        rest: Duration,
    },
}

/// One thing to do about `changes`.
#[derive(Debug)]
enum DropChanges {
    /// Drop the files up to a key, all of which are dead.
    UpTo(Vec<u8>),
    /// Drop the last ones, and merge what is left.
    Rest,
}

/// Goes through the tables of one node, step by step. Kept by whoever calls it regularly; it needs nothing that would have to outlive a restart.
#[derive(Debug)]
pub struct Reclaimer {
    /// The database it knows. After a switch to a snapshot it is another one.
    directory: PathBuf,
    drops: VecDeque<DropChanges>,
    /// Spans that are still to be rewritten in this pass.
    rewrites: VecDeque<(Table, KeySpan)>,
    /// How long to rest after each step.
    spacing: Duration,
    /// How long after a compaction it begins.
    turn: Duration,
    /// The compaction that was durable when it last looked.
    durable: u64,
    /// When it makes durable what was compacted after that.
    flush_at: Option<Instant>,
    /// When it last did.
    flushed_at: Option<Instant>,
    /// Up to where `changes` is given back.
    changes_given_back: u64,
    pass: Pass,
}

/// The last pass through `history`.
#[derive(Debug, Clone, Copy)]
struct Pass {
    /// What was dead then: what may be dropped, whatever is compacted beyond.
    compacted: u64,
    /// When it began.
    began_at: Instant,
    /// Whether it, or one before it, may have left dead rows: it is not known what an earlier life of the process did.
    leaves_some: bool,
}

impl Pass {
    /// Whether another pass is worth what it costs.
    fn is_due(&self, now: Instant, compacted: u64, newest: u64, table_bytes: u64) -> bool {
        let dead = compacted.saturating_sub(self.compacted);
        let kept = newest.saturating_sub(compacted);
        let may_help = dead > 0 || (self.leaves_some && compacted > 0);
        let costs_little = table_bytes <= SMALL_TABLE_BYTES;
        let is_worth_it = dead > 0 && dead >= kept / 2;
        let is_overdue = now.saturating_duration_since(self.began_at) >= PASS_INTERVAL_MAX;
        may_help && (costs_little || is_worth_it || is_overdue)
    }
}

impl Reclaimer {
    /// A reclaimer that knows of nothing it did before. It begins `turn` after it notices a compaction: all nodes compact at the same moment, and where
    /// each has a turn of its own they do not all work for it at once, so that a write finds a quorum that is free.
    #[must_use]
    pub fn new(now: Instant, turn: Duration) -> Reclaimer {
        Reclaimer {
            directory: PathBuf::new(),
            drops: VecDeque::new(),
            rewrites: VecDeque::new(),
            spacing: STEP_INTERVAL,
            turn,
            durable: 0,
            flush_at: None,
            flushed_at: None,
            changes_given_back: 0,
            pass: Pass { compacted: 0, began_at: now, leaves_some: true },
        }
    }

    /// Does the next thing that there is to do, if any. Blocks while RocksDB flushes, and when it rewrites: about a second where merges rest, and longer where a
    /// step meets what lies above its span. Not for a thread that anybody waits for. `now` is the caller's monotonic clock.
    ///
    /// # Errors
    /// When the engine fails, or a row of the state's description is damaged.
    pub fn step(&mut self, reader: &StateReader<RocksEngine>, now: Instant) -> Result<Reclaimed, StateError> {
        let engine = reader.engine();
        let is_another = self.directory != engine.directory();
        if is_another {
            *self = Reclaimer { directory: engine.directory().to_owned(), ..Reclaimer::new(now, self.turn) };
        }
        reader.end_long_holds(now);
        self.release(reader, now)?;
        let let_go_before = engine.let_go_before();
        if is_another {
            self.pass.compacted = let_go_before;
        }
        self.plan(reader, let_go_before, now)?;
        if self.drops.is_empty() && self.rewrites.is_empty() {
            return Ok(Reclaimed::Nothing);
        }
        let statistics = engine.statistics()?;
        if statistics.level0_files_max >= LEVEL0_FILES_BUSY || statistics.is_behind() {
            return Ok(Reclaimed::Later);
        }
        // What costs next to nothing does not wait for the end of a pass.
        if let Some(drop) = self.drops.pop_front() {
            match drop {
                DropChanges::UpTo(last) => engine.delete_files(Table::Changes, &last)?,
                DropChanges::Rest => engine.drop_dead_changes()?,
            }
        } else if let Some((table, span)) = self.rewrites.pop_front() {
            engine.rewrite(table, &span);
        }
        Ok(Reclaimed::Step { rest: self.spacing })
    }

    /// Tells the engine what it may drop, and makes the newest compaction durable in its turn.
    fn release(&mut self, reader: &StateReader<RocksEngine>, now: Instant) -> Result<(), StateError> {
        let compacted = reader.release()?;
        if compacted > self.durable {
            // A flush that came by itself made one durable; whatever is newer has a turn of its own.
            (self.durable, self.flush_at) = (compacted, None);
        }
        if reader.compacted_revision() == compacted {
            return Ok(());
        }
        let earliest = self.flushed_at.map_or(now, |at| at + FLUSH_INTERVAL).max(now + self.turn);
        if now < *self.flush_at.get_or_insert(earliest) {
            return Ok(());
        }
        // A row may only be dropped for good once it is known for good that it is dead.
        self.flushed_at = Some(now);
        reader.flush(true)?;
        (self.durable, self.flush_at) = (reader.release()?, None);
        Ok(())
    }

    /// Decides what is to be done: about `changes` at once, about the rest when nothing is left from before. What is dead at `compacted` may be dropped.
    fn plan(&mut self, reader: &StateReader<RocksEngine>, compacted: u64, now: Instant) -> Result<(), StateError> {
        let engine = reader.engine();
        if compacted > self.changes_given_back {
            self.changes_given_back = compacted;
            let dead = last_dead_change(compacted);
            let ends = engine.spans(Table::Changes, STEP_BYTES)?.into_iter().map(|span| span.last);
            let dead_ends = ends.filter(|end| dead.is_some_and(|dead| end[..] <= dead[..]));
            self.drops = dead_ends.map(DropChanges::UpTo).chain([DropChanges::Rest]).collect();
            self.spacing = spacing_of(self.drops.len() + self.rewrites.len());
        }
        if compacted == 0 || !self.rewrites.is_empty() {
            return Ok(());
        }
        let files = engine.files(Table::History)?;
        if self.pass.is_due(now, compacted, reader.revision(), files.bytes) {
            self.pass = Pass { compacted, began_at: now, leaves_some: false };
            self.push_spans(Table::History, engine.spans(Table::History, STEP_BYTES)?);
            let current = engine.files(Table::Current)?;
            let is_cheap = current.deletes > 0 && current.bytes <= DELETES_CHEAP_BYTES;
            if is_cheap || current.deletes > current.rows / DELETED_SHARE {
                self.push_spans(Table::Current, engine.spans(Table::Current, STEP_BYTES)?);
            }
            self.spacing = spacing_of(self.drops.len() + self.rewrites.len());
        }
        Ok(())
    }

    fn push_spans(&mut self, table: Table, spans: Vec<KeySpan>) {
        self.rewrites.extend(spans.into_iter().map(|span| (table, span)));
    }
}

/// How far apart so many steps are.
fn spacing_of(steps: usize) -> Duration {
    u32::try_from(steps).map_or(Duration::ZERO, |steps| RESTS_MAX / steps.max(1)).min(STEP_INTERVAL)
}

impl<E: Engine> StateReader<E> {
    /// Tells the engine what it may drop: what is dead by the compacted revision that is durable, but for what scans hold. Readers refuse what is before
    /// that revision from now on. Returns it; zero: nothing is compacted.
    ///
    /// # Errors
    /// When the engine fails, or the row is damaged.
    pub fn release(&self) -> Result<u64, StateError> {
        let compacted = self.durably_compacted()?;
        self.publish_compacted(compacted);
        self.let_go(compacted);
        Ok(compacted)
    }
}

impl StateReader<RocksEngine> {
    /// Lets merges of `history` and `changes` rest most of the time, unless RocksDB is behind. To be called about once a second, with what the engine
    /// says then; before the first time they do not rest. Where room is short, call [`hurry_merges`](Self::hurry_merges) in its place.
    pub fn pace_merges(&self, statistics: &RocksStatistics) {
        self.engine().set_gentle_merges(may_rest(statistics));
    }

    /// From now on merges do not rest.
    pub fn hurry_merges(&self) {
        self.engine().set_gentle_merges(false);
    }
}

/// Whether merges have the time to rest.
fn may_rest(statistics: &RocksStatistics) -> bool {
    statistics.level0_files_max <= LEVEL0_FILES_GENTLE
        && statistics.compaction_pending_bytes <= PENDING_BYTES_GENTLE
        && !statistics.is_behind()
}

/// What there is of a table in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TableFiles {
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) deletes: u64,
}

impl RocksEngine {
    /// Drops files of `changes` in which everything is dead, and merges the others that have something dead.
    fn drop_dead_changes(&self) -> Result<(), EngineError> {
        let Some(last) = last_dead_change(self.let_go_before()) else { return Ok(()) };
        self.delete_files(Table::Changes, &last)?;
        self.rewrite(Table::Changes, &KeySpan { first: Vec::new(), last: last.to_vec() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(superseded_at: u64) -> Vec<u8> {
        let mut key = Vec::new();
        layout::history_key(b"k", superseded_at, &mut key);
        key
    }

    #[test]
    fn what_a_reader_at_the_oldest_revision_needs_is_not_dead() {
        assert!(is_dead(Table::History, &history(7), 7));
        assert!(!is_dead(Table::History, &history(8), 7));
        assert!(is_dead(Table::Changes, &layout::change_key(6, u32::MAX), 7));
        assert!(!is_dead(Table::Changes, &layout::change_key(7, 0), 7));
        assert!(!is_dead(Table::Current, b"", u64::MAX) && !is_dead(Table::Meta, b"", u64::MAX));
    }

    #[test]
    fn a_merge_under_way_drops_what_is_dead_from_a_moment_on() {
        let horizon = Horizon::default();
        let context = CompactionFilterContext { is_full_compaction: false, is_manual_compaction: false };
        let mut filters = DeadRowFilters { table: Table::History, horizon: horizon.clone(), pace: Pace::default() };
        let mut filter = filters.create(context);
        let mut is_dropped = || matches!(filter.filter(0, &history(7), b""), CompactionDecision::Remove);
        assert!(!is_dropped());
        horizon.advance(7);
        assert!(is_dropped());
    }

    #[test]
    fn a_gentle_merge_rests_most_of_the_time() {
        let pace = Pace::default();
        assert_eq!(pace.rest_after(WORK_TIME), Duration::ZERO, "until it is told to");
        pace.set_gentle(true);
        assert_eq!(pace.rest_after(WORK_TIME), WORK_TIME * GENTLE_REST);
        assert_eq!(
            pace.rest_after(Duration::from_secs(1)),
            GENTLE_REST_MAX,
            "it waited for the disk, or for a processor"
        );
        let mut work = PacedWork::new(pace.clone());
        let begun = Instant::now();
        let mut worked = |rows: u32, bytes: usize| {
            for _ in 0..rows {
                work.since = begun.checked_sub(WORK_TIME).unwrap_or(begun);
                work.row(bytes);
            }
        };
        worked(ROWS_PER_LOOK, 1);
        assert!(begun.elapsed() >= WORK_TIME * GENTLE_REST, "one row in so many is followed by a rest");
        worked(2, BYTES_PER_LOOK);
        assert!(begun.elapsed() >= WORK_TIME * GENTLE_REST * 3, "each of the large ones");
        pace.set_gentle(false);
        assert_eq!(pace.rest_after(WORK_TIME), Duration::ZERO);
    }

    #[test]
    fn merges_rest_unless_they_fall_behind() {
        let calm = RocksStatistics { level0_files_max: LEVEL0_FILES_GENTLE, ..RocksStatistics::default() };
        assert!(may_rest(&calm));
        assert!(!may_rest(&RocksStatistics { level0_files_max: LEVEL0_FILES_GENTLE + 1, ..calm }));
        assert!(!may_rest(&RocksStatistics { compaction_pending_bytes: PENDING_BYTES_GENTLE + 1, ..calm }));
        assert!(!may_rest(&RocksStatistics { delayed_write_bytes_per_second: 1, ..calm }));
        assert!(!may_rest(&RocksStatistics { write_stopped: true, ..calm }));
    }

    #[test]
    fn a_row_that_is_laid_out_wrongly_is_kept() {
        assert!(!is_dead(Table::History, b"short", u64::MAX));
        assert!(!is_dead(Table::Changes, b"short", u64::MAX));
    }

    #[test]
    fn steps_are_half_a_second_apart_unless_there_are_too_many() {
        assert_eq!(spacing_of(0), STEP_INTERVAL);
        assert_eq!(spacing_of(3600), STEP_INTERVAL);
        // 100 GiB.
        let many = spacing_of(12_800);
        assert!(many < STEP_INTERVAL && many * 12_800 <= RESTS_MAX && many > Duration::from_millis(100), "{many:?}");
    }

    #[test]
    fn a_pass_begins_when_it_is_worth_it_or_an_hour_later() {
        let start = Instant::now();
        let large = SMALL_TABLE_BYTES + 1;
        let pass = Pass { compacted: 1000, began_at: start, leaves_some: false };
        assert!(!pass.is_due(start, 1000, 5000, 1), "nothing is dead");
        assert!(pass.is_due(start, 1001, 5000, 1), "it costs next to nothing");
        assert!(!pass.is_due(start, 1001, 5000, large));
        assert!(!pass.is_due(start, 2000, 5000, large), "a thousand are dead, three thousand are kept");
        assert!(pass.is_due(start, 3000, 5000, large));
        let later = start + PASS_INTERVAL_MAX;
        assert!(pass.is_due(later, 1001, 5000, large));
        assert!(!pass.is_due(later, 1000, 5000, large));
        let first = Pass { leaves_some: true, ..pass };
        assert!(!first.is_due(start, 1000, 5000, large) && first.is_due(start, 1000, 5000, 1));
        assert!(first.is_due(later, 1000, 5000, large), "who knows what was done before");
        assert!(!Pass { compacted: 0, ..first }.is_due(later, 0, 5000, 1), "nothing was ever compacted");
    }
}
