//! The dialling half of a peer link: queues, the connection, and coming back after it broke.
//!
//! One task per peer dials, says Hello, opens the two lanes and waits for the end, for ever. One task per lane empties a queue: it takes whatever
//! waits, up to [`WRITE_BYTES`], and hands it to QUIC in one piece. While that is under way the next batch gathers, so load makes
//! batches larger, and no timer makes a lone message wait.

use crate::convert;
use crate::dial;
use crate::error::{ConnectError, Refusal, RefusalCode};
use crate::frame::{FrameReader, put_frame};
use crate::log_limit::LogLimit;
use crate::peer::{Inbound, PeerLimits, SendError, Shared, kind};
use crate::proto::peer as wire;
use crate::tls::{self, Negotiated};
use bytes::BytesMut;
use prost::Message as _;
use quinn::{Connection, Endpoint, SendStream};
use raft::{Body, Message, NodeId};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

/// How much one write to QUIC holds at most, a single larger message aside.
const WRITE_BYTES: usize = 256 << 10;

/// Handshake and Hello of one dial. Short, because QUIC doubles its retries: a fresh dial reaches a node that has just come up sooner than
/// the fifth retry of an old one.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One peer, seen from the sending side.
pub(crate) struct Outgoing {
    peer: NodeId,
    address: String,
    control: Lane,
    bulk: Lane,
    open: AtomicBool,
    stop: Notify,
    negotiated: Mutex<Option<Negotiated>>,
}

struct Lane {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    open: bool,
}

impl Lane {
    fn new() -> Lane {
        Lane { queue: Mutex::default(), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_open(&self, open: bool) -> usize {
        let mut queue = self.lock();
        queue.open = open;
        queue.bytes = 0;
        std::mem::take(&mut queue.messages).len()
    }

    /// Moves what waits into `out` as frames, up to [`WRITE_BYTES`]. Returns how many messages it was.
    fn take(&self, batch: &mut Vec<Message>, out: &mut BytesMut) -> usize {
        {
            let mut queue = self.lock();
            let mut bytes = 0;
            while bytes < WRITE_BYTES {
                let Some(message) = queue.messages.pop_front() else { break };
                bytes += convert::weight(&message);
                batch.push(message);
            }
            queue.bytes = queue.bytes.saturating_sub(bytes);
        }
        let count = batch.len();
        // Encoded outside the lock: whoever sends never waits for a copy of megabytes.
        for message in batch.drain(..) {
            put_frame(out, kind::MESSAGE, 0, &convert::to_wire(message));
        }
        count
    }
}

impl Outgoing {
    pub(crate) fn new(peer: NodeId, address: String) -> Outgoing {
        Outgoing {
            peer,
            address,
            control: Lane::new(),
            bulk: Lane::new(),
            open: AtomicBool::new(false),
            stop: Notify::new(),
            negotiated: Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(crate) fn push(&self, message: Message, limits: &PeerLimits) -> Result<(), SendError> {
        let to = self.peer;
        let lane = if is_bulk(&message) { &self.bulk } else { &self.control };
        let weight = convert::weight(&message);
        {
            let mut queue = lane.lock();
            if !queue.open {
                return Err(SendError::NotConnected { to });
            }
            let too_many = queue.messages.len() >= limits.queue_messages_max;
            let too_much = queue.bytes + weight > limits.queue_bytes_max && !queue.messages.is_empty();
            if too_many || too_much {
                return Err(SendError::Full { to });
            }
            queue.bytes += weight;
            queue.messages.push_back(message);
        }
        lane.wake.notify_one();
        Ok(())
    }

    fn open(&self, negotiated: Negotiated) {
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = Some(negotiated);
        self.control.set_open(true);
        self.bulk.set_open(true);
        self.open.store(true, Ordering::Release);
    }

    /// Returns how many messages are lost with the connection.
    fn close(&self) -> usize {
        self.open.store(false, Ordering::Release);
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.control.set_open(false) + self.bulk.set_open(false)
    }
}

fn is_bulk(message: &Message) -> bool {
    if let Body::Append { entries, .. } = &message.body { !entries.is_empty() } else { false }
}

/// Keeps the link to one peer up until it is told to stop. Stopping reports nothing: whoever stops the links knows.
pub(crate) async fn run(link: Arc<Outgoing>, shared: Arc<Shared>, endpoint: Endpoint, config: quinn::ClientConfig) {
    tokio::select! {
        () = link.stop.notified() => {}
        () = run_until_stopped(&link, &shared, &endpoint, &config) => {}
    }
    link.close();
}

async fn run_until_stopped(link: &Outgoing, shared: &Shared, endpoint: &Endpoint, config: &quinn::ClientConfig) {
    let mut backoff = Backoff::new();
    let log = LogLimit::new();
    let mut last_error = String::new();
    loop {
        match dial_peer(link, shared, endpoint, config).await {
            Ok(connection) => {
                info!(node = %shared.id, peer = %link.peer, address = link.address, "connected to peer");
                backoff.reset();
                last_error.clear();
                serve(link, shared, &connection).await;
            }
            Err(error) => {
                let text = error.to_string();
                // The same cause once: a node that is down for a day is not news every second.
                if text != last_error && log.admit().is_some() {
                    warn!(node = %shared.id, peer = %link.peer, error = text, "cannot connect to peer");
                }
                last_error = text;
                if error.is_permission() {
                    backoff.use_longest();
                }
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn dial_peer(
    link: &Outgoing,
    shared: &Shared,
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
) -> Result<Connection, ConnectError> {
    let address = link.address.as_str();
    let mut last = None;
    for remote in dial::resolve(address).await? {
        let attempt = tokio::time::timeout(DIAL_TIMEOUT, async {
            let connection = dial::handshake(endpoint, config.clone(), address, remote).await?;
            let outcome = check_and_greet(&connection, shared, address, link.peer).await;
            if let Err(ConnectError::WrongPeer { .. } | ConnectError::PeerIdentity { .. }) = &outcome {
                Refusal::new(RefusalCode::WrongNode, "not the node that was dialled").close(&connection);
            }
            outcome.map(|()| connection)
        });
        match attempt.await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(ConnectError::TimedOut { address: address.to_owned(), after: DIAL_TIMEOUT }),
        }
    }
    Err(last.expect("resolve returns at least one address"))
}

/// The checks of the dialling side, and the Hello. Also used for snapshots.
pub(crate) async fn check_and_greet(
    connection: &Connection,
    shared: &Shared,
    address: &str,
    peer: NodeId,
) -> Result<(), ConnectError> {
    let hello = wire::Hello {
        cluster: shared.cluster.as_str().to_owned(),
        node: shared.id.0,
        settings_digest: shared.settings_digest,
        agent: shared.agent.clone(),
        address: shared.address.clone(),
        format_max: shared.format_max,
    };
    let reply = greet(connection, &hello, address, peer).await?;
    (shared.handler)(Inbound::Format { peer, format_max: reply.format_max });
    Ok(())
}

/// Checks that `peer` of our cluster is there, says Hello and compares the answer.
pub(crate) async fn greet(
    connection: &Connection,
    hello: &wire::Hello,
    address: &str,
    peer: NodeId,
) -> Result<wire::HelloReply, ConnectError> {
    let found = tls::identity_of(connection)
        .map_err(|cause| ConnectError::PeerIdentity { address: address.to_owned(), cause })?;
    if !tls::is_node(&found, peer) || found.cluster.as_str() != hello.cluster {
        let wanted = format!("node {peer} of cluster {}", hello.cluster);
        return Err(ConnectError::WrongPeer { address: address.to_owned(), found, wanted });
    }
    let lost = |cause| ConnectError::from_connection(address, &cause);
    let (mut send, receive) = connection.open_bi().await.map_err(lost)?;
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::HELLO, 0, hello);
    send.write_all(&out).await.map_err(|cause| dial::hello_write_error(address, &cause))?;
    let reply = dial::hello_reply(address, &mut FrameReader::new(receive), kind::HELLO_REPLY).await?;
    let reply = wire::HelloReply::decode(reply.body)
        .map_err(|cause| ConnectError::Protocol { address: address.to_owned(), reason: cause.to_string() })?;
    if reply.settings_digest != hello.settings_digest {
        return Err(ConnectError::Refused {
            address: address.to_owned(),
            code: RefusalCode::SettingsDiffer,
            reason: settings_differ(hello.settings_digest, reply.settings_digest),
        });
    }
    debug!(%peer, agent = reply.agent, "peer answered");
    Ok(reply)
}

pub(crate) fn settings_differ(ours: u64, theirs: u64) -> String {
    format!(
        "cluster-wide settings differ (digests {ours:016x} and {theirs:016x}): give every node the same ones and restart it"
    )
}

/// Runs the lanes of one connection until it ends.
async fn serve(link: &Outgoing, shared: &Shared, connection: &Connection) {
    let lanes = async { Ok::<_, quinn::ConnectionError>((connection.open_uni().await?, connection.open_uni().await?)) };
    let Ok((control, bulk)) = lanes.await else { return };
    // Served first whenever both have something. It fails only for a stream that is closed already, which its writes will report.
    let _priority = control.set_priority(1);
    let peer = tls::identity_of(connection).expect("checked when the connection was greeted");
    link.open(tls::negotiated(connection, &peer));
    shared.counters.connects.fetch_add(1, Ordering::Relaxed);
    (shared.handler)(Inbound::Connected(link.peer));
    let cause = tokio::select! {
        cause = connection.closed() => cause.to_string(),
        cause = write_lane(&link.control, control, shared) => cause,
        cause = write_lane(&link.bulk, bulk, shared) => cause,
    };
    let lost = link.close();
    shared.counters.lost.fetch_add(lost as u64, Ordering::Relaxed);
    Refusal::new(RefusalCode::Done, cause.as_str()).close(connection);
    info!(node = %shared.id, peer = %link.peer, cause, lost, "connection to peer ended");
    (shared.handler)(Inbound::Disconnected(link.peer));
}

async fn write_lane(lane: &Lane, mut stream: SendStream, shared: &Shared) -> String {
    let mut batch = Vec::new();
    loop {
        let mut out = BytesMut::new();
        let count = lane.take(&mut batch, &mut out);
        if count == 0 {
            lane.wake.notified().await;
            continue;
        }
        let bytes = out.len() as u64;
        if let Err(error) = stream.write_chunk(out.freeze()).await {
            shared.counters.lost.fetch_add(count as u64, Ordering::Relaxed);
            return error.to_string();
        }
        shared.counters.sent.fetch_add(count as u64, Ordering::Relaxed);
        shared.counters.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Waiting times between dials: doubled from 20 ms to 1 s, each with a random half off so that nodes do not dial in step.
struct Backoff {
    current: Duration,
}

impl Backoff {
    fn new() -> Backoff {
        Backoff { current: BACKOFF_MIN }
    }

    fn reset(&mut self) {
        self.current = BACKOFF_MIN;
    }

    fn use_longest(&mut self) {
        self.current = BACKOFF_MAX;
    }

    fn next(&mut self) -> Duration {
        let chosen = self.current;
        self.current = (self.current * 2).min(BACKOFF_MAX);
        chosen.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;
    use raft::{Entry, EntryKind, LogIndex, LogPosition, Term};

    fn append(payload_bytes: usize) -> Message {
        let entry = Entry {
            term: Term(1),
            index: LogIndex(1),
            kind: EntryKind::Command,
            payload: Bytes::from(vec![0; payload_bytes]),
        };
        let body =
            Body::Append { previous: LogPosition::default(), commit: LogIndex(0), read_round: 0, entries: vec![entry] };
        Message { term: Term(1), body }
    }

    fn open_link() -> Outgoing {
        let link = Outgoing::new(NodeId(2), String::new());
        link.control.set_open(true);
        link.bulk.set_open(true);
        link
    }

    const LIMITS: PeerLimits =
        PeerLimits { queue_messages_max: 3, queue_bytes_max: 1000, inbound_bytes_max: 0, frame_bytes_max: 0 };

    #[test]
    fn queue_is_bounded_in_messages() {
        let link = open_link();
        let small = Message { term: Term(1), body: Body::TimeoutNow };
        for _ in 0..3 {
            link.push(small.clone(), &LIMITS).unwrap();
        }
        assert_eq!(link.push(small, &LIMITS), Err(SendError::Full { to: NodeId(2) }));
        link.push(append(10), &LIMITS).expect("the other lane has its own queue");
    }

    #[test]
    fn queue_is_bounded_in_bytes_but_takes_one_message_of_any_size() {
        let link = open_link();
        link.push(append(5000), &LIMITS).unwrap();
        assert_eq!(link.push(append(1), &LIMITS), Err(SendError::Full { to: NodeId(2) }));
        let mut out = BytesMut::new();
        assert_eq!(link.bulk.take(&mut Vec::new(), &mut out), 1);
        link.push(append(1), &LIMITS).unwrap();
    }

    #[test]
    fn nothing_waits_for_a_peer_that_is_not_connected() {
        let link = Outgoing::new(NodeId(2), String::new());
        assert_eq!(link.push(append(1), &LIMITS), Err(SendError::NotConnected { to: NodeId(2) }));
        let link = open_link();
        link.push(append(1), &LIMITS).unwrap();
        assert_eq!(link.close(), 1);
        assert_eq!(link.push(append(1), &LIMITS), Err(SendError::NotConnected { to: NodeId(2) }));
    }

    #[test]
    fn backoff_grows_to_a_second_and_no_further() {
        let mut backoff = Backoff::new();
        assert!(backoff.next() <= BACKOFF_MIN);
        for _ in 0..20 {
            assert!(backoff.next() <= BACKOFF_MAX);
        }
        assert!(backoff.next() >= BACKOFF_MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}
