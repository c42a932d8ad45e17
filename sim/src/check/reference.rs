//! The one true log, and the state it leads to.
//!
//! The first node that applies an entry says what the entry is: it took it for committed. From then on that is what the entry is for
//! everybody (state machine safety, Raft Figure 3). A state machine of the reference's own applies entry by entry, so that every node's
//! state hash is compared after every run of entries, however the node groups them.

use super::model::Model;
use crate::schedule::Time;
use raft::{Entry, LogIndex, LogPosition, Membership, Term};
use std::time::Duration;
use storage::state::{Bootstrap, FORMAT_WITH_TRANSACTIONS, MemoryEngine, StateMachine};
use xxhash_rust::xxh3::xxh3_64;

/// What is known of one entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) term: Term,
    payload: u64,
    state_hash: [u8; 16],
    /// Whoever applied it first was in this term: it was committed in this term or an earlier one.
    pub(crate) committed_by: Term,
}

/// See the module.
pub(crate) struct Reference {
    known: Vec<Known>,
    machine: StateMachine<MemoryEngine>,
    pub(crate) model: Model,
    /// The term in which format 4 was raised.
    raised_in: Option<Term>,
    /// When the first entry of a later term was applied, and what the cluster's time was then.
    time_begun: Option<(Time, u64)>,
}

/// What the cluster's time may be ahead by: the first batch was laid some time before it was applied, and whenever a clock jumps forward two seconds may
/// pass at once.
const TIME_SLACK: Duration = Duration::from_secs(180);

impl Reference {
    pub(crate) fn new(cluster: &str, membership: Membership) -> Reference {
        let bootstrap = Bootstrap { cluster: cluster.to_owned(), membership };
        let machine = StateMachine::open(MemoryEngine::new(), &bootstrap).expect("a new state can be set up");
        Reference { known: Vec::new(), machine, model: Model::new(), raised_in: None, time_begun: None }
    }

    /// A node in `term` has applied `entries` and its state has this hash.
    pub(crate) fn applied(&mut self, now: Time, node: usize, term: Term, entries: &[Entry], state_hash: [u8; 16]) {
        for entry in entries {
            let payload = xxh3_64(&entry.payload) ^ entry.kind as u64;
            if let Some(known) = self.at(entry.index) {
                assert!(
                    (known.term, known.payload) == (entry.term, payload),
                    "state machine safety: node {} applies entry {} of term {}, where an entry of term {} was applied before",
                    node + 1,
                    entry.index,
                    entry.term,
                    known.term
                );
                continue;
            }
            assert_eq!(
                entry.index.0,
                self.known.len() as u64 + 1,
                "node {}: entries are applied without a gap",
                node + 1
            );
            let mut outcomes = Vec::new();
            self.machine
                .apply(std::slice::from_ref(entry), &mut outcomes)
                .unwrap_or_else(|error| panic!("committed entry {} cannot be applied: {error}", entry.index));
            self.model.apply(entry);
            let found: Vec<_> = outcomes.iter().flat_map(|applied| &applied.results).collect();
            let expected: Vec<_> = self.model.done_at(entry.index).map(|done| &done.outcome).collect();
            assert!(
                found == expected,
                "entry {} came to {found:?}, and to the model it means {expected:?}",
                entry.index
            );
            assert_eq!(self.machine.revision(), self.model.revision(), "revisions after entry {}", entry.index);
            self.check_time(now, entry.term);
            let state_hash = self.machine.state_hash();
            self.known.push(Known { term: entry.term, payload, state_hash, committed_by: term });
        }
        if let Some(last) = entries.last() {
            self.check_state(node, last.position(), state_hash);
        }
    }

    /// From format 4 on the cluster's time passes no faster than time does: leases and sessions live as long as they were promised, whatever wall clocks show.
    /// Whoever led when the format was raised may still have laid batches by the older one, so it counts from the next term on.
    fn check_time(&mut self, now: Time, term: Term) {
        let time_ms = self.machine.time_ms();
        if self.machine.format() < FORMAT_WITH_TRANSACTIONS {
            return;
        }
        let raised_in = *self.raised_in.get_or_insert(term);
        if term == raised_in || time_ms == 0 {
            return;
        }
        let (begun, begun_ms) = *self.time_begun.get_or_insert((now, time_ms));
        let passed = now.since(begun);
        let bound = passed + passed / 10 + TIME_SLACK;
        let counted = Duration::from_millis(time_ms - begun_ms);
        assert!(counted <= bound, "the cluster counts {counted:?} in {passed:?}");
    }

    /// A node's state after `position` has this hash.
    pub(crate) fn check_state(&self, node: usize, position: LogPosition, state_hash: [u8; 16]) {
        if position.index == LogIndex::ZERO {
            return;
        }
        let known = self.at(position.index).unwrap_or_else(|| {
            panic!("node {} has a state after entry {position}, and nobody has applied that", node + 1)
        });
        assert_eq!(known.term, position.term, "node {}: the term of applied entry {}", node + 1, position.index);
        assert!(
            known.state_hash == state_hash,
            "state hashes differ: node {} has {state_hash:02x?} after entry {position}, the reference has {:02x?}",
            node + 1,
            known.state_hash
        );
    }

    /// What is known of the entry at `index`.
    pub(crate) fn at(&self, index: LogIndex) -> Option<Known> {
        let place = usize::try_from(index.0).expect("few entries").checked_sub(1)?;
        self.known.get(place).copied()
    }

    /// The membership as of then.
    pub(crate) fn membership(&self) -> &Membership {
        self.machine.membership()
    }

    /// The last entry that anybody has applied.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.known.len() as u64)
    }
}
