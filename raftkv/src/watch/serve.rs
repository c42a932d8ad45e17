//! One watcher's task: it takes what the table has for it, or reads what is older from disk, and sends it.
//!
//! It has one batch in hand, at most, and waits on its stream with it: a client that does not read stops its own task and nobody else's. What happens
//! meanwhile is not kept for it; it finds it in the ring, or on disk.

use super::hub::{WatchHub, Watching};
use super::ranges::WatchedRange;
use super::table::{Step, WatchFilter};
use crate::clock::Freshness;
use crate::failure::FailureReporter;
use crate::requests::{Refused, error, key_value, read_failed as read_error};
use crate::service::read_failed;
use crate::shared_state::SharedState;
use std::sync::Arc;
use std::time::Duration;
use storage::state::{Change, ChangePosition, Changes, Engine, PartBounds, ReadError, StateReader};
use tokio::time::Instant;
use transport::proto::client as wire;
use transport::{AnswerClosed, EncodedWatchEvent, WatchFrame, WatchResponder};
use wire::ErrorCode;

/// A batch ends, between two revisions, once it has so many bytes.
const BATCH_BYTES: usize = 32 << 10;
/// What is read from disk at a time: a batch, or so much of a revision that is larger.
const PART: PartBounds = PartBounds { bytes: BATCH_BYTES, revision_bytes: 1 << 20 };
/// Nobody hears of progress more often.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A node tells of progress if its state is no older than this, or than the interval asked for.
const PROGRESS_AGE_MAX: Duration = Duration::from_secs(1);

/// A watch that may begin.
pub(crate) struct WatchJob {
    /// Where watchers are kept.
    pub(crate) hub: Arc<WatchHub>,
    /// What it reads.
    pub(crate) shared: Arc<SharedState>,
    /// Whether the node hears a leader.
    pub(crate) freshness: Arc<Freshness>,
    /// Where damage is reported.
    pub(crate) failures: FailureReporter,
    /// Which events.
    pub(crate) filter: WatchFilter,
    /// The first revision; `None`: the one after the newest.
    pub(crate) from: Option<u64>,
    /// How often progress is told; `None`: never.
    pub(crate) progress_interval: Option<Duration>,
}

/// Which events a request asks for, and how often it wants to hear of progress.
///
/// # Errors
/// When it makes no sense.
pub fn watch_filter(request: &wire::WatchRequest) -> Result<(WatchFilter, Option<Duration>), Refused> {
    let invalid = |text: &str| Err(error(ErrorCode::Invalid, text));
    let Some(range) = &request.range else { return invalid("a watch needs a range of keys") };
    if request.no_puts && request.no_deletes {
        return invalid("a watch without puts and without deletes has nothing to tell");
    }
    if request.from_revision == Some(0) {
        return invalid("revisions begin at 1; without a first one a watch begins at the next that comes");
    }
    let filter = WatchFilter {
        range: WatchedRange { start: range.start.clone(), end: range.end.clone() },
        previous: request.previous,
        puts: !request.no_puts,
        deletes: !request.no_deletes,
    };
    let interval = Duration::from_millis(request.progress_interval_ms);
    Ok((filter, (!interval.is_zero()).then(|| interval.max(PROGRESS_INTERVAL_MIN))))
}

/// Says why there is no watch.
pub(crate) async fn refuse(responder: WatchResponder, refused: Refused) {
    // A client that is gone does not need the error.
    let _ = responder.send_error(*refused).await;
}

/// An event as watchers get it.
#[must_use]
pub fn watch_event(change: Change) -> wire::WatchEvent {
    let Change { revision, key, value, previous } = change;
    let deleted = value.is_none();
    let kv = match value {
        Some(kv) => key_value(kv),
        None => wire::KeyValue { key, mod_revision: revision, ..wire::KeyValue::default() },
    };
    wire::WatchEvent { deleted, kv: Some(kv), previous: previous.map(key_value) }
}

/// The first revision of a watch that wants to begin at `from`, or after the newest one.
///
/// # Errors
/// [`ReadError::Compacted`] when what happened then can no longer be told.
pub fn first_revision<E: Engine>(from: Option<u64>, reader: &StateReader<E>) -> Result<u64, ReadError> {
    let requested = from.unwrap_or_else(|| reader.revision() + 1);
    let compacted = reader.compacted_revision();
    if requested < compacted { Err(ReadError::Compacted { requested, compacted }) } else { Ok(requested) }
}

/// Why a watch ends.
enum End {
    /// Nobody reads any more, or takes anything.
    Closed,
    /// The state cannot say what happened.
    Failed(ReadError),
    /// The node is stopping.
    Stopping,
}

impl From<AnswerClosed> for End {
    fn from(closed: AnswerClosed) -> End {
        tracing::debug!(%closed, "a watch is given up");
        End::Closed
    }
}

impl WatchJob {
    /// Serves the watch until it ends.
    pub(crate) async fn run(self, mut responder: WatchResponder) {
        let from = match first_revision(self.from, &self.shared.reader()) {
            Ok(from) => from,
            Err(compacted) => return refuse(responder, read_error(&compacted)).await,
        };
        let watching = self.hub.add(self.filter.clone(), from);
        let end = match Sender::begin(&self, &mut responder, from - 1).await {
            Ok(mut sender) => loop {
                if let Err(end) = self.advance(&watching, &mut sender).await {
                    break end;
                }
            },
            Err(closed) => closed.into(),
        };
        drop(watching);
        match end {
            End::Failed(cause) => refuse(responder, read_failed(cause, &self.failures)).await,
            // Dropping the responder breaks the stream off.
            End::Closed | End::Stopping => {}
        }
    }

    /// One step.
    async fn advance(&self, watching: &Watching, sender: &mut Sender<'_>) -> Result<(), End> {
        match watching.step(BATCH_BYTES) {
            Step::Batch { events, through } => {
                if !events.is_empty() {
                    let reply = sender.reply(through, events.iter().map(|event| &event.payload));
                    // They may leave the ring while this waits.
                    drop(events);
                    sender.send(reply).await?;
                }
            }
            Step::Disk(revisions) => {
                let (mut from, last) = (ChangePosition::start_of(*revisions.start()), *revisions.end());
                loop {
                    let part = self.read(from, last).await?;
                    let (through, is_within_revision) = (part.through(), part.is_within_revision());
                    from = part.next;
                    let events: Vec<EncodedWatchEvent> =
                        part.changes.into_iter().map(watch_event).map(EncodedWatchEvent::new).collect();
                    if is_within_revision {
                        let reply = sender.part(through, events.iter());
                        drop(events);
                        sender.send(reply).await?;
                        continue;
                    }
                    watching.have_read(through);
                    if !events.is_empty() || sender.next_progress.is_some_and(|due| due <= Instant::now()) {
                        let reply = sender.reply(through, events.iter());
                        drop(events);
                        sender.send(reply).await?;
                    }
                    return Ok(());
                }
            }
            Step::Wait { through } => {
                tokio::select! {
                    () = watching.woken() => {}
                    () = sender.responder.closed() => return Err(End::Closed),
                    () = until(sender.next_progress) => sender.tell_progress(through, &self.freshness).await?,
                }
            }
        }
        Ok(())
    }

    /// Reads on from a place, on a thread that may wait for the disk, when it is this watcher's turn.
    async fn read(&self, from: ChangePosition, last: u64) -> Result<Changes, End> {
        let turn = self.hub.disk.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (reader, filter) = (self.shared.reader(), self.filter.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // It has kept up, or was allowed to begin here: a compaction alone does not end it, only what is gone.
            reader.recent_changes(from, last, PART, &mut |key, is_delete| filter.interest(key, is_delete))
        });
        match reading.await {
            Ok(read) => read.map_err(End::Failed),
            Err(error) => {
                tracing::warn!(%error, "a watch's read was not carried out");
                Err(End::Stopping)
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The stream, and when something has to be said on it.
struct Sender<'a> {
    responder: &'a mut WatchResponder,
    with_previous: bool,
    interval: Option<Duration>,
    next_progress: Option<Instant>,
}

impl Sender<'_> {
    /// Says where the watch begins: behind `revision`.
    async fn begin<'a>(
        job: &WatchJob,
        responder: &'a mut WatchResponder,
        revision: u64,
    ) -> Result<Sender<'a>, AnswerClosed> {
        let with_previous = job.filter.previous;
        let mut sender = Sender { responder, with_previous, interval: job.progress_interval, next_progress: None };
        sender.send(sender.reply(revision, std::iter::empty())).await?;
        Ok(sender)
    }

    fn reply<'e>(&self, through: u64, events: impl Iterator<Item = &'e EncodedWatchEvent> + Clone) -> WatchFrame {
        self.responder.reply(through, events, self.with_previous)
    }

    fn part<'e>(&self, through: u64, events: impl Iterator<Item = &'e EncodedWatchEvent> + Clone) -> WatchFrame {
        self.responder.part(through, events, self.with_previous)
    }

    async fn send(&mut self, reply: WatchFrame) -> Result<(), AnswerClosed> {
        self.responder.send(reply).await?;
        self.next_progress = self.interval.map(|interval| Instant::now() + interval);
        Ok(())
    }

    /// Silence tells the client of a node that hears no leader to look elsewhere.
    async fn tell_progress(&mut self, through: u64, freshness: &Freshness) -> Result<(), AnswerClosed> {
        let Some(interval) = self.interval else { return Ok(()) };
        if freshness.age().is_some_and(|age| age <= interval.max(PROGRESS_AGE_MAX)) {
            return self.send(self.reply(through, std::iter::empty())).await;
        }
        self.next_progress = Some(Instant::now() + interval);
        Ok(())
    }
}
