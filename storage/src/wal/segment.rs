//! One segment file, and the names of files.

use super::disk::DiskFile;
use super::format::FileHeader;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A segment: a file whose header is valid and flushed.
pub(super) struct Segment {
    pub(super) header: FileHeader,
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).field("header", &self.header).finish_non_exhaustive()
    }
}

/// What a file in the log's directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileRole {
    /// A segment of the log, by sequence number.
    Segment(u64),
    /// Written before, of no meaning, ready to become a segment.
    Spare(u64),
    /// Being filled with zeros when the process ended.
    Unfinished,
    /// Not the log's: left alone.
    Other,
}

impl FileRole {
    pub(super) fn of(name: &str) -> FileRole {
        let number = |stem: &str| (stem.len() == 20).then(|| stem.parse::<u64>().ok()).flatten();
        match name.rsplit_once('.') {
            Some((stem, "wal")) => number(stem).map_or(FileRole::Other, FileRole::Segment),
            Some((stem, "spare")) => number(stem).map_or(FileRole::Other, FileRole::Spare),
            Some((stem, "tmp")) if number(stem).is_some() || stem == super::high_water::FILE => FileRole::Unfinished,
            _ => FileRole::Other,
        }
    }
}

pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:020}.wal")
}

pub(super) fn spare_name(number: u64) -> String {
    format!("{number:020}.spare")
}

pub(super) fn unfinished_name(sequence: u64) -> String {
    format!("{sequence:020}.tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_roles() {
        assert_eq!(FileRole::of(&segment_name(7)), FileRole::Segment(7));
        assert_eq!(FileRole::of(&spare_name(u64::MAX)), FileRole::Spare(u64::MAX));
        assert_eq!(FileRole::of(&unfinished_name(7)), FileRole::Unfinished);
        assert_eq!(FileRole::of("high-water"), FileRole::Other);
        assert_eq!(FileRole::of("7.wal"), FileRole::Other);
        assert_eq!(FileRole::of("notes.tmp"), FileRole::Other);
    }
}
