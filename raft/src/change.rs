//! The leader's side of membership changes (Raft §6, thesis §4).
//!
//! ```text
//!   change asked for ──▶ C_old,new appended ──▶ committed by both majorities ──▶ C_new appended ──▶ committed: done
//!        (only learners differ: C_new at once)
//! ```
//!
//! One change at a time, and none before the leader has committed an entry of its own term: a change of a predecessor could
//! otherwise still be under way unseen (erratum of thesis §4.1). Whoever leads when a joint membership is committed leaves it,
//! without being asked. A leader that is not in the new membership leads until that is committed, without counting itself, then
//! asks a voter to take over and steps down (thesis §4.2.2).
//!
//! Who is removed is sent to until its removal is committed and for an election timeout after, so that it usually learns of it.
//!
//! Members that have lost what they had promised are made learners and, once repaired, voters again, here as well: see
//! `repair.rs`.

use crate::leader::{Leader, Peer};
use crate::progress::{Progress, Replication};
use crate::state::Core;
use crate::{
    Actions, Body, ChangeError, ChangeInvalid, EntryKind, LogPosition, MemberRole, Membership, MembershipChange, NodeId,
};

/// A repaired member votes again once it is at most this many entries behind what is committed.
const PROMOTION_LAG_MAX: u64 = 1024;

impl Leader {
    /// A change asked for by the caller.
    pub(crate) fn change_membership(
        &mut self,
        core: &mut Core,
        change: &MembershipChange,
        actions: &mut Actions,
    ) -> Result<LogPosition, ChangeError> {
        if let Some(target) = self.transfer_target() {
            return Err(ChangeError::Transferring { target });
        }
        self.may_change(core)?;
        for (node, role) in &change.roles {
            let under_repair = self.progress(*node).is_some_and(Progress::tells_of_a_loss);
            if *role == MemberRole::Voter && under_repair {
                return Err(ChangeError::Invalid(ChangeInvalid::UnderRepair(*node)));
            }
        }
        let next = core.membership().changed(change).map_err(ChangeError::Invalid)?;
        Ok(self.append_membership(core, next, actions))
    }

    /// One change at a time, and only when it is known what is committed.
    fn may_change(&self, core: &Core) -> Result<(), ChangeError> {
        if !core.knows_commit() {
            return Err(ChangeError::TooEarly);
        }
        let index = core.configurations.effective_index();
        if core.configurations.is_pending() || core.membership().is_joint() {
            return Err(ChangeError::Pending { index });
        }
        Ok(())
    }

    fn append_membership(&mut self, core: &mut Core, membership: Membership, actions: &mut Actions) -> LogPosition {
        let position = self.append(core, EntryKind::Membership, membership.encode());
        core.configurations.appended(position.index, membership);
        self.follow_membership(core);
        self.send_all(core, actions);
        position
    }

    /// Brings the peers in line with the membership in effect. Who is being removed stays until that is committed, and for an election
    /// timeout after.
    pub(crate) fn follow_membership(&mut self, core: &Core) {
        let membership = core.membership();
        let until = core.now + core.config.election_timeout;
        for peer in &mut self.peers {
            if membership.contains(peer.id) {
                peer.leaving_until = None;
            } else if !core.configurations.is_pending() {
                peer.leaving_until.get_or_insert(until);
            }
        }
        for id in membership.members().filter(|id| *id != core.id()) {
            if let Err(position) = self.peers.binary_search_by_key(&id, |peer| peer.id) {
                let progress = Progress::new(core.log.last_index().next(), core.now, &core.config);
                self.peers.insert(position, Peer { id, progress, leaving_until: None });
            }
        }
    }

    /// More is committed: a joint membership is left, whoever was removed is told and let go.
    pub(crate) fn after_commit(&mut self, core: &mut Core, actions: &mut Actions) {
        if core.configurations.is_pending() || !core.knows_commit() {
            return;
        }
        if core.membership().is_joint() {
            let left = core.membership().left();
            self.append_membership(core, left, actions);
        } else if self.peers.iter().any(|peer| peer.leaving_until.is_none() && !core.membership().contains(peer.id)) {
            self.follow_membership(core);
        }
    }

    /// Repairs members: takes the vote of one that has lost what it had promised, gives it back to one that has the log again.
    pub(crate) fn tend_repairs(&mut self, core: &mut Core, actions: &mut Actions) {
        if self.transfer_target().is_some() || self.may_change(core).is_err() {
            return;
        }
        let lost = self.peers.iter().find_map(|peer| {
            let id = peer.progress.repair?;
            core.membership().with_repair(peer.id, id).ok()
        });
        let next = lost.or_else(|| {
            let repairs = core.membership().repairs();
            let done = repairs.iter().find(|repair| self.has_the_log_again(core, repair.node))?;
            core.membership().with_repair_done(done.node).ok()
        });
        if let Some(next) = next {
            self.append_membership(core, next, actions);
        }
    }

    /// Whether a member under repair has answered as a repaired one and is about as far as the others.
    fn has_the_log_again(&self, core: &Core, node: NodeId) -> bool {
        self.progress(node).is_some_and(|progress| {
            !progress.tells_of_a_loss()
                && progress.replication() == Replication::Replicate
                && progress.matched >= core.configurations.effective_index()
                && progress.matched.0 + PROMOTION_LAG_MAX >= core.commit.0
        })
    }

    /// Whether this leader has no vote and that is committed. One that was elected without a vote has to commit an entry of its own first:
    /// before, it may be that no other can be elected (thesis §4.2.2).
    pub(crate) fn is_removed(&self, core: &Core) -> bool {
        core.knows_commit() && !core.configurations.is_pending() && !core.membership().is_voter(core.id())
    }

    /// The last word of a removed leader: the voter that is furthest along should lead.
    pub(crate) fn hand_over(&self, core: &Core, actions: &mut Actions) {
        if let Some(target) = self.furthest_voter(core) {
            core.send(target, Body::TimeoutNow, actions);
        }
    }
}
