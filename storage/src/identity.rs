//! The data directory: whose it is, and that only one process uses it.
//!
//! `IDENTITY` says which cluster and which node everything in the directory belongs to; a node refuses any other. It is written
//! when the directory is first used, before anything else, and never changes. `LOCK` is held (flock) as long as the process
//! runs; the kernel releases it however the process ends, so it is never stale.
//!
//! If `IDENTITY` is missing where there is data, the directory is refused rather than given a new identity: a node that
//! comes back under its old name with somebody else's state, or with none, would break its promises.

use crate::state::{read_sealed, seal, sync_directory, write_durably};
use raft::NodeId;
use rustix::fs::{FlockOperation, flock};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The version of the data directory's layout that this program writes and reads.
pub const DIRECTORY_FORMAT: u32 = 1;

const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";
const TITLE: &str = "raftkv data directory";
/// Names that a directory without `IDENTITY` must not hold.
const DATA_NAMES: [&str; 3] = ["state", "log", "wal"];

/// Whose data it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name. One line.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

/// A data directory that this process, and no other, uses. Released when dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    /// Holds the lock.
    _lock: File,
}

/// The data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The file system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("the data directory {} is in use by {}: stop it first, or choose another directory", path.display(), describe_holder(*holder))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, if it has left its id.
        holder: Option<u32>,
    },
    /// There is an identity already.
    #[error("the data directory {} has been set up before", path.display())]
    AlreadyCreated {
        /// The directory.
        path: PathBuf,
    },
    /// There is no identity.
    #[error("the data directory {} has not been set up", path.display())]
    NotCreated {
        /// The directory.
        path: PathBuf,
    },
    /// There is data, but nothing that says whose.
    #[error("{} exists, but the identity file {} beside it is missing: nothing says whose data it is; restore the file, or choose an empty directory", found.display(), identity.display())]
    IdentityMissing {
        /// The file that is missing.
        identity: PathBuf,
        /// Data that is there.
        found: PathBuf,
    },
    /// The identity file is not what this program writes.
    #[error("the identity file {} is damaged; nothing was changed; restore the file from a backup; otherwise leave this node stopped, do not start it with an empty directory, and see \"A damaged node\" in docs/operations.md", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The directory has another layout.
    #[error("the data directory {} has format version {found}, this program knows version {known}: run the version of raftkv that wrote it", path.display())]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version this program knows.
        known: u32,
    },
    /// It is another cluster's.
    #[error("the data directory {} belongs to cluster {found:?}, not to {expected:?}: check data directory and certificate in the configuration", path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster that was expected.
        expected: String,
        /// The cluster found.
        found: String,
    },
    /// It is another node's.
    #[error("the data directory {} belongs to node {found}, not to node {expected}: check data directory and certificate in the configuration", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The node that was expected.
        expected: NodeId,
        /// The node found.
        found: NodeId,
    },
    /// A cluster's name must fit on one line.
    #[error("the cluster name {cluster:?} is empty or has control characters in it")]
    ClusterName {
        /// The name.
        cluster: String,
    },
}

impl DataDirectory {
    /// Sets a new directory up, making it if it does not exist. Its parent must.
    pub fn create(path: &Path, identity: &Identity) -> Result<DataDirectory, DirectoryError> {
        let lock = lock(path)?;
        if identity_path_exists(path)? {
            return Err(DirectoryError::AlreadyCreated { path: path.to_path_buf() });
        }
        DataDirectory::set_up(path, identity, lock)
    }

    /// Opens a directory that must be `expected`'s.
    pub fn open(path: &Path, expected: &Identity) -> Result<DataDirectory, DirectoryError> {
        if !identity_path_exists(path)? {
            return Err(missing_identity(path));
        }
        let lock = lock(path)?;
        DataDirectory::open_locked(path, expected, lock)
    }

    /// Opens a directory that must be `expected`'s, or sets it up if it has never been used.
    pub fn open_or_create(path: &Path, expected: &Identity) -> Result<DataDirectory, DirectoryError> {
        let lock = lock(path)?;
        if identity_path_exists(path)? {
            DataDirectory::open_locked(path, expected, lock)
        } else {
            DataDirectory::set_up(path, expected, lock)
        }
    }

    /// Whose directory it is, without using it.
    pub fn identity_of(path: &Path) -> Result<Identity, DirectoryError> {
        if identity_path_exists(path)? { read_identity(path) } else { Err(missing_identity(path)) }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn set_up(path: &Path, identity: &Identity, lock: File) -> Result<DataDirectory, DirectoryError> {
        if identity.cluster.is_empty() || identity.cluster.contains(char::is_control) {
            return Err(DirectoryError::ClusterName { cluster: identity.cluster.clone() });
        }
        if let missing @ DirectoryError::IdentityMissing { .. } = missing_identity(path) {
            return Err(missing);
        }
        write_durably(path, IDENTITY, encode(identity).as_bytes()).map_err(io_error("write", &path.join(IDENTITY)))?;
        Ok(DataDirectory { path: path.to_path_buf(), identity: identity.clone(), _lock: lock })
    }

    fn open_locked(path: &Path, expected: &Identity, lock: File) -> Result<DataDirectory, DirectoryError> {
        let found = read_identity(path)?;
        let path = path.to_path_buf();
        if found.cluster != expected.cluster {
            let (expected, found) = (expected.cluster.clone(), found.cluster);
            return Err(DirectoryError::OtherCluster { path, expected, found });
        }
        if found.node != expected.node {
            return Err(DirectoryError::OtherNode { path, expected: expected.node, found: found.node });
        }
        Ok(DataDirectory { path, identity: found, _lock: lock })
    }
}

fn encode(identity: &Identity) -> String {
    let mut text = format!("{TITLE}\nformat = {DIRECTORY_FORMAT}\n");
    write!(text, "cluster = {}\nnode = {}\n", identity.cluster, identity.node)
        .expect("writing to a string cannot fail");
    seal(&text)
}

fn read_identity(path: &Path) -> Result<Identity, DirectoryError> {
    let file = path.join(IDENTITY);
    let text = read_sealed(&file).map_err(io_error("read", &file))?;
    let text = text.as_deref().and_then(|text| text.strip_prefix(TITLE)?.strip_prefix('\n'));
    let mut lines = text.unwrap_or_default().lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(" = ").map(str::to_owned);
    let mut parse = || {
        let format = field("format")?.parse::<u32>().ok()?;
        if format != DIRECTORY_FORMAT {
            return Some(Err(format));
        }
        let cluster = field("cluster")?;
        let node = NodeId(field("node")?.parse().ok()?);
        Some(Ok(Identity { cluster, node }))
    };
    match parse() {
        Some(Ok(identity)) => Ok(identity),
        Some(Err(found)) => {
            Err(DirectoryError::UnknownFormat { path: path.to_path_buf(), found, known: DIRECTORY_FORMAT })
        }
        None => Err(DirectoryError::Damaged { path: file }),
    }
}

/// Takes the lock, and leaves this process's id in the file for whoever is refused.
fn lock(path: &Path) -> Result<File, DirectoryError> {
    if !path.try_exists().map_err(io_error("look at", path))? {
        fs::create_dir(path).map_err(io_error("create", path))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(io_error("fsync", parent))?;
        }
    }
    let file_path = path.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&file_path).map_err(io_error("open", &file_path))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error("lock", &file_path)(error.into()));
        }
        let mut text = String::new();
        // Whoever holds the lock may be about to write its id: then nothing, or nonsense, is there.
        let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
        return Err(DirectoryError::InUse { path: path.to_path_buf(), holder });
    }
    let mut write_id = || {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    };
    write_id().map_err(io_error("write", &file_path))?;
    Ok(file)
}

fn describe_holder(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"))
}

fn identity_path_exists(path: &Path) -> Result<bool, DirectoryError> {
    let file = path.join(IDENTITY);
    file.try_exists().map_err(io_error("look at", &file))
}

fn missing_identity(path: &Path) -> DirectoryError {
    let found = DATA_NAMES.iter().map(|name| path.join(name)).find(|found| found.exists());
    match found {
        Some(found) => DirectoryError::IdentityMissing { identity: path.join(IDENTITY), found },
        None => DirectoryError::NotCreated { path: path.to_path_buf() },
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_path_buf();
    move |source| DirectoryError::Io { operation, path, source }
}
