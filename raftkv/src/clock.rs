//! The monotonic clock of a process, in the core's terms.

use raft::Instant;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts from the moment it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts here.
    pub(crate) fn start() -> Clock {
        Clock { origin: std::time::Instant::now() }
    }

    /// The time.
    pub(crate) fn now(self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// How old the state machine's state may be, kept by the driver, read by anybody.
#[derive(Debug)]
pub(crate) struct Freshness {
    clock: Clock,
    /// Nanoseconds on the clock; `u64::MAX`: no leader was heard yet.
    fresh_at: AtomicU64,
}

impl Freshness {
    /// Nothing is known yet.
    pub(crate) fn new(clock: Clock) -> Freshness {
        Freshness { clock, fresh_at: AtomicU64::new(u64::MAX) }
    }

    /// The state is as it was at this moment, or newer.
    pub(crate) fn set(&self, at: Instant) {
        self.fresh_at.store(at.as_nanos(), Ordering::Relaxed);
    }

    /// The state's age at most; `None` if no leader was heard yet.
    pub(crate) fn age(&self) -> Option<Duration> {
        match self.fresh_at.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanos => Some(self.clock.now().since(Instant::from_nanos(nanos))),
        }
    }
}
