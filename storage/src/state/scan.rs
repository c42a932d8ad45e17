//! A scan: a range of keys at one revision, read in parts.
//!
//! Each part is read through a snapshot of its own, at the scan's revision, and copied. History makes the parts fit together:
//! a key that changes between two parts is found in `history` by the second one. So a slow client holds neither a snapshot
//! (which would keep RocksDB from dropping what is dead) nor more memory than one part, and a scan may be kept, sent between threads
//! and forgotten. The price: if history is compacted beyond the revision while the scan is under way, it ends with
//! [`ReadError::Compacted`].

use super::engine::Engine;
use super::error::ReadError;
use super::layout::{KeyValue, RECORD_HEADER_BYTES};
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
}

/// Key-value pairs in key order, or in reverse. Ends after the first error.
#[derive(Debug)]
pub struct Scan<E: Engine = RocksEngine> {
    reader: StateReader<E>,
    /// What is left to read; the revision is set once the first part is read.
    left: ScanOptions,
    revision: u64,
    part: VecDeque<KeyValue>,
    complete: bool,
    limited: bool,
}

impl<E: Engine> Scan<E> {
    pub(crate) fn start(reader: StateReader<E>, options: ScanOptions) -> Result<Scan<E>, ReadError> {
        let mut scan =
            Scan { reader, left: options, revision: 0, part: VecDeque::new(), complete: false, limited: false };
        scan.read_part()?;
        Ok(scan)
    }

    /// The revision that the pairs are read at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the limit left pairs out. Known once the last pair has been returned.
    #[must_use]
    pub fn limited(&self) -> bool {
        self.limited
    }

    fn read_part(&mut self) -> Result<(), ReadError> {
        let Scan { reader, left, revision, part, complete, limited } = self;
        let limit = left.limit.unwrap_or(u64::MAX);
        let pairs_max = usize::try_from(limit).unwrap_or(usize::MAX).min(PART_PAIRS_MAX);
        let keys_only = left.keys_only;
        let mut bytes = 0;
        let range = KeyRange { start: &left.start, end: left.end.as_deref() };
        *complete = true;
        *revision = reader.walk(range, left.reverse, left.revision, &mut |key, header, record| {
            if part.len() >= pairs_max || bytes >= PART_BYTES {
                *complete = false;
                return ControlFlow::Break(());
            }
            let value = if keys_only { &[][..] } else { &record[RECORD_HEADER_BYTES..] };
            bytes += key.len() + value.len();
            part.push_back(KeyValue::new(Bytes::copy_from_slice(key), header, Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        left.revision = Some(*revision);
        if let Some(limit) = &mut left.limit {
            *limit -= part.len() as u64;
            *limited = *limit == 0 && !*complete;
            *complete |= *limited;
        }
        if let Some(KeyValue { key, .. }) = part.back() {
            if left.reverse {
                left.end = Some(key.clone());
            } else {
                left.start = [&key[..], &[0]].concat().into();
            }
        }
        Ok(())
    }
}

impl<E: Engine> Iterator for Scan<E> {
    type Item = Result<KeyValue, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.part.is_empty()
            && !self.complete
            && let Err(error) = self.read_part()
        {
            self.part.clear();
            self.complete = true;
            return Some(Err(error));
        }
        self.part.pop_front().map(Ok)
    }
}

impl<E: Engine> FusedIterator for Scan<E> {}
