//! `kill -9` of a random node every two seconds for a minute while eight writers run.
//!
//! Every acknowledged write must be there afterwards, on all nodes, and the nodes' state hashes must agree.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use client::{Error, Level, Range, Scan};
use common::Cluster;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: u64 = 8;
const DURATION: Duration = Duration::from_secs(60);
const KILL_INTERVAL: Duration = Duration::from_secs(2);

/// Writes until told to stop, each write with a key of its own. Returns the numbers that were acknowledged.
async fn write(client: client::Client, writer: u64, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        match client.put((key(writer, number), number.to_string())).await {
            Ok(_) => acknowledged.push(number),
            Err(Error::OutcomeUnknown { .. }) => {}
            Err(error) if error.is_certainly_not_applied() => {}
            Err(error) => panic!("writer {writer}: {error}"),
        }
    }
    acknowledged
}

fn key(writer: u64, number: u64) -> String {
    format!("writer{writer}/{number}")
}

/// Everything that a node has applied.
async fn contents(client: &client::Client) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = Scan::new(Range::all()).level(Level::Stale { age_max: None });
    let mut stream = client.scan(all).await.unwrap();
    let mut found = BTreeMap::new();
    while let Some(kv) = stream.next().await.unwrap() {
        found.insert(kv.key.to_vec(), kv.value.to_vec());
    }
    found
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
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.unwrap());
    }
    let writes: usize = acknowledged.iter().map(Vec::len).sum();
    eprintln!("{kills} kills, {writes} acknowledged writes");
    assert!(kills >= 25, "only {kills} kills in the time");
    assert!(writes > 1000, "only {writes} writes were acknowledged: the cluster did not work between the kills");

    cluster.agreed_leader().await;
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
    for node in 0..3 {
        let found = contents(&cluster.client_at(node)).await;
        for (writer, numbers) in acknowledged.iter().enumerate() {
            for number in numbers {
                let key = key(writer as u64, *number);
                let value = found.get(key.as_bytes()).unwrap_or_else(|| panic!("{key} is lost on node {node}"));
                assert_eq!(*value, number.to_string().into_bytes(), "{key} on node {node}");
            }
        }
    }
}
