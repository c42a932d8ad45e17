//! The log as the core sees it: where it starts and ends, the term of every entry in between, and the newest entries.
//!
//! Terms are kept as runs, one for each change of term, so the term of any entry is known without the disk. The newest
//! entries are cached in a ring that ends at the end of the log; its front is dropped once the entries are durable, handed
//! out for applying, and the cache is over its limit. Whoever needs an older entry reads it from disk.
//!
//! Invariants: terms never fall along the log; the runs cover exactly what follows `start`; the cache holds exactly
//! `cache_first ..= last`.
//!
//! Absent: what is durable (see `writes.rs`) and what is committed (see `state.rs`).

use crate::{Entry, LogIndex, LogPosition, LogRange, Term};
use alloc::collections::VecDeque;

/// What an entry costs in the cache beside its payload.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Entry>();

/// Consecutive entries of one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: LogIndex,
    term: Term,
}

/// No log grows this long, so an append beyond it is forged or corrupt. It keeps indexes from overflowing.
const INDEX_MAX: LogIndex = LogIndex(1 << 62);

/// The log: see the module.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    /// The position before the first entry: what was compacted away.
    start: LogPosition,
    last: LogIndex,
    runs: VecDeque<Run>,
    cache: VecDeque<Entry>,
    /// The index of the first cached entry; the one after `last` if nothing is cached.
    cache_first: LogIndex,
    cache_bytes: usize,
}

impl Log {
    /// The log found on disk, with nothing of it in memory.
    pub(crate) fn restored(start: LogPosition, last: LogIndex, term_runs: &[(LogIndex, Term)]) -> Log {
        assert!(start.index <= last, "the log found ends at {last}, before its start {start}");
        let runs: VecDeque<Run> = term_runs.iter().map(|&(first, term)| Run { first, term }).collect();
        assert_eq!(runs.is_empty(), start.index == last, "term runs {runs:?} for a log from {start} to {last}");
        if let Some(front) = runs.front() {
            assert_eq!(front.first, start.index.next(), "the first term run must begin after the log's start {start}");
            assert!(front.term >= start.term, "term {} follows {start}", front.term);
        }
        for (earlier, later) in runs.iter().zip(runs.iter().skip(1)) {
            assert!(
                earlier.first < later.first && earlier.term < later.term && later.first <= last,
                "term runs out of order: {earlier:?}, {later:?}, log ends at {last}"
            );
        }
        Log { start, last, runs, cache: VecDeque::new(), cache_first: last.next(), cache_bytes: 0 }
    }

    /// The position before the first entry.
    pub(crate) fn start(&self) -> LogPosition {
        self.start
    }

    /// The index of the last entry, or of the start if there is none.
    pub(crate) fn last_index(&self) -> LogIndex {
        self.last
    }

    /// The last entry, or the start if there is none.
    pub(crate) fn last(&self) -> LogPosition {
        LogPosition { term: self.runs.back().map_or(self.start.term, |run| run.term), index: self.last }
    }

    /// The first index that can be read from memory; the one after the last if none can.
    pub(crate) fn cache_first(&self) -> LogIndex {
        self.cache_first
    }

    /// The term of the entry at `index`, or of the start; `None` if it is compacted away or not there yet.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        if index < self.start.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs.get(after.wrapping_sub(1)).expect("the runs cover everything after the start");
        Some(run.term)
    }

    /// Position and term of `index`, if known.
    pub(crate) fn position(&self, index: LogIndex) -> Option<LogPosition> {
        self.term(index).map(|term| LogPosition { term, index })
    }

    /// Whether the log holds exactly this entry, or starts after it.
    pub(crate) fn holds(&self, position: LogPosition) -> bool {
        self.term(position.index) == Some(position.term)
    }

    /// The newest position at or before `index` whose term is not above `term`: with it, both sides of a mismatch skip
    /// whole terms (Raft §5.3). `None` if it lies before the start.
    pub(crate) fn newest_not_above(&self, index: LogIndex, term: Term) -> Option<LogPosition> {
        let mut end = index.min(self.last);
        for run in self.runs.iter().rev() {
            if run.first > end {
                continue;
            }
            if run.term <= term {
                return Some(LogPosition { term: run.term, index: end });
            }
            end = run.first.previous();
        }
        (end >= self.start.index && self.start.term <= term).then_some(self.start)
    }

    /// Adds one entry at the end.
    pub(crate) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.index, last.index.next(), "entry {} appended to a log that ends at {last}", entry.position());
        assert!(entry.term >= last.term, "term fell from {last} to {}", entry.position());
        if self.runs.back().is_none_or(|run| run.term < entry.term) {
            self.runs.push_back(Run { first: entry.index, term: entry.term });
        }
        self.last = entry.index;
        self.cache_bytes += cached_bytes(&entry);
        self.cache.push_back(entry);
    }

    /// Drops the entry at `from` and everything after it.
    pub(crate) fn truncate_from(&mut self, from: LogIndex) {
        assert!(from > self.start.index, "truncation at {from} reaches before the log's start {}", self.start);
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.cache.pop_back().expect("just seen");
            self.cache_bytes -= cached_bytes(&entry);
        }
        while self.runs.back().is_some_and(|run| run.first >= from) {
            self.runs.pop_back();
        }
        self.last = self.last.min(from.previous());
        self.cache_first = self.cache_first.min(self.last.next());
    }

    /// Forgets everything up to and including `position`, which the log must hold. An older position changes nothing.
    pub(crate) fn compact(&mut self, position: LogPosition) {
        if position.index <= self.start.index {
            return;
        }
        assert!(self.holds(position), "compacted up to {position}, which a log up to {} does not hold", self.last());
        while self.cache.front().is_some_and(|entry| entry.index <= position.index) {
            self.drop_front();
        }
        self.cache_first = self.cache_first.max(position.index.next());
        let keep_from = self.runs.partition_point(|run| run.first <= position.index.next());
        self.runs.drain(..keep_from.saturating_sub(1));
        if self.last == position.index {
            self.runs.clear();
        } else if let Some(front) = self.runs.front_mut() {
            front.first = front.first.max(position.index.next());
        }
        self.start = position;
    }

    /// Forgets everything; the log starts anew after `position`.
    pub(crate) fn reset(&mut self, position: LogPosition) {
        self.start = position;
        self.last = position.index;
        self.runs.clear();
        self.cache.clear();
        self.cache_first = position.index.next();
        self.cache_bytes = 0;
    }

    /// Shrinks the cache to `bytes_max` by dropping entries from the front, none after `up_to`.
    pub(crate) fn evict(&mut self, up_to: LogIndex, bytes_max: usize) {
        while self.cache_bytes > bytes_max && self.cache.front().is_some_and(|entry| entry.index <= up_to) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        let entry = self.cache.pop_front().expect("checked by the caller");
        self.cache_bytes -= cached_bytes(&entry);
        self.cache_first = entry.index.next();
    }

    /// The entries of `range`; `None` if any of them is not in memory. An empty range is always there.
    pub(crate) fn entries(&self, range: LogRange) -> Option<impl Iterator<Item = &Entry> + use<'_>> {
        let bounds = if range.is_empty() {
            0..0
        } else {
            if range.first < self.cache_first || range.last > self.last {
                return None;
            }
            self.offset(range.first)..self.offset(range.last) + 1
        };
        Some(self.cache.range(bounds))
    }

    /// The longest cached range from `first` on with at most `bytes_max` payload bytes, or one entry if that is larger;
    /// and its payload bytes. `first` must be cached.
    pub(crate) fn batch(&self, first: LogIndex, bytes_max: usize) -> (LogRange, usize) {
        assert!(
            first >= self.cache_first && first <= self.last,
            "batch from {first} out of a cache of {} to {}",
            self.cache_first,
            self.last
        );
        let mut range = LogRange { first, last: first };
        let mut bytes = 0;
        for entry in self.cache.range(self.offset(first)..) {
            let with_it = bytes + entry.payload.len();
            if with_it > bytes_max && entry.index > first {
                break;
            }
            bytes = with_it;
            range.last = entry.index;
        }
        (range, bytes)
    }

    fn offset(&self, index: LogIndex) -> usize {
        usize::try_from(index.0 - self.cache_first.0).expect("the cache fits in memory")
    }

    /// The runs as storage reports them, for tests and checks.
    #[cfg(test)]
    pub(crate) fn term_runs(&self) -> alloc::vec::Vec<(LogIndex, Term)> {
        self.runs.iter().map(|run| (run.first, run.term)).collect()
    }

    /// Panics unless the cache ends where the log does and the runs lie within it.
    pub(crate) fn check(&self) {
        let cached = LogIndex(self.cache_first.0 + self.cache.len() as u64).previous();
        assert_eq!(cached, self.last, "the cache ends at {cached}, the log at {}", self.last);
        let first_run = self.runs.front().map(|run| run.first);
        let expected = (self.last > self.start.index).then(|| self.start.index.next());
        assert_eq!(first_run, expected, "term runs begin at {first_run:?}, the log at {}", self.start);
    }
}

fn cached_bytes(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD_BYTES
}

/// A look at the log (Raft §5.3), for carrying out [`Actions`](crate::Actions).
#[derive(Debug, Clone, Copy)]
pub struct LogView<'a> {
    log: &'a Log,
}

impl<'a> LogView<'a> {
    pub(crate) fn new(log: &'a Log) -> LogView<'a> {
        LogView { log }
    }

    /// The entries of `range`, in order; `None` if any of them is not in memory, or not in the log: then it must be read
    /// from disk.
    #[must_use]
    pub fn entries(&self, range: LogRange) -> Option<impl Iterator<Item = &'a Entry> + use<'a>> {
        self.log.entries(range)
    }

    /// What was compacted away: the position before the first entry.
    #[must_use]
    pub fn start(&self) -> LogPosition {
        self.log.start()
    }

    /// The first index of the log; the one after [`LogView::last_index`] if it is empty.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.log.start().index.next()
    }

    /// The last index of the log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// The first index held in memory; the one after [`LogView::last_index`] if none is.
    #[must_use]
    pub fn cached_first_index(&self) -> LogIndex {
        self.log.cache_first()
    }

    /// The term of the entry at `index`, also of the one just compacted away; `None` if it is older or not there yet.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }
}

/// Whether consecutive entries follow `previous` with terms that neither fall nor exceed `term_max` (Raft §5.3).
pub(crate) fn well_formed(previous: LogPosition, entries: &[Entry], term_max: Term) -> bool {
    let mut before = previous;
    previous.index <= INDEX_MAX
        && (previous.index != LogIndex::ZERO || previous.term == Term::ZERO)
        && previous.term <= term_max
        && entries.iter().all(|entry| {
            let follows = entry.index == before.index.next() && entry.term >= before.term && entry.term <= term_max;
            before = entry.position();
            follows && entry.term > Term::ZERO
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntryKind;
    use alloc::vec::Vec;
    use bytes::Bytes;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::Command,
            payload: Bytes::from_static(b"0123456789"),
        }
    }

    fn position(index: u64, term: u64) -> LogPosition {
        LogPosition { term: Term(term), index: LogIndex(index) }
    }

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::restored(LogPosition::default(), LogIndex::ZERO, &[]);
        for (offset, term) in terms.iter().enumerate() {
            log.append(entry(offset as u64 + 1, *term));
        }
        log.check();
        log
    }

    fn range(first: u64, last: u64) -> LogRange {
        LogRange { first: LogIndex(first), last: LogIndex(last) }
    }

    #[test]
    fn terms_are_known_everywhere_in_the_log() {
        let log = log(&[1, 1, 2, 5, 5]);
        let terms: Vec<Option<Term>> = (0..=6).map(|index| log.term(LogIndex(index))).collect();
        let expected = [Some(0), Some(1), Some(1), Some(2), Some(5), Some(5), None];
        assert_eq!(terms, expected.map(|term| term.map(Term)));
        assert_eq!(log.last(), position(5, 5));
    }

    #[test]
    fn truncation_forgets_entries_and_terms() {
        let mut log = log(&[1, 1, 2, 5, 5]);
        log.truncate_from(LogIndex(3));
        log.check();
        assert_eq!(log.last(), position(2, 1));
        assert_eq!(log.term_runs(), [(LogIndex(1), Term(1))]);
        log.append(entry(3, 7));
        assert_eq!(log.term(LogIndex(3)), Some(Term(7)));
    }

    #[test]
    fn truncation_reaches_below_the_cache() {
        let mut log = log(&[1, 1, 2, 2]);
        log.evict(LogIndex(3), 0);
        assert_eq!(log.cache_first(), LogIndex(4));
        log.truncate_from(LogIndex(2));
        log.check();
        assert_eq!(log.cache_first(), LogIndex(2));
        log.append(entry(2, 3));
        log.check();
        assert_eq!(log.entries(range(2, 2)).expect("cached").count(), 1);
    }

    #[test]
    fn compaction_keeps_the_term_of_what_it_drops_last() {
        for up_to in 1..=5 {
            let mut log = log(&[1, 1, 2, 5, 5]);
            let dropped = log.position(LogIndex(up_to)).expect("in the log");
            log.compact(dropped);
            log.check();
            assert_eq!(log.start(), dropped);
            assert_eq!(log.term(LogIndex(up_to)), Some(dropped.term));
            assert_eq!(log.term(LogIndex(up_to - 1)), None);
            assert_eq!(log.last(), position(5, 5));
            let rest: Vec<u64> = (up_to + 1..=5).filter_map(|index| log.term(LogIndex(index))).map(|t| t.0).collect();
            assert_eq!(rest, [1, 1, 2, 5, 5][usize::try_from(up_to).expect("small")..]);
        }
    }

    #[test]
    fn hints_skip_whole_terms() {
        let log = log(&[1, 1, 4, 4, 4, 6]);
        assert_eq!(log.newest_not_above(LogIndex(9), Term(5)), Some(position(5, 4)));
        assert_eq!(log.newest_not_above(LogIndex(4), Term(5)), Some(position(4, 4)));
        assert_eq!(log.newest_not_above(LogIndex(6), Term(3)), Some(position(2, 1)));
        assert_eq!(log.newest_not_above(LogIndex(6), Term(0)), Some(position(0, 0)));
    }

    #[test]
    fn no_hint_below_the_start() {
        let mut log = log(&[1, 3, 3]);
        log.compact(position(2, 3));
        assert_eq!(log.newest_not_above(LogIndex(1), Term(9)), None);
        assert_eq!(log.newest_not_above(LogIndex(3), Term(2)), None);
        assert_eq!(log.newest_not_above(LogIndex(2), Term(3)), Some(position(2, 3)));
    }

    #[test]
    fn eviction_stops_at_what_is_still_needed() {
        let mut log = log(&[1; 10]);
        log.evict(LogIndex(4), 0);
        assert_eq!(log.cache_first(), LogIndex(5));
        assert!(log.entries(range(4, 6)).is_none());
        assert_eq!(log.entries(range(5, 10)).expect("cached").count(), 6);
        assert_eq!(log.term(LogIndex(2)), Some(Term(1)));
    }

    #[test]
    fn batch_holds_at_least_one_entry_and_at_most_the_limit() {
        let log = log(&[1; 10]);
        assert_eq!(log.batch(LogIndex(2), 35), (range(2, 4), 30));
        assert_eq!(log.batch(LogIndex(2), 1), (range(2, 2), 10));
        assert_eq!(log.batch(LogIndex(9), 1000), (range(9, 10), 20));
    }

    #[test]
    fn well_formed_entries_are_consecutive_with_rising_terms() {
        let good = [entry(4, 2), entry(5, 3)];
        assert!(well_formed(position(3, 2), &good, Term(3)));
        assert!(!well_formed(position(3, 2), &good, Term(2)));
        assert!(!well_formed(position(2, 2), &good, Term(3)));
        assert!(!well_formed(position(3, 3), &good, Term(3)));
        assert!(!well_formed(position(0, 1), &[], Term(3)));
    }
}
