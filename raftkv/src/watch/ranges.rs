//! Ranges of keys, and which of them hold a key.
//!
//! A search tree in the order of where ranges start, in which each node knows how far the ranges below it reach. A search for the ranges
//! around a key leaves out every subtree that starts after the key or ends before it, so it costs the depth of the tree and the ranges found,
//! however many others there are. Balance is by chance: each node has a priority, parents before children (a treap), drawn from a sequence that
//! depends on nothing but the order of insertions. So the same calls build the same tree in a simulation.
//!
//! Each distinct range is there once, with everybody who asked for it.
//!
//! Absent: a bound on how deep it gets. With a thousand ranges more than sixty levels are as likely as losing a coin toss fifty times over.

use super::WatcherId;
use bytes::Bytes;
use std::cmp::Ordering;

/// A half-open range of keys; no end: to the last key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchedRange {
    /// The first key, inclusive.
    pub start: Bytes,
    /// The end, exclusive.
    pub end: Option<Bytes>,
}

impl WatchedRange {
    /// Whether the range holds the key.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The key, if the range holds one key and no room for another.
    pub(super) fn single_key(&self) -> Option<&Bytes> {
        let (last, key) = self.end.as_ref()?.split_last()?;
        (*last == 0 && *key == self.start[..] && !self.start.is_empty()).then_some(&self.start)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RangeTree {
    root: Subtree,
    random: u64,
}

type Subtree = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    range: WatchedRange,
    watchers: Vec<WatcherId>,
    priority: u64,
    /// The greatest end in this subtree; `None`: some range has none.
    reach: Option<Bytes>,
    left: Subtree,
    right: Subtree,
}

impl RangeTree {
    /// Adds a watcher of a range.
    pub(super) fn insert(&mut self, range: &WatchedRange, watcher: WatcherId) {
        if let Some(watchers) = watchers_of(&mut self.root, range) {
            return watchers.push(watcher);
        }
        self.random = scramble(self.random);
        let (range, reach) = (range.clone(), range.end.clone());
        let node = Node { range, watchers: vec![watcher], priority: self.random, reach, left: None, right: None };
        let (left, right) = split(self.root.take(), &node.range);
        self.root = join(join(left, Some(Box::new(node))), right);
    }

    /// Takes a watcher of a range away.
    pub(super) fn remove(&mut self, range: &WatchedRange, watcher: WatcherId) {
        let Some(watchers) = watchers_of(&mut self.root, range) else { return };
        watchers.retain(|known| *known != watcher);
        if watchers.is_empty() {
            self.root = without(self.root.take(), range);
        }
    }

    /// Calls `found` with every watcher of a range that holds the key.
    pub(super) fn around(&self, key: &[u8], found: &mut impl FnMut(WatcherId)) {
        around(self.root.as_deref(), key, found);
    }
}

fn around(subtree: Option<&Node>, key: &[u8], found: &mut impl FnMut(WatcherId)) {
    let Some(node) = subtree else { return };
    if node.reach.as_ref().is_some_and(|reach| &reach[..] <= key) {
        return;
    }
    around(node.left.as_deref(), key, found);
    // What starts after the key has only such on its right.
    if node.range.start[..] <= *key {
        if node.range.contains(key) {
            node.watchers.iter().for_each(|watcher| found(*watcher));
        }
        around(node.right.as_deref(), key, found);
    }
}

fn watchers_of<'a>(subtree: &'a mut Subtree, range: &WatchedRange) -> Option<&'a mut Vec<WatcherId>> {
    let node = subtree.as_deref_mut()?;
    match order(range, &node.range) {
        Ordering::Less => watchers_of(&mut node.left, range),
        Ordering::Equal => Some(&mut node.watchers),
        Ordering::Greater => watchers_of(&mut node.right, range),
    }
}

/// What comes before `range`, and what comes after it. The range itself is not there.
fn split(subtree: Subtree, range: &WatchedRange) -> (Subtree, Subtree) {
    let Some(mut node) = subtree else { return (None, None) };
    if order(&node.range, range).is_lt() {
        let (left, right) = split(node.right.take(), range);
        node.right = left;
        (Some(with_reach(node)), right)
    } else {
        let (left, right) = split(node.left.take(), range);
        node.left = right;
        (left, Some(with_reach(node)))
    }
}

/// One tree of two, of which all of the first comes before all of the second.
fn join(left: Subtree, right: Subtree) -> Subtree {
    match (left, right) {
        (None, other) | (other, None) => other,
        (Some(mut left), Some(right)) if left.priority >= right.priority => {
            left.right = join(left.right.take(), Some(right));
            Some(with_reach(left))
        }
        (Some(left), Some(mut right)) => {
            right.left = join(Some(left), right.left.take());
            Some(with_reach(right))
        }
    }
}

fn without(subtree: Subtree, range: &WatchedRange) -> Subtree {
    let mut node = subtree?;
    match order(range, &node.range) {
        Ordering::Less => node.left = without(node.left.take(), range),
        Ordering::Equal => return join(node.left.take(), node.right.take()),
        Ordering::Greater => node.right = without(node.right.take(), range),
    }
    Some(with_reach(node))
}

fn with_reach(mut node: Box<Node>) -> Box<Node> {
    let mut reach = node.range.end.clone();
    for child in [&node.left, &node.right].into_iter().flatten() {
        reach = match (reach, &child.reach) {
            (Some(own), Some(other)) => Some(own.max(other.clone())),
            (None, _) | (_, None) => None,
        };
    }
    node.reach = reach;
    node
}

/// By start, then by end, where no end comes last.
fn order(a: &WatchedRange, b: &WatchedRange) -> Ordering {
    a.start.cmp(&b.start).then_with(|| match (&a.end, &b.end) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    })
}

/// The next of a sequence that looks random (SplitMix64).
fn scramble(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    fn keys() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xff]), 0..4).prop_map(Bytes::from)
    }

    fn depth(subtree: &Subtree) -> usize {
        subtree.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
    }

    proptest! {
        #![proptest_config(Config { cases: 500, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Config::default() })]

        #[test]
        fn a_search_finds_exactly_the_ranges_around_a_key(
            ranges in prop::collection::vec((keys(), prop::option::of(keys())), 1..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            searched in prop::collection::vec(keys(), 1..20),
        ) {
            let mut tree = RangeTree::default();
            let mut known: Vec<(WatchedRange, WatcherId)> = Vec::new();
            for (number, (start, end)) in (0..).zip(ranges) {
                let (range, watcher) = (WatchedRange { start, end }, WatcherId(number));
                tree.insert(&range, watcher);
                known.push((range, watcher));
            }
            for index in removed {
                if !known.is_empty() {
                    let (range, watcher) = known.swap_remove(index.index(known.len()));
                    tree.remove(&range, watcher);
                }
            }
            for key in searched {
                let mut found = Vec::new();
                tree.around(&key, &mut |watcher| found.push(watcher));
                found.sort();
                let mut expected: Vec<WatcherId> =
                    known.iter().filter(|(range, _)| range.contains(&key)).map(|(_, watcher)| *watcher).collect();
                expected.sort();
                prop_assert_eq!(found, expected, "around {:?}", key);
            }
        }
    }

    #[test]
    fn ranges_in_ascending_order_do_not_make_a_list_of_the_tree() {
        let mut tree = RangeTree::default();
        for number in 0..4096u64 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            tree.insert(&WatchedRange { start, end: None }, WatcherId(number));
        }
        assert!(depth(&tree.root) < 60, "{} levels", depth(&tree.root));
    }

    #[test]
    fn a_range_of_one_key_is_told_from_others() {
        let range = |start: &'static str, end: Option<&'static str>| WatchedRange {
            start: start.into(),
            end: end.map(Bytes::from),
        };
        assert_eq!(range("k", Some("k\0")).single_key().map(|key| &key[..]), Some(&b"k"[..]));
        for other in [range("k", Some("l")), range("k", None), range("", Some("\0")), range("k", Some("j\0"))] {
            assert_eq!(other.single_key(), None, "{other:?}");
        }
    }
}
