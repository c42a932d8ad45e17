//! Leases and sessions that end, and what else commands do with leases.
//!
//! A lease ends with its keys, at one revision, in key order. The command that ends what is due gives each lease a revision of its own, so that no
//! revision is larger than one lease.
//!
//! Bound: the keys of a lease, as many as its grant allows, and the record of each that is not left in the engine (`overlay`).

use super::super::engine::Engine;
use super::super::error::StateError;
use super::super::outcome::CommandOutcome;
use super::Run;
use super::change::Stop;
use crate::command::LeaseLimits;
use std::borrow::Cow;

impl<E: Engine> Run<'_, E> {
    pub(super) fn grant_lease(&mut self, id: u64, ttl_ms: u64, limits: LeaseLimits) -> Result<CommandOutcome, Stop> {
        let id = self.leases.grant(id, ttl_ms, limits, self.clockwork.time_ms)?;
        Ok(CommandOutcome::LeaseGranted { id, ttl_ms })
    }

    pub(super) fn keep_lease_alive(&mut self, id: u64) -> Result<CommandOutcome, Stop> {
        let ttl_ms = self.leases.keep_alive(id, self.clockwork.time_ms)?;
        Ok(CommandOutcome::LeaseKeptAlive { ttl_ms })
    }

    pub(super) fn revoke_lease(&mut self, id: u64) -> Result<CommandOutcome, Stop> {
        if self.leases.lease(id).is_none() {
            return Err(CommandOutcome::LeaseUnknown { id }.into());
        }
        let deleted = self.stage_end(id)?;
        Ok(CommandOutcome::LeaseRevoked { deleted, revision: self.staged_revision() })
    }

    /// Ends what is due, the longest due first.
    pub(super) fn expire(
        &mut self,
        leases_max: u32,
        sessions_max: u32,
        keys_max: u32,
    ) -> Result<CommandOutcome, StateError> {
        let now_ms = self.clockwork.time_ms;
        let (mut leases, mut deleted) = (0, 0);
        while leases < u64::from(leases_max)
            && let Some((id, lease)) = self.leases.first_due(now_ms)
            && (leases == 0 || deleted + u64::from(lease.keys) <= u64::from(keys_max))
        {
            deleted += self.stage_end(id)?;
            leases += 1;
            self.commit()?;
        }
        let mut sessions = 0;
        while sessions < u64::from(sessions_max)
            && let Some(id) = self.sessions.first_due(now_ms)
        {
            self.end_session(id);
            sessions += 1;
        }
        Ok(CommandOutcome::Expired { leases, sessions, deleted })
    }

    /// Deletes the keys of a lease, and the lease. Returns how many keys that were.
    fn stage_end(&mut self, id: u64) -> Result<u64, StateError> {
        let lease = *self.leases.lease(id).expect("whoever ends a lease has looked it up");
        let keys = self.leases.keys(self.engine, id)?;
        let (count, rows) = (u64::from(lease.keys), keys.len() as u64);
        assert!(count == rows, "lease {id} counts {count} keys and has rows of {rows}");
        let unknown: Vec<&[u8]> = keys.iter().map(|key| &key[..]).filter(|key| !self.overlay.knows(key)).collect();
        self.load(&unknown, |overlay, key, record| overlay.learn(key.to_vec(), record))?;
        for key in keys {
            let deleted = self.stage_delete(Cow::Owned(key), false)?;
            assert!(deleted.is_some(), "a key of lease {id} does not exist");
        }
        self.leases.end(id);
        Ok(count)
    }
}
