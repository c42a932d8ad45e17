//! The properties of Raft Figure 3, and what must never go back, looked at after every turn of a driver.

use super::reference::Reference;
use raft::{Entry, EntryKind, LogIndex, Membership, NodeId, Role, Term};
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
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Safety {
    seen: BTreeMap<usize, Seen>,
    /// Who led in which term.
    leaders: BTreeMap<Term, (usize, u64)>,
    /// What each entry that anybody wrote holds: by index and term, the hash of its payload.
    written: BTreeMap<(LogIndex, Term), u64>,
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
            let new = before.is_none_or(|before| before.role != Role::Leader || before.term != status.term);
            if new {
                leader_is_complete(node, core, reference);
            }
        }
    }

    /// A node writes entries to its log: whoever writes an entry of the same index and term writes the same (log matching).
    pub(crate) fn written(&mut self, node: usize, entries: &[Entry]) {
        for entry in entries {
            let hash = xxh3_64(&entry.payload) ^ entry.kind as u64;
            let known = *self.written.entry((entry.index, entry.term)).or_insert(hash);
            assert!(known == hash, "log matching: node {} writes another entry {}", node + 1, entry.position());
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
