//! Links between nodes over real QUIC on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{authority, loopback, node, until};
use raft::{Body, Entry, EntryKind, LogIndex, LogPosition, Message, NodeId, Term};
use raftkv_transport::{
    Authority, FetchConfig, FetchError, Identity, Inbound, InboundPermit, NamedGroup, OpenSnapshot, PeerConfig,
    PeerLimits, PeerLinks, PeerSet, PeerTransport, SendError, SnapshotClient, SnapshotSource, describe_directory,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Inbox {
    messages: Mutex<Vec<(NodeId, Message)>>,
    permits: Mutex<Vec<InboundPermit>>,
    keep_permits: bool,
    links: Mutex<Vec<String>>,
    formats: Mutex<BTreeMap<NodeId, u32>>,
}

impl Inbox {
    fn take(&self, inbound: Inbound) {
        match inbound {
            Inbound::Message { from, message, permit } => {
                if self.keep_permits {
                    self.permits.lock().unwrap().push(permit);
                }
                self.messages.lock().unwrap().push((from, message));
            }
            Inbound::Format { peer, format_max } => {
                self.formats.lock().unwrap().insert(peer, format_max);
            }
            Inbound::Connected(peer) => self.links.lock().unwrap().push(format!("up {peer}")),
            Inbound::Disconnected(peer) => self.links.lock().unwrap().push(format!("down {peer}")),
        }
    }

    fn len(&self) -> usize {
        self.messages.lock().unwrap().len()
    }
}

#[derive(Default)]
struct Setup {
    limits: PeerLimits,
    snapshots: Option<Arc<dyn SnapshotSource>>,
    keep_permits: bool,
}

fn peer_set(peers: &[(u64, SocketAddr)]) -> PeerSet {
    PeerSet::new(peers.iter().map(|(id, address)| (NodeId(*id), address.to_string())))
}

fn start(
    authority: &Authority,
    id: u64,
    bind: SocketAddr,
    peers: &[(u64, SocketAddr)],
    setup: Setup,
) -> (PeerLinks, Arc<Inbox>) {
    let inbox = Arc::new(Inbox { keep_permits: setup.keep_permits, ..Inbox::default() });
    let config = PeerConfig {
        bind,
        peers: peer_set(peers),
        address: bind.to_string(),
        settings_digest: 7,
        // Each its own, to be told apart.
        format_max: 100 + u32::try_from(id).unwrap(),
        agent: "test".to_owned(),
        credentials: node(authority, id),
        limits: setup.limits,
        snapshots: setup.snapshots,
    };
    let deadline = Instant::now() + common::DEADLINE;
    loop {
        let handler = inbox.clone();
        match PeerLinks::start(config.clone(), Arc::new(move |inbound| handler.take(inbound))) {
            Ok(links) => return (links, inbox),
            // A socket closed a moment ago may still be on its way out.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let sockets = [(); N].map(|()| std::net::UdpSocket::bind(loopback()).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

fn vote(term: u64) -> Message {
    Message { term: Term(term), body: Body::VoteReply { granted: true } }
}

fn append(index: u64, payload_bytes: usize) -> Message {
    let payload = Bytes::from(vec![index as u8; payload_bytes]);
    let entry = Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload };
    let previous = LogPosition { term: Term(1), index: LogIndex(index - 1) };
    let body = Body::Append { previous, commit: LogIndex(0), read_round: 0, entries: vec![entry] };
    Message { term: Term(1), body }
}

/// Both ways: whoever dials says it, and is told it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_tell_each_other_which_formats_they_know() {
    let authority = authority("main");
    let [one, two] = free_ports();
    let (first, one_hears) = start(&authority, 1, one, &[(2, two)], Setup::default());
    let (second, two_hears) = start(&authority, 2, two, &[(1, one)], Setup::default());
    until("both have heard it", || {
        let heard = |inbox: &Inbox, peer| inbox.formats.lock().unwrap().get(&NodeId(peer)).copied();
        (heard(&one_hears, 2), heard(&two_hears, 1)) == (Some(102), Some(101))
    })
    .await;
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_per_lane_under_the_name_of_the_certificate() {
    let authority = authority("main");
    let [one, two] = free_ports();
    let (first, _) = start(&authority, 1, one, &[(2, two)], Setup::default());
    let (second, inbox) = start(&authority, 2, two, &[(1, one)], Setup::default());
    until("both are connected", || first.is_connected(NodeId(2)) && second.is_connected(NodeId(1))).await;
    let negotiated = first.negotiated(NodeId(2)).unwrap();
    assert_eq!(negotiated.tls_version, "TLS 1.3");
    assert_eq!(negotiated.key_exchange, NamedGroup::X25519MLKEM768);
    assert_eq!(negotiated.alpn, b"raftkv-peer/1");
    assert_eq!(negotiated.peer, Identity::node(authority.cluster().clone(), NodeId(2)));
    for number in 1..=1000 {
        first.send(NodeId(2), vote(number)).unwrap();
        first.send(NodeId(2), append(number, 300)).unwrap();
    }
    until("everything has arrived", || inbox.len() == 2000).await;
    let messages = inbox.messages.lock().unwrap();
    assert!(messages.iter().all(|(from, _)| *from == NodeId(1)));
    let votes: Vec<_> = messages.iter().filter(|(_, m)| matches!(m.body, Body::VoteReply { .. })).collect();
    let appends: Vec<_> = messages.iter().filter(|(_, m)| matches!(m.body, Body::Append { .. })).collect();
    for number in 1..=1000u64 {
        assert_eq!(votes[number as usize - 1].1, vote(number));
        assert_eq!(appends[number as usize - 1].1, append(number, 300));
    }
    assert_eq!(first.send(NodeId(3), vote(1)), Err(SendError::UnknownPeer { to: NodeId(3) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_comes_back_after_the_peer_restarts() {
    let authority = authority("main");
    let [one, two] = free_ports();
    let (first, links) = start(&authority, 1, one, &[(2, two)], Setup::default());
    assert_eq!(first.send(NodeId(2), vote(1)), Err(SendError::NotConnected { to: NodeId(2) }));
    for life in 1..=3u64 {
        let (second, inbox) = start(&authority, 2, two, &[(1, one)], Setup::default());
        until("connected", || first.is_connected(NodeId(2))).await;
        until("a message gets through", || {
            // Refused while the former connection is being given up.
            let _refused = first.send(NodeId(2), vote(life));
            inbox.messages.lock().unwrap().contains(&(NodeId(1), vote(life)))
        })
        .await;
        second.close().await;
        until("the loss is noticed", || !first.is_connected(NodeId(2))).await;
    }
    let links = links.links.lock().unwrap();
    assert_eq!(*links, ["up 2", "down 2", "up 2", "down 2", "up 2", "down 2"]);
    assert_eq!(first.counts().connects, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_follow_the_members_while_they_run() {
    let authority = authority("main");
    let [one, two, three, moved] = free_ports();
    let (first, links) = start(&authority, 1, one, &[(1, one), (2, two)], Setup::default());
    let everybody = [(1, one), (2, two), (3, three)];
    let (second, _) = start(&authority, 2, two, &everybody, Setup::default());
    let (third, inbox) = start(&authority, 3, three, &everybody, Setup::default());
    until("the members are connected", || first.is_connected(NodeId(2))).await;

    first.set_peers(peer_set(&everybody));
    until("the new member is connected", || first.is_connected(NodeId(3)) && third.is_connected(NodeId(1))).await;

    second.close().await;
    first.set_peers(peer_set(&[(1, one), (2, moved), (3, three)]));
    let (_second, moved_inbox) = start(&authority, 2, moved, &everybody, Setup::default());
    until("the member that moved is connected", || first.is_connected(NodeId(2))).await;
    first.send(NodeId(2), vote(1)).unwrap();
    until("it is reached", || moved_inbox.len() == 1).await;

    // What was said before the removal still arrives, and then the connection of the removed node is ended.
    first.send(NodeId(3), vote(2)).unwrap();
    first.set_peers(PeerSet { id_max: NodeId(3), ..peer_set(&[(1, one), (2, moved)]) });
    assert_eq!(first.send(NodeId(3), vote(3)), Err(SendError::UnknownPeer { to: NodeId(3) }));
    until("the last word has arrived", || inbox.messages.lock().unwrap().contains(&(NodeId(1), vote(2)))).await;
    until("the removed node is let go", || !third.is_connected(NodeId(1))).await;
    assert!(links.links.lock().unwrap().contains(&"up 3".to_owned()));
    assert!(first.is_connected(NodeId(2)), "the others stay");
}

/// A node that joins, and a voter that was away while its leader came: neither can wait until it has heard of who speaks to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_a_member_that_it_has_not_heard_of() {
    let authority = authority("main");
    let [joining, leading] = free_ports();
    let (knows_nobody, inbox) = start(&authority, 1, joining, &[], Setup::default());
    assert_eq!(knows_nobody.send(NodeId(4), vote(1)), Err(SendError::UnknownPeer { to: NodeId(4) }));
    let (leader, answers) = start(&authority, 4, leading, &[(1, joining), (4, leading)], Setup::default());
    until("both directions stand", || leader.is_connected(NodeId(1)) && knows_nobody.is_connected(NodeId(4))).await;
    assert_eq!(knows_nobody.address_of(NodeId(4)), Some(leading.to_string()));
    leader.send(NodeId(1), append(1, 10)).unwrap();
    until("it is spoken to", || inbox.len() == 1).await;
    knows_nobody.send(NodeId(4), vote(2)).unwrap();
    until("it answers", || answers.len() == 1).await;

    knows_nobody.set_peers(peer_set(&[(1, joining), (4, leading)]));
    assert!(knows_nobody.is_connected(NodeId(4)), "the link of a visitor becomes the link of a member");
    knows_nobody.set_peers(peer_set(&[(1, joining)]));
    assert!(knows_nobody.is_connected(NodeId(4)), "and back, if the entry that made it one is taken back");
    leader.close().await;
    until("the link goes with the visitor", || knows_nobody.address_of(NodeId(4)).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_keep_up_holds_the_sender_and_loses_nothing() {
    let authority = authority("main");
    let [one, two] = free_ports();
    let limits = PeerLimits { queue_bytes_max: 4 << 20, inbound_bytes_max: 1 << 20, ..PeerLimits::default() };
    let (first, _) = start(&authority, 1, one, &[(2, two)], Setup { limits, ..Setup::default() });
    let setup = Setup { limits, keep_permits: true, ..Setup::default() };
    let (_second, inbox) = start(&authority, 2, two, &[(1, one)], setup);
    until("connected", || first.is_connected(NodeId(2))).await;
    let mut sent = 0;
    let mut full_since = None;
    // Full for a while means that QUIC takes no more either.
    while full_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
        match first.send(NodeId(2), append(sent + 1, 100_000)) {
            Ok(()) => {
                sent += 1;
                full_since = None;
                assert!(sent < 1000, "100 MB were taken for a receiver that has room for 1 MiB");
            }
            Err(SendError::Full { .. }) => {
                full_since.get_or_insert_with(Instant::now);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(inbox.len() <= 10, "{} messages were delivered into room for ten", inbox.len());
    assert!(first.counts().refused_full > 0);
    first.send(NodeId(2), vote(1)).expect("the other lane is free");
    until("all that was taken arrives", || {
        inbox.permits.lock().unwrap().clear();
        inbox.len() as u64 == sent + 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_message_closes_the_connection_and_is_counted() {
    let authority = authority("main");
    let [one, two] = free_ports();
    let (first, _) = start(&authority, 1, one, &[(2, two)], Setup::default());
    let limits = PeerLimits { frame_bytes_max: 10_000, ..PeerLimits::default() };
    let (second, inbox) = start(&authority, 2, two, &[(1, one)], Setup { limits, ..Setup::default() });
    until("connected", || first.is_connected(NodeId(2))).await;
    first.send(NodeId(2), append(1, 20_000)).unwrap();
    until("it is counted", || second.counts().malformed == 1).await;
    until("the link is up again", || first.counts().connects == 2 && first.is_connected(NodeId(2))).await;
    first.send(NodeId(2), append(1, 5_000)).unwrap();
    until("a smaller one arrives", || inbox.len() == 1).await;
}

struct Source {
    directory: PathBuf,
    position: LogPosition,
    log: Mutex<Vec<String>>,
}

impl SnapshotSource for Source {
    fn open(&self, peer: NodeId, at_least: LogPosition) -> Result<OpenSnapshot, String> {
        if at_least > self.position {
            return Err("no snapshot that new".to_owned());
        }
        self.log.lock().unwrap().push(format!("open for {peer}"));
        let files = describe_directory(&self.directory).map_err(|cause| cause.to_string())?;
        Ok(OpenSnapshot { position: self.position, checkpoint: 5, directory: self.directory.clone(), files })
    }

    fn release(&self, checkpoint: u64) {
        self.log.lock().unwrap().push(format!("release {checkpoint}"));
    }
}

fn at(term: u64, index: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

/// Five bytes of nothing, three megabytes of something, and an empty file.
fn snapshot_files(directory: &Path) -> Vec<u8> {
    let large: Vec<u8> =
        (0..3_000_000u32).flat_map(|number| (number.wrapping_mul(2_654_435_761) as u8).to_be_bytes()).collect();
    std::fs::write(directory.join("000001.sst"), &large).unwrap();
    std::fs::write(directory.join("CURRENT"), b"hello").unwrap();
    std::fs::write(directory.join("empty"), b"").unwrap();
    large
}

fn fetcher(authority: &Authority) -> SnapshotClient {
    SnapshotClient::new(FetchConfig {
        credentials: node(authority, 2),
        settings_digest: 7,
        format_max: 2,
        agent: "test".to_owned(),
        bytes_max: 1 << 30,
        bytes_per_second: None,
        timeout: Duration::from_secs(5),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_is_fetched_resumed_verified_and_released() {
    let authority = authority("main");
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let large = snapshot_files(from.path());
    let source = Arc::new(Source { directory: from.path().to_owned(), position: at(3, 40), log: Mutex::default() });
    let [two] = free_ports();
    let setup = Setup { snapshots: Some(source.clone()), ..Setup::default() };
    let (links, _) = start(&authority, 1, loopback(), &[(2, two)], setup);
    let address = links.local_address().unwrap().to_string();
    let fetch = async |at_least| fetcher(&authority).fetch(NodeId(1), &address, at_least, into.path()).await;

    // What earlier attempts left: half of a file, and one that is no part of it.
    std::fs::write(into.path().join("000001.sst"), &large[..1_000_000]).unwrap();
    std::fs::write(into.path().join("000099.sst"), b"old").unwrap();
    let fetched = fetch(at(3, 39)).await.unwrap();
    assert_eq!(fetched.position, at(3, 40));
    assert_eq!((fetched.bytes_resumed, fetched.bytes_received), (1_000_000, 2_000_005));
    assert_eq!(describe_directory(into.path()).unwrap(), describe_directory(from.path()).unwrap());
    until("it is released", || source.log.lock().unwrap().len() == 2).await;
    assert_eq!(*source.log.lock().unwrap(), ["open for 2", "release 5"]);

    // Complete already: nothing travels.
    assert_eq!(fetch(at(3, 40)).await.unwrap().bytes_received, 0);
    // A beginning that belongs to something else is noticed and fetched anew.
    std::fs::write(into.path().join("000001.sst"), vec![9; 2_000_000]).unwrap();
    fetch(at(3, 40)).await.unwrap();
    assert_eq!(std::fs::read(into.path().join("000001.sst")).unwrap(), large);

    let error = fetch(at(4, 0)).await.unwrap_err();
    assert!(matches!(&error, FetchError::Refused { reason, .. } if reason == "no snapshot that new"), "{error}");
}

/// Says that files are what they are not.
struct Liar(Source);

impl SnapshotSource for Liar {
    fn open(&self, peer: NodeId, at_least: LogPosition) -> Result<OpenSnapshot, String> {
        let mut opened = self.0.open(peer, at_least)?;
        opened.files[0].crc32c ^= 1;
        Ok(opened)
    }

    fn release(&self, checkpoint: u64) {
        self.0.release(checkpoint);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_or_too_large_snapshot_is_not_taken() {
    let authority = authority("main");
    let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    snapshot_files(from.path());
    let source = Source { directory: from.path().to_owned(), position: at(3, 40), log: Mutex::default() };
    let [two] = free_ports();
    let setup = Setup { snapshots: Some(Arc::new(Liar(source))), ..Setup::default() };
    let (links, _) = start(&authority, 1, loopback(), &[(2, two)], setup);
    let address = links.local_address().unwrap().to_string();
    let error = fetcher(&authority).fetch(NodeId(1), &address, at(0, 0), into.path()).await.unwrap_err();
    assert!(matches!(&error, FetchError::Corrupt { path, .. } if path.ends_with("000001.sst")), "{error}");
    assert!(!into.path().join("000001.sst").exists(), "what is wrong is not kept");
    let error = fetcher(&authority).fetch(NodeId(3), &address, at(0, 0), into.path()).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "the wrong node was taken: {error}");
}
