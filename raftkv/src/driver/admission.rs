//! How much may wait (promise 7): a write that cannot be answered in time is refused before it enters the log.
//!
//! Writes that are taken wait for the log of a majority and for the state machine. If more of them are taken than these get done, they all come to be answered
//! after their clients have given up, and a client that gives up knows nothing of its write. So the leader measures what gets done, in bytes a
//! second, and takes no more than gets done in [`WAIT_MAX`]: half of what a client waits unless it is told otherwise. By Little's law that is the same as
//! to refuse once a write would wait longer than that.
//!
//! The rate is that of *busy* time, in which something waited: idle time says nothing about the disk. It is smoothed over about a second, so that one slow
//! fdatasync does not count for much, and a disk that stands still does. With little to do it would come out too low, because the time of a single
//! write is mostly waiting for others. So a measurement that is lower than what was known counts only if the disk had enough to do all the time
//! ([`FULL_BYTES`]). A leader that has measured nothing assumes a modest disk.
//!
//! Invariants: bytes are counted off exactly once. A write is always taken when nothing waits, however long it is.
//!
//! Absent: fairness between clients, and anything about time that requests spend on the wire.

use raft::Instant;
use std::time::Duration;

/// How long a write that is taken may have to wait for its answer, as far as one can tell.
const WAIT_MAX: Duration = Duration::from_millis(2_500);
/// So many bytes may wait whatever the rate.
const FLOOR_BYTES: u64 = 4 << 20;
/// What is assumed until something is known: two of the largest values by default may wait then.
const BYTES_PER_SECOND_ASSUMED: u64 = 8 << 20;
/// While so much waits, what gets done is what can be done.
const FULL_BYTES: u64 = 1 << 20;
/// Busy time that makes one measurement.
const WINDOW: Duration = Duration::from_millis(250);
/// A measurement counts for one part of so many; the rest is what was known before.
const SMOOTHING: u64 = 4;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// Taken and not done.
    waiting_bytes: u64,
    /// Done in this window.
    done_bytes: u64,
    /// Busy time in this window, up to `looked_at`.
    busy: Duration,
    looked_at: Instant,
    /// The least that waited at any moment of this window.
    waiting_bytes_min: u64,
    bytes_per_second: u64,
}

impl Admission {
    /// Nothing waits, and nothing is known of the disk.
    pub(super) fn new(now: Instant) -> Admission {
        Admission {
            waiting_bytes: 0,
            done_bytes: 0,
            busy: Duration::ZERO,
            looked_at: now,
            waiting_bytes_min: 0,
            bytes_per_second: BYTES_PER_SECOND_ASSUMED,
        }
    }

    /// Whether a write of so many bytes may be taken.
    pub(super) fn admits(&mut self, now: Instant, bytes: usize) -> bool {
        self.look(now);
        self.waiting_bytes == 0 || self.waiting_bytes.saturating_add(bytes as u64) <= self.limit()
    }

    /// So many bytes are taken.
    pub(super) fn take(&mut self, now: Instant, bytes: usize) {
        self.look(now);
        self.waiting_bytes = self.waiting_bytes.saturating_add(bytes as u64);
    }

    /// So many bytes are done: answered with an outcome.
    pub(super) fn done(&mut self, now: Instant, bytes: usize) {
        self.look(now);
        self.done_bytes = self.done_bytes.saturating_add(bytes as u64);
        self.drop_waiting(bytes);
    }

    /// So many bytes wait no more, and nothing was done about them.
    pub(super) fn give_up(&mut self, now: Instant, bytes: usize) {
        self.look(now);
        self.drop_waiting(bytes);
    }

    /// How many bytes may wait.
    fn limit(&self) -> u64 {
        let in_time = u128::from(self.bytes_per_second) * WAIT_MAX.as_millis() / 1_000;
        FLOOR_BYTES.max(u64::try_from(in_time).unwrap_or(u64::MAX))
    }

    fn drop_waiting(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        assert!(bytes <= self.waiting_bytes, "{bytes} bytes are counted off, and {} wait", self.waiting_bytes);
        self.waiting_bytes -= bytes;
        self.waiting_bytes_min = self.waiting_bytes_min.min(self.waiting_bytes);
    }

    /// Counts the time since the last look, if something waited in it, and takes the measurement of each window that it completes.
    fn look(&mut self, now: Instant) {
        if self.waiting_bytes > 0 {
            self.busy += now.since(self.looked_at);
        }
        self.looked_at = self.looked_at.max(now);
        if self.busy < WINDOW {
            return;
        }
        let measured = u128::from(self.done_bytes) * 1_000_000 / self.busy.as_micros();
        let measured = u64::try_from(measured).unwrap_or(u64::MAX);
        if measured > self.bytes_per_second || self.waiting_bytes_min >= FULL_BYTES {
            // A long time without a look counts as the many windows that it is, but no more of them than make a difference.
            let windows = (self.busy.as_millis() / WINDOW.as_millis()).min(64);
            for _ in 0..windows {
                let known = self.bytes_per_second;
                self.bytes_per_second = known - known / SMOOTHING + measured / SMOOTHING;
            }
        }
        self.waiting_bytes_min = self.waiting_bytes;
        self.done_bytes = 0;
        self.busy = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A disk that does so many bytes a second, one write after the other, and clients that always have more.
    struct Rig {
        admission: Admission,
        now: Instant,
        /// When the disk is done with what it has begun.
        free_at: Instant,
        waiting: std::collections::VecDeque<(Instant, usize)>,
        refused: usize,
        longest: Duration,
    }

    impl Rig {
        fn new() -> Rig {
            let now = Instant::ORIGIN;
            let (waiting, longest) = (std::collections::VecDeque::new(), Duration::ZERO);
            Rig { admission: Admission::new(now), now, free_at: now, waiting, refused: 0, longest }
        }

        fn offer(&mut self, bytes: usize) {
            if self.admission.admits(self.now, bytes) {
                self.admission.take(self.now, bytes);
                self.waiting.push_back((self.now, bytes));
            } else {
                self.refused += 1;
            }
        }

        /// Lets the disk work for so long.
        fn work(&mut self, time: Duration, bytes_per_second: u64) {
            let until = self.now + time;
            while let Some((taken, bytes)) = self.waiting.front().copied() {
                let takes = Duration::from_micros(bytes as u64 * 1_000_000 / bytes_per_second);
                let done = self.free_at.max(taken) + takes;
                if done > until {
                    break;
                }
                self.free_at = done;
                self.waiting.pop_front();
                self.admission.done(done, bytes);
                self.longest = self.longest.max(done.since(taken));
            }
            self.now = until;
        }
    }

    #[test]
    fn under_any_load_what_is_taken_is_soon_answered_in_time() {
        for (bytes, rate) in [(8 * MIB, 60 << 20), (8 * MIB, 16 << 20), (MIB, 10 << 20), (1_000, 3 << 20)] {
            let mut rig = Rig::new();
            for step in 0..600 {
                if step == 100 {
                    // Ten seconds were enough to learn what the disk is like.
                    rig.longest = Duration::ZERO;
                }
                for _ in 0..(20 << 20) / bytes {
                    rig.offer(bytes);
                }
                rig.work(Duration::from_millis(100), rate);
            }
            assert!(rig.refused > 0, "{bytes} bytes at {rate}: nothing was refused");
            assert!(rig.longest < 2 * WAIT_MAX, "{bytes} bytes at {rate}: {:?}", rig.longest);
            assert!(rig.longest > WAIT_MAX / 2, "{bytes} bytes at {rate}: refused too early, {:?}", rig.longest);
        }
    }

    /// As after every election, when nothing is known.
    #[test]
    fn two_of_the_largest_values_are_taken_at_the_start() {
        let mut rig = Rig::new();
        (0..2).for_each(|_| rig.offer(8 * MIB + 100));
        assert_eq!(rig.refused, 0);
        rig.offer(8 * MIB);
        assert_eq!(rig.refused, 1);
    }

    #[test]
    fn light_load_does_not_make_the_disk_look_slow() {
        let mut rig = Rig::new();
        for _ in 0..1_000 {
            (0..10).for_each(|_| rig.offer(100));
            rig.work(Duration::from_millis(10), 1 << 20);
        }
        (0..2).for_each(|_| rig.offer(8 * MIB));
        assert_eq!(rig.refused, 0);
    }

    #[test]
    fn a_load_that_the_disk_can_do_is_never_refused() {
        let mut rig = Rig::new();
        for _ in 0..1_000 {
            (0..4).for_each(|_| rig.offer(MIB / 4));
            rig.work(Duration::from_millis(50), 30 << 20);
        }
        assert_eq!(rig.refused, 0);
    }

    #[test]
    fn a_burst_after_light_load_is_soon_taken_at_the_rate_of_the_disk() {
        let mut rig = Rig::new();
        for _ in 0..1_000 {
            rig.offer(100);
            rig.work(Duration::from_millis(10), 64 << 20);
        }
        for _ in 0..50 {
            (0..8).for_each(|_| rig.offer(MIB));
            rig.work(Duration::from_millis(100), 64 << 20);
        }
        let waiting: usize = rig.waiting.iter().map(|(_, bytes)| bytes).sum();
        assert!(waiting > 32 * MIB, "{waiting} bytes wait");
    }

    #[test]
    fn one_write_is_taken_when_nothing_waits_however_long_it_is() {
        let mut admission = Admission::new(Instant::ORIGIN);
        assert!(admission.admits(Instant::ORIGIN, 30 * MIB), "a value of the highest setting");
        admission.take(Instant::ORIGIN, 30 * MIB);
        assert!(!admission.admits(Instant::ORIGIN, 1));
    }

    #[test]
    fn a_disk_that_stands_still_soon_takes_no_more_than_the_floor() {
        let mut rig = Rig::new();
        for _ in 0..100 {
            (0..8).for_each(|_| rig.offer(MIB));
            rig.work(Duration::from_millis(100), 64 << 20);
        }
        rig.now = rig.now + Duration::from_secs(5);
        assert!(!rig.admission.admits(rig.now, 1));
        let bytes: usize = rig.waiting.drain(..).map(|(_, bytes)| bytes).sum();
        rig.admission.give_up(rig.now, bytes);
        rig.admission.take(rig.now, 3 * MIB);
        assert!(rig.admission.admits(rig.now, MIB));
        assert!(!rig.admission.admits(rig.now, MIB + 1));
    }
}
