//! The space thread: how much room the state takes, and giving back what compaction has made dead.
//!
//! It tells the driver once a second (`driver/quota.rs`, `driver/compaction.rs`), and takes the next step of the reclaimer, which may take some
//! tenths of a second, and rests as long as that says.

use crate::driver::{Input, SpaceSample};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::shared_state::SharedState;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::state::{Reclaimed, Reclaimer, StateError, StateReader};

/// How often the driver is told. Also the longest rest.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// By how much the turns of two nodes with neighbouring numbers are apart: about the time that a flush takes, and some.
const TURN: Duration = Duration::from_secs(1);
/// After so many the turns begin again.
const TURNS: u64 = 8;

/// When the node of that number begins to give back what a compaction has made dead, counted from then.
pub(crate) fn turn_of(node: u64) -> Duration {
    TURN * u32::try_from(node % TURNS).unwrap_or(0)
}

/// Runs until the other end of `stop` is gone. `turn`: see [`Reclaimer::new`].
pub(crate) fn run(
    shared: &Arc<SharedState>,
    turn: Duration,
    stop: &Receiver<Infallible>,
    driver: &Inbox,
    failures: &FailureReporter,
) {
    let mut reclaimer = Reclaimer::new(Instant::now(), turn);
    loop {
        // Taken anew each time: a snapshot may have replaced the state.
        let reader = shared.reader();
        let stepped = sample(&reader).and_then(|sample| {
            driver.push(Input::Space(sample));
            reclaimer.step(&reader, Instant::now())
        });
        drop(reader);
        let rest = match stepped {
            Ok(Reclaimed::Nothing | Reclaimed::Later) => SAMPLE_INTERVAL,
            Ok(Reclaimed::Step { rest }) => rest.min(SAMPLE_INTERVAL),
            Err(error) => return failures.report(FatalError::State(error)),
        };
        match stop.recv_timeout(rest) {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn sample(reader: &StateReader) -> Result<SpaceSample, StateError> {
    let statistics = reader.statistics()?;
    let bytes = statistics.disk_bytes + statistics.memtable_bytes;
    Ok(SpaceSample { bytes, revision: reader.revision(), compacted: reader.compacted_revision() })
}
