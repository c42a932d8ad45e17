//! One client's connection at a node: its streams, and how answers find their way back onto them.

use crate::answer_stream::{AnswerClosed, AnswerStream};
use crate::client_server::ListenerShared;
use crate::error::{Refusal, RefusalCode};
use crate::frame::{Envelope, Frame, FrameError, FrameReader, put_frame};
use crate::identity::Identity;
use crate::proto::client as wire;
use crate::proto::client::ErrorCode;
use crate::request::{BodyError, Request, Response, kind};
use crate::watch::WatchResponder;
use bytes::BytesMut;
use prost::Message as _;
use quinn::{Connection, RecvStream, SendStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// A body longer than this must arrive within [`BODY_TIMEOUT`], because room is set aside for it meanwhile.
const SLOW_BODY_BYTES: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an oversized body is read past; a longer one ends the connection.
const SKIPPED_BYTES_MAX: u64 = 256 << 20;

/// What a request takes of the room for bytes besides its body.
const REQUEST_OVERHEAD_BYTES: usize = 128;

/// A connection that is through its Hello; the stream that carried it goes on with requests.
pub(crate) struct Greeted {
    pub(crate) connection: Connection,
    pub(crate) client: Identity,
    pub(crate) send: SendStream,
    pub(crate) reader: FrameReader,
}

/// What the streams of one connection share.
struct ConnectionShared {
    listener: Arc<ListenerShared>,
    client: Identity,
    /// Places for requests: taken when one is read, given back when its answer has been handed to QUIC.
    requests: Arc<Semaphore>,
    /// Room for the bytes of requests: given back when they are answered.
    request_bytes: Semaphore,
    /// Bytes of answers that wait.
    reply_bytes: AtomicUsize,
    /// Places for watches.
    watches: Arc<Semaphore>,
}

/// Answers of one stream that wait to be written.
struct Replies {
    state: Mutex<RepliesState>,
    wake: Notify,
}

#[derive(Default)]
struct RepliesState {
    out: BytesMut,
    /// Requests whose answers are in `out`.
    answered: usize,
    /// Requests that have no answer yet.
    outstanding: usize,
    /// The client sends no more requests.
    no_more: bool,
    /// The stream is broken: answers are dropped.
    broken: bool,
}

impl Replies {
    fn lock(&self) -> MutexGuard<'_, RepliesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve_connection(listener: Arc<ListenerShared>, greeted: Greeted) {
    let Greeted { connection, client, send, reader } = greeted;
    let limits = listener.limits;
    let shared = Arc::new(ConnectionShared {
        listener,
        client,
        requests: Arc::new(Semaphore::new(limits.requests_max)),
        request_bytes: Semaphore::new(limits.request_bytes_max.max(limits.frame_bytes_max() + REQUEST_OVERHEAD_BYTES)),
        reply_bytes: AtomicUsize::new(0),
        watches: Arc::new(Semaphore::new(limits.watches_max)),
    });
    tokio::spawn(serve_requests(shared.clone(), connection.clone(), send, reader, None));
    loop {
        match connection.accept_bi().await {
            Ok((send, receive)) => {
                tokio::spawn(serve_stream(shared.clone(), connection.clone(), send, receive));
            }
            Err(cause) => {
                tracing::debug!(client = %shared.client, %cause, "client's connection ended");
                return;
            }
        }
    }
}

/// A further stream: what its first frame is decides what it is for.
async fn serve_stream(shared: Arc<ConnectionShared>, connection: Connection, send: SendStream, receive: RecvStream) {
    let mut reader = FrameReader::new(receive);
    let limits = &shared.listener.limits;
    match reader.envelope(limits.frame_bytes_max()).await {
        Ok(Some(Envelope { length, kind: kind::SCAN | kind::WATCH, request }))
            if length as usize > limits.range_bytes_max() =>
        {
            let text = format!(
                "a request of {length} bytes for a range of keys; at most {} are taken",
                limits.range_bytes_max()
            );
            let limit = limits.key_bytes_max as u64;
            let error = wire::Error { limit, ..stream_error(ErrorCode::TooLarge, text) };
            refuse_stream(send, request, error).await;
        }
        Ok(Some(envelope)) if envelope.kind == kind::SCAN => serve_scan(shared, send, reader, envelope).await,
        Ok(Some(envelope)) if envelope.kind == kind::WATCH => serve_watch(shared, send, reader, envelope).await,
        first => serve_requests(shared, connection, send, reader, Some(first)).await,
    }
}

async fn serve_scan(shared: Arc<ConnectionShared>, send: SendStream, mut reader: FrameReader, envelope: Envelope) {
    let place = shared.requests.clone().acquire_owned().await.expect("the semaphore is never closed");
    let unread = shared.listener.unread.clone();
    let responder = ScanResponder { stream: AnswerStream::new(send, envelope.request, unread, vec![place]) };
    let Ok(frame) = reader.body(envelope).await else { return };
    match wire::ScanRequest::decode(frame.body) {
        Ok(request) => shared.listener.service.scan(&shared.client, request, responder),
        Err(cause) => {
            let text = format!("the scan does not decode: {cause}");
            // Fails when the client is gone, and then nobody waits for it.
            let _told = responder.send_error(stream_error(ErrorCode::Invalid, text)).await;
        }
    }
}

async fn serve_watch(shared: Arc<ConnectionShared>, send: SendStream, mut reader: FrameReader, envelope: Envelope) {
    let Ok(frame) = reader.body(envelope).await else { return };
    let places = (shared.watches.clone().try_acquire_owned(), shared.listener.watches.clone().try_acquire_owned());
    let refused = match (wire::WatchRequest::decode(frame.body), places) {
        (Ok(request), (Ok(own), Ok(of_all))) => {
            let unread = shared.listener.unread.clone();
            let stream = AnswerStream::new(send, envelope.request, unread, vec![own, of_all]);
            return shared.listener.service.watch(&shared.client, request, WatchResponder { stream });
        }
        (Err(cause), _) => (ErrorCode::Invalid, format!("the watch does not decode: {cause}")),
        (Ok(_), places) => {
            let limits = &shared.listener.limits;
            let text = match places.0 {
                Err(_) => format!("this connection has {} watches, and may have no more", limits.watches_max),
                Ok(_) => format!("this node has {} watches, and may have no more", limits.watches_total_max),
            };
            (ErrorCode::TooMany, text)
        }
    };
    refuse_stream(send, envelope.request, stream_error(refused.0, refused.1)).await;
}

fn stream_error(code: ErrorCode, message: String) -> wire::Error {
    wire::Error { code: code.into(), message, ..wire::Error::default() }
}

/// Answers the one request of a stream with an error.
async fn refuse_stream(mut send: SendStream, request: u64, error: wire::Error) {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::ERROR, request, &error);
    // Fails when the client is gone, and then nobody waits for it.
    if send.write_chunk(out.freeze()).await.is_ok() {
        let _finished = send.finish();
    }
}

type FirstEnvelope = Result<Option<Envelope>, FrameError>;

async fn serve_requests(
    shared: Arc<ConnectionShared>,
    connection: Connection,
    send: SendStream,
    mut reader: FrameReader,
    first: Option<FirstEnvelope>,
) {
    let replies = Arc::new(Replies { state: Mutex::default(), wake: Notify::new() });
    let writer = tokio::spawn(write_replies(shared.clone(), replies.clone(), send));
    let outcome = read_requests(&shared, &replies, &mut reader, first).await;
    {
        let mut state = replies.lock();
        state.no_more = true;
        state.broken |= outcome.is_err();
    }
    replies.wake.notify_one();
    if let Err(error) = outcome
        && !matches!(error, StreamError::Frame(FrameError::Stream(_)))
    {
        tracing::warn!(client = %shared.client, remote = %connection.remote_address(), %error, "client broke the protocol; its connection is closed");
        Refusal::new(RefusalCode::Protocol, error.to_string()).close(&connection);
    }
    // The writer ends by itself; waiting for it keeps nothing alive that it does not keep itself.
    drop(writer);
}

/// Why a stream of requests was given up.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a frame of {length} bytes is more than is worth reading past")]
    FarTooLarge { length: u64 },
    #[error("the body of a request did not arrive within {} s", BODY_TIMEOUT.as_secs())]
    SlowBody,
}

async fn read_requests(
    shared: &Arc<ConnectionShared>,
    replies: &Arc<Replies>,
    reader: &mut FrameReader,
    mut first: Option<FirstEnvelope>,
) -> Result<(), StreamError> {
    let frame_bytes_max = shared.listener.limits.frame_bytes_max();
    loop {
        let envelope = match first.take() {
            Some(envelope) => envelope,
            None => reader.envelope(frame_bytes_max).await,
        };
        match envelope {
            Ok(None) => return Ok(()),
            Ok(Some(envelope)) => {
                let responder = admit(shared, replies, envelope.request, envelope.length as usize).await;
                let body = reader.body(envelope);
                let frame = if envelope.length as usize > SLOW_BODY_BYTES {
                    tokio::time::timeout(BODY_TIMEOUT, body).await.map_err(|_| StreamError::SlowBody)??
                } else {
                    body.await?
                };
                dispatch(shared, frame, responder);
            }
            Err(FrameError::TooLarge { request, length, limit, .. }) => {
                if length > SKIPPED_BYTES_MAX {
                    return Err(StreamError::FarTooLarge { length });
                }
                let responder = admit(shared, replies, request, 0).await;
                responder.answer(too_large(length, limit, shared));
                reader.skip_body(length).await?;
            }
            Err(other) => return Err(other.into()),
        }
    }
}

fn too_large(length: u64, limit: usize, shared: &ConnectionShared) -> Response {
    let limits = &shared.listener.limits;
    let (key, value) = (limits.key_bytes_max, limits.value_bytes_max);
    Response::Error(wire::Error {
        code: ErrorCode::TooLarge.into(),
        message: format!(
            "a request of {length} bytes; at most {limit} are taken, for keys of up to {key} bytes and values of up to {value} bytes"
        ),
        leader: None,
        limit: value as u64,
        keys_limit: None,
        compacted: None,
    })
}

/// Waits for room for one request.
async fn admit(shared: &Arc<ConnectionShared>, replies: &Arc<Replies>, request: u64, body_bytes: usize) -> Responder {
    const NEVER_CLOSED: &str = "the semaphore is never closed";
    let charged = u32::try_from(body_bytes + REQUEST_OVERHEAD_BYTES).unwrap_or(u32::MAX);
    shared.requests.acquire().await.expect(NEVER_CLOSED).forget();
    shared.request_bytes.acquire_many(charged).await.expect(NEVER_CLOSED).forget();
    shared.listener.request_bytes.acquire_many(charged).await.expect(NEVER_CLOSED).forget();
    replies.lock().outstanding += 1;
    Responder {
        connection: shared.clone(),
        replies: replies.clone(),
        request,
        charged,
        unanswered: Unanswered::Read,
        answered: false,
    }
}

fn dispatch(shared: &Arc<ConnectionShared>, frame: Frame, mut responder: Responder) {
    match Request::decode(frame) {
        Ok(request) => {
            if request.is_write() {
                responder.unanswered = Unanswered::Write;
            }
            shared.listener.service.call(&shared.client, request, responder);
        }
        Err(cause @ BodyError::Decode(_)) => responder.answer(Response::error(ErrorCode::Invalid, cause.to_string())),
        Err(BodyError::Kind(kind::SCAN | kind::WATCH)) => {
            let text = "a scan or a watch wants a stream of its own: send it as the first frame of a new one";
            responder.answer(Response::error(ErrorCode::Invalid, text));
        }
        Err(cause @ BodyError::Kind(_)) => {
            let text = format!("{cause}: the client is newer than this node");
            responder.answer(Response::error(ErrorCode::Unsupported, text));
        }
    }
}

/// What to say when a responder is dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unanswered {
    Read,
    Write,
}

/// Takes the answer to one request, from any thread. Dropping it answers too: a write's outcome is then unknown, a read failed.
pub struct Responder {
    connection: Arc<ConnectionShared>,
    replies: Arc<Replies>,
    request: u64,
    charged: u32,
    unanswered: Unanswered,
    answered: bool,
}

impl Responder {
    /// Answers. Never blocks; an answer to a client that is gone is dropped.
    pub fn answer(mut self, response: Response) {
        self.put(response);
    }

    fn put(&mut self, response: Response) {
        self.answered = true;
        let shared = &self.connection;
        let mut response = response;
        let limit = shared.listener.limits.reply_bytes_max;
        let waiting = shared.reply_bytes.load(Ordering::Relaxed);
        // Of what changes something the answer has to come: it says that it did.
        let read_bytes = match &response {
            Response::Get(reply) => reply.encoded_len(),
            Response::Transaction(reply) if self.unanswered == Unanswered::Read => reply.encoded_len(),
            Response::LeaseShow(reply) => reply.encoded_len(),
            Response::LeaseList(reply) => reply.encoded_len(),
            Response::Put(_)
            | Response::Delete(_)
            | Response::Transaction(_)
            | Response::LeaseGrant(_)
            | Response::LeaseKeepAlive(_)
            | Response::LeaseRevoke(_)
            | Response::SessionOpen(_)
            | Response::SessionClose(_)
            | Response::Compact(_)
            | Response::Status(_)
            | Response::MemberChange(_)
            | Response::NodeConfig(_)
            | Response::LeaderTransfer(_)
            | Response::Error(_) => 0,
        };
        if read_bytes > 0 && waiting > 0 && waiting + read_bytes > limit {
            let text = format!(
                "{waiting} bytes of answers wait for this client already, the limit is {limit}: read them first"
            );
            response = Response::error(ErrorCode::Unavailable, text);
        }
        let was_empty = {
            let mut state = self.replies.lock();
            state.outstanding -= 1;
            if state.broken {
                shared.requests.add_permits(1);
            } else {
                let before = state.out.len();
                response.encode(&mut state.out, self.request);
                shared.reply_bytes.fetch_add(state.out.len() - before, Ordering::Relaxed);
                state.answered += 1;
            }
            state.answered <= 1
        };
        if was_empty {
            self.replies.wake.notify_one();
        }
        let charged = self.charged as usize;
        shared.request_bytes.add_permits(charged);
        shared.listener.request_bytes.add_permits(charged);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            let (code, text) = match self.unanswered {
                Unanswered::Read => (ErrorCode::Internal, "the node gave up on the request"),
                Unanswered::Write => {
                    (ErrorCode::OutcomeUnknown, "the node gave up on the write; it may be applied or not")
                }
            };
            self.put(Response::error(code, text));
        }
    }
}

/// Writes what answers there are, all in one piece, until no more can come.
async fn write_replies(shared: Arc<ConnectionShared>, replies: Arc<Replies>, mut stream: SendStream) {
    loop {
        let (out, answered, last) = {
            let mut state = replies.lock();
            let last = state.no_more && state.outstanding == 0;
            (std::mem::take(&mut state.out), std::mem::take(&mut state.answered), last || state.broken)
        };
        if answered > 0 {
            let bytes = out.len();
            let outcome = stream.write_chunk(out.freeze()).await;
            shared.reply_bytes.fetch_sub(bytes, Ordering::Relaxed);
            shared.requests.add_permits(answered);
            if outcome.is_err() {
                give_up(&shared, &replies);
                return;
            }
        } else if last {
            // Fails only if the client has stopped the stream, and then it expects no end of it.
            let _finished = stream.finish();
            give_up(&shared, &replies);
            return;
        } else {
            replies.wake.notified().await;
        }
    }
}

/// Marks the stream broken and gives back what its last answers hold.
fn give_up(shared: &ConnectionShared, replies: &Replies) {
    let mut state = replies.lock();
    state.broken = true;
    let out = std::mem::take(&mut state.out);
    shared.reply_bytes.fetch_sub(out.len(), Ordering::Relaxed);
    shared.requests.add_permits(std::mem::take(&mut state.answered));
}

/// Takes the answers to one scan. Dropping it before the last one breaks the stream off, which the client sees as a failure.
pub struct ScanResponder {
    stream: AnswerStream,
}

impl ScanResponder {
    /// Sends one reply, and waits while the client is not ready for it. The one with `last` set must be the last.
    ///
    /// # Errors
    /// When nobody reads any more, or takes anything for as long as the client port allows: the scan should stop.
    pub async fn send(&mut self, reply: wire::ScanReply) -> Result<(), AnswerClosed> {
        assert!(!self.stream.is_done(), "a reply after the last one of a scan");
        let last = reply.last;
        self.stream.write_frame(kind::SCAN_REPLY, &reply).await?;
        if last {
            self.stream.finish();
        }
        Ok(())
    }

    /// Ends the scan with an error.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub async fn send_error(mut self, error: wire::Error) -> Result<(), AnswerClosed> {
        self.stream.write_frame(kind::ERROR, &error).await?;
        self.stream.finish();
        Ok(())
    }
}
