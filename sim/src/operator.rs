//! An operator who adds members, makes them vote, takes them out, and hands leadership over.

use crate::faults::{CutShape, FaultKind};
use crate::node::{OperatorWord, Presence, index_of};
use crate::settings::member_of;
use crate::world::{AtNode, Happening, World};
use raft::{MemberRole, Membership, MembershipChange, NodeId};
use raftkv::driver::{ChangeRefusal, ChangeRequest, Input, MemberEdit, NewMember};
use std::time::Duration;

/// Voters that an operator wants at most.
const VOTERS_MAX: usize = 5;

impl World {
    /// Every membership that may be in effect, now, when repairs under way are done, or when the change that an operator waits for is: the
    /// committed one, those in logs after it, and what may become of them.
    pub(crate) fn memberships(&self) -> Vec<Membership> {
        let mut memberships = self.memberships_in_logs();
        add_repaired(&mut memberships);
        let asked = self.nodes.iter().filter_map(|node| node.process.as_ref()?.change_asked.as_ref());
        // Between the one and the other both decide.
        let changed =
            |(membership, change): (Membership, &MembershipChange)| Some(membership.changed(change).ok()?.left());
        let targets: Vec<Membership> = asked
            .flat_map(|change| memberships.iter().map(move |membership| (membership.left(), change)))
            .filter_map(changed)
            .collect();
        memberships.extend(targets);
        add_repaired(&mut memberships);
        memberships
    }

    fn memberships_in_logs(&self) -> Vec<Membership> {
        let mut memberships = self.checks.memberships();
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            let status = process.driver.core().status();
            if status.log_last > self.checks.applied_last() && !memberships.contains(status.membership) {
                memberships.push(status.membership.clone());
            }
        }
        memberships
    }

    /// Whether an operator waits for an answer of a node that runs.
    pub(crate) fn is_changing_members(&self) -> bool {
        self.nodes.iter().any(|node| node.process.as_ref().is_some_and(|process| process.change_asked.is_some()))
    }

    /// Whether a node has a change before it that it has not looked at.
    pub(crate) fn is_change_on_its_way(&self) -> bool {
        let inboxes = self.nodes.iter().filter_map(|node| Some(&node.process.as_ref()?.inbox));
        inboxes.flatten().any(|input| matches!(input, Input::ChangeMembership(_)))
    }

    /// The operator asks for a change, mostly of the leader.
    pub(crate) fn change_members(&mut self) {
        let here: Vec<usize> = self.nodes_here().filter(|node| self.nodes[*node].process.is_some()).collect();
        if here.is_empty() || self.is_changing_members() {
            return;
        }
        let leader = self.leader().filter(|_| self.random.chance(950));
        let node = leader.unwrap_or(*self.random.pick(&here));
        let process = self.nodes[node].process.as_ref().expect("it runs");
        let membership = process.driver.core().status().membership.clone();
        let changes = self.draw_change(&membership, node);
        if changes.is_empty() || !self.leaves_an_intact_quorum(&membership, &changes) {
            return;
        }
        let dry_run = self.random.chance(50);
        self.say(format_args!("node {}: asked to change the members: {changes:?}, dry run: {dry_run}", node + 1));
        if !dry_run {
            self.count_change(node, &changes);
        }
        let process = self.nodes[node].process.as_mut().expect("it runs");
        process.change_asked = Some(asked_for(&changes));
        let desk = process.desk.clone();
        let waiter = Box::new(move |result| desk.put(OperatorWord::Change(result)));
        let several = changes.len() > 1;
        self.push(node, Input::ChangeMembership(ChangeRequest { changes, dry_run, waiter }));
        if several && self.settings.faults.is_on(FaultKind::Partition) && self.random.chance(500) {
            self.cut_off_voters(node, &membership);
        }
    }

    /// The worst moment for a partition: as a change of voters begins, the voters so far lose the leader and whoever is to vote.
    fn cut_off_voters(&mut self, leader: usize, membership: &Membership) {
        let (voters, others): (Vec<usize>, Vec<usize>) =
            (0..self.nodes.len()).partition(|node| *node != leader && membership.is_voter(self.nodes[*node].id));
        let links: Vec<(usize, usize)> =
            voters.iter().flat_map(|one| others.iter().flat_map(|other| [(*one, *other), (*other, *one)])).collect();
        self.counters.count("membership: voters cut off as a change began");
        self.cut_links(CutShape::Groups, links);
    }

    fn draw_change(&mut self, membership: &Membership, asked: usize) -> Vec<MemberEdit> {
        let spare = self.nodes.iter().find(|node| node.presence == Presence::Spare).map(|node| node.id);
        let (voters, learners) = (membership.voters().to_vec(), membership.learners().to_vec());
        if voters.is_empty() {
            return Vec::new();
        }
        let voter = if self.random.chance(250) { self.nodes[asked].id } else { *self.random.pick(&voters) };
        let many = voters.len() > 1;
        match self.random.below(10) {
            0..=2 if !learners.is_empty() && voters.len() < VOTERS_MAX => {
                vec![MemberEdit::Promote(*self.random.pick(&learners))]
            }
            3 if many => vec![MemberEdit::Demote(voter)],
            4..=5 if many => vec![MemberEdit::Remove(voter)],
            6 if !learners.is_empty() => vec![MemberEdit::Remove(*self.random.pick(&learners))],
            7 if many && spare.is_some() => {
                // One comes, one goes.
                let added = spare.map(|id| self.provision(id)).into_iter();
                added.chain([MemberEdit::Remove(voter)]).collect()
            }
            8..=9 if many && !learners.is_empty() => {
                let goes = if self.random.chance(500) { MemberEdit::Demote(voter) } else { MemberEdit::Remove(voter) };
                vec![MemberEdit::Promote(*self.random.pick(&learners)), goes]
            }
            _ => spare.map(|id| self.provision(id)).into_iter().collect(),
        }
    }

    /// A machine for a new member: it is started some time before or after it is added.
    fn provision(&mut self, id: NodeId) -> MemberEdit {
        let node = index_of(id);
        self.nodes[node].presence = Presence::Here;
        let delay = self.random.latency(Duration::from_millis(1), Duration::from_secs(5));
        self.schedule.after(delay, Happening::Node { node, what: AtNode::Start });
        let member = member_of(id.0);
        MemberEdit::Add(NewMember {
            id: Some(id),
            name: member.name,
            peer_address: member.peer_address,
            client_address: member.client_address,
            http_address: None,
        })
    }

    /// An operator does not take out the nodes that still hold the data while others have lost it.
    fn leaves_an_intact_quorum(&self, membership: &Membership, changes: &[MemberEdit]) -> bool {
        if membership.is_joint() {
            return true;
        }
        let Ok(changed) = membership.changed(&asked_for(changes)) else { return true };
        // Who is repaired votes again, whether its disk has lost something since or not.
        let mut later = vec![changed];
        add_repaired(&mut later);
        let is_intact = |id| !self.nodes[index_of(id)].damage.lost;
        later.iter().all(|membership| membership.has_quorum(is_intact)) && self.has_intact_quorum(|_| true)
    }

    fn count_change(&mut self, asked: usize, changes: &[MemberEdit]) {
        if changes.len() > 1 {
            self.counters.count("membership: several edits in one change");
        }
        if self.network.is_partitioned() {
            self.counters.count("membership: change asked for during a partition");
        }
        let own = self.nodes[asked].id;
        if changes.iter().any(|edit| matches!(edit, MemberEdit::Remove(id) if *id == own)) {
            self.counters.count("membership: leader asked to remove itself");
        }
    }

    /// What the operator is told.
    pub(crate) fn change_answered(&mut self, node: usize, answer: Result<raftkv::driver::ChangeReport, ChangeRefusal>) {
        self.say(format_args!("node {}: the change: {answer:?}", node + 1));
        if let Some(process) = &mut self.nodes[node].process {
            process.change_asked = None;
        }
        self.counters.count(match answer {
            Ok(report) if report.index.is_some() => "membership: change done",
            Ok(_) => "membership: dry run",
            Err(ChangeRefusal::NotLeader { .. }) => "membership: refused, not the leader",
            Err(ChangeRefusal::Busy(_)) => "membership: refused, busy",
            Err(ChangeRefusal::Invalid(_)) => "membership: refused, makes no sense",
            Err(ChangeRefusal::Unsafe { .. }) => "membership: refused as unsafe",
            Err(ChangeRefusal::Lagging { .. }) => "membership: refused, learner lags",
            Err(ChangeRefusal::Stopping) => "membership: refused, stopping",
            Err(ChangeRefusal::OutcomeUnknown) => "membership: outcome unknown",
        });
    }

    /// The node has heard that it was removed: it ends for ever.
    pub(crate) fn leave(&mut self, node: usize) {
        self.say(format_args!("node {}: was removed, and ends", node + 1));
        self.counters.count("membership: a removed node ended");
        self.end(node, false);
        self.nodes[node].presence = Presence::Gone;
        self.tell_clients();
    }

    /// Somebody gives the clients a list of the nodes there are.
    pub(crate) fn tell_clients(&mut self) {
        let here: Vec<usize> = self.nodes_here().collect();
        for client in &mut self.clients {
            client.is_told(&here);
        }
    }
}

/// What an operator's edits make of whom.
fn asked_for(edits: &[MemberEdit]) -> MembershipChange {
    let role = |edit: &MemberEdit| match edit {
        MemberEdit::Add(member) => (member.id.expect("numbered by the operator"), MemberRole::Learner),
        MemberEdit::Promote(id) => (*id, MemberRole::Voter),
        MemberEdit::Demote(id) => (*id, MemberRole::Learner),
        MemberEdit::Remove(id) => (*id, MemberRole::Removed),
    };
    MembershipChange { roles: edits.iter().map(role).collect(), context: None }
}

/// Who voted before it lost its log votes again as soon as it is repaired, whichever of them comes first.
fn add_repaired(memberships: &mut Vec<Membership>) {
    let mut next = 0;
    while next < memberships.len() {
        let membership = memberships[next].clone();
        for repair in membership.repairs() {
            let left = membership.left();
            let repaired = left.with_repair_done(repair.node).expect("it is under repair").left();
            if !memberships.contains(&repaired) {
                memberships.push(repaired);
            }
        }
        next += 1;
    }
}
