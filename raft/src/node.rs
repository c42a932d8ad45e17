//! The door: one [`Node::step`], through which everything comes in.
//!
//! A step first checks whether a leader still has its authority, so that a leader that was paused for a while does nothing
//! on stale authority (scenario 9); then it handles the event; then it does what is due by now; then it releases what has
//! become durable and hands out what has become committed. Terms are compared here, before any role sees a message
//! (Raft §5.1), so there is one place in which a message can change the term.

use crate::candidate::{Candidate, Tally};
use crate::follower::{Append, Follower};
use crate::invariants::{self, Before};
use crate::leader::Leader;
use crate::log::LogView;
use crate::state::{Core, drop_message};
use crate::status::{PeerProgress, Status};
use crate::{
    Actions, Body, ChangeError, Changed, Config, DropReason, Event, FetchSnapshot, InstallSnapshot, Instant,
    LogPosition, Membership, Message, NodeId, ProposeError, Restored, Role, Term, TransferError,
};

/// No cluster lives long enough to get here by elections, so a message beyond it is forged or corrupt. It keeps terms from
/// overflowing.
const TERM_MAX: Term = Term(1 << 62);

/// One member of the group (a server, in the words of Raft §5): see the [crate].
#[derive(Debug, Clone)]
pub struct Node {
    core: Core,
    role: RoleState,
}

/// What only one role keeps.
#[derive(Debug, Clone)]
pub(crate) enum RoleState {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Leader),
}

impl Node {
    /// A node as its disk has it (Raft Figure 2, persistent state). `seed` must differ from life to life: it spreads election timeouts and keeps the read
    /// requests of two lives apart. Panics if `restored` contradicts itself.
    #[must_use]
    pub fn new(config: Config, restored: Restored, now: Instant, seed: u64) -> Node {
        let node =
            Node { core: Core::new(config, restored, now, seed), role: RoleState::Follower(Follower::default()) };
        invariants::check(&Before::of(&node), &node);
        node
    }

    /// Takes in one event and fills `actions`, which it clears first, with everything to do about it: the rules for servers of Raft,
    /// Figure 2. Never blocks and never
    /// does I/O. `now` never goes back: an earlier one counts as the latest seen. Panics when the node's own state is
    /// impossible, never because of a peer's message, save one that contradicts what is committed.
    pub fn step(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        actions.clear();
        self.core.now = self.core.now.max(now);
        let before = Before::of(self);
        let evictable = self.core.handed_out.min(self.core.writes.durable_index());
        self.core.log.evict(evictable, self.core.config.cache_bytes_max);
        self.check_authority(actions);
        self.handle(event, actions);
        self.tick(actions);
        self.leave_if_removed(actions);
        self.release(&before, actions);
        invariants::check(&before, self);
    }

    /// When to step with [`Event::Wake`] if nothing happens before. `None`: there is nothing to wait for.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.role {
            RoleState::Leader(leader) => Some(leader.deadline()),
            RoleState::Follower(_) | RoleState::Candidate(_) => {
                let repeat_at =
                    self.core.reads.confirmation().map(|it| it.sent_at + self.core.config.heartbeat_interval);
                Some(repeat_at.map_or(self.core.election_at, |repeat_at| repeat_at.min(self.core.election_at)))
            }
        }
    }

    /// The node as it is.
    #[must_use]
    pub fn status(&self) -> Status<'_> {
        let core = &self.core;
        Status {
            id: core.id(),
            role: self.role(),
            term: core.term(),
            leader: core.leader,
            vote: core.hard_state.vote,
            commit: core.commit,
            applied: core.applied,
            durable: core.writes.durable_index(),
            log_first: core.log.start().index.next(),
            log_last: core.log.last_index(),
            membership: core.membership(),
            membership_committed: core.configurations.committed(),
            repair: core.repair,
            reads_waiting: core.reads.len(),
            installing_snapshot: core.snapshot.is_installing(),
        }
    }

    /// What a leader knows about each peer, ascending by id. Nothing on other nodes.
    pub fn peer_progress(&self) -> impl Iterator<Item = PeerProgress> + '_ {
        let peers = match &self.role {
            RoleState::Leader(leader) => leader.peers.as_slice(),
            RoleState::Follower(_) | RoleState::Candidate(_) => &[],
        };
        peers.iter().map(|peer| {
            let (inflight_messages, inflight_bytes) = peer.progress.flights();
            PeerProgress {
                id: peer.id,
                replication: peer.progress.replication(),
                matched: peer.progress.matched,
                next: peer.progress.next,
                inflight_messages,
                inflight_bytes,
                heard: peer.progress.heard,
                silent_for: self.core.now.since(peer.progress.heard_at),
                repair: peer.progress.repair,
                lost: peer.progress.doubt.is_lost(),
            }
        })
    }

    /// The log, for carrying out the actions of the step just made.
    #[must_use]
    pub fn log(&self) -> LogView<'_> {
        LogView::new(&self.core.log)
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    #[cfg(test)]
    pub(crate) fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    pub(crate) fn role_state(&self) -> &RoleState {
        &self.role
    }

    pub(crate) fn role(&self) -> Role {
        match &self.role {
            RoleState::Follower(_) => Role::Follower,
            RoleState::Candidate(candidate) if candidate.is_pre => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    fn handle(&mut self, event: Event, actions: &mut Actions) {
        let Node { core, role } = self;
        match event {
            Event::Receive { from, message } => self.on_message(from, message, actions),
            Event::Propose { payload } => {
                actions.proposal = Some(match role {
                    RoleState::Leader(leader) => leader.propose(core, payload, actions),
                    RoleState::Follower(_) | RoleState::Candidate(_) => {
                        Err(ProposeError::NotLeader { leader: core.leader })
                    }
                });
            }
            Event::Read { token } => self.on_read(token, false, actions),
            Event::LeaseRead { token } => self.on_read(token, true, actions),
            Event::ChangeMembership { change } => {
                actions.membership_proposal = Some(match role {
                    RoleState::Leader(leader) => leader.change_membership(core, &change, actions),
                    RoleState::Follower(_) | RoleState::Candidate(_) => {
                        Err(ChangeError::NotLeader { leader: core.leader })
                    }
                });
            }
            Event::TransferLeadership { target } => {
                actions.transfer = Some(match role {
                    RoleState::Leader(leader) => leader.on_transfer(core, target, actions),
                    RoleState::Follower(_) | RoleState::Candidate(_) => {
                        Err(TransferError::NotLeader { leader: core.leader })
                    }
                });
            }
            Event::Durable { mark, hard_state_sequence } => {
                core.writes.durable(mark, hard_state_sequence);
                if let RoleState::Leader(leader) = role {
                    leader.on_durable(core, actions);
                }
            }
            Event::Applied { index } => core.on_applied(index),
            Event::Loaded { peer, entries } => {
                if let RoleState::Leader(leader) = role {
                    leader.on_loaded(core, peer, entries, actions);
                }
            }
            Event::SnapshotSent { peer, position } => {
                if let RoleState::Leader(leader) = role {
                    leader.on_snapshot_sent(core, peer, position, actions);
                }
            }
            Event::SnapshotFetched { position, membership } => self.on_snapshot_fetched(position, membership, actions),
            Event::SnapshotFailed => core.snapshot.fetch_ended(),
            Event::SnapshotInstalled { position } => self.on_snapshot_installed(position),
            Event::Compacted { position } => core.on_compacted(position),
            Event::Unreachable { peer } => {
                if let RoleState::Leader(leader) = role {
                    leader.on_unreachable(peer);
                }
            }
            Event::Repaired => core.on_repaired(),
            Event::Wake => {}
        }
    }

    /// A message of a peer. Votes are answered whoever asks, and whoever leads is followed: a node may not know yet that the
    /// sender is a member, or that it is one itself (thesis §4.2.2). Everything else counts from members only, and from peers of a
    /// leader that are being removed.
    fn on_message(&mut self, from: NodeId, message: Message, actions: &mut Actions) {
        let Message { term, body } = message;
        let is_for_anybody = matches!(
            body,
            Body::Vote { .. }
                | Body::PreVote { .. }
                | Body::Append { .. }
                | Body::SnapshotOffer { .. }
                | Body::TimeoutNow
        );
        if from == self.core.id() || term > TERM_MAX {
            return drop_message(DropReason::Malformed, actions);
        }
        if !self.core.membership().contains(from) && !is_for_anybody && !self.is_peer(from) {
            return drop_message(DropReason::UnknownSender, actions);
        }
        // These two name a term in which the candidate would campaign, and change nobody's (thesis §9.6).
        if let Body::PreVote { last } = body {
            return self.core.on_pre_vote(from, term, last, actions);
        }
        if let Body::PreVoteReply { granted: true } = body {
            return self.on_vote_reply(from, term, true, true, actions);
        }
        if let Body::Vote { transfer, .. } = body {
            let no_longer_led = term == self.core.term() && self.core.leader.is_none();
            let disrupts = (term > self.core.term() || no_longer_led) && !transfer && self.core.is_in_lease();
            if disrupts {
                return;
            }
        }
        if term < self.core.term() {
            return self.core.on_older_term(from, &body, actions);
        }
        if term > self.core.term() {
            self.enter_term(term, actions);
        }
        self.on_current_term(from, body, actions);
    }

    /// A message of the present term.
    fn on_current_term(&mut self, from: NodeId, body: Body, actions: &mut Actions) {
        let term = self.core.term();
        match body {
            Body::PreVote { .. } => unreachable!("pre-votes change no term and are answered before"),
            Body::PreVoteReply { granted } => self.on_vote_reply(from, term.next(), true, granted, actions),
            Body::Vote { last, .. } => self.core.on_vote(from, last, actions),
            Body::VoteReply { granted } => self.on_vote_reply(from, term, false, granted, actions),
            Body::Append { previous, commit, read_round, entries } => {
                if let Some((core, follower)) = self.follow(from, actions) {
                    follower.on_append(core, Append { previous, commit, read_round, entries }, actions);
                }
            }
            Body::SnapshotOffer { position } => {
                if let Some((core, follower)) = self.follow(from, actions) {
                    follower.on_snapshot_offer(core, FetchSnapshot { from, at_least: position }, actions);
                }
            }
            Body::AppendReply { outcome, read_round, repair } => match &mut self.role {
                RoleState::Leader(leader) => {
                    leader.on_append_reply(&mut self.core, from, outcome, read_round, repair, actions);
                }
                RoleState::Follower(_) | RoleState::Candidate(_) => drop_message(DropReason::Unexpected, actions),
            },
            Body::ReadIndex { request } => match &mut self.role {
                RoleState::Leader(leader) => leader.on_read_index(&mut self.core, from, request, actions),
                RoleState::Follower(_) | RoleState::Candidate(_) => {
                    self.core.send(from, Body::ReadIndexReply { request, index: None }, actions);
                }
            },
            Body::ReadIndexReply { request, index } => self.on_read_index_reply(from, request, index, actions),
            Body::TimeoutNow => {
                let is_from_leader = self.core.leader == Some(from);
                if is_from_leader && self.core.may_campaign() {
                    self.role = RoleState::Candidate(Candidate::campaign(&mut self.core, true, actions));
                } else {
                    drop_message(DropReason::Unexpected, actions);
                }
            }
        }
    }

    /// Takes the sender for this term's leader (Raft §5.2), unless there is another.
    fn follow(&mut self, from: NodeId, actions: &mut Actions) -> Option<(&mut Core, &mut Follower)> {
        if self.core.leader.is_some_and(|leader| leader != from) {
            drop_message(DropReason::Malformed, actions);
            return None;
        }
        if let RoleState::Candidate(_) = self.role {
            self.role = RoleState::Follower(Follower::default());
        }
        let RoleState::Follower(follower) = &mut self.role else {
            unreachable!("a leader knows itself as the leader of term {}", self.core.term());
        };
        self.core.set_leader(Some(from), actions);
        self.core.leader_heard_at = self.core.now;
        self.core.postpone_election();
        Some((&mut self.core, follower))
    }

    /// Enters a later term as a follower (Raft §5.1).
    fn enter_term(&mut self, term: Term, actions: &mut Actions) {
        if let RoleState::Leader(_) = self.role {
            self.core.postpone_election();
        }
        self.core.enter_term(term, actions);
        self.role = RoleState::Follower(Follower::default());
    }

    /// Gives up leading or standing for election, in the same term.
    fn step_down(&mut self, actions: &mut Actions) {
        self.core.set_leader(None, actions);
        self.core.postpone_election();
        self.role = RoleState::Follower(Follower::default());
    }

    /// Whether this node leads and sends to `id`, member or about to be none.
    fn is_peer(&self, id: NodeId) -> bool {
        matches!(&self.role, RoleState::Leader(leader) if leader.progress(id).is_some())
    }

    /// A leader without a vote in a committed membership hands over and steps down (thesis §4.2.2).
    fn leave_if_removed(&mut self, actions: &mut Actions) {
        if let RoleState::Leader(leader) = &self.role
            && leader.is_removed(&self.core)
        {
            leader.hand_over(&self.core, actions);
            self.step_down(actions);
        }
    }

    /// A leader that was cut off, or whose disk hangs, gives up before it does anything else.
    fn check_authority(&mut self, actions: &mut Actions) {
        if let RoleState::Leader(leader) = &self.role
            && !leader.has_authority(&self.core)
        {
            self.step_down(actions);
        }
    }

    fn on_vote_reply(&mut self, from: NodeId, term: Term, is_pre: bool, granted: bool, actions: &mut Actions) {
        let expected_term = if is_pre { self.core.term().next() } else { self.core.term() };
        let RoleState::Candidate(candidate) = &mut self.role else {
            return drop_message(DropReason::Unexpected, actions);
        };
        if candidate.is_pre != is_pre || term != expected_term {
            return drop_message(DropReason::Unexpected, actions);
        }
        candidate.count(from, granted);
        self.count_votes(actions);
    }

    /// Moves on if the election is decided.
    fn count_votes(&mut self, actions: &mut Actions) {
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        candidate.announce(&self.core, actions);
        match candidate.tally(self.core.membership()) {
            Tally::Open => {}
            Tally::Lost => self.step_down(actions),
            Tally::Won if candidate.is_pre && !self.core.may_campaign() => self.step_down(actions),
            Tally::Won if candidate.is_pre => {
                self.role = RoleState::Candidate(Candidate::campaign(&mut self.core, false, actions));
            }
            // Grants cannot come before the candidacy is announced; those that do belong to another life.
            Tally::Won if !candidate.is_announced() => {}
            Tally::Won => {
                self.core.set_leader(Some(self.core.id()), actions);
                self.role = RoleState::Leader(Leader::start(&mut self.core, actions));
            }
        }
    }

    fn on_read(&mut self, token: u64, lease_will_do: bool, actions: &mut Actions) {
        let core = &mut self.core;
        let taken = match &mut self.role {
            RoleState::Leader(leader) if lease_will_do => leader.on_lease_read(core, token, actions),
            RoleState::Leader(leader) => leader.on_read(core, token, actions),
            RoleState::Candidate(_) => false,
            RoleState::Follower(_) => {
                let can_gather = core.leader.is_some() && core.can_gather_read();
                if can_gather {
                    core.reads.gather(token, core.now);
                    request_reads(core, actions);
                }
                can_gather
            }
        };
        if !taken {
            actions.reads_refused.push(token);
        }
    }

    fn on_read_index_reply(
        &mut self,
        from: NodeId,
        request: u64,
        index: Option<crate::LogIndex>,
        actions: &mut Actions,
    ) {
        let core = &mut self.core;
        let is_follower = matches!(self.role, RoleState::Follower(_));
        let term = core.term();
        if !is_follower || core.leader != Some(from) || !core.reads.answered(request, index, term, actions) {
            return drop_message(DropReason::Unexpected, actions);
        }
        request_reads(core, actions);
    }

    fn on_snapshot_fetched(&mut self, position: LogPosition, membership: Membership, actions: &mut Actions) {
        let core = &mut self.core;
        core.snapshot.fetch_ended();
        let leads = matches!(self.role, RoleState::Leader(_));
        if leads || position.index <= core.commit || position.term > core.term() {
            return;
        }
        if let RoleState::Candidate(_) = self.role {
            self.step_down(actions);
        }
        let core = &mut self.core;
        let install = InstallSnapshot { position, keep_suffix: core.log.holds(position) };
        core.snapshot.install(install, membership);
        actions.install_snapshot = Some(install);
    }

    fn on_snapshot_installed(&mut self, position: LogPosition) {
        let core = &mut self.core;
        let (install, membership) = core.snapshot.installed(position);
        if install.keep_suffix {
            core.log.compact(position);
        } else {
            core.log.reset(position);
        }
        core.writes.snapshot_installed(position, install.keep_suffix);
        core.configurations.snapshot_installed(position.index, membership, install.keep_suffix);
        core.commit_to(position.index);
        core.handed_out = core.handed_out.max(position.index);
        core.applied = core.applied.max(position.index);
        let RoleState::Follower(follower) = &mut self.role else {
            unreachable!("nobody campaigns or leads while a snapshot is installed");
        };
        follower.on_snapshot_installed(position);
    }

    /// Does what is due by now.
    fn tick(&mut self, actions: &mut Actions) {
        self.count_votes(actions);
        match &mut self.role {
            RoleState::Leader(leader) => leader.tick(&mut self.core, actions),
            RoleState::Follower(_) | RoleState::Candidate(_) => {
                if self.core.now >= self.core.election_at {
                    self.on_election_timeout(actions);
                }
                tick_reads(&mut self.core, actions);
            }
        }
    }

    /// No leader was heard for an election timeout, or an election brought none (Raft §5.2, thesis §9.6).
    fn on_election_timeout(&mut self, actions: &mut Actions) {
        self.step_down(actions);
        if self.core.may_campaign() {
            self.role = RoleState::Candidate(Candidate::pre_campaign(&mut self.core, actions));
            self.count_votes(actions);
        }
    }

    /// Lets go of what was held back and may leave by now, and reports what changed.
    fn release(&mut self, before: &Before, actions: &mut Actions) {
        let core = &mut self.core;
        core.release_vote(actions);
        if let RoleState::Follower(follower) = &mut self.role {
            follower.release_reply(core, actions);
        }
        actions.apply = core.hand_out();
        core.release_repaired(actions);
        actions.membership_changed = core.configurations.version() != before.membership_version;
        actions.persist = core.writes.ask(core.hard_state, core.log.last_index(), core.now);
        actions.committed = (core.commit > before.commit).then_some(core.commit);
        let changed = Changed { role: self.role(), term: self.core.term(), leader: self.core.leader };
        let was = Changed { role: before.role, term: before.hard_state.term, leader: before.leader };
        actions.changed = (changed != was).then_some(changed);
    }
}

/// A follower asks its leader for what has gathered.
fn request_reads(core: &mut Core, actions: &mut Actions) {
    let Some(leader) = core.leader else { return };
    if core.reads.wants_confirmation() {
        let request = core.reads.start_request(core.now);
        core.send(leader, Body::ReadIndex { request }, actions);
    }
}

/// A follower repeats a request that is not answered, and gives it up after an election timeout.
fn tick_reads(core: &mut Core, actions: &mut Actions) {
    let (Some(request), Some(leader)) = (core.reads.confirmation(), core.leader) else { return };
    if core.now.since(request.started_at) >= core.config.election_timeout {
        core.reads.refuse_all(core.hard_state.term, actions);
    } else if core.now.since(request.sent_at) >= core.config.heartbeat_interval {
        core.reads.repeated(core.now);
        core.send(leader, Body::ReadIndex { request: request.number }, actions);
    }
}
