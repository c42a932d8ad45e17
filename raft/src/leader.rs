//! The leader (Raft §5.3, §5.4.2): proposes, counts copies, keeps its authority or gives it up.
//!
//! A leader commits by counting only what it has written itself in its term; everything before is committed with it. Its
//! own copy counts once it is durable, like anybody else's. It appends an empty entry first, so that it can commit at all
//! and learns how far the log is committed (Raft §8).
//!
//! It gives up when it has not heard from a quorum for an election timeout (Raft §6, thesis §6.2), and when a write of its own
//! hangs for as long (scenario 8): heartbeats of a leader that cannot write only keep others from being elected.
//!
//! How entries reach the peers is in `replication.rs`.

use crate::lease::Lease;
use crate::progress::Progress;
use crate::state::{Core, drop_message};
use crate::{
    Actions, AppendOutcome, Body, DropReason, Entry, EntryKind, Instant, LogIndex, LogPosition, LogRange, NodeId,
    ProposeError, ReadReady, RepairReport, TransferError,
};
use alloc::vec::Vec;
use bytes::Bytes;

/// One peer of the leader.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) progress: Progress,
    /// It is no member any more, and is spoken to until then, so that it learns of it.
    pub(crate) leaving_until: Option<Instant>,
}

/// Leadership that is being handed over (thesis §3.10).
#[derive(Debug, Clone, Copy)]
struct Transfer {
    target: NodeId,
    /// Given up then.
    until: Instant,
    /// The target was told to campaign since the last heartbeat.
    told: bool,
}

/// A node that leads: see the module.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    /// Ascending by id.
    pub(crate) peers: Vec<Peer>,
    pub(crate) heartbeat_at: Instant,
    /// The newest read round (thesis §6.4).
    pub(crate) read_round: u64,
    transfer: Option<Transfer>,
    pub(crate) lease: Lease,
    /// Payload bytes proposed in this term and not yet committed.
    uncommitted_bytes: usize,
    /// The empty entry that began this term.
    first_index: LogIndex,
}

impl Leader {
    /// Takes the lead: appends the empty entry and sends it out.
    pub(crate) fn start(core: &mut Core, actions: &mut Actions) -> Leader {
        assert!(core.writes.hard_state_is_durable(), "leads in term {} before its vote is durable", core.term());
        assert!(!core.snapshot.is_installing(), "leads while a snapshot replaces its log");
        let next = core.log.last_index().next();
        let mut leader = Leader {
            peers: Vec::new(),
            heartbeat_at: core.now + core.config.heartbeat_interval,
            read_round: 0,
            transfer: None,
            lease: Lease::new(),
            uncommitted_bytes: 0,
            first_index: next,
        };
        leader.follow_membership(core);
        leader.append(core, EntryKind::Noop, Bytes::new());
        leader.send_all(core, actions);
        leader
    }

    /// A batch of client commands.
    pub(crate) fn propose(
        &mut self,
        core: &mut Core,
        payload: Bytes,
        actions: &mut Actions,
    ) -> Result<LogPosition, ProposeError> {
        assert!(!payload.is_empty(), "an empty batch was proposed");
        if let Some(transfer) = self.transfer {
            return Err(ProposeError::Transferring { target: transfer.target });
        }
        let with_it = self.uncommitted_bytes.saturating_add(payload.len());
        if self.uncommitted_bytes > 0 && with_it > core.config.uncommitted_bytes_max {
            return Err(ProposeError::Overloaded);
        }
        let position = self.append(core, EntryKind::Command, payload);
        self.send_all(core, actions);
        Ok(position)
    }

    /// Appends to this node's own log.
    pub(crate) fn append(&mut self, core: &mut Core, kind: EntryKind, payload: Bytes) -> LogPosition {
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_add(payload.len());
        let entry = Entry { term: core.term(), index: core.log.last_index().next(), kind, payload };
        let position = entry.position();
        core.log.append(entry);
        core.writes.appended(position.index);
        position
    }

    /// The answer to an append.
    pub(crate) fn on_append_reply(
        &mut self,
        core: &mut Core,
        from: NodeId,
        outcome: AppendOutcome,
        read_round: u64,
        repair: Option<RepairReport>,
        actions: &mut Actions,
    ) {
        let newest_round = self.read_round;
        // What this leader has sent lies within its log, so what answers it does too.
        let claimed = match outcome {
            AppendOutcome::Durable { match_index } => match_index,
            AppendOutcome::Mismatch { previous, .. } => previous,
        };
        if claimed > core.log.last_index() || read_round > newest_round {
            drop_message(DropReason::Malformed, actions);
            return;
        }
        if !self.note_repair(core, from, repair, claimed, read_round, actions) {
            drop_message(DropReason::Unexpected, actions);
            return;
        }
        let progress = self.progress_mut(from).expect("a repair is noted of a peer only");
        (progress.heard, progress.heard_at) = (true, core.now);
        progress.read_round = progress.read_round.max(read_round);
        match outcome {
            AppendOutcome::Durable { match_index } => {
                progress.acknowledged(match_index, core.log.start().index, core.now);
                progress.doubt = progress.doubt.after_acknowledgement(match_index, read_round);
            }
            AppendOutcome::Mismatch { previous, .. } if previous <= progress.matched && progress.repair.is_none() => {
                self.on_impossible_refusal(core, from, previous, read_round, actions);
            }
            AppendOutcome::Mismatch { previous, hint } if progress.refusal_is_current(previous) => {
                // The last position both logs may share (Raft §5.3): this side skips its later terms as well.
                let bound = hint.index.min(previous.previous());
                match core.log.newest_not_above(bound, hint.term) {
                    Some(position) => progress.probe_from(position.index.next()),
                    None => {
                        progress.need_snapshot();
                        self.offer_snapshot(core, from, actions);
                    }
                }
            }
            AppendOutcome::Mismatch { .. } => {}
        }
        self.advance_commit(core, actions);
        self.send_to(core, from, actions);
        self.note_commit(core, from, actions);
        self.advance_transfer(core, actions);
        self.confirm_reads(core, actions);
    }

    /// More of this node's own log is durable.
    pub(crate) fn on_durable(&mut self, core: &mut Core, actions: &mut Actions) {
        self.advance_commit(core, actions);
        self.confirm_reads(core, actions);
    }

    /// Commits what a quorum holds durably, if it is of this term (Raft §5.3, §5.4.2).
    fn advance_commit(&mut self, core: &mut Core, actions: &mut Actions) {
        let own = core.writes.durable_index();
        let mut best = core.commit;
        for candidate in self.peers.iter().map(|peer| peer.progress.matched).chain(core::iter::once(own)) {
            if candidate > best && core.membership().has_quorum(|id| self.durable_at(core, id) >= candidate) {
                best = candidate;
            }
        }
        if best <= core.commit || core.log.term(best) != Some(core.term()) {
            return;
        }
        let newly = LogRange { first: core.commit.next().max(self.first_index), last: best };
        let entries = core.log.entries(newly).expect("entries of a leader stay in memory until they are committed");
        let bytes: usize = entries.map(|entry| entry.payload.len()).sum();
        assert!(bytes <= self.uncommitted_bytes, "{bytes} bytes committed of {} proposed", self.uncommitted_bytes);
        self.uncommitted_bytes -= bytes;
        core.commit_to(best);
        for position in 0..self.peers.len() {
            let id = self.peers[position].id;
            self.note_commit(core, id, actions);
        }
        self.after_commit(core, actions);
    }

    /// How far `id`'s log matches and is durable, as far as that counts.
    fn durable_at(&self, core: &Core, id: NodeId) -> LogIndex {
        if id == core.id() {
            return core.writes.durable_index();
        }
        self.progress(id).filter(|it| it.counts()).map_or(LogIndex::ZERO, |progress| progress.matched)
    }

    /// Whether this leader may still act: it hears a quorum, and its disk works.
    pub(crate) fn has_authority(&self, core: &Core) -> bool {
        let hears = |id: NodeId| {
            id == core.id()
                || self.progress(id).is_some_and(|progress| {
                    progress.repair.is_none() && core.now.since(progress.heard_at) < core.config.election_timeout
                })
        };
        core.membership().has_quorum(hears) && !core.disk_hangs()
    }

    /// A read of the caller's. Says whether it was taken.
    pub(crate) fn on_read(&mut self, core: &mut Core, token: u64, actions: &mut Actions) -> bool {
        if self.transfer.is_some() || !core.can_gather_read() {
            return false;
        }
        core.reads.gather(token, core.now);
        self.confirm_reads(core, actions);
        true
    }

    /// A read of the caller's for which the lease is enough. Says whether it was taken.
    pub(crate) fn on_lease_read(&mut self, core: &mut Core, token: u64, actions: &mut Actions) -> bool {
        if self.has_lease(core) {
            actions.reads.push(ReadReady { token, index: core.commit });
            return true;
        }
        self.on_read(core, token, actions)
    }

    /// A read of a follower's.
    pub(crate) fn on_read_index(&mut self, core: &mut Core, from: NodeId, request: u64, actions: &mut Actions) {
        if self.transfer.is_some() || !core.can_gather_read() {
            core.send(from, Body::ReadIndexReply { request, index: None }, actions);
            return;
        }
        core.reads.gather_from(from, request, core.now);
        self.confirm_reads(core, actions);
    }

    /// Ends the round under way if a quorum has echoed it, and begins the next if reads have gathered.
    fn confirm_reads(&mut self, core: &mut Core, actions: &mut Actions) {
        loop {
            if let Some(round) = core.reads.confirmation() {
                let echoed = |id: NodeId| {
                    id == core.id()
                        || self.progress(id).is_some_and(|it| it.repair.is_none() && it.read_round >= round.number)
                };
                if !core.membership().has_quorum(echoed) {
                    return;
                }
                core.reads.confirmed(core.hard_state.term, actions);
            }
            // Before it has committed in its term, a leader does not know what is committed (Raft §8, thesis §6.4).
            if !core.knows_commit() || !core.reads.wants_confirmation() {
                return;
            }
            self.read_round += 1;
            core.reads.start_round(self.read_round, core.commit, core.now);
            self.lease.round_sent(self.read_round, core.now);
            for position in 0..self.peers.len() {
                let id = self.peers[position].id;
                self.send_heartbeat(core, id, actions);
            }
        }
    }

    /// Starts to hand leadership over (thesis §3.10). Reads that wait are refused, as proposals are from here on; so a target that
    /// does not answer is none.
    pub(crate) fn on_transfer(
        &mut self,
        core: &mut Core,
        target: Option<NodeId>,
        actions: &mut Actions,
    ) -> Result<NodeId, TransferError> {
        let target = target.or_else(|| self.furthest_voter(core)).ok_or(TransferError::NobodyElse)?;
        if !core.membership().voters().contains(&target) {
            return Err(TransferError::NotAVoter { target });
        }
        let Some(progress) = self.progress(target) else { return Err(TransferError::LeadsAlready) };
        if !progress.counts() {
            return Err(TransferError::UnderRepair { target });
        }
        if !progress.answers(core.now, &core.config) {
            return Err(TransferError::Silent { target });
        }
        if self.transfer.is_some_and(|transfer| transfer.target == target) {
            return Ok(target);
        }
        self.transfer = Some(Transfer { target, until: core.now + core.config.election_timeout, told: false });
        core.reads.refuse_all(core.hard_state.term, actions);
        self.send_to(core, target, actions);
        self.advance_transfer(core, actions);
        Ok(target)
    }

    /// To whom leadership is being handed over.
    pub(crate) fn transfer_target(&self) -> Option<NodeId> {
        self.transfer.map(|transfer| transfer.target)
    }

    /// The other voter that is furthest along, of those that answer if any does.
    pub(crate) fn furthest_voter(&self, core: &Core) -> Option<NodeId> {
        let usable = |peer: &&Peer| core.membership().voters().contains(&peer.id) && peer.progress.counts();
        let voters = self.peers.iter().filter(usable);
        let preference = |peer: &&Peer| {
            let progress = &peer.progress;
            (progress.answers(core.now, &core.config), progress.matched, progress.heard_at)
        };
        voters.max_by_key(preference).map(|peer| peer.id)
    }

    /// Tells the target to campaign once it holds the whole log.
    fn advance_transfer(&mut self, core: &Core, actions: &mut Actions) {
        let Some(transfer) = self.transfer else { return };
        let caught_up = self.progress(transfer.target).is_some_and(|it| it.matched == core.log.last_index());
        if caught_up && !transfer.told {
            self.transfer = Some(Transfer { told: true, ..transfer });
            self.lease.give_up();
            core.send(transfer.target, Body::TimeoutNow, actions);
        }
    }

    /// Does what is due by now.
    pub(crate) fn tick(&mut self, core: &mut Core, actions: &mut Actions) {
        if self.transfer.is_some_and(|transfer| core.now >= transfer.until) {
            self.transfer = None;
        }
        if core.now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = core.now + core.config.heartbeat_interval;
        if let Some(transfer) = &mut self.transfer {
            transfer.told = false;
        }
        // Reads wait for the first commit of the term, but not for ever.
        let timeout = core.config.election_timeout;
        if core.reads.gathering_since().is_some_and(|since| core.now.since(since) >= timeout) {
            core.reads.refuse_all(core.hard_state.term, actions);
        }
        self.advance_transfer(core, actions);
        self.peers.retain(|peer| peer.leaving_until.is_none_or(|until| core.now < until));
        self.tend_repairs(core, actions);
        if core.config.lease_reads {
            self.read_round += 1;
            self.lease.round_sent(self.read_round, core.now);
        }
        self.heartbeat_all(core, actions);
    }

    /// When [`Leader::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        self.transfer.map_or(self.heartbeat_at, |transfer| self.heartbeat_at.min(transfer.until))
    }

    pub(crate) fn progress(&self, id: NodeId) -> Option<&Progress> {
        self.peers.binary_search_by_key(&id, |peer| peer.id).ok().map(|position| &self.peers[position].progress)
    }

    pub(crate) fn progress_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.peers.binary_search_by_key(&id, |peer| peer.id).ok().map(|position| &mut self.peers[position].progress)
    }
}
