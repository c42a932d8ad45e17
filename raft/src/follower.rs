//! The follower's side of replication (Raft §5.3).
//!
//! An append is acknowledged when its entries are durable here, not when they arrive: the follower remembers how far its log
//! matches the leader's, and what it says is the smaller of that and what is durable. What it says is always true, so it may
//! be said at any time and any number of times. It is said at once in answer to an append that has nothing to write or that
//! carries a new read round, and otherwise when the disk reports; never before the present term is durable.
//!
//! The committed prefix matches every present and later leader's log (Leader Completeness, Raft §5.4.3), so it counts as
//! matching from the start, and a conflict inside it is not repaired: the node halts (scenario 14).

use crate::log::well_formed;
use crate::membership::Membership;
use crate::state::{Core, drop_message};
use crate::{Actions, AppendOutcome, Body, DropReason, Entry, EntryKind, Instant, LogIndex, LogPosition};

/// A node that follows a leader or waits for one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Follower {
    /// How far this log is known to match that of this term's leader.
    pub(crate) matched: LogIndex,
    /// What the leader was last told.
    told: Option<LogIndex>,
    told_at: Instant,
    /// An answer is owed as soon as it may leave.
    owed: bool,
    /// The newest read round of this term's leader (thesis §6.4), and the newest it was sent back.
    read_round: u64,
    read_round_told: u64,
}

/// The parts of an append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) previous: LogPosition,
    pub(crate) commit: LogIndex,
    pub(crate) read_round: u64,
    pub(crate) entries: alloc::vec::Vec<Entry>,
}

impl Follower {
    /// An append of this term's leader.
    pub(crate) fn on_append(&mut self, core: &mut Core, append: Append, actions: &mut Actions) {
        let Append { previous, commit, read_round, entries } = append;
        if !well_formed(previous, &entries, core.term()) || !memberships_can_be_read(&entries) {
            drop_message(DropReason::Malformed, actions);
            return;
        }
        self.read_round = self.read_round.max(read_round);
        // While a snapshot replaces the log, the log stands still. The leader learns how far it is and tries again.
        if core.snapshot.is_installing() {
            self.owed = true;
            return;
        }
        if previous.index >= core.commit && !core.log.holds(previous) {
            self.refuse(core, previous, actions);
            return;
        }
        if let Some(term) = core.log.term(previous.index) {
            assert_eq!(term, previous.term, "conflict at {previous} below the commit index {}: halting", core.commit);
        }
        let verified = LogIndex(previous.index.0 + entries.len() as u64);
        let wrote = write_entries(core, self.matched, entries);
        self.matched = self.matched.max(verified);
        let commit_moves = commit.min(verified) > core.commit;
        // The leader's commit index may lie beyond what its message covers, where this log need not match (Figure 2, AppendEntries 5).
        core.commit_to(commit.min(verified));
        let new_round = self.read_round > self.read_round_told;
        // A note that only moves the commit index needs no answer if the leader has just had one.
        let half_interval = core.config.heartbeat_interval / 2;
        let only_note =
            commit_moves && self.told == Some(self.match_index(core)) && core.now.since(self.told_at) < half_interval;
        self.owed |= new_round || (!wrote && !only_note);
    }

    /// The leader offers a snapshot.
    pub(crate) fn on_snapshot_offer(&mut self, core: &mut Core, offer: crate::FetchSnapshot, actions: &mut Actions) {
        if offer.at_least.index <= core.commit {
            self.owed = true;
        } else if core.snapshot.start_fetching() {
            actions.fetch_snapshot = Some(offer);
        }
    }

    /// A snapshot took the place of the log up to `position`.
    pub(crate) fn on_snapshot_installed(&mut self, position: LogPosition) {
        self.matched = self.matched.max(position.index);
        self.owed = true;
    }

    /// Answers the leader if an answer is owed and may leave.
    pub(crate) fn release_reply(&mut self, core: &Core, actions: &mut Actions) {
        let Some(leader) = core.leader else { return };
        if !core.writes.hard_state_is_durable() {
            return;
        }
        let match_index = self.match_index(core);
        let is_news = match self.told {
            Some(told) => match_index > told,
            None => match_index >= self.matched && self.matched > LogIndex::ZERO,
        };
        if !self.owed && !is_news {
            return;
        }
        let outcome = AppendOutcome::Durable { match_index };
        core.send(
            leader,
            Body::AppendReply { outcome, read_round: self.read_round, repair: core.repair_report() },
            actions,
        );
        self.owed = false;
        self.told = Some(match_index);
        self.told_at = core.now;
        self.read_round_told = self.read_round;
    }

    /// How far this log both matches the leader's and is durable.
    fn match_index(&self, core: &Core) -> LogIndex {
        self.matched.max(core.commit).min(core.writes.durable_index())
    }

    /// The logs differ at `previous` or this one ends before. The answer promises nothing, so it leaves at once.
    fn refuse(&mut self, core: &Core, previous: LogPosition, actions: &mut Actions) {
        assert!(
            previous.index > core.commit,
            "conflict at {previous} with {:?}, at the commit index {}: halting",
            core.log.term(previous.index),
            core.commit
        );
        let hint = core.log.newest_not_above(previous.index, previous.term).unwrap_or(core.log.start());
        let outcome = AppendOutcome::Mismatch { previous: previous.index, hint };
        let Some(leader) = core.leader else { return };
        core.send(
            leader,
            Body::AppendReply { outcome, read_round: self.read_round, repair: core.repair_report() },
            actions,
        );
        self.read_round_told = self.read_round;
    }
}

/// Whether every membership among the entries is one that this program knows.
fn memberships_can_be_read(entries: &[Entry]) -> bool {
    let mut memberships = entries.iter().filter(|entry| entry.kind == EntryKind::Membership);
    memberships.all(|entry| Membership::decode(&entry.payload).is_ok_and(|membership| !membership.is_empty()))
}

/// Brings the log in line with the leader's entries, whose predecessor is known to match: skips what is there, replaces what
/// conflicts, adds what is new (Raft §5.3). Says whether anything has to be written.
fn write_entries(core: &mut Core, matched: LogIndex, entries: alloc::vec::Vec<Entry>) -> bool {
    let mut wrote = false;
    for entry in entries {
        let position = entry.position();
        if position.index < core.log.start().index {
            continue;
        }
        match core.log.term(position.index) {
            Some(term) if term == position.term => continue,
            Some(term) => {
                assert!(
                    position.index > core.commit,
                    "conflict at {position} with term {term} below the commit index {}: halting",
                    core.commit
                );
                assert!(
                    position.index > matched,
                    "the leader of term {} changed its log at {position}, term {term} there matched before",
                    core.term()
                );
                core.log.truncate_from(position.index);
                core.writes.truncated(position.index);
                core.configurations.truncated(position.index);
            }
            None => {}
        }
        if entry.kind == EntryKind::Membership {
            let membership = Membership::decode(&entry.payload).expect("checked when the append came in");
            core.configurations.appended(position.index, membership);
        }
        core.log.append(entry);
        if !wrote {
            core.writes.appended(position.index);
            wrote = true;
        }
    }
    wrote
}
