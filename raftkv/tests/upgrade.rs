//! A rolling upgrade of real processes (scenario 63): nothing that the older program does not know is written until every member knows it, and
//! from then on the older one refuses to go on. The older program is this one, held back by `node.format_max`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, TestNode, eventually};
use raftkv::config::FILE_NAME;
use std::fs;
use storage::state::{STATE_FORMAT, STATE_FORMAT_OLDEST};

/// Holds the node back to the older format, or lifts that.
fn hold_back(node: &TestNode, held: bool) {
    let path = node.folder.join(FILE_NAME);
    let text = fs::read_to_string(&path).unwrap();
    let line = format!("format_max = {STATE_FORMAT_OLDEST}\n");
    let text = text.replace(&line, "");
    fs::write(path, if held { text.replace("[node]\n", &format!("[node]\n{line}")) } else { text }).unwrap();
}

async fn all_are_at(cluster: &Cluster, format: u32) {
    eventually("the format is in effect everywhere", || async {
        for node in &cluster.nodes {
            if node.status().await?.format != format {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_node_to_be_upgraded_raises_the_format_and_closes_the_way_back() {
    let mut cluster = Cluster::provision(3);
    hold_back(&cluster.nodes[2], true);
    cluster.start_all().await;
    cluster.client().put(("before", "the last upgrade")).await.unwrap();
    // Both newer programs have had their time with the older one: the leader looks twice a second.
    for round in 0..4 {
        let leader = cluster.agreed_leader().await;
        cluster.nodes[leader].stop();
        cluster.nodes[leader].start();
        cluster.agreed_leader().await;
        cluster.client().put((format!("round{round}"), "value")).await.unwrap();
    }
    for status in cluster.settled().await {
        assert_eq!(status.format, STATE_FORMAT_OLDEST, "{}", cluster.logs());
    }
    // The way back is open.
    assert!(cluster.nodes[0].stop().success());
    hold_back(&cluster.nodes[0], true);
    cluster.nodes[0].start();
    cluster.agreed_leader().await;
    cluster.client().put(("back", "and forth")).await.unwrap();
    // The upgrade goes on and is completed.
    for node in [0, 2] {
        assert!(cluster.nodes[node].stop().success());
        hold_back(&cluster.nodes[node], false);
        cluster.nodes[node].start();
        cluster.agreed_leader().await;
    }
    all_are_at(&cluster, STATE_FORMAT).await;
    cluster.client().put(("after", "the last upgrade")).await.unwrap();
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
    // The older program refuses the newer state, and leaves it as it is.
    let behind = (cluster.agreed_leader().await + 1) % 3;
    assert!(cluster.nodes[behind].stop().success());
    hold_back(&cluster.nodes[behind], true);
    cluster.nodes[behind].start();
    let refused = cluster.nodes[behind].wait();
    assert_eq!(refused.code(), Some(8), "{}", cluster.nodes[behind].log());
    let log = cluster.nodes[behind].log();
    assert!(log.contains("formats up to 2") && log.contains("nothing was changed"), "{log}");
    hold_back(&cluster.nodes[behind], false);
    cluster.nodes[behind].start();
    cluster.agreed_leader().await;
    assert_eq!(cluster.client().get("after").await.unwrap().kv.unwrap().value, "the last upgrade");
}
