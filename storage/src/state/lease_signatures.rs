//! Signatures that stand in for the state machine's leases until they are merged. To be dropped with this commit.

use super::engine::Engine;
use super::error::ReadError;
use super::machine::StateMachine;
use super::reader::StateReader;
use bytes::Bytes;

/// What is known of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Its number.
    pub id: u64,
    /// The whole time, in milliseconds.
    pub ttl_ms: u64,
    /// When it ends, by the cluster's time.
    pub ends_at_ms: u64,
    /// How many keys live by it.
    pub keys: u32,
    /// Made by a put for its key alone.
    pub of_one_key: bool,
}

impl<E: Engine> StateMachine<E> {
    /// The earliest moment, by the cluster's time, at which a lease or session is due.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        None
    }
}

impl<E: Engine> StateReader<E> {
    /// The cluster's time.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        0
    }

    /// What is known of a lease.
    pub fn lease(&self, _id: u64) -> Result<Option<LeaseStatus>, ReadError> {
        Ok(None)
    }

    /// Leases with greater numbers than `after`, by number.
    pub fn leases(&self, _after: u64, _limit: usize) -> Result<Vec<LeaseStatus>, ReadError> {
        Ok(Vec::new())
    }

    /// The keys that live by a lease, in key order, after `after`.
    pub fn lease_keys(&self, _id: u64, _after: Option<&[u8]>, _limit: usize) -> Result<Vec<Bytes>, ReadError> {
        Ok(Vec::new())
    }
}
