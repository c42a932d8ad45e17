//! The directory of the state: which database is the current one, and how a node switches to another.
//!
//! ```text
//! state/CURRENT     names the current database, sealed with a checksum
//! state/db-000001/  RocksDB
//! state/incoming/   a snapshot being received
//! ```
//!
//! `CURRENT` is the one thing that decides, and it is replaced atomically, so a crash leaves the old state or the new one, each
//! complete. Switching goes: fsync everything in `incoming`; rename it to the next number; open it; only then point `CURRENT` at
//! it. Before the last step a crash leaves an unnamed database, after it the old one is unnamed; unnamed databases
//! are removed when the store is opened, *after* the named one could be opened, and never because something is missing or damaged:
//! then opening fails and nothing is deleted.
//!
//! A new store is built in `state.creating` and appears under its name complete, so a `state` directory without `CURRENT` is
//! always damage.
//!
//! Caveat: the log is not touched here. A crash between a switch and the reset of the log leaves a state that is ahead of the
//! log, or a log that conflicts with it; whoever opens both compares positions. Nor does the store notice that the whole directory
//! is gone: it makes a new, empty state, whose position is behind the start of the log.

use super::durable::{read_sealed, seal, sync_directory, sync_tree, write_durably};
use super::engine::EngineError;
use super::error::StateError;
use super::machine::{Bootstrap, StateMachine};
use super::rocks::{RocksEngine, RocksOptions};
use raft::{LogPosition, Membership};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

const CURRENT: &str = "CURRENT";
const CURRENT_TITLE: &str = "raftkv state 1";
const INCOMING: &str = "incoming";
const DATABASE_PREFIX: &str = "db-";

/// The directory of the state.
#[derive(Debug)]
pub struct StateStore {
    directory: PathBuf,
    options: RocksOptions,
    /// The number of the current database.
    number: u64,
}

/// What a received snapshot holds, once every block of it has been read and its checksum verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingState {
    /// The last entry in it.
    pub position: LogPosition,
    /// The committed membership it carries.
    pub membership: Membership,
    /// Its chained hash: equal to that of any node at this position.
    pub state_hash: [u8; 16],
    /// The hash over its rows: equal to that of the checkpoint it was made from.
    pub content_hash: [u8; 16],
}

/// The store could not do what was asked. Nothing was deleted.
#[derive(Debug, Error)]
pub enum StoreError {
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
    /// The state in one of the databases cannot be used.
    #[error("the state in {} cannot be used: {source}", path.display())]
    State {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: StateError,
    },
    /// `CURRENT` is missing, or is not what this program writes.
    #[error("{} is missing or damaged, so it is unknown which state is the current one; nothing was deleted; leave this node stopped, do not start it with an empty directory, and see \"A damaged node\" in docs/operations.md", path.display())]
    CurrentDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The database that `CURRENT` names does not exist.
    #[error("the current state {} is missing; nothing was deleted; leave this node stopped, do not start it with an empty directory, and see \"A damaged node\" in docs/operations.md", path.display())]
    DatabaseMissing {
        /// The database.
        path: PathBuf,
    },
    /// No snapshot has been received.
    #[error("there is no received snapshot in {}", path.display())]
    NoIncoming {
        /// Where it would be.
        path: PathBuf,
    },
    /// The received snapshot is behind the state in use.
    #[error("the received snapshot ends at entry {incoming}, before the state in use at entry {current}")]
    IncomingOlder {
        /// The snapshot's position.
        incoming: LogPosition,
        /// The position of the state in use.
        current: LogPosition,
    },
}

impl StateStore {
    /// Opens the store and the current state in it, or makes both if the directory does not exist. Its parent must.
    /// What a crash left behind is removed, except a snapshot being received.
    pub fn open(
        directory: &Path,
        options: RocksOptions,
        bootstrap: &Bootstrap,
    ) -> Result<(StateStore, StateMachine<RocksEngine>), StoreError> {
        if !exists(directory)? {
            create(directory, &options, bootstrap)?;
        }
        let number = current_number(directory)?;
        let store = StateStore { directory: directory.to_path_buf(), options, number };
        let path = store.database(number);
        if !exists(&path)? {
            return Err(StoreError::DatabaseMissing { path });
        }
        let engine = RocksEngine::open(&path, &options).map_err(StateError::from);
        let machine = engine.and_then(|engine| {
            // Set up when the store was made: an empty database here is damage, not news.
            let machine = StateMachine::open_existing(engine)?;
            refuse_other_cluster(&machine, &bootstrap.cluster)?;
            Ok(machine)
        });
        let machine = machine.map_err(|source| StoreError::State { path, source })?;
        store.remove_unnamed()?;
        Ok((store, machine))
    }

    /// Opens the current state for reading, without changing anything, whatever cluster's it is: for inspection, of a running node's
    /// directory too, where it shows what has been flushed.
    pub fn open_read_only(directory: &Path, options: &RocksOptions) -> Result<StateMachine<RocksEngine>, StoreError> {
        let path = database(directory, current_number(directory)?);
        if !exists(&path)? {
            return Err(StoreError::DatabaseMissing { path });
        }
        let engine = RocksEngine::open_read_only(&path, options).map_err(StateError::from);
        engine.and_then(StateMachine::open_existing).map_err(|source| StoreError::State { path, source })
    }

    /// The directory of the current database.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.database(self.number)
    }

    /// An empty directory to receive a snapshot into. What was received before is dropped.
    pub fn prepare_incoming(&self) -> Result<PathBuf, StoreError> {
        let path = self.directory.join(INCOMING);
        remove_if_exists(&path)?;
        fs::create_dir(&path).map_err(io_error("create", &path))?;
        sync_directory(&self.directory).map_err(io_error("fsync", &self.directory))?;
        Ok(path)
    }

    /// The directory with what was received of a snapshot before, perhaps in an earlier life of the process, to go on with.
    /// Which files are whole is for the receiver to know.
    pub fn resume_incoming(&self) -> Result<Option<PathBuf>, StoreError> {
        let path = self.directory.join(INCOMING);
        Ok(exists(&path)?.then_some(path))
    }

    /// Reads all of the received snapshot and says what it holds. Takes as long as reading it from the disk.
    pub fn verify_incoming(&self, cluster: &str) -> Result<IncomingState, StoreError> {
        let path = self.directory.join(INCOMING);
        if !exists(&path)? {
            return Err(StoreError::NoIncoming { path });
        }
        let verify = || {
            let machine = StateMachine::open_existing(RocksEngine::open_read_only(&path, &self.options)?)?;
            refuse_other_cluster(&machine, cluster)?;
            Ok(IncomingState {
                position: machine.applied(),
                membership: machine.membership().clone(),
                state_hash: machine.state_hash(),
                content_hash: machine.reader().content_hash()?,
            })
        };
        verify().map_err(|source| StoreError::State { path: path.clone(), source })
    }

    /// Makes the received snapshot the current state, durably, and opens it. Verify it first.
    ///
    /// The state in use, `machine`, is to be dropped afterwards, and its readers replaced by the new state's; its files are removed
    /// with the last of them. On an error the state in use remains the current one, and the received snapshot may be gone.
    pub fn switch_to_incoming(
        &mut self,
        machine: &StateMachine<RocksEngine>,
    ) -> Result<StateMachine<RocksEngine>, StoreError> {
        let incoming = self.place_incoming()?;
        let next = self.open_placed(incoming, machine)?;
        self.point_at(incoming)?;
        machine.reader().engine().retire();
        Ok(next)
    }

    /// First step of a switch: the snapshot is durable and has the name of a database, which `CURRENT` does not name.
    fn place_incoming(&self) -> Result<u64, StoreError> {
        let incoming = self.directory.join(INCOMING);
        if !exists(&incoming)? {
            return Err(StoreError::NoIncoming { path: incoming });
        }
        let number = self.number + 1;
        let path = self.database(number);
        // Left by a switch that failed.
        remove_if_exists(&path)?;
        sync_tree(&incoming).map_err(io_error("fsync", &incoming))?;
        fs::rename(&incoming, &path).map_err(io_error("rename", &incoming))?;
        sync_directory(&self.directory).map_err(io_error("fsync", &self.directory))?;
        Ok(number)
    }

    /// Second step: it opens, is this cluster's, and does not lead back in time.
    fn open_placed(
        &self,
        number: u64,
        machine: &StateMachine<RocksEngine>,
    ) -> Result<StateMachine<RocksEngine>, StoreError> {
        let path = self.database(number);
        let open = || {
            let next = StateMachine::open_existing(RocksEngine::open(&path, &self.options)?)?;
            refuse_other_cluster(&next, machine.cluster())?;
            Ok(next)
        };
        let next = open().map_err(|source| StoreError::State { path: path.clone(), source })?;
        let (incoming, current) = (next.applied(), machine.applied());
        if incoming.index < current.index {
            return Err(StoreError::IncomingOlder { incoming, current });
        }
        Ok(next)
    }

    /// Last step: from here on it is the current one.
    fn point_at(&mut self, number: u64) -> Result<(), StoreError> {
        write_current(&self.directory, number)?;
        self.number = number;
        Ok(())
    }

    fn database(&self, number: u64) -> PathBuf {
        database(&self.directory, number)
    }

    fn remove_unnamed(&self) -> Result<(), StoreError> {
        let current = database_name(self.number);
        for entry in fs::read_dir(&self.directory).map_err(io_error("list", &self.directory))? {
            let entry = entry.map_err(io_error("list", &self.directory))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(DATABASE_PREFIX) && name != current) {
                tracing::info!(path = %entry.path().display(), "removing a state that is not the current one");
                remove_if_exists(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Builds a store aside and lets it appear complete.
fn create(directory: &Path, options: &RocksOptions, bootstrap: &Bootstrap) -> Result<(), StoreError> {
    let creating = directory.with_extension("creating");
    remove_if_exists(&creating)?;
    fs::create_dir(&creating).map_err(io_error("create", &creating))?;
    let path = database(&creating, 1);
    let engine = RocksEngine::create(&path, options).map_err(StateError::from);
    let machine = engine.and_then(|engine| StateMachine::open(engine, bootstrap));
    drop(machine.map_err(|source| StoreError::State { path, source })?);
    write_current(&creating, 1)?;
    sync_tree(&creating).map_err(io_error("fsync", &creating))?;
    fs::rename(&creating, directory).map_err(io_error("rename", &creating))?;
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    sync_directory(parent).map_err(io_error("fsync", parent))
}

fn refuse_other_cluster(machine: &StateMachine<RocksEngine>, expected: &str) -> Result<(), StateError> {
    if machine.cluster() == expected {
        return Ok(());
    }
    Err(StateError::OtherCluster { expected: expected.to_owned(), found: machine.cluster().to_owned() })
}

fn database_name(number: u64) -> String {
    format!("{DATABASE_PREFIX}{number:06}")
}

fn database(directory: &Path, number: u64) -> PathBuf {
    directory.join(database_name(number))
}

fn write_current(directory: &Path, number: u64) -> Result<(), StoreError> {
    let content = seal(&format!("{CURRENT_TITLE}\n{}\n", database_name(number)));
    write_durably(directory, CURRENT, content.as_bytes()).map_err(io_error("write", &directory.join(CURRENT)))
}

fn current_number(directory: &Path) -> Result<u64, StoreError> {
    let path = directory.join(CURRENT);
    let text = match read_sealed(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let number = text.as_deref().and_then(|text| {
        let name = text.strip_prefix(CURRENT_TITLE)?.trim();
        name.strip_prefix(DATABASE_PREFIX)?.parse().ok()
    });
    number.ok_or(StoreError::CurrentDamaged { path })
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(io_error("look at", path))
}

fn remove_if_exists(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { operation, path, source }
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> StoreError {
        let path = match &error {
            EngineError::Rocks { directory, .. } | EngineError::TableMissing { directory, .. } => directory.clone(),
        };
        StoreError::State { path, source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use raft::{Entry, EntryKind, LogIndex, NodeId, Term};

    fn bootstrap() -> Bootstrap {
        Bootstrap { cluster: "test".to_owned(), membership: Membership::new([NodeId(1)]) }
    }

    fn options() -> RocksOptions {
        RocksOptions { block_cache_bytes: 8 << 20, write_buffer_bytes: 1 << 20, ..RocksOptions::default() }
    }

    fn open(directory: &Path) -> (StateStore, StateMachine<RocksEngine>) {
        StateStore::open(directory, options(), &bootstrap()).unwrap()
    }

    fn advance(machine: &mut StateMachine<RocksEngine>, entries: u64) {
        let first = machine.applied().index.0 + 1;
        let entry = |index| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Noop,
            payload: bytes::Bytes::new(),
        };
        let entries: Vec<Entry> = (first..first + entries).map(entry).collect();
        machine.apply(&entries, &mut Vec::new()).unwrap();
    }

    /// A store at entry 3 with a received snapshot at entry 8.
    fn store_with_incoming(directory: &Path) -> (StateStore, StateMachine<RocksEngine>) {
        let (store, mut machine) = open(directory);
        advance(&mut machine, 3);
        machine.flush(true).unwrap();
        let incoming = store.prepare_incoming().unwrap();
        fs::remove_dir(&incoming).unwrap();
        machine.checkpoint(&incoming).unwrap();
        let mut newer = StateMachine::open_existing(RocksEngine::open(&incoming, &options()).unwrap()).unwrap();
        advance(&mut newer, 5);
        newer.flush(true).unwrap();
        (store, machine)
    }

    fn databases(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != CURRENT).collect();
        names.sort();
        names
    }

    #[test]
    fn a_crash_at_any_step_of_a_switch_leaves_the_old_state_or_the_new_one() {
        // How many steps are done before the crash → where the state is, and what is left in the directory.
        let expected: [(u64, &[&str]); 4] =
            [(3, &["db-000001", "incoming"]), (3, &["db-000001"]), (3, &["db-000001"]), (8, &["db-000002"])];
        for (steps, (applied, names)) in expected.into_iter().enumerate() {
            let parent = tempfile::tempdir().unwrap();
            let directory = parent.path().join("state");
            let (mut store, machine) = store_with_incoming(&directory);
            let mut next = None;
            if steps >= 1 {
                assert_eq!(store.place_incoming().unwrap(), 2);
            }
            if steps >= 2 {
                next = Some(store.open_placed(2, &machine).unwrap());
            }
            if steps >= 3 {
                store.point_at(2).unwrap();
            }
            drop((store, machine, next));
            let (_store, reopened) = open(&directory);
            assert_eq!(reopened.applied().index, LogIndex(applied), "after {steps} steps");
            assert_eq!(databases(&directory), names, "after {steps} steps");
        }
    }

    #[test]
    fn switching_goes_on_after_a_crash_and_again_and_again() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let (store, machine) = store_with_incoming(&directory);
        store.place_incoming().unwrap();
        drop((store, machine));
        let (mut store, mut machine) = open(&directory);
        for round in 0..3 {
            let incoming = store.prepare_incoming().unwrap();
            fs::remove_dir(&incoming).unwrap();
            advance(&mut machine, 1);
            machine.checkpoint(&incoming).unwrap();
            machine = store.switch_to_incoming(&machine).unwrap();
            assert_eq!(machine.applied().index, LogIndex(4 + round));
            assert_eq!(databases(&directory).len(), 1);
        }
    }

    #[test]
    fn a_crash_while_the_store_is_made_leaves_nothing_in_the_way() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        fs::create_dir_all(parent.path().join("state.creating/db-000001")).unwrap();
        fs::write(parent.path().join("state.creating/db-000001/CURRENT"), "half").unwrap();
        let (_store, machine) = open(&directory);
        assert_eq!(machine.applied(), LogPosition::default());
        assert!(!parent.path().join("state.creating").exists());
    }

    #[test]
    fn nothing_is_deleted_when_something_is_damaged_or_missing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let (store, machine) = store_with_incoming(&directory);
        store.place_incoming().unwrap();
        drop((store, machine));
        let current = directory.join(CURRENT);
        let good = fs::read(&current).unwrap();
        let refused = || StateStore::open(&directory, options(), &bootstrap()).unwrap_err();

        for bad in [&b""[..], b"garbage", &good[..good.len() - 1], &[&good[..], b"x"].concat()] {
            fs::write(&current, bad).unwrap();
            assert!(matches!(refused(), StoreError::CurrentDamaged { .. }));
        }
        fs::remove_file(&current).unwrap();
        assert!(matches!(refused(), StoreError::CurrentDamaged { .. }));
        write_current(&directory, 7).unwrap();
        assert!(matches!(refused(), StoreError::DatabaseMissing { .. }));
        write_current(&directory, 1).unwrap();
        let manifest = fs::read_dir(directory.join("db-000001")).unwrap().map(|entry| entry.unwrap().path());
        let manifest = manifest.filter(|path| path.to_str().unwrap().contains("MANIFEST")).max().unwrap();
        let bytes = fs::read(&manifest).unwrap();
        fs::remove_file(&manifest).unwrap();
        assert!(matches!(refused(), StoreError::State { .. }));
        assert_eq!(databases(&directory), ["db-000001", "db-000002"]);

        fs::write(&manifest, bytes).unwrap();
        let (_store, machine) = open(&directory);
        assert_eq!(machine.applied().index, LogIndex(3));
    }

    #[test]
    fn another_clusters_state_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        drop(open(&directory));
        let other = Bootstrap { cluster: "other".to_owned(), ..bootstrap() };
        let error = StateStore::open(&directory, options(), &other).unwrap_err();
        assert!(matches!(error, StoreError::State { source: StateError::OtherCluster { .. }, .. }), "{error}");
    }

    #[test]
    fn inspection_reads_a_running_nodes_flushed_state() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let (_store, mut machine) = open(&directory);
        advance(&mut machine, 4);
        machine.flush(true).unwrap();
        advance(&mut machine, 2);
        let inspected = StateStore::open_read_only(&directory, &options()).unwrap();
        assert_eq!((inspected.applied().index, inspected.cluster()), (LogIndex(4), "test"));
    }
}
