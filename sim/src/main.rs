//! Runs seeds and says what they met. A failure is printed with the command that repeats it.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it finds goes to the terminal")]

use clap::Parser;
use raftkv_sim::campaign::{Campaign, run_campaign};
use raftkv_sim::trace::Sink;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs whole clusters in simulated time, with faults, and checks that nothing acknowledged is lost.
#[derive(Debug, Parser)]
#[command(name = "raftkv-sim")]
struct Arguments {
    /// The first seed; without it, one that the clock gives
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Threads; each runs seeds of its own
    #[arg(long, default_value_t = default_threads())]
    threads: usize,
    /// Print everything that happens, on one thread
    #[arg(long)]
    trace: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

/// So many seeds meet everything that shall be met.
const SEEDS_FOR_ALL: u64 = 500;

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or_else(seed_of_the_moment);
    if arguments.trace {
        return trace(first, arguments.seeds);
    }
    let started = Instant::now();
    let campaign =
        Campaign { first, seeds: arguments.seeds, threads: arguments.threads, keep_going: arguments.keep_going };
    let outcome = run_campaign(&campaign);
    for (what, times) in outcome.counters.iter() {
        println!("{times:>12}  {what}");
    }
    let took = started.elapsed();
    println!(
        "{} seeds from {first}: {} simulated hours, at least {} s each; {} operations checked, at least {} each; {:.1} seeds a second",
        outcome.seeds,
        outcome.simulated.as_secs() / 3600,
        outcome.simulated_min.unwrap_or_default().as_secs(),
        outcome.operations,
        outcome.operations_min.unwrap_or(0),
        outcome.seeds as f64 / took.max(Duration::from_millis(1)).as_secs_f64(),
    );
    // Fewer seeds need not meet everything.
    let missing = if arguments.seeds >= SEEDS_FOR_ALL { outcome.counters.missing() } else { Vec::new() };
    for what in &missing {
        println!("{:>12}  {what}", 0);
    }
    if !missing.is_empty() {
        eprintln!("\nnever met, so nothing is shown about it: {}", missing.join("; "));
    }
    for failure in &outcome.failures {
        eprintln!(
            "\nseed {} failed: {}\nrepeat it with: make sim SEED={}",
            failure.seed, failure.message, failure.seed
        );
    }
    if outcome.failures.is_empty() && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what happens, and lets a failure end the program as it is.
fn trace(first: u64, seeds: u64) -> ExitCode {
    for seed in first..first.saturating_add(seeds) {
        let sink: Sink = Box::new(|line| {
            if writeln!(std::io::stdout(), "{line}").is_err() {
                // Whoever reads has had enough.
                std::process::exit(0);
            }
        });
        let report = raftkv_sim::run(seed, Some(sink));
        println!("seed {seed}: {report:#?}");
    }
    ExitCode::SUCCESS
}

fn seed_of_the_moment() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed.
    u64::from(since.subsec_nanos()) * 1000 + since.as_secs() % 1000
}
