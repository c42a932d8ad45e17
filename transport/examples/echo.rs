//! How fast the wire is by itself: pipelined client calls, and messages between peers, over real QUIC on loopback.
//!
//! `cargo run --release -p raftkv-transport --example echo [seconds]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program prints, and stops when something fails"
)]

use bytes::Bytes;
use raft::{Body, Entry, EntryKind, LogIndex, LogPosition, Message, NodeId, Term};
use raftkv_transport::proto::client as wire;
use raftkv_transport::{
    Authority, ClientConnection, ClientLimits, ClientListener, ClientService, ClusterId, Credentials, Identity,
    Inbound, IssuedCertificate, LEAF_VALIDITY, PeerConfig, PeerLimits, PeerLinks, PeerSet, PeerTransport, Request,
    Responder, Response, ScanResponder, SendError, Validity, WatchResponder,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 300;

struct Echo;

impl ClientService for Echo {
    fn hello(&self, _client: &Identity) -> wire::HelloReply {
        wire::HelloReply::default()
    }

    fn call(&self, _client: &Identity, _request: Request, responder: Responder) {
        responder.answer(Response::Put(wire::PutReply { succeeded: true, ..wire::PutReply::default() }));
    }

    fn scan(&self, _client: &Identity, _request: wire::ScanRequest, _responder: ScanResponder) {}

    fn watch(&self, _client: &Identity, _request: wire::WatchRequest, _responder: WatchResponder) {}
}

fn credentials(authority: &Authority, issued: &IssuedCertificate) -> Credentials {
    Credentials::from_pem(authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem).unwrap()
}

async fn calls(authority: &Authority, connections: usize, in_flight: usize, duration: Duration) {
    let node = authority.issue_node(NodeId(1), Validity::lasting(LEAF_VALIDITY)).unwrap();
    let bind = SocketAddr::from(([127, 0, 0, 1], 0));
    let limits = ClientLimits::default();
    let listener = ClientListener::start(bind, &credentials(authority, &node), limits, Arc::new(Echo)).unwrap();
    let address = listener.local_address().unwrap().to_string();
    let client = authority.issue_client("bench", Validity::lasting(LEAF_VALIDITY)).unwrap();
    let client = credentials(authority, &client);
    let done = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + duration;
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (connection, _) = ClientConnection::connect(&address, &client, Duration::from_secs(5)).await.unwrap();
        let connection = Arc::new(connection);
        for _ in 0..in_flight {
            let (connection, done) = (connection.clone(), done.clone());
            tasks.push(tokio::spawn(async move {
                let value = Bytes::from(vec![1; VALUE_BYTES]);
                while Instant::now() < end {
                    let put = wire::PutRequest { key: "key".into(), value: value.clone(), ..Default::default() };
                    connection.call(Request::Put(put)).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let rate = done.load(Ordering::Relaxed) as f64 / duration.as_secs_f64();
    println!("calls    {connections:>3} connections x {in_flight:>4} in flight: {rate:>10.0}/s");
}

async fn messages(authority: &Authority, payload_bytes: usize, duration: Duration) {
    let received = Arc::new(AtomicU64::new(0));
    let sockets = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let [one, two] = sockets.map(|socket| socket.local_addr().unwrap());
    let start = |id: u64, bind, peer: u64, address: SocketAddr, received: Arc<AtomicU64>| {
        let issued = authority.issue_node(NodeId(id), Validity::lasting(LEAF_VALIDITY)).unwrap();
        let config = PeerConfig {
            bind,
            peers: PeerSet::new([(NodeId(peer), address.to_string())]),
            address: String::new(),
            settings_digest: 0,
            format_max: 2,
            agent: String::new(),
            credentials: credentials(authority, &issued),
            limits: PeerLimits::default(),
            snapshots: None,
        };
        let handler = move |inbound| {
            if let Inbound::Message { .. } = inbound {
                received.fetch_add(1, Ordering::Relaxed);
            }
        };
        PeerLinks::start(config, Arc::new(handler)).unwrap()
    };
    let first = start(1, one, 2, two, Arc::default());
    let _second = start(2, two, 1, one, received.clone());
    while !first.is_connected(NodeId(2)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let payload = Bytes::from(vec![1; payload_bytes]);
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let entry = Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Command, payload: payload.clone() };
        let body =
            Body::Append { previous: LogPosition::default(), commit: LogIndex(0), read_round: 0, entries: vec![entry] };
        match first.send(NodeId(2), Message { term: Term(1), body }) {
            Ok(()) => {}
            Err(SendError::Full { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    let count = received.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let megabytes = count * payload_bytes as f64 / 1e6;
    println!("messages of {payload_bytes:>6} bytes: {count:>10.0}/s, {megabytes:>6.0} MB/s");
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    let duration = Duration::from_secs(seconds);
    let authority = Authority::create(ClusterId::new("bench").unwrap()).unwrap();
    calls(&authority, 1, 1, duration).await;
    calls(&authority, 1, 64, duration).await;
    calls(&authority, 1, 1000, duration).await;
    calls(&authority, 8, 125, duration).await;
    messages(&authority, VALUE_BYTES, duration).await;
    messages(&authority, 64 << 10, duration).await;
}
