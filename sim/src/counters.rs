//! What happened in a run, counted: a check that never met what it is there for has checked nothing.
//!
//! [`SOMETIMES`] names what a run of enough seeds must have met at least once, beside each kind of fault. `sim/tests/seeds.rs` requires it, and so does
//! the program itself.

use crate::faults::FaultKind;
use std::collections::BTreeMap;

/// What must happen now and then.
pub const SOMETIMES: &[&str] = &[
    "elections: a leader changed",
    "process: kill -9",
    "process: power cut",
    "process: leader crashed",
    "process: leader crashed with a log write under way",
    "process: crash in the middle of a log write",
    "process: crash in the middle of recovery",
    "process: pause",
    "process: leader paused",
    "process: slow node",
    "process: blackout",
    "process: all nodes down at once",
    "recovery: torn tail dropped",
    "recovery: log longer than what was applied",
    "recovery: state went back at a crash, the log made up for it",
    "recovery: unfinished installation of a snapshot finished",
    "clock: drift",
    "clock: jump forward",
    "clock: jump backward",
    "clock: wall clock set forward",
    "clock: wall clock set back",
    "network: loss",
    "network: duplicate",
    "network: long delay",
    "network: a message overtook another",
    "network: clients cut off from a node",
    "network: message of a former life of its sender",
    "network: message for a former life of its receiver",
    "network: partition",
    "network: one-way cut",
    "network: partial partition",
    "network: leader cut off from a majority",
    "network: messages in their encoded form",
    "log: entries replaced by a new leader",
    "log: compacted",
    "log: entries for a follower read from disk",
    "log: entries to apply read from disk",
    "disk: stall",
    "disk: all lost",
    "disk: all lost, the folders empty",
    "disk: log lost",
    "disk: log lost, its folder empty",
    "disk: state lost",
    "disk: a leader's disk lost",
    "disk: lost during a change of members",
    "disk: bit rot",
    "disk: full",
    "disk: a read failed",
    "disk: a write failed",
    "disk: a flush failed",
    "disk: a flush failed and passed for clean",
    "disk: a write went elsewhere",
    "disk: a write was refused for want of room",
    "disk: a sector was lost at a power cut",
    "disk: a sector was torn at a power cut",
    "disk: a name was lost at a power cut",
    "process: stopped by its disk",
    "process: leader with a damaged disk crashed",
    "repair: a damaged log was set aside",
    "repair: a start under repair",
    "repair: damage found while running",
    "repair: a node was repaired",
    "membership: change done",
    "membership: change asked for during a partition",
    "membership: several edits in one change",
    "membership: voters cut off as a change began",
    "membership: leader asked to remove itself",
    "membership: refused as unsafe",
    "membership: refused, learner lags",
    "membership: refused, busy",
    "membership: a removed node ended",
    "membership: a message of a removed node refused",
    "upgrade: a node gets the newer program",
    "upgrade: a node applied a raise of the format",
    "upgrade: back to the older program",
    "upgrade: an older program refused to start on a newer state",
    "upgrade: an older program stopped at a newer format",
    "snapshot: transfer failed half way",
    "snapshot: broken off on its way",
    "snapshot: installed",
    "snapshot: installed during a partition",
    "leadership: transfer completed",
    "leadership: transfer given up",
    "client: write refused for want of a leader",
    "client: outcome unknown",
    "client: condition failed",
    "client: an attempt was silent",
    "client: redirected to the leader",
    "client: read served by a follower",
    "client: read between a write and the word of it",
    "client: lease read at a leader",
    "client: scan",
    "client: range deleted",
    "client: transaction",
    "client: transaction that only reads",
    "client: stale read",
    "client: stale read refused, the state is too old",
    "space: a write refused for want of room",
    "space: there was room again",
    "space: compacted by rule",
    "client: compaction",
    "client: session opened",
    "client: a write sent again",
    "watch: an event told",
    "watch: an event told with what was there before",
    "watch: read from disk",
    "watch: progress told",
    "watch: a stream was silent",
    "watch: a stream broke with a reply on its way",
    "watch: a client let go of its stream",
    "watch: begun at a revision that the node has not reached",
    "watch: its next revision was compacted",
    "watch: what was to be gathered was compacted",
    "transaction: compares that did not hold",
    "session: a retry was given the first answer",
    "session: a command of an ended session refused",
    "session: expired",
    "lease: expired",
    "lease: a key deleted with its lease",
    "lease: unknown",
    "history: compacted",
];

/// How often each thing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// It happened.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// It happened this often.
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// How often it happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds what happened in another run.
    pub fn merge(&mut self, other: &Counters) {
        for (what, times) in &other.0 {
            self.add(what, *times);
        }
    }

    /// Everything that happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(what, times)| (*what, *times))
    }

    /// What never happened and should have.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let kinds = FaultKind::ALL.map(FaultKind::counted_as);
        SOMETIMES.iter().copied().chain(kinds).filter(|what| self.of(what) == 0).collect()
    }
}
