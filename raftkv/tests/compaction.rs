//! Compaction with real processes: what can be read afterwards, that its space comes back on every node, and that the leader does it by itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use bytes::Bytes;
use client::{Delete, Error, Get, Put, Range};
use common::{Cluster, eventually, stderr};
use raftkv::config::FILE_NAME;
use storage::state::FORMAT_WITH_TRANSACTIONS;

/// Nodes with further lines under `[cluster]`, once every one of them knows how to compact.
async fn start_with(count: u16, lines: &str) -> Cluster {
    let mut cluster = Cluster::provision(count);
    for node in &cluster.nodes {
        let path = node.folder.join(FILE_NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("[cluster]\n", &format!("[cluster]\n{lines}\n"), 1)).unwrap();
    }
    cluster.start_all().await;
    for node in &cluster.nodes {
        eventually("the newest format in effect", || async {
            node.status().await.filter(|status| status.format >= FORMAT_WITH_TRANSACTIONS)
        })
        .await;
    }
    cluster
}

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compacted_cannot_be_read_and_its_space_comes_back_on_every_node() {
    let mut cluster = start_with(3, "").await;
    let client = cluster.client();
    let mut last = 0;
    for number in 0..512_u64 {
        let put = Put::new(format!("k{}", number % 8), noise(number + 1, 64 << 10));
        last = client.put(put).await.unwrap().revision;
    }
    let before = cluster.settled().await;
    let compacted = cluster.cli(&["compact", &last.to_string()]);
    assert!(compacted.status.success(), "{}", stderr(&compacted));
    assert_eq!(String::from_utf8_lossy(&compacted.stdout), format!("{last}\n"));

    let refused = client.get(Get::new("k0").at_revision(last - 1)).await.unwrap_err();
    assert!(matches!(refused, Error::CompactedRevision { .. }), "{refused:?}");
    let found = client.get(Get::new("k0").at_revision(last)).await.unwrap();
    assert_eq!(found.kv.unwrap().value.len(), 64 << 10);
    let again = client.compact(last - 1).await.unwrap_err();
    assert!(matches!(again, Error::CompactedRevision { .. }), "{again:?}");
    let future = client.compact(last + 1_000_000).await.unwrap_err();
    assert!(matches!(future, Error::FutureRevision { .. }), "{future:?}");

    for (node, before) in cluster.nodes.iter().zip(before) {
        eventually("the state to shrink", || async {
            node.status().await.filter(|status| status.state_bytes < before.state_bytes / 2)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_lets_go_of_old_revisions_by_itself() {
    let cluster = start_with(3, "compact_revisions = 100").await;
    let client = cluster.client();
    let mut last = 0;
    for number in 0..400 {
        last = client.put(("k", number.to_string())).await.unwrap().revision;
    }
    for node in &cluster.nodes {
        eventually("old revisions to go", || async {
            node.status().await.filter(|status| status.compacted + 110 >= last)
        })
        .await;
    }
    let kept = client.get(Get::new("k").at_revision(last - 100)).await.unwrap();
    assert_eq!(kept.kv.unwrap().value, "299");
    let gone = cluster.cli(&["get", "k", "--rev", "10"]);
    assert_eq!(gone.status.code(), Some(1), "{}", stderr(&gone));
    assert!(stderr(&gone).contains("compacted"), "{}", stderr(&gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_takes_data_again_once_it_was_deleted_and_compacted() {
    let cluster = start_with(1, "quota_mib = 48").await;
    let client = cluster.client();
    let mut number = 0;
    while client.put(Put::new(format!("fill/{number}"), noise(number + 1, 1 << 20))).await.is_ok() {
        number += 1;
        assert!(number < 200, "200 MiB are in, and the quota is 48 MiB");
    }
    let refused = cluster.cli(&["put", "small", "v"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    let mut last = 0;
    for key in 0..number {
        last = client.delete(Delete::range(Range::key(format!("fill/{key}")))).await.unwrap().revision;
    }
    assert_eq!(client.compact(last).await.unwrap(), last);
    eventually("room", || async { client.put(("small", "v")).await.ok() }).await;
}
