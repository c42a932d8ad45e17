//! Disks that lose what they were given, and the account of it.
//!
//! # The account
//!
//! A node whose disk may have lost something counts as *lost* until its peers have repaired it, or until a start has shown that nothing was
//! lost after all. A disk is only touched if the nodes that are not lost still have a quorum of every membership that may be in effect, what a change
//! that an operator waits for leads to included. So everything acknowledged is on an intact disk of every quorum that can be had without the
//! lost ones, and any loss is a bug.
//!
//! # Caveats
//!
//! A loss that the node has not noticed yet is *hidden*: a rotten bit, a write gone elsewhere. Before its next start the node does not also
//! lose power, and what lost power does not also rot before it has started. The high-water mark is exact after the end of a process and a lower bound after a power cut; rot in the very last
//! writes together with a power cut is two faults of one disk at once and may pass for a torn write.
//! What passes for flushed and is not (scenario 53) is the other way round: the process ends by itself, and then the power goes.

use crate::disk::DiskFault;
use crate::node::{Found, Presence};
use crate::world::{Mend, World};
use raft::NodeId;
use std::time::Duration;

/// How long a hidden loss stays hidden at most.
const HIDDEN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

impl World {
    /// Whether the nodes that `counts` says count, and whose disks are intact, are a quorum of every membership that may be in effect.
    pub(crate) fn has_intact_quorum(&self, counts: impl Fn(NodeId) -> bool) -> bool {
        self.memberships().iter().all(|membership| {
            membership.has_quorum(|id| {
                let node = &self.nodes[crate::node::index_of(id)];
                // Who has left did so because a membership without it is committed.
                node.presence == Presence::Gone || (counts(id) && !node.damage.lost)
            })
        })
    }

    /// Whether this node's disk may lose something.
    fn may_lose(&self, node: usize) -> bool {
        let id = self.nodes[node].id;
        !self.nodes[node].damage.lost
            && self.nodes[node].presence == Presence::Here
            && self.has_intact_quorum(|other| other != id)
    }

    /// The whole disk, or the log, or the state.
    pub(crate) fn lose_disk(&mut self, node: usize) {
        if !self.may_lose(node) {
            return;
        }
        let leads = self.nodes[node].leads();
        if self.is_changing_members() {
            self.counters.count("disk: lost during a change of members");
        }
        if self.nodes[node].process.is_some() {
            self.kill(node);
        }
        let disks = &mut self.nodes[node].disks;
        let what = match self.random.below(4) {
            0 if self.random.chance(500) => {
                disks.lose_log();
                "disk: log lost"
            }
            0 => {
                disks.empty_log();
                "disk: log lost, its folder empty"
            }
            1 => {
                disks.lose_state();
                "disk: state lost"
            }
            2 => {
                disks.empty();
                "disk: all lost, the folders empty"
            }
            _ => {
                disks.wipe();
                "disk: all lost"
            }
        };
        self.nodes[node].damage.lost = true;
        self.counters.count(what);
        if leads {
            self.counters.count("disk: a leader's disk lost");
        }
        self.say(format_args!("node {}: {what}", node + 1));
    }

    /// A bit flips, or the next write goes elsewhere. Found out at the next start at the latest.
    pub(crate) fn rot(&mut self, node: usize) {
        if !self.may_lose(node) || self.nodes[node].damage.dark {
            return;
        }
        let state = &mut self.nodes[node];
        let what = if self.random.chance(300) && state.process.is_some() {
            state.disks.log.fail_next(DiskFault::Misdirected);
            "disk: write gone elsewhere".to_owned()
        } else {
            let disk = if self.random.chance(150) { &state.disks.data } else { &state.disks.log };
            let Some((file, offset)) = disk.rot(&mut self.random, |_| true) else { return };
            self.counters.count("disk: bit rot");
            format!("disk: a bit flips in {file} at {offset}")
        };
        (state.damage.lost, state.damage.hidden) = (true, true);
        self.say(format_args!("node {}: {what}", node + 1));
        self.find_out(node);
    }

    /// The next read, write or flush fails.
    pub(crate) fn fail_disk(&mut self, node: usize) {
        if !self.may_lose(node) || self.nodes[node].process.is_none() {
            return;
        }
        let fault = *self.random.pick(&[DiskFault::Read, DiskFault::Write, DiskFault::Sync, DiskFault::SyncForgets]);
        let state = &mut self.nodes[node];
        let disk = if self.random.chance(150) { &state.disks.data } else { &state.disks.log };
        disk.fail_next(fault);
        (state.damage.lost, state.damage.hidden) = (true, true);
        state.damage.forgotten = fault == DiskFault::SyncForgets;
        self.say(format_args!("node {}: its disk is about to fail: {fault:?}", node + 1));
        self.find_out(node);
    }

    /// No room for anything new.
    pub(crate) fn fill_disk(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.damage.full = true;
        state.disks.log.set_full(true);
        state.disks.data.set_full(true);
        self.counters.count("disk: full");
        self.say(format_args!("node {}: its disk is full", node + 1));
        self.mend_later(Mend::Full(node));
    }

    pub(crate) fn empty_disk(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.damage.full = false;
        state.disks.log.set_full(false);
        state.disks.data.set_full(false);
    }

    /// The disk does what it is told from here on. What it has lost stays lost.
    pub(crate) fn mend_disk(&mut self, node: usize) {
        self.empty_disk(node);
        if self.nodes[node].damage.hidden {
            self.kill_if_up(node, false);
        }
    }

    /// The process ends before long, so that its next start finds out.
    fn find_out(&mut self, node: usize) {
        let delay = self.random.latency(HIDDEN.0, HIDDEN.1);
        self.schedule.after(delay, crate::world::Happening::Mend(Mend::Restart(node)));
    }

    /// A start has looked at everything: what is lost is known, or nothing is.
    pub(crate) fn settle_damage(&mut self, node: usize, found: Found) {
        let state = &mut self.nodes[node];
        let suspected = state.damage.lost;
        state.damage.hidden = false;
        state.damage.forgotten = false;
        state.damage.dark = false;
        state.damage.lost = found.under_repair;
        if found.lost.is_some() {
            self.counters.count("repair: a damaged log was set aside");
        }
        if found.under_repair {
            self.counters.count("repair: a start under repair");
        }
        assert!(
            suspected || !found.under_repair,
            "node {}: under repair, and nothing was done to its disk: {found:?}",
            node + 1
        );
    }
}
