//! Which writes are under way, and how much of the log is durable.
//!
//! Writes are asked for in order and finish in order, several at once perhaps. Each append is named by a [`LogMark`]: the
//! leader's term, then the last index. Marks rise from one append to the next, because within one term a log that took its
//! first entry from the leader is a prefix of the leader's and only grows, and a later append in a later term is above it
//! whatever its index.
//!
//! An acknowledgement of an append that was truncated meanwhile must not make the entries written in its place durable
//! (the ABA problem of asynchronous appends). So a truncation lowers, at the moment it is asked for, what is durable and
//! what every write under way will make durable.

use crate::{HardState, LogIndex, LogMark, LogPosition};
use crate::{Instant, LogRange, Persist};
use alloc::collections::VecDeque;

#[derive(Debug, Clone, Copy)]
struct Pending {
    mark: Option<LogMark>,
    /// How much of the present log is durable once this write is.
    covers: LogIndex,
    hard_state_sequence: u64,
    asked_at: Instant,
}

/// The writes of one node: see the module.
#[derive(Debug, Clone)]
pub(crate) struct Writes {
    pending: VecDeque<Pending>,
    newest_mark: Option<LogMark>,
    durable_mark: Option<LogMark>,
    durable_index: LogIndex,
    hard_state_sequence: u64,
    hard_state_durable: u64,
    /// What this step has added and the next [`Writes::ask`] asks for.
    hard_state_changed: bool,
    append_first: Option<LogIndex>,
}

impl Writes {
    /// Nothing is under way; the log found on disk is durable up to `last`.
    pub(crate) fn new(last: LogIndex) -> Writes {
        Writes {
            pending: VecDeque::new(),
            newest_mark: None,
            durable_mark: None,
            durable_index: last,
            hard_state_sequence: 0,
            hard_state_durable: 0,
            hard_state_changed: false,
            append_first: None,
        }
    }

    /// The log is durable up to here.
    pub(crate) fn durable_index(&self) -> LogIndex {
        self.durable_index
    }

    /// Whether the present term and vote are durable.
    pub(crate) fn hard_state_is_durable(&self) -> bool {
        self.hard_state_durable == self.hard_state_sequence
    }

    /// When the oldest write under way was asked for.
    pub(crate) fn oldest_asked_at(&self) -> Option<Instant> {
        self.pending.front().map(|write| write.asked_at)
    }

    /// Term or vote changed in this step.
    pub(crate) fn hard_state_changed(&mut self) {
        if !self.hard_state_changed {
            self.hard_state_changed = true;
            self.hard_state_sequence += 1;
        }
    }

    /// The log was extended in this step, from `first` on.
    pub(crate) fn appended(&mut self, first: LogIndex) {
        let from = self.append_first.map_or(first, |earlier| earlier.min(first));
        self.append_first = Some(from);
    }

    /// Everything from `from` on is replaced: no write asked for so far makes any of that durable.
    pub(crate) fn truncated(&mut self, from: LogIndex) {
        let kept = from.previous();
        self.durable_index = self.durable_index.min(kept);
        for write in &mut self.pending {
            write.covers = write.covers.min(kept);
        }
    }

    /// A snapshot took the place of the whole log, or of its beginning.
    pub(crate) fn snapshot_installed(&mut self, position: LogPosition, suffix_kept: bool) {
        if suffix_kept {
            self.durable_index = self.durable_index.max(position.index);
        } else {
            self.truncated(LogIndex::ZERO);
            self.durable_index = position.index;
        }
    }

    /// What this step has to write, if anything.
    pub(crate) fn ask(&mut self, hard_state: HardState, last: LogIndex, now: Instant) -> Option<Persist> {
        let hard_state_changed = core::mem::take(&mut self.hard_state_changed);
        let append_first = self.append_first.take();
        if !hard_state_changed && append_first.is_none() {
            return None;
        }
        let entries = append_first.map_or(LogRange::EMPTY, |first| LogRange { first, last });
        let mark = append_first.map(|_| LogMark { leader_term: hard_state.term, index: last });
        if let Some(mark) = mark {
            assert!(!entries.is_empty(), "an append without entries: {entries:?}");
            assert!(Some(mark) > self.newest_mark, "mark {mark:?} asked for after {:?}", self.newest_mark);
            self.newest_mark = Some(mark);
        }
        let covers = mark.map_or(LogIndex::ZERO, |mark| mark.index);
        let hard_state_sequence = self.hard_state_sequence;
        self.pending.push_back(Pending { mark, covers, hard_state_sequence, asked_at: now });
        let hard_state = hard_state_changed.then_some(hard_state);
        Some(Persist { hard_state, hard_state_sequence, entries, mark })
    }

    /// Writes up to this mark and this hard state are durable. Reports may come twice.
    pub(crate) fn durable(&mut self, mark: Option<LogMark>, hard_state_sequence: u64) {
        assert!(mark <= self.newest_mark, "{mark:?} reported durable, {:?} was asked for", self.newest_mark);
        assert!(
            hard_state_sequence <= self.hard_state_sequence,
            "hard state {hard_state_sequence} reported durable, {} was asked for",
            self.hard_state_sequence
        );
        self.durable_mark = self.durable_mark.max(mark);
        self.hard_state_durable = self.hard_state_durable.max(hard_state_sequence);
        while let Some(write) = self.pending.front() {
            if write.mark > self.durable_mark || write.hard_state_sequence > self.hard_state_durable {
                break;
            }
            self.durable_index = self.durable_index.max(write.covers);
            self.pending.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Term;

    fn mark(leader_term: u64, index: u64) -> LogMark {
        LogMark { leader_term: Term(leader_term), index: LogIndex(index) }
    }

    fn append(writes: &mut Writes, term: u64, first: u64, last: u64) -> Persist {
        writes.appended(LogIndex(first));
        let hard_state = HardState { term: Term(term), vote: None };
        writes.ask(hard_state, LogIndex(last), Instant::from_nanos(last)).expect("there is something to write")
    }

    #[test]
    fn appends_become_durable_as_reported() {
        let mut writes = Writes::new(LogIndex(3));
        assert_eq!(append(&mut writes, 1, 4, 5).mark, Some(mark(1, 5)));
        assert_eq!(append(&mut writes, 1, 6, 6).mark, Some(mark(1, 6)));
        assert_eq!(writes.durable_index(), LogIndex(3));
        writes.durable(Some(mark(1, 5)), 0);
        assert_eq!(writes.durable_index(), LogIndex(5));
        writes.durable(Some(mark(1, 6)), 0);
        writes.durable(Some(mark(1, 5)), 0);
        assert_eq!(writes.durable_index(), LogIndex(6));
        assert_eq!(writes.oldest_asked_at(), None);
    }

    /// Scenarios 17 and 18.
    #[test]
    fn late_acknowledgement_does_not_cover_what_replaced_its_entries() {
        let mut writes = Writes::new(LogIndex(2));
        append(&mut writes, 1, 3, 6);
        writes.truncated(LogIndex(4));
        append(&mut writes, 2, 4, 5);
        writes.durable(Some(mark(1, 6)), 0);
        assert_eq!(writes.durable_index(), LogIndex(3));
        writes.durable(Some(mark(2, 5)), 0);
        assert_eq!(writes.durable_index(), LogIndex(5));
    }

    #[test]
    fn truncation_takes_back_what_was_durable() {
        let mut writes = Writes::new(LogIndex(9));
        writes.truncated(LogIndex(5));
        append(&mut writes, 4, 5, 5);
        assert_eq!(writes.durable_index(), LogIndex(4));
    }

    #[test]
    fn hard_state_and_entries_travel_together() {
        let mut writes = Writes::new(LogIndex::ZERO);
        writes.hard_state_changed();
        assert!(!writes.hard_state_is_durable());
        let persist = append(&mut writes, 2, 1, 1);
        assert_eq!(persist.hard_state.map(|hard_state| hard_state.term), Some(Term(2)));
        writes.durable(None, 1);
        assert!(writes.hard_state_is_durable());
        assert_eq!(writes.durable_index(), LogIndex::ZERO);
        assert_eq!(writes.oldest_asked_at(), Some(Instant::from_nanos(1)));
    }

    #[test]
    fn snapshot_replaces_what_earlier_writes_covered() {
        let mut writes = Writes::new(LogIndex(4));
        append(&mut writes, 1, 5, 9);
        writes.snapshot_installed(LogPosition { term: Term(2), index: LogIndex(7) }, false);
        writes.durable(Some(mark(1, 9)), 0);
        assert_eq!(writes.durable_index(), LogIndex(7));
    }

    #[test]
    #[should_panic(expected = "was asked for")]
    fn acknowledgement_of_a_write_never_asked_for_panics() {
        Writes::new(LogIndex::ZERO).durable(Some(mark(1, 1)), 0);
    }
}
