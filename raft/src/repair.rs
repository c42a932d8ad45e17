//! Repairing a member that has lost what it had promised: its log or part of it, its vote, or its whole disk.
//!
//! Such a node is *amnesiac*. It may have voted in a term it does not know any more, and acknowledged entries it does not hold any
//! more. If it voted or acknowledged again, an entry that was committed with its old acknowledgement could be lost (scenario 35). So
//! its peers must first stop counting on what it once said, and that is decided through the log:
//!
//! ```text
//!   node: notices the loss, chooses a number, notes it durably            (Restored::repair)
//!   node: neither votes nor campaigns; every answer to an append carries the number
//!   leader: does not count such answers; begins a read round, and once the number comes again with its echo, appends a membership in which the node is a learner under that number
//!   ... committed by a majority of which the node is no part ...
//!   node: has applied a committed membership with its own number: it is a plain learner, and notes that durably; from then on
//!         its answers say that it is repaired, with the number, for as long as the membership has it
//!   leader: makes it a voter again, if it was one, once it has the log
//! ```
//!
//! Why that is safe. Let the node be B, and let the membership that takes its vote be committed at index d. Its quorum is a majority
//! of the old voters without B, because answers of B do not count. A candidate without the entry at d could win only with an old
//! vote of B and a majority less one of the others, and among these is one that holds the entry at d: either it refuses the candidate,
//! whose log is behind, or it voted before it took the entry, in a higher term, and then it would have refused the entry. A candidate
//! with the entry does not count B. So nothing hangs on B's former vote, and entries that B had acknowledged are on the logs of all
//! leaders to come as long as one other node that holds them is not lost too. The number tells this loss from an earlier one: a
//! membership from an earlier repair, met again while the log is sent anew, does not end this one.
//!
//! That it is repaired is said with the number too: an answer without one may be a late one of the node's former life, which tells of a log that
//! is not there any more. A report may be a late one as well, of a loss from which the node has been repaired since; it would make a learner
//! of a voter that knows nothing of it. So a leader believes a report only when it was said after the first one had come, which the echo of a
//! read round tells (thesis §6.4), and nothing else that was said since has come before it.
//!
//! Caveat: a loss that a node does not notice cannot be repaired. What notices it is storage and recovery, not the core.

use crate::leader::Leader;
use crate::state::Core;
use crate::{Actions, LogIndex, NodeId, RepairId, RepairReport};

impl Core {
    /// Whether this node has lost what it had promised and is not repaired yet.
    pub(crate) fn is_amnesiac(&self) -> bool {
        self.repair.is_some()
    }

    /// What this node says of its loss with every answer to an append.
    pub(crate) fn repair_report(&self) -> Option<RepairReport> {
        let pending = self.repair.map(|id| RepairReport { id, done: false });
        pending.or_else(|| {
            let repair = self.configurations.committed().repair_of(self.id())?;
            Some(RepairReport { id: repair.id, done: true })
        })
    }

    /// Asks to note that this node is repaired, once it has applied the proof: a committed membership with the number of its loss.
    pub(crate) fn release_repaired(&mut self, actions: &mut Actions) {
        let Some(id) = self.repair else { return };
        let proven = self.configurations.committed_index() <= self.handed_out
            && self.configurations.committed().repair_of(self.id()).is_some_and(|repair| repair.id == id)
            && !self.configurations.committed().is_voter(self.id());
        if proven && !self.repair_asked {
            self.repair_asked = true;
            actions.repaired = true;
        }
    }

    /// The caller has noted it.
    pub(crate) fn on_repaired(&mut self) {
        assert!(self.repair_asked, "node {} was called repaired and is under repair {:?}", self.id(), self.repair);
        self.repair = None;
        self.repair_asked = false;
    }
}

impl Leader {
    /// Whether an answer of `from` that carries `repair` and echoes `echoed` may be taken in. Asks about a loss that it did not know of, and forgets
    /// what a peer once held that has lost it; `from_index` is the index the answer speaks of.
    pub(crate) fn note_repair(
        &mut self,
        core: &Core,
        from: NodeId,
        repair: Option<RepairReport>,
        from_index: LogIndex,
        echoed: u64,
        actions: &mut Actions,
    ) -> bool {
        let committed = core.configurations.committed();
        let is_known_as_learner =
            |id: RepairId| committed.repair_of(from).is_some_and(|repair| repair.id == id) && !committed.is_voter(from);
        let next_round = self.read_round + 1;
        let Some(progress) = self.progress_mut(from) else { return false };
        let is_over = |(id, round)| {
            repair == Some(RepairReport { id, done: true })
                || (echoed >= round && repair != Some(RepairReport { id, done: false }))
        };
        if progress.reported.is_some_and(is_over) {
            // What was said in this round before it was over may still be on its way.
            progress.reported = None;
        }
        match (progress.repair, repair) {
            (None, None | Some(RepairReport { done: true, .. })) => true,
            // It can be repaired only after its vote was taken.
            (Some(known), Some(RepairReport { id, done: true })) if known == id && is_known_as_learner(known) => {
                progress.repair = None;
                true
            }
            // Of a former life, before this loss: it tells of a log that is not there any more.
            (Some(_), None | Some(RepairReport { done: true, .. })) => false,
            (Some(known), Some(RepairReport { id, .. })) if known == id => true,
            (_, Some(RepairReport { id, .. })) => match progress.reported {
                Some((reported, round)) if reported == id && echoed >= round => {
                    progress.forget(from_index.next(), id, core.now, &core.config);
                    true
                }
                Some((reported, _)) if reported == id => false,
                _ => {
                    progress.reported = Some((id, next_round));
                    self.ask_in_a_new_round(core, from, actions);
                    false
                }
            },
        }
    }
}
