//! A group of machines, the messages on their way, what is left of the bounds, and what must never be broken.

use super::machine::{Behaviour, Input, Machine};
use raftkv_raft::{Body, Message, NodeId, Role};
use std::collections::BTreeMap;

/// The membership change of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// Node 3 becomes a voter.
    Add,
    /// The voter with the highest number is removed.
    RemoveLast,
}

/// How disks behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// What is reported durable is; with `at_once`, no write is ever under way.
    Honest { at_once: bool },
    /// Reports a write before it is done.
    Lies,
    /// Loses the vote at a crash.
    ForgetsVotes,
}

impl Disk {
    pub(crate) fn behaviour(self) -> Behaviour {
        let (at_once, lies, forgets_votes) = match self {
            Disk::Honest { at_once } => (at_once, false, false),
            Disk::Lies => (false, true, false),
            Disk::ForgetsVotes => (true, false, true),
        };
        Behaviour { at_once, lies, forgets_votes }
    }
}

/// How much may happen, and with whom it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Voters at the beginning, of three nodes.
    pub(crate) voters: u64,
    /// Election timeouts, of all nodes together. Bounds the terms.
    pub(crate) timeouts: u8,
    /// Heartbeats of leaders beyond those that an answer calls for.
    pub(crate) heartbeats: u8,
    pub(crate) proposals: u8,
    pub(crate) crashes: u8,
    /// Messages on their way from one node to another at a time, in any order; one more, and the oldest is lost.
    pub(crate) link: usize,
    /// Messages that arrive twice.
    pub(crate) duplicates: u8,
    pub(crate) change: Option<Change>,
    pub(crate) disk: Disk,
}

/// One state of everything. Machines and messages are numbers in the explorer's tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) machines: [u32; 3],
    /// On their way: (sender, receiver, message), by link, the oldest first. One that is never delivered is lost.
    pub(crate) mail: Vec<(u8, u8, u32)>,
    pub(crate) timeouts: u8,
    pub(crate) heartbeats: u8,
    pub(crate) proposals: u8,
    pub(crate) crashes: u8,
    pub(crate) duplicates: u8,
    pub(crate) changed: bool,
    pub(crate) history: History,
}

impl World {
    /// Puts a message on its way. Twice the same is once: a second copy would be a duplicate.
    pub(crate) fn send(&mut self, message: (u8, u8, u32), link: usize) {
        let (from, to, _) = message;
        if self.mail.contains(&message) {
            return;
        }
        let end = self.mail.partition_point(|(sender, receiver, _)| (*sender, *receiver) <= (from, to));
        self.mail.insert(end, message);
        let begin = self.mail.partition_point(|(sender, receiver, _)| (*sender, *receiver) < (from, to));
        if end + 1 - begin > link {
            self.mail.remove(begin);
        }
    }
}

/// What happened once and must hold for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    /// Who led in which term.
    leaders: BTreeMap<u64, u8>,
    /// Whom each node said it voted for: by node and term.
    votes: BTreeMap<(u8, u64), u8>,
    /// What was applied first at each index, by anybody.
    committed: Vec<(u64, Vec<u8>)>,
}

/// What an exploration must have met, or it has shown nothing.
pub(crate) type Seen = BTreeMap<&'static str, u64>;

impl History {
    /// Takes in what one step of `machine` did, and says which rule it breaks, if any.
    pub(crate) fn take_in(
        &mut self,
        before: &Machine,
        machine: &Machine,
        sent: &[(NodeId, Message)],
        seen: &mut Seen,
    ) -> Result<(), String> {
        let id = machine.id;
        let own = u8::try_from(id.0).unwrap();
        let (was, status) = (before.node.status(), machine.node.status());
        let log = machine.log();
        for (to, message) in sent {
            if let Body::VoteReply { granted: true } = message.body {
                let candidate = u8::try_from(to.0).unwrap();
                let known = *self.votes.entry((own, message.term.0)).or_insert(candidate);
                if known != candidate {
                    return Err(format!("node {id} voted for {known} and for {candidate} in term {}", message.term));
                }
            }
        }
        if status.role == Role::Leader && (was.role != Role::Leader || was.term != status.term) {
            *seen.entry("elected").or_default() += 1;
            let known = *self.leaders.entry(status.term.0).or_insert(own);
            if known != own {
                return Err(format!("two leaders in term {}: {known} and {id}", status.term));
            }
            let complete = log.len() >= self.committed.len() && log[..self.committed.len()] == self.committed[..];
            // What is committed in this leader's own term or later comes after its election.
            let earlier = self.committed.iter().all(|(term, _)| *term < status.term.0);
            if earlier && !complete {
                return Err(format!("leader {id} of term {} lacks a committed entry", status.term));
            }
        }
        if before.log().len() > log.len() || before.log().iter().zip(&log).any(|(old, new)| old != new) {
            *seen.entry("an entry replaced").or_default() += 1;
            if was.role == Role::Leader && status.role == Role::Leader && was.term == status.term {
                return Err(format!("leader {id} of term {} replaced an entry of its own log", status.term));
            }
        }
        for entry in &machine.applied {
            let place = usize::try_from(entry.index.0 - 1).unwrap();
            let held = (entry.term.0, [&[entry.kind as u8][..], &entry.payload].concat());
            match self.committed.get(place) {
                Some(known) if *known != held => {
                    return Err(format!("node {id} applies another entry {} than was applied before", entry.index));
                }
                Some(_) => {}
                None if place == self.committed.len() => {
                    *seen.entry("committed").or_default() += 1;
                    self.committed.push(held);
                }
                None => return Err(format!("node {id} applies entry {} after a gap", entry.index)),
            }
        }
        let changed = was.membership != status.membership && !status.membership.is_joint();
        if changed && status.membership == status.membership_committed {
            *seen.entry("membership changed").or_default() += 1;
        }
        Ok(())
    }
}

/// The rules that hold in every state, whatever led there.
pub(crate) fn check(machines: [&Machine; 3], history: &History, seen: &mut Seen) -> Result<(), String> {
    let logs = machines.map(Machine::log);
    for (one, log) in logs.iter().enumerate() {
        for (other, theirs) in logs.iter().enumerate().skip(one + 1) {
            let shared = log.iter().zip(theirs).rposition(|(left, right)| left.0 == right.0);
            if let Some(last) = shared.filter(|last| log[..=*last] != theirs[..=*last]) {
                return Err(format!(
                    "logs of nodes {} and {} agree at {} and differ before",
                    one + 1,
                    other + 1,
                    last + 1
                ));
            }
        }
    }
    let leads = |machine: &&Machine| machine.node.status().role == Role::Leader;
    if machines.iter().filter(|machine| leads(machine)).count() > 1 {
        *seen.entry("two leaders, of different terms").or_default() += 1;
    }
    // What is committed lies on the disks of a quorum of whoever decides.
    let newest = machines.iter().max_by_key(|machine| machine.node.status().commit).expect("three machines");
    let membership = newest.node.status().membership_committed;
    let holds = |id: NodeId| {
        let disk = &machines[usize::try_from(id.0 - 1).unwrap()].storage.log;
        history
            .committed
            .iter()
            .enumerate()
            .all(|(place, (term, _))| disk.get(place).is_some_and(|entry| entry.term.0 == *term))
    };
    if !membership.is_joint()
        && !membership.is_empty()
        && !history.committed.is_empty()
        && !membership.has_quorum(holds)
    {
        return Err(format!("{} committed entries are not on the disks of a quorum", history.committed.len()));
    }
    for machine in machines {
        let status = machine.node.status();
        if status.membership != status.membership_committed && status.membership_committed.is_joint() {
            // The final membership follows the joint one; nothing else may be pending over it.
            if status.membership.is_joint() {
                return Err(format!("node {} has two memberships under way", machine.id));
            }
        }
    }
    Ok(())
}

/// What may happen to a machine by itself, within what is left of the bounds.
pub(crate) fn inputs(world: &World, machine: &Machine, bounds: &Bounds) -> Vec<Input> {
    let mut inputs = Vec::new();
    let status = machine.node.status();
    let leads = status.role == Role::Leader;
    if world.timeouts > 0 {
        inputs.push(Input::Timeout);
    }
    if world.heartbeats > 0 && leads {
        inputs.push(Input::Heartbeat);
    }
    if world.proposals > 0 && leads {
        inputs.push(Input::Propose);
    }
    if let Some(change) = bounds.change.filter(|_| !world.changed && leads) {
        inputs.push(Input::Change(change));
    }
    if !machine.storage.pending.is_empty() {
        inputs.push(Input::Written);
    }
    if world.crashes > 0 {
        inputs.extend((0..=machine.storage.pending.len()).map(Input::Crash));
    }
    inputs
}
