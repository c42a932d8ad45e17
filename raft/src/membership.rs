//! Who votes.
//!
//! A membership is a set of voters, during a change also the set it comes from (joint consensus, Raft §6, thesis §4.3), and
//! learners, which receive the log and do not vote. A decision needs a majority of each set of voters that is not empty.
//!
//! Absent so far: changing it. [`Membership::new`] makes the static voters that a group starts with.

use crate::NodeId;
use alloc::vec::Vec;

/// Voters and learners, each list ascending and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Membership {
    voters: Vec<NodeId>,
    voters_outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
}

impl Membership {
    /// A membership of voters only, in any order. Duplicates count once.
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        let mut voters: Vec<NodeId> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        Membership { voters, voters_outgoing: Vec::new(), learners: Vec::new() }
    }

    /// The voters; during a change, those it leads to.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// During a change, the voters it comes from; otherwise empty.
    #[must_use]
    pub fn voters_outgoing(&self) -> &[NodeId] {
        &self.voters_outgoing
    }

    /// Members that receive the log and do not vote.
    #[must_use]
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Whether `id` votes, in either set of voters.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.binary_search(&id).is_ok() || self.voters_outgoing.binary_search(&id).is_ok()
    }

    /// Whether `id` is in it at all.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.binary_search(&id).is_ok()
    }

    /// Everybody in it, each once, in no promised order.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let outgoing = self.voters_outgoing.iter().filter(|id| self.voters.binary_search(id).is_err());
        self.voters.iter().chain(outgoing).chain(self.learners.iter()).copied()
    }

    /// Whether those that `agrees` says yes to are a majority of every set of voters.
    #[must_use]
    pub fn has_quorum(&self, mut agrees: impl FnMut(NodeId) -> bool) -> bool {
        let mut majority = |voters: &[NodeId]| {
            let yes = voters.iter().filter(|id| agrees(**id)).count();
            yes > voters.len() / 2
        };
        majority(&self.voters) && (self.voters_outgoing.is_empty() || majority(&self.voters_outgoing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> Vec<NodeId> {
        numbers.iter().map(|number| NodeId(*number)).collect()
    }

    #[test]
    fn majority_is_more_than_half() {
        for (voters, yes, expected) in
            [(1, 1, true), (1, 0, false), (2, 1, false), (3, 2, true), (4, 2, false), (5, 3, true)]
        {
            let membership = Membership::new((1..=voters).map(NodeId));
            assert_eq!(membership.has_quorum(|id| id.0 <= yes), expected, "{yes} of {voters}");
        }
    }

    #[test]
    fn nobody_is_no_quorum() {
        assert!(!Membership::default().has_quorum(|_| true));
    }

    #[test]
    fn joint_decision_needs_both_majorities() {
        let membership = Membership { voters: ids(&[1, 2, 3]), voters_outgoing: ids(&[3, 4, 5]), learners: ids(&[6]) };
        assert!(!membership.has_quorum(|id| ids(&[1, 2, 3]).contains(&id)));
        assert!(!membership.has_quorum(|id| ids(&[3, 4, 5]).contains(&id)));
        assert!(membership.has_quorum(|id| ids(&[1, 3, 4]).contains(&id)));
        assert_eq!(membership.members().count(), 6);
        assert!(membership.is_voter(NodeId(5)) && !membership.is_voter(NodeId(6)) && membership.contains(NodeId(6)));
    }

    #[test]
    fn order_and_duplicates_do_not_matter() {
        assert_eq!(Membership::new(ids(&[3, 1, 2, 1])), Membership::new(ids(&[1, 2, 3])));
    }
}
