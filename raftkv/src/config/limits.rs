//! `[cluster.limits]`: how much clients may ask for at once, and how much the state keeps for them in memory.
//!
//! The leader puts these numbers into the commands that they bound, so that every node comes to the same whatever its own file says. They are not part of
//! the digest that nodes compare, and may be changed on one node after the other; whoever leads sets them. What there is already stays: a lower
//! limit only refuses more.

use super::within;
use crate::requests::RequestLimits;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Compares and operations in one transaction, those of transactions in it included. 1 to 16,384; default 1,024.
    pub transaction_operations_max: u32,
    /// Leases that there may be for another one to be granted, those of single keys with a time to live counted. A put with a time to live is
    /// refused only when there are 1,048,576 of all kinds. They are kept in memory, about 200 bytes each. 1 to 10,000,000; default
    /// 100,000.
    pub leases_max: u32,
    /// Keys that live by one lease: they are deleted together, in one step. 1 to 100,000; default 10,000.
    pub lease_keys_max: u32,
    /// Client sessions at a time. 1 to 1,000,000; default 10,000.
    pub sessions_max: u32,
    /// Answers kept for one session: a client may have as many writes under way in it. They are kept in memory, unless longer than 4 KiB. 1,024, which the client library sends at once, to 65,536;
    /// default 1,024.
    pub session_answers_max: u32,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            transaction_operations_max: 1_024,
            leases_max: 100_000,
            lease_keys_max: 10_000,
            sessions_max: 10_000,
            session_answers_max: 1_024,
        }
    }
}

impl LimitsConfig {
    pub(super) fn is_default(&self) -> bool {
        *self == LimitsConfig::default()
    }

    /// What requests are held to, with the limits on keys and values.
    pub(super) fn for_requests(&self, key_bytes_max: u64, value_bytes_max: u64) -> RequestLimits {
        RequestLimits {
            key_bytes_max,
            value_bytes_max,
            transaction_operations_max: usize::try_from(self.transaction_operations_max).expect("u32 fits usize"),
            leases_max: self.leases_max,
            lease_keys_max: self.lease_keys_max,
            sessions_max: self.sessions_max,
            session_answers_max: self.session_answers_max,
        }
    }

    /// Checks the bounds. An error names the key and what is allowed.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let operations_max = self.transaction_operations_max.into();
        within("cluster.limits.transaction_operations_max", operations_max, 1, 16_384)?;
        within("cluster.limits.leases_max", self.leases_max.into(), 1, 10_000_000)?;
        within("cluster.limits.lease_keys_max", self.lease_keys_max.into(), 1, 100_000)?;
        within("cluster.limits.sessions_max", self.sessions_max.into(), 1, 1_000_000)?;
        within("cluster.limits.session_answers_max", self.session_answers_max.into(), 1_024, 65_536)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_held_to_its_bounds_and_named() {
        let defaults = LimitsConfig::default();
        assert_eq!(defaults.check(), Ok(()));
        let wrong = [
            (LimitsConfig { transaction_operations_max: 0, ..defaults }, "transaction_operations_max", "1 to 16384"),
            (LimitsConfig { leases_max: 10_000_001, ..defaults }, "leases_max", "1 to 10000000"),
            (LimitsConfig { lease_keys_max: 0, ..defaults }, "lease_keys_max", "1 to 100000"),
            (LimitsConfig { sessions_max: 0, ..defaults }, "sessions_max", "1 to 1000000"),
            (LimitsConfig { session_answers_max: 1_023, ..defaults }, "session_answers_max", "1024 to 65536"),
        ];
        for (limits, name, bounds) in wrong {
            let (key, problem) = limits.check().expect_err("it is out of bounds");
            assert_eq!(key, format!("cluster.limits.{name}"));
            assert!(problem.contains(bounds), "{problem}");
        }
    }
}
