//! Faults: when they come, whom they hit, and how they end.

use crate::faults::{CutShape, FaultKind, draw_cut};
use crate::node::{OperatorWord, Presence};
use crate::schedule::Time;
use crate::world::{Happening, Mend, Phase, World};
use raftkv::driver::Input;
use std::time::Duration;

impl World {
    /// Lets the next fault of this kind come, if they come one by one.
    pub(crate) fn schedule_fault(&mut self, kind: FaultKind) {
        if let Some(interval) = kind.interval() {
            let delay = self.random.duration(interval / 10, interval * 2);
            self.schedule.after(delay, Happening::Fault(kind));
        }
    }

    pub(crate) fn inject(&mut self, kind: FaultKind) {
        if self.phase != Phase::Faulty {
            return;
        }
        self.schedule_fault(kind);
        let node = self.victim();
        match kind {
            FaultKind::Partition => self.partition(CutShape::Groups),
            FaultKind::OneWay => self.partition(CutShape::OneWay),
            FaultKind::PartialPartition => self.partition(CutShape::Pairs),
            FaultKind::ClientCuts => self.cut_clients(node),
            FaultKind::Kill => self.kill_if_up(node, false),
            FaultKind::PowerCut => self.kill_if_up(node, true),
            FaultKind::Blackout => {
                self.counters.count("process: blackout");
                (0..self.nodes.len()).for_each(|node| self.kill_if_up(node, true));
            }
            FaultKind::Pause => {
                let pause = self.random.latency(Duration::from_millis(50), Duration::from_secs(60));
                self.pause(node, pause);
            }
            FaultKind::SlowNode => {
                self.counters.count("process: slow node");
                self.nodes[node].slowness = u32::try_from(self.random.between(5, 200)).expect("small");
                self.mend_later(Mend::Slow(node));
            }
            FaultKind::ClockJumps => self.jump(node),
            FaultKind::DiskStall => {
                self.counters.count("disk: stall");
                let stall = self.random.latency(Duration::from_millis(20), Duration::from_secs(8));
                self.nodes[node].stalled_until = self.schedule.now() + stall;
                self.say(format_args!("node {}: the disk stalls for {stall:?}", node + 1));
            }
            FaultKind::Transfers => self.transfer(),
            FaultKind::DiskLoss => self.lose_disk(node),
            FaultKind::BitRot => self.rot(node),
            FaultKind::DiskErrors => self.fail_disk(node),
            FaultKind::FullDisk => self.fill_disk(node),
            FaultKind::MembershipChanges => self.change_members(),
            FaultKind::Upgrades => self.upgrade(),
            FaultKind::Loss
            | FaultKind::Duplicates
            | FaultKind::Reordering
            | FaultKind::LateMessages
            | FaultKind::ClockDrift
            | FaultKind::SnapshotFailures => unreachable!("{kind:?} does not come one by one"),
        }
    }

    /// Any node, the leader more often than others.
    fn victim(&mut self) -> usize {
        let here: Vec<usize> = self.nodes_here().collect();
        let any = *self.random.pick(&here);
        if self.random.chance(400) { self.leader().unwrap_or(any) } else { any }
    }

    pub(crate) fn mend_later(&mut self, mend: Mend) {
        let delay = self.random.latency(Duration::from_millis(100), Duration::from_secs(20));
        self.schedule.after(delay, Happening::Mend(mend));
    }

    fn partition(&mut self, shape: CutShape) {
        let links = draw_cut(&mut self.random, shape, self.nodes.len());
        self.counters.count(match shape {
            CutShape::OneWay => "network: one-way cut",
            CutShape::Pairs => "network: partial partition",
            CutShape::Groups => "network: partition",
        });
        self.cut_links(shape, links);
    }

    pub(crate) fn cut_links(&mut self, shape: CutShape, links: Vec<(usize, usize)>) {
        self.say(format_args!("{shape:?}: links cut, from and to, nodes counted from 0: {links:?}"));
        self.network.cut(&links);
        if let Some(leader) = self.leader()
            && self.network.reachable(leader) <= self.nodes.len() / 2
        {
            self.counters.count("network: leader cut off from a majority");
        }
        self.mend_later(Mend::Links(links));
    }

    fn cut_clients(&mut self, node: usize) {
        let clients = 0..self.clients.len();
        let links: Vec<(usize, usize)> =
            clients.filter(|_| self.random.chance(600)).map(|client| (client, node)).collect();
        self.counters.count("network: clients cut off from a node");
        self.say(format_args!("clients cut off from node {}: {links:?}", node + 1));
        self.network.cut_clients(&links);
        self.mend_later(Mend::ClientLinks(links));
    }

    pub(crate) fn kill_if_up(&mut self, node: usize, power: bool) {
        if self.nodes[node].process.is_none() {
            return;
        }
        let damage = self.nodes[node].damage;
        // A hidden loss and a power cut are two faults of one disk at once: see `damage.rs`.
        if damage.forgotten || (power && !damage.hidden) {
            self.cut_power(node);
        } else {
            self.kill(node);
        }
    }

    /// Either the clock that counts, forward by up to an hour (a machine that slept) or back by a little; or the one that shows the time of day, by up
    /// to an hour either way.
    fn jump(&mut self, node: usize) {
        let backward = self.random.chance(400);
        if self.random.chance(300) {
            let by = self.random.latency(Duration::from_millis(1), Duration::from_secs(3600));
            let by_ms = i64::try_from(by.as_millis()).expect("an hour");
            self.nodes[node].wall_offset_ms += if backward { -by_ms } else { by_ms };
            self.counters.count(if backward { "clock: wall clock set back" } else { "clock: wall clock set forward" });
            self.say(format_args!("node {}: its wall clock is set by {by:?}, backward: {backward}", node + 1));
            return;
        }
        let by = if backward {
            self.random.latency(Duration::from_millis(1), Duration::from_secs(3))
        } else {
            self.random.latency(Duration::from_millis(1), Duration::from_secs(3600))
        };
        self.counters.count(if backward { "clock: jump backward" } else { "clock: jump forward" });
        self.say(format_args!("node {}: its clock jumps {by:?}, backward: {backward}", node + 1));
        self.nodes[node].clock.jump(by, backward);
        self.reschedule_turn(node);
    }

    fn transfer(&mut self) {
        let Some(leader) = self.leader() else { return };
        let target = if self.random.chance(500) {
            let here: Vec<usize> = self.nodes_here().collect();
            let target = self.nodes[*self.random.pick(&here)].id;
            (target != self.nodes[leader].id).then_some(target)
        } else {
            None
        };
        self.say(format_args!("node {}: asked to hand over to {target:?}", leader + 1));
        let Some(process) = &mut self.nodes[leader].process else { return };
        let desk = process.desk.clone();
        let waiter = Box::new(move |result: Result<_, _>| desk.put(OperatorWord::Transfer(result.is_ok())));
        self.push(leader, Input::TransferLeadership { target, waiter });
    }

    pub(crate) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Links(links) => {
                self.say(format_args!("links mended: {links:?}"));
                self.network.mend(&links);
            }
            Mend::ClientLinks(links) => self.network.mend_clients(&links),
            Mend::Slow(node) => self.nodes[node].slowness = 1,
            Mend::Full(node) => self.empty_disk(node),
            Mend::Restart(node) => self.kill_if_up(node, false),
        }
    }

    /// Whether processes crash in this run, at this moment.
    pub(crate) fn crashes_are_on(&self) -> bool {
        self.phase == Phase::Faulty
            && [FaultKind::Kill, FaultKind::PowerCut, FaultKind::Blackout]
                .into_iter()
                .any(|kind| self.settings.faults.is_on(kind))
    }

    /// The faults end for a majority; the others are cut off, whatever else is wrong with them.
    pub(crate) fn heal_majority(&mut self) {
        let mut order: Vec<usize> = self.nodes_here().collect();
        self.random.shuffle(&mut order);
        let mut broken: Vec<usize> = Vec::new();
        for node in order {
            broken.push(node);
            if !self.has_intact_quorum(|id| !broken.iter().any(|node| self.nodes[*node].id == id)) {
                broken.pop();
            }
        }
        let majority: Vec<usize> = self.nodes_here().filter(|node| !broken.contains(node)).collect();
        let now: Time = self.schedule.now();
        self.say(format_args!("a majority is healed: nodes {majority:?} counted from 0; at {now}"));
        self.network.heal();
        let count = self.nodes.len();
        let cut: Vec<(usize, usize)> =
            broken.iter().flat_map(|other| (0..count).flat_map(move |node| [(node, *other), (*other, node)])).collect();
        self.network.cut(&cut);
        self.heal_nodes(&majority);
        self.tell_clients();
    }

    /// All faults end, and clients finish what they have begun.
    pub(crate) fn heal_all(&mut self) {
        self.end_faults();
        for client in &mut self.clients {
            client.stopped = true;
        }
    }

    /// All faults end.
    pub(crate) fn end_faults(&mut self) {
        self.say(format_args!("everything is healed"));
        self.network.heal();
        let members: Vec<usize> = self.checks.membership().members().map(crate::node::index_of).collect();
        for node in members {
            // Added, and not started yet.
            if self.nodes[node].presence == Presence::Spare {
                self.nodes[node].presence = Presence::Here;
            }
        }
        let all: Vec<usize> = self.nodes_here().collect();
        self.heal_nodes(&all);
    }

    /// Nodes that run or will run again.
    pub(crate) fn nodes_here(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].presence == Presence::Here)
    }
}
