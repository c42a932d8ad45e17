//! What must hold for the whole group at any moment (Raft Figure 3), whatever the world does.

use super::machine::{Machine, memberships_in};
use raftkv_raft::{Entry, Instant, LogIndex, LogPosition, Membership, Node, NodeId, ReadReady, Role, Term};
use std::collections::BTreeMap;

/// The memory of the checks: what has been seen anywhere, ever.
#[derive(Debug, Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// Everything applied anywhere, by index.
    committed: Vec<Entry>,
    /// Memberships applied anywhere, by where they stand.
    pub memberships: BTreeMap<LogIndex, Membership>,
    /// What leaders have committed, by index: the entry's term, and the first term whose leader committed it.
    committed_by: Vec<(Term, Term)>,
    /// The highest index any node has ever known to be committed.
    commit_known: LogIndex,
    /// What was known to be committed when a read began, by node and token.
    reads: BTreeMap<(NodeId, u64), LogIndex>,
    pub reads_served: u64,
    pub reads_refused: u64,
    pub elections: u64,
    pub installs: u64,
    pub loads: u64,
    pub truncations: u64,
    pub repairs: u64,
    /// Who leads, and in which term.
    leading: BTreeMap<NodeId, Term>,
    steps: u64,
}

impl Checks {
    pub fn new(founding: Membership) -> Checks {
        Checks { memberships: BTreeMap::from([(LogIndex::ZERO, founding)]), ..Checks::default() }
    }

    /// The term committed at `index`.
    pub fn committed_at(&self, index: LogIndex) -> Option<Term> {
        let offset = usize::try_from(index.0).unwrap().checked_sub(1)?;
        self.committed.get(offset).map(|entry| entry.term)
    }

    /// The committed membership as of `index`.
    pub fn membership_at(&self, index: LogIndex) -> Membership {
        self.memberships.range(..=index).next_back().expect("the founding one stands at 0").1.clone()
    }

    /// The newest committed membership.
    pub fn membership(&self) -> &Membership {
        self.memberships.values().next_back().expect("the founding one stands at 0")
    }

    pub fn committed_count(&self) -> usize {
        self.committed.len()
    }

    /// The committed position at `index`.
    pub fn position(&self, index: LogIndex) -> LogPosition {
        let term = if index == LogIndex::ZERO { Some(Term::ZERO) } else { self.committed_at(index) };
        LogPosition { term: term.expect("only what was applied is asked for"), index }
    }

    /// Election Safety and Leader Completeness (Raft §5.2, §5.4.3): a leader holds what was committed in earlier terms. One
    /// whose last vote was very late may lack what a later leader has committed already; it will never commit anything.
    pub fn elected(&mut self, id: NodeId, term: Term, node: &Node) {
        let earlier = self.leaders.insert(term, id);
        assert_eq!(earlier, None, "node {id} leads in term {term}, which had a leader");
        self.elections += 1;
        let log = node.log();
        for (index, (entry_term, committed_by)) in (1..).map(LogIndex).zip(&self.committed_by) {
            if index >= log.start().index && *committed_by < term {
                assert_eq!(
                    log.term(index),
                    Some(*entry_term),
                    "the leader of term {term}, node {id}, lacks {index}, committed in term {committed_by}"
                );
            }
        }
    }

    /// State Machine Safety (Raft §5.4.3): one entry at one index, for ever. This also says that nothing acknowledged is
    /// lost: an acknowledgement comes after the apply on the leader.
    pub fn applied(&mut self, id: NodeId, entry: &Entry) {
        let offset = usize::try_from(entry.index.0).unwrap() - 1;
        match self.committed.get(offset) {
            Some(known) => assert_eq!(known, entry, "node {id} applied another entry at {}", entry.index),
            None => {
                assert_eq!(self.committed.len(), offset, "node {id} applied {} before what precedes it", entry.index);
                self.memberships.extend(memberships_in([entry]));
                self.committed.push(entry.clone());
            }
        }
    }

    /// Learns what a node knows to be committed. A leader may commit and hand over in one step: what it commits is its own term's all the same.
    pub fn committed_somewhere(&mut self, id: NodeId, node: &Node) {
        let status = node.status();
        self.commit_known = self.commit_known.max(status.commit);
        if status.role == Role::Leader {
            self.leading.insert(id, status.term);
        } else if self.leading.remove(&id) != Some(status.term) {
            return;
        }
        for index in (self.committed_by.len() as u64 + 1..=status.commit.0).map(LogIndex) {
            let entry_term = node.log().term(index).expect("a leader holds what it commits");
            self.committed_by.push((entry_term, status.term));
        }
    }

    pub fn read_begins(&mut self, id: NodeId, token: u64) {
        self.reads.insert((id, token), self.commit_known);
    }

    /// Linearizable reads (thesis §6.4).
    pub fn read_ready(&mut self, id: NodeId, ready: ReadReady) {
        let at_least = self.reads.remove(&(id, ready.token)).expect("a read is answered once");
        assert!(
            ready.index >= at_least,
            "node {id} read at {}, though {at_least} was committed before the read began",
            ready.index
        );
        self.reads_served += 1;
    }

    pub fn read_refused(&mut self, id: NodeId, token: u64) {
        self.reads.remove(&(id, token)).expect("a read is answered once");
        self.reads_refused += 1;
    }

    pub fn reads_under_way(&self) -> usize {
        self.reads.len()
    }

    /// Its reads died with it.
    pub fn crashed(&mut self, id: NodeId) {
        self.reads.retain(|(of, _), _| *of != id);
        self.leading.remove(&id);
    }

    /// What a node finds on its disk agrees with what is committed.
    pub fn restarted(&self, id: NodeId, machine: &Machine) {
        for entry in machine.disk.entries.values().filter(|entry| entry.index <= machine.disk.flushed) {
            assert_eq!(self.committed_at(entry.index), Some(entry.term), "node {id} came back with another history");
        }
    }

    pub fn after_step(&mut self, _id: NodeId, machines: &BTreeMap<NodeId, Machine>, _now: Instant) {
        self.steps += 1;
        if self.steps.is_multiple_of(64) {
            check_log_matching(machines);
        }
    }
}

/// Log Matching (Raft §5.3): where two logs hold an entry of the same index and term, they are equal up to there.
pub fn check_log_matching(machines: &BTreeMap<NodeId, Machine>) {
    let nodes: Vec<&Node> = machines.values().filter_map(|machine| machine.node.as_ref()).collect();
    for (position, one) in nodes.iter().enumerate() {
        for other in &nodes[position + 1..] {
            let (log, other_log) = (one.log(), other.log());
            let first = log.start().index.max(other_log.start().index);
            let last = log.last_index().min(other_log.last_index());
            let mut same_above = None;
            for index in (first.0..=last.0).rev().map(LogIndex) {
                let same = log.term(index) == other_log.term(index);
                assert!(
                    same || same_above.is_none(),
                    "logs of nodes {} and {} differ at {index} and agree at {same_above:?}",
                    one.status().id,
                    other.status().id
                );
                if same {
                    same_above = Some(index);
                }
            }
        }
    }
}
