//! Leases, as plainly as they can be written.

use super::Refusal;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use storage::command::{LeaseBinding, LeaseLimits};
use storage::state::CommandOutcome;

/// Keys that one lease made by a put may hold: its own.
const OWN_KEYS: u32 = 1;

#[derive(Debug, Clone)]
struct Lease {
    ttl_ms: u64,
    ends_at_ms: u64,
    /// Made by a put, for its key alone.
    of_one_key: bool,
    keys_max: u32,
    keys: BTreeSet<Bytes>,
}

/// All leases there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    leases: BTreeMap<u64, Lease>,
    /// The greatest number ever given out by the state.
    given: u64,
}

impl Leases {
    pub(super) fn grant(
        &mut self,
        id: u64,
        ttl_ms: u64,
        limits: LeaseLimits,
        now_ms: u64,
    ) -> Result<CommandOutcome, Refusal> {
        if self.leases.contains_key(&id) {
            return Err(CommandOutcome::LeaseExists { id });
        }
        if self.leases.len() as u64 >= u64::from(limits.leases_max) {
            return Err(CommandOutcome::LeasesFull { leases_max: limits.leases_max });
        }
        let id = if id == 0 { self.next_free() } else { id };
        self.insert(id, ttl_ms, false, limits.keys_max, now_ms);
        Ok(CommandOutcome::LeaseGranted { id, ttl_ms })
    }

    fn insert(&mut self, id: u64, ttl_ms: u64, of_one_key: bool, keys_max: u32, now_ms: u64) {
        let ends_at_ms = now_ms.saturating_add(ttl_ms);
        let lease = Lease { ttl_ms, ends_at_ms, of_one_key, keys_max, keys: BTreeSet::new() };
        self.leases.insert(id, lease);
    }

    fn next_free(&mut self) -> u64 {
        loop {
            self.given += 1;
            if !self.leases.contains_key(&self.given) {
                return self.given;
            }
        }
    }

    pub(super) fn keep_alive(&mut self, id: u64, now_ms: u64) -> Result<CommandOutcome, Refusal> {
        let lease = self.leases.get_mut(&id).ok_or(CommandOutcome::LeaseUnknown { id })?;
        lease.ends_at_ms = lease.ends_at_ms.max(now_ms.saturating_add(lease.ttl_ms));
        Ok(CommandOutcome::LeaseKeptAlive { ttl_ms: lease.ttl_ms })
    }

    /// Binds a key as a put wants it. Returns the lease it lives by afterwards; zero: none.
    pub(super) fn bind(&mut self, key: &Bytes, old: u64, binding: LeaseBinding, now_ms: u64) -> Result<u64, Refusal> {
        let new = match binding {
            LeaseBinding::Keep => return Ok(old),
            LeaseBinding::None => 0,
            LeaseBinding::Lease(id) => {
                let lease = self.leases.get(&id).filter(|lease| !lease.of_one_key);
                let lease = lease.ok_or(CommandOutcome::LeaseUnknown { id })?;
                if !lease.keys.contains(key) && lease.keys.len() as u64 >= u64::from(lease.keys_max) {
                    return Err(CommandOutcome::LeaseFull { id, keys_max: lease.keys_max });
                }
                id
            }
            LeaseBinding::TimeToLive { ttl_ms } => {
                let id = self.next_free();
                self.insert(id, ttl_ms, true, OWN_KEYS, now_ms);
                id
            }
        };
        if new != old {
            self.unbind(key, old);
        }
        if let Some(lease) = self.leases.get_mut(&new) {
            lease.keys.insert(key.clone());
        }
        Ok(new)
    }

    /// The key lives by it no more. A lease made for it alone is over.
    pub(super) fn unbind(&mut self, key: &Bytes, id: u64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.keys.remove(key);
        if lease.of_one_key {
            self.leases.remove(&id);
        }
    }

    /// Ends a lease. Returns its keys, in order.
    pub(super) fn end(&mut self, id: u64) -> Result<BTreeSet<Bytes>, Refusal> {
        let lease = self.leases.remove(&id).ok_or(CommandOutcome::LeaseUnknown { id })?;
        Ok(lease.keys)
    }

    /// The lease that is due for the longest, and how many keys it has.
    pub(super) fn due(&self, now_ms: u64) -> Option<(u64, u64)> {
        let due = self.leases.iter().filter(|(_, lease)| lease.ends_at_ms <= now_ms);
        let (id, lease) = due.min_by_key(|(id, lease)| (lease.ends_at_ms, **id))?;
        Some((*id, lease.keys.len() as u64))
    }
}
