//! `kill -9` of a random node every two seconds for a minute while eight writers run.
//!
//! Every acknowledged write must be there afterwards, on all nodes, and the nodes' state hashes must agree.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use client::Error;
use common::Cluster;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: u64 = 8;
const DURATION: Duration = Duration::from_secs(60);
const KILL_INTERVAL: Duration = Duration::from_secs(2);

/// What one writer knows: for each key the newest acknowledged value, and newer ones whose outcome is unknown.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeMap<String, u64>,
    unknown: BTreeMap<String, Vec<u64>>,
    writes: u64,
}

async fn write(client: client::Client, writer: u64, stop: Arc<AtomicBool>) -> Ledger {
    let mut ledger = Ledger::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("writer{writer}/{}", number % 97);
        match client.put((key.clone(), number.to_string())).await {
            Ok(_) => {
                ledger.writes += 1;
                ledger.acknowledged.insert(key.clone(), number);
                // A write whose outcome was unknown is older than this one if it was applied at all: its connection's
                // server either had it in the log before, or it never will be.
            }
            Err(Error::OutcomeUnknown { .. }) => ledger.unknown.entry(key).or_default().push(number),
            Err(error) if error.is_certainly_not_applied() => {}
            Err(error) => panic!("writer {writer}: {error}"),
        }
    }
    ledger
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_minute_of_kills() {
    let mut cluster = Cluster::start(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(cluster.client(), writer, stop.clone()))).collect();
    let seed: u64 = rand::random();
    eprintln!("seed of the kills: {seed}");
    let mut random = seed;
    let end = Instant::now() + DURATION;
    let mut kills = 0;
    let mut tick = tokio::time::interval(KILL_INTERVAL);
    tick.tick().await;
    while Instant::now() < end {
        tick.tick().await;
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let victim = usize::try_from((random >> 33) % 3).expect("less than three");
        cluster.nodes[victim].kill();
        cluster.nodes[victim].start();
        kills += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut ledgers = Vec::new();
    for writer in writers {
        ledgers.push(writer.await.unwrap());
    }
    let writes: u64 = ledgers.iter().map(|ledger| ledger.writes).sum();
    eprintln!("{kills} kills, {writes} acknowledged writes");
    assert!(kills >= 25, "only {kills} kills in the time");
    assert!(writes > 1000, "only {writes} writes were acknowledged: the cluster did not work between the kills");

    cluster.agreed_leader().await;
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
    for node in 0..3 {
        let client = cluster.client_at(node);
        for ledger in &ledgers {
            for (key, acknowledged) in &ledger.acknowledged {
                let found = common::get_stale(&client, key.clone())
                    .await
                    .unwrap_or_else(|| panic!("{key} is lost on node {node}"));
                let value: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
                let unknown = ledger.unknown.get(key).is_some_and(|numbers| numbers.contains(&value));
                assert!(
                    value == *acknowledged || unknown,
                    "{key} on node {node}: {value}, acknowledged was {acknowledged}"
                );
            }
        }
    }
}
