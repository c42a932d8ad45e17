//! Raising the format in effect (`storage/src/state/format.rs`) once every member knows the next one.
//!
//! Members say what they know when they connect. A leader that has heard it of every member, voters and learners, of the membership in effect and of the
//! committed one, proposes the raise; whoever leads next does so again if it came to nothing. What the format allows is written only once the raise is
//! *applied* on the leader that writes: then it is committed, and every log that can still win has it before what depends on it. Until then a client that asks for
//! something newer is refused before the log, and told which members hold the format back.
//!
//! Caveat: a member that has said what it knows may be started with an older program before the raise is committed. It stops at the raise,
//! changes nothing, and goes on with the newer program.

use super::{Driver, Host};
use raft::{Instant, NodeId, Role, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use storage::command::Command;
use storage::state::{FORMAT_WITH_TIME, FORMAT_WITH_TRANSACTIONS, STATE_FORMAT_OLDEST};

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

/// A command needs a format that is not in effect yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatPending {
    /// What the command needs.
    pub needed: u32,
    /// What is in effect.
    pub in_effect: u32,
    /// The members that hold it back, by number; none: it is being raised.
    pub holders: Vec<FormatHolder>,
}

/// A member that is not known to know a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatHolder {
    /// The member.
    pub node: NodeId,
    /// The newest format that it knows, by its own word; `None`: it has not been heard.
    pub knows: Option<u32>,
}

impl fmt::Display for FormatPending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FormatPending { needed, in_effect, holders } = self;
        write!(f, "this needs format {needed} of log and state, and the cluster is at format {in_effect}")?;
        if holders.is_empty() {
            return write!(f, "; every member knows it, so it is in effect in a moment: try again");
        }
        write!(f, ", because not every member is known to know it: ")?;
        for (place, holder) in holders.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            match holder.knows {
                Some(knows) => write!(f, "{separator}node {} knows format {knows}", holder.node)?,
                None => write!(f, "{separator}node {} has not been heard", holder.node)?,
            }
        }
        write!(f, "; upgrade these nodes, take out `node.format_max` there, or bring them back, and try again")
    }
}

impl<H: Host> Driver<H> {
    /// The time that the next batch carries, if the format in effect has it and this node knows what it is.
    pub(super) fn batch_time(&mut self, now: Instant) -> Option<u64> {
        self.clock.advance(now);
        // Before it knows the time, it does not know which format is in effect either.
        let time_ms = self.clock.time_ms()?;
        if self.formats.in_effect < FORMAT_WITH_TIME {
            return None;
        }
        Some(if self.formats.in_effect < FORMAT_WITH_TRANSACTIONS { self.host.wall_clock_ms() } else { time_ms })
    }

    /// Whether a command that needs this format may be written.
    pub(super) fn check_format(&self, needed: u32) -> Result<(), FormatPending> {
        let in_effect = self.formats.in_effect;
        if needed <= in_effect {
            return Ok(());
        }
        let status = self.node.status();
        let members: BTreeSet<NodeId> =
            status.membership.members().chain(status.membership_committed.members()).collect();
        let knows =
            |node| if node == status.id { Some(self.formats.own) } else { self.formats.peers.get(&node).copied() };
        let holders = members.into_iter().map(|node| FormatHolder { node, knows: knows(node) });
        let holders = holders.filter(|holder| holder.knows.is_none_or(|knows| knows < needed)).collect();
        Err(FormatPending { needed, in_effect, holders })
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
        let term = status.term;
        if self.propose_own(now, &Command::RaiseFormat { to: next }).is_some() {
            self.formats.asked = Some((next, term));
        }
    }
}
