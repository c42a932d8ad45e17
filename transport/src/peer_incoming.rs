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
use crate::roster::Roster;
use crate::snapshot::SnapshotSource;
use crate::snapshot_server::SnapshotSession;
use crate::tls;
use bytes::BytesMut;
use prost::Message as _;
use quinn::{Connection, Endpoint, RecvStream};
use raft::{MEMBERS_MAX, NodeId};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

/// Connections per peer: its link, a snapshot, and what is left of its former lives until the idle timeout.
const CONNECTIONS_PER_PEER_MAX: usize = 16;

/// Connections in all: members come while the node runs.
pub(crate) const CONNECTIONS_MAX: usize = CONNECTIONS_PER_PEER_MAX * MEMBERS_MAX;

/// A message takes at least this much of its peer's room, so that the room bounds their number too.
const MESSAGE_WEIGHT_MIN: usize = 512;

pub(crate) struct Incoming {
    shared: Arc<Shared>,
    roster: Arc<Roster>,
    snapshots: Option<Arc<dyn SnapshotSource>>,
}

impl Incoming {
    pub(crate) fn new(
        shared: Arc<Shared>,
        roster: Arc<Roster>,
        snapshots: Option<Arc<dyn SnapshotSource>>,
    ) -> Incoming {
        Incoming { shared, roster, snapshots }
    }
}

struct Greeted {
    connection: Connection,
    place: Place,
}

/// A connection of a peer among those that the roster knows of; given back when dropped.
struct Place {
    roster: Arc<Roster>,
    peer: NodeId,
    /// Room for the peer's messages.
    room: Arc<Semaphore>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.roster.leave(self.peer);
    }
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
        Ok(peer) => hello(&incoming, &connection, peer).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(place) => Ok(Greeted { connection, place }),
        Err(refusal) => {
            refusal.close(&connection);
            Err(refusal.reason)
        }
    }
}

fn check(incoming: &Incoming, connection: &Connection) -> Result<NodeId, Refusal> {
    let identity = tls::check_peer(connection, &incoming.shared.cluster, &[Role::Node])?;
    let peer = identity.node_id().expect("only nodes pass the check above");
    incoming.roster.objection(peer).map_or(Ok(peer), Err)
}

async fn hello(incoming: &Incoming, connection: &Connection, peer: NodeId) -> Result<Place, Refusal> {
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
        format_max: shared.format_max,
    };
    let room = incoming.roster.enter(peer, &hello.address)?;
    let place = Place { roster: incoming.roster.clone(), peer, room };
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::HELLO_REPLY, 0, &reply);
    send.write_all(&out).await.map_err(|cause| protocol(cause.to_string()))?;
    (shared.handler)(Inbound::Format { peer, format_max: hello.format_max });
    debug!(node = %shared.id, %peer, agent = hello.agent, address = hello.address, "peer said Hello");
    Ok(place)
}

async fn serve(incoming: Arc<Incoming>, greeted: Greeted) {
    let Greeted { connection, place } = greeted;
    let (peer, room) = (place.peer, place.room.clone());
    info!(node = %incoming.shared.id, %peer, remote = %connection.remote_address(), "peer connected");
    let session = Arc::new(SnapshotSession::new(peer, incoming.snapshots.clone()));
    let mut dismissed = pin!(incoming.roster.dismissed(peer));
    let cause = loop {
        tokio::select! {
            refusal = &mut dismissed => {
                refusal.close(&connection);
                break connection.closed().await;
            }
            lane = connection.accept_uni() => match lane {
                Ok(lane) => {
                    tokio::spawn(read_lane(incoming.clone(), connection.clone(), peer, room.clone(), lane));
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

async fn read_lane(
    incoming: Arc<Incoming>,
    connection: Connection,
    peer: NodeId,
    room: Arc<Semaphore>,
    stream: RecvStream,
) {
    let Err(error) = read_messages(&incoming, peer, &room, stream).await else { return };
    if let LaneError::Frame(FrameError::Stream(_)) = error {
        return;
    }
    incoming.shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
    warn!(node = %incoming.shared.id, %peer, %error, "peer sent something that is no message; its connection is closed");
    Refusal::new(RefusalCode::Protocol, error.to_string()).close(&connection);
}

async fn read_messages(
    incoming: &Incoming,
    peer: NodeId,
    room: &Arc<Semaphore>,
    stream: RecvStream,
) -> Result<(), LaneError> {
    let shared = &incoming.shared;
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
