//! Starts and ends of processes, and pauses.

use crate::clients::address_of;
use crate::node::{Found, LogWork, Presence, Process, StateJob};
use crate::schedule::Time;
use crate::world::{AtClient, AtNode, Happening, InProcess, World};
use client::policy::Failure;
use raft::Role;
use raftkv::StartError;
use std::time::Duration;
use storage::state::{StateError, StoreError};
use storage::wal::disk::Disk;

/// How long a node is down.
const DOWN_TIME: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(15));

impl World {
    pub(crate) fn at_node(&mut self, node: usize, what: AtNode) {
        if self.nodes[node].paused_until.is_some() && !matches!(what, AtNode::Resume | AtNode::Start) {
            return self.nodes[node].put_off.push(Happening::Node { node, what });
        }
        match what {
            AtNode::Start => self.start(node),
            AtNode::Resume => self.resume(node),
            AtNode::Deliver { from, from_life, to_life, parcel, late } => {
                self.deliver(node, from, (from_life, to_life), parcel, late);
            }
            AtNode::Ask { client, attempt, ask } => self.asked(node, client, attempt, ask),
            AtNode::Watch { watcher, stream, request } => self.watch_asked(node, watcher, stream, &request),
            AtNode::Unwatch { watcher, stream } => self.unwatch(node, watcher, stream),
            AtNode::OpenSnapshot { peer, peer_life, fetch, number } => {
                self.open_snapshot(node, peer, peer_life, fetch, number);
            }
        }
    }

    pub(crate) fn in_process(&mut self, node: usize, life: u64, what: InProcess) {
        if self.nodes[node].life != life || self.nodes[node].process.is_none() {
            return;
        }
        if self.nodes[node].paused_until.is_some() {
            return self.nodes[node].put_off.push(Happening::Process { node, life, what });
        }
        match what {
            InProcess::Turn { number } => self.turn(node, number),
            InProcess::LogDone => self.log_done(node),
            InProcess::StateDone => self.state_done(node),
            InProcess::Loaded(load) => self.loaded(node, load),
            InProcess::Serve(reads) => self.serve(node, reads),
            InProcess::Flush => self.flush_state(node),
            InProcess::Repaired => self.repaired(node),
            InProcess::Space => self.look_at_space(node),
            InProcess::GatherWatched => self.gather_watched(node),
            InProcess::PublishWatched(part) => self.publish_watched(node, part),
            InProcess::WatchStep(id) => self.watch_step(node, id),
            InProcess::WatchRead(id, from, last) => self.watch_read(node, id, from, last),
            InProcess::WatchProgress(id) => self.watch_progress(node, id),
            InProcess::Input(input) => self.push(node, input),
            InProcess::FetchTimedOut { number } => self.snapshot_failed(node, number),
            InProcess::SnapshotArrived { fetch, from, from_life, engine } => {
                self.snapshot_arrived(node, fetch, from, from_life, engine);
            }
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() || self.nodes[node].presence != Presence::Here {
            return;
        }
        let now = self.schedule.now();
        // A start that is cut short: it must leave everything so that the next one succeeds.
        let hidden = self.nodes[node].damage.hidden && !self.nodes[node].damage.forgotten;
        let cut_short = self.crashes_are_on() && !hidden && self.random.chance(100);
        if cut_short {
            let after = u32::try_from(self.random.below(12)).expect("small");
            self.nodes[node].disks.log.cut_power_after(after);
            self.nodes[node].disks.data.cut_power_after(after);
        }
        self.change_program(node);
        self.nodes[node].life += 1;
        let seed = self.random.next();
        let started = self.nodes[node].start(now, &self.settings, seed);
        if let Err(StartError::Removed { .. }) = started {
            return self.leave(node);
        }
        if cut_short {
            self.counters.count("process: crash in the middle of recovery");
            self.say(format_args!("node {}: power cut while it starts", node + 1));
            self.end(node, true);
            return self.schedule_start(node);
        }
        let found = match started {
            Ok(found) => found,
            Err(StartError::Store(StoreError::State { source: StateError::UnknownFormat { .. }, .. })) => {
                self.counters.count("upgrade: an older program refused to start on a newer state");
                self.install_newest(node);
                self.end(node, false);
                return self.schedule_start(node);
            }
            Err(error) if self.takes_itself_for_alone(node, &error) => {
                self.counters.count("recovery: an operator says that a node has peers");
                self.say(format_args!("node {}: does not start: {error}", node + 1));
                self.tell_to_join(node);
                self.end(node, false);
                return self.schedule_start(node);
            }
            Err(error) => {
                let damage = self.nodes[node].damage;
                assert!(
                    damage.hidden || damage.full,
                    "node {} does not start in its life {}: {error:?}: {error}",
                    node + 1,
                    self.nodes[node].life
                );
                self.counters.count("recovery: a start failed on a failing disk");
                self.say(format_args!("node {}: does not start: {error}", node + 1));
                self.end(node, false);
                return self.schedule_start(node);
            }
        };
        let life = self.nodes[node].life;
        self.say(format_args!("node {}: life {life} begins: {found:?}", node + 1));
        self.note_found(node, found);
        self.settle_damage(node, found);
        if let Some(process) = &self.nodes[node].process {
            self.checks.state(node, process.machine.applied(), process.machine.state_hash());
        }
        self.schedule_turn(node, now);
        let delay = self.random.duration(Duration::ZERO, Duration::from_secs(1));
        self.later(node, delay, InProcess::Space);
    }

    /// Whether a node does not start because it has lost something and takes itself for the only voter: a founder whose disk is gone, or one that
    /// had not applied yet that others vote too. The account says that there are others.
    fn takes_itself_for_alone(&self, node: usize, error: &StartError) -> bool {
        let is_alone = matches!(error, StartError::NeverStarted { .. } | StartError::NoPeers { .. });
        is_alone && self.nodes[node].damage.lost
    }

    /// The operator does what the error says.
    fn tell_to_join(&mut self, node: usize) {
        let joins = self.settings.provisioned(self.nodes[node].id, self.nodes[node].told_to_join).joining;
        let state = &mut self.nodes[node];
        state.told_to_join = true;
        if joins {
            let data = &state.disks.data;
            let removed = data.remove("PEERS").and_then(|()| data.sync_directory());
            removed.expect("a node that joined takes itself for alone because of its note only");
        }
    }

    fn note_found(&mut self, node: usize, found: Found) {
        if found.torn_tail {
            self.counters.count("recovery: torn tail dropped");
        }
        if found.unfinished_install {
            self.counters.count("recovery: unfinished installation of a snapshot finished");
        }
        if found.log_last > found.applied {
            self.counters.count("recovery: log longer than what was applied");
        }
        if found.lost.is_none() && !found.under_repair && found.applied < self.nodes[node].applied_ever {
            self.counters.count("recovery: state went back at a crash, the log made up for it");
        }
    }

    /// `kill -9`: what the kernel has stays.
    pub(crate) fn kill(&mut self, node: usize) {
        self.counters.count("process: kill -9");
        self.stop(node, false);
        self.schedule_start(node);
    }

    /// The power goes.
    pub(crate) fn cut_power(&mut self, node: usize) {
        self.counters.count("process: power cut");
        self.stop(node, true);
        self.schedule_start(node);
    }

    pub(crate) fn schedule_start(&mut self, node: usize) {
        let delay = self.random.latency(DOWN_TIME.0, DOWN_TIME.1);
        self.schedule.after(delay, Happening::Node { node, what: AtNode::Start });
    }

    fn stop(&mut self, node: usize, power: bool) {
        if self.nodes[node].process.is_none() {
            return;
        }
        let leads = self.nodes[node].leads();
        if leads {
            self.counters.count("process: leader crashed");
        }
        let under_way = self.nodes[node].process.as_ref().is_some_and(|process| process.log_work.is_some());
        if under_way && leads {
            self.counters.count("process: leader crashed with a log write under way");
        }
        if under_way && self.random.chance(700) {
            self.counters.count("process: crash in the middle of a log write");
            let after = u32::try_from(self.random.below(8)).expect("small");
            self.nodes[node].disks.log.cut_power_after(after);
            let process = self.nodes[node].process.as_mut().expect("checked above");
            let work = process.log_work.take().expect("checked above");
            // It may all be on the disk, a membership among it.
            self.note_log_work(node, &work);
            // Whatever became of it, nobody hears of it.
            let process = self.nodes[node].process.as_mut().expect("checked above");
            let _ = process.do_log_work(work);
        }
        self.interrupt_install(node);
        self.say(format_args!("node {}: {}", node + 1, if power { "power cut" } else { "kill -9" }));
        self.end(node, power);
        if self.nodes[node].damage.lost && leads {
            self.counters.count("process: leader with a damaged disk crashed");
        }
        if self.nodes_here().all(|node| self.nodes[node].process.is_none()) {
            self.counters.count("process: all nodes down at once");
        }
    }

    /// If the state is being switched to a snapshot, it may be switched at the moment of the crash, the log not.
    fn interrupt_install(&mut self, node: usize) {
        let installing = self.nodes[node].process.as_ref().and_then(|process| match process.state_jobs.front() {
            Some(StateJob::Install(install)) if process.state_busy => Some(*install),
            _ => None,
        });
        if let Some(install) = installing
            && self.random.chance(700)
        {
            let crate::node::Node { disks, process, .. } = &mut self.nodes[node];
            let process = process.as_mut().expect("it is installing");
            disks.data.cut_power_after(u32::try_from(self.random.below(8)).expect("small"));
            if process.intent.begin(install.position).is_ok() {
                disks.engine = process.received.take().expect("the core installs what was received");
                if self.random.chance(500) {
                    let _ = process.do_log_work(LogWork::Install(install));
                }
            }
        }
    }

    /// The process is gone, and with power whatever was not flushed.
    pub(crate) fn end(&mut self, node: usize, power: bool) {
        let process = self.nodes[node].process.take();
        let state = &mut self.nodes[node];
        state.damage.dark |= power;
        for disk in [&state.disks.log, &state.disks.data] {
            if power {
                disk.crash(&mut self.random);
            } else {
                disk.kill();
            }
        }
        // RocksDB's memtables go with the process.
        state.disks.engine.crash();
        self.wake(node);
        if let Some(process) = process {
            self.break_connections(node, process);
        }
    }

    /// Clients whose requests are lost with the process notice it, or wait for nothing.
    fn break_connections(&mut self, node: usize, process: Process) {
        for pending in process.requests.values() {
            let Some(delay) = self.network.client_delay(pending.client, node) else { continue };
            if self.random.chance(700) {
                let failure = Failure::Lost(format!("the connection to {} broke", address_of(node)));
                let what = AtClient::Failed { attempt: pending.attempt, failure };
                self.schedule.after(delay, Happening::Client { client: pending.client, what });
            }
        }
    }

    /// The process stands still for a while.
    pub(crate) fn pause(&mut self, node: usize, pause: Duration) {
        let leads = self.nodes[node].leads();
        if self.nodes[node].process.is_none() || self.nodes[node].paused_until.is_some() {
            return;
        }
        self.counters.count("process: pause");
        if leads {
            self.counters.count("process: leader paused");
        }
        let until = self.schedule.now() + pause;
        self.say(format_args!("node {}: stands still until {until}", node + 1));
        self.nodes[node].paused_until = Some(until);
        self.schedule.at(until, Happening::Node { node, what: AtNode::Resume });
    }

    fn resume(&mut self, node: usize) {
        let now = self.schedule.now();
        if self.nodes[node].paused_until.is_some_and(|until| until <= now) {
            self.wake(node);
        }
    }

    /// It stands still no more: what came meanwhile comes at once.
    fn wake(&mut self, node: usize) {
        let now = self.schedule.now();
        self.nodes[node].paused_until = None;
        for happening in std::mem::take(&mut self.nodes[node].put_off) {
            self.schedule.at(now, happening);
        }
    }

    /// Everybody is up, awake and at full speed again, those in `which` at least.
    pub(crate) fn heal_nodes(&mut self, which: &[usize]) {
        let now: Time = self.schedule.now();
        for node in which {
            self.mend_disk(*node);
            let state = &mut self.nodes[*node];
            state.slowness = 1;
            state.stalled_until = now;
            if state.paused_until.is_some() {
                state.paused_until = Some(now);
                self.schedule.at(now, Happening::Node { node: *node, what: AtNode::Resume });
            }
            if state.process.is_none() {
                self.schedule.at(now, Happening::Node { node: *node, what: AtNode::Start });
            }
        }
    }

    /// The node that leads in the highest term, if any.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leaders = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let status = node.process.as_ref()?.driver.core().status();
            (status.role == Role::Leader).then_some((status.term, index))
        });
        leaders.max().map(|(_, index)| index)
    }
}
