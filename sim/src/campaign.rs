//! Many seeds, on several threads: each run is a thread's own.

use crate::counters::Counters;
use crate::world::{Report, run};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first seed; the others follow it.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub threads: usize,
    /// Whether to go on after a failure.
    pub keep_going: bool,
}

/// A seed that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was wrong, and where that was noticed.
    pub message: String,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct CampaignOutcome {
    /// Seeds that ran to their end.
    pub seeds: u64,
    /// Simulated time of all of them.
    pub simulated: Duration,
    /// The shortest of them.
    pub simulated_min: Option<Duration>,
    /// Operations of clients that were checked.
    pub operations: u64,
    /// The fewest of one seed.
    pub operations_min: Option<u64>,
    /// What happened how often.
    pub counters: Counters,
    /// Seeds that failed, ascending.
    pub failures: Vec<Failure>,
}

/// Runs seeds.
///
/// # Panics
/// Never because of a seed: its panic is a failure that is reported.
#[must_use]
pub fn run_campaign(campaign: &Campaign) -> CampaignOutcome {
    let outcome = Mutex::new(CampaignOutcome::default());
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..campaign.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= campaign.seeds || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let done = run_caught(campaign.first.wrapping_add(number));
                    if done.is_err() && !campaign.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    outcome.lock().unwrap_or_else(PoisonError::into_inner).add(done);
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.failures.sort_by_key(|failure| failure.seed);
    outcome
}

impl CampaignOutcome {
    fn add(&mut self, done: Result<Report, Failure>) {
        match done {
            Ok(report) => {
                self.seeds += 1;
                self.simulated += report.simulated;
                self.simulated_min =
                    Some(self.simulated_min.map_or(report.simulated, |least| least.min(report.simulated)));
                self.operations += report.operations;
                self.operations_min =
                    Some(self.operations_min.map_or(report.operations, |least| least.min(report.operations)));
                self.counters.merge(&report.counters);
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

thread_local! {
    /// What a panic of this thread's run says; `None`: the thread runs no seed.
    static RUNNING: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs one seed; a panic is a failure.
///
/// # Errors
/// When anything was wrong.
pub fn run_caught(seed: u64) -> Result<Report, Failure> {
    keep_panics_quiet();
    RUNNING.set(Some(String::new()));
    let done = panic::catch_unwind(AssertUnwindSafe(|| run(seed, None)));
    let message = RUNNING.take().unwrap_or_default();
    done.map_err(|_| Failure { seed, message })
}

/// Panics of runs are kept for the report instead of being printed as they come.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_run = RUNNING.with_borrow_mut(|running| {
                let Some(message) = running else { return false };
                *message = info.to_string();
                true
            });
            if !is_run {
                usual(info);
            }
        }));
    });
}
