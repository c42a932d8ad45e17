//! Raising the format in effect (`storage/src/state/format.rs`) once every member knows the next one.
//!
//! Members say what they know when they connect. A leader that has heard it of every member, voters and learners, of the membership in effect and of the
//! committed one, proposes the raise; whoever leads next does so again if it came to nothing. What the format allows is written only once the raise is
//! *applied* on the leader that writes: then it is committed, and every log that can still win has it before what depends on it.
//!
//! Caveat: a member that has said what it knows may be started with an older program before the raise is committed. It stops at the raise,
//! changes nothing, and goes on with the newer program.

use super::{Driver, Host};
use raft::{Instant, NodeId, Role, Term};
use std::collections::BTreeMap;
use storage::command::Command;
use storage::state::{FORMAT_WITH_TIME, STATE_FORMAT_OLDEST};

/// What is known about formats.
#[derive(Debug, Clone)]
pub(super) struct Formats {
    /// The newest that this node knows.
    own: u32,
    /// In effect, as applied.
    pub(super) in_effect: u32,
    /// The newest that each peer knows, by its own word.
    peers: BTreeMap<NodeId, u32>,
    /// The last raise that this node proposed, and its term then.
    asked: Option<(u32, Term)>,
}

impl Formats {
    pub(super) fn new(own: u32, in_effect: u32) -> Formats {
        Formats { own, in_effect, peers: BTreeMap::new(), asked: None }
    }

    /// A peer says what it knows. One that says nothing knows what was there from the beginning.
    pub(super) fn heard(&mut self, peer: NodeId, format_max: u32) {
        self.peers.insert(peer, format_max.max(STATE_FORMAT_OLDEST));
    }

    fn is_known_to(&self, id: NodeId, format: u32) -> bool {
        self.peers.get(&id).is_some_and(|known| *known >= format)
    }
}

impl<H: Host> Driver<H> {
    /// The time that the next batch carries, if the format in effect has it.
    pub(super) fn batch_time(&mut self) -> Option<u64> {
        (self.formats.in_effect >= FORMAT_WITH_TIME).then(|| self.host.wall_clock_ms())
    }

    /// Proposes the next format, if every member knows it.
    pub(super) fn raise_format(&mut self, now: Instant) {
        let status = self.node.status();
        let next = self.formats.in_effect + 1;
        if status.role != Role::Leader || next > self.formats.own || self.formats.asked == Some((next, status.term)) {
            return;
        }
        let knows = |id: NodeId| id == status.id || self.formats.is_known_to(id, next);
        let all_know = [status.membership, status.membership_committed].iter().all(|it| it.members().all(knows));
        if !all_know {
            return;
        }
        self.formats.asked = Some((next, status.term));
        self.propose_batch(now);
        self.batch.append(&Command::RaiseFormat { to: next });
        // Whoever leads looks at what is applied; nobody waits for the answer.
        self.batch_waiters.push(Box::new(|_| {}));
        self.propose_batch(now);
    }
}
