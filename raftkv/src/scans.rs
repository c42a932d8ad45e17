//! Streaming a range to a client.
//!
//! A piece is read, on a thread that may block, while the client takes the one before: memory on this side is two pieces and what the scan has read ahead,
//! about a MiB, however large the range and however slow the client. Between two pieces a scan holds neither a thread nor a snapshot. One that is sorted by
//! something else than the key holds all its pairs, up to 64 MiB. So there are only so many scans at a time, and a client that takes nothing for a long
//! while loses its scan.

use crate::failure::FailureReporter;
use crate::requests::{ScanReplies, error, is_sorted};
use crate::service::read_failed;
use crate::shared_state::SharedState;
use std::sync::Arc;
use std::time::Duration;
use storage::state::ReadError;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
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
/// How often a client hears that its scan is under way, when there is nothing to send yet.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_millis(500);
/// Places that a scan takes which holds all its pairs: there are 8 of these at a time, if there are no others.
const SORTED_PLACES: u32 = 16;

/// A scan, and its next piece if there is one.
type Read = Result<Option<(ScanReplies, wire::ScanReply)>, ReadError>;

/// Reads and sends until the range or the client's interest ends.
pub(crate) async fn run_scan(job: ScanJob, mut responder: ScanResponder) {
    let ScanJob { range, request, shared, failures, places } = job;
    let weight = if is_sorted(&request) { SORTED_PLACES } else { 1 };
    let Ok(_place) = places.try_acquire_many_owned(weight) else {
        let text = format!(
            "this node serves as many scans as it may: {SCANS_MAX}, of which each that is not sorted by key counts for \
             {SORTED_PLACES}; try another one, or again in a moment"
        );
        // A client that is gone does not need the error.
        return drop(responder.send_error(*error(ErrorCode::Unavailable, text)).await);
    };
    let mut reading = read(move || ScanReplies::new(&shared.reader(), &range, &request));
    loop {
        // A count, a sort, or a filter that nothing passes may take long: the client hears that the node is at it.
        let read_next = loop {
            match tokio::time::timeout(SIGN_OF_LIFE_INTERVAL, &mut reading).await {
                Ok(read_next) => break read_next,
                Err(_) => {
                    if let Err(closed) = responder.send(wire::ScanReply::default()).await {
                        tracing::debug!(%closed, "a scan is given up");
                        // Its place is taken for as long as its thread is.
                        return drop(reading.await);
                    }
                }
            }
        };
        let piece = match read_next {
            Ok(Ok(Some((scan, piece)))) => {
                reading = read(|| Ok(scan));
                piece
            }
            Ok(Ok(None)) => return,
            // A client that is gone does not need the error.
            Ok(Err(cause)) => return drop(responder.send_error(*read_failed(cause, &failures)).await),
            Err(error) => return tracing::error!(%error, "a scan failed"),
        };
        if let Err(closed) = responder.send(piece).await {
            return tracing::debug!(%closed, "a scan is given up");
        }
    }
}

/// Reads the next piece of a scan.
fn read(scan: impl FnOnce() -> Result<ScanReplies, ReadError> + Send + 'static) -> JoinHandle<Read> {
    tokio::task::spawn_blocking(|| {
        let mut scan = scan()?;
        let piece = scan.next().transpose()?;
        Ok(piece.map(|piece| (scan, piece)))
    })
}
