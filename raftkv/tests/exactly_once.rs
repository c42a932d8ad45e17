//! Exactly once: writers go on while leaders are killed, and no write is applied twice, lost, or left in doubt.
//!
//! Each write has a key of its own. A key that was written twice has version 2, whoever wrote it; and the answer to a write is the revision
//! of its key, whichever attempt brought it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use client::{Range, Scan};
use common::{Cluster, eventually};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WRITERS: u64 = 8;
const KILLS: usize = 5;

/// Writes until told to stop. Returns the revision that each write was answered with.
async fn write(client: client::Client, writer: u64, stop: Arc<AtomicBool>) -> BTreeMap<String, u64> {
    let mut answered = BTreeMap::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("writer{writer}/{number}");
        // Ten seconds are enough for any election here, and until then the client tries again by itself.
        let outcome = client.put((key.clone(), "v")).await.unwrap_or_else(|error| panic!("{key}: {error:?}"));
        answered.insert(key, outcome.revision);
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_applied_twice_or_left_in_doubt_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3).await;
    // Until the format is raised a write goes without a session, so the writers' clients come to exist only afterwards.
    let early = cluster.client();
    eventually("the cluster to know leases and sessions", async || {
        let lease = early.create_lease(client::NewLease::new(Duration::from_secs(60))).await.ok()?;
        early.revoke_lease(lease.id).await.ok()
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(cluster.client(), writer, stop.clone()))).collect();
    for _ in 0..KILLS {
        let leader = cluster.agreed_leader().await;
        let before = cluster.nodes[leader].status().await.unwrap().state_applied;
        eventually("writes under this leader", async || {
            let applied = cluster.nodes[leader].status().await?.state_applied;
            (applied > before + 200).then_some(())
        })
        .await;
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
    }
    cluster.agreed_leader().await;
    stop.store(true, Ordering::Relaxed);
    let mut answered = BTreeMap::new();
    for writer in writers {
        answered.extend(writer.await.unwrap());
    }
    let mut found = BTreeMap::new();
    let mut scan = cluster.client().scan(Scan::new(Range::prefix("writer"))).await.unwrap();
    while let Some(kv) = scan.next().await.unwrap() {
        assert_eq!(kv.version, 1, "{:?} was applied {} times", kv.key, kv.version);
        found.insert(String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision);
    }
    assert_eq!(found, answered, "every answer is the revision of its write, and no write is missing");
}
