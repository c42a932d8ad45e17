//! What the log holds, in memory: hard state, where it starts and ends, the terms, where memberships stand, and one item per entries record. Built by
//! recovery and kept up by writing with the same functions, read by the readers.

use super::segment::Segment;
use raft::{EntryKind, HardState, LogIndex, LogPosition, LogRange, Term};
use std::collections::VecDeque;
use std::sync::Arc;

/// One record of entries on disk.
#[derive(Debug, Clone)]
pub(super) struct RecordItem {
    pub(super) first: LogIndex,
    /// Entries that are still part of the log: less than the record holds if its end has been replaced.
    pub(super) count: u32,
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) span: u64,
}

impl RecordItem {
    fn last(&self) -> LogIndex {
        LogIndex(self.first.0 + u64::from(self.count) - 1)
    }
}

/// The log's contents. Items are consecutive: the next one begins where the one before ends.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) hard_state: HardState,
    pub(super) start: LogPosition,
    pub(super) last: LogIndex,
    term_runs: VecDeque<(LogIndex, Term)>,
    /// Where membership entries stand, ascending: the core wants those that are not applied when it starts.
    memberships: VecDeque<LogIndex>,
    items: VecDeque<RecordItem>,
    /// During recovery: entries after the start up to here stood in segments that are gone. Fine if a later record moves the start.
    missing_through: Option<LogIndex>,
}

impl Contents {
    /// What the head of the first segment says, before any record after it.
    pub(super) fn from_head(hard_state: HardState, start: LogPosition, last: LogPosition) -> Contents {
        let missing = last.index > start.index;
        Contents {
            hard_state,
            start,
            last: last.index,
            term_runs: if missing { [(last.index, last.term)].into() } else { VecDeque::new() },
            memberships: VecDeque::new(),
            items: VecDeque::new(),
            missing_through: missing.then_some(last.index),
        }
    }

    pub(super) fn last_position(&self) -> LogPosition {
        let term = self.term_at(self.last).expect("the term of the last entry is known");
        LogPosition { term, index: self.last }
    }

    /// The term of an entry, or of the position the log starts after.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        if index < self.start.index || index > self.last {
            return None;
        }
        let after = self.term_runs.partition_point(|run| run.0 <= index);
        after.checked_sub(1).map(|at| self.term_runs[at].1)
    }

    pub(super) fn term_runs(&self) -> Vec<(LogIndex, Term)> {
        self.term_runs.iter().copied().collect()
    }

    pub(super) fn memberships(&self) -> Vec<LogIndex> {
        self.memberships.iter().copied().collect()
    }

    /// Why a record whose first entry is `first` cannot follow (Raft §5.3: no gaps, terms never go back), if it cannot.
    pub(super) fn objection_to_append(&self, first: LogPosition) -> Option<&'static str> {
        if first.index <= self.start.index {
            Some("entries at or before the start of the log")
        } else if first.index > self.last.next() {
            Some("entries that leave a gap")
        } else if self.term_at(first.index.previous()).is_some_and(|before| first.term < before) {
            Some("entries whose term goes back")
        } else {
            None
        }
    }

    /// Why the log cannot start after `position`, if it cannot.
    pub(super) fn objection_to_compact(&self, position: LogPosition) -> Option<&'static str> {
        if position.index > self.last {
            Some("a start beyond the end of the log")
        } else if self.term_at(position.index).is_some_and(|term| term != position.term) {
            Some("a start of another term than the entry there")
        } else {
            None
        }
    }

    /// Appends one record of entries with these terms and kinds, replacing everything from its first index on.
    pub(super) fn append(&mut self, item: RecordItem, entries: impl Iterator<Item = (Term, EntryKind)>) {
        self.truncate_from(item.first);
        let mut index = item.first;
        for (term, kind) in entries {
            if self.term_runs.back().is_none_or(|run| run.1 != term) {
                self.term_runs.push_back((index, term));
            }
            if kind == EntryKind::Membership {
                self.memberships.push_back(index);
            }
            index = index.next();
        }
        self.last = item.last();
        assert_eq!(index, self.last.next(), "one term for each entry of a record");
        self.items.push_back(item);
    }

    fn truncate_from(&mut self, first: LogIndex) {
        assert!(
            first > self.start.index && first <= self.last.next(),
            "truncating at {first}, log ends at {}",
            self.last
        );
        while self.items.back().is_some_and(|item| item.first >= first) {
            self.items.pop_back();
        }
        if let Some(item) = self.items.back_mut().filter(|item| item.last() >= first) {
            item.count = u32::try_from(first.0 - item.first.0).expect("less than the item's count");
        }
        while self.term_runs.back().is_some_and(|run| run.0 >= first) {
            self.term_runs.pop_back();
        }
        while self.memberships.back().is_some_and(|index| *index >= first) {
            self.memberships.pop_back();
        }
        if let Some(missing) = self.missing_through.filter(|missing| *missing >= first) {
            self.missing_through = Some(missing.min(first.previous())).filter(|missing| *missing > self.start.index);
        }
        self.last = first.previous();
    }

    /// Gives up everything up to and including `position`, which is in the log.
    pub(super) fn compact(&mut self, position: LogPosition) {
        assert!(position.index <= self.last, "compacting to {position}, the log ends at {}", self.last);
        self.start = position;
        while self.items.front().is_some_and(|item| item.last() <= position.index) {
            self.items.pop_front();
        }
        while self.memberships.front().is_some_and(|index| *index <= position.index) {
            self.memberships.pop_front();
        }
        let first = position.index.next();
        while self.term_runs.get(1).is_some_and(|run| run.0 <= first) {
            self.term_runs.pop_front();
        }
        if position.index == self.last {
            self.term_runs.clear();
        } else if let Some(run) = self.term_runs.front_mut() {
            run.0 = run.0.max(first);
        }
        self.missing_through = self.missing_through.filter(|missing| *missing > position.index);
    }

    /// Drops every entry; the log starts after `start`.
    pub(super) fn reset(&mut self, start: LogPosition) {
        *self = Contents { hard_state: self.hard_state, start, last: start.index, ..Contents::default() };
    }

    /// Entries that ought to be in the log and are in no segment.
    pub(super) fn missing(&self) -> Option<LogRange> {
        self.missing_through.map(|last| LogRange { first: self.start.index.next(), last })
    }

    /// The oldest segment that holds an entry of the log. Items are in the order of writing, so that is the first one's.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.items.front().map(|item| item.segment.header.sequence)
    }

    /// The items that hold `range`, until their sizes add up to `bytes_max`; at least one.
    pub(super) fn items(&self, range: LogRange, bytes_max: usize) -> Vec<RecordItem> {
        let begin = self.items.partition_point(|item| item.last() < range.first);
        let mut bytes = 0;
        let mut found = Vec::new();
        for item in self.items.range(begin..) {
            if item.first > range.last || bytes > bytes_max as u64 {
                break;
            }
            bytes += item.span;
            found.push(item.clone());
        }
        found
    }
}

/// Why hard state cannot become `new`, if it cannot: a term never goes back and a vote is never changed (Raft §5.2).
pub(super) fn objection_to_hard_state(old: HardState, new: HardState) -> Option<&'static str> {
    if new.term < old.term {
        Some("a term that goes back")
    } else if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
        Some("a second vote in one term")
    } else {
        None
    }
}
