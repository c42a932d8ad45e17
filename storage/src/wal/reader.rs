//! Reading entries back while the log is written: index under a lock, files without one.

use super::ReadEntries;
use super::contents::{Contents, RecordItem};
use super::error::{Damage, LogError};
use super::format::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, decode_entries};
use bytes::Bytes;
use raft::{Entry, LogRange};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The first failure of a log. Once there is one, nothing works any more.
#[derive(Debug, Default)]
pub(super) struct Poison {
    first: OnceLock<(&'static str, PathBuf, io::ErrorKind)>,
}

impl Poison {
    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.first.get() {
            None => Ok(()),
            Some((operation, file, kind)) => Err(LogError::Poisoned { operation, file: file.clone(), kind: *kind }),
        }
    }

    /// Keeps `error` if it is the first failure. A refusal is none.
    pub(super) fn record(&self, error: &LogError) {
        let cause = match error {
            LogError::Compacted { .. } | LogError::NotWritten { .. } | LogError::Poisoned { .. } => return,
            LogError::DiskFull { operation, file, source } | LogError::Io { operation, file, source } => {
                (*operation, file.clone(), source.kind())
            }
            LogError::Damaged { file, .. } => ("read back", file.clone(), io::ErrorKind::InvalidData),
        };
        // Only the first failure counts; a later one loses here.
        let _ = self.first.set(cause);
    }
}

/// What the log and its readers share.
#[derive(Debug)]
pub(super) struct Shared {
    contents: RwLock<Contents>,
    pub(super) poison: Arc<Poison>,
}

impl Shared {
    pub(super) fn new(contents: Contents, poison: Arc<Poison>) -> Shared {
        Shared { contents: RwLock::new(contents), poison }
    }

    /// Locks are held for look-ups and for changes checked beforehand, so a panic elsewhere leaves whole contents behind.
    pub(super) fn contents(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn contents_mut(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, range: LogRange, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let items = {
            let contents = self.contents();
            if range.first <= contents.start.index {
                return Err(LogError::Compacted { first: range.first, start: contents.start.index });
            } else if range.first > contents.last {
                return Err(LogError::NotWritten { first: range.first, last: contents.last });
            }
            contents.items(range, bytes_max)
        };
        let mut bytes = 0;
        let mut entries: Vec<Entry> = Vec::new();
        'items: for item in &items {
            for entry in read_item(item)?.into_iter().skip_while(|entry| entry.index < range.first) {
                bytes += entry.payload.len();
                if entry.index > range.last || (bytes > bytes_max && !entries.is_empty()) {
                    break 'items;
                }
                entries.push(entry);
            }
        }
        assert_eq!(entries.first().map(|entry| entry.index), Some(range.first), "a read begins where it was asked to");
        Ok(entries)
    }
}

/// The entries of a record that are still part of the log.
fn read_item(item: &RecordItem) -> Result<Vec<Entry>, LogError> {
    let segment = &item.segment;
    let damaged = |damage| LogError::Damaged { file: segment.path.clone(), offset: item.offset, damage };
    let mut bytes = vec![0; usize::try_from(item.span).expect("a record fits in memory")];
    segment.file.read_at(&mut bytes, item.offset).map_err(|source| LogError::io("read", &segment.path, source))?;
    let header = bytes[..RECORD_HEADER_BYTES].try_into().expect("a record is longer than its header");
    let header = RecordHeader::decode(header, segment.header.epoch, item.offset).map_err(damaged)?;
    if header.kind != RecordKind::Entries || header.first_index != item.first || header.span() != item.span {
        return Err(damaged(Damage::Malformed { reason: "not the record that was indexed" }));
    }
    let body = Bytes::from(bytes);
    let body = body.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_bytes as usize);
    if crc32c::crc32c(&body) != header.body_checksum {
        return Err(damaged(Damage::Body));
    }
    let mut entries = decode_entries(&body, header.first_index, header.count).map_err(damaged)?;
    assert!(item.count <= header.count, "an item of {} entries for a record of {}", item.count, header.count);
    entries.truncate(item.count as usize);
    Ok(entries)
}

impl ReadEntries for Shared {
    fn entries(&self, range: LogRange, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        self.poison.check()?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        // A segment may have been recycled under the first read. Then the entries are gone or stand elsewhere, and nothing is damaged: what
        // counts is the second look.
        self.read(range, bytes_max)
            .or_else(|_| self.read(range, bytes_max))
            .inspect_err(|error| self.poison.record(error))
    }
}
