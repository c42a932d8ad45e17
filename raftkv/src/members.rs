//! The members as this node knows them at this moment, for everything around the driver.
//!
//! The driver tells who is a member each time that changes; clients, the status and the links to peers look here. What decides is the
//! membership in effect. Links go to the members of the committed one too: a leader that is being removed leads until its removal is committed,
//! and must be answered until then (thesis §4.2.2).

use crate::directory::MemberDirectory;
use raft::{Membership, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use transport::PeerSet;
use transport::proto::client as wire;

/// What a node is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It votes.
    Voter,
    /// It receives the log and does not vote.
    Learner,
    /// It has not been made a member yet, as far as it knows.
    Joining,
    /// It was a member and is none any more, for ever.
    Removed,
}

impl Standing {
    /// What `id` is in `membership`, whose directory is `directory`.
    #[must_use]
    pub fn of(id: NodeId, membership: &Membership, directory: &MemberDirectory) -> Standing {
        if membership.is_voter(id) {
            Standing::Voter
        } else if membership.is_learner(id) {
            Standing::Learner
        } else if directory.is_removed(id, membership) {
            Standing::Removed
        } else {
            Standing::Joining
        }
    }

    /// In one word, for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Standing::Voter => "voter",
            Standing::Learner => "learner",
            Standing::Joining => "joining",
            Standing::Removed => "removed",
        }
    }
}

/// The members at one moment.
#[derive(Debug)]
pub struct MemberView {
    /// By number, as clients are told: those in effect.
    pub members: BTreeMap<NodeId, wire::Member>,
    /// Whom to have links with.
    pub peers: PeerSet,
    /// What this node is.
    pub standing: Standing,
}

impl MemberView {
    /// The members as node `own` sees them.
    #[must_use]
    pub fn new(own: NodeId, effective: &Membership, committed: &Membership, founding: &MemberDirectory) -> MemberView {
        let directory = MemberDirectory::of(effective, founding);
        let before = MemberDirectory::of(committed, founding);
        let mut members = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for id in effective.members().chain(committed.members()) {
            // A node that joins may hear of members before it hears what they are called: they name themselves when they connect.
            let Some(known) = directory.member(id).or_else(|| before.member(id)) else { continue };
            addresses.insert(id, known.peer_address.clone());
            if effective.contains(id) {
                let member = wire::Member {
                    id: id.0,
                    name: known.name.clone(),
                    peer_address: known.peer_address.clone(),
                    client_address: known.client_address.clone(),
                    kind: Standing::of(id, effective, &directory).name().to_owned(),
                    under_repair: effective.repair_of(id).is_some(),
                };
                members.insert(id, member);
            }
        }
        let id_max = if effective.is_empty() { 0 } else { directory.id_max };
        let peers = PeerSet { members: addresses, id_max: NodeId(id_max) };
        MemberView { members, peers, standing: Standing::of(own, effective, &directory) }
    }
}

impl MemberView {
    /// Whether somebody else than `own` votes.
    #[must_use]
    pub fn has_other_voters(&self, own: NodeId) -> bool {
        self.members.iter().any(|(id, member)| *id != own && member.kind == Standing::Voter.name())
    }
}

/// See the module.
pub(crate) struct Members {
    own: NodeId,
    founding: MemberDirectory,
    view: RwLock<Arc<MemberView>>,
}

impl Members {
    /// Starts with what the disk has.
    pub(crate) fn new(own: NodeId, founding: MemberDirectory, membership: &Membership) -> Members {
        let view = MemberView::new(own, membership, membership, &founding);
        Members { own, founding, view: RwLock::new(Arc::new(view)) }
    }

    /// This node.
    pub(crate) fn own(&self) -> NodeId {
        self.own
    }

    /// Whether somebody else votes.
    pub(crate) fn have_other_voters(&self) -> bool {
        self.view().has_other_voters(self.own)
    }

    /// The members at this moment.
    pub(crate) fn view(&self) -> Arc<MemberView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The membership changed, or more of it is committed.
    pub(crate) fn follow(&self, effective: &Membership, committed: &Membership) -> Arc<MemberView> {
        let view = Arc::new(MemberView::new(self.own, effective, committed, &self.founding));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view.clone();
        view
    }

    /// Whether a committed membership says that this node is no member any more.
    pub(crate) fn removes_this_node(&self, committed: &Membership) -> bool {
        // Nearly always the whole answer, and the directory need not be read for it.
        !committed.contains(self.own)
            && Standing::of(self.own, committed, &MemberDirectory::of(committed, &self.founding)) == Standing::Removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::DirectoryMember;

    fn directory(ids: &[u64], id_max: u64) -> MemberDirectory {
        let member = |id: &u64| DirectoryMember {
            id: *id,
            name: format!("n{id}"),
            peer_address: format!("host{id}:1"),
            client_address: format!("host{id}:2"),
            http_address: None,
        };
        MemberDirectory { id_max, members: ids.iter().map(member).collect() }
    }

    fn membership(ids: &[u64], id_max: u64) -> Membership {
        let context = directory(ids, id_max).to_context();
        Membership::new(ids.iter().copied().map(NodeId)).with_context(context)
    }

    fn ids<V>(members: &BTreeMap<NodeId, V>) -> Vec<u64> {
        members.keys().map(|id| id.0).collect()
    }

    #[test]
    fn a_member_on_its_way_out_keeps_its_link_and_is_not_shown() {
        let founding = directory(&[1, 2, 3], 3);
        let (before, after) = (membership(&[1, 2, 3], 3), membership(&[1, 2], 3));
        let view = MemberView::new(NodeId(1), &after, &before, &founding);
        assert_eq!((ids(&view.members), ids(&view.peers.members)), (vec![1, 2], vec![1, 2, 3]));
        let view = MemberView::new(NodeId(3), &after, &after, &founding);
        assert_eq!((ids(&view.peers.members), view.standing), (vec![1, 2], Standing::Removed));
        assert!(!view.peers.admits(NodeId(3)) && view.peers.admits(NodeId(4)));
    }

    #[test]
    fn a_joining_node_is_not_a_removed_one() {
        // Its configuration names it and one other; the group is at number 5 when it hears of it.
        let founding = MemberDirectory { id_max: 0, ..directory(&[1, 6], 6) };
        let nobody = Membership::default();
        let view = MemberView::new(NodeId(6), &nobody, &nobody, &founding);
        assert_eq!((view.standing, view.members.len()), (Standing::Joining, 0));
        assert!(view.peers.admits(NodeId(1)), "whoever leads may reach it");
        let members = Members::new(NodeId(6), founding, &nobody);
        assert!(!members.removes_this_node(&membership(&[1, 2, 5], 5)));
        assert!(members.removes_this_node(&membership(&[1, 2, 5], 6)));
        // A membership of founders, without names: those it was told of have them, the others come by themselves.
        let founders = Membership::new([1, 2].map(NodeId));
        let view = members.follow(&founders, &founders);
        assert_eq!((ids(&view.members), view.standing), (vec![1], Standing::Joining));
        assert!(view.peers.admits(NodeId(2)));
    }
}
