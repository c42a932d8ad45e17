//! The quota: how large the state may grow before writes that add data are refused.
//!
//! The leader looks at its own state, which is sampled in the background (`space.rs`), about once a second. What it takes until the next sample is added as
//! it came, so a fast writer does not go far above; how much of it compresses, and what it supersedes, only the next sample knows.
//! What is refused has not entered the log. Deletes, compaction, and everything that ends something are always taken: they are the way back to
//! room, and it clears by itself once there is some.
//!
//! Caveat: a delete makes no room by itself, because what it deleted stays readable until it is compacted, and then takes its space until
//! RocksDB has rewritten the files it is in.

/// The share of the quota, in percent, below which data is taken again once it had been full.
const ROOM_AGAIN_PERCENT: u64 = 95;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    /// `None`: no limit.
    bytes_max: Option<u64>,
    /// As sampled last, and what was taken since.
    bytes: u64,
    is_full: bool,
}

/// The state is as large as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
}

impl Quota {
    pub(super) fn new(bytes_max: Option<u64>) -> Quota {
        Quota { bytes_max, bytes: 0, is_full: false }
    }

    /// The state takes so many bytes.
    pub(super) fn sampled(&mut self, bytes: u64) {
        self.bytes = bytes;
        let Some(bytes_max) = self.bytes_max else { return };
        // Divided first: a quota of many exabytes must not overflow.
        let room_again = bytes_max / 100 * ROOM_AGAIN_PERCENT;
        let is_full = if self.is_full { bytes > room_again } else { bytes > bytes_max };
        if is_full != self.is_full {
            tracing::warn!(
                bytes,
                quota = bytes_max,
                full = is_full,
                "whether the state is as large as it may be changed"
            );
        }
        self.is_full = is_full;
    }

    /// A command of so many bytes that adds data goes to the log.
    pub(super) fn taken(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.is_full |= self.bytes_max.is_some_and(|bytes_max| self.bytes > bytes_max);
    }

    /// Why what adds data is refused, if it is.
    pub(super) fn full(&self) -> Option<Full> {
        self.bytes_max.filter(|_| self.is_full).map(|bytes_max| Full { bytes: self.bytes, bytes_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_above_the_quota_and_clears_below_95_percent() {
        let mut quota = Quota::new(Some(1000));
        let mut full_at = |bytes| {
            quota.sampled(bytes);
            quota.full().is_some()
        };
        assert!(!full_at(1000));
        assert!(full_at(1001));
        assert!(full_at(951), "it does not come and go with every sample");
        assert!(!full_at(950));
        assert!(!full_at(1000));
    }

    #[test]
    fn what_is_taken_between_two_samples_counts() {
        let mut quota = Quota::new(Some(1000));
        quota.sampled(900);
        quota.taken(100);
        assert_eq!(quota.full(), None);
        quota.taken(1);
        assert_eq!(quota.full(), Some(Full { bytes: 1001, bytes_max: 1000 }));
        // Most of it was compressed away.
        quota.sampled(940);
        assert_eq!(quota.full(), None);
    }

    #[test]
    fn without_a_quota_it_is_never_full() {
        let mut quota = Quota::new(None);
        quota.sampled(u64::MAX);
        quota.taken(1);
        assert_eq!(quota.full(), None);
        let mut largest = Quota::new(Some(u64::MAX));
        largest.sampled(u64::MAX);
        assert_eq!(largest.full(), None);
    }
}
