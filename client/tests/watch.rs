//! Watches of the client against nodes that do as a test says, over real QUIC on loopback: what is asked for when a watch is taken up again, and
//! what ends it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use client::{Client, Error, Range, Scan, Watch, WatchEvent};
use raft::NodeId;
use raftkv_client as client;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use transport::{
    AnswerClosed, Authority, ClientLimits, ClientListener, ClientService, ClusterId, Credentials, EncodedWatchEvent,
    Identity, LEAF_VALIDITY, Request, Responder, Response, ScanResponder, Validity, WatchResponder,
};
use wire::ErrorCode;

/// Longer than anything here takes on a machine with two busy cores.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a scripted node does on the stream of a watch, one after the other.
enum Act {
    /// Send that everything up to this revision is sent, with puts at these revisions.
    Reply(u64, Vec<u64>),
    /// Send puts, one in each reply, each with so many bytes, from this revision to that one.
    Puts(u64, u64, usize),
    /// Send puts at one revision, each with so many bytes, in one reply.
    Together(u64, usize, usize),
    /// Say nothing more, until the client goes.
    Hang,
    /// End with this error.
    Error(wire::Error),
}

/// A node that plays one script for each watch, and breaks the stream off when it is through.
#[derive(Default)]
struct Script {
    watches: Mutex<VecDeque<Vec<Act>>>,
    asked: Mutex<Vec<wire::WatchRequest>>,
    /// The client has stopped a stream that the node was writing to.
    stopped: Arc<tokio::sync::Notify>,
}

impl ClientService for Script {
    fn hello(&self, _client: &Identity) -> wire::HelloReply {
        wire::HelloReply::default()
    }

    fn call(&self, _client: &Identity, _request: Request, responder: Responder) {
        responder.answer(Response::Status(wire::StatusReply::default()));
    }

    /// Takes its time, and shows that it is at it.
    fn scan(&self, _client: &Identity, _request: wire::ScanRequest, mut responder: ScanResponder) {
        tokio::spawn(async move {
            for _ in 0..25 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                responder.send(wire::ScanReply::default()).await?;
            }
            let header = Some(wire::Header { revision: 7, index: 0 });
            responder.send(wire::ScanReply { header, count: 12, last: true, ..Default::default() }).await
        });
    }

    fn watch(&self, _client: &Identity, request: wire::WatchRequest, responder: WatchResponder) {
        self.asked.lock().unwrap().push(request);
        // A node that is through with its scripts has nothing to say.
        let acts = self.watches.lock().unwrap().pop_front().unwrap_or(vec![Act::Hang]);
        let stopped = self.stopped.clone();
        tokio::spawn(async move {
            if play(acts, responder).await.is_err() {
                stopped.notify_one();
            }
        });
    }
}

fn put(revision: u64, bytes: usize) -> EncodedWatchEvent {
    let kv =
        wire::KeyValue { key: "k".into(), value: vec![1; bytes].into(), mod_revision: revision, ..Default::default() };
    EncodedWatchEvent::new(wire::WatchEvent { deleted: false, kv: Some(kv), previous: None })
}

async fn play(acts: Vec<Act>, mut responder: WatchResponder) -> Result<(), AnswerClosed> {
    for act in acts {
        match act {
            Act::Reply(through, revisions) => {
                let events: Vec<EncodedWatchEvent> = revisions.into_iter().map(|revision| put(revision, 1)).collect();
                responder.send(responder.reply(through, events.iter(), false)).await?;
            }
            Act::Puts(first, last, bytes) => {
                for revision in first..=last {
                    responder.send(responder.reply(revision, [put(revision, bytes)].iter(), false)).await?;
                }
            }
            Act::Together(revision, count, bytes) => {
                let events = vec![put(revision, bytes); count];
                responder.send(responder.reply(revision, events.iter(), false)).await?;
            }
            Act::Hang => responder.closed().await,
            Act::Error(error) => return responder.send_error(error).await,
        }
    }
    // The stream is reset, which may overtake what was sent.
    Ok(())
}

struct Cluster {
    authority: Authority,
    nodes: Vec<(ClientListener, String, Arc<Script>)>,
}

impl Cluster {
    fn of(scripts: Vec<Vec<Vec<Act>>>) -> Cluster {
        let authority = Authority::create(ClusterId::new("main").unwrap()).unwrap();
        let nodes = (1..).zip(scripts).map(|(id, watches)| {
            let issued = authority.issue_node(NodeId(id), Validity::lasting(LEAF_VALIDITY)).unwrap();
            let credentials =
                Credentials::from_pem(authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem).unwrap();
            let script = Arc::new(Script { watches: Mutex::new(watches.into()), ..Script::default() });
            let bind = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = ClientListener::start(bind, &credentials, ClientLimits::default(), script.clone()).unwrap();
            let address = listener.local_address().unwrap().to_string();
            (listener, address, script)
        });
        let nodes = nodes.collect();
        Cluster { authority, nodes }
    }

    fn client(&self) -> Client {
        self.client_that_waits(DEADLINE)
    }

    fn client_that_waits(&self, timeout: Duration) -> Client {
        let issued = self.authority.issue_client("test", Validity::lasting(LEAF_VALIDITY)).unwrap();
        let credentials =
            Credentials::from_pem(self.authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem).unwrap();
        let endpoints = self.nodes.iter().map(|(_, address, _)| address.clone());
        Client::builder().endpoints(endpoints).credentials(credentials).timeout(timeout).build().unwrap()
    }

    /// From which revisions a node was asked to watch.
    fn asked(&self, node: usize) -> Vec<Option<u64>> {
        self.nodes[node].2.asked.lock().unwrap().iter().map(|request| request.from_revision).collect()
    }
}

async fn revisions(watch: &mut client::WatchStream, count: usize) -> Vec<u64> {
    let mut revisions = Vec::new();
    while revisions.len() < count {
        let batch = tokio::time::timeout(DEADLINE, watch.next()).await.expect("more events are due").unwrap();
        revisions.extend(batch.events.iter().map(WatchEvent::revision));
    }
    revisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_the_last_revision_that_came_whole() {
    let first = vec![Act::Reply(9, vec![]), Act::Reply(12, vec![11, 12]), Act::Reply(20, vec![]), Act::Hang];
    let second = vec![Act::Reply(20, vec![]), Act::Reply(21, vec![21]), Act::Hang];
    let cluster = Cluster::of(vec![vec![first], vec![second]]);
    let watch = Watch::range(Range::all()).progress_every(Duration::from_secs(1)).with_previous();
    let mut watch = cluster.client().watch(watch).await.unwrap();
    assert_eq!(watch.first_revision(), 10);
    // The first node says nothing more, so the second is asked.
    assert_eq!(revisions(&mut watch, 3).await, [11, 12, 21]);
    assert_eq!((cluster.asked(0), cluster.asked(1)), (vec![None], vec![Some(21)]));
    let resumed = cluster.nodes[1].2.asked.lock().unwrap()[0].clone();
    assert!(resumed.previous && resumed.progress_interval_ms == 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_passes_is_waited_out_and_compaction_is_not() {
    let unavailable = || wire::Error { code: ErrorCode::Unavailable.into(), ..wire::Error::default() };
    let compacted = wire::Error {
        code: ErrorCode::Compacted.into(),
        compacted: Some(40),
        message: "gone".into(),
        ..wire::Error::default()
    };
    let cluster = Cluster::of(vec![vec![
        vec![Act::Reply(9, vec![]), Act::Reply(10, vec![10]), Act::Error(unavailable())],
        vec![Act::Error(unavailable())],
        vec![Act::Error(wire::Error { code: ErrorCode::WatchOverloaded.into(), ..wire::Error::default() })],
        vec![Act::Reply(10, vec![]), Act::Reply(11, vec![11]), Act::Error(compacted)],
    ]]);
    let mut watch = cluster.client().watch(Watch::key("k").from_revision(10)).await.unwrap();
    assert_eq!(revisions(&mut watch, 2).await, [10, 11]);
    for _ in 0..2 {
        let error = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::CompactedRevision { compacted: Some(40), .. }), "{error:?}");
    }
    assert_eq!(cluster.asked(0), [Some(10), Some(11), Some(11), Some(11)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_its_client_is_not_let_in_any_more() {
    let mut cluster = Cluster::of(vec![vec![vec![Act::Reply(9, vec![]), Act::Reply(10, vec![10]), Act::Hang]]]);
    let mut watch = cluster.client().watch(Watch::key("k").from_revision(10)).await.unwrap();
    assert_eq!(revisions(&mut watch, 1).await, [10]);
    let (listener, address, script) = cluster.nodes.pop().unwrap();
    drop(listener);
    // The same address, of another authority.
    let others = Authority::create(ClusterId::new("main").unwrap()).unwrap();
    let issued = others.issue_node(NodeId(1), Validity::lasting(LEAF_VALIDITY)).unwrap();
    let credentials =
        Credentials::from_pem(others.certificate_pem(), &issued.certificate_pem, &issued.key_pem).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let _listener = loop {
        let bind = address.parse().unwrap();
        match ClientListener::start(bind, &credentials, ClientLimits::default(), script.clone()) {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < deadline, "the port is not free: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let error = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap_err();
    assert!(error.is_permission(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_takes_no_events_gives_the_stream_back_and_loses_none() {
    // More than a stream's window.
    let puts = vec![Act::Reply(0, vec![]), Act::Puts(1, 100, 100_000), Act::Hang];
    let rest = |from| vec![Act::Reply(from - 1, vec![]), Act::Puts(from, 100, 100_000), Act::Hang];
    let cluster = Cluster::of(vec![vec![puts, rest(3)]]);
    let mut watch = cluster.client().watch(Watch::key("k").from_revision(1)).await.unwrap();
    let stopped = cluster.nodes[0].2.stopped.clone();
    let told = tokio::time::timeout(DEADLINE, stopped.notified()).await;
    told.expect("the node hears that its stream is not wanted");
    // Two batches are in hand.
    assert_eq!(revisions(&mut watch, 100).await, (1..=100).collect::<Vec<_>>());
    assert_eq!(cluster.asked(0), [Some(1), Some(3)]);
}

/// The timeout is of silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_may_take_longer_than_the_timeout_while_the_node_is_at_it() {
    let cluster = Cluster::of(vec![vec![]]);
    let client = cluster.client_that_waits(Duration::from_secs(3));
    let begun = Instant::now();
    let mut scan = client.scan(Scan::new(Range::all()).count_only()).await.unwrap();
    assert_eq!((scan.next().await.unwrap(), scan.revision(), scan.summary().unwrap().count), (None, 7, 12));
    assert!(begun.elapsed() > Duration::from_secs(3));
}

/// A frame holds 8 MiB of events, about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_larger_than_a_frame_comes_as_a_whole() {
    let acts = vec![Act::Reply(4, vec![]), Act::Together(5, 9, 3 << 20), Act::Reply(6, vec![6]), Act::Hang];
    let cluster = Cluster::of(vec![vec![acts]]);
    let mut watch = cluster.client().watch(Watch::key("k").from_revision(5)).await.unwrap();
    let batch = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (5, 9));
    assert_eq!(revisions(&mut watch, 1).await, [6]);
    assert_eq!(cluster.asked(0), [Some(5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_that_is_given_up_loses_nothing() {
    let cluster = Cluster::of(vec![vec![vec![Act::Reply(0, vec![]), Act::Puts(1, 200, 1000), Act::Hang]]]);
    let mut watch = cluster.client().watch(Watch::key("k").from_revision(1)).await.unwrap();
    let (mut seen, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    while seen.len() < 200 {
        assert!(Instant::now() < deadline, "only {} events came", seen.len());
        if let Ok(batch) = tokio::time::timeout(Duration::from_micros(50), watch.next()).await {
            seen.extend(batch.unwrap().events.iter().map(WatchEvent::revision));
        }
    }
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_repeats_itself_is_not_believed() {
    let cluster = Cluster::of(vec![vec![vec![
        Act::Reply(9, vec![]),
        Act::Reply(10, vec![10]),
        Act::Reply(11, vec![10]),
        Act::Hang,
    ]]]);
    let mut watch = cluster.client().watch(Watch::key("k").from_revision(10)).await.unwrap();
    assert_eq!(revisions(&mut watch, 1).await, [10]);
    let error = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Internal { .. }), "{error:?}");
}
