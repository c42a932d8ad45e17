//! A scan: a range of keys at one revision, read in parts.
//!
//! Each part is read through a snapshot of its own, at the scan's revision, and copied. History makes the parts fit together:
//! a key that changes between two parts is found in `history` by the second one. So a slow client holds neither a snapshot
//! nor more memory than one part, and a scan may be kept, sent between threads and forgotten. What it does hold is its revision (`hold`): if history is
//! compacted beyond that meanwhile, what the scan has still to read stays on this node. Not for ever: after [`HOLD_TIME_MAX`](super::HOLD_TIME_MAX) it may
//! end with [`ReadError::Compacted`] all the same.
//!
//! A filter on revisions leaves pairs out while they are read. A part ends after so many pairs looked at, so a filter that nothing passes holds no
//! snapshot for long either.

use super::engine::Engine;
use super::error::ReadError;
use super::hold::Hold;
use super::layout::{KeyValue, RECORD_HEADER_BYTES};
use super::range::RevisionFilter;
use super::reader::StateReader;
use super::rocks::RocksEngine;
use crate::command::KeyRange;
use bytes::Bytes;
use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::ops::ControlFlow;

/// Pairs read at a time, at most.
const PART_PAIRS_MAX: usize = 512;
/// A part ends once it has this many bytes, so it can exceed them by one pair.
const PART_BYTES: usize = 1 << 20;
/// Pairs looked at for one part, at most: those that are filtered out make it no larger, but keep its snapshot.
const PART_VISITED_MAX: usize = 16 << 10;

/// What to scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// The first key, inclusive.
    pub start: Bytes,
    /// The end, exclusive; `None`: to the last key.
    pub end: Option<Bytes>,
    /// From the last key to the first.
    pub reverse: bool,
    /// At most this many pairs.
    pub limit: Option<u64>,
    /// Leave the values out.
    pub keys_only: bool,
    /// As of this revision; `None`: the newest one.
    pub revision: Option<u64>,
    /// Only pairs with these revisions. The limit is of those.
    pub filter: RevisionFilter,
}

/// Key-value pairs in key order, or in reverse. Ends after the first error.
#[derive(Debug)]
pub struct Scan<E: Engine = RocksEngine> {
    /// Keeps what is left to read.
    hold: Hold<E>,
    left: ScanOptions,
    part: VecDeque<KeyValue>,
    complete: bool,
    limited: bool,
    /// Whether the first part is read: a scan that has a second one would displace what others read again and again.
    in_bulk: bool,
}

impl<E: Engine> Scan<E> {
    pub(crate) fn start(reader: &StateReader<E>, options: ScanOptions) -> Result<Scan<E>, ReadError> {
        let mut scan = Scan {
            hold: reader.hold(options.revision)?,
            left: options,
            part: VecDeque::new(),
            complete: false,
            limited: false,
            in_bulk: false,
        };
        scan.read_part()?;
        Ok(scan)
    }

    /// The revision that the pairs are read at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.hold.revision()
    }

    /// How many keys a range, this one's or another, holds at the same revision. Goes through all of them.
    pub fn count_range(&self, range: KeyRange<'_>) -> Result<u64, ReadError> {
        self.hold.count(range)
    }

    /// Whether the limit left pairs out. Known once the last pair has been returned.
    #[must_use]
    pub fn limited(&self) -> bool {
        self.limited
    }

    fn read_part(&mut self) -> Result<(), ReadError> {
        let Scan { hold, left, part, complete, limited, in_bulk } = self;
        let limit = left.limit.unwrap_or(u64::MAX);
        let pairs_max = usize::try_from(limit).unwrap_or(usize::MAX).min(PART_PAIRS_MAX);
        let (keys_only, filter) = (left.keys_only, left.filter);
        let (mut bytes, mut visited) = (0, 0);
        // The first key that belongs to the next part.
        let mut next_key = None;
        let range = KeyRange { start: &left.start, end: left.end.as_deref() };
        hold.walk(range, left.reverse, *in_bulk, &mut |key, header, record| {
            let is_wanted = filter.admits(header.mod_revision, header.create_revision);
            if (is_wanted && (part.len() >= pairs_max || bytes >= PART_BYTES)) || visited >= PART_VISITED_MAX {
                next_key = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            visited += 1;
            if is_wanted {
                let value = if keys_only { &[][..] } else { &record[RECORD_HEADER_BYTES..] };
                bytes += key.len() + value.len();
                part.push_back(KeyValue::new(Bytes::copy_from_slice(key), header, Bytes::copy_from_slice(value)));
            }
            ControlFlow::Continue(())
        })?;
        *in_bulk = true;
        *complete = next_key.is_none();
        // A part that ends for another reason leaves it open whether there is another pair: the next one finds out.
        let stopped_at_limit = part.len() >= pairs_max && visited < PART_VISITED_MAX;
        if let Some(limit) = &mut left.limit {
            *limit -= part.len() as u64;
            *limited = *limit == 0 && !*complete && stopped_at_limit;
            *complete |= *limited;
        }
        if let Some(key) = next_key {
            if left.reverse {
                left.end = Some([&key[..], &[0]].concat().into());
            } else {
                left.start = key;
            }
        }
        Ok(())
    }
}

impl<E: Engine> Iterator for Scan<E> {
    type Item = Result<KeyValue, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.part.is_empty() && !self.complete {
            if let Err(error) = self.read_part() {
                self.part.clear();
                self.complete = true;
                return Some(Err(error));
            }
        }
        self.part.pop_front().map(Ok)
    }
}

impl<E: Engine> FusedIterator for Scan<E> {}
