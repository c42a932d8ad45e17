//! The checks of one run, where the world reports to.

use crate::check::{History, OperationId, Outcome, Reference, Safety, watch};
use crate::clients::Reply;
use crate::counters::Counters;
use crate::schedule::Time;
use crate::settings::Settings;
use crate::workload::Ask;
use client::Error;
use raft::{Entry, LogIndex, LogPosition, Membership, Term};
use storage::state::CommandOutcome;
use transport::proto::client as wire;

/// See the module.
pub(crate) struct Checks {
    history: History,
    reference: Reference,
    safety: Safety,
}

impl Checks {
    pub(crate) fn new(settings: &Settings) -> Checks {
        Checks {
            history: History::new(settings.stale_slack()),
            reference: Reference::new(crate::node::CLUSTER, settings.founding_membership()),
            safety: Safety::default(),
        }
    }

    pub(crate) fn invoked(&mut self, client: usize, now: Time, ask: &Ask) -> OperationId {
        self.history.invoke(client, now, ask)
    }

    pub(crate) fn answered(&mut self, operation: OperationId, now: Time, reply: &Reply) {
        self.history.done(operation, now, Outcome::Answered(Box::new(reply.clone())));
    }

    pub(crate) fn failed(&mut self, operation: OperationId, now: Time, error: &Error) {
        let outcome = if error.is_certainly_not_applied() { Outcome::Refused } else { Outcome::Unknown };
        self.history.done(operation, now, outcome);
    }

    pub(crate) fn applied(&mut self, now: Time, node: usize, term: Term, entries: &[Entry], state_hash: [u8; 16]) {
        self.reference.applied(now, node, term, entries, state_hash);
    }

    /// A node's state, as it was found or received.
    pub(crate) fn state(&self, node: usize, position: LogPosition, state_hash: [u8; 16]) {
        self.reference.check_state(node, position, state_hash);
    }

    /// The newest membership that anybody has applied.
    pub(crate) fn membership(&self) -> &Membership {
        self.reference.membership()
    }

    /// The newest entry that anybody has applied.
    pub(crate) fn applied_last(&self) -> LogIndex {
        self.reference.last()
    }

    /// That membership, and all that anybody has written to a log after it.
    pub(crate) fn memberships(&self) -> Vec<Membership> {
        let mut memberships = vec![self.membership().clone()];
        memberships.extend(self.safety.memberships_after(self.reference.last()).cloned());
        memberships
    }

    /// A node writes entries to its log, after `previous` if that is known.
    pub(crate) fn written(&mut self, node: usize, previous: Option<LogPosition>, entries: &[Entry]) {
        self.safety.written(node, previous, entries);
    }

    pub(crate) fn stepped(&mut self, node: usize, life: u64, core: &raft::Node) {
        self.safety.stepped(node, life, core, &self.reference);
    }

    /// Counts what the log came to mean.
    pub(crate) fn count(&self, counters: &mut Counters) {
        let done = &self.reference.model.done;
        let compacted = done.iter().filter(|done| matches!(done.outcome, CommandOutcome::Compacted { .. })).count();
        // At least so many were a leader's own.
        let by_rule = compacted.saturating_sub(self.history.compactions_asked_for());
        counters.add("space: compacted by rule", by_rule as u64);
        for done in &self.reference.model.done {
            if done.repeats {
                counters.count("session: a retry was given the first answer");
            }
            match done.outcome {
                CommandOutcome::SessionUnknown { .. } => {
                    counters.count("session: a command of an ended session refused")
                }
                CommandOutcome::Expired { leases, sessions, deleted } => {
                    counters.add("lease: expired", leases);
                    counters.add("lease: a key deleted with its lease", deleted);
                    counters.add("session: expired", sessions);
                }
                CommandOutcome::LeaseUnknown { .. } => counters.count("lease: unknown"),
                CommandOutcome::Compacted { .. } => counters.count("history: compacted"),
                CommandOutcome::Transaction { ref outcome, .. } if !outcome.succeeded => {
                    counters.count("transaction: compares that did not hold");
                }
                CommandOutcome::Put { .. }
                | CommandOutcome::ConditionFailed { .. }
                | CommandOutcome::Deleted { .. }
                | CommandOutcome::LimitExceeded { .. }
                | CommandOutcome::FormatRaised { .. }
                | CommandOutcome::Transaction { .. }
                | CommandOutcome::KeyUnknown { .. }
                | CommandOutcome::RevisionCompacted { .. }
                | CommandOutcome::RevisionFuture { .. }
                | CommandOutcome::LeaseGranted { .. }
                | CommandOutcome::LeaseExists { .. }
                | CommandOutcome::LeaseKeptAlive { .. }
                | CommandOutcome::LeaseRevoked { .. }
                | CommandOutcome::LeasesFull { .. }
                | CommandOutcome::LeaseFull { .. }
                | CommandOutcome::SessionOpened { .. }
                | CommandOutcome::SessionClosed
                | CommandOutcome::AnswerForgotten { .. }
                | CommandOutcome::SessionsFull { .. }
                | CommandOutcome::AnswersFull { .. }
                | CommandOutcome::Invalid { .. } => {}
            }
        }
    }

    /// A watcher that had everything before revision `first` is told this. Returns how many events came with what was there before.
    pub(crate) fn watch_told(&self, request: &wire::WatchRequest, first: u64, reply: &wire::WatchReply) -> usize {
        watch::check_reply(&self.reference.model, request, first, reply)
    }

    /// A watcher that wanted to go on at revision `first` is told that nothing before `compacted` can be read.
    pub(crate) fn check_compacted(&self, first: u64, compacted: u64) {
        let known = self.reference.model.compacted();
        assert!(first < compacted && compacted <= known, "from {first}, told {compacted}, and {known} is compacted");
    }

    /// Whether anything is still to come to a watch that has everything before revision `next`.
    pub(crate) fn owes(&self, request: &wire::WatchRequest, next: u64) -> bool {
        watch::is_owed_more(&self.reference.model, request, next)
    }

    /// The run is over. Returns how many operations were answered, and the answers verified.
    pub(crate) fn finish(self) -> usize {
        let answered = self.history.answered();
        self.history.verify(&self.reference);
        answered
    }
}
