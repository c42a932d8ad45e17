//! The rows of the table `meta`: what is true of the state as a whole.
//!
//! | key | value |
//! |---|---|
//! | `format` | version of everything in the state (4) |
//! | `cluster` | the cluster's name, UTF-8 |
//! | `membership` | committed membership: three lists, each a count (4) and node ids (8): voters, outgoing voters, learners |
//! | `progress` | applied index (8), its term (8), revision (8), state hash (16) |
//! | `compacted` | the oldest revision that can be read (8) |
//!
//! `progress` is one row so that position, revision and hash cannot disagree; it is written in the same batch as the data it
//! speaks of.

use super::engine::Table;
use super::error::CorruptRow;
use super::layout::LayoutError;
use raft::{LogIndex, LogPosition, Membership, NodeId, Term};

/// The version of everything in the state that this program writes and reads.
pub const STATE_FORMAT: u32 = 1;

pub(crate) const FORMAT: &[u8] = b"format";
pub(crate) const CLUSTER: &[u8] = b"cluster";
pub(crate) const MEMBERSHIP: &[u8] = b"membership";
pub(crate) const PROGRESS: &[u8] = b"progress";
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

pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let mut row = Vec::new();
    for list in [membership.voters(), membership.voters_outgoing(), membership.learners()] {
        let count = u32::try_from(list.len()).expect("a group has a handful of members");
        row.extend_from_slice(&count.to_be_bytes());
        for id in list {
            row.extend_from_slice(&id.0.to_be_bytes());
        }
    }
    row
}

pub(crate) fn decode_membership(row: &[u8]) -> Result<Membership, CorruptRow> {
    let mut rest = row;
    let mut parse = || {
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for list in &mut lists {
            let count = take_u32(&mut rest)?;
            for _ in 0..count {
                list.push(NodeId(take_u64(&mut rest)?));
            }
        }
        let [voters, outgoing, learners] = lists;
        if !rest.is_empty() {
            return Err(LayoutError::Short { bytes: row.len() });
        }
        if !outgoing.is_empty() || !learners.is_empty() {
            return Err(LayoutError::Membership);
        }
        Ok(Membership::new(voters))
    };
    parse().map_err(|cause| CorruptRow::new(Table::Meta, MEMBERSHIP, cause))
}

pub(crate) fn decode_format(row: &[u8]) -> Result<u32, CorruptRow> {
    take_u32(&mut &*row).map_err(|cause| CorruptRow::new(Table::Meta, FORMAT, cause))
}

pub(crate) fn decode_cluster(row: &[u8]) -> Result<String, CorruptRow> {
    String::from_utf8(row.to_vec()).map_err(|_| CorruptRow::new(Table::Meta, CLUSTER, LayoutError::Text))
}

pub(crate) fn decode_compacted(row: &[u8]) -> Result<u64, CorruptRow> {
    take_u64(&mut &*row).map_err(|cause| CorruptRow::new(Table::Meta, COMPACTED, cause))
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, LayoutError> {
    let short = LayoutError::Short { bytes: rest.len() };
    let (number, after) = rest.split_first_chunk::<8>().ok_or(short)?;
    *rest = after;
    Ok(u64::from_be_bytes(*number))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, LayoutError> {
    let short = LayoutError::Short { bytes: rest.len() };
    let (number, after) = rest.split_first_chunk::<4>().ok_or(short)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

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
    fn membership_comes_back_and_an_unknown_one_is_refused() {
        let membership = Membership::new([1, 2, 3].map(NodeId));
        let row = encode_membership(&membership);
        assert_eq!(decode_membership(&row).unwrap(), membership);
        for length in 0..row.len() {
            assert!(decode_membership(&row[..length]).is_err(), "{length}");
        }
        let mut with_learner = row.clone();
        let last = row.len() - 1;
        with_learner[last] = 1;
        with_learner.extend_from_slice(&9u64.to_be_bytes());
        assert_eq!(decode_membership(&with_learner).unwrap_err().cause, LayoutError::Membership);
    }
}
