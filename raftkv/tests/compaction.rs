//! Compaction with real processes: what can be read afterwards, that scans under way go on, that its space comes back on every node, and that the leader does it
//! by itself.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use bytes::Bytes;
use client::{Delete, Error, Get, Put, Range, Scan};
use common::{Cluster, eventually, stderr};
use raftkv::config::FILE_NAME;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storage::state::FORMAT_WITH_TRANSACTIONS;
use tokio::task::JoinHandle;

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
    // Whoever repeats it is told that it holds.
    assert_eq!(client.compact(last).await.unwrap(), last);
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

/// Of a value that a pipe, a client and the windows between it and the node do not hold a few hundred of.
fn text(key: u64, version: u64) -> String {
    noise(key * 2 + version + 1, 32 << 10).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts these keys, all at once. Returns the newest revision.
async fn put_texts(client: &client::Client, keys: u64, version: u64) -> u64 {
    let put = |key: u64| {
        let client = client.clone();
        tokio::spawn(async move { client.put((format!("k/{key:04}"), text(key, version))).await.unwrap().revision })
    };
    let mut newest = 0;
    for written in (0..keys).map(put).collect::<Vec<_>>() {
        newest = newest.max(written.await.unwrap());
    }
    newest
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_and_a_scan_go_on_though_compactions_overtake_them() {
    const KEYS: u64 = 512;
    let cluster = start_with(1, "compact_revisions = 10").await;
    let node = &cluster.nodes[0];
    let client = cluster.client();
    let revision = put_texts(&client, KEYS, 0).await;
    // Both read slowly: so far the first pair only.
    let mut export = cluster.cli_at(&cluster.endpoints()).arg("export").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(export.stdout.take().unwrap()).lines();
    let mut exported = vec![lines.next().unwrap().unwrap()];
    let whole = Scan::new(Range::prefix("k/")).reverse().count_total();
    let mut scan = client.scan(whole).await.unwrap();
    let mut scanned = vec![scan.next().await.unwrap().unwrap()];

    put_texts(&client, KEYS, 1).await;
    client.delete(Delete::range(Range::prefix("k/00"))).await.unwrap();
    eventually("a compaction that overtakes them", || async {
        node.status().await.filter(|status| status.compacted > revision + KEYS / 2 && status.held == Some(revision))
    })
    .await;
    let late = client.get(Get::new("k/0000").at_revision(revision)).await.unwrap_err();
    assert!(matches!(late, Error::CompactedRevision { .. }), "{late:?}");

    exported.extend(lines.map(Result::unwrap));
    assert!(export.wait().unwrap().success());
    while let Some(kv) = scan.next().await.unwrap() {
        scanned.push(kv);
    }
    let expected = || (0..KEYS).map(|key| (format!("k/{key:04}"), text(key, 0)));
    let exported = exported.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let exported =
        exported.map(|pair| (pair["key"].as_str().unwrap().to_owned(), pair["value"].as_str().unwrap().to_owned()));
    assert!(exported.eq(expected()), "what is exported is of one revision");
    let scanned = scanned.iter().map(|kv| (kv.key.as_ref(), kv.value.as_ref()));
    let expected: Vec<_> = expected().collect();
    assert!(scanned.eq(expected.iter().rev().map(|(key, value)| (key.as_bytes(), value.as_bytes()))));
    assert_eq!(scan.summary().unwrap().total, Some(KEYS));
    eventually("the hold to end", || async { node.status().await.filter(|status| status.held.is_none()) }).await;
}

/// The shortest age that there is takes a minute. The rule itself is tested with clocks that are told what time it is (`driver_space.rs`).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-long"]
async fn the_leader_lets_go_of_what_is_older_than_an_age() {
    let cluster = start_with(3, "compact_age = \"1m\"").await;
    let client = cluster.client();
    client.put(("k", "old")).await.unwrap();
    let last = client.put(("k", "new")).await.unwrap().revision;
    let begun = Instant::now();
    let (mut readable_for, mut young) = (Duration::ZERO, Vec::new());
    while client.get(Get::new("k").at_revision(last - 1)).await.is_ok() {
        readable_for = begun.elapsed();
        assert!(readable_for < Duration::from_secs(180), "after {readable_for:?} it can still be read");
        let revision = client.put(("clock", "ticks")).await.unwrap().revision;
        young.push((Instant::now(), revision));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(readable_for > Duration::from_secs(55), "after {readable_for:?} it cannot be read any more");
    young.retain(|(written, _)| written.elapsed() < Duration::from_secs(45));
    for (written, revision) in young {
        let read = client.get(Get::new("k").at_revision(revision)).await;
        assert_eq!(read.unwrap().kv.unwrap().value, "new", "{:?} old", written.elapsed());
    }
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

/// Puts at a steady rate, and how long each took.
struct SteadyWrites {
    times: Arc<Mutex<Vec<Duration>>>,
    writers: Vec<JoinHandle<()>>,
}

impl SteadyWrites {
    const WRITERS: u64 = 16;
    /// Of each writer: a thousand puts a second altogether.
    const INTERVAL: Duration = Duration::from_millis(Self::WRITERS);

    fn begin(cluster: &Cluster) -> SteadyWrites {
        let times = Arc::new(Mutex::new(Vec::new()));
        let client = cluster.client();
        let writer = |writer: u64| {
            let (client, times) = (client.clone(), Arc::clone(&times));
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(SteadyWrites::INTERVAL);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                for number in 0_u64.. {
                    tick.tick().await;
                    let begun = Instant::now();
                    client.put((format!("steady/{writer}/{}", number % 64), "value")).await.unwrap();
                    times.lock().unwrap().push(begun.elapsed());
                }
            })
        };
        SteadyWrites { times: Arc::clone(&times), writers: (0..Self::WRITERS).map(writer).collect() }
    }

    /// What each took since the last time this was asked.
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.times.lock().unwrap())
    }

    async fn end(self) {
        for writer in self.writers {
            writer.abort();
            // An error is either the end that was asked for, or a put that failed.
            if let Err(error) = writer.await {
                assert!(error.is_cancelled(), "{error}");
            }
        }
    }
}

/// The time that 99 of 100 took at most.
fn p99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() * 99 / 100]
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Puts of a thousand keys, as many at once as the nodes take.
async fn write_revisions(cluster: &Cluster, revisions: u64) -> u64 {
    const WRITERS: u64 = 512;
    let (next, newest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<client::Client> = (0..4).map(|_| cluster.client()).collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = clients[usize::try_from(writer).unwrap() % clients.len()].clone();
            let (next, newest) = (Arc::clone(&next), Arc::clone(&newest));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= revisions {
                        return;
                    }
                    let put = Put::new(format!("key/{:03}", number % 1_000), noise(number + 1, 96));
                    newest.fetch_max(client.put(put).await.unwrap().revision, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    newest.load(Ordering::Relaxed)
}

/// Bytes that the files below a folder take on disk. Files come and go while this looks.
fn bytes_on_disk(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_on_disk(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

/// What a compaction of everything did, while puts went on at a steady rate.
struct Compaction {
    /// The 99th percentile of the puts, in a window before and from the compaction on.
    p99_before: Duration,
    p99_during: Duration,
    /// What each node's directory took before, and once the state was a quarter of what it was.
    full: Vec<u64>,
    left: Vec<u64>,
}

/// Writes so many revisions of a thousand keys and compacts them away. Writes are looked at in windows of at least this length: in less, a few fsyncs that
/// wait for the disk decide what 99 of 100 took.
async fn compact_under_writes(cluster: &Cluster, revisions: u64, window: Duration) -> Compaction {
    let begun = Instant::now();
    let newest = write_revisions(cluster, revisions).await;
    eprintln!("{revisions} revisions in {:?}", begun.elapsed());

    let writes = SteadyWrites::begin(cluster);
    // What the load left to do in the background is not the compaction's.
    tokio::time::sleep(window).await;
    writes.take();
    tokio::time::sleep(window).await;
    let before = writes.take();
    let directories = || cluster.nodes.iter().map(|node| bytes_on_disk(&node.data())).collect::<Vec<u64>>();
    let full = directories();
    let mut full_state = Vec::new();
    for node in &cluster.nodes {
        full_state.push(node.status().await.unwrap().state_bytes);
    }

    let compacting = Instant::now();
    cluster.client().compact(newest).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(900);
    for (node, full) in cluster.nodes.iter().zip(&full_state) {
        while node.status().await.is_none_or(|status| status.state_bytes > full / 4) {
            assert!(Instant::now() < deadline, "the state of {} does not shrink to a quarter of {full}", node.name);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let took = compacting.elapsed();
    let left = directories();
    let mut during = writes.take();
    let p99_alone = p99(&during);
    eprintln!(
        "states of {full_state:?} bytes were a quarter after {took:?}; p99 of {} puts: {p99_alone:?}",
        during.len()
    );
    tokio::time::sleep(window.saturating_sub(took)).await;
    during.extend(writes.take());
    writes.end().await;
    let (p99_before, p99_during) = (p99(&before), p99(&during));
    eprintln!(
        "p99 of {} puts before: {p99_before:?}, of the {} in the window with the compaction: {p99_during:?}",
        before.len(),
        during.len()
    );
    eprintln!("bytes of the directories before: {full:?}, afterwards: {left:?}");
    Compaction { p99_before, p99_during, full, left }
}

/// The smaller form of the next one. A machine that does something else meanwhile can make any one comparison fail, so the best of a few counts; a compaction that
/// slows writes down does so each time.
#[tokio::test(flavor = "multi_thread")]
async fn compaction_hardly_slows_writes() {
    const ROUNDS: u32 = 5;
    /// Allowed beside twice: what else runs on the machine decides a p99 of a few milliseconds. The large form below allows nothing.
    const NOISE: Duration = Duration::from_millis(4);
    let cluster = start_with(3, "").await;
    for round in 1..=ROUNDS {
        let Compaction { p99_before, p99_during, .. } =
            compact_under_writes(&cluster, 200_000, Duration::from_secs(4)).await;
        if p99_during <= p99_before * 2 + NOISE {
            return;
        }
        eprintln!("round {round}: {p99_before:?} before, {p99_during:?} during");
    }
    panic!("in each of {ROUNDS} rounds the p99 of writes more than doubled while a compaction ran");
}

/// `RAFTKV_REVISIONS` and `RAFTKV_NODES` say how many.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-long"]
async fn a_large_compaction_hardly_slows_writes_and_gives_the_space_back() {
    let nodes = u16::try_from(from_environment("RAFTKV_NODES", 3)).unwrap();
    let cluster = start_with(nodes, "").await;
    let revisions = from_environment("RAFTKV_REVISIONS", 10_000_000);
    let Compaction { p99_before, p99_during, full, left } =
        compact_under_writes(&cluster, revisions, Duration::from_secs(30)).await;
    assert!(p99_during <= p99_before * 2, "p99 {p99_before:?} before, {p99_during:?} during");
    for ((node, full), left) in cluster.nodes.iter().zip(full).zip(left) {
        assert!(left <= full / 2, "the directory of {} had {full} bytes, and has {left}", node.name);
    }
}
