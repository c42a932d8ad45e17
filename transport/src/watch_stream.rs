//! The client's side of a watch: a stream of replies that ends with an error, or not at all.

use crate::client_connection::REPLY_BYTES_MAX;
use crate::frame::FrameReader;
use crate::proto::client as wire;
use crate::request::kind;
use prost::Message as _;

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
}

/// The replies to one watch. Dropping it tells the node to stop.
pub struct WatchStream {
    pub(crate) reader: FrameReader,
}

impl WatchStream {
    /// The next reply. Not cancel-safe: after a `next` that was dropped half-way the stream is of no use.
    ///
    /// # Errors
    /// When the node reports an error or the stream breaks: it has ended then.
    pub async fn next(&mut self) -> Result<wire::WatchReply, WatchError> {
        let broken = |cause: String| WatchError::Broken { cause };
        let frame = self.reader.next(REPLY_BYTES_MAX).await.map_err(|cause| broken(cause.to_string()))?;
        let frame = frame.ok_or_else(|| broken("the node ended the stream".to_owned()))?;
        match frame.kind {
            kind::WATCH_REPLY => wire::WatchReply::decode(frame.body).map_err(|cause| broken(cause.to_string())),
            kind::ERROR => {
                let error = wire::Error::decode(frame.body).map_err(|cause| broken(cause.to_string()))?;
                Err(WatchError::Node(error))
            }
            other => Err(broken(format!("frame kind {other} in a watch"))),
        }
    }
}
