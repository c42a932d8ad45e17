//! The cluster's time, as the leader counts it (`docs/decisions/0009-commands-of-format-4.md`, "Time is the cluster's").
//!
//! Leases and sessions end by a time that every node learns from the log: each batch carries it, and the state keeps the greatest. From format 4 on
//! it is no wall clock. A leader takes it up where the state is once it has applied all that leaders before it have committed, and counts on by its monotonic
//! clock; only a state that has never had a time begins at the leader's wall clock. So a wall clock may be set at any moment without any lease noticing, and
//! while nobody leads (nobody could keep a lease alive) no time passes.
//!
//! Before that a leader knows no time, and its batches carry none: a node that has restarted begins with the state that RocksDB had flushed, which may
//! be none at all, while the log is full of times and of formats.
//!
//! Invariants:
//! - Within one leadership the time never goes back, and it is never before that of a batch applied here.
//! - Between two looks at the clock no more than [`STEP_MAX`] passes. A process that was stopped, or a machine that slept, was not leading
//!   meanwhile, whatever it still believes when it wakes.
//!
//! Caveats: the time falls behind wall clocks by what the cluster was without a leader, so nobody is told it as a date. What a leader has counted since the last
//! batch goes with it; `expiry.rs` sees to it that this is little while anything can end.
//!
//! Absent: any agreement on how fast time passes. A leader whose monotonic clock runs fast ends leases early by that much, as in every system with leases.

use raft::{Instant, Term};
use std::time::Duration;

/// The most that passes between two looks at the monotonic clock. The driver looks at least every half second.
const STEP_MAX: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct ClusterClock {
    /// The time of the state, since 1970; zero: it has none yet.
    applied: Duration,
    /// While this node leads.
    counting: Option<Counting>,
}

#[derive(Debug, Clone, Copy)]
struct Counting {
    term: Term,
    /// The time, since 1970.
    time: Duration,
    /// When it was that, by the monotonic clock.
    at: Instant,
}

impl ClusterClock {
    /// A clock of a node that follows, with a state at this time, in milliseconds since 1970.
    pub(super) fn new(applied_ms: u64) -> ClusterClock {
        ClusterClock { applied: Duration::from_millis(applied_ms), counting: None }
    }

    /// This node leads in `term`, and its state holds an entry of that term, and so all that leaders before it have committed. `wall_clock_ms` counts only if
    /// the state has no time yet.
    pub(super) fn lead(&mut self, now: Instant, term: Term, wall_clock_ms: u64) {
        if self.counting.is_some_and(|counting| counting.term == term) {
            return;
        }
        let time = if self.applied.is_zero() { Duration::from_millis(wall_clock_ms) } else { self.applied };
        self.counting = Some(Counting { term, time, at: now });
    }

    /// This node does not lead.
    pub(super) fn deposed(&mut self) {
        self.counting = None;
    }

    /// The state is at this time.
    pub(super) fn applied(&mut self, now: Instant, time_ms: u64) {
        self.applied = self.applied.max(Duration::from_millis(time_ms));
        self.advance(now);
        if let Some(counting) = &mut self.counting {
            // Of a leader before this one, or of a format in which batches carry wall clocks.
            counting.time = counting.time.max(self.applied);
        }
    }

    /// Lets the time pass that has passed.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Some(counting) = &mut self.counting {
            counting.time += now.since(counting.at).min(STEP_MAX);
            counting.at = counting.at.max(now);
        }
    }

    /// The time in milliseconds since 1970, as of the last [`advance`](ClusterClock::advance); `None` on a node that does not lead, or does not know it yet.
    pub(super) fn time_ms(&self) -> Option<u64> {
        let counting = self.counting?;
        Some(u64::try_from(counting.time.as_millis()).unwrap_or(u64::MAX))
    }

    /// When it will be `time_ms`, by the monotonic clock, at the latest; in the past if it was. `None` on a node that does not lead.
    pub(super) fn when(&self, time_ms: u64) -> Option<Instant> {
        let counting = self.counting?;
        Some(counting.at + Duration::from_millis(time_ms).saturating_sub(counting.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: u64 = 1_800_000_000_000;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    /// Looks at the clock every second until then.
    fn pass(clock: &mut ClusterClock, from: u64, to: u64) {
        (from..=to).for_each(|second| clock.advance(at(second)));
    }

    #[test]
    fn the_first_leader_begins_at_its_wall_clock() {
        let mut clock = ClusterClock::new(0);
        assert_eq!(clock.time_ms(), None);
        clock.lead(at(1), Term(1), WALL_MS);
        pass(&mut clock, 1, 11);
        assert_eq!(clock.time_ms(), Some(WALL_MS + 10_000));
    }

    #[test]
    fn a_later_leader_goes_on_where_the_state_is_whatever_its_wall_clock_says() {
        for wall_ms in [0, WALL_MS - 3_600_000, WALL_MS + 3_600_000, u64::MAX] {
            let mut clock = ClusterClock::new(WALL_MS);
            clock.lead(at(5), Term(2), wall_ms);
            pass(&mut clock, 5, 6);
            assert_eq!(clock.time_ms(), Some(WALL_MS + 1_000));
        }
    }

    #[test]
    fn time_stands_still_while_nobody_leads() {
        let mut clock = ClusterClock::new(WALL_MS);
        clock.lead(at(0), Term(1), 0);
        pass(&mut clock, 0, 3);
        clock.applied(at(3), WALL_MS + 3_000);
        clock.deposed();
        pass(&mut clock, 4, 9);
        clock.lead(at(10), Term(3), 0);
        assert_eq!(clock.time_ms(), Some(WALL_MS + 3_000));
    }

    #[test]
    fn what_a_leader_before_has_written_moves_the_time_on_and_never_back() {
        let mut clock = ClusterClock::new(WALL_MS);
        clock.lead(at(0), Term(2), 0);
        clock.applied(at(1), WALL_MS + 60_000);
        assert_eq!(clock.time_ms(), Some(WALL_MS + 60_000));
        clock.applied(at(2), WALL_MS + 5_000);
        assert_eq!(clock.time_ms(), Some(WALL_MS + 61_000));
    }

    #[test]
    fn being_told_twice_of_one_election_changes_nothing() {
        let mut clock = ClusterClock::new(WALL_MS);
        clock.lead(at(0), Term(2), 0);
        pass(&mut clock, 0, 4);
        clock.lead(at(4), Term(2), 0);
        assert_eq!(clock.time_ms(), Some(WALL_MS + 4_000));
    }

    #[test]
    fn a_process_that_was_stopped_for_an_hour_has_not_led_for_an_hour() {
        let mut clock = ClusterClock::new(WALL_MS);
        clock.lead(at(0), Term(2), 0);
        clock.advance(at(3_600));
        assert_eq!(clock.time_ms(), Some(WALL_MS + 2_000));
        clock.advance(at(3_601));
        assert_eq!(clock.time_ms(), Some(WALL_MS + 3_000));
    }

    #[test]
    fn fractions_of_a_millisecond_add_up() {
        let mut clock = ClusterClock::new(WALL_MS);
        clock.lead(at(0), Term(2), 0);
        for step in 1..=30_000u32 {
            clock.advance(at(0) + Duration::from_micros(100) * step);
        }
        assert_eq!(clock.time_ms(), Some(WALL_MS + 3_000));
    }

    #[test]
    fn a_moment_to_come_is_named_by_the_monotonic_clock() {
        let mut clock = ClusterClock::new(WALL_MS);
        assert_eq!(clock.when(WALL_MS), None);
        clock.lead(at(7), Term(2), 0);
        assert_eq!(clock.when(WALL_MS + 4_000), Some(at(11)));
        assert_eq!(clock.when(WALL_MS - 4_000), Some(at(7)));
        pass(&mut clock, 7, 9);
        assert_eq!(clock.when(WALL_MS + 4_000), Some(at(11)));
    }
}
