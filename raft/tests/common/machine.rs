//! One node with its disk, its state machine and what is under way.

use super::checks::Checks;
use raftkv_raft::{
    Actions, AppendOutcome, Body, ChangeError, Config, Entry, EntryKind, Event, FetchSnapshot, HardState,
    InstallSnapshot, Instant, LogIndex, LogMark, LogPosition, LogRange, Membership, Message, Node, NodeId, Persist,
    ProposeError, RepairId, Restored, Role, Term,
};
use std::collections::{BTreeMap, VecDeque};

/// What survives a crash.
#[derive(Debug, Clone)]
pub struct Disk {
    pub hard_state: HardState,
    pub start: LogPosition,
    pub entries: BTreeMap<LogIndex, Entry>,
    /// The state machine as flushed: everything up to here.
    pub flushed: LogIndex,
    /// The membership the node was set up with.
    pub founding: Membership,
    /// Memberships applied, by where they stand.
    pub memberships: BTreeMap<LogIndex, Membership>,
    /// The number of a loss that is not repaired.
    pub repair: Option<RepairId>,
}

impl Disk {
    pub fn new(membership: Membership) -> Disk {
        Disk {
            hard_state: HardState::default(),
            start: LogPosition::default(),
            entries: BTreeMap::new(),
            flushed: LogIndex::ZERO,
            memberships: BTreeMap::from([(LogIndex::ZERO, membership.clone())]),
            founding: membership,
            repair: None,
        }
    }

    /// Loses the log, and the state machine too if `everything`; the node notices.
    pub fn lose(&mut self, everything: bool, start: LogPosition, repair: RepairId) {
        let lost = Disk::new(self.founding.clone());
        *self = if everything {
            lost
        } else {
            Disk { start, flushed: start.index, memberships: self.memberships.clone(), ..lost }
        };
        self.hard_state.term = self.start.term;
        self.repair = Some(repair);
    }

    pub fn last(&self) -> LogIndex {
        self.entries.keys().next_back().copied().unwrap_or(self.start.index)
    }

    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.entries.get(&index).map(|entry| entry.term)
    }

    fn restored(&self) -> Restored {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for entry in self.entries.values() {
            if term_runs.last().is_none_or(|run| run.1 != entry.term) {
                term_runs.push((entry.index, entry.term));
            }
        }
        Restored {
            hard_state: self.hard_state,
            membership: self.memberships.range(..=self.flushed).next_back().unwrap().1.clone(),
            log_start: self.start,
            log_last: self.last(),
            term_runs,
            applied: self.flushed,
            memberships: memberships_in(self.entries.range(self.flushed.next()..).map(|(_, entry)| entry)).collect(),
            repair: self.repair,
        }
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Persist { persist, entries } => {
                if let Some(hard_state) = persist.hard_state {
                    assert!(hard_state.term >= self.hard_state.term, "the disk's term would go back");
                    self.hard_state = hard_state;
                }
                for entry in entries {
                    assert!(entry.index <= self.last().next(), "a hole before {}", entry.position());
                    assert!(entry.index > self.start.index, "{} is compacted away", entry.position());
                    self.entries.split_off(&entry.index);
                    self.entries.insert(entry.index, entry.clone());
                }
            }
            Write::Install(install, membership) => {
                self.memberships.insert(install.position.index, membership.clone());
                let kept = self.entries.split_off(&install.position.index.next());
                self.entries = if install.keep_suffix { kept } else { BTreeMap::new() };
                self.start = install.position;
                self.flushed = install.position.index;
            }
        }
    }
}

/// One write under way.
#[derive(Debug)]
enum Write {
    Persist { persist: Persist, entries: Vec<Entry> },
    Install(InstallSnapshot, Membership),
}

/// What the actions of one step ask of the world.
#[derive(Debug, Default)]
pub struct Orders {
    pub messages: Vec<(NodeId, Message)>,
    /// Numbers of the writes begun.
    pub writes: Vec<u64>,
    pub applies: bool,
    pub events: Vec<Event>,
    pub fetch: Option<FetchSnapshot>,
}

/// One node and everything around it.
pub struct Machine {
    config: Config,
    pub node: Option<Node>,
    pub actions: Actions,
    pub disk: Disk,
    pub life: u64,
    pub paused_until: Option<Instant>,
    pub disk_stall_micros: u64,
    pub applied: LogIndex,
    pub last_proposal: Option<Result<LogPosition, ProposeError>>,
    pub last_change: Option<Result<LogPosition, ChangeError>>,
    writes: VecDeque<(u64, Write)>,
    next_write: u64,
    newest_durable: (Option<LogMark>, u64),
    applies: VecDeque<LogRange>,
}

impl Machine {
    pub fn new(config: Config, disk: Disk, now: Instant, seed: u64) -> Machine {
        let mut machine = Machine {
            config,
            node: None,
            actions: Actions::default(),
            disk,
            life: 0,
            paused_until: None,
            disk_stall_micros: 0,
            applied: LogIndex::ZERO,
            last_proposal: None,
            last_change: None,
            writes: VecDeque::new(),
            next_write: 0,
            newest_durable: (None, 0),
            applies: VecDeque::new(),
        };
        machine.start(now, seed);
        machine
    }

    pub fn start(&mut self, now: Instant, seed: u64) {
        assert!(self.node.is_none(), "started twice");
        self.life += 1;
        self.node = Some(Node::new(self.config, self.disk.restored(), now, seed));
        self.applied = self.disk.flushed;
        self.newest_durable = (None, 0);
    }

    pub fn crash(&mut self, writes_surviving: u64) {
        self.node = None;
        for _ in 0..writes_surviving {
            let (_, write) = self.writes.pop_front().unwrap();
            self.disk.write(&write);
        }
        self.writes.clear();
        self.applies.clear();
        self.life += 1;
        self.applied = self.disk.flushed;
    }

    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    pub fn writes_under_way(&self) -> u64 {
        self.writes.len() as u64
    }

    /// The number of the newest write begun.
    pub fn newest_write(&self) -> u64 {
        self.next_write
    }

    pub fn wakes_at(&self) -> Option<Instant> {
        let deadline = self.node.as_ref()?.next_deadline()?;
        Some(self.paused_until.map_or(deadline, |until| until.max(deadline)))
    }

    /// Says whether the node is up.
    pub fn step(&mut self, now: Instant, event: Event) -> bool {
        let Some(node) = &mut self.node else { return false };
        node.step(now, event, &mut self.actions);
        true
    }

    /// Carries out the actions of the last step.
    pub fn carry_out(&mut self, id: NodeId, checks: &mut Checks) -> Orders {
        let node = self.node.as_ref().unwrap();
        let mut orders = Orders::default();
        if let Some(persist) = self.actions.persist {
            let entries: Vec<Entry> = node.log().entries(persist.entries).unwrap().cloned().collect();
            self.next_write += 1;
            let truncates = entries.first().is_some_and(|entry| self.disk.last() >= entry.index);
            checks.truncations += u64::from(truncates);
            self.writes.push_back((self.next_write, Write::Persist { persist, entries }));
            orders.writes.push(self.next_write);
        }
        if let Some(install) = self.actions.install_snapshot {
            checks.installs += 1;
            self.next_write += 1;
            let membership = checks.membership_at(install.position.index);
            self.writes.push_back((self.next_write, Write::Install(install, membership)));
            orders.writes.push(self.next_write);
        }
        for send in self.actions.send.drain(..) {
            let mut message = send.message;
            assert!(
                self.disk.repair.is_none()
                    || !matches!(message.body, Body::Vote { .. } | Body::VoteReply { granted: true }),
                "node {id} votes though it has lost what it had promised"
            );
            check_promise(id, send.to, &message, &self.disk, node);
            if let Body::Append { entries, .. } = &mut message.body
                && !send.entries.is_empty()
            {
                assert!(entries.is_empty(), "entries both attached and named");
                entries.extend(node.log().entries(send.entries).unwrap().cloned());
            }
            orders.messages.push((send.to, message));
        }
        if let Some(range) = self.actions.apply {
            self.applies.push_back(range);
            orders.applies = true;
        }
        for load in &self.actions.load {
            checks.loads += 1;
            let entries = read_bounded(&self.disk, load.entries, load.bytes_max);
            orders.events.push(Event::Loaded { peer: load.peer, entries });
        }
        orders.fetch = self.actions.fetch_snapshot;
        if self.actions.repaired {
            checks.repairs += 1;
            self.disk.repair = None;
            orders.events.push(Event::Repaired);
        }
        self.last_proposal = self.actions.proposal;
        self.last_change = self.actions.membership_proposal;
        if let Some(changed) = self.actions.changed
            && changed.role == Role::Leader
        {
            checks.elected(id, changed.term, node);
        }
        checks.committed_somewhere(id, node);
        for ready in &self.actions.reads {
            checks.read_ready(id, *ready);
        }
        for token in &self.actions.reads_refused {
            checks.read_refused(id, *token);
        }
        orders
    }

    /// Writes up to `number` reach the disk. Several appends are reported at once.
    pub fn finish_writes(&mut self, number: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut to_report = false;
        while self.writes.front().is_some_and(|(of, _)| *of <= number) {
            let (_, write) = self.writes.pop_front().unwrap();
            self.disk.write(&write);
            match write {
                Write::Persist { persist, .. } => {
                    let (mark, sequence) = self.newest_durable;
                    self.newest_durable = (persist.mark.or(mark), persist.hard_state_sequence.max(sequence));
                    to_report = true;
                }
                Write::Install(install, _) => {
                    if to_report {
                        events.push(self.durable_event());
                        to_report = false;
                    }
                    self.applies.clear();
                    self.applied = self.applied.max(install.position.index);
                    events.push(Event::SnapshotInstalled { position: install.position });
                }
            }
        }
        if to_report {
            events.push(self.durable_event());
        }
        events
    }

    fn durable_event(&self) -> Event {
        Event::Durable { mark: self.newest_durable.0, hard_state_sequence: self.newest_durable.1 }
    }

    /// The oldest range handed out is applied, from what the disk holds.
    pub fn finish_apply(&mut self, id: NodeId, checks: &mut Checks) -> Option<Event> {
        let range = self.applies.pop_front()?;
        assert_eq!(range.first, self.applied.next(), "node {id} was told to apply {range:?} after {}", self.applied);
        for index in (range.first.0..=range.last.0).map(LogIndex) {
            let entry = self.disk.entries.get(&index).expect("what is handed out for applying is on disk");
            checks.applied(id, entry);
            self.disk.memberships.extend(memberships_in([entry]));
        }
        self.applied = range.last;
        Some(Event::Applied { index: range.last })
    }

    /// Flushes the state machine.
    pub fn flush(&mut self) {
        self.disk.flushed = self.applied;
    }

    pub fn compact(&mut self, checks: &Checks) -> Option<Event> {
        // Not while a snapshot is about to replace the log.
        let installing = self.node.as_ref()?.status().installing_snapshot;
        if installing || self.disk.flushed <= self.disk.start.index {
            return None;
        }
        let position = checks.position(self.disk.flushed);
        assert_eq!(self.disk.term(position.index), Some(position.term), "the disk disagrees with what is committed");
        self.disk.entries = self.disk.entries.split_off(&position.index.next());
        self.disk.start = position;
        Some(Event::Compacted { position })
    }
}

/// The memberships among entries.
pub fn memberships_in<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
) -> impl Iterator<Item = (LogIndex, Membership)> {
    let memberships = entries.into_iter().filter(|entry| entry.kind == EntryKind::Membership);
    memberships.map(|entry| (entry.index, Membership::decode(&entry.payload).unwrap()))
}

fn read_bounded(disk: &Disk, range: LogRange, bytes_max: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for index in (range.first.0..=range.last.0).map(LogIndex) {
        let Some(entry) = disk.entries.get(&index) else { break };
        bytes += entry.payload.len();
        if !entries.is_empty() && bytes > bytes_max {
            break;
        }
        entries.push(entry.clone());
    }
    entries
}

/// Nothing leaves that the disk cannot vouch for (Raft Figure 2: persistent state is updated before responding).
fn check_promise(id: NodeId, to: NodeId, message: &Message, disk: &Disk, node: &Node) {
    match &message.body {
        Body::VoteReply { granted: true } => {
            let expected = HardState { term: message.term, vote: Some(to) };
            assert_eq!(disk.hard_state, expected, "node {id} granted a vote that is not durable");
        }
        Body::Vote { .. } => {
            let expected = HardState { term: message.term, vote: Some(id) };
            assert_eq!(disk.hard_state, expected, "node {id} asked for votes before its own was durable");
        }
        Body::AppendReply { outcome: AppendOutcome::Durable { match_index }, .. } if *match_index > LogIndex::ZERO => {
            assert_eq!(disk.hard_state.term, message.term, "node {id} acknowledged in a term that is not durable");
            assert!(
                disk.last() >= *match_index,
                "node {id} acknowledged {match_index}, its disk ends at {}",
                disk.last()
            );
            if *match_index >= node.log().start().index && *match_index >= disk.start.index {
                assert_eq!(
                    disk.term(*match_index),
                    node.log().term(*match_index),
                    "node {id} acknowledged {match_index}, its disk holds another entry"
                );
            }
        }
        Body::Append { commit, previous, entries, .. } if entries.is_empty() => {
            assert!(*commit <= node.log().last_index() && previous.term <= message.term);
        }
        _ => {}
    }
}
