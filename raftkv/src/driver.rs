//! The driver: the one owner of protocol state.
//!
//! It feeds the core ([`raft::Node`]) with whatever happens and carries out what the core asks for, through a [`Host`] that has
//! the threads, the sockets and the disk. It is synchronous, reads no clock and does no I/O of its own, so that a simulator can
//! put a host of its own around the same code.
//!
//! Batching is by draining, never by a timer: the caller hands in everything that has arrived with [`Driver::handle`], then calls
//! [`Driver::flush`], which proposes all the writes gathered as one entry and asks one read index for all the reads gathered.
//! While the log thread is busy with an fdatasync more arrives, so batches grow with the load and vanish with it.
//!
//! Invariants:
//! - A write's waiter is answered exactly once: by the apply thread with the outcome, here with a refusal if it certainly did not
//!   enter the log, or here with "outcome unknown".
//! - Entries that are waited for ascend in index; a new proposal takes the place of older ones at or after its index.
//! - One apply job is under way at a time, and jobs are consecutive.
//! - A read is served only once its read index is applied.

mod admission;
mod compaction;
mod expiry;
mod facts;
mod format;
mod freshness;
mod input;
mod jobs;
mod membership;
mod quota;
mod time;
mod waiting;
mod writes;

pub use compaction::{SpaceLimits, SpaceSample};
pub use facts::StateFacts;
pub use format::{FormatHolder, FormatPending};
pub use input::{Input, WriteRequest};
pub use jobs::{ApplyEntries, ApplyJob, EntryWaiters, PersistJob};
pub use membership::{
    ChangeBusy, ChangeRefusal, ChangeReport, ChangeRequest, ChangeWaiter, MemberEdit, NewMember, Quorum,
    TransferRefusal, TransferWaiter,
};
pub use waiting::{ReadRefusal, ReadWaiter, WriteOutcome, WriteRefusal, WriteWaiter};

use crate::directory::MemberDirectory;
use admission::Admission;
use compaction::Space;
use expiry::ExpiryDesk;
use format::Formats;
use freshness::{FreshnessTracker, Word};
use membership::OperatorDesk;
use raft::{
    Actions, Changed, DropReason, Event, Instant, LogIndex, LogPosition, LogRange, Membership, Message, Node, NodeId,
    PeerProgress, RepairId, Role,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use storage::command::BatchEncoder;
use time::ClusterClock;

/// Entries in one apply job.
const APPLY_ENTRIES_MAX: u64 = 4096;
/// How long a write may wait for its outcome on a node that does not lead any more, before its outcome is called unknown.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the driver looks after its own house when nothing else wakes it.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);
/// Entries kept in the log behind what RocksDB has flushed, so that a follower a moment behind does not need a snapshot.
const RETAINED_ENTRIES: u64 = 4096;

/// What the driver needs done. None of these may block.
pub trait Host {
    /// Writes to the log; report with [`Input::Durable`]. In order.
    fn persist(&mut self, job: PersistJob);
    /// Sends a message, entries attached. May lose it, and then reports [`Input::Unreachable`].
    fn send(&mut self, to: NodeId, message: Message);
    /// Applies entries and answers their waiters; report with [`Input::Applied`]. In order.
    fn apply(&mut self, job: ApplyJob);
    /// Reads entries from disk; report with [`Input::Loaded`].
    fn load(&mut self, load: raft::Load);
    /// Serves reads whose index is applied.
    fn serve(&mut self, reads: Vec<ReadWaiter>);
    /// Fetches a snapshot; report with [`Input::SnapshotFetched`] or [`Input::SnapshotFailed`].
    fn fetch_snapshot(&mut self, fetch: raft::FetchSnapshot);
    /// Switches to the fetched snapshot after all jobs under way, then resets the log; report with [`Input::SnapshotInstalled`].
    fn install_snapshot(&mut self, install: raft::InstallSnapshot);
    /// Drops the log up to `position`; report with [`Input::Compacted`].
    fn compact(&mut self, position: LogPosition);
    /// Asks RocksDB to flush, in the background; report with [`Input::Flushed`] what is flushed by then.
    fn request_flush(&mut self);
    /// Role, term or leader changed.
    fn changed(&mut self, changed: Changed);
    /// The commit index moved.
    fn committed(&mut self, index: LogIndex);
    /// The state is as it was at this moment, or newer.
    fn fresh(&mut self, at: Instant);
    /// Who is a member: the membership in effect, and the newest one known to be committed. Called when the driver is made, and whenever either
    /// changes. Links go to the members of both.
    fn membership(&mut self, effective: &Membership, committed: &Membership);
    /// The wall clock, in milliseconds since 1970. It may be wrong and may jump: it is where the time of a cluster that has none yet begins.
    fn wall_clock_ms(&mut self) -> u64;
    /// Notes durably that this node is repaired: the number of its loss is void. Report with [`Input::Repaired`].
    fn repaired(&mut self);
}

/// Settings of the driver.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// Once the log on disk is larger than this, in bytes, what is flushed of it is dropped.
    pub log_retained_bytes: u64,
    /// The core's. A voter that was not heard from for this long is not reachable.
    pub election_timeout: Duration,
    /// The newest format that this node knows: see `driver/format.rs`.
    pub format_max: u32,
    /// What the members are called until the membership says so itself.
    pub founding: MemberDirectory,
    /// How much of the past is kept, and how large the state may grow.
    pub space: SpaceLimits,
}

/// What a node finds on its disk, beside what the core is told.
#[derive(Debug, Clone, Copy)]
pub struct RestoredDisk {
    /// The state machine has applied everything up to here, durably.
    pub applied: LogIndex,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// What there is to know of the state.
    pub facts: StateFacts,
}

/// See the module.
pub struct Driver<H> {
    node: Node,
    host: H,
    config: DriverConfig,
    actions: Actions,
    batch: BatchEncoder,
    batch_waiters: Vec<WriteWaiter>,
    /// What the clients' commands in the batch count for at the admission.
    batch_cost: usize,
    /// How many values its commands may hold in memory when they are applied.
    batch_values_held: u32,
    proposed: VecDeque<EntryWaiters>,
    reads_gathered: Vec<ReadWaiter>,
    lease_reads_gathered: Vec<ReadWaiter>,
    reads_asked: BTreeMap<u64, Vec<ReadWaiter>>,
    reads_indexed: BTreeMap<LogIndex, Vec<ReadWaiter>>,
    read_token: u64,
    apply_waiting: LogRange,
    apply_under_way: bool,
    /// Of what is waited for in the job under way.
    applying_cost: usize,
    applied: LogIndex,
    flushed: LogIndex,
    log_bytes: u64,
    compacting: bool,
    housekeeping_at: Instant,
    dropped_messages: u64,
    freshness: FreshnessTracker,
    desk: OperatorDesk,
    formats: Formats,
    space: Space,
    /// As of `applied`.
    facts: StateFacts,
    clock: ClusterClock,
    expiry: ExpiryDesk,
    admission: Admission,
    /// The membership in effect is not known to be committed.
    membership_open: bool,
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct DriverStatus {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: raft::Term,
    /// The leader it follows, or itself.
    pub leader: Option<NodeId>,
    /// The first index in its log.
    pub log_first: LogIndex,
    /// The last index in its log.
    pub log_last: LogIndex,
    /// Committed up to here.
    pub commit: LogIndex,
    /// Applied up to here.
    pub applied: LogIndex,
    /// Flushed by RocksDB up to here.
    pub flushed: LogIndex,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// Messages of peers that made no sense and were dropped.
    pub dropped_messages: u64,
    /// The membership in effect.
    pub membership: Membership,
    /// The node has lost what it had promised and is not repaired yet.
    pub repair: Option<RepairId>,
    /// The format in effect.
    pub format: u32,
    /// What a leader knows of its peers; empty on other nodes.
    pub peers: Vec<PeerProgress>,
}

impl<H: Host> Driver<H> {
    /// A driver around `node`, with what was found on disk.
    pub fn new(node: Node, host: H, config: DriverConfig, restored: RestoredDisk, now: Instant) -> Driver<H> {
        let RestoredDisk { applied, log_bytes, facts } = restored;
        let formats = Formats::new(config.format_max, facts.format);
        let space = Space::new(config.space);
        let mut driver = Driver {
            node,
            host,
            config,
            actions: Actions::default(),
            batch: BatchEncoder::new(),
            batch_waiters: Vec::new(),
            batch_cost: 0,
            batch_values_held: 0,
            proposed: VecDeque::new(),
            reads_gathered: Vec::new(),
            lease_reads_gathered: Vec::new(),
            reads_asked: BTreeMap::new(),
            reads_indexed: BTreeMap::new(),
            read_token: 0,
            apply_waiting: LogRange { first: applied.next(), last: applied },
            apply_under_way: false,
            applying_cost: 0,
            applied,
            flushed: applied,
            log_bytes,
            compacting: false,
            housekeeping_at: now + HOUSEKEEPING_INTERVAL,
            dropped_messages: 0,
            freshness: FreshnessTracker::default(),
            desk: OperatorDesk::default(),
            formats,
            space,
            facts,
            clock: ClusterClock::new(facts.time_ms),
            expiry: ExpiryDesk::default(),
            admission: Admission::new(now),
            membership_open: false,
        };
        driver.follow_membership(true);
        driver
    }

    /// When [`Driver::flush`] must be called even if nothing arrives.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        let deadlines = [self.node.next_deadline(), self.next_expiry()];
        deadlines.into_iter().flatten().fold(self.housekeeping_at, Instant::min)
    }

    /// Takes in one thing that happened. Writes and reads are only gathered: [`Driver::flush`] sets them off.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Message { from, message, permit: _permit } => self.on_message(now, from, message),
            Input::Unreachable { peer } => self.step(now, Event::Unreachable { peer }),
            Input::Write(request) => self.gather_write(now, request),
            Input::Read(waiter) => self.reads_gathered.push(waiter),
            Input::LeaseRead(waiter) => self.lease_reads_gathered.push(waiter),
            Input::Durable { mark, hard_state_sequence, log_bytes } => {
                self.log_bytes = log_bytes;
                self.step(now, Event::Durable { mark, hard_state_sequence });
            }
            Input::Applied { index, flushed, facts } => self.on_applied(now, index, flushed, facts),
            Input::Flushed { index } => self.flushed = self.flushed.max(index),
            Input::Loaded { peer, entries } => self.step(now, Event::Loaded { peer, entries }),
            Input::SnapshotSent { peer, position } => self.step(now, Event::SnapshotSent { peer, position }),
            Input::SnapshotFetched { position, membership } => {
                self.step(now, Event::SnapshotFetched { position, membership });
            }
            Input::SnapshotFailed => self.step(now, Event::SnapshotFailed),
            Input::SnapshotInstalled { position, log_bytes } => self.on_installed(now, position, log_bytes),
            Input::Compacted { position, log_bytes } => {
                self.compacting = false;
                self.log_bytes = log_bytes;
                // While a snapshot takes the log's place, the core's log stands still; it will start after the snapshot anyway.
                if !self.node.status().installing_snapshot {
                    self.step(now, Event::Compacted { position });
                }
            }
            Input::TransferLeadership { target, waiter } => self.on_transfer_request(now, target, waiter),
            Input::ChangeMembership(request) => self.on_change_request(now, request),
            Input::PeerFormat { peer, format_max } => self.formats.heard(peer, format_max),
            Input::StateReplaced { facts } => self.learn_facts(now, facts),
            Input::Space(sample) => self.on_space(now, sample),
            Input::Repaired => self.step(now, Event::Repaired),
            Input::Status(answer) => answer(self.status()),
        }
    }

    /// Sets off the writes and reads gathered since the last call, and whatever is due.
    pub fn flush(&mut self, now: Instant) {
        self.clock.advance(now);
        self.propose_batch(now);
        self.expire_due(now);
        if !self.reads_gathered.is_empty() {
            let reads = std::mem::take(&mut self.reads_gathered);
            let token = self.note_reads(reads);
            self.step(now, Event::Read { token });
        }
        if !self.lease_reads_gathered.is_empty() {
            let reads = std::mem::take(&mut self.lease_reads_gathered);
            let token = self.note_reads(reads);
            self.step(now, Event::LeaseRead { token });
        }
        if self.node.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.step(now, Event::Wake);
        }
        self.hear_oneself(now);
        if let Some(at) = self.freshness.fresh_at() {
            self.host.fresh(at);
        }
        if self.housekeeping_at <= now {
            self.housekeeping_at = now + HOUSEKEEPING_INTERVAL;
            self.call_orphans_unknown(now);
            self.settle_desk(now);
            self.raise_format(now);
            self.compact_log();
        }
    }

    /// What the node says of itself.
    #[must_use]
    pub fn status(&self) -> DriverStatus {
        let status = self.node.status();
        DriverStatus {
            id: status.id,
            role: status.role,
            term: status.term,
            leader: status.leader,
            log_first: status.log_first,
            log_last: status.log_last,
            commit: status.commit,
            applied: self.applied,
            flushed: self.flushed,
            log_bytes: self.log_bytes,
            dropped_messages: self.dropped_messages,
            membership: status.membership.clone(),
            repair: status.repair,
            format: self.formats.in_effect,
            peers: self.node.peer_progress().collect(),
        }
    }

    /// The core, to look at.
    #[must_use]
    pub fn core(&self) -> &Node {
        &self.node
    }

    /// Refuses everything that waits, before the driver goes: nobody is left without an answer.
    pub fn close(&mut self) {
        for waiter in self.batch_waiters.drain(..) {
            waiter(Err(WriteRefusal::Stopping));
        }
        for entry in self.proposed.drain(..) {
            for waiter in entry.waiters {
                waiter(Err(WriteRefusal::OutcomeUnknown));
            }
        }
        let asked = std::mem::take(&mut self.reads_asked).into_values();
        let indexed = std::mem::take(&mut self.reads_indexed).into_values();
        for waiter in asked
            .chain(indexed)
            .flatten()
            .chain(self.reads_gathered.drain(..))
            .chain(self.lease_reads_gathered.drain(..))
        {
            waiter(Err(ReadRefusal::Stopping));
        }
        self.close_desk();
    }

    fn on_message(&mut self, now: Instant, from: NodeId, message: Message) {
        let word = if let raft::Body::Append { commit, .. } = &message.body {
            Some(Word { at: now, term: message.term, commit: *commit })
        } else {
            None
        };
        self.step(now, Event::Receive { from, message });
        if let Some(word) = word {
            let status = self.node.status();
            if status.leader == Some(from) && status.term == word.term {
                self.freshness.heard(word, self.applied, self.node.log());
            }
        }
    }

    /// A leader's own word counts as of the moment at which it last heard from a quorum.
    fn hear_oneself(&mut self, now: Instant) {
        let status = self.node.status();
        if status.role != Role::Leader {
            return;
        }
        let silence = |id: NodeId| {
            let peer = self.node.peer_progress().find(|peer| peer.id == id);
            peer.map_or(Duration::ZERO, |peer| peer.silent_for)
        };
        let members = status.membership.members().map(silence);
        let heard = members.filter(|limit| status.membership.has_quorum(|id| silence(id) <= *limit)).min();
        if let Some(silence) = heard {
            let nanos = u64::try_from(silence.as_nanos()).unwrap_or(u64::MAX);
            let at = Instant::from_nanos(now.as_nanos().saturating_sub(nanos));
            let word = Word { at, term: status.term, commit: status.commit };
            self.freshness.heard(word, self.applied, self.node.log());
        }
    }

    /// Remembers who waits for the next read index. Returns its token.
    fn note_reads(&mut self, reads: Vec<ReadWaiter>) -> u64 {
        self.read_token += 1;
        self.reads_asked.insert(self.read_token, reads);
        self.read_token
    }

    fn step(&mut self, now: Instant, event: Event) {
        let mut actions = std::mem::take(&mut self.actions);
        self.node.step(now, event, &mut actions);
        self.carry_out(now, &mut actions);
        self.actions = actions;
    }

    fn carry_out(&mut self, now: Instant, actions: &mut Actions) {
        for send in actions.send.drain(..) {
            self.send(send);
        }
        if let Some(persist) = actions.persist.take() {
            let entries =
                self.cached(persist.entries).expect("entries to persist are in the core's cache until durable");
            self.host.persist(PersistJob {
                hard_state: persist.hard_state,
                hard_state_sequence: persist.hard_state_sequence,
                entries,
                mark: persist.mark,
            });
        }
        if let Some(changed) = actions.changed.take() {
            self.follow_role(changed);
            self.host.changed(changed);
        }
        if let Some(answer) = actions.proposal.take() {
            self.on_proposal(now, answer);
        }
        if let Some(index) = actions.committed.take() {
            self.host.committed(index);
        }
        if let Some(range) = actions.apply.take() {
            assert_eq!(range.first, self.apply_waiting.last.next(), "apply ranges are consecutive");
            self.apply_waiting.last = range.last;
            self.apply_more();
        }
        for ready in actions.reads.drain(..) {
            self.on_read_index(ready);
        }
        for token in actions.reads_refused.drain(..) {
            let leader = self.node.status().leader;
            for waiter in self.reads_asked.remove(&token).unwrap_or_default() {
                waiter(Err(ReadRefusal::NotLeader { leader }));
            }
        }
        for load in actions.load.drain(..) {
            self.host.load(load);
        }
        if let Some(fetch) = actions.fetch_snapshot.take() {
            self.host.fetch_snapshot(fetch);
        }
        if let Some(install) = actions.install_snapshot.take() {
            // What was committed and not handed on yet is in the snapshot.
            self.apply_waiting.last = self.apply_waiting.first.previous();
            self.host.install_snapshot(install);
        }
        if let Some(reason) = actions.dropped.take() {
            self.dropped_messages += 1;
            if let DropReason::LostLog { peer } = reason {
                tracing::warn!(
                    %peer,
                    "a node refuses what it had acknowledged: its log is gone, and it has not noticed; what it had acknowledged does not count any more; \
                     look at its disk and start it again: it finds out what is lost and is repaired"
                );
            }
            tracing::debug!(?reason, "a peer's message was dropped");
        }
        self.carry_out_membership(now, actions);
    }

    /// The last part of a step: what was sent before goes over the links of the members before.
    fn carry_out_membership(&mut self, now: Instant, actions: &mut Actions) {
        if let Some(answer) = actions.membership_proposal.take() {
            self.on_change_proposed(now, answer);
        }
        if let Some(answer) = actions.transfer.take() {
            self.on_transfer_answered(now, answer);
        }
        self.follow_membership(actions.membership_changed);
        if actions.repaired {
            self.host.repaired();
        }
        self.settle_desk(now);
    }

    fn send(&mut self, send: raft::Send) {
        let raft::Send { to, mut message, entries } = send;
        if !entries.is_empty()
            && let raft::Body::Append { entries: attached, .. } = &mut message.body
        {
            *attached = self
                .cached(entries)
                .expect("the core names only cached entries; loaded ones are in the message already");
        }
        self.host.send(to, message);
    }

    fn cached(&self, range: LogRange) -> Option<Vec<raft::Entry>> {
        if range.is_empty() {
            return Some(Vec::new());
        }
        self.node.log().entries(range).map(|entries| entries.cloned().collect())
    }

    fn on_read_index(&mut self, ready: raft::ReadReady) {
        let Some(waiters) = self.reads_asked.remove(&ready.token) else { return };
        if ready.index <= self.applied {
            self.host.serve(waiters);
        } else {
            self.reads_indexed.entry(ready.index).or_default().extend(waiters);
        }
    }

    fn on_applied(&mut self, now: Instant, index: LogIndex, flushed: LogIndex, facts: StateFacts) {
        assert!(index >= self.applied, "applied index went back from {} to {index}", self.applied);
        self.applied = index;
        self.admission.done(now, std::mem::take(&mut self.applying_cost));
        self.freshness.applied(index, self.node.log());
        self.flushed = self.flushed.max(flushed);
        self.apply_under_way = false;
        self.apply_more();
        let later = self.reads_indexed.split_off(&index.next());
        for waiters in std::mem::replace(&mut self.reads_indexed, later).into_values() {
            self.host.serve(waiters);
        }
        self.step(now, Event::Applied { index });
        self.learn_facts(now, facts);
    }

    /// The state is at another entry, or is another one.
    fn learn_facts(&mut self, now: Instant, facts: StateFacts) {
        self.facts = facts;
        self.clock.applied(now, facts.time_ms);
        let status = self.node.status();
        if status.role == Role::Leader && self.node.log().term(self.applied) == Some(status.term) {
            self.clock.lead(now, status.term, self.host.wall_clock_ms());
        }
        if facts.format > self.formats.in_effect {
            self.formats.in_effect = facts.format;
            self.raise_format(now);
        }
    }

    fn follow_role(&mut self, changed: Changed) {
        // A leader knows the time once its state holds an entry of its own.
        if changed.role != Role::Leader {
            self.clock.deposed();
        }
    }

    fn on_installed(&mut self, now: Instant, position: LogPosition, log_bytes: u64) {
        assert!(position.index >= self.applied, "a snapshot at {position} was installed over {}", self.applied);
        self.applied = position.index;
        self.flushed = position.index;
        self.log_bytes = log_bytes;
        self.apply_waiting = LogRange { first: position.index.next(), last: position.index };
        self.forget_installed(now, position.index);
        self.step(now, Event::SnapshotInstalled { position });
    }

    fn apply_more(&mut self) {
        if self.apply_under_way || self.apply_waiting.is_empty() {
            return;
        }
        let first = self.apply_waiting.first;
        let last = self.apply_waiting.last.min(LogIndex(first.0 + APPLY_ENTRIES_MAX - 1));
        let range = LogRange { first, last };
        let entries = self.cached(range).map_or(ApplyEntries::OnDisk(range), ApplyEntries::Cached);
        let mut waiters = Vec::new();
        while self.proposed.front().is_some_and(|entry| entry.position.index <= last) {
            let entry = self.proposed.pop_front().expect("the front was just looked at");
            self.applying_cost += entry.cost;
            waiters.push(entry);
        }
        self.apply_waiting.first = last.next();
        self.apply_under_way = true;
        self.host.apply(ApplyJob { entries, waiters });
    }

    fn compact_log(&mut self) {
        if self.log_bytes <= self.config.log_retained_bytes || self.compacting {
            return;
        }
        self.host.request_flush();
        let status = self.node.status();
        if status.installing_snapshot {
            return;
        }
        // Of large entries fewer are kept: they take up to half of what the log may have.
        let entries = status.log_last.0 + 1 - status.log_first.0;
        let in_half = u128::from(entries) * u128::from(self.config.log_retained_bytes / 2) / u128::from(self.log_bytes);
        let retained = RETAINED_ENTRIES.min(u64::try_from(in_half).unwrap_or(u64::MAX));
        let up_to = LogIndex(self.flushed.min(self.applied).0.saturating_sub(retained));
        if up_to < status.log_first {
            return;
        }
        if let Some(term) = self.node.log().term(up_to) {
            self.compacting = true;
            self.host.compact(LogPosition { term, index: up_to });
        }
    }
}
