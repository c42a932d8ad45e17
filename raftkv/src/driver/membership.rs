//! Changes of the membership, and leadership handed over, as an operator asks for them.
//!
//! The core knows how a change is made safely; what it cannot know is whether the group can go on afterwards. So the driver first looks at
//! who is *reachable*: voters that have answered this leader, and within an election timeout. One that was spoken to only now, by a leader
//! that was elected only now for instance, may do so yet: until that is known, what depends on it has to wait. A change after which fewer of the voters are reachable than decide is
//! refused, with the quorum before and after, and a *dry run* gives the same verdict without the change. A learner far behind does not become a voter:
//! until it has caught up it would count among those that decide and could not help to.
//!
//! A change is done when the membership that it leads to is committed; the waiter is called then. Leadership may be lost in between. Whoever
//! leads next finishes a change that is committed as far as its joint membership, so this node waits to learn what became of it, for as long
//! as for a write.
//!
//! Invariants: each waiter is called exactly once. "Not the leader" is said only if the change certainly never takes effect.

use super::{Driver, Host, ORPHAN_TIMEOUT};
use crate::config::{check_address, is_new_node_name};
use crate::directory::{DirectoryMember, MemberDirectory};
use raft::{
    ChangeError, ChangeInvalid, Event, Instant, LogIndex, LogPosition, MemberRole, Membership, MembershipChange,
    NodeId, PeerProgress, Replication, Role, TransferError,
};

/// A learner that lacks more entries than this of what is committed is not made a voter.
const LAG_MAX: u64 = 1024;

/// A change that an operator asks for.
pub struct ChangeRequest {
    /// What to change, as one change.
    pub changes: Vec<MemberEdit>,
    /// Only say what would become of it.
    pub dry_run: bool,
    /// Called exactly once.
    pub waiter: ChangeWaiter,
}

/// One part of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEdit {
    /// A new member, which does not vote yet.
    Add(NewMember),
    /// A member is to vote.
    Promote(NodeId),
    /// A voter is to be a learner.
    Demote(NodeId),
    /// A member is to be none. Its number is not given out again.
    Remove(NodeId),
}

/// A member to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Its number, higher than any given out before; `None`: the next one.
    pub id: Option<NodeId>,
    /// Its name, for people; no member has it.
    pub name: String,
    /// Where its peers reach it: `HOST:PORT`.
    pub peer_address: String,
    /// Where clients reach it: `HOST:PORT`.
    pub client_address: String,
    /// Where its status page is, if it has one.
    pub http_address: Option<String>,
}

/// Called once: when the change is done, or certainly or possibly is not; for a dry run at once. Must not block.
pub type ChangeWaiter = Box<dyn FnOnce(Result<ChangeReport, ChangeRefusal>) + Send>;

/// Called once: with the new leader, or why there is none. Must not block.
pub type TransferWaiter = Box<dyn FnOnce(Result<NodeId, TransferRefusal>) + Send>;

/// What a change does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeReport {
    /// Who decided before.
    pub before: Quorum,
    /// Who decides afterwards.
    pub after: Quorum,
    /// Where the change stands in the log; `None` if it was not made.
    pub index: Option<LogIndex>,
    /// The numbers of the members added, in the order asked for.
    pub added: Vec<NodeId>,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// The voters.
    pub voters: Vec<NodeId>,
    /// The learners.
    pub learners: Vec<NodeId>,
    /// How many of the voters decide.
    pub needed: usize,
    /// The voters that were heard from within an election timeout and have not lost what they had promised.
    pub reachable: Vec<NodeId>,
}

impl Quorum {
    /// Whether enough of the voters are reachable to decide anything.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.reachable.len() >= self.needed
    }
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// This node does not lead. Certainly not made.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<NodeId>,
    },
    /// Not at this moment; certainly not made.
    #[error("{0}; try again in a moment")]
    Busy(ChangeBusy),
    /// It makes no sense. Certainly not made.
    #[error("the change makes no sense: {0}")]
    Invalid(String),
    /// The group could not go on afterwards. Certainly not made.
    #[error("the change is unsafe: {reason}")]
    Unsafe {
        /// Who decides before and after.
        report: Box<ChangeReport>,
        /// What would happen, and what to do first.
        reason: String,
    },
    /// A member that is to vote is too far behind. Certainly not made.
    #[error(
        "node {node} {}: it would count among those that decide and could not help; wait until it has caught up",
        match behind { Some(behind) => format!("is {behind} entries behind"), None => "does not answer".to_owned() }
    )]
    Lagging {
        /// The member.
        node: NodeId,
        /// How many committed entries it lacks; `None`: it is not known, because it does not answer.
        behind: Option<u64>,
    },
    /// The node is stopping. Certainly not made.
    #[error("the node is stopping")]
    Stopping,
    /// It entered the log of a leader and then lost sight: it may or may not be made.
    #[error("the outcome is unknown: leadership was lost before the change was done; look at the members")]
    OutcomeUnknown,
}

/// Why a change has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeBusy {
    /// Leadership is being handed over.
    #[error("leadership is being handed over to node {target}")]
    Transferring {
        /// To whom.
        target: NodeId,
    },
    /// The leader has committed nothing in its term yet.
    #[error("the leader was elected only now")]
    TooEarly,
    /// A voter on which it depends has not answered yet, and may.
    #[error("node {node} has not answered this leader yet")]
    Unheard {
        /// The voter.
        node: NodeId,
    },
    /// A member that is to vote has lost its log, or has only just joined, and its peers are repairing it.
    #[error("node {node} has lost its log, or has only just joined, and is being repaired")]
    UnderRepair {
        /// The member.
        node: NodeId,
    },
    /// Another change is under way.
    #[error("another change is under way, at entry {index}")]
    Pending {
        /// Where it stands in the log.
        index: LogIndex,
    },
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefusal {
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<NodeId>,
    },
    /// The target leads already.
    #[error("this node leads already")]
    LeadsAlready,
    /// The target does not vote.
    #[error("node {target} is not a voter")]
    NotAVoter {
        /// The target.
        target: NodeId,
    },
    /// The target has lost its log.
    #[error("node {target} has lost its log and cannot lead before it is repaired")]
    UnderRepair {
        /// The target.
        target: NodeId,
    },
    /// There is no other voter.
    #[error("there is no other voter")]
    NobodyElse,
    /// The target does not answer. Nothing was tried.
    #[error(
        "node {target} has not answered for an election timeout, so it cannot take over; the leader stays the same"
    )]
    Silent {
        /// The target.
        target: NodeId,
    },
    /// The target did not take over in time; this node goes on leading.
    #[error("node {target} did not take over within an election timeout; the leader stays the same")]
    TimedOut {
        /// The target.
        target: NodeId,
    },
    /// This node does not lead any more, and neither does the target: another was elected.
    #[error("node {leader} leads now, and not node {target}")]
    WentElsewhere {
        /// The target.
        target: NodeId,
        /// Who leads.
        leader: NodeId,
    },
    /// This node does not lead any more, and nobody else is known to.
    #[error("leadership was given up, and no other leader is known yet")]
    NoLeader,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Who waits for a change, and for what exactly.
struct PendingChange {
    /// Where the change was proposed.
    position: LogPosition,
    proposed_at: Instant,
    /// What was proposed there: joint, if voters change.
    proposed: Membership,
    /// The entry at `position` is committed, and it is the one that was proposed.
    begun: bool,
    report: ChangeReport,
    waiter: ChangeWaiter,
}

struct PendingTransfer {
    target: NodeId,
    /// The target was asked for by its number, so another leader will not do.
    named: bool,
    asked_at: Instant,
    waiter: TransferWaiter,
}

/// Operators' requests under way.
#[derive(Default)]
pub(super) struct OperatorDesk {
    /// Asked of the core in the step being made.
    change_asked: Option<(Membership, ChangeReport, ChangeWaiter)>,
    transfer_asked: Option<(bool, TransferWaiter)>,
    changes: Vec<PendingChange>,
    transfers: Vec<PendingTransfer>,
}

/// A change worked out.
struct Plan {
    change: MembershipChange,
    proposed: Membership,
    report: ChangeReport,
}

impl<H: Host> Driver<H> {
    pub(super) fn on_change_request(&mut self, now: Instant, request: ChangeRequest) {
        let ChangeRequest { changes, dry_run, waiter } = request;
        match self.plan(&changes, dry_run) {
            Err(refusal) => waiter(Err(refusal)),
            Ok(plan) if dry_run => waiter(Ok(plan.report)),
            Ok(Plan { change, proposed, report }) => {
                // What was written before is proposed before.
                self.propose_batch(now);
                self.desk.change_asked = Some((proposed, report, waiter));
                self.step(now, Event::ChangeMembership { change });
                assert!(self.desk.change_asked.is_none(), "a change is answered in the step that proposes it");
            }
        }
    }

    pub(super) fn on_transfer_request(&mut self, now: Instant, target: Option<NodeId>, waiter: TransferWaiter) {
        self.propose_batch(now);
        self.desk.transfer_asked = Some((target.is_some(), waiter));
        self.step(now, Event::TransferLeadership { target });
        assert!(self.desk.transfer_asked.is_none(), "a transfer is answered in the step that asks for it");
    }

    /// What the change comes to, and whether the group can go on with it. A dry run does not ask whether a learner has caught up: that passes.
    fn plan(&self, edits: &[MemberEdit], dry_run: bool) -> Result<Plan, ChangeRefusal> {
        let status = self.node.status();
        if status.role != Role::Leader {
            return Err(ChangeRefusal::NotLeader { leader: status.leader });
        }
        let membership = status.membership;
        if membership.is_joint() {
            // As good a place as any in the log to point at: the core knows the exact one.
            return Err(ChangeRefusal::Busy(ChangeBusy::Pending { index: status.log_last }));
        }
        let mut directory = MemberDirectory::of(membership, &self.config.founding);
        directory.keep_members_of(membership);
        let mut draft = Draft { membership, directory, roles: Vec::new(), added: Vec::new() };
        for edit in edits {
            draft.edit(edit).map_err(ChangeRefusal::Invalid)?;
            if let MemberEdit::Promote(node) = edit {
                self.refuse_repaired(*node)?;
                if !dry_run {
                    self.refuse_laggard(*node)?;
                }
            }
        }
        let Draft { roles, directory, added, .. } = draft;
        let change = MembershipChange { roles, context: Some(directory.to_context()) };
        let before = self.quorum(membership);
        let proposed = match membership.changed(&change) {
            Ok(proposed) => proposed,
            Err(ChangeInvalid::NoVoters) => return Err(without_voters(before, &change, added)),
            Err(error) => return Err(ChangeRefusal::Invalid(error.to_string())),
        };
        let after = self.quorum(&proposed);
        let report = ChangeReport { before, after, index: None, added };
        refuse_unsafe(&report).map_err(|refusal| self.unheard_voter(&report).map_or(refusal, ChangeRefusal::Busy))?;
        Ok(Plan { change, proposed, report })
    }

    /// A voter that this leader has said its first word to, and that may still answer: it is soon known whether it is reachable.
    fn unheard_voter(&self, report: &ChangeReport) -> Option<ChangeBusy> {
        let voters = report.before.voters.iter().chain(&report.after.voters);
        let is_unheard = |node: &NodeId| {
            self.peer(*node).is_some_and(|peer| !peer.heard && peer.silent_for < self.config.election_timeout)
        };
        voters.copied().find(is_unheard).map(|node| ChangeBusy::Unheard { node })
    }

    fn peer(&self, node: NodeId) -> Option<PeerProgress> {
        self.node.peer_progress().find(|peer| peer.id == node)
    }

    fn answers(&self, peer: &PeerProgress) -> bool {
        peer.heard && peer.silent_for < self.config.election_timeout
    }

    fn refuse_repaired(&self, node: NodeId) -> Result<(), ChangeRefusal> {
        let tells_of_a_loss = self.peer(node).is_some_and(|peer| peer.repair.is_some());
        if tells_of_a_loss || self.node.status().membership.repair_of(node).is_some() {
            return Err(ChangeRefusal::Busy(ChangeBusy::UnderRepair { node }));
        }
        Ok(())
    }

    fn refuse_laggard(&self, node: NodeId) -> Result<(), ChangeRefusal> {
        let Some(progress) = self.peer(node) else { return Ok(()) };
        let behind = self.node.status().commit.0.saturating_sub(progress.matched.0);
        match (self.answers(&progress), progress.replication) {
            (true, Replication::Replicate) if behind <= LAG_MAX => Ok(()),
            (true, _) => Err(ChangeRefusal::Lagging { node, behind: Some(behind) }),
            (false, _) => Err(ChangeRefusal::Lagging { node, behind: None }),
        }
    }

    /// Who decides under the voters of `membership`, not counting those that are on their way out.
    fn quorum(&self, membership: &Membership) -> Quorum {
        let own = self.node.status().id;
        let is_reachable =
            |id: &NodeId| *id == own || self.peer(*id).is_some_and(|peer| peer.repair.is_none() && self.answers(&peer));
        let voters = membership.voters().to_vec();
        Quorum {
            needed: voters.len() / 2 + 1,
            reachable: voters.iter().copied().filter(is_reachable).collect(),
            learners: membership.learners().to_vec(),
            voters,
        }
    }

    pub(super) fn on_change_proposed(&mut self, now: Instant, answer: Result<LogPosition, ChangeError>) {
        let (proposed, mut report, waiter) =
            self.desk.change_asked.take().expect("the core answers a change only when it is asked for one");
        let refusal = match answer {
            Ok(position) => {
                report.index = Some(position.index);
                let pending = PendingChange { position, proposed_at: now, proposed, begun: false, report, waiter };
                return self.desk.changes.push(pending);
            }
            Err(ChangeError::NotLeader { leader }) => ChangeRefusal::NotLeader { leader },
            Err(ChangeError::Transferring { target }) => ChangeRefusal::Busy(ChangeBusy::Transferring { target }),
            Err(ChangeError::TooEarly) => ChangeRefusal::Busy(ChangeBusy::TooEarly),
            Err(ChangeError::Pending { index }) => ChangeRefusal::Busy(ChangeBusy::Pending { index }),
            Err(ChangeError::Invalid(invalid)) => ChangeRefusal::Invalid(invalid.to_string()),
        };
        waiter(Err(refusal));
    }

    pub(super) fn on_transfer_answered(&mut self, now: Instant, answer: Result<NodeId, TransferError>) {
        let (named, waiter) =
            self.desk.transfer_asked.take().expect("the core answers a transfer only when it is asked for one");
        let refusal = match answer {
            Ok(target) => return self.desk.transfers.push(PendingTransfer { target, named, asked_at: now, waiter }),
            Err(TransferError::NotLeader { leader }) => TransferRefusal::NotLeader { leader },
            Err(TransferError::LeadsAlready) => TransferRefusal::LeadsAlready,
            Err(TransferError::NotAVoter { target }) => TransferRefusal::NotAVoter { target },
            Err(TransferError::UnderRepair { target }) => TransferRefusal::UnderRepair { target },
            Err(TransferError::Silent { target }) => TransferRefusal::Silent { target },
            Err(TransferError::NobodyElse) => TransferRefusal::NobodyElse,
        };
        waiter(Err(refusal));
    }

    /// Answers whoever waits for something that has come about, or has waited long enough.
    pub(super) fn settle_desk(&mut self, now: Instant) {
        for mut change in std::mem::take(&mut self.desk.changes) {
            match self.outcome_of(&mut change, now) {
                None => self.desk.changes.push(change),
                Some(Ok(())) => (change.waiter)(Ok(change.report)),
                Some(Err(refusal)) => (change.waiter)(Err(refusal)),
            }
        }
        for transfer in std::mem::take(&mut self.desk.transfers) {
            match self.outcome_of_transfer(&transfer, now) {
                None => self.desk.transfers.push(transfer),
                Some(outcome) => (transfer.waiter)(outcome),
            }
        }
    }

    fn outcome_of(&self, change: &mut PendingChange, now: Instant) -> Option<Result<(), ChangeRefusal>> {
        let status = self.node.status();
        let position = change.position;
        if !change.begun && status.commit >= position.index {
            match self.node.log().term(position.index) {
                Some(term) if term == position.term => change.begun = true,
                // Another entry is committed in its place.
                Some(_) => return Some(Err(ChangeRefusal::NotLeader { leader: status.leader })),
                // A snapshot has taken the place of that part of the log.
                None => return Some(Err(ChangeRefusal::OutcomeUnknown)),
            }
        }
        // Once it is committed, a joint membership is the newest committed one until it is left.
        if change.begun && (!change.proposed.is_joint() || *status.membership_committed != change.proposed) {
            return Some(Ok(()));
        }
        let is_orphan = status.role != Role::Leader && now.since(change.proposed_at) > ORPHAN_TIMEOUT;
        is_orphan.then_some(Err(ChangeRefusal::OutcomeUnknown))
    }

    fn outcome_of_transfer(&self, transfer: &PendingTransfer, now: Instant) -> Option<Result<NodeId, TransferRefusal>> {
        let status = self.node.status();
        let waited = now.since(transfer.asked_at);
        let target = transfer.target;
        match status.leader {
            Some(leader) if leader != status.id && transfer.named && leader != target => {
                Some(Err(TransferRefusal::WentElsewhere { target, leader }))
            }
            Some(leader) if leader != status.id => Some(Ok(leader)),
            // The core gives it up after an election timeout.
            Some(_) if waited > self.config.election_timeout => Some(Err(TransferRefusal::TimedOut { target })),
            None if waited > ORPHAN_TIMEOUT => Some(Err(TransferRefusal::NoLeader)),
            Some(_) | None => None,
        }
    }

    /// Tells the host who the members are, if that changed or may have.
    pub(super) fn follow_membership(&mut self, changed: bool) {
        if !changed && !self.membership_open {
            return;
        }
        let status = self.node.status();
        let open = status.membership != status.membership_committed;
        if changed || open != self.membership_open {
            self.membership_open = open;
            self.host.membership(status.membership, status.membership_committed);
        }
    }

    /// Nobody is left without an answer.
    pub(super) fn close_desk(&mut self) {
        for change in self.desk.changes.drain(..) {
            (change.waiter)(Err(ChangeRefusal::OutcomeUnknown));
        }
        for transfer in self.desk.transfers.drain(..) {
            (transfer.waiter)(Err(TransferRefusal::Stopping));
        }
    }
}

/// A change being worked out, one edit after the other.
struct Draft<'a> {
    membership: &'a Membership,
    directory: MemberDirectory,
    roles: Vec<(NodeId, MemberRole)>,
    added: Vec<NodeId>,
}

impl Draft<'_> {
    /// Takes in one edit, or says what is wrong with it.
    fn edit(&mut self, edit: &MemberEdit) -> Result<(), String> {
        let (node, role) = match edit {
            MemberEdit::Add(member) => return self.add(member),
            MemberEdit::Promote(node) => (*node, MemberRole::Voter),
            MemberEdit::Demote(node) => (*node, MemberRole::Learner),
            MemberEdit::Remove(node) => (*node, MemberRole::Removed),
        };
        if !self.membership.contains(node) {
            return Err(format!("node {node} is not a member"));
        }
        if role == MemberRole::Voter && self.membership.is_voter(node) {
            return Err(format!("node {node} votes already"));
        }
        if role == MemberRole::Learner && self.membership.is_learner(node) {
            return Err(format!("node {node} is a learner already"));
        }
        // A voter decides until the joint membership is left, so its address is kept until the next change.
        if role == MemberRole::Removed && !self.membership.is_voter(node) {
            self.directory.remove(node);
        }
        self.roles.push((node, role));
        Ok(())
    }

    fn add(&mut self, new: &NewMember) -> Result<(), String> {
        let next = self.directory.id_max + 1;
        let id = new.id.map_or(next, |id| id.0);
        if self.membership.contains(NodeId(id)) {
            return Err(format!("node {id} is a member already"));
        }
        if id < next {
            return Err(format!(
                "number {id} was given out before and is not given out again; the next free one is {next}"
            ));
        }
        if !is_new_node_name(&new.name) {
            return Err(format!(
                "`{}` is not a name: 1 to 63 characters of a-z, A-Z, 0-9, `-`, `_`, and not digits alone",
                new.name
            ));
        }
        check_address(&new.peer_address)?;
        check_address(&new.client_address)?;
        if new.peer_address == new.client_address {
            return Err(format!("the address {} is given twice; each port serves one purpose", new.peer_address));
        }
        let removed = |id: u64| self.roles.contains(&(NodeId(id), MemberRole::Removed));
        for other in self.directory.members.iter().filter(|other| !removed(other.id)) {
            if other.name == new.name {
                return Err(format!("node {} has the name `{}` already", other.id, new.name));
            }
            let theirs = [&other.peer_address, &other.client_address];
            if let Some(taken) = theirs.into_iter().find(|it| **it == new.peer_address || **it == new.client_address) {
                return Err(format!("the address {taken} is that of node {} already", other.id));
            }
        }
        self.directory.add(DirectoryMember {
            id,
            name: new.name.clone(),
            peer_address: new.peer_address.clone(),
            client_address: new.client_address.clone(),
            http_address: new.http_address.clone(),
        });
        self.roles.push((NodeId(id), MemberRole::Learner));
        self.added.push(NodeId(id));
        Ok(())
    }
}

/// The last voter is not removed: there is no membership without one to show, and nobody would decide.
fn without_voters(before: Quorum, change: &MembershipChange, added: Vec<NodeId>) -> ChangeRefusal {
    let role_of = |node: &NodeId| change.roles.iter().find(|(changed, _)| changed == node).map(|(_, role)| *role);
    let members = before.voters.iter().chain(&before.learners).chain(&added);
    let stays = |node: &&NodeId| role_of(node).is_none_or(|role| role != MemberRole::Removed);
    let mut learners: Vec<NodeId> = members.filter(stays).copied().collect();
    learners.sort_unstable();
    let after = Quorum { voters: Vec::new(), learners, needed: 1, reachable: Vec::new() };
    ChangeRefusal::Unsafe {
        report: Box::new(ChangeReport { before, after, index: None, added }),
        reason: "no voter would be left, and nobody could decide anything; promote another member first".to_owned(),
    }
}

/// A change needs those who decide before it, to be made, and those who decide after it, to go on.
fn refuse_unsafe(report: &ChangeReport) -> Result<(), ChangeRefusal> {
    let describe = |quorum: &Quorum| {
        format!(
            "{} of {} voters decide and {} are reachable",
            quorum.needed,
            quorum.voters.len(),
            quorum.reachable.len()
        )
    };
    let reason = if !report.before.is_met() {
        format!("{}, so no change can be committed; bring members back first", describe(&report.before))
    } else if !report.after.is_met() {
        let unreachable = report.after.voters.iter().filter(|id| !report.after.reachable.contains(id));
        let unreachable: Vec<String> = unreachable.map(|id| id.to_string()).collect();
        format!(
            "{} afterwards, so the cluster would stop; bring back, or remove, node {} first",
            describe(&report.after),
            unreachable.join(", ")
        )
    } else {
        return Ok(());
    };
    Err(ChangeRefusal::Unsafe { report: Box::new(report.clone()), reason })
}
