//! Automatic compaction: the leader proposes to let go of old revisions, by their number or by their age.
//!
//! By number it keeps the last so many. By age it keeps what was readable at any moment within the age: every node notes now and then which revision it was
//! at, and what was the newest one an age ago is the oldest that is kept. With both, it keeps what either keeps. All nodes take notes, so
//! that a new leader need not wait; a node that was just started knows nothing that is old enough, and lets go of nothing by age until it does.
//!
//! A compaction costs an entry of the log, and a flush on each node. So it is proposed only when it lets go of a tenth of what is kept: between
//! that and a tenth more is kept.
//!
//! The clock is the driver's, monotonic: a wall clock that is set lets go of nothing.

use super::quota::Quota;
use super::{Driver, Host};
use raft::{Instant, Role, Term};
use std::collections::VecDeque;
use std::time::Duration;
use storage::command::Command;
use storage::state::FORMAT_WITH_TRANSACTIONS;

/// Compactions, and notes, for each age that is kept.
const STEPS: u32 = 10;

/// How much of the past is kept, and how much room the state may take. `None`: everything, any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceLimits {
    /// Bytes that the state may take on disk and in memory that waits for the disk.
    pub quota_bytes: Option<u64>,
    /// Revisions kept.
    pub keep_revisions: Option<u64>,
    /// For how long what was readable stays so.
    pub keep_age: Option<Duration>,
}

/// How the state is, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceSample {
    /// Bytes on disk and in memory that waits for the disk.
    pub bytes: u64,
    /// The newest revision.
    pub revision: u64,
    /// The oldest one that can be read; zero: all can.
    pub compacted: u64,
}

/// What the driver knows of room and the past.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) quota: Quota,
    compaction: Compaction,
}

impl Space {
    pub(super) fn new(limits: SpaceLimits) -> Space {
        let SpaceLimits { quota_bytes, keep_revisions, keep_age } = limits;
        let compaction = Compaction { keep_revisions, keep_age, notes: VecDeque::new(), asked: None };
        Space { quota: Quota::new(quota_bytes), compaction }
    }
}

#[derive(Debug)]
struct Compaction {
    keep_revisions: Option<u64>,
    keep_age: Option<Duration>,
    /// When which revision was the newest, the oldest note first.
    notes: VecDeque<(Instant, u64)>,
    /// What was proposed last, and in which term.
    asked: Option<(u64, Term)>,
}

impl Compaction {
    fn note(&mut self, now: Instant, revision: u64) {
        let Some(age) = self.keep_age else { return };
        if self.notes.back().is_some_and(|(at, _)| now.since(*at) < age / STEPS) {
            return;
        }
        self.notes.push_back((now, revision));
        // Of the notes that are old enough, the last one counts.
        while self.notes.get(1).is_some_and(|(at, _)| now.since(*at) >= age) {
            self.notes.pop_front();
        }
    }

    /// The revision to compact to, if it is worth it.
    fn due(&self, now: Instant, sample: &SpaceSample, term: Term) -> Option<u64> {
        let by_number = self.keep_revisions.map(|keep| sample.revision.saturating_sub(keep));
        let by_age = self.keep_age.map(|age| {
            let old_enough = self.notes.iter().take_while(|(at, _)| now.since(*at) >= age);
            old_enough.last().map_or(0, |(_, revision)| *revision)
        });
        let target = match (by_number, by_age) {
            (Some(number), Some(age)) => number.min(age),
            (Some(target), None) | (None, Some(target)) => target,
            (None, None) => return None,
        };
        let asked = self.asked.filter(|(_, asked_in)| *asked_in == term).map_or(0, |(revision, _)| revision);
        let gained = target.saturating_sub(sample.compacted.max(asked));
        let least = match (self.keep_revisions, self.keep_age) {
            // Notes are a tenth of the age apart as it is.
            (_, Some(_)) => 1,
            (keep, None) => keep.map_or(1, |keep| keep / u64::from(STEPS)).max(1),
        };
        (gained >= least).then_some(target)
    }
}

impl<H: Host> Driver<H> {
    /// Takes in how the state is, and lets go of what is old, if this node leads.
    pub(super) fn on_space(&mut self, now: Instant, sample: SpaceSample) {
        self.space.quota.sampled(sample.bytes);
        self.space.compaction.note(now, sample.revision);
        let status = self.node.status();
        let (leads, term) = (status.role == Role::Leader, status.term);
        if !leads || self.formats.in_effect < FORMAT_WITH_TRANSACTIONS {
            return;
        }
        let Some(revision) = self.space.compaction.due(now, &sample, term) else { return };
        tracing::info!(revision, oldest = sample.compacted, newest = sample.revision, "letting go of old revisions");
        // The next sample shows what became of it; what was refused is asked for again then.
        if self.propose_own(now, &Command::Compact { revision }).is_some() {
            self.space.compaction.asked = Some((revision, term));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(1);

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    fn compaction(keep_revisions: Option<u64>, keep_age: Option<Duration>) -> Compaction {
        Space::new(SpaceLimits { quota_bytes: None, keep_revisions, keep_age }).compaction
    }

    fn sample(revision: u64, compacted: u64) -> SpaceSample {
        SpaceSample { bytes: 0, revision, compacted }
    }

    #[test]
    fn the_last_revisions_are_kept_and_a_tenth_more_at_most() {
        let kept = compaction(Some(1000), None);
        assert_eq!(kept.due(at(0), &sample(1099, 0), TERM), None);
        assert_eq!(kept.due(at(0), &sample(1100, 0), TERM), Some(100));
        assert_eq!(kept.due(at(0), &sample(1199, 100), TERM), None);
        assert_eq!(kept.due(at(0), &sample(5000, 100), TERM), Some(4000));
    }

    #[test]
    fn what_was_readable_within_the_age_is_kept() {
        let mut kept = compaction(None, Some(Duration::from_secs(100)));
        let mut due_at = Vec::new();
        let mut compacted = 0;
        // A revision every second.
        for second in 0..1000 {
            kept.note(at(second), second);
            if let Some(target) = kept.due(at(second), &sample(second, compacted), TERM) {
                assert!(target + 100 <= second, "{target} at {second}");
                assert!(target + 111 >= second, "{target} at {second}");
                compacted = target;
                due_at.push(second);
            }
            assert!(kept.notes.len() <= 12, "{} notes", kept.notes.len());
        }
        assert_eq!(due_at.first(), Some(&110), "at revision 0 nothing could be let go of");
        assert!(due_at.windows(2).all(|pair| pair[1] - pair[0] >= 10), "{due_at:?}");
    }

    #[test]
    fn with_number_and_age_what_either_keeps_is_kept() {
        let mut kept = compaction(Some(10), Some(Duration::from_secs(100)));
        kept.note(at(0), 50);
        assert_eq!(kept.due(at(99), &sample(1000, 0), TERM), None, "nothing is known that is old enough");
        assert_eq!(kept.due(at(100), &sample(1000, 0), TERM), Some(50));
        assert_eq!(kept.due(at(100), &sample(55, 0), TERM), Some(45));
    }

    #[test]
    fn what_was_asked_for_is_asked_for_again_only_by_the_next_leader() {
        let mut kept = compaction(Some(10), None);
        kept.asked = Some((90, TERM));
        assert_eq!(kept.due(at(0), &sample(100, 0), TERM), None);
        assert_eq!(kept.due(at(0), &sample(100, 0), Term(2)), Some(90));
        assert_eq!(kept.due(at(0), &sample(110, 0), TERM), Some(100));
    }

    #[test]
    fn without_settings_everything_is_kept() {
        assert_eq!(compaction(None, None).due(at(1 << 30), &sample(u64::MAX, 0), TERM), None);
    }
}
