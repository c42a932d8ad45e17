//! Writes, from the inbox to the log: taken or refused, gathered, proposed, and waited for.
//!
//! Everything for which a write is refused *before the log* is asked here, in one place and in this order: whether this node leads, whether the command may be
//! written in the format in effect, whether there is room for it (`quota.rs`), and whether it can be answered in time (`admission.rs`). The core has the last word; what it refuses never enters
//! the log either.

use super::quota::Full;
use super::{Driver, EntryWaiters, Host, ORPHAN_TIMEOUT, WriteRefusal, WriteRequest};
use raft::{Event, Instant, LogIndex, LogPosition, ProposeError, Role};
use storage::command::{Command, EncodedCommand, VALUES_HELD_MAX};

/// What a command that goes through ranges, or ends a lease, counts for at the admission beside its bytes: nobody knows before how long applying it takes, and it may be a
/// tenth of a second, so of those that turn out to be slow few are to wait.
const UNKNOWN_WORK_BYTES: usize = 2 << 20;

/// Bytes of commands in one proposed entry. A single larger command still makes an entry of its own.
const BATCH_BYTES_MAX: usize = 1 << 20;

impl<H: Host> Driver<H> {
    pub(super) fn gather_write(&mut self, now: Instant, request: WriteRequest) {
        let WriteRequest { command, waiter } = request;
        if let Err(refusal) = self.admit(now, &command) {
            return waiter(Err(refusal));
        }
        let (bytes, cost) = (command.bytes_len(), admission_cost(&command));
        // An entry is applied as a whole, so what its commands hold in memory they hold together.
        let values_held = self.batch_values_held.saturating_add(command.values_held());
        let is_full = self.batch.bytes_len() + bytes > BATCH_BYTES_MAX || values_held > VALUES_HELD_MAX;
        if is_full && !self.batch.is_empty() {
            self.propose_batch(now);
        }
        if command.is_growth() {
            self.space.quota.taken(bytes);
        }
        self.admission.take(now, cost);
        self.batch_cost += cost;
        self.batch_values_held = self.batch_values_held.saturating_add(command.values_held());
        self.batch.append_encoded(&command);
        self.batch_waiters.push(waiter);
    }

    /// Whether a write may enter the log.
    fn admit(&mut self, now: Instant, command: &EncodedCommand) -> Result<(), WriteRefusal> {
        let status = self.node.status();
        if status.role != Role::Leader {
            return Err(WriteRefusal::NotLeader { leader: status.leader });
        }
        self.check_format(command.format()).map_err(WriteRefusal::FormatPending)?;
        if command.is_growth()
            && let Some(Full { bytes, bytes_max }) = self.space.quota.full()
        {
            return Err(WriteRefusal::NoSpace { bytes, bytes_max });
        }
        if self.admission.admits(now, admission_cost(command)) { Ok(()) } else { Err(WriteRefusal::Overloaded) }
    }

    /// Proposes a command of this leader's own, for whose outcome nobody waits, as an entry by itself. Returns where it stands; `None` if the core
    /// refuses it.
    pub(super) fn propose_own(&mut self, now: Instant, command: &Command<'_>) -> Option<LogPosition> {
        self.propose_batch(now);
        let newest = |driver: &Driver<H>| driver.proposed.back().map(|entry| entry.position);
        let before = newest(self);
        self.batch.append(command);
        // Whoever leads looks at what is applied.
        self.batch_waiters.push(Box::new(|_| {}));
        self.propose_batch(now);
        newest(self).filter(|position| Some(*position) != before)
    }

    pub(super) fn propose_batch(&mut self, now: Instant) {
        if self.batch.is_empty() {
            return;
        }
        let payload = match self.batch_time(now) {
            Some(time_ms) => self.batch.take_at(time_ms),
            None => self.batch.take(),
        };
        self.step(now, Event::Propose { payload });
        // Only Event::Propose fills the waiters' fate, and it always does: a proposal is answered in the step that makes it.
        assert!(
            self.batch_waiters.is_empty(),
            "{} waiters of a proposal were left without an answer",
            self.batch_waiters.len()
        );
    }

    pub(super) fn on_proposal(&mut self, now: Instant, answer: Result<LogPosition, ProposeError>) {
        let waiters = std::mem::take(&mut self.batch_waiters);
        let cost = std::mem::take(&mut self.batch_cost);
        self.batch_values_held = 0;
        match answer {
            Ok(position) => {
                self.forget_replaced(now, position.index);
                self.proposed.push_back(EntryWaiters { position, proposed_at: now, waiters, cost });
            }
            Err(error) => {
                let refusal = match error {
                    ProposeError::NotLeader { leader } => WriteRefusal::NotLeader { leader },
                    ProposeError::Transferring { target } => WriteRefusal::NotLeader { leader: Some(target) },
                    ProposeError::Overloaded => WriteRefusal::Overloaded,
                };
                self.admission.give_up(now, cost);
                for waiter in waiters {
                    waiter(Err(refusal.clone()));
                }
            }
        }
    }

    /// An entry is proposed at `index`: whatever this node proposed there or later in an earlier term is no longer in its log.
    /// Another node may still have it and commit it elsewhere than here, so nothing is known about it.
    fn forget_replaced(&mut self, now: Instant, index: LogIndex) {
        while self.proposed.back().is_some_and(|entry| entry.position.index >= index) {
            let entry = self.proposed.pop_back().expect("the back was just looked at");
            self.call_unknown(now, entry);
        }
    }

    /// A snapshot up to `index` has taken the place of what would have been applied.
    pub(super) fn forget_installed(&mut self, now: Instant, index: LogIndex) {
        while self.proposed.front().is_some_and(|entry| entry.position.index <= index) {
            let entry = self.proposed.pop_front().expect("the front was just looked at");
            self.call_unknown(now, entry);
        }
    }

    pub(super) fn call_orphans_unknown(&mut self, now: Instant) {
        if self.node.status().role == Role::Leader {
            return;
        }
        while self.proposed.front().is_some_and(|entry| now.since(entry.proposed_at) > ORPHAN_TIMEOUT) {
            let entry = self.proposed.pop_front().expect("the front was just looked at");
            self.call_unknown(now, entry);
        }
    }

    fn call_unknown(&mut self, now: Instant, entry: EntryWaiters) {
        self.admission.give_up(now, entry.cost);
        for waiter in entry.waiters {
            waiter(Err(WriteRefusal::OutcomeUnknown));
        }
    }
}

/// What it counts for at the admission, in bytes.
fn admission_cost(command: &EncodedCommand) -> usize {
    let work = if command.values_held() >= VALUES_HELD_MAX { UNKNOWN_WORK_BYTES } else { 0 };
    command.bytes_len() + work
}
