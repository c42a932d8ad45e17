//! The status page: read-only HTTP on loopback.
//!
//! `GET /status` answers with [`NodeStatus`] as JSON; `GET /health` with 200 while the node knows a leader, else 503. There is no TLS
//! here, so there is nothing here that writes, reads values, or leaves the machine: the configuration takes loopback addresses only.

use crate::status::NodeStatus;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long [`fetch_status`] waits in all.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// The most [`fetch_status`] reads.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks the node for its status; `None` while it stops.
pub(crate) type StatusSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<NodeStatus>> + Send>> + Send + Sync>;

/// Serves the page on `listener` until `stopped` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    source: StatusSource,
    stopped: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new().route("/status", get(status)).route("/health", get(health)).with_state(source);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::warn!("the status page failed: {error}");
    }
}

async fn status(State(source): State<StatusSource>) -> Response {
    match source().await {
        Some(status) => Json(status).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response(),
    }
}

async fn health(State(source): State<StatusSource>) -> Response {
    match source().await {
        Some(status) if status.leader.is_some() => (StatusCode::OK, "ok\n").into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response(),
    }
}

/// Reads the status of the node whose page is at `address`; `None` if it does not answer.
pub async fn fetch_status(address: SocketAddr) -> Option<NodeStatus> {
    let fetch = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        let body_at = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        serde_json::from_slice(&answer[body_at..]).ok()
    };
    tokio::time::timeout(FETCH_TIMEOUT, fetch).await.ok().flatten()
}
