//! Log lines that strangers can cause, held to a rate: somebody who knocks a thousand times a second must not fill the disk.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in one [`WINDOW`].
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Says which lines may be written, and how many were not.
#[derive(Debug)]
pub(crate) struct LogLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window_start: Instant,
    written: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(crate) fn new() -> LogLimit {
        LogLimit { state: Mutex::new(State { window_start: Instant::now(), written: 0, suppressed: 0 }) }
    }

    /// `None`: keep quiet. Otherwise write the line, and say that so many were left out before it.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, moment: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if moment.duration_since(state.window_start) >= WINDOW {
            state.window_start = moment;
            state.written = 0;
        }
        if state.written >= LINES_MAX {
            state.suppressed += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = LogLimit::new();
        let start = Instant::now();
        let written = (0..1000).filter(|_| limit.admit_at(start).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(limit.admit_at(start + WINDOW), Some(980));
        assert_eq!(limit.admit_at(start + WINDOW), Some(0));
    }
}
