//! Placeholder.
use crate::clients::Reply;
use crate::schedule::Time;
use crate::workload::Ask;
use client::Error;
use raft::Entry;

#[derive(Default)]
pub(crate) struct Checks {
    operations: u64,
}

impl Checks {
    pub(crate) fn invoked(&mut self, _client: usize, _now: Time, _ask: &Ask) -> u64 {
        self.operations += 1;
        self.operations
    }
    pub(crate) fn answered(&mut self, _operation: u64, _now: Time, _reply: &Reply) {}
    pub(crate) fn failed(&mut self, _operation: u64, _now: Time, _error: &Error) {}
    pub(crate) fn applied(&mut self, _node: usize, _entries: &[Entry], _hash: [u8; 16]) {}
    pub(crate) fn stepped(&mut self, _node: usize, _core: &raft::Node) {}
    pub(crate) fn finish(&mut self, _now: Time) {}
}
