//! The memberships in force: one that is certainly committed, and the one in effect.
//!
//! A membership takes effect when it is appended, on every node (Raft §6, thesis §4.1), and is taken back when its entry is
//! truncated. At most one is ever uncommitted: a leader appends the next one only after the one before is committed. So two
//! are enough. When a follower appends the next one without having heard that the one before is committed, the entry itself
//! says so.
//!
//! Invariants: the committed one is never taken back; the one in effect stands after it.
//!
//! Caveat: an installed snapshot brings its own committed membership. What stood behind it in a log that is dropped is gone with
//! the log (scenario 26). What stands in a suffix that stays still stands, committed or in effect: a snapshot may be older than a
//! membership that is known to be committed by the one after it.

use crate::{LogIndex, Membership};
use alloc::vec::Vec;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Configurations {
    committed: Membership,
    /// Where it stands, or a later index as of which it is known.
    committed_index: LogIndex,
    /// In effect and not known to be committed.
    pending: Option<(LogIndex, Membership)>,
    /// Goes up with each change of what is in effect.
    version: u64,
}

impl Configurations {
    /// What the disk has: the membership as of `applied`, and those in the log after it.
    pub(crate) fn restored(
        membership: Membership,
        applied: LogIndex,
        in_log: Vec<(LogIndex, Membership)>,
    ) -> Configurations {
        let mut configurations =
            Configurations { committed: membership, committed_index: applied, pending: None, version: 0 };
        for (index, membership) in in_log {
            configurations.appended(index, membership);
        }
        configurations
    }

    /// The membership that decides now.
    pub(crate) fn effective(&self) -> &Membership {
        self.pending.as_ref().map_or(&self.committed, |(_, membership)| membership)
    }

    /// Where the membership in effect stands in the log, or an index as of which it is known.
    pub(crate) fn effective_index(&self) -> LogIndex {
        self.pending.as_ref().map_or(self.committed_index, |(index, _)| *index)
    }

    /// The newest membership that is certainly committed.
    pub(crate) fn committed(&self) -> &Membership {
        &self.committed
    }

    /// Where it stands, or an index as of which it is known.
    pub(crate) fn committed_index(&self) -> LogIndex {
        self.committed_index
    }

    /// Whether the membership in effect could still be taken back.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Changes with each change of what is in effect.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A membership was appended at `index`.
    pub(crate) fn appended(&mut self, index: LogIndex, membership: Membership) {
        assert!(
            index > self.effective_index(),
            "a membership at {index} after one in effect at {}",
            self.effective_index()
        );
        if let Some((index, membership)) = self.pending.take() {
            (self.committed_index, self.committed) = (index, membership);
        }
        self.pending = Some((index, membership));
        self.version += 1;
    }

    /// Everything from `from` on was truncated.
    pub(crate) fn truncated(&mut self, from: LogIndex) {
        if self.pending.as_ref().is_some_and(|(index, _)| *index >= from) {
            self.pending = None;
            self.version += 1;
        }
    }

    /// Everything up to `index` is committed.
    pub(crate) fn committed_to(&mut self, index: LogIndex) {
        if let Some((at, membership)) = self.pending.take_if(|(at, _)| *at <= index) {
            (self.committed_index, self.committed) = (at, membership);
        }
    }

    /// A snapshot took the place of the log up to `index`; `suffix_kept` says whether the log after it stays.
    pub(crate) fn snapshot_installed(&mut self, index: LogIndex, membership: Membership, suffix_kept: bool) {
        assert!(
            suffix_kept || self.committed_index <= index,
            "a snapshot up to {index} drops the log with the membership committed at {}",
            self.committed_index
        );
        if self.committed_index <= index {
            (self.committed_index, self.committed) = (index, membership);
        }
        self.pending = self.pending.take().filter(|(at, _)| suffix_kept && *at > index);
        self.version += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn voters(count: u64) -> Membership {
        Membership::new((1..=count).map(NodeId))
    }

    #[test]
    fn membership_takes_effect_when_appended_and_is_taken_back_when_truncated() {
        let mut configurations = Configurations::restored(voters(3), LogIndex(4), Vec::new());
        configurations.appended(LogIndex(6), voters(4));
        assert_eq!((configurations.effective(), configurations.committed()), (&voters(4), &voters(3)));
        configurations.truncated(LogIndex(7));
        assert!(configurations.is_pending());
        configurations.truncated(LogIndex(6));
        assert_eq!((configurations.effective(), configurations.is_pending()), (&voters(3), false));
        assert_eq!(configurations.effective_index(), LogIndex(4));
    }

    #[test]
    fn next_membership_says_that_the_one_before_is_committed() {
        let mut configurations = Configurations::restored(voters(1), LogIndex(0), Vec::new());
        configurations.appended(LogIndex(2), voters(2));
        configurations.appended(LogIndex(5), voters(3));
        configurations.truncated(LogIndex(4));
        assert_eq!((configurations.effective(), configurations.effective_index()), (&voters(2), LogIndex(2)));
    }

    #[test]
    fn committed_membership_stays() {
        let mut configurations = Configurations::restored(voters(1), LogIndex(0), Vec::new());
        configurations.appended(LogIndex(2), voters(2));
        configurations.committed_to(LogIndex(1));
        assert!(configurations.is_pending());
        configurations.committed_to(LogIndex(2));
        configurations.truncated(LogIndex(3));
        assert_eq!((configurations.committed(), configurations.committed_index()), (&voters(2), LogIndex(2)));
    }

    /// Scenario 26.
    #[test]
    fn snapshot_takes_uncommitted_membership_away_with_the_log() {
        let mut dropped = Configurations::restored(voters(1), LogIndex(0), Vec::new());
        dropped.appended(LogIndex(9), voters(2));
        let mut kept = dropped.clone();
        dropped.snapshot_installed(LogIndex(5), voters(3), false);
        assert_eq!(dropped.effective(), &voters(3));
        kept.snapshot_installed(LogIndex(5), voters(3), true);
        assert_eq!((kept.effective(), kept.committed()), (&voters(2), &voters(3)));
        kept.snapshot_installed(LogIndex(9), voters(4), true);
        assert_eq!(kept.effective(), &voters(4));
    }

    #[test]
    fn snapshot_before_a_committed_membership_in_the_log_leaves_it() {
        let mut configurations = Configurations::restored(voters(1), LogIndex(0), Vec::new());
        configurations.appended(LogIndex(5), voters(2));
        configurations.appended(LogIndex(8), voters(3));
        configurations.snapshot_installed(LogIndex(3), voters(1), true);
        assert_eq!((configurations.committed(), configurations.committed_index()), (&voters(2), LogIndex(5)));
        configurations.truncated(LogIndex(8));
        assert_eq!((configurations.effective(), configurations.effective_index()), (&voters(2), LogIndex(5)));
    }

    #[test]
    fn memberships_in_the_log_are_in_effect_after_a_restart() {
        let in_log = Vec::from([(LogIndex(5), voters(2)), (LogIndex(6), voters(3))]);
        let configurations = Configurations::restored(voters(1), LogIndex(4), in_log);
        assert_eq!((configurations.effective(), configurations.committed()), (&voters(3), &voters(2)));
    }
}
