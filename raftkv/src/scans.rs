//! Streaming a range to a client.
//!
//! The state is read on a thread that may block, a piece at a time, and each piece waits until the client has taken the one
//! before: memory on this side is two pieces, however large the range and however slow the client.

use crate::failure::FailureReporter;
use crate::requests::scan_replies;
use crate::service::read_failed;
use crate::shared_state::SharedState;
use std::sync::Arc;
use storage::state::ReadError;
use tokio::sync::mpsc;
use transport::ScanResponder;
use transport::proto::client as wire;

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
}

type Piece = Result<wire::ScanReply, ReadError>;

/// Reads and sends until the range or the client's interest ends.
pub(crate) async fn run_scan(job: ScanJob, mut responder: ScanResponder) {
    let failures = job.failures.clone();
    let (pieces, mut ready) = mpsc::channel::<Piece>(1);
    let reading = tokio::task::spawn_blocking(move || read(&job, &pieces));
    while let Some(piece) = ready.recv().await {
        let sent = match piece {
            Ok(reply) => responder.send(reply).await,
            Err(cause) => {
                // A client that is gone does not need the error.
                let _ = responder.send_error(*read_failed(cause, &failures)).await;
                return;
            }
        };
        if sent.is_err() {
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
