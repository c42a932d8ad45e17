//! placeholder
fn main() {
    let seed: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let count: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1);
    let trace = std::env::var("TRACE").is_ok();
    let mut counters = raftkv_sim::counters::Counters::default();
    for seed in seed..seed + count {
        let sink: Option<raftkv_sim::trace::Sink> =
            if trace { Some(Box::new(|line| println!("{line}"))) } else { None };
        let start = std::time::Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| raftkv_sim::run(seed, sink)));
        match result {
            Ok(report) => {
                if count < 20 {
                    println!(
                        "{seed}: {:?} sim, {} ops, {} happenings, {:?}",
                        report.simulated,
                        report.operations,
                        report.happenings,
                        start.elapsed()
                    )
                };
                counters.merge(&report.counters);
            }
            Err(_) => println!("FAILED {seed}"),
        }
    }
    for (what, n) in counters.iter() {
        println!("{n:>8} {what}");
    }
    println!("missing: {:?}", counters.missing());
}
