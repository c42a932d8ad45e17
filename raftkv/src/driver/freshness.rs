//! How old the state machine's state is, for reads that may be stale up to an age.
//!
//! A leader's word "committed up to c", heard at a moment, says that nothing beyond c was committed before that word was sent, if the
//! leader knows what is committed. It does once it has committed in its own term (Raft §8): before that it knows only what it was
//! told as a follower, and what its predecessor acknowledged last may lie beyond. So a word counts if the entry at c is of the term in
//! which the word was said, which this node sees in its own log as soon as it holds that entry. Once c is applied here, the state is as
//! it was at that moment or newer. A leader has its own word, as of the moment at which it last heard from a quorum: before that nobody
//! else can have led.
//!
//! Caveats: a message's journey is not known, so an age is too small by that. And a leader that was deposed and has not noticed yet still
//! gives its word; it steps down an election timeout after it last heard from a quorum, so an age is too small by no more than that
//! besides.

use raft::{Instant, LogIndex, LogView, Term};

/// What a leader says of what is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// When it was heard.
    pub(super) at: Instant,
    /// The term in which it leads.
    pub(super) term: Term,
    /// Committed up to here.
    pub(super) commit: LogIndex,
}

impl Word {
    /// Whether the leader had committed in its own term. Known once the entry is in this node's log, and no more when it is compacted.
    fn counts(&self, log: LogView<'_>) -> bool {
        log.term(self.commit) == Some(self.term)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FreshnessTracker {
    /// The oldest word whose index is not applied yet. Newer words wait: otherwise none would ever come true under load.
    pending: Option<Word>,
    fresh_at: Option<Instant>,
}

impl FreshnessTracker {
    /// A leader gave its word; everything up to `applied` is applied.
    pub(super) fn heard(&mut self, word: Word, applied: LogIndex, log: LogView<'_>) {
        if word.commit > applied {
            self.pending.get_or_insert(word);
        } else if word.counts(log) {
            self.pending = None;
            self.fresh_at = self.fresh_at.max(Some(word.at));
        }
    }

    /// More is applied.
    pub(super) fn applied(&mut self, applied: LogIndex, log: LogView<'_>) {
        if let Some(word) = self.pending.take_if(|word| word.commit <= applied)
            && word.counts(log)
        {
            self.fresh_at = self.fresh_at.max(Some(word.at));
        }
    }

    /// The state is as it was at this moment, or newer.
    pub(super) fn fresh_at(&self) -> Option<Instant> {
        self.fresh_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Config, Membership, Node, NodeId, Restored};

    fn word(nanos: u64, term: u64, commit: u64) -> Word {
        Word { at: Instant::from_nanos(nanos), term: Term(term), commit: LogIndex(commit) }
    }

    /// A node whose log has entries 1 to 5 of term 1 and 6 to 9 of term 2.
    fn node() -> Node {
        let restored = Restored {
            hard_state: raft::HardState { term: Term(2), vote: None },
            log_last: LogIndex(9),
            term_runs: vec![(LogIndex(1), Term(1)), (LogIndex(6), Term(2))],
            ..Restored::new(Membership::new((1..=3).map(NodeId)))
        };
        Node::new(Config::new(NodeId(1)), restored, Instant::ORIGIN, 1)
    }

    #[test]
    fn a_word_counts_once_its_index_is_applied() {
        let (node, mut tracker) = (node(), FreshnessTracker::default());
        tracker.heard(word(10, 1, 5), LogIndex(4), node.log());
        assert_eq!(tracker.fresh_at(), None);
        tracker.heard(word(20, 2, 9), LogIndex(4), node.log());
        tracker.applied(LogIndex(5), node.log());
        assert_eq!(tracker.fresh_at(), Some(Instant::from_nanos(10)), "the newer word is not true yet");
        tracker.heard(word(30, 1, 5), LogIndex(5), node.log());
        assert_eq!(tracker.fresh_at(), Some(Instant::from_nanos(30)));
    }

    #[test]
    fn a_leader_that_has_not_committed_in_its_term_does_not_know_what_is_committed() {
        let (node, mut tracker) = (node(), FreshnessTracker::default());
        tracker.heard(word(10, 2, 5), LogIndex(5), node.log());
        tracker.heard(word(20, 3, 8), LogIndex(5), node.log());
        tracker.applied(LogIndex(8), node.log());
        assert_eq!(tracker.fresh_at(), None);
        tracker.heard(word(30, 2, 8), LogIndex(8), node.log());
        assert_eq!(tracker.fresh_at(), Some(Instant::from_nanos(30)));
    }

    #[test]
    fn freshness_never_goes_back() {
        let (node, mut tracker) = (node(), FreshnessTracker::default());
        tracker.heard(word(30, 1, 1), LogIndex(1), node.log());
        tracker.heard(word(20, 1, 1), LogIndex(1), node.log());
        assert_eq!(tracker.fresh_at(), Some(Instant::from_nanos(30)));
    }
}
