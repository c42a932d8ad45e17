//! A peer that has lost its log and does not know.
//!
//! A node that notices a loss says so and is repaired (`repair.rs`). One that does not, for instance because its files were taken away under it, refuses
//! appends at places where it had acknowledged them. In one term that cannot happen to a log that is whole: what matches the leader's log stays
//! (Raft §5.3). But such a refusal may also be a late one, from before the acknowledgement. The leader tells them apart with a read round (thesis
//! §6.4):
//!
//! ```text
//!   refused at or before `matched` ──▶ doubted: a new round begins, the highest acknowledgement is kept
//!   refused there again, echoing that round: it was said after the acknowledgement had come ──▶ lost
//!   acknowledged that far, echoing a round begun later ──▶ the log is back
//! ```
//!
//! From the proof on nothing is counted that the peer once held: an entry that only its lost log makes up a majority for must not be committed.
//! A late refusal cannot do that. The caller is told once ([`DropReason::LostLog`]), and sees it in
//! [`PeerProgress::lost`](crate::PeerProgress::lost).
//!
//! What is absent: a repair. The peer must find its loss itself, at its next start; nobody may give it a log again before it has been found out
//! whom it had voted for. A new leader knows of no acknowledgement and so of no loss: it sends such a peer its log as if it were late.

use crate::leader::Leader;
use crate::state::{Core, drop_message};
use crate::{Actions, DropReason, LogIndex, NodeId};

/// What a leader makes of refusals that cannot be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// There were none.
    #[default]
    None,
    /// There was one, perhaps a late one.
    Doubted {
        /// Begun after everything up to `matched` had been acknowledged.
        round: u64,
        matched: LogIndex,
    },
    /// It has lost what it had acknowledged.
    Lost {
        /// Begun after that was known.
        round: u64,
        matched: LogIndex,
    },
}

impl Doubt {
    pub(crate) fn is_lost(self) -> bool {
        match self {
            Doubt::Lost { .. } => true,
            Doubt::None | Doubt::Doubted { .. } => false,
        }
    }

    /// Everything up to `index` was acknowledged, echoing `echoed`: what is left of the doubt.
    pub(crate) fn after_acknowledgement(self, index: LogIndex, echoed: u64) -> Doubt {
        match self {
            Doubt::Lost { round, matched } if echoed >= round && index >= matched => Doubt::None,
            Doubt::None | Doubt::Doubted { .. } | Doubt::Lost { .. } => self,
        }
    }
}

impl Leader {
    /// A peer that says nothing of a loss refused an append at `previous`, which it had acknowledged, echoing `echoed`.
    pub(crate) fn on_impossible_refusal(
        &mut self,
        core: &Core,
        from: NodeId,
        previous: LogIndex,
        echoed: u64,
        actions: &mut Actions,
    ) {
        let next_round = self.read_round + 1;
        let progress = self.progress_mut(from).expect("only a peer is answered");
        progress.wait_for_heartbeat();
        let matched = progress.matched;
        match progress.doubt {
            Doubt::Lost { .. } => return drop_message(DropReason::Unexpected, actions),
            Doubt::Doubted { round, matched } if previous <= matched && echoed >= round => {
                progress.doubt = Doubt::Lost { round: next_round, matched };
                drop_message(DropReason::LostLog { peer: from }, actions);
            }
            // Late; the answer to the round is still to come.
            Doubt::Doubted { matched, .. } if previous <= matched => return,
            Doubt::None | Doubt::Doubted { .. } => progress.doubt = Doubt::Doubted { round: next_round, matched },
        }
        self.ask_in_a_new_round(core, from, actions);
    }
}
