//! Dialling: from `host:port` to a connection whose other side has proved who it is.

use crate::error::ConnectError;
use crate::frame::{Frame, FrameError, FrameReader};
use crate::quic::SERVER_NAME;
use quinn::{Connection, Endpoint, ReadError, WriteError};
use std::net::SocketAddr;

/// A Hello and its answer are small.
pub(crate) const HELLO_BYTES_MAX: usize = 4096;

/// Every address that `host:port` stands for at this moment. Asked anew at each dial, since names may come to point elsewhere.
pub(crate) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |detail: String| ConnectError::Resolve { address: address.to_owned(), detail };
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(|cause| failed(cause.to_string()))?.collect();
    if found.is_empty() { Err(failed("no address".to_owned())) } else { Ok(found) }
}

/// The handshake, our half of the certificate checks included.
pub(crate) async fn handshake(
    endpoint: &Endpoint,
    config: quinn::ClientConfig,
    address: &str,
    remote: SocketAddr,
) -> Result<Connection, ConnectError> {
    let connecting = endpoint
        .connect_with(config, remote, SERVER_NAME)
        .map_err(|cause| ConnectError::Unreachable { address: address.to_owned(), reason: cause.to_string() })?;
    connecting.await.map_err(|cause| ConnectError::from_connection(address, &cause))
}

/// Reads the answer to a Hello. This is where a refusal by the other side shows, whichever step of its checks it comes from.
pub(crate) async fn hello_reply(
    address: &str,
    reader: &mut FrameReader,
    kind_wanted: u8,
) -> Result<Frame, ConnectError> {
    let protocol = |reason: String| ConnectError::Protocol { address: address.to_owned(), reason };
    match reader.next(HELLO_BYTES_MAX).await {
        Ok(Some(frame)) if frame.kind == kind_wanted => Ok(frame),
        Ok(Some(frame)) => Err(protocol(format!("kind {} in answer to Hello", frame.kind))),
        Ok(None) => Err(protocol("no answer to Hello".to_owned())),
        Err(FrameError::Stream(ReadError::ConnectionLost(cause))) => {
            Err(ConnectError::from_connection(address, &cause))
        }
        Err(other) => Err(protocol(other.to_string())),
    }
}

/// What a failed write during the Hello comes to.
pub(crate) fn hello_write_error(address: &str, error: &WriteError) -> ConnectError {
    match error {
        WriteError::ConnectionLost(cause) => ConnectError::from_connection(address, cause),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            ConnectError::Protocol { address: address.to_owned(), reason: error.to_string() }
        }
    }
}
