//! A node that has lost what it had acknowledged is repaired by its peers, without anybody's help: one of three loses its log, its
//! state or its disk while the others go on, comes back, and in the end votes again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, TestNode, eventually, get_stale};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

const WRITES: u32 = 200;

async fn write(client: &client::Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        client.put((format!("key{number}"), vec![b'v'; 300])).await.unwrap();
    }
}

/// The records of the log of a node that is down: (file, offset, bytes).
fn records(node: &TestNode) -> Vec<(PathBuf, u64, u64)> {
    let output = Command::new(common::RAFTKV).args(["inspect", "wal", "-o", "json", "--dir"]).arg(node.data()).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|record| record["type"] == "record")
        .map(|record| {
            let file = PathBuf::from(record["file"].as_str().unwrap());
            (file, record["offset"].as_u64().unwrap(), record["bytes"].as_u64().unwrap())
        })
        .collect()
}

fn overwrite(file: &PathBuf, offset: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, offset).unwrap();
}

fn flip_a_bit(node: &TestNode) {
    let records = records(node);
    let (file, offset, bytes) = &records[records.len() / 2];
    let at = offset + bytes / 2;
    let mut byte = [0];
    fs::File::open(file).unwrap().read_exact_at(&mut byte, at).unwrap();
    overwrite(file, at, &[byte[0] ^ 0x10]);
}

fn lose_the_last_records(node: &TestNode) {
    let records = records(node);
    let (file, offset, _) = &records[records.len() - 20];
    let (_, last_offset, last_bytes) = records.last().unwrap();
    overwrite(file, *offset, &vec![0; usize::try_from(last_offset + last_bytes - offset).unwrap()]);
}

fn remove_the_log(node: &TestNode) {
    fs::remove_dir_all(node.data().join("wal")).unwrap();
}

/// What is left where the log's disk is not mounted.
fn empty_the_folder_of_the_log(node: &TestNode) {
    remove_the_log(node);
    fs::create_dir(node.data().join("wal")).unwrap();
}

fn leave_the_name_and_an_empty_folder(node: &TestNode) {
    let name = fs::read(node.data().join("IDENTITY")).unwrap();
    remove_everything(node);
    fs::create_dir_all(node.data().join("wal")).unwrap();
    fs::write(node.data().join("IDENTITY"), name).unwrap();
}

fn damage_the_state(node: &TestNode) {
    fs::write(node.data().join("state/CURRENT"), "nonsense").unwrap();
}

fn remove_everything(node: &TestNode) {
    fs::remove_dir_all(node.data()).unwrap();
}

/// One of three loses something while it is down and the others go on; it comes back and is as good as before.
async fn is_repaired(damage: fn(&TestNode)) {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    write(&client, 0..WRITES).await;
    let victim = (cluster.agreed_leader().await + 1) % 3;
    cluster.nodes[victim].kill();
    write(&client, WRITES..WRITES + 50).await;
    damage(&cluster.nodes[victim]);
    cluster.nodes[victim].start();
    all_vote_again(&cluster, victim).await;
    assert!(cluster.nodes[victim].log().contains("repaired"), "{}", cluster.nodes[victim].log());
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
    for number in 0..WRITES + 50 {
        let found = get_stale(&cluster.client_at(victim), format!("key{number}")).await;
        assert!(found.is_some(), "key{number} is lost on the repaired node");
    }
    // Without another node, nothing goes without the vote of the repaired one.
    let other = (victim + 1) % 3;
    cluster.nodes[other].kill();
    cluster.agreed_leader().await;
    write(&cluster.client(), 1000..1010).await;
    cluster.nodes[other].start();
    cluster.agreed_leader().await;
}

/// Waits until the node is repaired and everybody takes it for a voter.
async fn all_vote_again(cluster: &Cluster, victim: usize) {
    eventually("the node is repaired and votes again", || async {
        for (position, node) in cluster.nodes.iter().enumerate() {
            let status = node.status().await?;
            let is_well = status.voters == [1, 2, 3] && !status.under_repair && status.leader.is_some();
            if !is_well || (position == victim && status.applied < u64::from(WRITES)) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_flipped_bit_in_its_log_is_repaired() {
    is_repaired(flip_a_bit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_acknowledged_records_is_repaired() {
    is_repaired(lose_the_last_records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_log_is_repaired() {
    is_repaired(remove_the_log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_folder_is_empty_is_repaired() {
    is_repaired(empty_the_folder_of_the_log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_nothing_but_its_name_and_an_empty_log_folder_is_repaired() {
    is_repaired(leave_the_name_and_an_empty_folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_damaged_state_is_repaired() {
    is_repaired(damage_the_state).await;
}

/// Scenario 35.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_whole_disk_is_repaired() {
    is_repaired(remove_everything).await;
}

/// Scenario 35: what a node without its memory says counts for nothing. With it and the leader alone there is no majority.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_memory_is_no_part_of_a_majority() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    write(&client, 0..WRITES).await;
    let leader = cluster.agreed_leader().await;
    let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[victim].kill();
    cluster.nodes[other].kill();
    remove_everything(&cluster.nodes[victim]);
    cluster.nodes[victim].start();
    eventually("the node runs, and knows that it is to be repaired", || async {
        cluster.nodes[victim].status().await.filter(|status| status.under_repair)
    })
    .await;
    let alone = cluster.cli(&["--timeout", "4s", "put", "key", "value"]);
    assert!(matches!(alone.status.code(), Some(5 | 6)), "{:?} {}", alone.status, common::stderr(&alone));
    let status = cluster.nodes[victim].status().await.unwrap();
    assert!(status.under_repair && status.role == "follower", "{status:?}");

    cluster.nodes[other].start();
    all_vote_again(&cluster, victim).await;
    write(&cluster.client(), 1000..1010).await;
}

/// A write is acknowledged by two of three. One of the two is down, and the other has an empty folder where its log was: it must not elect the third,
/// which does not have the write.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_folder_is_empty_does_not_vote() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    write(&client, 0..WRITES).await;
    let leader = cluster.agreed_leader().await;
    let (lagging, emptied) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[lagging].kill();
    client.put(("acknowledged", "by two")).await.unwrap();
    cluster.nodes[leader].kill();
    cluster.nodes[emptied].kill();
    empty_the_folder_of_the_log(&cluster.nodes[emptied]);
    cluster.nodes[emptied].start();
    cluster.nodes[lagging].start();
    eventually("the node runs, and knows that it is to be repaired", || async {
        cluster.nodes[emptied].status().await.filter(|status| status.under_repair)
    })
    .await;
    let alone = cluster.cli(&["--timeout", "4s", "get", "acknowledged"]);
    assert!(matches!(alone.status.code(), Some(5 | 6)), "{:?} {}", alone.status, common::stderr(&alone));

    cluster.nodes[leader].start();
    eventually("everybody votes again", || async {
        for node in &cluster.nodes {
            let status = node.status().await?;
            if status.voters != [1, 2, 3] || status.under_repair || status.leader.is_none() {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert!(cluster.client().get("acknowledged").await.unwrap().kv.is_some(), "an acknowledged write is lost");
}

/// A group of one has nobody to repair it: an empty directory is not taken for a new node's.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_one_that_lost_its_disk_does_not_start() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].kill();
    remove_everything(&cluster.nodes[0]);
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].wait().code(), Some(9), "{}", cluster.nodes[0].log());
    assert!(cluster.nodes[0].log().contains("FIRST_START"), "names the next step: {}", cluster.nodes[0].log());
}
