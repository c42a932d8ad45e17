//! Jobs that take simulated time: writing the log, applying, snapshots. What is done when a job ends is production code.

use crate::engine::SimEngine;
use crate::faults::FaultKind;
use crate::node::{LogJob, LogWork, Node, OperatorWord, Process, StateJob, run_bounds};
use crate::world::{InProcess, World};
use raft::{FetchSnapshot, InstallSnapshot, Load};
use raftkv::FatalError;
use raftkv::amnesia::{DamageNote, Loss};
use raftkv::directory::MemberDirectory;
use raftkv::driver::{ApplyEntries, ApplyJob, Input, StateFacts};
use raftkv::members::Standing;
use std::sync::Arc;
use std::time::Duration;
use storage::state::StateMachine;
use storage::wal::LogError;

/// What a flush of the log takes.
const FLUSH_TIME: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(8));
/// What a run of applying takes.
const APPLY_TIME: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(2));
/// What a snapshot takes to travel.
const TRANSFER_TIME: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(3));
/// How long a node waits before it says that it did not get a snapshot.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn add_log_job(&mut self, node: usize, job: LogJob) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.log_jobs.push_back(job);
        self.start_log_work(node);
    }

    fn start_log_work(&mut self, node: usize) {
        let now = self.schedule.now();
        let delay = self.random.latency(FLUSH_TIME.0, FLUSH_TIME.1);
        let stall = self.nodes[node].stalled_until.since(now);
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.log_work.is_none() && process.take_log_work().is_some() {
            let delay = delay * self.nodes[node].slowness;
            self.later(node, delay + stall, InProcess::LogDone);
        }
    }

    pub(crate) fn log_done(&mut self, node: usize) {
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let work = process.log_work.take().expect("work is under way");
        let replaces = self.note_log_work(node, &work);
        let installed = matches!(work, LogWork::Install(_));
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let done = process.do_log_work(work);
        if replaces {
            self.counters.count("log: entries replaced by a new leader");
        }
        match done {
            Ok(input) => {
                if installed {
                    self.note_install(node);
                }
                self.push(node, input);
                self.start_log_work(node);
            }
            Err(error) => self.fail(node, &FatalError::Log(error)),
        }
    }

    /// Notes what is about to be on the disk. Says whether it replaces something.
    pub(crate) fn note_log_work(&mut self, node: usize, work: &LogWork) -> bool {
        let process = self.nodes[node].process.as_mut().expect("whoever works runs");
        let mut replaces = false;
        match work {
            LogWork::Write(gathered) => {
                for entries in gathered.iter().map(|job| &job.entries).filter(|entries| !entries.is_empty()) {
                    let (previous, replaced) = process.note_written(entries);
                    self.checks.written(node, previous, entries);
                    replaces |= replaced;
                }
            }
            LogWork::Compact(position) => {
                self.counters.count("log: compacted");
                self.trace.line(self.schedule.now(), format_args!("node {}: log dropped up to {position}", node + 1));
            }
            LogWork::Install(install) => process.note_installed(install),
        }
        replaces
    }

    fn note_install(&mut self, node: usize) {
        self.counters.count("snapshot: installed");
        if self.network.is_partitioned() {
            self.counters.count("snapshot: installed during a partition");
        }
        self.say(format_args!("node {}: a snapshot is installed", node + 1));
    }

    pub(crate) fn add_state_job(&mut self, node: usize, job: StateJob) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.state_jobs.push_back(job);
        self.start_state_job(node);
    }

    fn start_state_job(&mut self, node: usize) {
        let delay = self.random.latency(APPLY_TIME.0, APPLY_TIME.1);
        let Some(process) = &mut self.nodes[node].process else { return };
        if !process.state_busy && !process.state_jobs.is_empty() {
            process.state_busy = true;
            self.later_at_its_speed(node, delay, InProcess::StateDone);
        }
    }

    pub(crate) fn state_done(&mut self, node: usize) {
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        process.state_busy = false;
        let job = process.state_jobs.pop_front().expect("a job is under way");
        let done = match job {
            StateJob::Apply(job) => self.apply(node, job),
            StateJob::Install(install) => self.switch_state(node, install),
        };
        if let Err(error) = done {
            return self.fail(node, &error);
        }
        self.forward_answers(node);
        if self.is_removed(node) {
            return self.leave(node);
        }
        self.start_state_job(node);
    }

    /// Whether what a node has applied says that it was removed.
    fn is_removed(&self, node: usize) -> bool {
        let Node { id, process, told_to_join, .. } = &self.nodes[node];
        let Some(process) = process else { return false };
        let membership = process.machine.membership();
        let directory = MemberDirectory::of(membership, &self.settings.provisioned(*id, *told_to_join).directory);
        Standing::of(*id, membership, &directory) == Standing::Removed
    }

    fn apply(&mut self, node: usize, job: ApplyJob) -> Result<(), FatalError> {
        let now = self.schedule.now();
        if matches!(job.entries, ApplyEntries::OnDisk(_)) {
            self.counters.count("log: entries to apply read from disk");
        }
        let reads = self.read_meanwhile(node);
        let checks = &mut self.checks;
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let term = process.driver.core().status().term;
        let format = process.machine.format();
        let index = process.apply.apply(&mut process.machine, job, |machine, entries| {
            checks.applied(now, node, term, entries, machine.state_hash());
        })?;
        self.answer_reads(node, &reads);
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        // Now and then a memtable is full.
        if self.random.chance(20) {
            process.machine.flush(false).map_err(FatalError::State)?;
        }
        if self.random.chance(500) {
            process.flushed = process.machine.flushed().map_err(FatalError::State)?.index;
        }
        note_peers(process)?;
        let (flushed, facts) = (process.flushed, StateFacts::of(&process.machine));
        let applied_ever = &mut self.nodes[node].applied_ever;
        *applied_ever = (*applied_ever).max(index);
        self.trace.note(now, 2, index.0);
        if facts.format != format {
            self.counters.count("upgrade: a node applied a raise of the format");
        }
        self.push(node, Input::Applied { index, flushed, facts });
        self.ring_watches(node);
        Ok(())
    }

    /// Puts the received snapshot in use; the log comes next.
    fn switch_state(&mut self, node: usize, install: InstallSnapshot) -> Result<(), FatalError> {
        if install.keep_suffix {
            self.counters.count("snapshot: installed over a log that holds its last entry");
        }
        let Node { disks, process, id, format_max, .. } = &mut self.nodes[node];
        let process = process.as_mut().expect("void in later lives");
        if let Err(source) = process.intent.begin(install.position) {
            let path = process.intent.path();
            return Err(FatalError::Install(raftkv::InstallError::Intent { path, source }));
        }
        let received = process.received.take().expect("the core installs what was received");
        let mut machine = StateMachine::open_existing(received.clone()).map_err(FatalError::State)?;
        machine.bound_runs(run_bounds(*id));
        machine.hold_format(*format_max).map_err(|error| FatalError::Install(raftkv::InstallError::Format(error)))?;
        assert_eq!(machine.applied(), install.position, "node {id}: the snapshot switched to is the one verified");
        self.checks.state(node, install.position, machine.state_hash());
        disks.engine = received;
        process.machine = machine;
        process.flushed = install.position.index;
        note_peers(process)?;
        let facts = StateFacts::of(&process.machine);
        self.push(node, Input::StateReplaced { facts });
        self.ring_watches(node);
        self.add_log_job(node, LogJob::Install(install));
        Ok(())
    }

    pub(crate) fn loaded(&mut self, node: usize, load: Load) {
        self.counters.count("log: entries for a follower read from disk");
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let entries = match process.log_reader.entries(load.entries, load.bytes_max) {
            Ok(entries) => entries,
            Err(LogError::Compacted { .. } | LogError::NotWritten { .. }) => Vec::new(),
            Err(error) => return self.fail(node, &FatalError::Log(error)),
        };
        self.push(node, Input::Loaded { peer: load.peer, entries });
    }

    pub(crate) fn flush_state(&mut self, node: usize) {
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let flushed = process.machine.flush(false).map_err(FatalError::State);
        match flushed.and_then(|()| process.machine.flushed().map_err(FatalError::State)) {
            Ok(position) => self.push(node, Input::Flushed { index: position.index }),
            Err(error) => self.fail(node, &error),
        }
    }

    /// A fetch came to nothing, if it has not been given up before.
    pub(crate) fn snapshot_failed(&mut self, node: usize, fetch: u64) {
        if self.takes_fetch(node, fetch) {
            self.later(node, SNAPSHOT_RETRY, InProcess::Input(Input::SnapshotFailed));
        }
    }

    /// Whether a node still waits for this fetch; it does no more.
    fn takes_fetch(&mut self, node: usize, fetch: u64) -> bool {
        let process = self.nodes[node].process.as_mut();
        process.is_some_and(|process| process.fetching.take_if(|current| *current == fetch).is_some())
    }

    /// A peer asks for a snapshot: it gets a copy of the state as it is.
    pub(crate) fn open_snapshot(
        &mut self,
        node: usize,
        peer: usize,
        peer_life: u64,
        fetch: FetchSnapshot,
        number: u64,
    ) {
        let at_least = fetch.at_least;
        if self.nodes[peer].life != peer_life {
            return;
        }
        let given = self.nodes[node].process.as_ref().and_then(|process| {
            (process.machine.applied() >= at_least).then(|| process.machine.reader().engine().fork())
        });
        let from_life = self.nodes[node].life;
        match given {
            Some(engine) => {
                let delay = self.random.latency(TRANSFER_TIME.0, TRANSFER_TIME.1);
                let what = InProcess::SnapshotArrived { fetch: number, from: node, from_life, engine };
                self.later(peer, delay, what);
            }
            None => self.snapshot_failed(peer, number),
        }
    }

    pub(crate) fn snapshot_arrived(&mut self, node: usize, fetch: u64, from: usize, from_life: u64, engine: SimEngine) {
        let fails = self.settings.faults.is_on(FaultKind::SnapshotFailures) && self.random.chance(300);
        let gone = self.nodes[from].life != from_life || self.nodes[from].process.is_none();
        if fails {
            self.counters.count("snapshot: broken off on its way");
        }
        if fails || gone || self.network.is_cut(from, node) {
            self.counters.count("snapshot: transfer failed half way");
            return self.snapshot_failed(node, fetch);
        }
        if !self.takes_fetch(node, fetch) {
            return;
        }
        let machine = StateMachine::open_existing(engine.clone()).expect("a copy of a state is a state");
        let (position, membership) = (machine.applied(), machine.membership().clone());
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        process.received = Some(engine);
        self.say(format_args!("node {}: a snapshot at {position} has come from node {}", node + 1, from + 1));
        self.push(node, Input::SnapshotFetched { position, membership });
    }

    /// The node notes that it is repaired.
    pub(crate) fn repaired(&mut self, node: usize) {
        let process = self.nodes[node].process.as_ref().expect("void in later lives");
        if let Err(source) = process.repair.finish() {
            let path = process.repair.path();
            return self.fail(node, &FatalError::Marker { path, source });
        }
        self.counters.count("repair: a node was repaired");
        self.nodes[node].damage.lost = self.nodes[node].damage.hidden;
        self.say(format_args!("node {}: is repaired", node + 1));
        self.push(node, Input::Repaired);
    }

    /// What the driver has told the operator.
    pub(crate) fn hear_desk(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        for word in process.desk.take() {
            match word {
                OperatorWord::Change(answer) => self.change_answered(node, answer),
                OperatorWord::Transfer(true) => self.counters.count("leadership: transfer completed"),
                OperatorWord::Transfer(false) => self.counters.count("leadership: transfer given up"),
            }
        }
    }

    /// The process cannot go on, and ends. What it found damaged it notes for its next start, as the server does.
    pub(crate) fn fail(&mut self, node: usize, error: &FatalError) {
        self.say(format_args!("node {}: stops: {error}", node + 1));
        if self.is_too_old(node, error) {
            return self.kill(node);
        }
        let damage = self.nodes[node].damage;
        assert!(damage.hidden || damage.full, "node {} stops, and nothing was done to its disk: {error:?}", node + 1);
        self.counters.count("process: stopped by its disk");
        let Node { id, process, .. } = &self.nodes[node];
        let has_peers = process.as_ref().is_some_and(|process| process.view.has_other_voters(*id));
        if let Some(loss) = Loss::behind_failure(error).filter(|_| has_peers) {
            self.counters.count("repair: damage found while running");
            // If the note fails too, the next start finds out by itself.
            let _ = DamageNote::new(Arc::new(self.nodes[node].disks.data.clone())).write(loss);
        }
        self.kill(node);
        if damage.forgotten {
            // What passes for flushed is lost at last.
            let disks = &self.nodes[node].disks;
            disks.log.crash(&mut self.random);
            disks.data.crash(&mut self.random);
        }
    }
}

/// As the apply thread does, before anybody hears of what is applied.
fn note_peers(process: &mut Process) -> Result<(), FatalError> {
    let noted = process.peers.follow(process.machine.applied().index, process.machine.membership());
    noted.map_err(|source| FatalError::Marker { path: process.peers.path(), source })
}
