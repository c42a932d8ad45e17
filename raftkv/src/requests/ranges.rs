//! Reading ranges for clients: what a scan's options mean, and its answer in pieces.
//!
//! In key order the range is read as the pieces are asked for, a part at a time (`storage::state::Scan`), and nothing is held open in between. Any other
//! order needs all pairs before the first can be given out. They are held in memory, with a limit no more than so many, and never
//! more than [`SORTED_BYTES_MAX`]: what would take more is refused, with the way round it.

use super::{ReadLevel, Refused, error, key_value};
use std::iter::FusedIterator;
use storage::command::{KeyRange, RangeRead, SortBy};
use storage::state::{
    Engine, KeyValue, RangeOutcome, ReadError, RevisionFilter, RocksEngine, Scan, ScanOptions, StateReader,
};
use transport::proto::client as wire;
use wire::ErrorCode;

/// Bytes of keys and values in one piece, about; a single larger pair makes a piece of its own.
const PIECE_BYTES: usize = 64 << 10;
/// Pairs in one piece.
const PIECE_PAIRS_MAX: usize = 512;
/// What a pair takes beside its key and value, about.
const PAIR_OVERHEAD_BYTES: usize = 32;
/// What one scan that is sorted by something else than the key may hold in memory.
const SORTED_BYTES_MAX: u64 = 64 << 20;

/// Whether the state is far enough for a stale read that says from which revision on it is fresh enough. `revision` is the state's.
///
/// # Errors
/// When it is not there yet: the client may wait, or ask another node. When the read is of a level that is never stale.
pub fn check_state(level: ReadLevel, revision_min: Option<u64>, revision: u64) -> Result<(), Refused> {
    let Some(least) = revision_min else { return Ok(()) };
    match level {
        ReadLevel::Linearizable | ReadLevel::Lease => Err(error(
            ErrorCode::Invalid,
            "a least revision is given for a read that is never old; ask for level stale",
        )),
        ReadLevel::Stale { .. } if least > revision => {
            let message = format!(
                "the state of this node is at revision {revision}, before {least}; wait a moment, or ask another node"
            );
            Err(error(ErrorCode::Unavailable, message))
        }
        ReadLevel::Stale { .. } => Ok(()),
    }
}

/// Whether all pairs of a scan are held in memory until the last one is given out.
pub(crate) fn is_sorted(request: &wire::ScanRequest) -> bool {
    !request.count_only && sort_by(request.sort_by()) != SortBy::Key
}

/// The answers to a scan, piece by piece, once the state may be read. Ends after the first error: when the revision cannot be read any more, or the
/// engine fails.
#[derive(Debug)]
pub struct ScanReplies<E: Engine = RocksEngine> {
    range: wire::KeyRange,
    /// The newest when the scan began.
    newest: u64,
    pairs: Pairs<E>,
    /// Given out so far; of a scan that only counts, what it has counted.
    count: u64,
    count_total: bool,
    ended: bool,
}

#[derive(Debug)]
enum Pairs<E: Engine> {
    None,
    ByKey(Scan<E>),
    Sorted { rest: std::vec::IntoIter<KeyValue>, more: bool, total: u64 },
}

impl<E: Engine> ScanReplies<E> {
    /// Begins a scan.
    ///
    /// # Errors
    /// When the revision cannot be read, or the engine fails. When pairs are to be sorted and are too many.
    pub fn new(
        reader: &StateReader<E>,
        range: &wire::KeyRange,
        request: &wire::ScanRequest,
    ) -> Result<ScanReplies<E>, ReadError> {
        let bounds = KeyRange { start: &range.start, end: range.end.as_deref() };
        let (revision, pairs, count) = if request.count_only {
            let revision = request.revision.unwrap_or_else(|| reader.revision());
            (revision, Pairs::None, reader.count(bounds, Some(revision))?)
        } else if is_sorted(request) {
            let (revision, outcome) =
                reader.range(&range_read(bounds, request), request.count_total, SORTED_BYTES_MAX)?;
            let RangeOutcome { pairs, count, more } = outcome;
            (revision, Pairs::Sorted { rest: pairs.into_iter(), more, total: count }, 0)
        } else {
            let scan = reader.scan(scan_options(range, request))?;
            (scan.revision(), Pairs::ByKey(scan), 0)
        };
        // Read after the scan has begun: a revision asked for that could be read is not after it.
        let newest = if request.revision.is_some() { reader.revision() } else { revision };
        let (range, count_total) = (range.clone(), request.count_total);
        Ok(ScanReplies { range, newest, pairs, count, count_total, ended: false })
    }

    /// The next piece, which may be the last.
    fn piece(&mut self) -> Result<wire::ScanReply, ReadError> {
        let (mut kvs, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES && kvs.len() < PIECE_PAIRS_MAX {
            let Some(kv) = self.pairs.next()? else { return self.last(kvs) };
            bytes += kv.key.len() + kv.value.len() + PAIR_OVERHEAD_BYTES;
            kvs.push(key_value(kv));
        }
        self.count += kvs.len() as u64;
        Ok(wire::ScanReply { header: self.header(), kvs, last: false, count: 0, more: false, total: None })
    }

    fn last(&mut self, kvs: Vec<wire::KeyValue>) -> Result<wire::ScanReply, ReadError> {
        self.ended = true;
        let count = self.count + kvs.len() as u64;
        let (more, total) = match &self.pairs {
            Pairs::None => (false, count),
            Pairs::Sorted { more, total, .. } => (*more, *total),
            Pairs::ByKey(scan) => {
                let bounds = KeyRange { start: &self.range.start, end: self.range.end.as_deref() };
                (scan.limited(), if self.count_total { scan.count_range(bounds)? } else { 0 })
            }
        };
        let total = self.count_total.then_some(total);
        Ok(wire::ScanReply { header: self.header(), kvs, last: true, count, more, total })
    }

    fn header(&self) -> Option<wire::Header> {
        Some(wire::Header { revision: self.newest, index: 0 })
    }
}

impl<E: Engine> Iterator for ScanReplies<E> {
    type Item = Result<wire::ScanReply, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = self.piece();
        self.ended |= piece.is_err();
        Some(piece)
    }
}

impl<E: Engine> FusedIterator for ScanReplies<E> {}

impl<E: Engine> Pairs<E> {
    fn next(&mut self) -> Result<Option<KeyValue>, ReadError> {
        match self {
            Pairs::None => Ok(None),
            Pairs::ByKey(scan) => scan.next().transpose(),
            Pairs::Sorted { rest, .. } => Ok(rest.next()),
        }
    }
}

fn scan_options(range: &wire::KeyRange, request: &wire::ScanRequest) -> ScanOptions {
    ScanOptions {
        start: range.start.clone(),
        end: range.end.clone(),
        reverse: request.reverse || request.descending,
        limit: limit(request),
        keys_only: request.keys_only,
        revision: request.revision,
        filter: RevisionFilter {
            mod_revision_min: request.mod_revision_min,
            mod_revision_max: request.mod_revision_max,
            create_revision_min: request.create_revision_min,
            create_revision_max: request.create_revision_max,
        },
    }
}

fn range_read<'a>(range: KeyRange<'a>, request: &wire::ScanRequest) -> RangeRead<'a> {
    RangeRead {
        revision: request.revision,
        limit: limit(request),
        sort_by: sort_by(request.sort_by()),
        descending: request.descending || request.reverse,
        keys_only: request.keys_only,
        mod_revision_min: request.mod_revision_min,
        mod_revision_max: request.mod_revision_max,
        create_revision_min: request.create_revision_min,
        create_revision_max: request.create_revision_max,
        ..RangeRead::all_of(range)
    }
}

fn limit(request: &wire::ScanRequest) -> Option<u64> {
    (request.limit > 0).then_some(request.limit)
}

fn sort_by(wire: wire::SortBy) -> SortBy {
    match wire {
        wire::SortBy::Key => SortBy::Key,
        wire::SortBy::Version => SortBy::Version,
        wire::SortBy::CreateRevision => SortBy::CreateRevision,
        wire::SortBy::ModRevision => SortBy::ModRevision,
        wire::SortBy::Value => SortBy::Value,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use crate::requests::read_failed;
    use bytes::Bytes;
    use raft::{Entry, EntryKind, LogIndex, Membership, NodeId, Term};
    use storage::command::{BatchEncoder, Command, Put};
    use storage::state::{Bootstrap, MemoryEngine, StateMachine};

    /// `a` to `e`, written at revisions 2 to 6 with the values 5 to 1; then `b` again at revision 7.
    fn state() -> StateReader<MemoryEngine> {
        let bootstrap = Bootstrap { cluster: "test".to_owned(), membership: Membership::new([NodeId(1)]) };
        let mut machine = StateMachine::open(MemoryEngine::new(), &bootstrap).unwrap();
        let mut encoder = BatchEncoder::new();
        for (key, value) in [("a", "5"), ("b", "4"), ("c", "3"), ("d", "2"), ("e", "1"), ("b", "4")] {
            encoder.append(&Command::Put(Put::new(key.as_bytes(), value.as_bytes())));
        }
        let payload = encoder.take();
        let entry = Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Command, payload };
        machine.apply(&[entry], &mut Vec::new()).unwrap();
        machine.reader()
    }

    fn scan(request: wire::ScanRequest) -> (Vec<String>, wire::ScanReply) {
        let range = wire::KeyRange { start: Bytes::new(), end: None };
        let replies = ScanReplies::new(&state(), &range, &request).unwrap();
        let mut replies = replies.collect::<Result<Vec<wire::ScanReply>, ReadError>>().unwrap();
        let keys = replies.iter().flat_map(|reply: &wire::ScanReply| &reply.kvs);
        let keys = keys.map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
        (keys, replies.pop().unwrap())
    }

    #[test]
    fn a_scan_is_sorted_as_asked_for() {
        let sorted = |sort_by: wire::SortBy, descending| {
            scan(wire::ScanRequest { sort_by: sort_by.into(), descending, ..wire::ScanRequest::default() }).0.concat()
        };
        assert_eq!(sorted(wire::SortBy::Key, false), "abcde");
        assert_eq!(sorted(wire::SortBy::Key, true), "edcba");
        assert_eq!(sorted(wire::SortBy::Value, false), "edcba");
        assert_eq!(sorted(wire::SortBy::ModRevision, true), "bedca");
        assert_eq!(sorted(wire::SortBy::CreateRevision, true), "edcba");
        assert_eq!(sorted(wire::SortBy::Version, true), "bacde", "equal ones come in key order");
    }

    #[test]
    fn filters_come_before_the_limit_and_the_total_before_both() {
        for sort_by in [wire::SortBy::Key, wire::SortBy::CreateRevision] {
            let request = wire::ScanRequest {
                sort_by: sort_by.into(),
                limit: 2,
                mod_revision_min: Some(4),
                create_revision_max: Some(5),
                count_total: true,
                ..wire::ScanRequest::default()
            };
            let (keys, last) = scan(request.clone());
            assert_eq!((keys.concat(), last.count, last.more, last.total), ("bc".to_owned(), 2, true, Some(5)));
            let (keys, last) = scan(wire::ScanRequest { limit: 3, count_total: false, ..request });
            assert_eq!((keys.concat(), last.count, last.more, last.total), ("bcd".to_owned(), 3, false, None));
        }
    }

    #[test]
    fn a_count_is_of_the_whole_range() {
        let request = wire::ScanRequest { count_only: true, mod_revision_min: Some(6), ..wire::ScanRequest::default() };
        let (keys, last) = scan(request);
        assert_eq!((keys.len(), last.count, last.more), (0, 5, false));
    }

    #[test]
    fn a_stale_read_can_ask_for_a_revision() {
        let stale = ReadLevel::Stale { age_max: None };
        assert!(check_state(stale, Some(7), 7).is_ok() && check_state(stale, None, 0).is_ok());
        let refusal = check_state(stale, Some(8), 7).unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::Unavailable);
        assert!(refusal.message.contains("revision 7, before 8"), "{}", refusal.message);
        assert_eq!(check_state(ReadLevel::Linearizable, Some(8), 7).unwrap_err().code(), ErrorCode::Invalid);
    }

    #[test]
    fn what_cannot_be_read_says_why_and_what_can() {
        let refusal = read_failed(&ReadError::Compacted { requested: 3, compacted: 9 });
        assert_eq!((refusal.code(), refusal.compacted), (ErrorCode::Compacted, Some(9)));
        let refusal = read_failed(&ReadError::Future { requested: 9, current: 3 });
        assert_eq!((refusal.code(), refusal.compacted), (ErrorCode::FutureRevision, None));
        let too_large = storage::state::SelectionTooLarge { bytes_max: 77 };
        let refusal = read_failed(&ReadError::TooLarge(too_large));
        assert_eq!((refusal.code(), refusal.limit), (ErrorCode::TooLarge, 77));
        assert!(refusal.message.contains("set a limit") && refusal.message.contains("sort by key"));
    }
}
