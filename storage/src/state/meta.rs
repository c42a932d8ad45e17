//! The rows of the table `meta`: what is true of the state as a whole.
//!
//! | key | value |
//! |---|---|
//! | `format` | the format in effect (4): see `format.rs` |
//! | `time` | the cluster's time in milliseconds since 1970 (8); missing before the first batch that carries one |
//! | `cluster` | the cluster's name, UTF-8 |
//! | `bootstrap` | the membership this state was set up with, as [`Membership::encode`] lays it out |
//! | `membership` | the newest membership applied, as its log entry carries it; missing before the first one |
//! | `progress` | applied index (8), its term (8), revision (8), state hash (16) |
//! | `compacted` | the oldest revision that can be read (8) |
//! | `lease…` | leases: see `lease.rs` |
//! | `session…` | sessions: see `session.rs` |
//!
//! `progress` is one row so that position, revision and hash cannot disagree; it is written in the same batch as the data it
//! speaks of.
//!
//! `bootstrap` is the one row that may differ between nodes at the same position: founders start with the members that found the
//! group, a node that joins later with nobody. So no hash covers it, and `membership` rules as soon as it is there.

use super::engine::Table;
use super::error::CorruptRow;
use super::layout::LayoutError;
use bytes::Bytes;
use raft::{LogIndex, LogPosition, Membership, Term};

pub(crate) const FORMAT: &[u8] = b"format";
pub(crate) const CLUSTER: &[u8] = b"cluster";
pub(crate) const BOOTSTRAP: &[u8] = b"bootstrap";
pub(crate) const MEMBERSHIP: &[u8] = b"membership";
pub(crate) const PROGRESS: &[u8] = b"progress";
pub(crate) const TIME: &[u8] = b"time";
pub(crate) const COMPACTED: &[u8] = b"compacted";

const PROGRESS_BYTES: usize = 40;

/// How far the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The last entry applied.
    pub(crate) applied: LogPosition,
    /// The last revision given out.
    pub(crate) revision: u64,
    /// The hash over everything applied, entry by entry.
    pub(crate) state_hash: [u8; 16],
}

impl Progress {
    /// An empty state is at revision 1, as in etcd: the first write gets 2.
    pub(crate) const EMPTY: Progress =
        Progress { applied: LogPosition { term: Term::ZERO, index: LogIndex::ZERO }, revision: 1, state_hash: [0; 16] };

    pub(crate) fn encode(&self) -> [u8; PROGRESS_BYTES] {
        let mut row = [0; PROGRESS_BYTES];
        row[..8].copy_from_slice(&self.applied.index.0.to_be_bytes());
        row[8..16].copy_from_slice(&self.applied.term.0.to_be_bytes());
        row[16..24].copy_from_slice(&self.revision.to_be_bytes());
        row[24..].copy_from_slice(&self.state_hash);
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Progress, CorruptRow> {
        let mut rest = row;
        let mut parse = || {
            let index = LogIndex(take_u64(&mut rest)?);
            let term = Term(take_u64(&mut rest)?);
            let revision = take_u64(&mut rest)?;
            let state_hash = rest.try_into().map_err(|_| LayoutError::Short { bytes: row.len() })?;
            Ok(Progress { applied: LogPosition { term, index }, revision, state_hash })
        };
        parse().map_err(|cause| CorruptRow::new(Table::Meta, PROGRESS, cause))
    }
}

/// The membership in the row `key`.
pub(crate) fn decode_membership(key: &[u8], row: &Bytes) -> Result<Membership, CorruptRow> {
    Membership::decode(row).map_err(|cause| CorruptRow::new(Table::Meta, key, LayoutError::Membership(cause)))
}

pub(crate) fn decode_format(row: &[u8]) -> Result<u32, CorruptRow> {
    take_u32(&mut &*row).map_err(|cause| CorruptRow::new(Table::Meta, FORMAT, cause))
}

pub(crate) fn decode_time(row: &[u8]) -> Result<u64, CorruptRow> {
    take_u64(&mut &*row).map_err(|cause| CorruptRow::new(Table::Meta, TIME, cause))
}

pub(crate) fn decode_cluster(row: &[u8]) -> Result<String, CorruptRow> {
    String::from_utf8(row.to_vec()).map_err(|_| CorruptRow::new(Table::Meta, CLUSTER, LayoutError::Text))
}

pub(crate) fn decode_u64(key: &[u8], row: &[u8]) -> Result<u64, CorruptRow> {
    take_u64(&mut &*row).map_err(|cause| CorruptRow::new(Table::Meta, key, cause))
}

/// The key of a row of which there is one for each number.
pub(crate) fn numbered(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

/// The number at the end of such a key.
pub(crate) fn number_after(prefix: &[u8], row_key: &[u8]) -> Result<u64, LayoutError> {
    let short = LayoutError::Short { bytes: row_key.len() };
    let number = row_key.strip_prefix(prefix).ok_or(short)?;
    Ok(u64::from_be_bytes(number.try_into().map_err(|_| short)?))
}

/// The first key after all that begin with `prefix`, of which not every byte is `ff`.
pub(crate) fn after(prefix: &[u8]) -> Vec<u8> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX).expect("the names of rows are text");
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    after
}

pub(crate) fn take_u64(rest: &mut &[u8]) -> Result<u64, LayoutError> {
    let short = LayoutError::Short { bytes: rest.len() };
    let (number, after) = rest.split_first_chunk::<8>().ok_or(short)?;
    *rest = after;
    Ok(u64::from_be_bytes(*number))
}

pub(crate) fn take_u32(rest: &mut &[u8]) -> Result<u32, LayoutError> {
    let short = LayoutError::Short { bytes: rest.len() };
    let (number, after) = rest.split_first_chunk::<4>().ok_or(short)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use raft::NodeId;

    #[test]
    fn progress_comes_back() {
        let progress = Progress {
            applied: LogPosition { term: Term(3), index: LogIndex(77) },
            revision: 12,
            state_hash: *b"0123456789abcdef",
        };
        assert_eq!(Progress::decode(&progress.encode()).unwrap(), progress);
        for length in 0..PROGRESS_BYTES {
            assert!(Progress::decode(&progress.encode()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn membership_comes_back_and_a_cut_one_is_refused() {
        let membership = Membership::new([1, 2, 3].map(NodeId)).with_context(Bytes::from_static(b"names"));
        let row = membership.encode();
        assert_eq!(decode_membership(MEMBERSHIP, &row).unwrap(), membership);
        for length in 0..row.len() {
            let error = decode_membership(BOOTSTRAP, &row.slice(..length)).unwrap_err();
            assert_eq!((error.table, &error.key[..]), (Table::Meta, BOOTSTRAP), "{length}");
        }
    }
}
