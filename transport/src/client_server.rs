//! The client port of a node.
//!
//! A client opens a bidirectional stream, says Hello, and then sends requests on it without waiting: each frame has a number, and answers
//! come back under that number in any order. A request costs no task and no channel here: the service gets it with a
//! [`Responder`], which any thread may answer at any time, and which appends the answer to what the stream writes next. Answers that are ready together leave
//! in one write. A scan has a stream of its own, and so its own flow control; so has a watch.
//!
//! # Bounds
//!
//! Per connection, so many requests in flight and so many bytes of them; for the whole listener, so many bytes. Beyond that the stream is not read,
//! and QUIC holds the client back. A request counts as in flight until its answer has been handed to QUIC, so a client that does not read its answers
//! stops itself. Answers wait in bounded memory too: when a connection's are over the limit, further *reads* are answered
//! with `UNAVAILABLE` in place of their value; the answer to a write is never
//! replaced: it is small, unless the client asked for what was there before, and then as large as the service lets it be.
//!
//! Watches last, so they are counted apart: one too many, on the connection or on the node, is refused with `TOO_MANY`. Each holds as many bytes as its node's
//! batches have, and while its client does not read, only those. A client that takes nothing of a watch or a scan for ten minutes loses it, and sooner when what waits for all clients is over a
//! bound.
//!
//! A frame over the limit is answered with `TOO_LARGE`; its body is read past without being kept. A body that does not decode, or of an unknown kind, is
//! answered under its number. Either way the stream goes on. An unknown envelope version ends the connection.

use crate::answer_stream::Unread;
use crate::client_stream::{self, Greeted};
use crate::dial::HELLO_BYTES_MAX;
use crate::error::{Refusal, RefusalCode};
use crate::frame::{Frame, FrameReader, put_frame};
use crate::identity::{ClusterId, Identity, Role};
use crate::peer::StartError;
use crate::proto::client as wire;
use crate::quic::{self, Door};
use crate::request::{Request, kind};
use crate::tls::{self, Credentials, Protocol};
use crate::watch::WatchResponder;
use bytes::BytesMut;
use prost::Message as _;
use quinn::{Connection, Endpoint, VarInt};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

pub use crate::answer_stream::AnswerClosed;
pub use crate::client_stream::{Responder, ScanResponder};

/// Answers clients. The methods are called from the runtime's threads and must not block.
pub trait ClientService: Send + Sync + 'static {
    /// Who this node is and what it takes: the answer to a client's Hello.
    fn hello(&self, client: &Identity) -> wire::HelloReply;

    /// One request. The answer goes to the responder, at once or later, from any thread.
    fn call(&self, client: &Identity, request: Request, responder: Responder);

    /// One scan. The answers go to the responder, usually from a task of the service's own.
    fn scan(&self, client: &Identity, request: wire::ScanRequest, responder: ScanResponder);

    /// One watch. The replies go to the responder, from a task of the service's own.
    fn watch(&self, client: &Identity, request: wire::WatchRequest, responder: WatchResponder);
}

/// Watches on one connection. QUIC allows for as many streams, beside those of requests and scans.
pub(crate) const WATCHES_MAX: usize = 1024;

/// Bounds of the client port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections at once. Default 4,096.
    pub connections_max: usize,
    /// Requests in flight on one connection, scans included. Default 4,096.
    pub requests_max: usize,
    /// Bytes of requests in flight on one connection; one request of any allowed size always fits. Default 32 MiB.
    pub request_bytes_max: usize,
    /// Bytes of requests in flight on all connections. Default 512 MiB.
    pub request_bytes_total_max: usize,
    /// Watches at once on one connection. Default 1,024, which is also the most: streams are bounded too.
    pub watches_max: usize,
    /// Watches at once on all connections. Default 16,384.
    pub watches_total_max: usize,
    /// A watch or a scan whose client takes nothing of it for this long is ended, so that its place is free for another. Default ten minutes: long enough
    /// for somebody who reads page by page.
    pub not_taken_max: Duration,
    /// Bytes of watches' and scans' replies that may wait for their clients, on all connections: beyond, whoever has taken nothing for about two seconds loses its
    /// stream. Default 256 MiB.
    pub unread_bytes_max: usize,
    /// Bytes of answers waiting on one connection; beyond, reads are refused. Default 64 MiB.
    pub reply_bytes_max: usize,
    /// The longest key. Default 4 KiB.
    pub key_bytes_max: usize,
    /// The longest value. Default 8 MiB.
    pub value_bytes_max: usize,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            connections_max: 4096,
            requests_max: 4096,
            request_bytes_max: 32 << 20,
            request_bytes_total_max: 512 << 20,
            watches_max: WATCHES_MAX,
            not_taken_max: Duration::from_secs(600),
            unread_bytes_max: 256 << 20,
            watches_total_max: 16 * WATCHES_MAX,
            reply_bytes_max: 64 << 20,
            key_bytes_max: 4 << 10,
            value_bytes_max: 8 << 20,
        }
    }
}

impl ClientLimits {
    /// The longest body of a request: keys at both ends of a range, a value to write and one to compare with, and 4 KiB of all else.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        2 * self.key_bytes_max + 2 * self.value_bytes_max + (4 << 10)
    }

    /// The longest body of a scan or a watch, which has a stream of its own: keys at both ends, and 4 KiB of all else.
    #[must_use]
    pub fn range_bytes_max(&self) -> usize {
        2 * self.key_bytes_max + (4 << 10)
    }
}

/// What every connection of a listener shares.
pub(crate) struct ListenerShared {
    pub(crate) cluster: ClusterId,
    pub(crate) limits: ClientLimits,
    pub(crate) service: Arc<dyn ClientService>,
    /// Room for the bytes of requests, for all connections.
    pub(crate) request_bytes: Semaphore,
    /// Places for watches, for all connections.
    pub(crate) watches: Arc<Semaphore>,
    /// What waits on the streams of watches and scans.
    pub(crate) unread: Arc<Unread>,
}

/// The client port. Dropping it closes every connection.
pub struct ClientListener {
    endpoint: Endpoint,
}

impl ClientListener {
    /// Binds the port and begins to serve. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the credentials are not a node's, or the port cannot be bound.
    pub fn start(
        bind: SocketAddr,
        credentials: &Credentials,
        limits: ClientLimits,
        service: Arc<dyn ClientService>,
    ) -> Result<ClientListener, StartError> {
        let identity = credentials.identity().clone();
        if identity.role() != Role::Node {
            return Err(StartError::NotANode { identity: identity.to_string() });
        }
        let endpoint = quic::listen(bind, Protocol::Client, credentials)
            .map_err(|cause| StartError::Bind { address: bind, cause })?;
        let request_bytes = Semaphore::new(limits.request_bytes_total_max.max(limits.frame_bytes_max()));
        let watches = Arc::new(Semaphore::new(limits.watches_total_max));
        let unread = Arc::new(Unread::new(limits.not_taken_max, limits.unread_bytes_max));
        let shared =
            Arc::new(ListenerShared { cluster: identity.cluster, limits, service, request_bytes, watches, unread });
        let door = Door::new("client", limits.connections_max);
        tokio::spawn(run(door, shared, endpoint.clone()));
        Ok(ClientListener { endpoint })
    }

    /// The address bound: the port is known here when the configuration said 0.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Closes every connection, lets clients know, and waits a moment for that to have left.
    pub async fn close(self) {
        self.close_now();
        // Whoever does not hear it finds out by the idle timeout.
        let _told = tokio::time::timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    fn close_now(&self) {
        self.endpoint.close(VarInt::from_u32(RefusalCode::Done.code()), b"the node is shutting down");
    }
}

impl Drop for ClientListener {
    fn drop(&mut self) {
        self.close_now();
    }
}

async fn run(door: Arc<Door>, shared: Arc<ListenerShared>, endpoint: Endpoint) {
    let greeter = shared.clone();
    door.run(
        endpoint,
        move |connection| greet(greeter.clone(), connection),
        move |greeted| client_stream::serve_connection(shared.clone(), greeted),
    )
    .await;
}

async fn greet(shared: Arc<ListenerShared>, connection: Connection) -> Result<Greeted, String> {
    let outcome = match tls::check_peer(&connection, &shared.cluster, &[Role::Client]) {
        Ok(client) => hello(&shared, &connection, client).await,
        Err(refusal) => Err(refusal),
    };
    outcome.map_err(|refusal| {
        refusal.close(&connection);
        refusal.reason
    })
}

async fn hello(shared: &ListenerShared, connection: &Connection, client: Identity) -> Result<Greeted, Refusal> {
    let protocol = |reason: String| Refusal::new(RefusalCode::Protocol, reason);
    let (mut send, receive) = connection.accept_bi().await.map_err(|cause| protocol(cause.to_string()))?;
    let mut reader = FrameReader::new(receive);
    let frame = reader.next(HELLO_BYTES_MAX).await.map_err(|cause| protocol(cause.to_string()))?;
    let Some(Frame { kind: kind::HELLO, body, .. }) = frame else {
        return Err(protocol("the first frame is not Hello".to_owned()));
    };
    let hello = wire::Hello::decode(body).map_err(|cause| protocol(cause.to_string()))?;
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::HELLO_REPLY, 0, &shared.service.hello(&client));
    send.write_chunk(out.freeze()).await.map_err(|cause| protocol(cause.to_string()))?;
    tracing::debug!(%client, agent = hello.agent, remote = %connection.remote_address(), "client connected");
    Ok(Greeted { connection: connection.clone(), client, send, reader })
}
