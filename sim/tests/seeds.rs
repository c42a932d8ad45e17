//! Whole clusters, hundreds of lives of them. `SIM_SEED` sets the first seed, `SIM_SEEDS` how many.

use raftkv_sim::campaign::{Campaign, run_campaign, run_caught};

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"))
}

#[test]
fn nothing_acknowledged_is_lost_and_everything_meant_to_happen_happens() {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let first = from_environment("SIM_SEED", 1);
    let campaign = Campaign { first, seeds: from_environment("SIM_SEEDS", 600), threads, keep_going: true };
    let outcome = run_campaign(&campaign);
    let told: Vec<String> = outcome
        .failures
        .iter()
        .map(|failure| {
            format!("seed {}: {}\nrepeat it with: make sim SEED={}", failure.seed, failure.message, failure.seed)
        })
        .collect();
    assert!(told.is_empty(), "{} of {} seeds failed:\n{}", told.len(), campaign.seeds, told.join("\n\n"));
    let (operations, simulated) = (outcome.operations_min.unwrap_or(0), outcome.simulated_min.unwrap_or_default());
    assert!(operations >= 1000, "a seed checked {operations} operations only");
    assert!(simulated.as_secs() >= 60, "a seed lasted {simulated:?} of simulated time only");
    let missing = outcome.counters.missing();
    assert!(campaign.seeds < 500 || missing.is_empty(), "never met in {} seeds: {missing:?}", campaign.seeds);
}

#[test]
fn one_seed_gives_one_run() {
    for seed in [7, 8, 9, 10] {
        let (one, other) = (run_caught(seed), run_caught(seed));
        let (one, other) = (one.expect("the seed is good"), other.expect("the seed is good"));
        assert_eq!((one.trace_hash, one.happenings), (other.trace_hash, other.happenings), "seed {seed}");
        assert_eq!(one.counters, other.counters, "seed {seed}");
    }
}
