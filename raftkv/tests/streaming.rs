//! Large scans through the command line, and the memory that they take: of the node above what it has when idle, and of the program.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use bytes::Bytes;
use client::{NewLease, Operation, Put, Range, Scan, SortBy, Transaction, Watch, WatchEvent};
use common::{Cluster, eventually, stderr};
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

const VALUE_BYTES: usize = 64 << 10;
const WRITERS: usize = 16;
/// What a node may take above its memory when idle, and the program altogether.
const BOUND_MIB: u64 = 150;

/// Bytes that do not compress, another row of them for each seed.
fn noise(seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..VALUE_BYTES / 8).flat_map(|_| next()).collect()
}

/// A field of the kernel's status of a process, in KiB; `None` once it has ended.
fn memory_kib(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The only node of a cluster, from a moment on at which it was idle.
struct Idle {
    node: u32,
    kib: u64,
}

impl Idle {
    /// A node that has just started holds nothing of what it will read. `key` is one that there is.
    async fn after_restart(cluster: &mut Cluster, key: &str) -> Idle {
        cluster.nodes[0].stop();
        cluster.start_all().await;
        eventually("a first answer", || async { cluster.cli(&["get", key]).status.success().then_some(()) }).await;
        let node = cluster.nodes[0].child.as_ref().unwrap().id();
        let kib = memory_kib(node, "VmRSS").unwrap();
        // From here on, the peak is that of what comes.
        std::fs::write(format!("/proc/{node}/clear_refs"), "5").unwrap();
        Idle { node, kib }
    }

    /// The most that it has taken since, above what it had.
    fn taken_mib(&self) -> u64 {
        memory_kib(self.node, "VmHWM").unwrap().saturating_sub(self.kib) / 1024
    }
}

async fn write(cluster: &Cluster, values: u64) {
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = cluster.client();
            tokio::spawn(async move {
                for number in (0..values).skip(writer).step_by(WRITERS) {
                    client.put(Put::new(format!("k/{number:08}"), noise(number))).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_that_nobody_reads_do_not_take_all_threads() {
    let cluster = Cluster::start(1).await;
    write(&cluster, 256).await;
    let client = cluster.client();
    let mut unread = Vec::new();
    // More than a stream's window of data each, so none of them ends by itself.
    for _ in 0..16 {
        // Few for each connection: all streams of one share its window.
        let client = cluster.client();
        for _ in 0..8 {
            let mut scan = client.scan(Scan::new(Range::all())).await.unwrap();
            scan.next().await.unwrap().unwrap();
            unread.push(scan);
        }
        // What else there is on the connection does not wait for them.
        client.put(("beside", "v")).await.unwrap();
    }
    let refused = cluster.cli(&["scan", "--prefix", "k/", "--timeout", "1s"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("as many scans as it may"), "{}", stderr(&refused));
    // Everything else goes on.
    client.put(("k/late", "v")).await.unwrap();
    assert_eq!(client.get("k/late").await.unwrap().kv.unwrap().value, "v");
    let mut watch = client.watch(Watch::key("k/late").from_revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
    drop(unread);
    eventually("a scan", || async { client.scan(Scan::new(Range::all())).await.ok()?.next().await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_scans_that_hold_all_their_pairs_there_are_few() {
    let cluster = Cluster::start(1).await;
    write(&cluster, 64).await;
    let client = cluster.client();
    let mut unread = Vec::new();
    for _ in 0..8 {
        let mut scan = client.scan(Scan::new(Range::all()).sort_by(SortBy::ModRevision)).await.unwrap();
        scan.next().await.unwrap().unwrap();
        unread.push(scan);
    }
    let refused = cluster.cli(&["scan", "--prefix", "k/", "--sort", "value", "--timeout", "1s"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("each that is not sorted by key counts for 16"), "{}", stderr(&refused));
    // What they hold is theirs to the end.
    for mut scan in unread {
        let mut pairs = 1;
        while scan.next().await.unwrap().is_some() {
            pairs += 1;
        }
        assert_eq!(pairs, 64);
    }
    eventually("a place", || async {
        cluster.cli(&["scan", "--sort", "value", "--limit", "1"]).status.success().then_some(())
    })
    .await;
}

async fn scan_is_streamed(mib: u64) {
    let mut cluster = Cluster::start(1).await;
    let values = (mib << 20) / VALUE_BYTES as u64;
    write(&cluster, values).await;
    let idle = Idle::after_restart(&mut cluster, "k/00000000").await;

    let mut scan = cluster
        .cli_at(&cluster.endpoints())
        .args(["scan", "--prefix", "k/", "-o", "plain", "--timeout", "10m"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut output, mut block) = (scan.stdout.take().unwrap(), vec![0; 1 << 20]);
    let (mut bytes, mut program_kib) = (0, 0);
    loop {
        let read = output.read(&mut block).unwrap();
        program_kib = program_kib.max(memory_kib(scan.id(), "VmHWM").unwrap_or(0));
        if read == 0 {
            break;
        }
        bytes += read as u64;
    }
    assert!(scan.wait().unwrap().success());
    let line_bytes = "k/00000000\t\n".len() + VALUE_BYTES;
    assert_eq!(bytes, values * line_bytes as u64, "every pair is printed once");
    let node_mib = idle.taken_mib();
    let program_mib = program_kib / 1024;
    eprintln!(
        "{mib} MiB scanned: the node took {node_mib} MiB above its {} MiB when idle, the program {program_mib} MiB",
        idle.kib / 1024
    );
    assert!(node_mib <= BOUND_MIB && program_mib <= BOUND_MIB, "{BOUND_MIB} MiB are allowed for each");
}

/// What a node takes for it does not depend on how much is overwritten or ends: loaded, kept and written as a whole these would be three times 200 MiB, twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_overwritten_or_ends_takes_little_memory() {
    const KEYS: u32 = 200;
    /// Measured: 174 to 209.
    const MOST_MIB: u64 = 320;
    let mut cluster = Cluster::provision(1);
    let path = cluster.nodes[0].folder.join("raftkv.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    // What RocksDB keeps in memory is little then.
    let text = text.replace("block_cache_mib = 256", "block_cache_mib = 16");
    std::fs::write(&path, text.replace("write_buffer_mib = 64", "write_buffer_mib = 8")).unwrap();
    cluster.start_all().await;
    let client = cluster.client();
    let lease = client.create_lease(NewLease::new(Duration::from_secs(3600))).await.unwrap();
    for number in 0..KEYS {
        let value = vec![u8::try_from(number).unwrap(); 1 << 20];
        client.put(Put::new(format!("overwritten/{number}"), value.clone())).await.unwrap();
        client.put(Put::new(format!("ends/{number}"), value).lease(lease.id)).await.unwrap();
    }
    let idle = Idle::after_restart(&mut cluster, "ends/0").await;

    let client = cluster.client();
    let mut events = client.watch(Watch::range(Range::all()).with_previous()).await.unwrap();
    let mut transaction = Transaction::new();
    for number in 0..KEYS {
        transaction = transaction.then(Operation::put((format!("overwritten/{number}"), "short")));
    }
    client.transaction(transaction).await.unwrap();
    assert_eq!(client.revoke_lease(lease.id).await.unwrap().deleted, u64::from(KEYS));
    for _ in 0..2 {
        // A revision that does not fit what is kept for all watchers, so it is read and sent in parts.
        let batch = events.next().await.unwrap();
        let previous = batch.events.iter().map(|event| match event {
            WatchEvent::Put { previous, .. } | WatchEvent::Delete { previous, .. } => previous.as_ref().unwrap(),
        });
        assert!(previous.map(|kv| kv.value.len()).eq(std::iter::repeat_n(1 << 20, KEYS as usize)));
    }
    let taken_mib = idle.taken_mib();
    eprintln!("{taken_mib} MiB above the node's {} MiB when idle", idle.kib / 1024);
    assert!(taken_mib <= MOST_MIB, "{MOST_MIB} MiB are allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_takes_little_memory() {
    scan_is_streamed(256).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-long"]
async fn a_scan_of_a_gibibyte_takes_little_memory() {
    scan_is_streamed(1024).await;
}
