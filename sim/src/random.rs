//! The one source of chance: a SplitMix64 generator. Equal seeds give equal runs.

use std::time::Duration;

/// The generator.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator whose sequence is that of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// A generator of its own for one part, so that what one part draws does not shift what another one does.
    #[must_use]
    pub fn fork(&mut self) -> Random {
        Random::new(self.next())
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "a generator never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below zero was asked for");
        self.next() % bound
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "no number lies between {low} and {high}");
        low + self.below(high - low + 1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// An index below `length`, which must not be zero.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    /// A duration from `low` to `high`: mostly near `low`, now and then far out, as latencies are.
    pub fn latency(&mut self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (nanos(low), nanos(high));
        assert!(low <= high, "no latency lies between {low} and {high} ns");
        // The cube of a uniform fraction: the median lies at an eighth of the way.
        let fraction = self.below(1 << 16);
        let cubed = (((fraction * fraction) >> 16) * fraction) >> 16;
        Duration::from_nanos(
            low + u64::try_from((u128::from(high - low) * u128::from(cubed)) >> 16).expect("a part of a u64"),
        )
    }

    /// A duration from `low` to `high`, each as likely.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.between(nanos(low), nanos(high)))
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("simulated durations are below 500 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_sequences() {
        let (mut one, mut other, mut third) = (Random::new(7), Random::new(7), Random::new(8));
        for _ in 0..100 {
            assert_eq!(one.next(), other.next());
        }
        assert_ne!(one.next(), third.next());
    }

    #[test]
    fn latencies_stay_within_their_bounds_and_are_mostly_short() {
        let mut random = Random::new(3);
        let (low, high) = (Duration::from_millis(1), Duration::from_millis(9));
        let drawn: Vec<Duration> = (0..1000).map(|_| random.latency(low, high)).collect();
        assert!(drawn.iter().all(|latency| (low..=high).contains(latency)));
        let short = drawn.iter().filter(|latency| **latency < Duration::from_millis(3)).count();
        assert!((500..900).contains(&short), "{short} of 1000 in the lowest quarter");
    }
}
