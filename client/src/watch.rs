//! A watch: what is asked for, and the stream of what happened.
//!
//! The stream hands out batches of whole revisions, in order. Behind it a task (`watch_task.rs`) reads, and takes the watch up again after
//! failures, at the revision after the last one that came as a whole: whatever happens to nodes and connections, no event is missed and none comes
//! twice.

use crate::client::Client;
use crate::error::Error;
use crate::request::Range;
use crate::value::{KeyValue, header};
use crate::watch_task::{WatchTask, begin};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transport::proto::client as wire;

/// How often a node says how far a watch is, when nothing else is asked for.
pub const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

/// The shortest interval that nodes go by.
pub const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Watch keys.
///
/// ```
/// use raftkv_client::{Range, Watch};
/// let one = Watch::key("color");
/// let many = Watch::range(Range::prefix("service/")).from_revision(17).with_previous().no_deletes();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    range: Range,
    from: Option<u64>,
    previous: bool,
    no_puts: bool,
    no_deletes: bool,
    progress_interval: Duration,
    pub(crate) progress: bool,
}

impl Watch {
    /// Watch one key.
    pub fn key(key: impl Into<Bytes>) -> Watch {
        Watch::range(Range::key(key))
    }

    /// Watch every key in a range.
    #[must_use]
    pub fn range(range: Range) -> Watch {
        Watch {
            range,
            from: None,
            previous: false,
            no_puts: false,
            no_deletes: false,
            progress_interval: PROGRESS_INTERVAL_DEFAULT,
            progress: false,
        }
    }

    /// Begin with the events of this revision, at least 1; it may lie in the past, unless it is compacted, or in the future. Without it a watch begins
    /// after everything that was acknowledged before it was asked for.
    #[must_use]
    pub fn from_revision(mut self, revision: u64) -> Watch {
        self.from = Some(revision);
        self
    }

    /// With each event, what the key held before.
    #[must_use]
    pub fn with_previous(mut self) -> Watch {
        self.previous = true;
        self
    }

    /// Only deletes.
    #[must_use]
    pub fn no_puts(mut self) -> Watch {
        self.no_puts = true;
        self
    }

    /// Only puts.
    #[must_use]
    pub fn no_deletes(mut self) -> Watch {
        self.no_deletes = true;
        self
    }

    /// How often the node says how far it is when nothing happens, at least [`PROGRESS_INTERVAL_MIN`]. After three intervals without a word the watch goes
    /// on at another node. Default [`PROGRESS_INTERVAL_DEFAULT`].
    #[must_use]
    pub fn progress_every(mut self, interval: Duration) -> Watch {
        self.progress_interval = interval.max(PROGRESS_INTERVAL_MIN);
        self
    }

    /// Hand out what nodes say of their progress, as batches without events: a program that notes down where it is needs no event for that.
    #[must_use]
    pub fn with_progress(mut self) -> Watch {
        self.progress = true;
        self
    }

    /// How long a node may say nothing.
    pub(crate) fn silence_max(&self) -> Duration {
        self.progress_interval.saturating_mul(3)
    }

    /// The same watch, from this revision on.
    pub(crate) fn resumed_at(&self, revision: u64) -> wire::WatchRequest {
        wire::WatchRequest { from_revision: Some(revision), ..self.to_wire() }
    }

    pub(crate) fn to_wire(&self) -> wire::WatchRequest {
        wire::WatchRequest {
            range: Some(self.range.clone().into_wire()),
            from_revision: self.from,
            previous: self.previous,
            no_puts: self.no_puts,
            no_deletes: self.no_deletes,
            progress_interval_ms: u64::try_from(self.progress_interval.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The key was written.
    Put {
        /// What it holds from then on.
        kv: KeyValue,
        /// What it held before, if that was asked for and there was something. Left out also when it is compacted.
        previous: Option<KeyValue>,
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// At which revision.
        revision: u64,
        /// What it held before, if that was asked for. Left out also when it is compacted.
        previous: Option<KeyValue>,
    },
}

impl WatchEvent {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            WatchEvent::Put { kv, .. } => &kv.key,
            WatchEvent::Delete { key, .. } => key,
        }
    }

    /// The revision at which it happened.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            WatchEvent::Put { kv, .. } => kv.mod_revision,
            WatchEvent::Delete { revision, .. } => *revision,
        }
    }

    /// What the key held before.
    #[must_use]
    pub fn previous(&self) -> Option<&KeyValue> {
        match self {
            WatchEvent::Put { previous, .. } | WatchEvent::Delete { previous, .. } => previous.as_ref(),
        }
    }

    pub(crate) fn from_wire(event: wire::WatchEvent) -> WatchEvent {
        let kv = KeyValue::from(event.kv.unwrap_or_default());
        let previous = event.previous.map(KeyValue::from);
        if event.deleted {
            WatchEvent::Delete { revision: kv.mod_revision, key: kv.key, previous }
        } else {
            WatchEvent::Put { kv, previous }
        }
    }
}

/// Whole revisions of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Everything up to and including this revision has come. A later watch goes on at the one after it, with no gap and nothing twice.
    pub revision: u64,
    /// In order.
    pub events: Vec<WatchEvent>,
}

/// The events of a watch, as they come. Dropping it ends the watch.
///
/// A program that does not ask for events for a second loses the stream to its node, not the events: the watch is taken up again where it was.
#[derive(Debug)]
pub struct WatchStream {
    batches: mpsc::Receiver<Result<WatchBatch, Error>>,
    begin: u64,
    ended: Option<Error>,
    task: JoinHandle<()>,
}

impl WatchStream {
    pub(crate) async fn open(client: Client, watch: Watch) -> Result<WatchStream, Error> {
        let open = begin(&client, watch.to_wire()).await?;
        let begin = header(open.first.header).0 + 1;
        // One batch waits here; the task has the next one in hand.
        let (sender, batches) = mpsc::channel(1);
        let task = tokio::spawn(WatchTask::new(client, watch, begin, open, sender).run());
        Ok(WatchStream { batches, begin, ended: None, task })
    }

    /// The next batch; waits until there is one. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// When the watch cannot go on at any node, above all [`Error::CompactedRevision`]. It has ended then, and says the same again. A cluster that cannot be
    /// reached is no error: the watch waits for it.
    pub async fn next(&mut self) -> Result<WatchBatch, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        match self.batches.recv().await {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(error)) => {
                self.ended = Some(error.clone());
                Err(error)
            }
            None => {
                let (endpoint, cause) = (String::new(), "the runtime of this watch is stopping".to_owned());
                Err(Error::Unavailable { endpoint, cause })
            }
        }
    }

    /// The first revision whose events it hands out.
    #[must_use]
    pub fn first_revision(&self) -> u64 {
        self.begin
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_taken_up_again_as_it_was_asked_for() {
        let watch = Watch::range(Range::prefix("a")).with_previous().no_deletes().progress_every(Duration::ZERO);
        let resumed = watch.resumed_at(17);
        assert_eq!(resumed, wire::WatchRequest { from_revision: Some(17), ..watch.to_wire() });
        assert!(resumed.previous && resumed.no_deletes && !resumed.no_puts);
        assert_eq!((resumed.progress_interval_ms, watch.silence_max()), (100, Duration::from_millis(300)));
        assert_eq!(watch.to_wire().from_revision, None);
        assert_eq!(watch.progress_every(Duration::MAX).silence_max(), Duration::MAX);
    }
}
