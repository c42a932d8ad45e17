//! Watches of real nodes: nothing missed, nothing twice, nothing out of order, whoever is killed and whoever does not read.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use client::{Client, Error, KeyValue, Put, Range, Watch, WatchBatch, WatchEvent, WatchStream};
use common::{Cluster, DEADLINE, TestNode};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use transport::proto::client as wire;

async fn soon(watch: &mut WatchStream) -> WatchBatch {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch goes on").unwrap()
}

/// Every event of a watch up to and including a revision.
async fn events_through(watch: &mut WatchStream, revision: u64) -> Vec<WatchEvent> {
    let (mut events, mut through) = (Vec::new(), 0);
    while through < revision {
        let batch = soon(watch).await;
        assert!(batch.revision > through, "a batch through {} after {through}", batch.revision);
        assert!(batch.events.iter().all(|event| event.revision() <= batch.revision && event.revision() > through));
        through = batch.revision;
        events.extend(batch.events);
    }
    events
}

/// Writes and deletes a few keys of its own until told to stop. Returns what was acknowledged: revision, key, and value if it was a put.
async fn write(client: Client, writer: u64, stop: Arc<AtomicBool>) -> Vec<(u64, String, Option<String>)> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w/{writer}/{}", number % 7);
        let outcome = if number % 5 == 4 {
            client
                .delete(client::Delete::key(key.clone()))
                .await
                .map(|done| (done.deleted > 0).then_some((done.revision, None)))
        } else {
            let value = number.to_string();
            client.put((key.clone(), value.clone())).await.map(|done| Some((done.revision, Some(value))))
        };
        match outcome {
            Ok(done) => acknowledged.extend(done.map(|(revision, value)| (revision, key, value))),
            Err(error) => assert!(
                error.is_certainly_not_applied() || matches!(error, Error::OutcomeUnknown { .. }),
                "writer {writer}: {error}"
            ),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_miss_nothing_while_nodes_are_killed() {
    let mut cluster = Cluster::start(3).await;
    let begin = cluster.client().put(("begin", "")).await.unwrap().revision + 1;
    let mut watchers = Vec::new();
    // Wherever a watcher begins, the kills below meet its node.
    for number in 0..6 {
        let client = cluster.client_from(number % 3);
        let watch = Watch::range(Range::prefix("w/")).with_progress().with_previous();
        let mut watch = client.watch(watch.progress_every(Duration::from_millis(300))).await.unwrap();
        assert_eq!(watch.first_revision(), begin);
        let (end, told) = tokio::sync::oneshot::channel::<u64>();
        let task = tokio::spawn(async move {
            let (mut events, mut told, mut end) = (Vec::new(), Box::pin(told), None);
            let mut through = begin - 1;
            while end.is_none_or(|end| through < end) {
                tokio::select! {
                    revision = &mut told, if end.is_none() => end = Some(revision.unwrap()),
                    batch = watch.next() => {
                        let batch = batch.unwrap();
                        assert!(batch.revision >= through, "back from {through} to {}", batch.revision);
                        through = batch.revision;
                        events.extend(batch.events);
                    }
                }
            }
            events
        });
        watchers.push((end, task));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4).map(|writer| tokio::spawn(write(cluster.client(), writer, stop.clone()))).collect();
    for victim in [Some(0), None, Some(1), Some(2), None] {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let victim = match victim {
            Some(victim) => victim,
            None => cluster.agreed_leader().await,
        };
        cluster.nodes[victim].kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.nodes[victim].start();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    cluster.agreed_leader().await;
    let end = cluster.client().put(("end", "")).await.unwrap().revision;
    // All of it once more, from disk.
    let watch = Watch::range(Range::prefix("w/")).from_revision(begin).with_previous().with_progress();
    let expected = events_through(&mut cluster.client().watch(watch).await.unwrap(), end).await;
    eprintln!("{} events, {} acknowledged", expected.len(), acknowledged.len());
    assert!(acknowledged.len() > 500, "only {} writes were acknowledged", acknowledged.len());
    assert!(expected.is_sorted_by_key(|event| event.revision()));
    for (revision, key, value) in acknowledged {
        let at = expected.binary_search_by_key(&revision, WatchEvent::revision).expect("it was acknowledged");
        let held = match &expected[at] {
            WatchEvent::Put { kv, .. } => Some(String::from_utf8(kv.value.to_vec()).unwrap()),
            WatchEvent::Delete { .. } => None,
        };
        assert_eq!((expected[at].key().as_ref(), held), (key.as_bytes(), value), "at revision {revision}");
    }
    assert_previous_values_fit(&expected);
    for (number, (told, task)) in watchers.into_iter().enumerate() {
        told.send(end).unwrap();
        let seen = tokio::time::timeout(DEADLINE, task).await.expect("it gets everything").unwrap();
        let differs = seen.iter().zip(&expected).find(|(seen, expected)| seen != expected);
        assert_eq!((differs, seen.len()), (None, expected.len()), "watcher {number}");
    }
}

/// What an event says was there before is what the event before it said.
fn assert_previous_values_fit(events: &[WatchEvent]) {
    let mut held = std::collections::BTreeMap::<&[u8], &KeyValue>::new();
    for event in events {
        assert_eq!(event.previous(), held.get(&event.key()[..]).copied(), "{event:?}");
        match event {
            WatchEvent::Put { kv, .. } => held.insert(event.key(), kv),
            WatchEvent::Delete { .. } => held.remove(&event.key()[..]),
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_leaves_a_node_that_says_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.agreed_leader().await;
    let node = (leader + 1) % 3;
    let watch = Watch::key("k").progress_every(Duration::from_millis(200));
    let mut watch = cluster.client_from(node).watch(watch).await.unwrap();
    cluster.nodes[node].signal(rustix::process::Signal::STOP);
    let put = cluster.client_at(leader).put(("k", "v")).await.unwrap();
    let batch = tokio::time::timeout(DEADLINE, watch.next()).await.expect("another node tells of it").unwrap();
    assert_eq!(batch.events[0].revision(), put.revision);
    cluster.nodes[node].signal(rustix::process::Signal::CONT);
}

/// A watch on one node, without the client's way of going on elsewhere; and its connection, which it needs.
async fn watch_one_node(
    cluster: &Cluster,
    node: usize,
    from_revision: Option<u64>,
) -> (transport::ClientConnection, transport::WatchStream) {
    let address = cluster.nodes[node].client_address();
    let connected = transport::ClientConnection::connect(address, &cluster.credentials(), DEADLINE).await;
    let (connection, _) = connected.unwrap();
    let range = Some(wire::KeyRange { start: "k/".into(), end: None });
    let request = wire::WatchRequest { range, from_revision, progress_interval_ms: 200, ..Default::default() };
    let watch = connection.watch(&request).await.unwrap();
    (connection, watch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_no_leader_says_nothing_of_its_progress() {
    let mut cluster = Cluster::start(3).await;
    let node = (cluster.agreed_leader().await + 1) % 3;
    let (connection, mut watch) = watch_one_node(&cluster, node, Some(2)).await;
    for _ in 0..5 {
        assert!(watch.next(DEADLINE).await.unwrap().events.is_empty(), "nothing has been written");
    }
    let others = [(node + 1) % 3, (node + 2) % 3];
    for other in others {
        cluster.nodes[other].signal(rustix::process::Signal::STOP);
    }
    // What it said while it still heard the leader comes first.
    let deadline = Instant::now() + DEADLINE;
    let silence = loop {
        assert!(Instant::now() < deadline, "a node without a leader tells of its progress");
        if let Err(error) = watch.next(Duration::from_secs(3)).await {
            break error;
        }
    };
    assert!(matches!(silence, transport::WatchError::Silent { .. }), "{silence}");
    assert!(!connection.is_closed(), "it is the node that is silent");
    for other in others {
        cluster.nodes[other].signal(rustix::process::Signal::CONT);
    }
    cluster.agreed_leader().await;
    let (_connection, mut again) = watch_one_node(&cluster, node, Some(2)).await;
    for _ in 0..3 {
        assert!(again.next(DEADLINE).await.is_ok(), "it hears a leader again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_behind_what_was_acknowledged_and_filters() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.put(("a", "1")).await.unwrap();
    let put = client.put(("b", "1")).await.unwrap();
    let mut deletes = client.watch(Watch::range(Range::all()).no_puts()).await.unwrap();
    let mut puts = client.watch(Watch::range(Range::all()).no_deletes().from_revision(2)).await.unwrap();
    let mut later = client.watch(Watch::key("a").from_revision(put.revision + 3)).await.unwrap();
    assert_eq!((deletes.first_revision(), puts.first_revision()), (put.revision + 1, 2));
    client.delete(client::Delete::range(Range::all())).await.unwrap();
    client.put(("a", "2")).await.unwrap();
    let last = client.put(("a", "3")).await.unwrap();
    let batch = soon(&mut deletes).await;
    let deleted: Vec<(&[u8], u64)> = batch.events.iter().map(|event| (&event.key()[..], event.revision())).collect();
    let revision = put.revision + 1;
    assert_eq!(deleted, [(&b"a"[..], revision), (b"b", revision)], "a revision comes whole");
    let values: Vec<String> = events_through(&mut puts, last.revision)
        .await
        .iter()
        .map(|event| match event {
            WatchEvent::Put { kv, .. } => format!("{}={}", kv.key.escape_ascii(), kv.value.escape_ascii()),
            WatchEvent::Delete { .. } => panic!("no deletes were wanted"),
        })
        .collect();
    assert_eq!(values, ["a=1", "b=1", "a=2", "a=3"]);
    assert_eq!(soon(&mut later).await.events[0].revision(), last.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_revision_and_large_values_come_whole() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let mut watch = client.watch(Watch::range(Range::all()).with_previous()).await.unwrap();
    // Larger than a batch, and together larger than the ring.
    let value = vec![7u8; 3 << 20];
    for number in 0..8 {
        client.put(Put::new(format!("k{number}"), value.clone())).await.unwrap();
    }
    let deleted = client.delete(client::Delete::range(Range::all())).await.unwrap();
    let events = events_through(&mut watch, deleted.revision).await;
    assert_eq!(events.len(), 16);
    assert!(events[..8].iter().all(|event| matches!(event, WatchEvent::Put { kv, .. } if kv.value == value)));
    assert!(events[8..].iter().all(|event| event.previous().is_some_and(|kv| kv.value == value)));
}

fn number_from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The most memory that a process has had at the moments it was looked at.
struct MemoryWatch {
    most_kib: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl MemoryWatch {
    fn of(node: &TestNode) -> MemoryWatch {
        let (pid, most_kib) = (node.child.as_ref().unwrap().id(), Arc::new(AtomicU64::new(0)));
        let most = most_kib.clone();
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            loop {
                tick.tick().await;
                most.fetch_max(resident_kib(pid), Ordering::Relaxed);
            }
        });
        MemoryWatch { most_kib, task }
    }

    fn most_kib(self) -> u64 {
        self.task.abort();
        self.most_kib.load(Ordering::Relaxed)
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Reads `count` events, which are the puts of `k/…` that follow each other from `first` on.
async fn follow(mut watch: WatchStream, first: u64, count: u64) {
    let mut next = first;
    while next < first + count {
        let batch = soon(&mut watch).await;
        for event in &batch.events {
            assert_eq!(event.revision(), next, "an event is missing, twice or out of order");
            assert!(event.key().starts_with(b"k/"));
            next += 1;
        }
        assert_eq!(batch.revision, next - 1);
    }
}

/// What a client takes of one stream without reading it (`transport/src/quic.rs`).
const STREAM_WINDOW_BYTES: u64 = 512 << 10;

/// What a node may take above its memory when idle: 128 MiB for the ring, the memtables and windows of a few connections, and for each watcher
/// 128 KiB: a batch in its task's hand, one that its client has not acknowledged, and all else.
fn memory_bound_mib(watchers: u64) -> u64 {
    128 + watchers / 8
}

async fn one_watcher_is_stuck(watchers: u64, writes: u64) {
    let cluster = Cluster::start(1).await;
    let first = cluster.client().put(("begin", "")).await.unwrap().revision + 1;
    let idle_kib = resident_kib(cluster.nodes[0].child.as_ref().unwrap().id());
    let memory = MemoryWatch::of(&cluster.nodes[0]);
    let (_connection, mut stuck) = watch_one_node(&cluster, 0, None).await;
    let clients: Vec<Client> = (0..watchers.div_ceil(250)).map(|_| cluster.client()).collect();
    let mut following = Vec::new();
    for number in 1..watchers {
        let client = &clients[usize::try_from(number).unwrap() % clients.len()];
        let watch = client.watch(Watch::range(Range::prefix("k/"))).await.unwrap();
        assert_eq!(watch.first_revision(), first);
        following.push(tokio::spawn(follow(watch, first, writes)));
    }
    // Many times a stream's window: QUIC sends no more than that to whom does not read.
    let value = vec![b'v'; usize::try_from((8 << 20) / writes).unwrap().max(100)];
    assert!(value.len() as u64 * writes >= 8 * STREAM_WINDOW_BYTES, "the stuck one is not stuck");
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let writers: Vec<_> = (0..32)
        .map(|_| {
            let (client, next, value) = (cluster.client(), next.clone(), value.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= writes {
                        return;
                    }
                    client.put(Put::new(format!("k/{number}"), value.clone())).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let written = begun.elapsed();
    for follower in following {
        follower.await.unwrap();
    }
    let grown_mib = memory.most_kib().saturating_sub(idle_kib) / 1024;
    eprintln!(
        "{watchers} watchers, {writes} writes in {written:?}, all told after {:?}: {grown_mib} MiB above idle",
        begun.elapsed()
    );
    let bound_mib = memory_bound_mib(watchers);
    assert!(grown_mib <= bound_mib, "{grown_mib} MiB above idle, {bound_mib} MiB are allowed");

    // What it did not read, it finds on disk.
    let mut next = first;
    while next < first + writes {
        for event in stuck.next(DEADLINE).await.unwrap().events {
            assert_eq!(event.kv.unwrap().mod_revision, next, "an event is missing, twice or out of order");
            next += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_watcher_costs_the_others_nothing() {
    one_watcher_is_stuck(100, 5_000).await;
}

/// `RAFTKV_WATCHERS` and `RAFTKV_WRITES` say how many.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-long"]
async fn a_stuck_watcher_costs_a_thousand_others_nothing() {
    one_watcher_is_stuck(
        number_from_environment("RAFTKV_WATCHERS", 1_000),
        number_from_environment("RAFTKV_WRITES", 50_000),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_changes_and_runs_commands() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let first = client.put(("color", "green")).await.unwrap().revision;
    client.put(("color", "blue")).await.unwrap();
    client.delete(client::Delete::key("color")).await.unwrap();
    let from = first.to_string();
    let watch = ["watch", "color", "--from-rev", &from, "--count", "3"];
    let json = cluster.cli(&[&watch[..], &["--prev", "-o", "json"]].concat());
    assert!(json.status.success(), "{}", common::stderr(&json));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(json.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["put", "put", "delete"]);
    assert_eq!((&lines[1]["value"], &lines[1]["previous"]["value"]), (&"blue".into(), &"green".into()));
    assert_eq!(lines[2]["mod_revision"], first + 2);
    assert_eq!(cluster.cli(&watch).stdout, b"put\tcolor\tgreen\nput\tcolor\tblue\ndelete\tcolor\n");
    let script = "printf '%s=%s at %s;' \"$RAFTKV_EVENT_TYPE\" \"$(cat)\" \"$RAFTKV_EVENT_REVISION\"";
    let executed = cluster.cli(&[&watch[..], &["--exec", script]].concat());
    let expected = format!("put=green at {first};put=blue at {};delete= at {};", first + 1, first + 2);
    assert_eq!(String::from_utf8(executed.stdout).unwrap(), expected);
    let failed = cluster.cli(&[&watch[..], &["--exec", "exit 7"]].concat());
    assert_eq!(failed.status.code(), Some(1));
    assert!(common::stderr(&failed).contains("--from-rev"), "{}", common::stderr(&failed));

    // What is printed does not wait for more.
    let mut command = tokio::process::Command::from(cluster.cli_at(&cluster.endpoints()));
    let mut child = command.args(["watch", "--prefix", "c"]).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let reading = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line);
    tokio::pin!(reading);
    // The watch begins at some moment; a put after it is printed.
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "nothing is printed");
        client.put(("c", "now")).await.unwrap();
        if let Ok(read) = tokio::time::timeout(Duration::from_millis(100), &mut reading).await {
            break assert!(read.unwrap() > 0);
        }
    }
    assert_eq!(line, "put\tc\tnow\n");
}
