//! What a leader knows about one peer, and how it may send to it.
//!
//! ```text
//!            append confirmed                    needs what is compacted away
//!   Probe ───────────────────▶ Replicate     Probe, Replicate ───────────────▶ Snapshot
//!     ▲ ◀─── refused, lost,        │                                             │
//!     │      unreachable ──────────┘                                             │
//!     └──────────────── snapshot handed over, or an acknowledgement past the log's start
//! ```
//!
//! `Probe` sends one append and waits for the answer or the next heartbeat. `Replicate` sends ahead of the answers, limited
//! in messages and bytes. `Snapshot` sends offers only. Heartbeats go out in every state; they are empty appends at a
//! position the peer is known to hold, so they are never refused.

use crate::doubt::Doubt;
use crate::{Config, Instant, LogIndex, LogRange, RepairId};
use alloc::collections::VecDeque;

/// How the leader sends to a peer (Raft §5.3, thesis §10.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replication {
    /// One append at a time, looking for the end of what both logs share.
    Probe,
    /// Appends in a pipeline.
    Replicate,
    /// The entries it needs are compacted away: it is offered a snapshot.
    Snapshot,
}

/// One append under way.
#[derive(Debug, Clone, Copy)]
struct Flight {
    last: LogIndex,
    bytes: usize,
}

/// What the leader knows about one peer.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// The highest index known to match and to be durable there.
    pub(crate) matched: LogIndex,
    /// The index of the next entry to send.
    pub(crate) next: LogIndex,
    replication: Replication,
    /// In `Probe`: nothing more goes out before an answer or the next heartbeat.
    waiting: bool,
    flights: VecDeque<Flight>,
    flights_bytes: usize,
    /// When the oldest append under way last got closer to being answered.
    advanced_at: Instant,
    /// When it last said anything in this term; at first, when this began.
    pub(crate) heard_at: Instant,
    /// Whether it has said anything in this term.
    pub(crate) heard: bool,
    /// The newest read round it has echoed (thesis §6.4).
    pub(crate) read_round: u64,
    /// The highest commit index it was told in an append that covers it, so that it could take it.
    pub(crate) commit_told: LogIndex,
    /// It has lost what it had promised and is not repaired: nothing it says counts (`repair.rs`).
    pub(crate) repair: Option<RepairId>,
    /// Whether it refuses what it had acknowledged (`doubt.rs`).
    pub(crate) doubt: Doubt,
    /// A loss that it has told of beside `repair`, perhaps one that is over, and the read round begun then to find out.
    pub(crate) reported: Option<(RepairId, u64)>,
    /// Entries that are being read from disk for it.
    pub(crate) load: Option<LogRange>,
    /// The next entry on disk is larger than what is left under way: nothing more is read before everything is answered.
    waits_for_idle: bool,
}

impl Progress {
    /// A peer about which nothing is known (Raft Figure 2: nextIndex, matchIndex).
    pub(crate) fn new(next: LogIndex, now: Instant, config: &Config) -> Progress {
        Progress {
            matched: LogIndex::ZERO,
            next,
            replication: Replication::Probe,
            waiting: false,
            flights: VecDeque::with_capacity(config.inflight_messages_max),
            flights_bytes: 0,
            advanced_at: now,
            heard_at: now,
            heard: false,
            read_round: 0,
            commit_told: LogIndex::ZERO,
            repair: None,
            doubt: Doubt::None,
            reported: None,
            load: None,
            waits_for_idle: false,
        }
    }

    /// The peer has lost what it held: it is to be found out anew, from `next` on.
    pub(crate) fn forget(&mut self, next: LogIndex, id: RepairId, now: Instant, config: &Config) {
        *self = Progress { repair: Some(id), ..Progress::new(next, now, config) };
    }

    /// Whether it has lost what it had promised, or may have: it is no time to give it a vote.
    pub(crate) fn tells_of_a_loss(&self) -> bool {
        self.repair.is_some() || self.reported.is_some()
    }

    /// Whether what it says, and once said, counts towards majorities.
    pub(crate) fn counts(&self) -> bool {
        self.repair.is_none() && !self.doubt.is_lost()
    }

    pub(crate) fn replication(&self) -> Replication {
        self.replication
    }

    /// Whether nothing that was sent ahead is unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    pub(crate) fn flights(&self) -> (usize, usize) {
        (self.flights.len(), self.flights_bytes)
    }

    /// Looks for the end of the common log again, from `next` on.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.replication = Replication::Probe;
        self.waiting = false;
        self.next = next.max(self.matched.next());
        self.flights.clear();
        self.flights_bytes = 0;
        self.load = None;
        self.waits_for_idle = false;
    }

    /// Offers a snapshot from here on.
    pub(crate) fn need_snapshot(&mut self) {
        self.probe_from(self.next);
        self.replication = Replication::Snapshot;
    }

    /// Holds the next probe back until the next heartbeat.
    pub(crate) fn wait_for_heartbeat(&mut self) {
        self.waiting = true;
    }

    /// A heartbeat is due: an unanswered probe may be repeated.
    pub(crate) fn stop_waiting(&mut self) {
        self.waiting = false;
    }

    /// Payload bytes that may be sent now; `None` if no message may.
    pub(crate) fn allowance(&self, config: &Config) -> Option<usize> {
        if self.load.is_some() {
            return None;
        }
        match self.replication {
            Replication::Snapshot => None,
            Replication::Probe => (!self.waiting).then_some(config.append_bytes_max),
            Replication::Replicate if self.flights.is_empty() => Some(config.append_bytes_max),
            Replication::Replicate => {
                let left = config.inflight_bytes_max.saturating_sub(self.flights_bytes);
                (self.flights.len() < config.inflight_messages_max && left > 0)
                    .then_some(left.min(config.append_bytes_max))
            }
        }
    }

    /// Whether an append of `bytes` fits into what may be under way. One is always allowed.
    pub(crate) fn fits(&self, bytes: usize, config: &Config) -> bool {
        self.flights.is_empty() || self.flights_bytes.saturating_add(bytes) <= config.inflight_bytes_max
    }

    /// Whether entries may be read from disk for it. Not before a whole append has room: what is read and then does not fit was read in vain.
    pub(crate) fn may_load(&self, config: &Config) -> bool {
        let left = config.inflight_bytes_max.saturating_sub(self.flights_bytes);
        self.flights.is_empty() || (!self.waits_for_idle && left >= config.append_bytes_max)
    }

    /// What was read from disk does not fit.
    pub(crate) fn does_not_fit(&mut self) {
        self.load = None;
        self.waits_for_idle = true;
    }

    /// An append was sent.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize, now: Instant) {
        match self.replication {
            Replication::Probe => self.waiting = true,
            Replication::Replicate => {
                assert!(last >= self.next, "an append up to {last} was sent where {} was next", self.next);
                if self.flights.is_empty() {
                    self.advanced_at = now;
                }
                self.flights.push_back(Flight { last, bytes });
                self.flights_bytes += bytes;
                self.next = last.next();
            }
            Replication::Snapshot => panic!("an append up to {last} was sent to a peer that needs a snapshot"),
        }
    }

    /// The peer acknowledged everything up to `index`; `log_start` is where the leader's log starts.
    pub(crate) fn acknowledged(&mut self, index: LogIndex, log_start: LogIndex, now: Instant) {
        if index > self.matched {
            self.matched = index;
            self.advanced_at = now;
        }
        while let Some(flight) = self.flights.front().filter(|flight| flight.last <= self.matched) {
            self.flights_bytes -= flight.bytes;
            self.flights.pop_front();
        }
        self.waits_for_idle &= !self.flights.is_empty();
        let confirmed = match self.replication {
            Replication::Probe => index.next() >= self.next,
            Replication::Replicate => false,
            Replication::Snapshot => index >= log_start,
        };
        if confirmed {
            self.probe_from(index.next());
            self.replication = Replication::Replicate;
        }
        self.next = self.next.max(self.matched.next());
        // What is being read from disk is of no use any more.
        self.load = self.load.filter(|load| load.first == self.next);
    }

    /// Whether a refusal of an append after `previous` answers what was sent last, rather than something older.
    pub(crate) fn refusal_is_current(&self, previous: LogIndex) -> bool {
        match self.replication {
            Replication::Probe => previous.next() == self.next,
            Replication::Replicate => previous > self.matched,
            Replication::Snapshot => false,
        }
    }

    /// It was told in an append up to `covered` that everything up to `commit` is committed.
    pub(crate) fn told_commit(&mut self, commit: LogIndex, covered: LogIndex) {
        self.commit_told = self.commit_told.max(commit.min(covered));
    }

    /// Whether it was heard within an election timeout.
    pub(crate) fn answers(&self, now: Instant, config: &Config) -> bool {
        now.since(self.heard_at) < config.election_timeout
    }

    /// Whether appends sent ahead have gone unanswered for so long that they must be taken for lost.
    pub(crate) fn seems_lost(&self, now: Instant, config: &Config) -> bool {
        self.replication == Replication::Replicate
            && !self.flights.is_empty()
            && now.since(self.advanced_at) >= config.election_timeout
    }

    /// Panics unless what is known about the peer is consistent.
    pub(crate) fn check(&self, log_last: LogIndex, config: &Config) {
        assert!(self.matched < self.next, "matched {} is not before next {}", self.matched, self.next);
        assert!(self.matched <= log_last, "matched {} is after the log's end {log_last}", self.matched);
        let (messages, bytes) = self.flights();
        assert!(messages <= config.inflight_messages_max, "{messages} appends under way");
        assert!(messages <= 1 || bytes <= config.inflight_bytes_max, "{messages} appends under way with {bytes} bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn config() -> Config {
        Config { inflight_messages_max: 3, inflight_bytes_max: 100, append_bytes_max: 40, ..Config::new(NodeId(1)) }
    }

    fn replicating() -> Progress {
        let mut progress = Progress::new(LogIndex(5), Instant::ORIGIN, &config());
        progress.acknowledged(LogIndex(4), LogIndex::ZERO, Instant::ORIGIN);
        assert_eq!(progress.replication(), Replication::Replicate);
        progress
    }

    #[test]
    fn probe_sends_one_append_until_answered_or_the_next_heartbeat() {
        let mut progress = Progress::new(LogIndex(5), Instant::ORIGIN, &config());
        assert_eq!(progress.allowance(&config()), Some(40));
        progress.sent(LogIndex(6), 20, Instant::ORIGIN);
        assert_eq!(progress.allowance(&config()), None);
        assert_eq!(progress.next, LogIndex(5));
        progress.stop_waiting();
        assert_eq!(progress.allowance(&config()), Some(40));
    }

    #[test]
    fn pipeline_is_limited_in_messages() {
        let mut progress = replicating();
        for last in 5..8 {
            assert!(progress.allowance(&config()).is_some());
            progress.sent(LogIndex(last), 1, Instant::ORIGIN);
        }
        assert_eq!(progress.allowance(&config()), None);
        progress.acknowledged(LogIndex(6), LogIndex::ZERO, Instant::ORIGIN);
        assert_eq!(progress.flights(), (1, 1));
        assert!(progress.allowance(&config()).is_some());
    }

    #[test]
    fn pipeline_is_limited_in_bytes_but_lets_one_append_through() {
        let mut progress = replicating();
        assert!(progress.fits(1000, &config()));
        progress.sent(LogIndex(5), 90, Instant::ORIGIN);
        assert_eq!(progress.allowance(&config()), Some(10));
        assert!(progress.fits(10, &config()) && !progress.fits(11, &config()));
    }

    #[test]
    fn nothing_is_read_from_disk_before_a_whole_append_has_room() {
        let mut progress = replicating();
        progress.sent(LogIndex(5), 60, Instant::ORIGIN);
        assert!(progress.may_load(&config()));
        progress.sent(LogIndex(6), 1, Instant::ORIGIN);
        assert!(!progress.may_load(&config()));
        progress.acknowledged(LogIndex(5), LogIndex::ZERO, Instant::ORIGIN);
        assert!(progress.may_load(&config()));
        progress.does_not_fit();
        assert!(!progress.may_load(&config()));
        progress.acknowledged(LogIndex(6), LogIndex::ZERO, Instant::ORIGIN);
        assert!(progress.may_load(&config()));
    }

    #[test]
    fn acknowledgement_short_of_the_probe_does_not_start_the_pipeline() {
        let mut progress = Progress::new(LogIndex(5), Instant::ORIGIN, &config());
        progress.acknowledged(LogIndex(3), LogIndex::ZERO, Instant::ORIGIN);
        assert_eq!(
            (progress.replication(), progress.matched, progress.next),
            (Replication::Probe, LogIndex(3), LogIndex(5))
        );
    }

    #[test]
    fn stale_refusals_are_told_from_current_ones() {
        let mut progress = replicating();
        progress.sent(LogIndex(5), 1, Instant::ORIGIN);
        assert!(!progress.refusal_is_current(LogIndex(4)));
        assert!(progress.refusal_is_current(LogIndex(5)));
        progress.probe_from(LogIndex(5));
        assert!(progress.refusal_is_current(LogIndex(4)) && !progress.refusal_is_current(LogIndex(5)));
    }

    #[test]
    fn snapshot_ends_with_an_acknowledgement_at_or_after_the_start_of_the_log() {
        let mut progress = Progress::new(LogIndex(5), Instant::ORIGIN, &config());
        progress.need_snapshot();
        assert_eq!(progress.allowance(&config()), None);
        progress.acknowledged(LogIndex(9), LogIndex(10), Instant::ORIGIN);
        assert_eq!(progress.replication(), Replication::Snapshot);
        progress.acknowledged(LogIndex(10), LogIndex(10), Instant::ORIGIN);
        assert_eq!((progress.replication(), progress.next), (Replication::Replicate, LogIndex(11)));
    }

    #[test]
    fn probing_never_goes_below_what_matched() {
        let mut progress = replicating();
        progress.probe_from(LogIndex(2));
        assert_eq!(progress.next, LogIndex(5));
    }
}
