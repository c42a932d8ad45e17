//! Streaming a range to a client.
//!
//! The state is read on a thread that may block, a piece at a time, and each piece waits until the client has taken the one
//! before: memory on this side is two pieces, however large the range and however slow the client. Such a thread is taken for as long as the client takes, so
//! there are only so many scans at a time, and a client that takes nothing for a long while loses its scan: the threads are also those of snapshots and of
//! watches that read from disk.

use crate::failure::FailureReporter;
use crate::requests::{error, scan_replies};
use crate::service::read_failed;
use crate::shared_state::SharedState;
use std::sync::Arc;
use std::time::Duration;
use storage::state::ReadError;
use tokio::sync::{Semaphore, mpsc};
use transport::ScanResponder;
use transport::proto::client as wire;
use wire::ErrorCode;

/// A scan that may begin.
pub(crate) struct ScanJob {
    /// Which keys.
    pub(crate) range: wire::KeyRange,
    /// The rest of the request.
    pub(crate) request: wire::ScanRequest,
    /// What it reads.
    pub(crate) shared: Arc<SharedState>,
    /// Where damage is reported.
    pub(crate) failures: FailureReporter,
    /// One for each scan.
    pub(crate) places: Arc<Semaphore>,
}

/// Scans at a time. More are refused, and their clients turn to another node.
pub(crate) const SCANS_MAX: usize = 128;
/// A client that takes nothing for this long loses its scan. Long enough for somebody who reads it page by page.
const STALL_MAX: Duration = Duration::from_secs(600);

type Piece = Result<wire::ScanReply, ReadError>;

/// Reads and sends until the range or the client's interest ends.
pub(crate) async fn run_scan(job: ScanJob, mut responder: ScanResponder) {
    let Ok(_place) = job.places.clone().try_acquire_owned() else {
        let text = format!("this node serves {SCANS_MAX} scans already; try another one, or again in a moment");
        // A client that is gone does not need the error.
        return drop(responder.send_error(*error(ErrorCode::Unavailable, text)).await);
    };
    let failures = job.failures.clone();
    let (pieces, mut ready) = mpsc::channel::<Piece>(1);
    let reading = tokio::task::spawn_blocking(move || read(&job, &pieces));
    while let Some(piece) = ready.recv().await {
        let is_sent = match piece {
            Ok(reply) => match tokio::time::timeout(STALL_MAX, responder.send(reply)).await {
                Ok(sent) => sent.is_ok(),
                Err(_) => {
                    tracing::warn!("a scan is given up: its client has taken nothing for {} s", STALL_MAX.as_secs());
                    false
                }
            },
            Err(cause) => {
                // A client that is gone does not need the error.
                let _ = responder.send_error(*read_failed(cause, &failures)).await;
                return;
            }
        };
        if !is_sent {
            break;
        }
    }
    drop(ready);
    if let Err(error) = reading.await {
        tracing::error!(%error, "a scan failed");
    }
}

fn read(job: &ScanJob, pieces: &mpsc::Sender<Piece>) {
    let reader = job.shared.reader();
    let outcome = scan_replies(&reader, &job.range, &job.request, &mut |reply| pieces.blocking_send(Ok(reply)).is_ok());
    if let Err(cause) = outcome {
        // Nobody waits any more.
        let _ = pieces.blocking_send(Err(cause));
    }
}
