//! The properties of Raft Figure 3, and what must never go back, looked at after every turn of a driver.

use super::reference::Reference;
use raft::{Entry, EntryKind, LogIndex, LogPosition, Membership, NodeId, Role, Term};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// What was last seen of one life of a node.
#[derive(Debug, Clone, Copy)]
struct Seen {
    life: u64,
    term: Term,
    vote: Option<NodeId>,
    role: Role,
    commit: LogIndex,
    last: LogIndex,
    last_term: Option<Term>,
}

/// An entry, by hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    payload: u64,
    /// The payload and everything before it in the log; `None`: nobody has written it after something that is known.
    chain: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Safety {
    seen: BTreeMap<usize, Seen>,
    /// Who led in which term.
    leaders: BTreeMap<Term, (usize, u64)>,
    /// What each entry that anybody wrote holds, by index and term.
    written: BTreeMap<(LogIndex, Term), Written>,
    /// The memberships among them.
    memberships: BTreeMap<(LogIndex, Term), Membership>,
}

impl Safety {
    /// A driver had a turn.
    pub(crate) fn stepped(&mut self, node: usize, life: u64, core: &raft::Node, reference: &Reference) {
        let status = core.status();
        let seen = Seen {
            life,
            term: status.term,
            vote: status.vote,
            role: status.role,
            commit: status.commit,
            last: status.log_last,
            last_term: core.log().term(status.log_last),
        };
        let before = self.seen.insert(node, seen).filter(|before| before.life == life);
        if let Some(before) = before {
            never_back(node, before, seen);
        }
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert((node, life));
            assert!(
                leader == (node, life),
                "election safety: node {} in its life {life} leads in term {}, which node {} led in its life {}",
                node + 1,
                status.term,
                leader.0 + 1,
                leader.1
            );
            let led = before.filter(|before| before.role == Role::Leader && before.term == status.term);
            match led {
                Some(before) => leader_keeps(node, before, core),
                None => leader_is_complete(node, core, reference),
            }
        }
    }

    /// A node writes entries to its log: whoever writes an entry of the same index and term writes the same, after the same (log matching).
    pub(crate) fn written(&mut self, node: usize, previous: Option<LogPosition>, entries: &[Entry]) {
        let mut before = match previous {
            Some(LogPosition { index: LogIndex::ZERO, .. }) => Some(0),
            Some(LogPosition { term, index }) => self.written.get(&(index, term)).and_then(|known| known.chain),
            None => None,
        };
        for entry in entries {
            let payload = xxh3_64(&entry.payload) ^ entry.kind as u64;
            let chain = before.map(|before| chain(before, entry, payload));
            let new = Written { payload, chain };
            let known = self.written.entry((entry.index, entry.term)).or_insert(new);
            let (node, position) = (node + 1, entry.position());
            assert!(known.payload == payload, "log matching: node {node} writes another entry {position}");
            let same = known.chain.is_none() || chain.is_none() || known.chain == chain;
            assert!(
                same,
                "log matching: node {node} writes entry {position} after another log than was written before"
            );
            known.chain = known.chain.or(chain);
            before = known.chain;
            if entry.kind == EntryKind::Membership {
                let membership = Membership::decode(&entry.payload).expect("a leader proposed it");
                self.memberships.insert((entry.index, entry.term), membership);
            }
        }
    }

    /// The memberships that anybody has written at a later place.
    pub(crate) fn memberships_after(&self, index: LogIndex) -> impl Iterator<Item = &Membership> {
        self.memberships.range((index.next(), Term::ZERO)..).map(|(_, membership)| membership)
    }
}

fn chain(before: u64, entry: &Entry, payload: u64) -> u64 {
    let numbers = [before, entry.index.0, entry.term.0, payload];
    let mut bytes = [0; 32];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    xxh3_64(&bytes)
}

fn never_back(node: usize, before: Seen, seen: Seen) {
    let node = node + 1;
    assert!(seen.term >= before.term, "node {node}: its term went back from {} to {}", before.term, seen.term);
    assert!(
        seen.commit >= before.commit,
        "node {node}: its commit index went back from {} to {}",
        before.commit,
        seen.commit
    );
    if seen.term == before.term {
        let kept = before.vote.is_none() || before.vote == seen.vote;
        assert!(kept, "node {node}: voted for {:?} and then for {:?} in term {}", before.vote, seen.vote, seen.term);
        if before.role == Role::Leader && seen.role == Role::Leader {
            let (from, to) = (before.last, seen.last);
            assert!(to >= from, "leader append-only: node {node} took its log back from {from} to {to}");
        }
    }
}

/// A leader only appends: what was last in its log when it had its turn before is still there (leader append-only; by log matching, so is all before it).
fn leader_keeps(node: usize, before: Seen, core: &raft::Node) {
    let log = core.log();
    let held = log.term(before.last);
    let is_compacted = before.last < log.first_index().previous();
    assert!(
        is_compacted || held == before.last_term,
        "leader append-only: node {} had an entry of term {:?} at {} and has one of {held:?}, while it led in term {}",
        node + 1,
        before.last_term,
        before.last,
        before.term
    );
}

/// A new leader holds everything that was committed in earlier terms (leader completeness).
fn leader_is_complete(node: usize, core: &raft::Node, reference: &Reference) {
    let (status, log) = (core.status(), core.log());
    let mut index = reference.last();
    while let Some(known) = reference.at(index).filter(|known| known.committed_by >= status.term) {
        // Committed, as far as known, in this leader's own term or a later one.
        let _ = known;
        index = index.previous();
    }
    let Some(known) = reference.at(index) else { return };
    let held = if index < log.first_index().previous() { Some(known.term) } else { log.term(index) };
    assert!(
        held == Some(known.term),
        "leader completeness: node {} leads in term {} and has {held:?} at {index}, where an entry of term {} is committed; its log is {}..={}",
        node + 1,
        status.term,
        known.term,
        status.log_first,
        status.log_last
    );
}
