//! The candidate's side of elections (Raft §5.2), with the pre-vote round before it (thesis §9.6).
//!
//! A candidacy is announced only once term and own vote are durable, and the own vote counts from then on. Otherwise a
//! crash could bring the node back in the older term, with a shorter log, to campaign in the very term for which grants to
//! its former, longer log are still on their way.

use crate::state::Core;
use crate::{Actions, Body, Membership, NodeId};
use alloc::vec::Vec;

/// What the answers so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    Lost,
    Open,
}

/// A node that asks for votes or pre-votes.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Still asking whether it could win.
    pub(crate) is_pre: bool,
    /// The leader asked for this election (thesis §3.10).
    transfer: bool,
    /// The requests have been sent and the own vote counted.
    announced: bool,
    granted: Vec<NodeId>,
    refused: Vec<NodeId>,
}

impl Candidate {
    /// Asks everybody whether it would win in the next term. Binds nobody, so it needs no disk.
    pub(crate) fn pre_campaign(core: &mut Core, actions: &mut Actions) -> Candidate {
        core.postpone_election();
        let body = Body::PreVote { last: core.log.last() };
        core.send_to_voters(core.term().next(), &body, actions);
        let granted = Vec::from([core.id()]);
        Candidate { is_pre: true, transfer: false, announced: true, granted, refused: Vec::new() }
    }

    /// Enters the next term and votes for itself; the rest happens in [`Candidate::announce`].
    pub(crate) fn campaign(core: &mut Core, transfer: bool, actions: &mut Actions) -> Candidate {
        core.enter_term(core.term().next(), actions);
        core.vote(core.id());
        core.postpone_election();
        Candidate { is_pre: false, transfer, announced: false, granted: Vec::new(), refused: Vec::new() }
    }

    /// Asks for votes and counts its own, once its term and vote are durable.
    pub(crate) fn announce(&mut self, core: &Core, actions: &mut Actions) {
        if self.announced || !core.writes.hard_state_is_durable() {
            return;
        }
        self.announced = true;
        self.granted.push(core.id());
        let body = Body::Vote { last: core.log.last(), transfer: self.transfer };
        core.send_to_voters(core.term(), &body, actions);
    }

    /// Whether votes have been asked for.
    pub(crate) fn is_announced(&self) -> bool {
        self.announced
    }

    /// Counts an answer; each voter's counts once, a grant over a refusal.
    pub(crate) fn count(&mut self, from: NodeId, granted: bool) {
        let list = if granted { &mut self.granted } else { &mut self.refused };
        if !list.contains(&from) {
            list.push(from);
        }
    }

    pub(crate) fn tally(&self, membership: &Membership) -> Tally {
        if membership.has_quorum(|id| self.granted.contains(&id)) {
            return Tally::Won;
        }
        let possible = membership.has_quorum(|id| self.granted.contains(&id) || !self.refused.contains(&id));
        if possible { Tally::Open } else { Tally::Lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        let granted = Vec::from([NodeId(1)]);
        Candidate { is_pre: false, transfer: false, announced: true, granted, refused: Vec::new() }
    }

    #[test]
    fn answers_count_once() {
        let membership = Membership::new((1..=5).map(NodeId));
        let mut candidate = candidate();
        for _ in 0..3 {
            candidate.count(NodeId(2), true);
            candidate.count(NodeId(3), false);
        }
        assert_eq!(candidate.tally(&membership), Tally::Open);
        candidate.count(NodeId(4), true);
        assert_eq!(candidate.tally(&membership), Tally::Won);
    }

    #[test]
    fn majority_of_refusals_loses() {
        let membership = Membership::new((1..=3).map(NodeId));
        let mut candidate = candidate();
        candidate.count(NodeId(2), false);
        assert_eq!(candidate.tally(&membership), Tally::Open);
        candidate.count(NodeId(3), false);
        assert_eq!(candidate.tally(&membership), Tally::Lost);
    }
}
