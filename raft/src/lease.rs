//! Reads from the leader's lease (thesis §6.4.1): opt-in, because it trusts clocks.
//!
//! A voter that hears its leader ignores other candidates for an election timeout. So a leader that a quorum heard at `t` cannot
//! have a successor before `t` plus an election timeout, on the voters' clocks. It counts from the moment it *sent* the heartbeat that
//! was answered, and to three quarters of the time, which leaves room for clocks of different speed.
//!
//! Three things would break the promise, and each is ruled out:
//! - A voter that restarts has forgotten whom it heard. With leases on it votes for nobody in its first election timeout.
//! - A voter that learns of a higher term forgets its leader, but with leases on not when it heard it.
//! - An election asked for by the leader itself is not ignored (thesis §3.10). So once a leader has told anybody to campaign, it serves no
//!   more lease reads in its term, whether or not the transfer comes to anything: the order may still be on its way.
//!
//! A leader that pauses notices when it goes on: the lease is compared with the time of the step, and what the step allows was true at
//! that time (scenario 39). What no lease survives is a clock that stands still while others run.

use crate::state::Core;
use crate::{Instant, leader::Leader};
use alloc::collections::VecDeque;
use core::time::Duration;

/// Rounds whose time of sending is remembered. A round older than that many is of no use for a lease anyhow.
const ROUNDS_MAX: usize = 64;

/// When the newest rounds were sent, and whether the lease is void.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    rounds: VecDeque<(u64, Instant)>,
    void: bool,
}

impl Lease {
    pub(crate) fn new() -> Lease {
        Lease { rounds: VecDeque::with_capacity(ROUNDS_MAX), void: false }
    }

    /// Round `number` goes out.
    pub(crate) fn round_sent(&mut self, number: u64, now: Instant) {
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((number, now));
    }

    /// Somebody was told to campaign: no lease in this term any more.
    pub(crate) fn give_up(&mut self) {
        self.void = true;
    }

    /// When the newest round up to `number` was sent.
    fn sent_at(&self, number: u64) -> Option<Instant> {
        let after = self.rounds.partition_point(|(round, _)| *round <= number);
        after.checked_sub(1).map(|position| self.rounds[position].1)
    }
}

/// How long a leader relies on having been heard.
fn duration(election_timeout: Duration) -> Duration {
    election_timeout / 4 * 3
}

impl Leader {
    /// Whether nobody else can lead at this moment, as far as clocks can be trusted.
    pub(crate) fn has_lease(&self, core: &Core) -> bool {
        if !core.config.lease_reads || self.lease.void || self.transfer_target().is_some() || !core.knows_commit() {
            return false;
        }
        let duration = duration(core.config.election_timeout);
        core.membership().has_quorum(|id| {
            id == core.id()
                || self.progress(id).filter(|progress| progress.repair.is_none()).is_some_and(|progress| {
                    let sent_at = self.lease.sent_at(progress.read_round);
                    sent_at.is_some_and(|sent_at| core.now.since(sent_at) < duration)
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_counts_from_when_the_round_was_sent() {
        let mut lease = Lease::new();
        assert_eq!(lease.sent_at(5), None);
        lease.round_sent(1, Instant::from_nanos(10));
        lease.round_sent(3, Instant::from_nanos(30));
        assert_eq!(lease.sent_at(0), None);
        assert_eq!(lease.sent_at(2), Some(Instant::from_nanos(10)));
        assert_eq!(lease.sent_at(9), Some(Instant::from_nanos(30)));
    }

    #[test]
    fn old_rounds_are_forgotten() {
        let mut lease = Lease::new();
        for number in 1..=ROUNDS_MAX as u64 + 1 {
            lease.round_sent(number, Instant::from_nanos(number));
        }
        assert_eq!(lease.sent_at(1), None);
        assert_eq!(lease.sent_at(2), Some(Instant::from_nanos(2)));
    }
}
