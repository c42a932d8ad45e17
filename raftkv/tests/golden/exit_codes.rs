//! The table of exit codes: each row met for real, with what the person reads beside it.

use crate::cluster::led_by_the_first;
use crate::common::{Cluster, DEADLINE, eventually, stderr};
use crate::transcript::Transcript;
use raftkv::ports::free_runs_of_three;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Instant;

#[track_caller]
fn ends_with(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_0_to_4_success_error_usage_not_found_and_precondition() {
    let cluster = Cluster::start(1).await;
    let mut transcript = Transcript::of(&cluster);
    for (code, line) in [
        (0, &["put", "color", "green"][..]),
        (1, &["get", "color", "--rev", "1000"]),
        (2, &["put", "--if-rev", "x", "color", "red"]),
        (3, &["get", "missing"]),
        (4, &["put", "color", "red", "--if-absent"]),
    ] {
        ends_with(&transcript.run(cluster.cli_at(&cluster.endpoints()), line), code);
    }
    transcript.check("exit-0-to-4");
}

#[test]
fn code_5_nobody_listens_so_nothing_was_applied() {
    let cluster = Cluster::provision(1);
    let mut transcript = Transcript::of(&cluster);
    for line in [["put", "color", "green"], ["get", "color", "--meta"]] {
        ends_with(
            &transcript.run(cluster.cli_at(&cluster.endpoints()), &[&["--timeout", "1s"], &line[..]].concat()),
            5,
        );
    }
    ends_with(&transcript.run(cluster.cli_at(&cluster.endpoints()), &["status", "--timeout", "1s"]), 5);
    transcript.check("exit-5");
}

/// A shell has a connection, so the second write leaves before anybody can know that the node does not answer any more.
#[tokio::test(flavor = "multi_thread")]
async fn code_6_a_node_that_is_stopped_leaves_the_outcome_of_a_write_unknown() {
    let cluster = Cluster::start(1).await;
    let node = rustix::process::Pid::from_child(cluster.nodes[0].child.as_ref().expect("it runs"));
    // An import writes in one session from its first line on. A command of its own would have to open one first, and that certainly changes nothing.
    let mut import = cluster
        .cli_at(&cluster.endpoints())
        .args(["import", "--timeout", "1s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = import.stdin.take().expect("it is piped");
    let line = |value: &str| format!("{{\"key\":\"color\",\"value\":\"{value}\"}}");
    writeln!(input, "{}", line("green")).expect("it reads");
    eventually("the first line to be imported", || async {
        cluster.cli(&["get", "color"]).status.success().then_some(())
    })
    .await;
    rustix::process::kill_process(node, rustix::process::Signal::STOP).expect("it is our child");
    writeln!(input, "{}", line("red")).expect("it reads");
    drop(input);
    let output = import.wait_with_output().expect("it is our child");
    rustix::process::kill_process(node, rustix::process::Signal::CONT).expect("it is our child");
    ends_with(&output, 6);
    let mut transcript = Transcript::of(&cluster);
    transcript.write("raftkv-cli import --timeout 1s", "…   # the second line goes to a node that is stopped", &output);
    transcript.check("exit-6");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_7_a_certificate_of_another_cluster_or_none_at_all() {
    let (cluster, other) = (Cluster::start(1).await, Cluster::provision(1));
    let mut transcript = Transcript::of(&cluster);
    transcript.replace(other.folder.path().display().to_string(), "OTHER");
    let admin = |file: &str| other.out().join("admin").join(file).display().to_string();
    let (cert, key) = (admin("client.crt"), admin("client.key"));
    let foreign = ["get", "color", "--timeout", "2s", "--cert", &cert, "--key", &key];
    ends_with(&transcript.run(cluster.cli_at(&cluster.endpoints()), &foreign), 7);
    let foreign = ["get", "color", "--timeout", "2s", "--cert", &cert, "--key", &key, "--ca", &admin("ca.crt")];
    ends_with(&transcript.run(cluster.cli_at(&cluster.endpoints()), &foreign), 7);
    ends_with(
        &transcript.run(cluster.cli_at(&cluster.endpoints()), &["get", "color", "--ca", "/nonexistent/ca.crt"]),
        7,
    );
    let mut without = cluster.cli_at(&cluster.endpoints());
    without.env_remove("RAFTKV_CERT").env("RAFTKV_CONTEXTS", "/nonexistent/contexts.toml");
    ends_with(&transcript.run(without, &["get", "color"]), 7);
    transcript.check("exit-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_8_a_removal_that_would_lose_the_majority() {
    let mut cluster = led_by_the_first().await;
    cluster.nodes[2].kill();
    eventually("the leader misses the node that is down", || async {
        (cluster.cli(&["member", "remove", "n2", "--dry-run"]).status.code() == Some(8)).then_some(())
    })
    .await;
    let mut transcript = Transcript::of(&cluster);
    ends_with(&transcript.run(cluster.cli_at(&cluster.endpoints()), &["member", "remove", "n2"]), 8);
    transcript.check("exit-8");
}

/// A block of the state is damaged on the disk. Whoever reads it is told so, and not given something else; then the node stops. When it stops
/// before the answer is on its way, the reader hears nothing: then it is started once more.
#[tokio::test(flavor = "multi_thread")]
async fn code_9_a_value_that_is_damaged_on_disk() {
    let mut cluster = Cluster::start(1).await;
    // Bytes that do not compress are found on the disk as they are.
    let value: Vec<u8> = (0..100_u32).flat_map(|number| Sha256::digest(number.to_le_bytes())).collect();
    cluster.client().put(("color", value.clone())).await.expect("the cluster works");
    // In order, so that its state is in files.
    assert!(cluster.nodes[0].stop().success(), "{}", cluster.nodes[0].log());
    let deadline = Instant::now() + DEADLINE;
    let (output, damaged) = loop {
        cluster.nodes[0].start();
        cluster.agreed_leader().await;
        // While it runs and has not read the value: at its start RocksDB may merge files, and then nobody gets to ask.
        let damaged = damage(&cluster.nodes[0].data(), &value[1000..1064]);
        assert!(!damaged.is_empty(), "the value is not on the disk");
        let output = cluster.cli(&["get", "color", "--timeout", "5s"]);
        let node = cluster.nodes[0].wait();
        assert_eq!(node.code(), Some(9), "the node goes on with a damaged state: {}", cluster.nodes[0].log());
        assert!(output.stdout.is_empty(), "something was read");
        if output.status.code() != Some(5) {
            break (output, damaged);
        }
        // The node ended before its answer left. What was flipped is flipped back; of several files all but one are obsolete, and may be gone by now.
        let mended = damage(&cluster.nodes[0].data(), &flipped(&value[1000..1064]));
        assert!(!mended.is_empty(), "nothing is left of {damaged:?}");
        assert!(Instant::now() < deadline, "nobody hears of the damage: {}", stderr(&output));
    };
    ends_with(&output, 9);
    let mut transcript = Transcript::of(&cluster);
    // Which file it is, and its checksums, depend on when RocksDB flushed.
    transcript.numbers_vary();
    for file in damaged {
        transcript.replace(file, "FILE.sst");
    }
    transcript.write("raftkv-cli get color --timeout 5s", "", &output);
    transcript.check("exit-9");
}

/// As [`damage`] leaves it.
fn flipped(needle: &[u8]) -> Vec<u8> {
    let mut flipped = needle.to_vec();
    flipped[0] ^= 1;
    flipped
}

/// Flips a bit wherever `needle` is in a file of RocksDB below `folder`. Returns the names of these files.
fn damage(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut damaged = Vec::new();
    for path in files(folder).iter().filter(|path| path.extension().is_some_and(|ending| ending == "sst")) {
        let bytes = fs::read(path).expect("the node is dead and its files can be read");
        let Some(position) = bytes.windows(needle.len()).position(|window| window == needle) else { continue };
        let file = fs::OpenOptions::new().write(true).open(path).expect("its files can be written");
        file.write_all_at(&[bytes[position] ^ 1], position as u64).expect("its files can be written");
        damaged.push(path.file_name().expect("a file has a name").to_string_lossy().into_owned());
    }
    damaged
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("it can be read").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Nobody has this port now; a test that needs an address where nobody listens takes it.
#[test]
fn an_address_that_is_none_is_a_usage_error() {
    let cluster = Cluster::provision(1);
    let port = free_runs_of_three(1).expect("there are free ports")[0];
    let mut transcript = Transcript::of(&cluster);
    transcript.replace(port.to_string(), "PORT");
    for endpoints in ["", "n1", "n1:http", &format!("https://127.0.0.1:{port}")] {
        let mut cli = cluster.cli_at(endpoints);
        cli.env("RAFTKV_CONTEXTS", cluster.folder.path().join("contexts.toml"));
        ends_with(&transcript.run(cli, &["get", "color", "--endpoints", endpoints]), 2);
    }
    transcript.check("endpoints");
}
