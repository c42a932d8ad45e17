//! A client's connection to one node.
//!
//! Any number of tasks call at the same time. A call appends its frame to what is written next and waits for the answer under its number;
//! one task writes, one reads. What gathers while a write is under way leaves in the next one, or, if it is much, in the next ones.
//!
//! When a connection ends, every call under way learns what can be known: a request that had not been handed to QUIC was certainly not
//! applied ([`CallError::NotSent`]); of any other it cannot be known ([`CallError::OutcomeUnknown`]). The same holds when a caller's patience ends: what has not been
//! handed to QUIC is withdrawn and never leaves. So a node, or a network, that takes less than its clients send leaves few of them in doubt. This file never
//! repeats a request.

use crate::dial::{self, hello_reply, hello_write_error};
use crate::error::{ConnectError, Refusal, RefusalCode};
use crate::frame::{FrameError, FrameReader, put_frame};
use crate::identity::Role;
use crate::proto::client as wire;
use crate::quic;
use crate::request::{Request, Response, kind};
use crate::tls::{self, Credentials, Negotiated, Protocol};
use crate::watch_stream::{WatchError, WatchStream};
use bytes::BytesMut;
use prost::Message as _;
use quinn::{Connection, Endpoint, SendStream};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};

/// Calls under way on one connection; more wait for a place.
pub const CALLS_MAX: usize = 4096;

/// Bytes of requests waiting to be written; calls beyond that wait.
const UNWRITTEN_BYTES_MAX: usize = 32 << 20;

/// Requests are handed to QUIC in pieces of about so many bytes, whole requests each: what waits behind them can still be withdrawn.
const WRITE_BYTES: usize = 256 << 10;

/// The longest reply that a client takes. A node bounds its replies by the limits on keys and values, and on what one delete may delete;
/// this guards against one that does not.
pub const REPLY_BYTES_MAX: usize = 128 << 20;

/// What a request may have, as an upper bound for any setting of a node: larger ones fail here.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request has not left: certainly not applied.
    #[error("not sent: {cause}")]
    NotSent {
        /// Why.
        cause: String,
    },
    /// The request may have arrived: a write may be applied or not, and a read can be asked again.
    #[error("outcome unknown: {cause}")]
    OutcomeUnknown {
        /// Why.
        cause: String,
    },
    /// No answer in the time given, and the request may have arrived: as with `OutcomeUnknown`, but the connection may be well.
    #[error("no answer within {} ms", after.as_millis())]
    NoAnswer {
        /// The time given.
        after: Duration,
    },
    /// The request is longer than any node takes: certainly not applied.
    #[error("a request of {bytes} bytes, at most {limit} can be sent")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Why a scan broke off.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScanError {
    /// The node answered with an error.
    #[error("{}", .0.message)]
    Node(wire::Error),
    /// The stream or the connection ended before the scan did.
    #[error("the scan broke off: {cause}")]
    Broken {
        /// Why.
        cause: String,
    },
}

type Answer = oneshot::Sender<Result<Response, CallError>>;

/// A connection that is through its Hello. Dropping it closes it.
pub struct ClientConnection {
    inner: Arc<Inner>,
    negotiated: Negotiated,
    remote: SocketAddr,
    // Lives as long as its connection.
    _endpoint: Endpoint,
}

struct Inner {
    connection: Connection,
    state: Mutex<State>,
    wake: Notify,
    calls: Semaphore,
    unwritten_bytes: Semaphore,
}

#[derive(Default)]
struct State {
    /// Frames that have not been handed to QUIC.
    out: BytesMut,
    /// Which, in order.
    unwritten: VecDeque<Unwritten>,
    /// The number of the newest request.
    newest: u64,
    /// Requests up to this one have been handed to QUIC, or are just being handed over.
    sent_through: u64,
    waiting: HashMap<u64, Answer>,
    /// Set once, when the connection has ended.
    ended: Option<String>,
}

/// A request whose frame is in `out`.
#[derive(Debug, Clone, Copy)]
struct Unwritten {
    number: u64,
    /// Of its frame.
    bytes: usize,
    /// What it has taken of the room for unwritten bytes.
    charged: usize,
}

impl State {
    /// Takes the next piece to hand to QUIC, and what it had taken of the room. Empty if there is none.
    fn take_piece(&mut self) -> (BytesMut, usize) {
        let (mut bytes, mut charged) = (0, 0);
        while bytes < WRITE_BYTES
            && let Some(request) = self.unwritten.pop_front()
        {
            bytes += request.bytes;
            charged += request.charged;
            self.sent_through = request.number;
        }
        if self.unwritten.is_empty() {
            assert_eq!(bytes, self.out.len(), "the frames that wait are all that waits");
        }
        (self.out.split_to(bytes), charged)
    }

    /// Takes a request back that has not been handed to QUIC, and returns what it had taken of the room.
    fn withdraw(&mut self, number: u64) -> Option<usize> {
        let place = self.unwritten.binary_search_by_key(&number, |request| request.number).ok()?;
        let start: usize = self.unwritten.iter().take(place).map(|request| request.bytes).sum();
        let Unwritten { bytes, charged, .. } = self.unwritten.remove(place).expect("it was just found there");
        self.out.copy_within(start + bytes.., start);
        self.out.truncate(self.out.len() - bytes);
        Some(charged)
    }
}

impl ClientConnection {
    /// Dials `address` (`host:port`), checks who answers, says Hello. All addresses of the host are tried in turn, within `timeout`
    /// altogether.
    ///
    /// # Errors
    /// [`ConnectError`] tells refusals of certificates apart from a node that is down.
    pub async fn connect(
        address: &str,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<(ClientConnection, wire::HelloReply), ConnectError> {
        let attempt = tokio::time::timeout(timeout, ClientConnection::connect_any(address, credentials)).await;
        attempt.unwrap_or_else(|_| Err(ConnectError::TimedOut { address: address.to_owned(), after: timeout }))
    }

    async fn connect_any(
        address: &str,
        credentials: &Credentials,
    ) -> Result<(ClientConnection, wire::HelloReply), ConnectError> {
        let mut last = None;
        for remote in dial::resolve(address).await? {
            match ClientConnection::connect_one(address, remote, credentials).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("resolve returns at least one address"))
    }

    async fn connect_one(
        address: &str,
        remote: SocketAddr,
        credentials: &Credentials,
    ) -> Result<(ClientConnection, wire::HelloReply), ConnectError> {
        let endpoint = quic::dialler(remote).map_err(|cause| ConnectError::socket(address, &cause))?;
        let config = quic::dial_config(Protocol::Client, credentials);
        let connection = dial::handshake(&endpoint, config, address, remote).await?;
        let peer = check_node(&connection, credentials, address)?;
        let lost = |cause| ConnectError::from_connection(address, &cause);
        let (mut send, receive) = connection.open_bi().await.map_err(lost)?;
        let mut out = BytesMut::new();
        let agent = concat!("raftkv ", env!("CARGO_PKG_VERSION")).to_owned();
        put_frame(&mut out, kind::HELLO, 0, &wire::Hello { agent });
        send.write_chunk(out.freeze()).await.map_err(|cause| hello_write_error(address, &cause))?;
        let mut reader = FrameReader::new(receive);
        let frame = hello_reply(address, &mut reader, kind::HELLO_REPLY).await?;
        let reply = wire::HelloReply::decode(frame.body)
            .map_err(|cause| ConnectError::Protocol { address: address.to_owned(), reason: cause.to_string() })?;
        let inner = Arc::new(Inner {
            connection: connection.clone(),
            state: Mutex::default(),
            wake: Notify::new(),
            calls: Semaphore::new(CALLS_MAX),
            unwritten_bytes: Semaphore::new(UNWRITTEN_BYTES_MAX),
        });
        tokio::spawn(write_requests(inner.clone(), send));
        let ending = Ending { inner: inner.clone(), cause: "the runtime that it ran on has ended".to_owned() };
        tokio::spawn(read_replies(ending, reader));
        let negotiated = tls::negotiated(&connection, &peer);
        Ok((ClientConnection { inner, negotiated, remote, _endpoint: endpoint }, reply))
    }

    /// Sends a request and waits for its answer. Dropping the future forgets the answer, and withdraws a request that has not been handed to QUIC.
    ///
    /// # Errors
    /// When no answer can come any more; an error that the node answers with is [`Response::Error`].
    pub async fn call(&self, request: Request) -> Result<Response, CallError> {
        self.carry(request, &mut Call { inner: &self.inner, number: None }).await
    }

    /// As [`call`](ClientConnection::call), for so long at most.
    ///
    /// # Errors
    /// As there; when the time is over, [`CallError::NotSent`] if the request had not been handed to QUIC, and [`CallError::NoAnswer`] otherwise.
    pub async fn call_within(&self, request: Request, patience: Duration) -> Result<Response, CallError> {
        let mut call = Call { inner: &self.inner, number: None };
        let carried = tokio::time::timeout(patience, self.carry(request, &mut call)).await;
        carried.unwrap_or_else(|_| {
            if call.is_withdrawn() {
                let cause = format!(
                    "more waits to be sent to this node than it takes: the request did not leave within {} ms",
                    patience.as_millis()
                );
                Err(CallError::NotSent { cause })
            } else {
                Err(CallError::NoAnswer { after: patience })
            }
        })
    }

    async fn carry(&self, request: Request, call: &mut Call<'_>) -> Result<Response, CallError> {
        let inner = &self.inner;
        let bytes = request.encoded_len();
        if bytes > REQUEST_BYTES_MAX {
            return Err(CallError::TooLarge { bytes, limit: REQUEST_BYTES_MAX });
        }
        let charged = bytes.min(UNWRITTEN_BYTES_MAX);
        let room = u32::try_from(charged).expect("the maximum is below 4 GiB");
        let _place = inner.calls.acquire().await.map_err(|_| inner.not_sent())?;
        // Given back by the writer, or when the request is withdrawn.
        inner.unwritten_bytes.acquire_many(room).await.map_err(|_| inner.not_sent())?.forget();
        let (answer, answered) = oneshot::channel();
        {
            let mut state = inner.lock();
            if state.ended.is_some() {
                drop(state);
                return Err(inner.not_sent());
            }
            state.newest += 1;
            let number = state.newest;
            let before = state.out.len();
            request.encode(&mut state.out, number);
            let bytes = state.out.len() - before;
            state.unwritten.push_back(Unwritten { number, bytes, charged });
            state.waiting.insert(number, answer);
            call.number = Some(number);
        }
        inner.wake.notify_one();
        let outcome = answered.await;
        call.number = None;
        outcome.unwrap_or_else(|_| {
            Err(CallError::OutcomeUnknown { cause: "the connection was closed on this side".to_owned() })
        })
    }

    /// Begins a scan on a stream of its own.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn scan(&self, request: &wire::ScanRequest) -> Result<ScanStream, ScanError> {
        let broken = |cause: String| ScanError::Broken { cause };
        let opened = self.inner.connection.open_bi().await;
        let (mut send, receive) = opened.map_err(|cause| broken(cause.to_string()))?;
        let mut out = BytesMut::new();
        put_frame(&mut out, kind::SCAN, 1, request);
        send.write_chunk(out.freeze()).await.map_err(|cause| broken(cause.to_string()))?;
        send.finish().map_err(|cause| broken(cause.to_string()))?;
        Ok(ScanStream { reader: FrameReader::new(receive), done: false })
    }

    /// Begins a watch on a stream of its own. Waits while the node allows no further stream.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn watch(&self, request: &wire::WatchRequest) -> Result<WatchStream, WatchError> {
        let broken = |cause: String| WatchError::Broken { cause };
        let opened = self.inner.connection.open_bi().await;
        let (mut send, receive) = opened.map_err(|cause| broken(cause.to_string()))?;
        let mut out = BytesMut::new();
        put_frame(&mut out, kind::WATCH, 1, request);
        send.write_chunk(out.freeze()).await.map_err(|cause| broken(cause.to_string()))?;
        send.finish().map_err(|cause| broken(cause.to_string()))?;
        Ok(WatchStream { reader: FrameReader::new(receive) })
    }

    /// What TLS agreed on.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// The address that answered.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.remote
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.connection.close_reason().is_some()
    }

    /// Waits for the connection to end, and says why it did.
    pub async fn closed(&self) -> String {
        self.inner.connection.closed().await.to_string()
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.inner.connection.close(RefusalCode::Done.code().into(), b"done");
    }
}

fn check_node(
    connection: &Connection,
    credentials: &Credentials,
    address: &str,
) -> Result<crate::identity::Identity, ConnectError> {
    let cluster = &credentials.identity().cluster;
    let outcome = match tls::identity_of(connection) {
        Ok(found) if found.role() == Role::Node && found.cluster == *cluster => return Ok(found),
        Ok(found) => {
            let wanted = format!("a node of cluster {cluster}");
            ConnectError::WrongPeer { address: address.to_owned(), found, wanted }
        }
        Err(cause) => ConnectError::PeerIdentity { address: address.to_owned(), cause },
    };
    Refusal::new(RefusalCode::WrongNode, "not a node of the client's cluster").close(connection);
    Err(outcome)
}

/// One call. If it is dropped without an answer, it is taken off the list.
struct Call<'a> {
    inner: &'a Inner,
    /// While its request is queued or under way.
    number: Option<u64>,
}

impl Call<'_> {
    /// Takes the request back, and says whether it certainly does not leave.
    fn is_withdrawn(&mut self) -> bool {
        let Some(number) = self.number.take() else { return true };
        let mut state = self.inner.lock();
        state.waiting.remove(&number);
        let withdrawn = state.withdraw(number);
        drop(state);
        if let Some(charged) = withdrawn {
            self.inner.unwritten_bytes.add_permits(charged);
        }
        withdrawn.is_some()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.is_withdrawn();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_sent(&self) -> CallError {
        let cause = self.lock().ended.clone();
        CallError::NotSent { cause: cause.unwrap_or_else(|| "the connection has ended".to_owned()) }
    }

    /// Ends every call: what had not left was not sent, of the others nothing is known.
    fn end(&self, cause: &str) {
        let (sent_through, waiting) = {
            let mut state = self.lock();
            if state.ended.is_none() {
                state.ended = Some(cause.to_owned());
            }
            state.out = BytesMut::new();
            state.unwritten.clear();
            (state.sent_through, std::mem::take(&mut state.waiting))
        };
        self.calls.close();
        self.unwritten_bytes.close();
        for (number, answer) in waiting {
            let cause = cause.to_owned();
            let error =
                if number <= sent_through { CallError::OutcomeUnknown { cause } } else { CallError::NotSent { cause } };
            // Fails when the caller has gone.
            let _told = answer.send(Err(error));
        }
        self.wake.notify_one();
    }
}

/// Ends the connection when the task goes that reads its replies, and says why. The task goes without having ended itself when the runtime ends
/// that it runs on: nothing moves on this connection any more, and whoever calls from another runtime is to know that.
struct Ending {
    inner: Arc<Inner>,
    cause: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.inner.end(&self.cause);
        self.inner.connection.close(RefusalCode::Protocol.code().into(), self.cause.as_bytes());
    }
}

async fn write_requests(inner: Arc<Inner>, mut stream: SendStream) {
    loop {
        let (out, charged) = {
            let mut state = inner.lock();
            if state.ended.is_some() {
                return;
            }
            state.take_piece()
        };
        if out.is_empty() {
            inner.wake.notified().await;
            continue;
        }
        if let Err(error) = stream.write_chunk(out.freeze()).await {
            inner.end(&explain(&inner, &error));
            return;
        }
        inner.unwritten_bytes.add_permits(charged);
    }
}

async fn read_replies(mut ending: Ending, mut reader: FrameReader) {
    let inner = ending.inner.clone();
    ending.cause = loop {
        match reader.next(REPLY_BYTES_MAX).await {
            Ok(Some(frame)) => {
                let number = frame.request;
                match Response::decode(frame) {
                    Ok(response) => {
                        if let Some(answer) = inner.lock().waiting.remove(&number) {
                            // Fails when the caller has gone.
                            let _told = answer.send(Ok(response));
                        }
                    }
                    Err(error) => break format!("the node sent something that is no reply: {error}"),
                }
            }
            Ok(None) => break "the node ended the stream".to_owned(),
            Err(FrameError::Stream(error)) => break explain(&inner, &error),
            Err(error) => break error.to_string(),
        }
    };
}

fn explain(inner: &Inner, error: &dyn std::error::Error) -> String {
    match inner.connection.close_reason() {
        Some(reason) => format!("the connection ended: {reason}"),
        None => error.to_string(),
    }
}

/// The answers to one scan. Dropping it tells the node to stop.
pub struct ScanStream {
    reader: FrameReader,
    done: bool,
}

impl ScanStream {
    /// The next reply; `None` after the last one.
    ///
    /// # Errors
    /// When the node reports an error or the stream breaks: what came before is not the whole answer.
    pub async fn next(&mut self) -> Result<Option<wire::ScanReply>, ScanError> {
        if self.done {
            return Ok(None);
        }
        let broken = |cause: String| ScanError::Broken { cause };
        let frame = self.reader.next(REPLY_BYTES_MAX).await.map_err(|cause| {
            let not_taken = "it was not read for too long, and the node has ended it".to_owned();
            broken(if cause.is_not_taken() { not_taken } else { cause.to_string() })
        })?;
        let frame = frame.ok_or_else(|| broken("it ended without its last reply".to_owned()))?;
        match frame.kind {
            kind::SCAN_REPLY => {
                let reply = wire::ScanReply::decode(frame.body).map_err(|cause| broken(cause.to_string()))?;
                self.done = reply.last;
                Ok(Some(reply))
            }
            kind::ERROR => {
                self.done = true;
                let error = wire::Error::decode(frame.body).map_err(|cause| broken(cause.to_string()))?;
                Err(ScanError::Node(error))
            }
            other => Err(broken(format!("frame kind {other} in a scan"))),
        }
    }
}
