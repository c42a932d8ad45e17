//! How much room the state takes, and giving back what compaction has made dead: two threads, because a step of the reclaimer can take long.
//!
//! The space thread looks once a second. It tells the driver (`driver/quota.rs`, `driver/compaction.rs`), RocksDB whether its merges may rest, and, where room is
//! short, scans that compactions have overtaken that nothing is kept for them any longer: writes come first. The reclaim thread takes the next step of the
//! reclaimer, and rests as long as that says.

use crate::driver::{Input, SpaceSample};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::shared_state::SharedState;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::state::{Reclaimed, Reclaimer, StateError, StateReader};

/// How often the space thread looks. Also the longest rest of the reclaim thread.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// By how much the turns of two nodes with neighbouring numbers are apart. Each notices within a second of the other, and a flush takes less.
const TURN: Duration = Duration::from_secs(2);
/// After so many the turns begin again.
const TURNS: u64 = 8;

/// When the node of that number begins to give back what a compaction has made dead, counted from then.
pub(crate) fn turn_of(node: u64) -> Duration {
    TURN * u32::try_from(node % TURNS).unwrap_or(0)
}

/// The space thread. Runs until the other end of `stop` is gone; merges do not rest any more then, so that a step under way ends soon.
pub(crate) fn run(
    shared: &Arc<SharedState>,
    quota_bytes: Option<u64>,
    stop: &Receiver<Infallible>,
    driver: &Inbox,
    failures: &FailureReporter,
) {
    loop {
        match sample(shared, quota_bytes) {
            Ok(sample) => driver.push(Input::Space(sample)),
            Err(error) => return failures.report(FatalError::State(error)),
        }
        if is_stopped(stop, SAMPLE_INTERVAL) {
            return shared.reader().hurry_merges();
        }
    }
}

/// The reclaim thread. Runs until the other end of `stop` is gone. `turn`: see [`Reclaimer::new`].
pub(crate) fn reclaim(
    shared: &Arc<SharedState>,
    turn: Duration,
    stop: &Receiver<Infallible>,
    failures: &FailureReporter,
) {
    let mut reclaimer = Reclaimer::new(Instant::now(), turn);
    let mut held = None;
    loop {
        // Taken anew each time, and let go of before the rest: a snapshot may replace the state.
        let reader = shared.reader();
        let rest = match reclaimer.step(&reader, Instant::now()) {
            Ok(Reclaimed::Nothing | Reclaimed::Later) => SAMPLE_INTERVAL,
            Ok(Reclaimed::Step { rest }) => rest.min(SAMPLE_INTERVAL),
            Err(error) => return failures.report(FatalError::State(error)),
        };
        note_held(&mut held, &reader);
        drop(reader);
        if is_stopped(stop, rest) {
            return;
        }
    }
}

/// Says in the log when space begins to be held back for a scan, and when it is no more.
fn note_held(noted: &mut Option<u64>, reader: &StateReader) {
    let held = reader.held_revision();
    if held == *noted {
        return;
    }
    *noted = held;
    match held {
        Some(revision) => {
            let compacted = reader.compacted_revision();
            tracing::info!(
                revision,
                compacted,
                "a compaction has overtaken a scan: what it reads is kept until it ends"
            );
        }
        None => tracing::info!("nothing that is compacted is kept for scans any more"),
    }
}

/// Waits, and says whether the other end of `stop` is gone.
fn is_stopped(stop: &Receiver<Infallible>, wait: Duration) -> bool {
    match stop.recv_timeout(wait) {
        Ok(never) => match never {},
        Err(RecvTimeoutError::Timeout) => false,
        Err(RecvTimeoutError::Disconnected) => true,
    }
}

fn sample(shared: &SharedState, quota_bytes: Option<u64>) -> Result<SpaceSample, StateError> {
    let reader = shared.reader();
    let statistics = reader.statistics()?;
    let bytes = statistics.disk_bytes + statistics.memtable_bytes;
    if is_short_of_room(bytes, quota_bytes) {
        reader.hurry_merges();
        reader.end_overtaken_holds();
    } else {
        reader.pace_merges(&statistics);
    }
    Ok(SpaceSample { bytes, revision: reader.revision(), compacted: reader.compacted_revision() })
}

/// Whether writes are refused for want of room, or will be soon: at nine tenths of the quota.
fn is_short_of_room(bytes: u64, quota_bytes: Option<u64>) -> bool {
    quota_bytes.is_some_and(|quota| bytes >= quota - quota / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_short_at_nine_tenths_of_the_quota() {
        assert!(!is_short_of_room(u64::MAX, None));
        assert!(!is_short_of_room(899, Some(1000)) && is_short_of_room(900, Some(1000)));
        assert!(is_short_of_room(0, Some(0)));
    }

    #[test]
    fn neighbours_have_turns_of_their_own() {
        let turns: Vec<Duration> = (1..=7).map(turn_of).collect();
        assert!(turns.windows(2).all(|pair| pair[1] - pair[0] == TURN), "{turns:?}");
        assert_eq!((turn_of(8), turn_of(u64::MAX)), (Duration::ZERO, 7 * TURN));
    }
}
