//! The driver's host in a real process: threads, sockets, files.

use crate::amnesia::RepairMarker;
use crate::apply_thread::StateJob;
use crate::clock::Freshness;
use crate::driver::{ApplyJob, Host, Input, PersistJob, ReadWaiter};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::leaving::{LEAVE_LINKED, LinkedMembers};
use crate::log_thread::LogJob;
use crate::marker::InstallIntent;
use crate::members::Members;
use crate::observer::Observer;
use crate::shared_state::SharedState;
use crate::snapshots::SnapshotFetcher;
use crossbeam_channel::Sender;
use raft::{
    Changed, FetchSnapshot, InstallSnapshot, Instant, Load, LogIndex, LogPosition, Membership, Message, NodeId, Term,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use transport::PeerTransport;

/// Reads served by one thread in one go; more are spread over the threads.
const READS_PER_JOB: usize = 256;

/// See the module.
pub(crate) struct ThreadHost {
    /// To the log thread.
    pub(crate) log: Sender<LogJob>,
    /// To the apply thread.
    pub(crate) state: Sender<StateJob>,
    /// To the loader.
    pub(crate) loads: Sender<Load>,
    /// To the read threads.
    pub(crate) reads: Sender<Vec<ReadWaiter>>,
    /// What reads see.
    pub(crate) shared: Arc<SharedState>,
    /// To the peers.
    pub(crate) links: Arc<dyn PeerTransport>,
    /// Back to the driver.
    pub(crate) inbox: Inbox,
    /// Fetches snapshots.
    pub(crate) snapshots: SnapshotFetcher,
    /// Set while a snapshot is being put in use.
    pub(crate) intent: InstallIntent,
    /// Set while this node is under repair.
    pub(crate) repair: RepairMarker,
    /// Where to say that the node cannot go on.
    pub(crate) failures: FailureReporter,
    /// The embedding program's.
    pub(crate) observer: Box<dyn Observer>,
    /// How old the state is.
    pub(crate) freshness: Arc<Freshness>,
    /// Role, term and leader for the rest of the server.
    pub(crate) role: watch::Sender<Option<Changed>>,
    /// Whom the links go to.
    pub(crate) linked: Arc<Mutex<LinkedMembers>>,
    /// The members, for the rest of the server.
    pub(crate) members: Arc<Members>,
    /// The newest term whose leader the observer was told.
    pub(crate) announced: Option<Term>,
}

/// A send to a thread fails only when that thread has ended, after it reported why: the node is stopping.
fn hand_over<T>(to: &Sender<T>, job: T) {
    let _ = to.send(job);
}

impl Host for ThreadHost {
    fn persist(&mut self, job: PersistJob) {
        hand_over(&self.log, LogJob::Persist(job));
    }

    fn send(&mut self, to: NodeId, message: Message) {
        if let Err(error) = self.links.send(to, message) {
            tracing::trace!(%error, "a message was not sent");
            self.inbox.push(Input::Unreachable { peer: to });
        }
    }

    fn apply(&mut self, job: ApplyJob) {
        hand_over(&self.state, StateJob::Apply(job));
    }

    fn load(&mut self, load: Load) {
        hand_over(&self.loads, load);
    }

    fn serve(&mut self, mut reads: Vec<ReadWaiter>) {
        while reads.len() > READS_PER_JOB {
            let rest = reads.split_off(READS_PER_JOB);
            hand_over(&self.reads, std::mem::replace(&mut reads, rest));
        }
        hand_over(&self.reads, reads);
    }

    fn fetch_snapshot(&mut self, fetch: FetchSnapshot) {
        tracing::info!(from = %fetch.from, at_least = %fetch.at_least, "fetching a snapshot: the leader's log starts after what this node has");
        self.snapshots.fetch(fetch);
    }

    fn install_snapshot(&mut self, install: InstallSnapshot) {
        // The state first, durably; then the log. A crash in between is found and finished at the next start.
        let (log, intent) = (self.log.clone(), self.intent.clone());
        let finished = Box::new(move || {
            if let Err(error) = intent.finish() {
                // The next start does it.
                tracing::warn!(%error, "cannot remove the note about the snapshot's installation");
            }
        });
        let done = Box::new(move || hand_over(&log, LogJob::Install { install, finished }));
        hand_over(&self.state, StateJob::Install { position: install.position, done });
    }

    fn compact(&mut self, position: LogPosition) {
        tracing::debug!(%position, "dropping the log");
        hand_over(&self.log, LogJob::Compact(position));
    }

    fn request_flush(&mut self) {
        let (shared, inbox) = (self.shared.clone(), self.inbox.clone());
        // RocksDB may make whoever asks wait when it is short of room: not the thread that applies.
        let flush: ReadWaiter = Box::new(move |_| {
            let reader = shared.reader();
            match reader.flush(false).and_then(|()| reader.flushed()) {
                Ok(position) => inbox.push(Input::Flushed { index: position.index }),
                Err(error) => tracing::warn!(%error, "RocksDB does not flush"),
            }
        });
        hand_over(&self.reads, vec![flush]);
    }

    fn wall_clock_ms(&mut self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn repaired(&mut self) {
        let (repair, inbox, failures) = (self.repair.clone(), self.inbox.clone(), self.failures.clone());
        // On a thread that may wait for the disk.
        let note: ReadWaiter = Box::new(move |_| match repair.finish() {
            Ok(()) => {
                tracing::info!("this node is repaired: it votes and acknowledges again");
                inbox.push(Input::Repaired);
            }
            Err(source) => failures.report(FatalError::Marker { path: repair.path(), source }),
        });
        hand_over(&self.reads, vec![note]);
    }

    fn changed(&mut self, changed: Changed) {
        let Changed { role, term, leader } = changed;
        tracing::info!(?role, %term, leader = leader.map(|id| id.0), "role changed");
        self.role.send_replace(Some(changed));
        self.observer.state_changed(role, term, leader);
        if let Some(leader) = leader
            && self.announced.is_none_or(|announced| announced < term)
        {
            self.announced = Some(term);
            self.observer.leader_elected(leader, term);
        }
    }

    fn committed(&mut self, index: LogIndex) {
        self.observer.committed(index);
    }

    fn fresh(&mut self, at: Instant) {
        self.freshness.set(at);
    }

    fn membership(&mut self, effective: &Membership, committed: &Membership) {
        let view = self.members.follow(effective, committed);
        let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        tracing::info!(
            voters = ?numbers(effective.voters()),
            voters_outgoing = ?numbers(effective.voters_outgoing()),
            learners = ?numbers(effective.learners()),
            committed = effective == committed,
            standing = view.standing.name(),
            "the members"
        );
        let now = std::time::Instant::now();
        let somebody_left = lock(&self.linked).follow(view.peers.clone(), now);
        set_links(&self.linked, &*self.links);
        if somebody_left {
            let (links, linked) = (self.links.clone(), self.linked.clone());
            self.snapshots.runtime.spawn(async move {
                tokio::time::sleep_until((now + LEAVE_LINKED).into()).await;
                set_links(&linked, &*links);
            });
        }
    }
}

fn lock(linked: &Mutex<LinkedMembers>) -> MutexGuard<'_, LinkedMembers> {
    linked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Under the lock: what was found out last is what the links learn last.
fn set_links(linked: &Mutex<LinkedMembers>, links: &dyn PeerTransport) {
    let mut linked = lock(linked);
    links.set_peers(linked.links(std::time::Instant::now()));
}
