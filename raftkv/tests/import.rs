//! Real data goes in through every node and comes out of another one unchanged, before and after all processes are killed.
//!
//! The data: every installed Debian package with its version, and thousands of files of the crates this very workspace is
//! built from, binary ones included.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use client::Client;
use common::Cluster;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The least number of files the test is worth something with.
const FILES_MIN: usize = 2_000;
/// Enough; the whole registry would take minutes.
const FILES_MAX: usize = 2_500;
/// Files with these endings are rarely text.
const BINARY_ENDINGS: [&str; 9] = ["a", "lib", "png", "der", "bin", "gz", "o", "zst", "ico"];
/// Requests under way at once.
const CONCURRENCY: usize = 32;

type Hash = [u8; 32];

fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Every installed package and its version, where this is a Debian machine.
fn packages() -> Vec<(Vec<u8>, Vec<u8>)> {
    let output = match Command::new("dpkg-query").arg("-W").output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("NOTICE: dpkg-query does not run here ({error}); the packages are left out");
            return Vec::new();
        }
    };
    assert!(output.status.success(), "dpkg-query -W failed");
    let pairs: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, version)| (format!("package/{name}").into_bytes(), version.as_bytes().to_vec()))
        .collect();
    assert!(!pairs.is_empty(), "dpkg-query -W lists no package");
    pairs
}

/// Files of the crates' sources: the binary ones first, then every so many of the others.
fn files(value_bytes_max: u64) -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cargo"), PathBuf::from);
    let mut found = Vec::new();
    collect(&home.join("registry/src"), value_bytes_max, &mut found);
    let is_binary =
        |path: &Path| path.extension().is_some_and(|ending| BINARY_ENDINGS.iter().any(|binary| ending == *binary));
    found.sort();
    let (binary, text): (Vec<_>, Vec<_>) = found.into_iter().partition(|path| is_binary(path));
    let step = (text.len() / FILES_MAX).max(1);
    let binary_step = (binary.len() / (FILES_MAX / 5)).max(1);
    let binary = binary.into_iter().step_by(binary_step).take(FILES_MAX / 5);
    binary.chain(text.into_iter().step_by(step)).take(FILES_MAX).collect()
}

fn collect(folder: &Path, bytes_max: u64, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), bytes_max, found);
        } else if kind.is_file() && entry.metadata().unwrap().len() <= bytes_max {
            found.push(entry.path());
        }
    }
}

/// Runs `work` on every item, a bounded number at once.
async fn for_each<T: Send + 'static, F: Future<Output = ()> + Send + 'static>(
    items: Vec<T>,
    work: impl Fn(usize, T) -> F,
) {
    let permits = Arc::new(tokio::sync::Semaphore::new(CONCURRENCY));
    let mut tasks = tokio::task::JoinSet::new();
    for (number, item) in items.into_iter().enumerate() {
        let permit = permits.clone().acquire_owned().await.unwrap();
        let work = work(number, item);
        tasks.spawn(async move {
            work.await;
            drop(permit);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Reads everything back, each key from another node than the one it was written through.
async fn verify(clients: &[Client], expected: &BTreeMap<Vec<u8>, Hash>) {
    let items: Vec<(Vec<u8>, Hash)> = expected.iter().map(|(key, hash)| (key.clone(), *hash)).collect();
    for_each(items, |number, (key, hash)| {
        let client = clients[(number + 1) % clients.len()].clone();
        async move {
            let found = client
                .get(key.clone())
                .await
                .unwrap()
                .kv
                .unwrap_or_else(|| panic!("{} is lost", String::from_utf8_lossy(&key)));
            assert_eq!(sha256(&found.value), hash, "{} came back changed", String::from_utf8_lossy(&key));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_data_survives_through_every_node_and_a_kill_of_all() {
    let mut cluster = Cluster::start(3).await;
    let clients = [cluster.client_at(0), cluster.client_at(1), cluster.client_at(2)];
    let mut data = packages();
    let files = files(cluster.nodes[0].config.cluster.value_bytes_max);
    assert!(files.len() >= FILES_MIN, "only {} files under Cargo's registry", files.len());
    data.extend(
        files.iter().map(|path| (format!("file{}", path.display()).into_bytes(), std::fs::read(path).unwrap())),
    );
    assert!(data.iter().any(|(_, value)| std::str::from_utf8(value).is_err()), "there are binary files among them");
    let expected: BTreeMap<Vec<u8>, Hash> = data.iter().map(|(key, value)| (key.clone(), sha256(value))).collect();
    // In the map's order, so that `verify` reads every key from another node than it was written through.
    data.sort();
    data.dedup_by(|one, other| one.0 == other.0);
    for_each(data, |number, (key, value)| {
        let client = clients[number % clients.len()].clone();
        async move {
            client.put((key, value)).await.unwrap();
        }
    })
    .await;
    verify(&clients, &expected).await;

    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.start_all().await;
    let clients = [cluster.client_at(0), cluster.client_at(1), cluster.client_at(2)];
    verify(&clients, &expected).await;
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_stores_files_as_they_are() {
    let cluster = Cluster::start(3).await;
    let binary = std::fs::read(common::cli_binary()).unwrap();
    let part = &binary[..binary.len().min(4 << 20)];
    let file = cluster.folder.path().join("part");
    std::fs::write(&file, part).unwrap();
    let put = cluster
        .cli_at(cluster.nodes[0].client_address())
        .args(["put", "bin/part"])
        .arg(format!("@{}", file.display()))
        .output()
        .unwrap();
    assert!(put.status.success(), "{}", common::stderr(&put));
    let got = cluster.cli_at(cluster.nodes[2].client_address()).args(["get", "bin/part"]).output().unwrap();
    assert!(got.status.success(), "{}", common::stderr(&got));
    assert_eq!(sha256(&got.stdout), sha256(part));
}
