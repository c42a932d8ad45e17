//! Streaming a range to a client.
//!
//! The state is read on a thread that may block, a piece at a time, and each piece waits until the client has taken the one
//! before: memory on this side is two pieces, however large the range and however slow the client.

use crate::failure::FailureReporter;
use crate::service::{key_value, read_failed};
use crate::shared_state::SharedState;
use std::sync::Arc;
use storage::command::KeyRange;
use storage::state::{ReadError, ScanOptions};
use tokio::sync::mpsc;
use transport::ScanResponder;
use transport::proto::client as wire;

/// Bytes of keys and values in one piece, about; a single larger pair makes a piece of its own.
const PIECE_BYTES: usize = 64 << 10;
/// Pairs in one piece.
const PIECE_PAIRS_MAX: usize = 512;
/// What a pair takes beside its key and value, about.
const PAIR_OVERHEAD_BYTES: usize = 32;

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
    let outcome = if job.request.count_only { count(job, pieces) } else { pairs(job, pieces) };
    if let Err(cause) = outcome {
        // Nobody waits any more.
        let _ = pieces.blocking_send(Err(cause));
    }
}

fn count(job: &ScanJob, pieces: &mpsc::Sender<Piece>) -> Result<(), ReadError> {
    let reader = job.shared.reader();
    let revision = job.request.revision.unwrap_or_else(|| reader.revision());
    let range = KeyRange { start: &job.range.start, end: job.range.end.as_deref() };
    let count = reader.count(range, Some(revision))?;
    let header = Some(wire::Header { revision, index: 0 });
    let _ = pieces.blocking_send(Ok(wire::ScanReply { header, kvs: Vec::new(), last: true, count, more: false }));
    Ok(())
}

fn pairs(job: &ScanJob, pieces: &mpsc::Sender<Piece>) -> Result<(), ReadError> {
    let limit = (job.request.limit > 0).then_some(job.request.limit);
    let scan = job.shared.reader().scan(ScanOptions {
        start: job.range.start.clone(),
        end: job.range.end.clone(),
        reverse: job.request.reverse,
        // One more than asked for tells whether there is more.
        limit: limit.map(|limit| limit.saturating_add(1)),
        keys_only: job.request.keys_only,
        revision: job.request.revision,
    })?;
    let header = Some(wire::Header { revision: scan.revision(), index: 0 });
    let mut piece = Vec::new();
    let (mut bytes, mut count, mut more) = (0, 0, false);
    for kv in scan {
        let kv = kv?;
        if limit.is_some_and(|limit| count == limit) {
            more = true;
            break;
        }
        count += 1;
        bytes += kv.key.len() + kv.value.len() + PAIR_OVERHEAD_BYTES;
        piece.push(key_value(kv));
        if bytes >= PIECE_BYTES || piece.len() >= PIECE_PAIRS_MAX {
            let kvs = std::mem::take(&mut piece);
            bytes = 0;
            if pieces.blocking_send(Ok(wire::ScanReply { header, kvs, last: false, count: 0, more: false })).is_err() {
                return Ok(());
            }
        }
    }
    let _ = pieces.blocking_send(Ok(wire::ScanReply { header, kvs: piece, last: true, count, more }));
    Ok(())
}
