//! The work both stores are given: the same keys, values of the same size, chosen the same way.
//!
//! Keys are numbered, twelve bytes each, and picked uniformly. Values are cut at random places out of a pool of random bytes, so that no store gains by
//! compressing them or by noticing that a value has not changed. Every client has a generator seeded with its own number:
//! the n-th operation of client c is the same for both stores and in every round.

use anyhow::bail;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::Serialize;

/// Random bytes that values are cut from, besides the length of one value.
const POOL_BYTES: usize = 1 << 20;
const POOL_SEED: u64 = 0x7261_6674_6b76;

/// What a cell measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    /// One key written, durably on a majority.
    Put,
    /// One key read, linearizably.
    Get,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Put => "put",
            Operation::Get => "get",
        })
    }
}

/// See the module.
pub(crate) struct Workload {
    keys: u64,
    value_bytes: usize,
    pool: Bytes,
}

impl Workload {
    /// `keys` is at least 1.
    pub(crate) fn new(keys: u64, value_bytes: usize) -> Workload {
        assert!(keys > 0, "a workload of {keys} keys has nothing to pick from");
        let mut pool = vec![0; POOL_BYTES + value_bytes];
        SmallRng::seed_from_u64(POOL_SEED).fill_bytes(&mut pool);
        Workload { keys, value_bytes, pool: pool.into() }
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// The key with this number.
    pub(crate) fn key(number: u64) -> Bytes {
        format!("key/{number:08}").into()
    }

    /// Fails unless `value` can have been written by this workload.
    pub(crate) fn check(&self, key: &Bytes, value: Option<&Bytes>) -> anyhow::Result<()> {
        match value {
            None => bail!("{} was written and is not found", String::from_utf8_lossy(key)),
            Some(value) if value.len() != self.value_bytes => bail!(
                "{} holds {} bytes, and only values of {} bytes were written",
                String::from_utf8_lossy(key),
                value.len(),
                self.value_bytes
            ),
            Some(_) => Ok(()),
        }
    }
}

/// The choices of one client.
pub(crate) struct Choices {
    random: SmallRng,
}

impl Choices {
    pub(crate) fn of_client(client: usize) -> Choices {
        Choices { random: SmallRng::seed_from_u64(client as u64) }
    }

    pub(crate) fn key(&mut self, workload: &Workload) -> Bytes {
        Workload::key(self.random.random_range(0..workload.keys))
    }

    pub(crate) fn value(&mut self, workload: &Workload) -> Bytes {
        let start = self.random.random_range(0..=POOL_BYTES);
        workload.pool.slice(start..start + workload.value_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_client_makes_the_same_choices_every_time() {
        let workload = Workload::new(1000, 64);
        let choose = |client| {
            let mut choices = Choices::of_client(client);
            (0..50).map(|_| (choices.key(&workload), choices.value(&workload))).collect::<Vec<_>>()
        };
        assert_eq!(choose(7), choose(7));
        assert_ne!(choose(7), choose(8));
        assert!(choose(7).iter().all(|(key, value)| key.len() == 12 && value.len() == 64));
    }

    #[test]
    fn a_lost_or_cut_value_is_noticed() {
        let workload = Workload::new(1, 3);
        let key = Workload::key(0);
        workload.check(&key, Some(&Bytes::from_static(b"abc"))).unwrap();
        assert!(workload.check(&key, None).unwrap_err().to_string().contains("not found"));
        assert!(workload.check(&key, Some(&Bytes::from_static(b"ab"))).unwrap_err().to_string().contains("2 bytes"));
    }
}
