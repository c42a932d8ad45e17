//! Room and the past, with real processes: the quota, ranges with options, stale reads from a revision on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use bytes::Bytes;
use client::{Delete, Error, Put, Range, Scan, SortBy};
use common::{Cluster, stderr};
use raftkv::config::FILE_NAME;
use std::process::Output;

/// A single node with further lines under `[cluster]`.
async fn start_with(lines: &str) -> Cluster {
    let mut cluster = Cluster::provision(1);
    let path = cluster.nodes[0].folder.join(FILE_NAME);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("[cluster]\n", &format!("[cluster]\n{lines}\n"), 1)).unwrap();
    cluster.start_all().await;
    cluster
}

/// A mebibyte that does not compress.
fn mebibyte(seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..(1 << 17)).flat_map(|_| next()).collect()
}

/// Writes mebibytes until one is refused for want of room.
async fn fill(client: &client::Client) -> Error {
    for number in 0..200_u64 {
        if let Err(refusal) = client.put(Put::new(format!("fill/{number}"), mebibyte(number + 1))).await {
            return refusal;
        }
    }
    panic!("200 MiB are in, and the quota is 32 MiB");
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_what_adds_data_and_takes_deletes() {
    let cluster = start_with("quota_mib = 32").await;
    let client = cluster.client();
    let refusal = fill(&client).await;
    assert!(refusal.is_certainly_not_applied(), "{refusal}");
    let message = refusal.to_string();
    assert!(message.contains("quota of the cluster is 32 MiB") && message.contains("cluster.quota_mib"), "{message}");
    assert_eq!(client.delete(Delete::key("fill/0")).await.unwrap().deleted, 1);
    assert!(client.get("fill/1").await.unwrap().kv.is_some(), "reads go on");
    let refused = cluster.cli(&["put", "small", "v"]);
    assert!(!refused.status.success() && stderr(&refused).contains("quota"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_sorted_filtered_and_counted_as_the_command_line_says() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let mut revisions = Vec::new();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("a", "9")] {
        revisions.push(client.put((key, value)).await.unwrap().revision);
    }
    let keys = |arguments: &[&str]| {
        let scan = cluster.cli(&[&["scan", "--keys-only", "-o", "plain"], arguments].concat());
        text(&scan).split_whitespace().collect::<String>()
    };
    assert_eq!(keys(&["--sort", "value"]), "cba");
    assert_eq!(keys(&["--sort", "mod", "--reverse", "--limit", "2"]), "ac");
    assert_eq!(keys(&["--sort", "create"]), "abc");
    assert_eq!(keys(&["--min-mod-rev", &revisions[2].to_string()]), "ac");
    assert_eq!(keys(&["--max-create-rev", &revisions[1].to_string(), "--reverse"]), "ba");
    let told = cluster.cli(&["scan", "--limit", "1", "--total", "--min-mod-rev", &revisions[1].to_string()]);
    assert!(stderr(&told).starts_with("total: 3\nthere are more;"), "{}", stderr(&told));

    let mut scan = client.scan(Scan::new(Range::all()).sort_by(SortBy::Version).limit(1).count_total()).await.unwrap();
    assert_eq!(scan.next().await.unwrap().unwrap().key, "b");
    assert!(scan.next().await.unwrap().is_none());
    let summary = scan.summary().unwrap();
    assert_eq!((summary.count, summary.more, summary.total), (1, true, Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_read_waits_for_the_revision_it_asks_for() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    // Each node is asked right after the write was acknowledged, which two of them may know of.
    for round in 0..20 {
        let revision = client.put(("k", round.to_string())).await.unwrap().revision;
        for node in 0..3 {
            let get = client::Get::new("k").level(client::Level::Stale { age_max: None }).at_least_revision(revision);
            let found = cluster.client_at(node).get(get).await.unwrap();
            assert_eq!(found.kv.unwrap().value, round.to_string(), "node {node}");
        }
    }
    let never = cluster.cli(&["get", "k", "--at-least-rev", "1000000", "--timeout", "1s"]);
    assert_eq!(never.status.code(), Some(5), "{}", stderr(&never));
    assert!(stderr(&never).contains("before 1000000"), "{}", stderr(&never));
    let contradiction = cluster.cli(&["get", "k", "--level", "lease", "--at-least-rev", "1"]);
    assert_eq!(contradiction.status.code(), Some(2), "{}", stderr(&contradiction));
}
