//! The client's side of a watch: a stream of replies that ends with an error, or not at all.

use crate::client_connection::REPLY_BYTES_MAX;
use crate::frame::{FrameError, FrameReader};
use crate::proto::client as wire;
use crate::request::kind;
use bytes::BytesMut;
use prost::Message as _;
use std::future::Future;
use std::time::Duration;

/// The events of one revision that a watch takes, previous values included: they are in memory together, because a program gets a revision as a whole.
pub const REVISION_BYTES_MAX: usize = 1 << 30;

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WatchError {
    /// The node says why.
    #[error("{}", .0.message)]
    Node(wire::Error),
    /// The stream or the connection ended.
    #[error("the watch broke off: {cause}")]
    Broken {
        /// Why.
        cause: String,
    },
    /// Nothing came for too long.
    #[error("not a word for {} ms", after.as_millis())]
    Silent {
        /// How long.
        after: Duration,
    },
}

/// The replies to one watch. Dropping it tells the node to stop.
pub struct WatchStream {
    pub(crate) reader: FrameReader,
}

impl WatchStream {
    /// The next reply. Not cancel-safe: after a `next` that was dropped half-way, or failed, the stream is of no use.
    ///
    /// A large reply may take its time, as long as some of it comes every `silence_max`.
    ///
    /// # Errors
    /// When the node reports an error, the stream breaks, or nothing comes: it has ended then. When a revision is larger than [`REVISION_BYTES_MAX`].
    pub async fn next(&mut self, silence_max: Duration) -> Result<wire::WatchReply, WatchError> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        loop {
            let (frame, length) = self.frame(silence_max).await?;
            bytes += length;
            if bytes > REVISION_BYTES_MAX {
                return Err(too_large());
            }
            events.extend(frame.events);
            if !frame.part {
                return Ok(wire::WatchReply { header: frame.header, events, part: false });
            }
        }
    }

    /// The next frame, and its length.
    async fn frame(&mut self, silence_max: Duration) -> Result<(wire::WatchReply, usize), WatchError> {
        let envelope = heard(silence_max, self.reader.envelope(REPLY_BYTES_MAX)).await?;
        let envelope = envelope.ok_or_else(|| broken("the node ended the stream"))?;
        let length = envelope.length as usize;
        let mut body = BytesMut::with_capacity(length);
        while body.len() < length {
            let piece = heard(silence_max, self.reader.piece(length - body.len())).await?;
            body.extend_from_slice(&piece.ok_or_else(|| broken("the node ended the stream in the middle of a reply"))?);
        }
        match envelope.kind {
            kind::WATCH_REPLY => Ok((wire::WatchReply::decode(body.freeze()).map_err(broken)?, length)),
            kind::ERROR => Err(WatchError::Node(wire::Error::decode(body.freeze()).map_err(broken)?)),
            other => Err(broken(format!("frame kind {other} in a watch"))),
        }
    }
}

async fn heard<T>(silence_max: Duration, coming: impl Future<Output = Result<T, FrameError>>) -> Result<T, WatchError> {
    match tokio::time::timeout(silence_max, coming).await {
        Ok(outcome) => outcome.map_err(|cause| if cause.is_not_taken() { overloaded() } else { broken(cause) }),
        Err(_) => Err(WatchError::Silent { after: silence_max }),
    }
}

/// The node has given up sending, because nothing of it was taken.
fn overloaded() -> WatchError {
    let message = "the watch was not read for too long, and the node has ended it; take it up again after the last revision that came whole";
    WatchError::Node(wire::Error {
        code: wire::ErrorCode::WatchOverloaded.into(),
        message: message.to_owned(),
        ..wire::Error::default()
    })
}

/// Trying again would bring the same.
fn too_large() -> WatchError {
    let message = format!(
        "the watch has come to a revision whose events have more than {} MiB; read the keys, and watch from the next revision on",
        REVISION_BYTES_MAX >> 20
    );
    WatchError::Node(wire::Error { code: wire::ErrorCode::TooLarge.into(), message, ..wire::Error::default() })
}

fn broken(cause: impl ToString) -> WatchError {
    WatchError::Broken { cause: cause.to_string() }
}
