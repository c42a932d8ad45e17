//! The server's command line: what is wrong is said with exit code 2, and once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, RAFTKV, stderr};
use std::process::{Command, Output};

fn raftkv(arguments: &[&str]) -> Output {
    Command::new(RAFTKV).args(arguments).output().unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text}");
    }
    assert!(!text.contains("exit status"), "{text}");
}

#[test]
fn a_configuration_that_cannot_be_used_ends_with_two() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    refused(&raftkv(&["start", "--dir", path]), 2, &["raftkv.toml", "raftkv init"]);
    std::fs::write(folder.path().join("raftkv.toml"), "[cluster]\nidd = \"x\"\n").unwrap();
    refused(&raftkv(&["start", "--dir", path]), 2, &["idd", "line 2"]);
    std::fs::write(folder.path().join("raftkv.toml"), b"\xff\xfe").unwrap();
    refused(&raftkv(&["start", "--dir", path]), 2, &["raftkv.toml"]);
    refused(&raftkv(&["start"]), 2, &["--dir"]);
    refused(&raftkv(&["inspect", "wal", "--dir", "/nonexistent"]), 2, &["neither a log nor a state"]);
}

#[test]
fn provisioning_refuses_what_would_not_work() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let path = out.to_str().unwrap();
    let init = |more: &[&str]| raftkv(&[&["init", "--dir", path, "--node", "n1=127.0.0.1:20000"], more].concat());
    refused(&init(&["--value-bytes-max", "0"]), 2, &["value_bytes_max"]);
    refused(&init(&["--node", "n1=127.0.0.1:20010"]), 2, &["n1"]);
    refused(&init(&["--cluster", "Not A Name"]), 2, &["Not A Name"]);
    refused(&init(&["--node", "2=127.0.0.1:20010"]), 2, &["`2`", "digits alone"]);
    assert!(init(&[]).status.success());
    refused(&init(&[]), 2, &["not empty"]);
}

#[test]
fn a_demo_does_not_run_another_cluster_than_the_one_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo");
    let path = path.to_str().unwrap();
    let nodes = ["--node", "n1=127.0.0.1:20000", "--node", "n2=127.0.0.1:20010"];
    assert!(raftkv(&[&["init", "--dir", path], &nodes[..]].concat()).status.success());
    let demo = |more: &[&str]| raftkv(&[&["demo", "--dir", path], more].concat());
    refused(&demo(&["--nodes", "5"]), 2, &["2 nodes", "--nodes", "--dir"]);
    refused(&demo(&["--nodes", "2", "--base-port", "7420"]), 2, &["20000", "--base-port", "--dir"]);
}

#[test]
fn a_port_that_is_taken_is_named_once_with_the_cause() {
    let cluster = Cluster::provision(1);
    let address = cluster.nodes[0].config.listen_client();
    let _taken = std::net::UdpSocket::bind(address).unwrap();
    let output = raftkv(&["start", "--dir", cluster.nodes[0].folder.to_str().unwrap()]);
    refused(&output, 1, &[&address.to_string(), "node.listen_client"]);
    let text = stderr(&output);
    assert_eq!(text.matches("another process").count(), 1, "{text}");
    assert_eq!(text.matches("cannot listen").count(), 1, "{text}");
}

#[test]
fn a_certificate_that_cannot_be_used_ends_with_seven() {
    let cluster = Cluster::provision(2);
    let [one, two] = [&cluster.nodes[0].folder, &cluster.nodes[1].folder];
    for file in ["node.crt", "node.key"] {
        std::fs::copy(two.join(file), one.join(file)).unwrap();
    }
    let output = raftkv(&["start", "--dir", one.to_str().unwrap()]);
    refused(&output, 7, &["node.crt", "node/2", "node/1"]);
    std::fs::remove_file(one.join("node.key")).unwrap();
    refused(&raftkv(&["start", "--dir", one.to_str().unwrap()]), 7, &["node.key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_within_its_bound_whatever_the_size_of_its_entries() {
    let mut cluster = Cluster::provision(1);
    let path = cluster.nodes[0].folder.join("raftkv.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("log_segment_mib = 64", "log_segment_mib = 4");
    let text = text.replace("log_retained_mib = 512", "log_retained_mib = 32");
    let text = text.replace("write_buffer_mib = 64", "write_buffer_mib = 8");
    std::fs::write(&path, text).unwrap();
    cluster.start_all().await;
    let client = cluster.client();
    for number in 0..200u32 {
        client.put((format!("key{}", number % 10), vec![3; 1 << 20])).await.unwrap();
    }
    // The bound, and six segments that are in use, ahead or spare.
    common::eventually("the log to shrink to its bound", async || {
        let status = cluster.nodes[0].status().await?;
        (status.log_bytes <= (32 + 6 * 4) << 20).then_some(())
    })
    .await;
}
