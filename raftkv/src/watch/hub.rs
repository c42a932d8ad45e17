//! The table of watchers between threads, and the thread that gathers events for it.
//!
//! The apply thread only rings: if somebody watches, it leaves one note in a channel of one place, and goes on. The gatherer reads what has
//! been applied by then, in parts, so a burst of runs is gathered together. The lock around the table is held for a look at the index or a
//! batch's worth of reference counts, never during a read from disk, an encoding or a write to a stream.
//!
//! While nobody watches no bell is rung and the table falls behind. Whoever comes first brings it up to date. It counts itself in *before*
//! it looks at the newest revision, and the apply thread looks for watchers *after* it has published one: so either the watcher sees the
//! revision or the apply thread sees the watcher.

use super::serve::watch_event;
use super::table::{Gathered, Step, WatchFilter, WatchTable, WatcherId};
use crate::failure::{FailureReporter, FatalError};
use crate::shared_state::SharedState;
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::state::{ChangePosition, Interest, PartBounds, ReadError};
use tokio::sync::{Notify, Semaphore};
use transport::EncodedWatchEvent;

/// Bytes of events that are kept for all watchers together.
const RING_BYTES_MAX: usize = 16 << 20;
/// What an event takes of the ring beside its bytes, about.
const EVENT_OVERHEAD_BYTES: usize = 160;
/// How much is gathered at a time.
const PART: PartBounds = PartBounds { bytes: 1 << 20, revision_bytes: RING_BYTES_MAX };
/// Watchers that read from disk at the same time; more wait for their turn.
const DISK_READERS_MAX: usize = 4;

/// See the module.
pub(crate) struct WatchHub {
    shared: Arc<SharedState>,
    inner: Mutex<Inner>,
    /// How many watchers there are, for those who do not want to wait for the lock.
    watchers: AtomicUsize,
    /// Places for watchers that read from disk.
    pub(super) disk: Arc<Semaphore>,
}

struct Inner {
    table: WatchTable<EncodedWatchEvent>,
    bells: HashMap<WatcherId, Arc<Notify>>,
}

impl WatchHub {
    /// A hub without watchers, of this state.
    pub(crate) fn new(shared: Arc<SharedState>) -> WatchHub {
        let table = WatchTable::new(shared.reader().revision(), RING_BYTES_MAX);
        WatchHub {
            shared,
            inner: Mutex::new(Inner { table, bells: HashMap::new() }),
            watchers: AtomicUsize::new(0),
            disk: Arc::new(Semaphore::new(DISK_READERS_MAX)),
        }
    }

    /// A watcher comes, who wants the events from revision `from` on.
    pub(super) fn add(self: &Arc<Self>, filter: WatchFilter, from: u64) -> Watching {
        let bell = Arc::new(Notify::new());
        let mut inner = self.lock();
        self.watchers.store(inner.table.watchers() + 1, Ordering::Relaxed);
        // With the one in `ring`: of the two stores, one is seen by the other side's load.
        fence(Ordering::SeqCst);
        let id = inner.table.add(filter, from, self.shared.reader().revision());
        inner.bells.insert(id, bell.clone());
        drop(inner);
        Watching { hub: self.clone(), id, bell }
    }

    fn remove(&self, id: WatcherId) {
        let mut inner = self.lock();
        inner.table.remove(id);
        inner.bells.remove(&id);
        self.watchers.store(inner.table.watchers(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and wakes who has to be woken.
    fn update(&self, change: impl FnOnce(&mut WatchTable<EncodedWatchEvent>, &mut Vec<WatcherId>)) {
        let mut inner = self.lock();
        let mut wake = Vec::new();
        change(&mut inner.table, &mut wake);
        let bells: Vec<Arc<Notify>> = wake.iter().map(|id| inner.bells[id].clone()).collect();
        drop(inner);
        bells.iter().for_each(|bell| bell.notify_one());
    }

    /// Gathers everything that is applied.
    fn gather(&self, failures: &FailureReporter) -> Result<(), Stopped> {
        loop {
            let reader = self.shared.reader();
            let Some(revisions) = self.lock().table.gather(reader.revision()) else { return Ok(()) };
            let (first, last) = revisions.into_inner();
            let mut interest = |key: &[u8], is_delete: bool| -> Interest { self.lock().table.interest(key, is_delete) };
            // A watcher that keeps up is told what happened also if it has been compacted a moment later.
            match reader.recent_changes(ChangePosition::start_of(first), last, PART, &mut interest) {
                // Too large for the ring: whoever wants it reads it, a part at a time.
                Ok(part) if part.is_within_revision() => self.update(|table, wake| table.skip(first, wake)),
                Ok(part) => {
                    let through = part.through();
                    let events = part.changes.into_iter().map(|change| {
                        let (revision, key, is_delete) = (change.revision, change.key.clone(), change.value.is_none());
                        let payload = EncodedWatchEvent::new(watch_event(change));
                        let bytes = payload.bytes() + EVENT_OVERHEAD_BYTES;
                        Gathered { revision, key, is_delete, bytes, payload }
                    });
                    let events = events.collect();
                    self.update(|table, wake| table.publish(through, events, wake));
                }
                Err(ReadError::Corrupt(row)) => {
                    failures.report(FatalError::State(row.into()));
                    return Err(Stopped);
                }
                Err(ReadError::Engine(engine)) if engine.is_corruption() => {
                    failures.report(FatalError::State(engine.into()));
                    return Err(Stopped);
                }
                // Whoever needs these revisions meets the same when it reads them, and its client hears of it.
                Err(
                    error @ (ReadError::Compacted { .. }
                    | ReadError::Future { .. }
                    | ReadError::TooLarge(_)
                    | ReadError::Engine(_)),
                ) => {
                    tracing::warn!(%error, "changes cannot be gathered for watches");
                    self.update(|table, wake| table.skip(last, wake));
                }
            }
        }
    }
}

/// The node cannot go on, and that has been reported.
struct Stopped;

/// A watcher in the table, for as long as this lives.
pub(super) struct Watching {
    hub: Arc<WatchHub>,
    id: WatcherId,
    bell: Arc<Notify>,
}

impl Watching {
    /// What to do next.
    pub(super) fn step(&self, bytes_max: usize) -> Step<EncodedWatchEvent> {
        self.hub.lock().table.step(self.id, bytes_max)
    }

    /// Revisions up to this one were read from disk.
    pub(super) fn have_read(&self, through: u64) {
        self.hub.lock().table.have_read(self.id, through);
    }

    /// Waits until there may be more.
    pub(super) async fn woken(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.hub.remove(self.id);
    }
}

/// The apply thread's end: more is applied.
pub(crate) struct WatchBell {
    hub: Arc<WatchHub>,
    sender: Sender<()>,
}

impl WatchBell {
    /// A bell, and what the gatherer listens to. The gatherer ends when the bell is dropped.
    pub(crate) fn new(hub: Arc<WatchHub>) -> (WatchBell, Receiver<()>) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        (WatchBell { hub, sender }, receiver)
    }

    /// More is applied, and published. Never waits.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.hub.watchers.load(Ordering::Relaxed) > 0 {
            // Full: the gatherer has not taken the last ring yet, and will look then. Gone: the node is stopping.
            let _ = self.sender.try_send(());
        }
    }
}

/// The gatherer's thread: runs until the bell is gone.
pub(crate) fn run_gatherer(hub: &WatchHub, rings: &Receiver<()>, failures: &FailureReporter) {
    for () in rings {
        if hub.gather(failures).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::state::published;
    use crate::watch::WatchedRange;
    use bytes::Bytes;
    use raft::{Entry, EntryKind, LogIndex, Membership, Term};
    use std::ops::RangeInclusive;
    use std::path::Path;
    use storage::command::{BatchEncoder, Command, Put};
    use storage::state::{Bootstrap, RocksEngine, RocksOptions, STATE_FORMAT, StateMachine};

    fn machine(directory: &Path) -> StateMachine {
        let bootstrap = Bootstrap { cluster: "test".to_owned(), membership: Membership::default() };
        StateMachine::open(RocksEngine::create(directory, &RocksOptions::default()).unwrap(), &bootstrap).unwrap()
    }

    /// Each entry is a put, so entry n takes revision n + 1.
    fn apply(machine: &mut StateMachine, entries: RangeInclusive<u64>) {
        for index in entries {
            apply_one(machine, index, &Command::Put(Put::new(b"k", &index.to_be_bytes())));
        }
    }

    fn apply_one(machine: &mut StateMachine, index: u64, command: &Command<'_>) {
        let mut encoder = BatchEncoder::new();
        encoder.append(command);
        let payload = encoder.take();
        let entry = Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload };
        machine.apply(&[entry], &mut Vec::new()).unwrap();
    }

    fn hub_of(machine: &StateMachine) -> Arc<WatchHub> {
        Arc::new(WatchHub::new(Arc::new(SharedState::new(machine.reader(), published(machine)))))
    }

    fn everything() -> WatchFilter {
        let range = WatchedRange { start: Bytes::new(), end: None };
        WatchFilter { range, previous: false, puts: true, deletes: true }
    }

    fn gather(hub: &WatchHub) {
        let (failures, _failed) = FailureReporter::new();
        assert!(hub.gather(&failures).is_ok());
    }

    /// The revisions of the events that are there for a watcher, whose reads from disk find one in each revision.
    fn take(watching: &Watching) -> Vec<u64> {
        let mut revisions = Vec::new();
        loop {
            match watching.step(1 << 20) {
                Step::Batch { events, .. } => revisions.extend(events.iter().map(|event| event.revision)),
                Step::Disk(read) => {
                    watching.have_read(*read.end());
                    revisions.extend(read);
                }
                Step::Wait { .. } => return revisions,
            }
        }
    }

    #[test]
    fn a_watcher_misses_nothing_when_its_node_switches_to_a_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let (mut behind, mut ahead) = (machine(&folder.path().join("behind")), machine(&folder.path().join("ahead")));
        apply(&mut behind, 1..=2);
        let hub = hub_of(&behind);
        let watching = hub.add(everything(), 4);
        apply(&mut behind, 3..=4);
        gather(&hub);
        assert_eq!(take(&watching), [4, 5]);
        // Applied, and not gathered yet.
        apply(&mut behind, 5..=5);
        apply(&mut ahead, 1..=9);
        hub.shared.replace(ahead.reader(), published(&ahead));
        gather(&hub);
        assert_eq!(take(&watching), [6, 7, 8, 9, 10]);
    }

    /// It has kept up, so it is told, however soon the past is let go of.
    #[test]
    fn a_compaction_right_after_a_change_does_not_end_a_watch() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = machine(&folder.path().join("db"));
        for format in machine.format() + 1..=STATE_FORMAT {
            let index = machine.applied().index.0 + 1;
            apply_one(&mut machine, index, &Command::RaiseFormat { to: format });
        }
        let hub = hub_of(&machine);
        let first = machine.applied().index.0 + 1;
        let from = machine.revision() + 1;
        let watching = hub.add(everything(), from);
        apply(&mut machine, first..=first + 4);
        apply_one(&mut machine, first + 5, &Command::Compact { revision: from + 4 });
        assert_eq!(machine.reader().compacted_revision(), from + 4);
        gather(&hub);
        let Step::Batch { events, through } = watching.step(1 << 20) else { panic!("the watcher is sent to disk") };
        let revisions: Vec<u64> = events.iter().map(|event| event.revision).collect();
        assert_eq!((revisions, through), ((from..=from + 4).collect(), from + 4));
    }

    #[test]
    fn the_first_watcher_finds_what_was_applied_while_nobody_watched() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = machine(&folder.path().join("db"));
        let hub = hub_of(&machine);
        apply(&mut machine, 1..=5);
        let watching = hub.add(everything(), 3);
        apply(&mut machine, 6..=7);
        gather(&hub);
        assert_eq!(take(&watching), [3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_bell_rings_only_while_somebody_watches_and_never_waits() {
        let folder = tempfile::tempdir().unwrap();
        let hub = hub_of(&machine(&folder.path().join("db")));
        let (bell, rings) = WatchBell::new(hub.clone());
        bell.ring();
        assert!(rings.is_empty());
        let watching = hub.add(everything(), 1);
        bell.ring();
        bell.ring();
        assert_eq!(rings.len(), 1);
        drop(watching);
        assert!(rings.try_recv().is_ok());
        bell.ring();
        assert!(rings.is_empty());
    }
}
