//! What happened in a run, counted: a check that never met what it is there for has checked nothing.
//!
//! [`SOMETIMES`] names what a run of enough seeds must have met at least once. `sim/tests/seeds.rs` requires it.

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
    "process: all nodes down at once",
    "recovery: torn tail dropped",
    "recovery: log longer than what was applied",
    "recovery: state went back at a crash, the log made up for it",
    "recovery: unfinished installation of a snapshot finished",
    "clock: drift",
    "clock: jump forward",
    "clock: jump backward",
    "network: loss",
    "network: duplicate",
    "network: long delay",
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
    "snapshot: transfer failed half way",
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
    "client: scan",
    "client: range deleted",
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
        SOMETIMES.iter().copied().filter(|what| self.of(what) == 0).collect()
    }
}
