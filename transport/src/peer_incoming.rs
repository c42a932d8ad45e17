//! The listening half of the peer links: who may come in, and what they send.

use crate::convert::{self, MalformedMessage};
use crate::dial::HELLO_BYTES_MAX;
use crate::error::{Refusal, RefusalCode};
use crate::frame::{Frame, FrameError, FrameReader, put_frame};
use crate::identity::Role;
use crate::peer::{Inbound, InboundPermit, Shared, kind};
use crate::peer_outgoing::settings_differ;
use crate::proto::peer as wire;
use crate::quic::Door;
use crate::snapshot::SnapshotSource;
use crate::snapshot_server::SnapshotSession;
use crate::tls;
use bytes::BytesMut;
use prost::Message as _;
use quinn::{Connection, Endpoint, RecvStream};
use raft::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

/// Connections per peer: its link, a snapshot, and what is left of its former lives until the idle timeout.
pub(crate) const CONNECTIONS_PER_PEER_MAX: usize = 16;

/// A message takes at least this much of its peer's room, so that the room bounds their number too.
const MESSAGE_WEIGHT_MIN: usize = 512;

pub(crate) struct Incoming {
    shared: Arc<Shared>,
    /// Room for messages, per peer however many connections it has.
    room: BTreeMap<NodeId, Arc<Semaphore>>,
    snapshots: Option<Arc<dyn SnapshotSource>>,
}

impl Incoming {
    pub(crate) fn new(
        shared: Arc<Shared>,
        peers: impl Iterator<Item = NodeId>,
        snapshots: Option<Arc<dyn SnapshotSource>>,
    ) -> Incoming {
        let bytes = shared.limits.inbound_bytes_max;
        let room = peers.map(|peer| (peer, Arc::new(Semaphore::new(bytes)))).collect();
        Incoming { shared, room, snapshots }
    }
}

struct Greeted {
    connection: Connection,
    peer: NodeId,
}

pub(crate) async fn run(door: Arc<Door>, incoming: Arc<Incoming>, endpoint: Endpoint) {
    let greeter = incoming.clone();
    door.run(
        endpoint,
        move |connection| greet(greeter.clone(), connection),
        move |greeted| serve(incoming.clone(), greeted),
    )
    .await;
}

async fn greet(incoming: Arc<Incoming>, connection: Connection) -> Result<Greeted, String> {
    let outcome = match check(&incoming, &connection) {
        Ok(peer) => hello(&incoming, &connection, peer).await.map(|()| peer),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(peer) => Ok(Greeted { connection, peer }),
        Err(refusal) => {
            refusal.close(&connection);
            Err(refusal.reason)
        }
    }
}

fn check(incoming: &Incoming, connection: &Connection) -> Result<NodeId, Refusal> {
    let identity = tls::check_peer(connection, &incoming.shared.cluster, &[Role::Node])?;
    let peer = identity.node_id().expect("only nodes pass the check above");
    if peer == incoming.shared.id || !incoming.room.contains_key(&peer) {
        let reason = format!("node {peer} is not a peer of node {}: see its list of nodes", incoming.shared.id);
        return Err(Refusal::new(RefusalCode::WrongNode, reason));
    }
    Ok(peer)
}

async fn hello(incoming: &Incoming, connection: &Connection, peer: NodeId) -> Result<(), Refusal> {
    let protocol = |reason: String| Refusal::new(RefusalCode::Protocol, reason);
    let (mut send, receive) = connection.accept_bi().await.map_err(|cause| protocol(cause.to_string()))?;
    let frame = FrameReader::new(receive).next(HELLO_BYTES_MAX).await.map_err(|cause| protocol(cause.to_string()))?;
    let Some(Frame { kind: kind::HELLO, body, .. }) = frame else {
        return Err(protocol("the first frame is not Hello".to_owned()));
    };
    let hello = wire::Hello::decode(body).map_err(|cause| protocol(cause.to_string()))?;
    let shared = &incoming.shared;
    if hello.settings_digest != shared.settings_digest {
        let reason = settings_differ(shared.settings_digest, hello.settings_digest);
        return Err(Refusal::new(RefusalCode::SettingsDiffer, reason));
    }
    let reply = wire::HelloReply {
        cluster: shared.cluster.as_str().to_owned(),
        node: shared.id.0,
        settings_digest: shared.settings_digest,
        agent: shared.agent.clone(),
    };
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::HELLO_REPLY, 0, &reply);
    send.write_all(&out).await.map_err(|cause| protocol(cause.to_string()))?;
    debug!(node = %shared.id, %peer, agent = hello.agent, "peer said Hello");
    Ok(())
}

async fn serve(incoming: Arc<Incoming>, greeted: Greeted) {
    let Greeted { connection, peer } = greeted;
    info!(node = %incoming.shared.id, %peer, remote = %connection.remote_address(), "peer connected");
    let session = Arc::new(SnapshotSession::new(peer, incoming.snapshots.clone()));
    let cause = loop {
        tokio::select! {
            lane = connection.accept_uni() => match lane {
                Ok(lane) => {
                    tokio::spawn(read_lane(incoming.clone(), connection.clone(), peer, lane));
                }
                Err(cause) => break cause,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    tokio::spawn(session.clone().serve(connection.clone(), send, receive));
                }
                Err(cause) => break cause,
            },
        }
    };
    session.end();
    info!(node = %incoming.shared.id, %peer, %cause, "peer's connection ended");
}

/// Why a lane was given up.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("frame kind {0} on a lane for messages")]
    Kind(u8),
    #[error("malformed message: {0}")]
    Malformed(#[from] MalformedMessage),
}

async fn read_lane(incoming: Arc<Incoming>, connection: Connection, peer: NodeId, stream: RecvStream) {
    let Err(error) = read_messages(&incoming, peer, stream).await else { return };
    if let LaneError::Frame(FrameError::Stream(_)) = error {
        return;
    }
    incoming.shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
    warn!(node = %incoming.shared.id, %peer, %error, "peer sent something that is no message; its connection is closed");
    Refusal::new(RefusalCode::Protocol, error.to_string()).close(&connection);
}

async fn read_messages(incoming: &Incoming, peer: NodeId, stream: RecvStream) -> Result<(), LaneError> {
    let shared = &incoming.shared;
    let room = incoming.room.get(&peer).expect("a peer without room was refused at the door");
    let mut reader = FrameReader::new(stream);
    while let Some(frame) = reader.next(shared.limits.frame_bytes_max).await? {
        if frame.kind != kind::MESSAGE {
            return Err(LaneError::Kind(frame.kind));
        }
        let bytes = frame.body.len();
        let decoded = wire::Message::decode(frame.body).map_err(MalformedMessage::from)?;
        let message = convert::from_wire(decoded)?;
        // More than there is room for altogether takes all of it: such a message is alone.
        let weight = bytes.max(MESSAGE_WEIGHT_MIN).min(shared.limits.inbound_bytes_max);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = room.clone().acquire_many_owned(weight).await.expect("the semaphore is never closed");
        shared.counters.received.fetch_add(1, Ordering::Relaxed);
        shared.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        (shared.handler)(Inbound::Message { from: peer, message, permit: InboundPermit::metered(permit) });
    }
    Ok(())
}
