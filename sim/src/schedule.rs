//! Virtual time and what is due in it.
//!
//! Time stands still while something happens and jumps to the next thing that is due. Of two things due at one moment, the one that
//! was scheduled first comes first, so a run depends on nothing but its seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment of simulated time, in nanoseconds since the run began. The simulator's own: no node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The beginning.
    pub const START: Time = Time(0);

    /// Time passed since `earlier`; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// What is due, in order.
///
/// The heap holds moments and places only: what is due is large, and would be moved about at every step through the heap.
#[derive(Debug)]
pub struct Schedule<T> {
    now: Time,
    count: u64,
    due: BinaryHeap<Reverse<Due>>,
    /// What is due, by place; `None`: the place is free.
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

/// Ordered by moment, then by when it was scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Time,
    number: u64,
    place: usize,
}

impl<T> Schedule<T> {
    /// Nothing is due.
    #[must_use]
    pub fn new() -> Schedule<T> {
        Schedule {
            now: Time::START,
            count: 0,
            due: BinaryHeap::with_capacity(1024),
            places: Vec::with_capacity(1024),
            free: Vec::new(),
        }
    }

    /// The moment.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets `what` happen at `at`, or at once if that has passed.
    pub fn at(&mut self, at: Time, what: T) {
        self.count += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(what);
                place
            }
            None => {
                self.places.push(Some(what));
                self.places.len() - 1
            }
        };
        self.due.push(Reverse(Due { at: at.max(self.now), number: self.count, place }));
    }

    /// Lets `what` happen after a while.
    pub fn after(&mut self, delay: Duration, what: T) {
        self.at(self.now + delay, what);
    }

    /// Goes on to the next thing that is due.
    pub fn go_on(&mut self) -> Option<T> {
        let Reverse(due) = self.due.pop()?;
        assert!(due.at >= self.now, "time went back from {} to {}", self.now, due.at);
        self.now = due.at;
        self.free.push(due.place);
        let what = self.places[due.place].take();
        Some(what.expect("each place in the heap holds what is due there"))
    }
}

impl<T> Default for Schedule<T> {
    fn default() -> Schedule<T> {
        Schedule::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_the_order_of_time_and_then_of_scheduling() {
        let mut schedule = Schedule::new();
        for (at, what) in [(30, 'd'), (10, 'a'), (20, 'b'), (20, 'c')] {
            schedule.at(Time(at), what);
        }
        let order: String = std::iter::from_fn(|| schedule.go_on()).collect();
        assert_eq!((order.as_str(), schedule.now()), ("abcd", Time(30)));
        schedule.at(Time(5), 'e');
        assert_eq!((schedule.go_on(), schedule.now()), (Some('e'), Time(30)), "the past is now");
    }
}
