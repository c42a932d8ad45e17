//! How old the state machine's state is, for reads that may be stale up to an age.
//!
//! A leader's word "committed up to c", heard at a moment, says that nothing beyond c was committed before that word was sent. Once
//! c is applied here, the state is as it was at that moment or newer (the word's journey, which is not known, aside). A leader has its
//! own word, as of the moment at which it last heard from a quorum: before that nobody else can have led.

use raft::{Instant, LogIndex};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FreshnessTracker {
    /// The oldest word whose index is not applied yet. Newer words wait: otherwise none would ever come true under load.
    pending: Option<(Instant, LogIndex)>,
    fresh_at: Option<Instant>,
}

impl FreshnessTracker {
    /// The leader said at `at` that `commit` is committed.
    pub(super) fn heard(&mut self, at: Instant, commit: LogIndex, applied: LogIndex) {
        if commit <= applied {
            self.pending = None;
            self.fresh_at = self.fresh_at.max(Some(at));
        } else if self.pending.is_none() {
            self.pending = Some((at, commit));
        }
    }

    /// More is applied.
    pub(super) fn applied(&mut self, applied: LogIndex) {
        if let Some((at, commit)) = self.pending
            && commit <= applied
        {
            self.pending = None;
            self.fresh_at = self.fresh_at.max(Some(at));
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

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_word_counts_once_its_index_is_applied() {
        let mut tracker = FreshnessTracker::default();
        tracker.heard(at(10), LogIndex(5), LogIndex(4));
        assert_eq!(tracker.fresh_at(), None);
        tracker.heard(at(20), LogIndex(9), LogIndex(4));
        tracker.applied(LogIndex(5));
        assert_eq!(tracker.fresh_at(), Some(at(10)), "the newer word is not true yet");
        tracker.heard(at(30), LogIndex(5), LogIndex(5));
        assert_eq!(tracker.fresh_at(), Some(at(30)));
    }

    #[test]
    fn freshness_never_goes_back() {
        let mut tracker = FreshnessTracker::default();
        tracker.heard(at(30), LogIndex(1), LogIndex(1));
        tracker.heard(at(20), LogIndex(1), LogIndex(1));
        assert_eq!(tracker.fresh_at(), Some(at(30)));
    }
}
