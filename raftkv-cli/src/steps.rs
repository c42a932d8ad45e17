//! Deleting a range that holds more than one delete may delete, step by step.
//!
//! A step reads the next keys, without values, and deletes from the first of them to the last. Half as many keys as the limit allows leave
//! room for those that others put in between. When a step is refused all the same, because its values are too large or because much was put,
//! it is tried with half the keys; when it succeeds, the next one may have twice as many. A step of one key names that key, and that is
//! never refused: so the end is reached whatever the values are.
//!
//! Each step is atomic, the whole is not. A step whose outcome is unknown is not repeated: whoever asked decides.

use crate::failure::{Code, Failure};
use bytes::Bytes;
use client::{Client, Delete, DeleteOutcome, Error, Range, Scan};
use std::sync::Arc;

/// What a step needs of the cluster.
pub(crate) trait Store {
    /// The first keys of a range, so many at most.
    async fn keys(&self, range: &Range, keys_max: u64) -> Result<Vec<Bytes>, Error>;

    /// Deletes a range, all or nothing.
    async fn delete(&self, range: Range) -> Result<DeleteOutcome, Error>;
}

impl Store for Client {
    async fn keys(&self, range: &Range, keys_max: u64) -> Result<Vec<Bytes>, Error> {
        let mut scan = self.scan(Scan::new(range.clone()).keys_only().limit(keys_max)).await?;
        let mut keys = Vec::new();
        while let Some(kv) = scan.next().await? {
            keys.push(kv.key);
        }
        Ok(keys)
    }

    async fn delete(&self, range: Range) -> Result<DeleteOutcome, Error> {
        Client::delete(self, Delete::range(range)).await
    }
}

/// Deletes everything in `range`. The outcome counts all of it, and has the revision of the last step.
///
/// Between two steps it is asked whether to go on: a step that has been sent is awaited, so that what has been deleted is known.
pub(crate) async fn delete<S: Store>(
    store: &S,
    range: Range,
    keys_max: u64,
    is_interrupted: impl Fn() -> bool,
) -> Result<DeleteOutcome, Failure> {
    let mut rest = range;
    let mut total = DeleteOutcome { revision: 0, index: 0, deleted: 0, previous: Vec::new(), endpoint: Arc::default() };
    let most = (keys_max / 2).max(1);
    let mut step = most;
    loop {
        if is_interrupted() {
            let cause = format!("interrupted; {} keys had been deleted in the steps before", total.deleted);
            return Err(
                Failure::new(Code::Interrupted, cause).with_next("the same command again: it deletes what is left")
            );
        }
        let keys = store.keys(&rest, step).await.map_err(|error| stopped(error, total.deleted))?;
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else {
            if total.deleted > 0 {
                return Ok(total);
            }
            // Somebody else has deleted everything: this tells the revision at which there is nothing.
            return store.delete(rest).await.map_err(|error| stopped(error, 0));
        };
        let end = successor(last);
        match store.delete(Range::between(first.clone(), end.clone())).await {
            Ok(outcome) => {
                total.deleted += outcome.deleted;
                (total.revision, total.index, total.endpoint) = (outcome.revision, outcome.index, outcome.endpoint);
                rest.start = end;
                step = (step * 2).min(most);
            }
            Err(Error::RangeTooLarge { .. }) if keys.len() > 1 => step = (keys.len() as u64 / 2).max(1),
            Err(error) => return Err(stopped(error, total.deleted)),
        }
    }
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

fn stopped(error: Error, deleted: u64) -> Failure {
    let repeatable = matches!(error, Error::Unavailable { .. } | Error::TimedOut { .. } | Error::OutcomeUnknown { .. });
    let failure = Failure::from(error);
    let cause = format!("{}; {deleted} keys had been deleted in the steps before", failure.cause);
    let failure = Failure { cause, ..failure };
    if repeatable { failure.with_next("the same command again: it deletes what is left") } else { failure }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::failure::Code;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Keys with the bytes of their values, and the limits of one delete.
    struct Held {
        keys: RefCell<BTreeMap<Bytes, u64>>,
        keys_max: u64,
        bytes_max: u64,
        /// The keys of each delete that succeeded.
        steps: RefCell<Vec<u64>>,
        fails_after: usize,
    }

    impl Held {
        fn new(sizes: impl IntoIterator<Item = u64>, keys_max: u64, bytes_max: u64) -> Held {
            let keys = (0..).zip(sizes).map(|(number, size): (u32, u64)| (format!("p/{number:06}").into(), size));
            Held {
                keys: RefCell::new(keys.collect()),
                keys_max,
                bytes_max,
                steps: RefCell::default(),
                fails_after: usize::MAX,
            }
        }

        fn inside(&self, range: &Range) -> Vec<(Bytes, u64)> {
            let is_inside = |key: &Bytes| *key >= range.start && range.end.as_ref().is_none_or(|end| key < end);
            self.keys
                .borrow()
                .iter()
                .filter(|(key, _)| is_inside(key))
                .map(|(key, size)| (key.clone(), *size))
                .collect()
        }
    }

    impl Store for Held {
        async fn keys(&self, range: &Range, keys_max: u64) -> Result<Vec<Bytes>, Error> {
            let most = usize::try_from(keys_max).unwrap();
            Ok(self.inside(range).into_iter().map(|(key, _)| key).take(most).collect())
        }

        async fn delete(&self, range: Range) -> Result<DeleteOutcome, Error> {
            if self.steps.borrow().len() >= self.fails_after {
                return Err(Error::OutcomeUnknown { endpoint: "n1:1".into(), cause: "the connection broke".into() });
            }
            let inside = self.inside(&range);
            let deleted = inside.len() as u64;
            let is_single = range.end == Some(successor(&range.start));
            if !is_single
                && (deleted > self.keys_max || inside.iter().map(|(_, size)| size).sum::<u64>() > self.bytes_max)
            {
                let (keys_max, bytes_max) = (self.keys_max, self.bytes_max);
                return Err(Error::RangeTooLarge {
                    endpoint: "n1:1".into(),
                    cause: String::new(),
                    keys_max,
                    bytes_max,
                });
            }
            self.keys.borrow_mut().retain(|key, _| !inside.iter().any(|(gone, _)| gone == key));
            self.steps.borrow_mut().push(deleted);
            let revision = self.steps.borrow().len() as u64;
            Ok(DeleteOutcome { revision, index: revision, deleted, previous: Vec::new(), endpoint: "n1:1".into() })
        }
    }

    #[tokio::test]
    async fn many_keys_go_in_steps_and_what_is_outside_stays() {
        let held = Held::new([1; 25], 8, 1000);
        held.keys.borrow_mut().insert("q".into(), 1);
        let outcome = delete(&held, Range::prefix("p/"), 8, || false).await.unwrap();
        assert_eq!((outcome.deleted, outcome.revision), (25, 7));
        assert_eq!(*held.steps.borrow(), [4, 4, 4, 4, 4, 4, 1]);
        assert_eq!(held.keys.borrow().keys().collect::<Vec<_>>(), ["q"]);
    }

    #[tokio::test]
    async fn large_values_make_steps_smaller_and_small_ones_larger_again() {
        let sizes = [60, 60, 500, 60].into_iter().chain([1; 12]);
        let held = Held::new(sizes, 8, 100);
        let outcome = delete(&held, Range::all(), 8, || false).await.unwrap();
        assert_eq!(outcome.deleted, 16);
        assert!(held.keys.borrow().is_empty());
        let steps = held.steps.borrow();
        assert_eq!((steps[..3].to_vec(), steps.iter().max()), (vec![1, 1, 1], Some(&4)));
    }

    #[tokio::test]
    async fn what_others_have_deleted_meanwhile_counts_for_nothing() {
        let outcome = delete(&Held::new([], 8, 1000), Range::all(), 8, || false).await.unwrap();
        assert_eq!((outcome.deleted, outcome.revision), (0, 1));
    }

    #[tokio::test]
    async fn an_interrupt_ends_it_between_two_steps_and_says_how_far_it_got() {
        let held = Held::new([1; 25], 8, 1000);
        let failure = delete(&held, Range::all(), 8, || held.steps.borrow().len() == 3).await.unwrap_err();
        assert_eq!(failure.code, Code::Interrupted);
        assert_eq!(failure.cause, "interrupted; 12 keys had been deleted in the steps before");
        assert_eq!(held.keys.borrow().len(), 13);
    }

    #[tokio::test]
    async fn a_step_that_fails_says_how_far_it_got() {
        let held = Held { fails_after: 2, ..Held::new([1; 25], 8, 1000) };
        let failure = delete(&held, Range::all(), 8, || false).await.unwrap_err();
        assert_eq!(failure.code, Code::OutcomeUnknown);
        assert!(failure.cause.ends_with("; 8 keys had been deleted in the steps before"), "{}", failure.cause);
        assert_eq!(held.steps.borrow().len(), 2, "a step of unknown outcome was repeated");
    }
}
