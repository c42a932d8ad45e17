//! The voter's side of elections: what to answer to a vote or a pre-vote.
//!
//! A vote is granted once in a term, to a candidate whose log is at least as up to date as the voter's (Raft §5.2, §5.4.1),
//! and not while a live leader is heard (thesis §4.2.3), except when that leader itself asked for the election (thesis
//! §3.10). A pre-vote answers the same question for the term that the candidate would campaign in, and binds nobody
//! (thesis §9.6).
//!
//! A node that has lost what it had promised grants nothing until it is repaired (`repair.rs`). Learners answer like voters: a
//! candidate may know of a membership in which they vote (thesis §4.2.2). Whoever has to refuse because its own log is newer may be the
//! only one that can be elected, and stands itself when nobody leads, voter or not by its own log.
//!
//! A node with a higher term than everybody else must not stay stuck. Three answers free it: a refused pre-vote, a refused
//! vote and the answer to an append or offer of an older term carry the receiver's own term, and whoever learns of a higher
//! term enters it.

use crate::state::{Core, drop_message};
use crate::{Actions, AppendOutcome, Body, DropReason, LogIndex, LogPosition, NodeId, Term};

impl Core {
    /// "Would you vote for me in `term`?"
    pub(crate) fn on_pre_vote(&mut self, from: NodeId, term: Term, last: LogPosition, actions: &mut Actions) {
        let free_to_vote = term > self.term()
            || (term == self.term() && self.leader.is_none() && self.hard_state.vote.is_none_or(|vote| vote == from));
        let could_vote = free_to_vote && !self.is_in_lease() && !self.is_amnesiac();
        let granted = could_vote && last >= self.log.last();
        self.is_needed |= could_vote && !granted;
        let reply_term = if granted { term } else { self.term() };
        self.send_in_term(from, reply_term, Body::PreVoteReply { granted }, actions);
    }

    /// A vote is asked for in the present term. A grant is only owed here: it leaves with [`Core::release_vote`].
    pub(crate) fn on_vote(&mut self, from: NodeId, last: LogPosition, actions: &mut Actions) {
        let free_to_vote = match self.hard_state.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none(),
        };
        if !free_to_vote || self.is_amnesiac() || last < self.log.last() {
            self.send(from, Body::VoteReply { granted: false }, actions);
            return;
        }
        if self.hard_state.vote.is_none() {
            self.vote(from);
        }
        self.postpone_election();
        self.vote_owed = Some(from);
    }

    /// Says what was granted, once it is durable (Raft Figure 2).
    pub(crate) fn release_vote(&mut self, actions: &mut Actions) {
        if self.writes.hard_state_is_durable()
            && let Some(candidate) = self.vote_owed.take()
        {
            assert_eq!(self.hard_state.vote, Some(candidate), "a vote is owed that was not given");
            self.send(candidate, Body::VoteReply { granted: true }, actions);
        }
    }

    /// A message of an older term. Whoever waits for an answer gets one, and with it the present term.
    pub(crate) fn on_older_term(&self, from: NodeId, body: &Body, actions: &mut Actions) {
        match body {
            Body::Vote { .. } => self.send(from, Body::VoteReply { granted: false }, actions),
            Body::Append { .. } | Body::SnapshotOffer { .. } => {
                let outcome = AppendOutcome::Durable { match_index: LogIndex::ZERO };
                self.send(from, Body::AppendReply { outcome, read_round: 0, repair: self.repair_report() }, actions);
            }
            Body::ReadIndex { request } => {
                self.send(from, Body::ReadIndexReply { request: *request, index: None }, actions);
            }
            Body::PreVote { .. }
            | Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::ReadIndexReply { .. }
            | Body::TimeoutNow => drop_message(DropReason::StaleTerm, actions),
        }
    }
}
