//! Leases and sessions end when the leader says so.
//!
//! The state knows when the next one is due, by the cluster's time; the leader counts that time (`time.rs`) and, when it has come, proposes
//! [`Command::Expire`]. What is over is decided where it is applied, by the time of the batch: a keep-alive that was committed before has won. A new
//! leader goes by the same rows, so nothing is forgotten and nothing needs to be handed over.
//!
//! The same command is proposed when the state's time has fallen [`MARK_INTERVAL`] behind while something can end. It may end nothing then; what it brings is the
//! time. Without it a quiet cluster would keep the time it counts in its leader's memory, and whoever leads next would give every lease that long again.
//!
//! Invariants: one such command is under way at most, so that a slow disk gathers none. Nobody waits for it. If more is due than one may end,
//! the next follows once it is applied. While leadership is being handed over, or the log is full, the core refuses it, and it is tried again
//! [`RETRY_INTERVAL`] later, here or by the next leader.

use super::{Driver, Host, StateFacts};
use raft::{Instant, LogPosition, Role, Term};
use std::time::Duration;
use storage::command::Command;
use storage::state::FORMAT_WITH_TRANSACTIONS;

/// Leases that one command ends.
const LEASES_MAX: u32 = 1_000;
/// Sessions that one command ends.
const SESSIONS_MAX: u32 = 1_000;
/// Keys that one command deletes, but for a first lease that holds more: as many as one delete may.
const KEYS_MAX: u32 = 10_000;
/// How far the state's time may fall behind the leader's while something can end: what a lease is given again, at most, when leadership changes in a
/// quiet cluster.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// After a refusal.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

const MARK_INTERVAL_MS: u64 = MARK_INTERVAL.as_secs() * 1_000;

/// What was asked for, and when to ask again.
#[derive(Debug, Default)]
pub(super) struct ExpiryDesk {
    under_way: Option<UnderWay>,
    /// Not before this moment, after a refusal.
    retry_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    /// The leader's term when it proposed it.
    term: Term,
    position: LogPosition,
}

/// When the next command is to be proposed, by the cluster's time.
fn due_ms(facts: &StateFacts) -> Option<u64> {
    let next = facts.next_expiry_ms?;
    Some(next.min(facts.time_ms.saturating_add(MARK_INTERVAL_MS)))
}

impl<H: Host> Driver<H> {
    /// When something is due, by the monotonic clock.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        if self.formats.in_effect < FORMAT_WITH_TRANSACTIONS || self.is_expiry_under_way() {
            return None;
        }
        let due = self.clock.when(due_ms(&self.facts)?)?;
        Some(self.expiry.retry_at.map_or(due, |retry_at| due.max(retry_at)))
    }

    fn is_expiry_under_way(&self) -> bool {
        let term = self.node.status().term;
        self.expiry.under_way.is_some_and(|it| it.term == term && it.position.index > self.applied)
    }

    /// Proposes the end of what is due.
    pub(super) fn expire_due(&mut self, now: Instant) {
        let status = self.node.status();
        let term = status.term;
        if status.role != Role::Leader || self.next_expiry().is_none_or(|due| due > now) {
            return;
        }
        let expire = Command::Expire { leases_max: LEASES_MAX, sessions_max: SESSIONS_MAX, keys_max: KEYS_MAX };
        match self.propose_own(now, &expire) {
            Some(position) => {
                self.expiry = ExpiryDesk { under_way: Some(UnderWay { term, position }), retry_at: None };
            }
            None => self.expiry.retry_at = Some(now + RETRY_INTERVAL),
        }
    }
}
