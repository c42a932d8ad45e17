//! What both ends of a snapshot transfer share: the manifest, the names of files, the source.
//!
//! A snapshot is a directory of plain files. The fetching node opens a connection of its own to the other node's peer port, so that
//! gigabytes share no window with appends. On it, one stream asks for the manifest, and then one stream per file asks for its
//! bytes from an offset on. While the connection lives, the sender keeps the files; when it ends, however it ends, they are released.

use crate::proto::peer as wire;
use raft::{LogPosition, NodeId};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Files in one snapshot.
pub const SNAPSHOT_FILES_MAX: usize = 65_536;

/// The longest manifest, in bytes: that many files with names of ordinary length.
pub(crate) const MANIFEST_BYTES_MAX: usize = 8 << 20;

/// The longest file name, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 128;

/// Pieces in which files are read and written.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name in the directory: letters, digits, `-`, `_` and `.`, and not only dots.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of the whole of it.
    pub crc32c: u32,
}

/// A snapshot that is kept for a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSnapshot {
    /// The last entry it holds.
    pub position: LogPosition,
    /// Names it towards [`SnapshotSource::release`].
    pub checkpoint: u64,
    /// Where its files are.
    pub directory: PathBuf,
    /// Its files: see [`describe_directory`].
    pub files: Vec<SnapshotFile>,
}

/// Gives out snapshots. The methods may block: they are called on threads where that is allowed.
pub trait SnapshotSource: Send + Sync {
    /// Opens a snapshot at least as new as `at_least`. Its files stay unchanged until [`SnapshotSource::release`].
    ///
    /// # Errors
    /// When there is none: the text goes to the asking node's log.
    fn open(&self, peer: NodeId, at_least: LogPosition) -> Result<OpenSnapshot, String>;

    /// The transfer is over, well or not. Called exactly once for each successful [`SnapshotSource::open`].
    fn release(&self, checkpoint: u64);
}

/// Lists the files of a directory with length and checksum. Blocks: it reads all of them.
///
/// # Errors
/// When the directory or a file cannot be read, or holds something that is not a plain file with an acceptable name.
pub fn describe_directory(directory: &Path) -> io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| is_file_name(name));
        let (Some(name), true) = (name, entry.file_type()?.is_file()) else {
            let what = format!("{} cannot be part of a snapshot", entry.path().display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        let (bytes, crc32c) = checksum(&mut File::open(entry.path())?)?;
        files.push(SnapshotFile { name, bytes, crc32c });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Length and CRC-32C of what is left to read.
pub(crate) fn checksum(from: &mut impl Read) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; PIECE_BYTES];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((bytes, crc)),
            count => {
                bytes += count as u64;
                crc = crc32c::crc32c_append(crc, &buffer[..count]);
            }
        }
    }
}

/// Whether a name from the other side may become a file's name here. What it could reach is this directory and no other.
pub(crate) fn is_file_name(name: &str) -> bool {
    (1..=FILE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && name.bytes().any(|byte| byte != b'.')
}

pub(crate) fn manifest_to_wire(snapshot: &OpenSnapshot) -> wire::SnapshotManifest {
    let files = snapshot.files.iter().map(|file| wire::SnapshotFile {
        name: file.name.clone(),
        bytes: file.bytes,
        crc32c: file.crc32c,
    });
    wire::SnapshotManifest {
        position: Some(crate::convert::position_to_wire(snapshot.position)),
        checkpoint: snapshot.checkpoint,
        files: files.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_no_names() {
        for name in ["000012.sst", "CURRENT", "MANIFEST-000004", "OPTIONS-000007", "a", "..a"] {
            assert!(is_file_name(name), "{name:?}");
        }
        let long = "a".repeat(129);
        for name in ["", ".", "..", "...", "a/b", "/a", "../a", "a\\b", "a\0", "a b", "ä", long.as_str()] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }
}
