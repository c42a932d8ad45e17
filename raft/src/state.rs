//! What a node keeps whatever its role: term and vote, log, commit index, reads, writes under way.
//!
//! Promises that need the disk are not messages in a queue but facts about this state: a vote is released, a candidacy
//! announced and an append acknowledged when the state says that it is durable. A change of term makes them void by
//! changing the state.

use crate::configuration::Configurations;
use crate::log::Log;
use crate::random::Random;
use crate::read::Reads;
use crate::snapshot::SnapshotReceiver;
use crate::writes::Writes;
use crate::{
    Actions, Body, Config, DropReason, HardState, Instant, LogIndex, LogPosition, LogRange, Membership, Message,
    NodeId, RepairId, Restored, Send, Term,
};

/// State common to all roles: see the module.
#[derive(Debug, Clone)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) configurations: Configurations,
    /// The number of this node's loss, while it is not repaired: see `repair.rs`.
    pub(crate) repair: Option<RepairId>,
    /// The caller was asked to note that it is.
    pub(crate) repair_asked: bool,
    pub(crate) hard_state: HardState,
    /// The leader of this term, as far as known.
    pub(crate) leader: Option<NodeId>,
    pub(crate) log: Log,
    pub(crate) writes: Writes,
    /// The highest index known to be committed.
    pub(crate) commit: LogIndex,
    /// The last index handed out for applying.
    pub(crate) handed_out: LogIndex,
    /// The last index reported as applied.
    pub(crate) applied: LogIndex,
    pub(crate) reads: Reads,
    pub(crate) snapshot: SnapshotReceiver,
    /// Granted, and to be said once the vote is durable.
    pub(crate) vote_owed: Option<NodeId>,
    /// Since a leader was last heard, this node has refused a pre-vote only because its own log is newer. So others take it for a
    /// voter, whatever it is in its own membership, and perhaps cannot be elected without it: see [`Core::may_campaign`].
    pub(crate) is_needed: bool,
    /// When a node that hears no leader campaigns.
    pub(crate) election_at: Instant,
    /// When the leader was last heard: until an election timeout later, others' elections are ignored (thesis §4.2.3).
    pub(crate) leader_heard_at: Instant,
    pub(crate) now: Instant,
    pub(crate) random: Random,
}

impl Core {
    pub(crate) fn new(config: Config, restored: Restored, now: Instant, seed: u64) -> Core {
        let Restored { hard_state, membership, log_start, log_last, term_runs, applied, memberships, repair } =
            restored;
        let log = Log::restored(log_start, log_last, &term_runs);
        assert!(
            applied >= log_start.index && applied <= log_last,
            "applied {applied} lies outside of the log, which follows {log_start} and ends at {log_last}"
        );
        assert!(
            log.last().term <= hard_state.term,
            "the log ends at {}, after the newest term known, {}",
            log.last(),
            hard_state.term
        );
        assert!(
            memberships.last().is_none_or(|(index, _)| *index <= log_last),
            "a membership after the end {log_last} of the log was found: {memberships:?}"
        );
        let mut random = Random::new(seed);
        let mut core = Core {
            config,
            configurations: Configurations::restored(membership, applied, memberships),
            repair,
            repair_asked: false,
            hard_state,
            leader: None,
            log,
            writes: Writes::new(log_last),
            commit: applied,
            handed_out: applied,
            applied,
            reads: Reads::new(&mut random),
            snapshot: SnapshotReceiver::default(),
            vote_owed: None,
            is_needed: false,
            election_at: now,
            leader_heard_at: now,
            now,
            random,
        };
        // Nobody else can lead a group of one, so there is nobody to wait for.
        if !core.is_alone() {
            core.postpone_election();
        }
        core
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    pub(crate) fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The membership in effect.
    pub(crate) fn membership(&self) -> &Membership {
        self.configurations.effective()
    }

    /// Whether an entry of this term is committed, so that a leader knows what is (Raft §8).
    pub(crate) fn knows_commit(&self) -> bool {
        self.log.term(self.commit) == Some(self.term())
    }

    /// Whether this node is a quorum by itself.
    pub(crate) fn is_alone(&self) -> bool {
        let id = self.id();
        self.membership().has_quorum(|voter| voter == id)
    }

    /// Starts waiting for an election timeout anew, of a new random length (Raft §5.2).
    pub(crate) fn postpone_election(&mut self) {
        let timeout = self.config.election_timeout;
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1);
        let random_part = core::time::Duration::from_nanos(self.random.below(nanos));
        self.election_at = self.now + timeout + random_part;
    }

    /// A live leader was heard less than an election timeout ago, so elections of others are ignored (thesis §4.2.3).
    /// With leases on, the promise outlives the knowledge of who led, and a restart: see `lease.rs`.
    pub(crate) fn is_in_lease(&self) -> bool {
        self.leader == Some(self.id())
            || ((self.leader.is_some() || self.config.lease_reads)
                && self.now.since(self.leader_heard_at) < self.config.election_timeout)
    }

    /// A write has been under way for an election timeout or longer: the disk hangs (scenario 8).
    pub(crate) fn disk_hangs(&self) -> bool {
        self.writes.oldest_asked_at().is_some_and(|asked_at| self.now.since(asked_at) >= self.config.election_timeout)
    }

    /// Whether this node may stand for election now. Not while a snapshot replaces its log: what it would stand for is
    /// about to change. A membership counts from when it is in the log, so none has to be applied first (scenario 10).
    ///
    /// Who is no voter in its own membership stands as well when it is needed: others count it among the voters, by a membership that it has
    /// not got or has got beyond, and it cannot vote for them, because its log is newer than theirs (thesis §4.2.2). A quorum of the
    /// voters that it knows elects it, so it is as safe a leader as any; it does not count itself.
    pub(crate) fn may_campaign(&self) -> bool {
        (self.membership().is_voter(self.id()) || self.is_needed)
            && !self.is_amnesiac()
            && !self.snapshot.is_installing()
            && !self.disk_hangs()
    }

    /// Moves to a later term, in which this node has not voted (Raft §5.1).
    pub(crate) fn enter_term(&mut self, term: Term, actions: &mut Actions) {
        assert!(term > self.term(), "entered term {term} from term {}", self.term());
        self.set_leader(None, actions);
        self.hard_state = HardState { term, vote: None };
        self.writes.hard_state_changed();
        self.vote_owed = None;
    }

    /// Votes, once and for ever in this term (Raft §5.2).
    pub(crate) fn vote(&mut self, candidate: NodeId) {
        assert!(
            self.hard_state.vote.is_none(),
            "voted for {candidate} after {:?} in term {}",
            self.hard_state.vote,
            self.term()
        );
        self.hard_state.vote = Some(candidate);
        self.writes.hard_state_changed();
    }

    /// Learns who leads, or that nobody is known to. Reads that relied on another leader are refused. Where somebody leads, nobody else is
    /// needed to.
    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>, actions: &mut Actions) {
        self.is_needed &= leader.is_none();
        if self.leader != leader {
            self.reads.refuse_all(self.hard_state.term, actions);
            self.leader = leader;
        }
    }

    /// Moves the commit index up, never down.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last_index(), "commit {index} after the log's end {}", self.log.last());
        self.commit = self.commit.max(index);
        self.configurations.committed_to(self.commit);
    }

    /// What may be handed out for applying. Only durable entries are, because the state machine's disk must never be ahead
    /// of the log's: after a crash the log could not explain it. Nothing is while a snapshot replaces the state.
    pub(crate) fn hand_out(&mut self) -> Option<LogRange> {
        let last = self.commit.min(self.writes.durable_index());
        if last <= self.handed_out || self.snapshot.is_installing() {
            return None;
        }
        let range = LogRange { first: self.handed_out.next(), last };
        self.handed_out = last;
        Some(range)
    }

    /// The state machine has got this far.
    pub(crate) fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.handed_out, "{index} was applied, only {} was handed out", self.handed_out);
        self.applied = self.applied.max(index);
    }

    /// The disk has dropped the beginning of the log.
    pub(crate) fn on_compacted(&mut self, position: LogPosition) {
        assert!(position.index <= self.applied, "compacted up to {position}, applied only up to {}", self.applied);
        self.log.compact(position);
    }

    /// Sends in this node's term.
    pub(crate) fn send(&self, to: NodeId, body: Body, actions: &mut Actions) {
        self.send_in_term(to, self.term(), body, actions);
    }

    /// Sends naming another term, as pre-votes do.
    pub(crate) fn send_in_term(&self, to: NodeId, term: Term, body: Body, actions: &mut Actions) {
        actions.send.push(Send { to, message: Message { term, body }, entries: LogRange::EMPTY });
    }

    /// Sends to every other voter.
    pub(crate) fn send_to_voters(&self, term: Term, body: &Body, actions: &mut Actions) {
        let id = self.id();
        for voter in self.membership().members().filter(|member| *member != id && self.membership().is_voter(*member)) {
            self.send_in_term(voter, term, body.clone(), actions);
        }
    }

    /// A read of the caller's that nobody can answer, or for which there is no room.
    pub(crate) fn can_gather_read(&self) -> bool {
        self.reads.len() < self.config.reads_waiting_max
    }
}

/// Notes that a message was not acted on.
pub(crate) fn drop_message(reason: DropReason, actions: &mut Actions) {
    actions.dropped = Some(reason);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogMark;
    use core::time::Duration;

    fn core(voters: u64, log_last: u64) -> Core {
        let term_runs = if log_last == 0 { alloc::vec![] } else { alloc::vec![(LogIndex(1), Term(1))] };
        let restored = Restored {
            hard_state: HardState { term: Term(1), vote: None },
            log_last: LogIndex(log_last),
            term_runs,
            ..Restored::new(Membership::new((1..=voters).map(NodeId)))
        };
        Core::new(Config::new(NodeId(1)), restored, Instant::ORIGIN, 1)
    }

    #[test]
    fn group_of_one_waits_for_nobody() {
        assert_eq!(core(1, 0).election_at, Instant::ORIGIN);
        assert!(core(2, 0).election_at >= Instant::ORIGIN + Config::new(NodeId(1)).election_timeout);
    }

    #[test]
    fn only_durable_entries_are_handed_out() {
        let mut core = core(3, 3);
        core.commit_to(LogIndex(2));
        assert_eq!(core.hand_out(), Some(LogRange { first: LogIndex(1), last: LogIndex(2) }));
        core.writes.truncated(LogIndex(3));
        core.commit_to(LogIndex(3));
        assert_eq!(core.hand_out(), None);
    }

    #[test]
    fn vote_is_owed_no_more_in_a_later_term() {
        let (mut core, mut actions) = (core(3, 0), Actions::default());
        core.on_vote(NodeId(2), LogPosition::default(), &mut actions);
        core.enter_term(Term(2), &mut actions);
        core.writes.ask(core.hard_state, LogIndex::ZERO, core.now);
        core.writes.durable(None, 1);
        core.release_vote(&mut actions);
        assert!(actions.send.is_empty(), "{:?}", actions.send);
    }

    #[test]
    fn disk_hangs_after_an_election_timeout() {
        let mut core = core(3, 0);
        core.writes.hard_state_changed();
        core.writes.ask(core.hard_state, LogIndex::ZERO, core.now);
        core.now = core.now + (core.config.election_timeout - Duration::from_millis(1));
        assert!(!core.disk_hangs() && core.may_campaign());
        core.now = core.now + Duration::from_millis(1);
        assert!(core.disk_hangs() && !core.may_campaign());
        core.writes.durable(None, 1);
        assert!(core.may_campaign());
    }

    #[test]
    #[should_panic(expected = "was applied, only")]
    fn apply_that_was_never_asked_for_panics() {
        core(3, 3).on_applied(LogIndex(1));
    }

    #[test]
    #[should_panic(expected = "reported durable")]
    fn write_that_was_never_asked_for_panics() {
        core(3, 3).writes.durable(Some(LogMark { leader_term: Term(1), index: LogIndex(3) }), 0);
    }
}
