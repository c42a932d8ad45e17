//! The clock of one node: it runs at a speed of its own and may jump.
//!
//! What a node reads is what an operating system's monotonic clock gives: never less than before. A jump backward makes it stand
//! still until it has caught up; a jump forward is a machine that was suspended, or a clock that was badly disciplined.

use crate::schedule::Time;
use raft::Instant;
use std::time::Duration;

const MILLION: u128 = 1_000_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Clock {
    /// What the clock showed, in nanoseconds, at `since`.
    base: i128,
    since: Time,
    /// Parts per million by which it runs slow (below zero) or fast.
    drift: i64,
    /// The latest reading that was given out.
    shown: u64,
}

impl Clock {
    /// A clock that starts at zero at `now`.
    #[must_use]
    pub fn new(now: Time, drift: i64) -> Clock {
        assert!((-900_000..=900_000).contains(&drift), "a drift of {drift} ppm");
        Clock { base: 0, since: now, drift, shown: 0 }
    }

    /// What the clock shows.
    pub fn read(&mut self, now: Time) -> Instant {
        let raw = u64::try_from(self.raw(now).max(0)).expect("a run is shorter than 500 years");
        self.shown = self.shown.max(raw);
        Instant::from_nanos(self.shown)
    }

    /// When the clock will show `reading`, if it goes on as it does.
    #[must_use]
    pub fn when(&self, reading: Instant) -> Time {
        let missing = i128::from(reading.as_nanos()) - self.base;
        let Ok(missing) = u128::try_from(missing) else { return self.since };
        let nanos = (missing * MILLION).div_ceil(self.speed());
        Time(self.since.0.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Goes on at another speed.
    pub fn set_drift(&mut self, now: Time, drift: i64) {
        (self.base, self.since, self.drift) = (self.raw(now), now, drift);
    }

    /// Jumps forward or, if `backward`, back.
    pub fn jump(&mut self, by: Duration, backward: bool) {
        let nanos = i128::try_from(by.as_nanos()).expect("jumps are short");
        self.base += if backward { -nanos } else { nanos };
    }

    fn raw(&self, now: Time) -> i128 {
        let passed = u128::from(now.0 - self.since.0) * self.speed() / MILLION;
        self.base + i128::try_from(passed).expect("a run is shorter than 500 years")
    }

    fn speed(&self) -> u128 {
        u128::try_from(1_000_000 + self.drift).expect("no clock runs backward")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_comes_when_it_was_foretold() {
        for drift in [-50_000, -1, 0, 7, 50_000] {
            let mut clock = Clock::new(Time(1_000), drift);
            let reading = Instant::from_nanos(123_456_789);
            let when = clock.when(reading);
            assert!(clock.clone().read(Time(when.0 - 1)) < reading, "drift {drift}");
            assert!(clock.read(when) >= reading, "drift {drift}");
        }
    }

    #[test]
    fn readings_never_go_back() {
        let mut clock = Clock::new(Time::START, 0);
        let before = clock.read(Time(5_000));
        clock.jump(Duration::from_nanos(3_000), true);
        assert_eq!(clock.read(Time(6_000)), before, "it stands still");
        assert_eq!(clock.read(Time(9_000)), Instant::from_nanos(6_000));
        clock.jump(Duration::from_secs(3600), false);
        assert!(clock.read(Time(9_001)) > Instant::from_nanos(3_600_000_000_000));
    }
}
