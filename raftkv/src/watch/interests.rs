//! Who wants to hear of a key.
//!
//! Single keys are in a hash map, all other ranges in a tree, so that a change costs what is found and not what there is: watchers of other keys are
//! not even looked at.

use super::WatcherId;
use super::ranges::{RangeTree, WatchedRange};
use bytes::Bytes;
use std::collections::HashMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Interests {
    keys: HashMap<Bytes, Vec<WatcherId>>,
    ranges: RangeTree,
}

impl Interests {
    /// A watcher comes.
    pub(super) fn insert(&mut self, range: &WatchedRange, watcher: WatcherId) {
        match range.single_key() {
            Some(key) => self.keys.entry(key.clone()).or_default().push(watcher),
            None => self.ranges.insert(range, watcher),
        }
    }

    /// A watcher goes.
    pub(super) fn remove(&mut self, range: &WatchedRange, watcher: WatcherId) {
        let Some(key) = range.single_key() else { return self.ranges.remove(range, watcher) };
        if let Some(watchers) = self.keys.get_mut(key) {
            watchers.retain(|known| *known != watcher);
            if watchers.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Calls `found` with everybody whose range holds the key.
    pub(super) fn around(&self, key: &[u8], mut found: impl FnMut(WatcherId)) {
        self.keys.get(key).into_iter().flatten().for_each(|watcher| found(*watcher));
        self.ranges.around(key, &mut found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ranges_are_found_together_and_leave_nothing_behind() {
        let key = WatchedRange { start: "a/1".into(), end: Some("a/1\0".into()) };
        let prefix = WatchedRange { start: "a/".into(), end: Some("a0".into()) };
        let all = WatchedRange { start: Bytes::new(), end: None };
        let mut interests = Interests::default();
        for (number, range) in (0..).zip([&key, &prefix, &all, &key]) {
            interests.insert(range, WatcherId(number));
        }
        let found = |interests: &Interests, key: &[u8]| {
            let mut found = Vec::new();
            interests.around(key, |watcher| found.push(watcher.0));
            found.sort_unstable();
            found
        };
        assert_eq!(found(&interests, b"a/1"), [0, 1, 2, 3]);
        assert_eq!(found(&interests, b"a/2"), [1, 2]);
        assert_eq!(found(&interests, b"b"), [2]);
        for (number, range) in (0..).zip([&key, &prefix, &all, &key]) {
            interests.remove(range, WatcherId(number));
        }
        assert_eq!(found(&interests, b"a/1"), [0; 0]);
        assert!(interests.keys.is_empty());
    }
}
