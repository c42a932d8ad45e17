//! The command line against real processes: outputs, byte-exactness and exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, stderr};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};

#[track_caller]
fn expect(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn with_stdin(cluster: &Cluster, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = cluster
        .cli_at(&cluster.endpoints())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_stored_byte_by_byte_and_exit_codes_say_what_happened() {
    let cluster = Cluster::start(3).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    expect(&with_stdin(&cluster, &["put", "bytes"], &every_byte), 0);
    assert_eq!(cluster.cli(&["get", "bytes"]).stdout, every_byte);
    expect(&with_stdin(&cluster, &["put", "empty", "-"], b""), 0);
    assert_eq!(expect(&cluster.cli(&["get", "empty"]), 0), "");

    expect(&cluster.cli(&["get", "missing"]), 3);
    expect(&cluster.cli(&["del", "missing"]), 3);
    expect(&cluster.cli(&["put", "once", "1", "--if-absent"]), 0);
    let failed = cluster.cli(&["put", "once", "2", "--if-absent"]);
    expect(&failed, 4);
    assert!(stderr(&failed).contains("condition"), "{}", stderr(&failed));
    expect(&cluster.cli(&["put", "once", "2", "--if-value", "1"]), 0);
    assert_eq!(expect(&cluster.cli(&["get", "once"]), 0), "2");
    expect(&cluster.cli(&["get", "once", "--rev", "1000000"]), 1);
    expect(&cluster.cli(&["get"]), 2);
    expect(&cluster.cli(&["put", "k", "v", "--if-rev", "x"]), 2);
    assert_eq!(expect(&cluster.cli(&["del", "once"]), 0).trim(), "1");
    expect(&cluster.cli(&["get", "once"]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_taken_up_to_the_limit_and_refused_beyond_with_the_limit() {
    let cluster = Cluster::start(1).await;
    let largest = vec![9; 8 << 20];
    expect(&with_stdin(&cluster, &["put", "large"], &largest), 0);
    assert_eq!(cluster.cli(&["get", "large"]).stdout, largest);
    let refused = with_stdin(&cluster, &["put", "large"], &[&largest[..], b"x"].concat());
    expect(&refused, 2);
    assert!(stderr(&refused).contains("8388608"), "{}", stderr(&refused));

    let longest = "k".repeat(4096);
    expect(&cluster.cli(&["put", &longest, "v"]), 0);
    assert_eq!(expect(&cluster.cli(&["get", &longest]), 0), "v");
    let refused = cluster.cli(&["put", &format!("{longest}k"), "v"]);
    expect(&refused, 2);
    assert!(stderr(&refused).contains("4096"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_too_large_for_one_delete_goes_in_steps_and_with_prev_is_refused() {
    let cluster = Cluster::start(3).await;
    let records: String =
        (0..120_000).map(|number| format!("{{\"key\":\"p/{number:06}\",\"value\":\"v\"}}\n")).collect();
    expect(&with_stdin(&cluster, &["import"], records.as_bytes()), 0);
    expect(&cluster.cli(&["put", "q", "stays"]), 0);

    let refused = cluster.cli(&["del", "--prefix", "p/", "--prev"]);
    expect(&refused, 2);
    let message = stderr(&refused);
    assert!(message.contains("100000 keys") && message.contains("without --prev"), "{message}");
    assert_eq!(expect(&cluster.cli(&["scan", "--prefix", "p/", "--count"]), 0).trim(), "120000", "a part was deleted");

    assert_eq!(expect(&cluster.cli(&["del", "--prefix", "p/"]), 0), "120000\n");
    assert_eq!(expect(&cluster.cli(&["scan", "--prefix", "p/", "--count"]), 0).trim(), "0");
    assert_eq!(expect(&cluster.cli(&["get", "q"]), 0), "stays");
}

/// However large values are, they are deleted together; but not all of them are returned.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_are_deleted_at_once_and_one_is_returned() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let value = bytes::Bytes::from(vec![7; 8 << 20]);
    for key in ["p/1", "p/2", "p/3", "p/4", "p/5"] {
        client.put((key, value.clone())).await.unwrap();
    }
    let two = client::Delete::range(client::Range::between("p/1", "p/3")).with_previous();
    let refused = client.delete(two).await.unwrap_err();
    let client::Error::RangeTooLarge { keys_max, bytes_max, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((keys_max, bytes_max), (100_000, (8 << 20) + 4096));
    let one = client::Delete::range(client::Range::between("p/1", "p/2")).with_previous();
    assert_eq!(client.delete(one).await.unwrap().previous[0].value, value);
    client.put(("p/1", value)).await.unwrap();
    assert_eq!(expect(&cluster.cli(&["del", "--prefix", "p/"]), 0), "5\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_configuration() {
    let mut cluster = Cluster::provision_with(1, &["--key-bytes-max", "10", "--value-bytes-max", "100"]);
    cluster.start_all().await;
    expect(&cluster.cli(&["put", "0123456789", &"v".repeat(100)]), 0);
    for (key, value, limit) in [("0123456789a", "v".to_owned(), "10"), ("k", "v".repeat(101), "100")] {
        let refused = cluster.cli(&["put", key, &value]);
        expect(&refused, 2);
        assert!(stderr(&refused).contains(limit), "{}", stderr(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_and_status_are_one_json_object_a_line() {
    let cluster = Cluster::start(3).await;
    for key in ["a/1", "a/2", "b/1"] {
        expect(&cluster.cli(&["put", key, "v"]), 0);
    }
    let pairs = json_lines(&expect(&cluster.cli(&["scan", "--prefix", "a/", "-o", "json"]), 0));
    let keys: Vec<&str> = pairs.iter().map(|pair| pair["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a/1", "a/2"]);
    for field in ["value", "create_revision", "mod_revision", "version", "lease"] {
        assert!(pairs[0].get(field).is_some(), "{field} is missing in {}", pairs[0]);
    }
    let reversed =
        json_lines(&expect(&cluster.cli(&["scan", "--reverse", "--limit", "2", "--keys-only", "-o", "json"]), 0));
    let keys: Vec<&str> = reversed.iter().map(|pair| pair["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["b/1", "a/2"]);
    assert_eq!(expect(&cluster.cli(&["scan", "--from", "a/2", "--to", "b/2", "--count"]), 0).trim(), "2");

    let nodes = json_lines(&expect(&cluster.cli(&["status", "-o", "json"]), 0));
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes.iter().filter(|node| node["role"] == "leader").count(), 1, "{nodes:?}");
    assert!(nodes.iter().all(|node| node["reachable"] == true), "{nodes:?}");
    let members = json_lines(&expect(&cluster.cli(&["member", "list", "-o", "json"]), 0));
    assert_eq!(members.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_status_goes_on() {
    let cluster = Cluster::start(1).await;
    let mut watching = cluster
        .cli_at(&cluster.endpoints())
        .args(["status", "--watch", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let seen: Vec<Value> = lines.take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    watching.kill().unwrap();
    watching.wait().unwrap();
    assert!(seen.iter().all(|node| node["role"] == "leader"), "{seen:?}");
    assert!(seen[0]["uptime_ms"].as_u64() < seen[1]["uptime_ms"].as_u64(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_can_be_imported_elsewhere() {
    let source = Cluster::start(1).await;
    let binary: Vec<u8> = vec![0, 255, 128, 10, 13];
    expect(&with_stdin(&source, &["put", "bin"], &binary), 0);
    expect(&source.cli(&["put", "text", "line\nline"]), 0);
    let exported = source.cli(&["export"]);
    expect(&exported, 0);
    assert_eq!(exported.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
    let target = Cluster::start(1).await;
    expect(&with_stdin(&target, &["import"], &exported.stdout), 0);
    assert_eq!(target.cli(&["get", "bin"]).stdout, binary);
    assert_eq!(expect(&target.cli(&["get", "text"]), 0), "line\nline");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_said_to_be_written() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.agreed_leader().await;
    for node in (0..3).filter(|node| *node != leader) {
        cluster.nodes[node].kill();
    }
    let address = cluster.nodes[leader].client_address().to_owned();
    let put = cluster.cli_at(&address).args(["--timeout", "4s", "put", "k", "v"]).output().unwrap();
    let code = put.status.code();
    assert!(code == Some(5) || code == Some(6), "unavailable or unknown, never done: {code:?} {}", stderr(&put));
    let get = cluster.cli_at(&address).args(["--timeout", "2s", "get", "k"]).output().unwrap();
    assert!(matches!(get.status.code(), Some(5 | 6)), "{}", stderr(&get));
    let status = cluster.cli_at(&address).args(["--timeout", "2s", "status"]).output().unwrap();
    expect(&status, 5);
    cluster.nodes[leader].kill();
    let nobody = cluster.cli_at(&address).args(["--timeout", "1s", "put", "k", "v"]).output().unwrap();
    expect(&nobody, 5);
    assert!(stderr(&nobody).contains(&address), "names the endpoint: {}", stderr(&nobody));
}

/// A leader that is paused while a write is under way: the client must not guess.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_sent_and_not_answered_is_unknown() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.put(("k", "1")).await.unwrap();
    cluster.nodes[0].pause().await;
    let outcome = client.put(("k", "2")).await;
    cluster.nodes[0].resume();
    assert!(matches!(outcome, Err(client::Error::OutcomeUnknown { .. })), "{outcome:?}");
}
