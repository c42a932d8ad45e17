//! The stream on which one request is answered by many frames: a scan's, or a watch's.
//!
//! QUIC holds the sender back while the client does not read. That costs one batch of memory and a place among those that there may be, so a client that
//! takes nothing for too long loses its stream, with a code of its own: a reset arrives however full the windows are.

use crate::error::RefusalCode;
use crate::frame::put_frame;
use bytes::{Bytes, BytesMut};
use quinn::{SendStream, WriteError};
use std::future::Future;
use std::time::Duration;
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

/// See the module. Dropping it before [`finish`](AnswerStream::finish) breaks the stream off, which the client sees as a failure.
pub(crate) struct AnswerStream {
    stream: SendStream,
    request: u64,
    not_taken_max: Duration,
    done: bool,
    _places: Vec<OwnedSemaphorePermit>,
}

impl AnswerStream {
    /// The answers to `request`, which holds its places until they have ended.
    pub(crate) fn new(
        stream: SendStream,
        request: u64,
        not_taken_max: Duration,
        places: Vec<OwnedSemaphorePermit>,
    ) -> AnswerStream {
        AnswerStream { stream, request, not_taken_max, done: false, _places: places }
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
        match tokio::time::timeout(self.not_taken_max, self.stream.write_all_chunks(pieces)).await {
            Ok(written) => written.map_err(AnswerClosed::Ended),
            Err(_) => {
                self.break_off(RefusalCode::NotTaken);
                Err(AnswerClosed::NotTaken { after: self.not_taken_max })
            }
        }
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
