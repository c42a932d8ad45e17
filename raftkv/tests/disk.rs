//! What a node does about the state of its disk when it starts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::Cluster;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One node with some acknowledged writes on its disk, killed.
async fn killed_node_with_data() -> Cluster {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    for number in 0..200u32 {
        client.put((format!("key{number}"), vec![7; 300])).await.unwrap();
    }
    drop(client);
    cluster.nodes[0].kill();
    cluster
}

/// The record boundaries of the segment in use, as `raftkv inspect wal` gives them: (file, offset, bytes).
fn records(cluster: &Cluster) -> Vec<(PathBuf, u64, u64)> {
    let output = std::process::Command::new(common::RAFTKV)
        .args(["inspect", "wal", "-o", "json", "--dir"])
        .arg(cluster.nodes[0].data())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", common::stderr(&output));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["type"] == "record")
        .map(|record| {
            let file = PathBuf::from(record["file"].as_str().unwrap());
            (file, record["offset"].as_u64().unwrap(), record["bytes"].as_u64().unwrap())
        })
        .collect()
}

/// Every file below `folder` with its contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path(), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_recovers() {
    let mut cluster = killed_node_with_data().await;
    let (file, offset, bytes) = records(&cluster).last().unwrap().clone();
    // A write that never finished, after the last acknowledged one: half a copy of the last record.
    let segment = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let mut half = vec![0; usize::try_from(bytes).unwrap() / 2];
    segment.read_exact_at(&mut half, offset).unwrap();
    segment.write_all_at(&half, offset + bytes).unwrap();
    cluster.start_all().await;
    let client = cluster.client();
    for number in 0..200u32 {
        assert!(client.get(format!("key{number}")).await.unwrap().kv.is_some(), "key{number} is lost");
    }
    client.put(("after", "it")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_acknowledged_records_stops_the_node_and_nothing_is_deleted() {
    let mut cluster = killed_node_with_data().await;
    let records = records(&cluster);
    let (file, offset, bytes) = &records[records.len() / 2];
    let segment = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    segment.read_exact_at(&mut byte, offset + bytes / 2).unwrap();
    segment.write_all_at(&[byte[0] ^ 0x10], offset + bytes / 2).unwrap();
    let wal = cluster.nodes[0].data().join("wal");
    let before = contents(&wal);

    cluster.nodes[0].start();
    let status = cluster.nodes[0].wait();
    assert_eq!(status.code(), Some(9), "{}", cluster.nodes[0].log());
    let log = cluster.nodes[0].log();
    let line =
        log.lines().rev().find(|line| line.starts_with("error:")).unwrap_or_else(|| panic!("no error line in\n{log}"));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(line.contains(name), "names the file: {line}");
    assert!(line.contains(&offset.to_string()), "names the offset {offset}: {line}");
    assert!(line.contains("raftkv inspect wal"), "names the next step: {line}");
    assert_eq!(contents(&wal), before, "the log directory was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_acknowledged_records_stops_the_node() {
    let mut cluster = killed_node_with_data().await;
    let records = records(&cluster);
    let (file, offset, _) = &records[records.len() - 20];
    let segment = fs::OpenOptions::new().write(true).open(file).unwrap();
    let (_, last_offset, last_bytes) = records.last().unwrap();
    let lost = vec![0; usize::try_from(last_offset + last_bytes - offset).unwrap()];
    segment.write_all_at(&lost, *offset).unwrap();
    cluster.nodes[0].start();
    let status = cluster.nodes[0].wait();
    assert_eq!(status.code(), Some(9), "{}", cluster.nodes[0].log());
    assert!(cluster.nodes[0].log().contains("acknowledged"), "{}", cluster.nodes[0].log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_is_refused() {
    let cluster = Cluster::start(1).await;
    let output = std::process::Command::new(common::RAFTKV)
        .args(["start", "--dir"])
        .arg(&cluster.nodes[0].folder)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", common::stderr(&output));
    let pid = cluster.nodes[0].child.as_ref().unwrap().id();
    assert!(
        common::stderr(&output).contains(&pid.to_string()),
        "names the process that holds it: {}",
        common::stderr(&output)
    );
    assert!(cluster.nodes[0].status().await.is_some(), "the first process goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_cluster_or_node_is_refused() {
    let mut cluster = Cluster::start(2).await;
    let mut other = Cluster::start(1).await;
    cluster.nodes[0].stop();
    cluster.nodes[1].stop();
    other.nodes[0].stop();
    for (foreign, what) in [(other.nodes[0].data(), "cluster"), (cluster.nodes[1].data(), "node")] {
        let output = std::process::Command::new(common::RAFTKV)
            .args(["start", "--dir"])
            .arg(&cluster.nodes[0].folder)
            .arg("--data-dir")
            .arg(&foreign)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(8), "{}", common::stderr(&output));
        assert!(common::stderr(&output).contains(what), "{}", common::stderr(&output));
    }
}

/// Scenario 35: with its log it has lost its vote.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_gone_does_not_start() {
    for lost in [&["wal"][..], &["wal", "state"]] {
        let mut cluster = killed_node_with_data().await;
        for folder in lost {
            fs::remove_dir_all(cluster.nodes[0].data().join(folder)).unwrap();
        }
        cluster.nodes[0].start();
        assert_eq!(cluster.nodes[0].wait().code(), Some(9), "{}", cluster.nodes[0].log());
        assert!(cluster.nodes[0].log().contains("must not vote"), "{}", cluster.nodes[0].log());
    }
}

/// A read that meets damage says so, and the node does not go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_stops_the_node() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    let random: Vec<u8> = (0..40_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for number in 0..50u32 {
        client.put((format!("key{number}"), random.clone())).await.unwrap();
    }
    drop(client);
    cluster.nodes[0].stop();
    let tables = contents(&cluster.nodes[0].data().join("state"));
    let (table, bytes) = tables
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "sst"))
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    let file = fs::OpenOptions::new().write(true).open(table).unwrap();
    file.write_all_at(&vec![0x55; bytes.len() / 2], bytes.len() as u64 / 8).unwrap();
    // Damage that shows when the state is opened stops the node at once; otherwise a read finds it.
    cluster.nodes[0].start();
    let scan = cluster.cli(&["--timeout", "5s", "scan", "--prefix", "key"]);
    assert!(!scan.status.success(), "the damage was not noticed");
    let status = cluster.nodes[0].wait();
    assert_eq!(status.code(), Some(9), "{}", cluster.nodes[0].log());
}
