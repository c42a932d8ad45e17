//! One node: what outlives its process, and the process.
//!
//! The process is the production code: driver, core, log, state machine, recovery. The threads around the driver are queues here; what
//! each of them does with a job is production code again, done at once at the simulated moment at which the job ends.

use crate::clock::Clock;
use crate::disk::SimDisk;
use crate::engine::SimEngine;
use crate::host::SimHost;
use crate::premises::{Disks, SimPremises};
use crate::random::Random;
use crate::schedule::Time;
use crate::settings::Settings;
use crate::watching::Watches;
use crate::workload::Ask;
use crate::world::Happening;
use raft::{Entry, InstallSnapshot, LogIndex, LogPosition, MembershipChange, NodeId, RepairId, Role, Term};
use raftkv::StartError;
use raftkv::amnesia::{FIRST_START, Loss, RepairMarker};
use raftkv::apply_worker::ApplyWorker;
use raftkv::driver::{
    ApplyJob, ChangeRefusal, ChangeReport, Driver, DriverConfig, Input, PersistJob, RestoredDisk, StateFacts,
};
use raftkv::log_worker::LogWorker;
use raftkv::marker::InstallIntent;
use raftkv::members::MemberView;
use raftkv::peers::PeersNote;
use raftkv::recovery::{Opened, recover};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use storage::state::{Bootstrap, RunBounds, STATE_FORMAT, StateMachine};
use storage::wal::disk::Disk;
use storage::wal::{LogConfig, LogError, LogReader, LogStore, Preparation, SegmentedLog};
use transport::Response;

/// The cluster's name.
pub(crate) const CLUSTER: &str = "simulated";

/// See the module. Numbered from zero; its [`NodeId`] is one more.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disks: Disks,
    pub(crate) presence: Presence,
    /// An operator wrote `joining = true` into its configuration, because it takes itself for the only voter and has lost its disk, or part of it.
    pub(crate) told_to_join: bool,
    /// The newest format that its program knows.
    pub(crate) format_max: u32,
    /// What was done to its disk.
    pub(crate) damage: Damage,
    /// Lives of the process so far.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    pub(crate) clock: Clock,
    pub(crate) drift: i64,
    /// What its wall clock is off by, in milliseconds.
    pub(crate) wall_offset_ms: i64,
    /// The process stands still until then.
    pub(crate) paused_until: Option<Time>,
    /// What has come meanwhile.
    pub(crate) put_off: Vec<Happening>,
    /// Everything takes this many times as long.
    pub(crate) slowness: u32,
    /// The disk makes everybody wait until then.
    pub(crate) stalled_until: Time,
    /// Applied by any life of it.
    pub(crate) applied_ever: LogIndex,
}

/// Whether there is a machine that runs the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has never run.
    Spare,
    /// It runs, or is down and will run again.
    Here,
    /// It was removed from the cluster, has heard of it, and never runs again.
    Gone,
}

/// What may be wrong with a node's disk, as whoever did it knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Damage {
    /// Something that the node promised or acknowledged may be lost, and it is not repaired yet.
    pub(crate) lost: bool,
    /// A fault waits to hit, or lies hidden, so the process may end at any moment, and a start may fail.
    pub(crate) hidden: bool,
    /// What passes for flushed and is not is only lost when the power goes.
    pub(crate) forgotten: bool,
    /// The power went, and it has not started since: its high-water mark is a lower bound.
    pub(crate) dark: bool,
    /// No room.
    pub(crate) full: bool,
}

/// A life of a node.
pub(crate) struct Process {
    pub(crate) driver: Driver<SimHost>,
    pub(crate) host: SimHost,
    pub(crate) inbox: VecDeque<Input>,
    /// When the driver has its next turn, and the number of the happening that gives it.
    pub(crate) turn: Option<Time>,
    pub(crate) turn_number: u64,
    pub(crate) log: LogWorker<SegmentedLog>,
    pub(crate) log_reader: LogReader,
    pub(crate) log_jobs: VecDeque<LogJob>,
    pub(crate) log_work: Option<LogWork>,
    /// The terms of the entries in the log on disk, and of the one before it, as far as known.
    pub(crate) log_terms: BTreeMap<LogIndex, Term>,
    pub(crate) machine: StateMachine<SimEngine>,
    pub(crate) apply: ApplyWorker,
    pub(crate) state_jobs: VecDeque<StateJob>,
    pub(crate) state_busy: bool,
    pub(crate) flushed: LogIndex,
    pub(crate) intent: InstallIntent,
    /// A snapshot that lies complete beside the state in use.
    pub(crate) received: Option<SimEngine>,
    /// Snapshots that it has asked for so far, and the one that it waits for.
    pub(crate) fetches: u64,
    pub(crate) fetching: Option<u64>,
    /// Requests of clients that are not answered yet, by number.
    pub(crate) requests: BTreeMap<u64, Pending>,
    pub(crate) request_number: u64,
    pub(crate) answers: Outbox<(u64, Word)>,
    /// Of those, reads that a read thread has begun and that look at the state while a run is written, by number.
    pub(crate) reading: Vec<u64>,
    pub(crate) role: Role,
    pub(crate) repair: RepairMarker,
    pub(crate) peers: PeersNote,
    pub(crate) desk: Outbox<OperatorWord>,
    /// The change of the membership that an operator asked for and has not heard of.
    pub(crate) change_asked: Option<MembershipChange>,
    /// In which of its lives each peer has connected last.
    pub(crate) connected: BTreeMap<NodeId, u64>,
    /// The members as this node sees them.
    pub(crate) view: Arc<MemberView>,
    /// Who watches.
    pub(crate) watches: Watches,
    /// Members that were removed are spoken to until then.
    pub(crate) leaving: BTreeMap<NodeId, Time>,
}

/// A client's request at a node.
pub(crate) struct Pending {
    pub(crate) client: usize,
    pub(crate) attempt: u64,
    pub(crate) ask: Ask,
}

/// What waiters say, by number of the request.
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub(crate) enum Word {
    /// The answer.
    Answer(Response),
    /// The read may be served.
    MayRead,
}

/// What became of an operator's request.
pub(crate) enum OperatorWord {
    /// Whether another node leads.
    Transfer(bool),
    /// What became of a change of the membership.
    Change(Result<ChangeReport, ChangeRefusal>),
}

/// Where waiters put what they have to say.
pub(crate) struct Outbox<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Outbox<T> {
        Outbox(self.0.clone())
    }
}

impl<T> Default for Outbox<T> {
    fn default() -> Outbox<T> {
        Outbox(Arc::default())
    }
}

impl<T> Outbox<T> {
    pub(crate) fn put(&self, word: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(word);
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the log thread of a real node is asked to do.
pub(crate) enum LogJob {
    Persist(PersistJob),
    Compact(LogPosition),
    Install(InstallSnapshot),
}

/// What it is doing.
pub(crate) enum LogWork {
    Write(Vec<PersistJob>),
    Compact(LogPosition),
    Install(InstallSnapshot),
}

/// What the apply thread of a real node is asked to do.
pub(crate) enum StateJob {
    Apply(ApplyJob),
    Install(InstallSnapshot),
}

/// What a start found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    pub(crate) torn_tail: bool,
    pub(crate) unfinished_install: bool,
    pub(crate) log_last: LogIndex,
    pub(crate) applied: LogIndex,
    /// The node is under repair.
    pub(crate) under_repair: bool,
    /// What this start found to be lost.
    pub(crate) lost: Option<Loss>,
}

/// The place of the node with this number.
/// What a node's runs hold in memory: on every other node nothing that they need not, so that rows of history are written ahead and values are read again.
pub(crate) fn run_bounds(id: NodeId) -> RunBounds {
    if id.0.is_multiple_of(2) {
        RunBounds { held_bytes_max: 0, history_bytes_max: 300, kept_bytes_max: 200 }
    } else {
        RunBounds::default()
    }
}

pub(crate) fn index_of(id: NodeId) -> usize {
    usize::try_from(id.0).expect("few nodes").checked_sub(1).expect("nodes are numbered from 1")
}

impl Node {
    pub(crate) fn new(index: usize, founders: usize, random: &mut Random) -> Node {
        let (log, data) = (SimDisk::new(random.next()), SimDisk::new(random.next()));
        if index < founders {
            let provisioned =
                data.create(FIRST_START).and_then(|file| file.sync()).and_then(|()| data.sync_directory());
            provisioned.expect("a new disk works");
        }
        Node {
            id: NodeId(index as u64 + 1),
            disks: Disks { log, data, engine: SimEngine::new(), has_log_folder: false, has_state: false },
            presence: if index < founders { Presence::Here } else { Presence::Spare },
            told_to_join: false,
            format_max: STATE_FORMAT,
            // An empty directory that nobody vouches for passes for a lost one.
            damage: Damage { lost: index >= founders, ..Damage::default() },
            life: 0,
            process: None,
            clock: Clock::new(Time::START, 0),
            drift: 0,
            wall_offset_ms: 0,
            paused_until: None,
            put_off: Vec::new(),
            slowness: 1,
            stalled_until: Time::START,
            applied_ever: LogIndex::ZERO,
        }
    }

    /// Starts the process: the production recovery, then the driver.
    pub(crate) fn start(&mut self, now: Time, settings: &Settings, seed: u64) -> Result<Found, StartError> {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let provisioned = settings.provisioned(self.id, self.told_to_join);
        let premises = SimPremises {
            format_max: self.format_max,
            run_bounds: run_bounds(self.id),
            log_config: LogConfig {
                segment_bytes: settings.segment_bytes,
                record_bytes_max: settings.record_bytes_max,
                recycled_segments_max: settings.recycled_segments_max,
                preparation: Preparation::Inline,
                ..LogConfig::default()
            },
            bootstrap: Bootstrap { cluster: CLUSTER.to_owned(), membership: provisioned.membership.clone() },
            disks: RefCell::new(&mut self.disks),
            set_aside: Cell::new(None),
            torn_tail: Cell::new(false),
        };
        let intent = InstallIntent::new(Arc::new(premises.disks.borrow().data.clone()));
        let unfinished_install = matches!(intent.unfinished(), Ok(Some(_)));
        let mut numbers = Random::new(seed);
        let opened = recover(&premises, &provisioned, &mut || RepairId(numbers.next()))?;
        let (lost, torn_tail) = (premises.set_aside.get(), premises.torn_tail.get());
        let Opened { log, state: machine, restored, intent, repair, peers } = opened;
        let found = Found {
            torn_tail,
            unfinished_install,
            log_last: restored.log_last,
            applied: restored.applied,
            under_repair: restored.repair.is_some(),
            lost,
        };
        let view = MemberView::new(self.id, &restored.membership, &restored.membership, &provisioned.directory);
        self.clock = Clock::new(now, self.drift);
        let local = self.clock.read(now);
        let host = SimHost::default();
        let config = raft::Config { id: self.id, ..settings.raft };
        let facts = StateFacts::of(&machine);
        let on_disk = RestoredDisk { applied: restored.applied, log_bytes: log.bytes(), facts };
        let core = raft::Node::new(config, restored, local, seed);
        let log_terms = terms_of(&core);
        let driver_config = DriverConfig {
            log_retained_bytes: settings.log_retained_bytes,
            election_timeout: settings.raft.election_timeout,
            format_max: self.format_max,
            founding: provisioned.directory,
            space: settings.space,
        };
        let log_reader = log.reader();
        let watches = Watches::new(machine.revision(), settings);
        self.process = Some(Process {
            driver: Driver::new(core, host.clone(), driver_config, on_disk, local),
            host,
            inbox: VecDeque::new(),
            turn: None,
            turn_number: 0,
            log: LogWorker::new(log),
            apply: ApplyWorker::new(log_reader.clone()),
            log_reader,
            log_jobs: VecDeque::new(),
            log_work: None,
            log_terms,
            machine,
            state_jobs: VecDeque::new(),
            state_busy: false,
            flushed: found.applied,
            intent,
            received: None,
            fetches: 0,
            fetching: None,
            requests: BTreeMap::new(),
            request_number: 0,
            answers: Outbox::default(),
            reading: Vec::new(),
            role: Role::Follower,
            repair,
            peers,
            desk: Outbox::default(),
            change_asked: None,
            connected: BTreeMap::new(),
            view: Arc::new(view),
            watches,
            leaving: BTreeMap::new(),
        });
        Ok(found)
    }

    pub(crate) fn leads(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.driver.core().status().role == Role::Leader)
    }
}

/// The terms of what a node has in its log as it starts.
fn terms_of(core: &raft::Node) -> BTreeMap<LogIndex, Term> {
    let (log, last) = (core.log(), core.status().log_last);
    let indexes = (log.first_index().previous().0..=last.0).map(LogIndex);
    indexes.filter_map(|index| Some((index, log.term(index)?))).collect()
}

impl Process {
    /// Entries were written to the log, over those from the first one's place on. Returns what comes before them, if that is known, and whether others
    /// had been in their place.
    pub(crate) fn note_written(&mut self, entries: &[Entry]) -> (Option<LogPosition>, bool) {
        let first = entries[0].index;
        let replaces = !self.log_terms.split_off(&first).is_empty();
        let before = first.previous();
        let previous = self.log_terms.get(&before).map(|term| LogPosition { term: *term, index: before });
        self.log_terms.extend(entries.iter().map(|entry| (entry.index, entry.term)));
        (previous, replaces)
    }

    /// A snapshot has taken the place of the log.
    pub(crate) fn note_installed(&mut self, install: &InstallSnapshot) {
        if !install.keep_suffix {
            self.log_terms.clear();
        }
        self.log_terms.insert(install.position.index, install.position.term);
    }

    /// Takes the next work for the log: all writes that wait together, or one thing that is not a write.
    pub(crate) fn take_log_work(&mut self) -> Option<&LogWork> {
        assert!(self.log_work.is_none(), "the log does one thing at a time");
        let work = match self.log_jobs.pop_front()? {
            LogJob::Compact(position) => LogWork::Compact(position),
            LogJob::Install(install) => LogWork::Install(install),
            LogJob::Persist(first) => {
                let mut gathered = vec![first];
                while let Some(LogJob::Persist(_)) = self.log_jobs.front() {
                    if let Some(LogJob::Persist(job)) = self.log_jobs.pop_front() {
                        gathered.push(job);
                    }
                }
                LogWork::Write(gathered)
            }
        };
        self.log_work = Some(work);
        self.log_work.as_ref()
    }

    /// Does the work, as the log thread does.
    pub(crate) fn do_log_work(&mut self, work: LogWork) -> Result<Input, LogError> {
        match work {
            LogWork::Write(mut gathered) => self.log.write(&mut gathered),
            LogWork::Compact(position) => self.log.compact(position),
            LogWork::Install(install) => {
                let input = self.log.start_after(install)?;
                // A note that stays is taken away at the next start.
                let _ = self.intent.finish();
                Ok(input)
            }
        }
    }
}
