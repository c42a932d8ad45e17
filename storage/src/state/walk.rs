//! Going through the keys of a range as they were at one revision.
//!
//! The latest revision is `current` and nothing else, however long the history is. An older revision R is a merge of two
//! cursors in key order. `history` *settles* a key if it has a row superseded after R: the first such row is what the key held at
//! R, if its mod revision is at most R; otherwise the key did not exist at R, and whatever it holds today is younger still. A
//! key that history does not settle has not changed since R, or is newer: `current` knows, by its mod revision.

use super::engine::{Cursor, Snapshot, Table};
use super::error::{CorruptRow, ReadError};
use super::layout::{self, RecordHeader};
use crate::command::KeyRange;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// As of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The revision of the snapshot.
    Latest,
    /// An older one.
    Revision(u64),
}

/// What is called with the key, the header and the whole record of each pair, until it breaks off.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], RecordHeader, &[u8]) -> ControlFlow<()> + 'a;

/// Calls `visit` with key and record of every key in the range, in key order or in reverse, until it breaks off.
///
/// What was visited counts only if this returns `Ok`: a failing engine looks like the end of the range until it is asked.
pub(crate) fn walk<S: Snapshot>(
    snapshot: &S,
    range: KeyRange<'_>,
    reverse: bool,
    at: At,
    visit: &mut Visit<'_>,
) -> Result<(), ReadError> {
    if range.is_empty() {
        return Ok(());
    }
    match at {
        At::Latest => walk_latest(snapshot, range, reverse, visit),
        At::Revision(revision) => walk_revision(snapshot, range, reverse, revision, visit),
    }
}

fn walk_latest<S: Snapshot>(
    snapshot: &S,
    range: KeyRange<'_>,
    reverse: bool,
    visit: &mut Visit<'_>,
) -> Result<(), ReadError> {
    let mut cursor = snapshot.cursor(Table::Current, range.start, range.end);
    start(&mut cursor, reverse);
    while let Some((key, record)) = cursor.item() {
        let header = header(Table::Current, key, record)?;
        if visit(key, header, record).is_break() {
            break;
        }
        advance(&mut cursor, reverse);
    }
    Ok(cursor.check()?)
}

fn walk_revision<S: Snapshot>(
    snapshot: &S,
    range: KeyRange<'_>,
    reverse: bool,
    revision: u64,
    visit: &mut Visit<'_>,
) -> Result<(), ReadError> {
    let mut current = snapshot.cursor(Table::Current, range.start, range.end);
    start(&mut current, reverse);
    let mut history = HistoryWalk::new(snapshot, range, reverse, revision)?;
    loop {
        let order = match (current.item(), history.item()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some((settled, _))) if reverse => settled.cmp(key),
            (Some((key, _)), Some((settled, _))) => key.cmp(settled),
        };
        let (table, item) = match order {
            Ordering::Less => (Table::Current, current.item()),
            Ordering::Equal | Ordering::Greater => (Table::History, history.item()),
        };
        let (key, record) = item.expect("the side that comes first has an item");
        let header = header(table, key, record)?;
        if header.mod_revision <= revision && visit(key, header, record).is_break() {
            break;
        }
        if order.is_le() {
            advance(&mut current, reverse);
        }
        if order.is_ge() {
            history.advance()?;
        }
    }
    current.check()?;
    Ok(history.cursor.check()?)
}

fn start(cursor: &mut impl Cursor, reverse: bool) {
    if reverse { cursor.seek_last() } else { cursor.seek_first() }
}

fn advance(cursor: &mut impl Cursor, reverse: bool) {
    if reverse { cursor.previous() } else { cursor.next() }
}

fn header(table: Table, key: &[u8], record: &[u8]) -> Result<RecordHeader, CorruptRow> {
    RecordHeader::decode(record).map_err(|cause| CorruptRow::new(table, key, cause))
}

/// The keys that history settles at one revision, in order. Each costs two seeks, not its number of versions.
struct HistoryWalk<C> {
    cursor: C,
    reverse: bool,
    revision: u64,
    /// The settled key, if the cursor has an item.
    key: Vec<u8>,
    /// The same, escaped; also the memory for seek targets.
    escaped: Vec<u8>,
}

impl<C: Cursor> HistoryWalk<C> {
    fn new<'s, S: Snapshot<Cursor<'s> = C>>(
        snapshot: &'s S,
        range: KeyRange<'_>,
        reverse: bool,
        revision: u64,
    ) -> Result<HistoryWalk<C>, ReadError> {
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        layout::escape(range.start, &mut lower);
        let upper = range.end.map(|end| {
            layout::escape(end, &mut upper);
            &upper[..]
        });
        let cursor = snapshot.cursor(Table::History, &lower, upper);
        let mut walk = HistoryWalk { cursor, reverse, revision, key: Vec::new(), escaped: Vec::new() };
        start(&mut walk.cursor, reverse);
        walk.settle()?;
        Ok(walk)
    }

    /// The settled key and its row at the revision.
    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.item().map(|(_, record)| (&self.key[..], record))
    }

    /// Goes to the next settled key.
    fn advance(&mut self) -> Result<(), CorruptRow> {
        if self.reverse {
            self.cursor.seek_at_or_before(&self.escaped);
        } else {
            layout::after_all_rows(&mut self.escaped);
            self.cursor.seek(&self.escaped);
        }
        self.settle()
    }

    /// From the first row of a key (in reverse: the last one), goes to the row that settles it, or on to the next key that
    /// has one.
    fn settle(&mut self) -> Result<(), CorruptRow> {
        while let Some((row, _)) = self.cursor.item() {
            let corrupt = |cause| CorruptRow::new(Table::History, row, cause);
            let (escaped, superseded_at) = layout::split_history_key(row).map_err(corrupt)?;
            self.escaped.clear();
            self.escaped.extend_from_slice(escaped);
            let settled = superseded_at > self.revision;
            if settled {
                self.key.clear();
                layout::unescape(escaped, &mut self.key).map_err(corrupt)?;
            }
            match (settled, self.reverse) {
                (true, false) => return Ok(()),
                (true, true) => {
                    self.seek_first_after_revision();
                    return Ok(());
                }
                (false, false) => self.seek_first_after_revision(),
                (false, true) => self.cursor.seek_at_or_before(&self.escaped),
            }
        }
        Ok(())
    }

    fn seek_first_after_revision(&mut self) {
        let length = self.escaped.len();
        self.escaped.extend_from_slice(&self.revision.saturating_add(1).to_be_bytes());
        self.cursor.seek(&self.escaped);
        self.escaped.truncate(length);
    }
}

/// What one key held at a revision before its present value. Asked only if `current` does not know.
pub(crate) fn superseded_value<S: Snapshot>(
    snapshot: &S,
    key: &[u8],
    revision: u64,
) -> Result<Option<Bytes>, ReadError> {
    let mut lower = Vec::new();
    layout::history_key(key, revision.saturating_add(1), &mut lower);
    let mut upper = Vec::new();
    layout::escape(key, &mut upper);
    layout::after_all_rows(&mut upper);
    let mut cursor = snapshot.cursor(Table::History, &lower, Some(&upper));
    cursor.seek_first();
    let record = match cursor.item() {
        Some((row, record)) => {
            let header = header(Table::History, row, record)?;
            (header.mod_revision <= revision).then(|| Bytes::copy_from_slice(record))
        }
        None => None,
    };
    cursor.check()?;
    Ok(record)
}
