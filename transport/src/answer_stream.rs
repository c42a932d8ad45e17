//! The stream on which one request is answered by many frames: a scan's, or a watch's.
//!
//! QUIC holds the sender back while the client does not read. That costs one batch of memory and a place among those that there may be, so a client that
//! takes nothing for too long loses its stream, with a code of its own: a reset arrives however full the windows are. A batch may be as large as a
//! value, so there is a bound on what all batches have together, too: beyond it a stream is lost as soon as a frame has waited for a few seconds.

use crate::error::RefusalCode;
use crate::frame::put_frame;
use bytes::{Bytes, BytesMut};
use quinn::{SendStream, WriteError};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Why nothing more can be sent of a scan or a watch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AnswerClosed {
    /// The client reads no more of it, or is gone.
    #[error("the client reads no more of it: {0}")]
    Ended(WriteError),
    /// The client is there and takes nothing. The stream is broken off, with the reason.
    #[error("the client has taken nothing of it for {} s", after.as_secs())]
    NotTaken {
        /// For how long.
        after: Duration,
    },
}

/// Beyond the bound, a frame waits no longer than this, about.
const PATIENCE_UNDER_PRESSURE: Duration = Duration::from_secs(2);

/// How long clients may let frames wait, and what those that wait have in bytes.
pub(crate) struct Unread {
    not_taken_max: Duration,
    bytes_max: usize,
    bytes: AtomicUsize,
}

impl Unread {
    pub(crate) fn new(not_taken_max: Duration, bytes_max: usize) -> Unread {
        Unread { not_taken_max, bytes_max, bytes: AtomicUsize::new(0) }
    }

    /// Counts a frame that waits until this is dropped.
    fn count(&self, bytes: usize) -> Waiting<'_> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Waiting { unread: self, bytes }
    }

    fn is_too_much(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }
}

struct Waiting<'a> {
    unread: &'a Unread,
    bytes: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.unread.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// See the module. Dropping it before [`finish`](AnswerStream::finish) breaks the stream off, which the client sees as a failure.
pub(crate) struct AnswerStream {
    stream: SendStream,
    request: u64,
    unread: Arc<Unread>,
    done: bool,
    _places: Vec<OwnedSemaphorePermit>,
}

impl AnswerStream {
    /// The answers to `request`, which holds its places until they have ended.
    pub(crate) fn new(
        stream: SendStream,
        request: u64,
        unread: Arc<Unread>,
        places: Vec<OwnedSemaphorePermit>,
    ) -> AnswerStream {
        AnswerStream { stream, request, unread, done: false, _places: places }
    }

    /// The number of the request that is answered.
    pub(crate) fn request(&self) -> u64 {
        self.request
    }

    /// Whether it has ended, or was broken off.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Sends a frame that is laid out in pieces, and waits while the client is not ready for it.
    pub(crate) async fn write(&mut self, pieces: &mut [Bytes]) -> Result<(), AnswerClosed> {
        let unread = self.unread.clone();
        let _waiting = unread.count(pieces.iter().map(Bytes::len).sum());
        let begun = Instant::now();
        {
            let mut writing = pin!(self.stream.write_all_chunks(pieces));
            loop {
                let left = unread.not_taken_max.saturating_sub(begun.elapsed());
                match tokio::time::timeout(left.min(PATIENCE_UNDER_PRESSURE), &mut writing).await {
                    Ok(written) => return written.map_err(AnswerClosed::Ended),
                    Err(_) if begun.elapsed() >= unread.not_taken_max || unread.is_too_much() => break,
                    Err(_) => {}
                }
            }
        }
        self.break_off(RefusalCode::NotTaken);
        Err(AnswerClosed::NotTaken { after: begun.elapsed() })
    }

    /// Sends a frame, and waits while the client is not ready for it.
    pub(crate) async fn write_frame(&mut self, kind: u8, body: &impl prost::Message) -> Result<(), AnswerClosed> {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, self.request, body);
        self.write(&mut [out.freeze()]).await
    }

    /// Nothing comes any more.
    pub(crate) fn finish(&mut self) {
        self.done = true;
        // Fails only for a stream that the client has stopped.
        let _finished = self.stream.finish();
    }

    /// Waits until the client has stopped reading, or is gone.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.stopped();
        async move {
            // However it ended.
            let _stopped = stopped.await;
        }
    }

    fn break_off(&mut self, code: RefusalCode) {
        self.done = true;
        // Fails only for a stream that has ended.
        let _reset = self.stream.reset(code.code().into());
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        if !self.done {
            // Without this the stream would end as if it were complete.
            self.break_off(RefusalCode::Done);
        }
    }
}
