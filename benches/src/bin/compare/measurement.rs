//! What one cell (an operation at a number of clients) gave.
//!
//! Throughput counts the operations that *ended* inside the measured window. Latencies are those of the operations that *began* inside
//! it, however late they ended, so that a stall at the end of the window is not left out.

use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// Three significant digits.
const SIGNIFICANT_DIGITS: u8 = 3;
/// An hour: longer than anything that is waited for here.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// From when to when is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

/// Counts of one client, or of many after merging.
pub(crate) struct Tally {
    completed: u64,
    failed: u64,
    first_failure: Option<String>,
    latencies_us: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        // It grows with the longest latency, so a thousand of them stay small.
        let latencies_us = Histogram::new(SIGNIFICANT_DIGITS).expect("three significant digits are possible");
        Tally { completed: 0, failed: 0, first_failure: None, latencies_us }
    }

    /// An operation that succeeded.
    pub(crate) fn succeeded(&mut self, window: Window, began: Instant, ended: Instant) {
        if ended >= window.from && ended < window.until {
            self.completed += 1;
        }
        if began >= window.from && began < window.until {
            let latency_us = u64::try_from((ended - began).as_micros()).unwrap_or(LATENCY_US_MAX);
            self.latencies_us.record(latency_us.clamp(1, LATENCY_US_MAX)).expect("a histogram grows to hold an hour");
        }
    }

    /// An operation that failed; warm-up counts as well, because a store that refuses then is not warm.
    pub(crate) fn failed(&mut self, failure: &anyhow::Error) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("{failure:#}"));
    }

    pub(crate) fn merge(&mut self, other: Tally) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.latencies_us.add(&other.latencies_us).expect("a histogram that grows takes every value of another");
    }

    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed
    }

    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }

    /// In microseconds; 0 when nothing was measured.
    pub(crate) fn latency_us(&self, quantile: f64) -> u64 {
        self.latencies_us.value_at_quantile(quantile)
    }

    /// In microseconds; 0 when nothing was measured.
    pub(crate) fn latency_max_us(&self) -> u64 {
        self.latencies_us.max()
    }
}

/// CPU time that went by during the window, summed over threads and cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuUse {
    /// Of the store's processes.
    pub(crate) store: Duration,
    /// Of this program.
    pub(crate) generator: Duration,
    /// Of everything on the machine, those two included.
    pub(crate) machine: Duration,
}

impl CpuUse {
    /// What neither the store nor the generator used: other programs, and the kernel's own threads.
    pub(crate) fn elsewhere(&self) -> Duration {
        self.machine.saturating_sub(self.store + self.generator)
    }
}

/// See the module.
pub(crate) struct Measurement {
    pub(crate) tally: Tally,
    pub(crate) measured: Duration,
    pub(crate) cpu: CpuUse,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        let from = Instant::now();
        Window { from, until: from + Duration::from_secs(10) }
    }

    fn tally(window: Window, latencies_ms: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::new();
        for latency_ms in latencies_ms {
            tally.succeeded(window, window.from, window.from + Duration::from_millis(latency_ms));
        }
        tally
    }

    #[test]
    fn merging_keeps_every_operation_and_its_latency() {
        let window = window();
        let mut all = tally(window, 1..=50);
        all.merge(tally(window, 51..=100));
        all.merge(tally(window, [5_000]));
        assert_eq!(all.completed(), 101);
        let near = |actual: u64, expected: u64| actual.abs_diff(expected) * 500 <= expected;
        assert!(near(all.latency_us(0.5), 51_000), "{}", all.latency_us(0.5));
        assert!(near(all.latency_us(0.99), 100_000), "{}", all.latency_us(0.99));
        assert!(near(all.latency_max_us(), 5_000_000), "{}", all.latency_max_us());
    }

    #[test]
    fn throughput_counts_what_ends_inside_and_latency_what_begins_inside() {
        let window = window();
        let second = Duration::from_secs(1);
        let mut tally = Tally::new();
        tally.succeeded(window, window.from - second, window.from + second);
        tally.succeeded(window, window.until - second, window.until + 3 * second);
        tally.succeeded(window, window.from - 2 * second, window.from - second);
        assert_eq!(tally.completed(), 1);
        assert!(tally.latency_max_us().abs_diff(4_000_000) < 8_000, "{}", tally.latency_max_us());
    }

    #[test]
    fn the_first_failure_is_kept() {
        let mut all = Tally::new();
        for text in ["one", "two"] {
            let mut other = Tally::new();
            other.failed(&anyhow::anyhow!(text));
            all.merge(other);
        }
        assert_eq!((all.failures(), all.first_failure()), (2, Some("one")));
    }

    #[test]
    fn what_is_used_elsewhere_is_never_negative() {
        let second = Duration::from_secs(1);
        let cpu = CpuUse { store: second, generator: second, machine: 3 * second };
        assert_eq!(cpu.elsewhere(), second);
        assert_eq!(CpuUse { machine: second, ..cpu }.elsewhere(), Duration::ZERO);
    }
}
