//! Starting, stopping and handing over.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, DEADLINE, RAFTKV};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_and_ends_with_zero() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.agreed_leader().await;
    let term = cluster.nodes[leader].status().await.unwrap().term;
    let status = cluster.nodes[leader].stop();
    assert!(status.success(), "{status}\n{}", cluster.nodes[leader].log());
    let successor = cluster.agreed_leader().await;
    assert_ne!(successor, leader);
    // Handed over, not timed out: one election, at once.
    assert_eq!(cluster.nodes[successor].status().await.unwrap().term, term + 1, "{}", cluster.logs());
    assert!(cluster.nodes[leader].log().contains("handing leadership over"), "{}", cluster.nodes[leader].log());
    cluster.client().put(("after", "handover")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_any_node_is_read_through_any_other() {
    let cluster = Cluster::start(3).await;
    for writer in 0..3 {
        let key = format!("key{writer}");
        cluster.client_at(writer).put((key.clone(), "value")).await.unwrap();
        for reader in 0..3 {
            let found = cluster.client_at(reader).get(key.clone()).await.unwrap().kv;
            assert_eq!(found.map(|kv| kv.value).as_deref(), Some(&b"value"[..]), "{key} through node {reader}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_too_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::provision(3);
    for node in &mut cluster.nodes {
        let path = node.folder.join("raftkv.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("log_segment_mib = 64", "log_segment_mib = 1");
        let text = text.replace("log_retained_mib = 512", "log_retained_mib = 4");
        let text = text.replace("write_buffer_mib = 64", "write_buffer_mib = 4");
        std::fs::write(&path, text).unwrap();
    }
    cluster.start_all().await;
    let behind = (cluster.agreed_leader().await + 1) % 3;
    cluster.nodes[behind].kill();
    let client = cluster.client();
    // More than RETAINED_ENTRIES entries, and several times what the log keeps.
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8u32 {
        let client = client.clone();
        tasks.spawn(async move {
            for number in 0..1500u32 {
                client.put((format!("key{writer}/{number}"), vec![5; 2000])).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let leader = cluster.agreed_leader().await;
    let started = Instant::now();
    loop {
        let status = cluster.nodes[leader].status().await.unwrap();
        if status.log_first > 1 {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "the log is never compacted: {status:#?}");
        client.put(("more", vec![5; 2000])).await.unwrap();
    }
    cluster.nodes[behind].start();
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
    assert!(cluster.nodes[behind].log().contains("snapshot is in use"), "{}", cluster.nodes[behind].log());
    let found = common::get_stale(&cluster.client_at(behind), "key7/1499").await;
    assert_eq!(found.map(|kv| kv.value.len()), Some(2000));
}

/// Processes whose command line names `folder`.
fn processes_of(folder: &std::path::Path) -> Vec<u32> {
    let name = folder.as_os_str().as_encoded_bytes();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.windows(name.len()).any(|part| part == name)
        })
        .collect()
}

#[test]
fn the_demo_leaves_nothing_running_however_it_ends() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("demo");
        let mut demo = Command::new(RAFTKV)
            .args(["demo", "--base-port", "0", "--dir"])
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("Ctrl-C ends it")), "the demo ended before it greeted");
        assert!(dir.join("env").exists());
        assert_eq!(processes_of(&dir).len(), 4, "the demo and three nodes");
        rustix::process::kill_process(rustix::process::Pid::from_child(&demo), signal).unwrap();
        demo.wait().unwrap();
        let killed = Instant::now();
        while !processes_of(&dir).is_empty() {
            assert!(killed.elapsed() < DEADLINE, "left running after {signal:?}: {:?}", processes_of(&dir));
            std::thread::yield_now();
        }
    }
}
