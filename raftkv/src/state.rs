//! The state machine as the apply thread holds it, together with what readers see of it.
//!
//! Switching to a snapshot takes two disks' worth of order: the state first, then the log. The *intent* file says that this is
//! going on, so that after a crash in between, a state ahead of the log is known for what it is. Without the file it means that
//! the log has lost what it had acknowledged.

use crate::shared_state::{Published, SharedState};
use raft::{LogIndex, LogPosition, Term};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use storage::state::{StateMachine, StateStore, StoreError};

/// Name of the intent file in the data directory.
const INTENT: &str = "INSTALLING";

/// See the module.
pub(crate) struct NodeState {
    machine: StateMachine,
    store: Arc<Mutex<StateStore>>,
    shared: Arc<SharedState>,
    data_dir: PathBuf,
}

/// A switch to a snapshot failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The intent file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Intent {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The state could not be switched.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NodeState {
    /// The state in use.
    pub(crate) fn new(
        machine: StateMachine,
        store: Arc<Mutex<StateStore>>,
        shared: Arc<SharedState>,
        data_dir: &Path,
    ) -> NodeState {
        NodeState { machine, store, shared, data_dir: data_dir.to_owned() }
    }

    /// The state machine.
    pub(crate) fn machine(&mut self) -> &mut StateMachine {
        &mut self.machine
    }

    /// Shows readers what was applied since the last call.
    pub(crate) fn publish(&self) {
        self.shared.publish(published(&self.machine));
    }

    /// Switches to the snapshot that was received and verified; durable when it returns. The log is to be reset next, and then
    /// [`finish_install`] called.
    pub(crate) fn switch_to_received(&mut self, position: LogPosition) -> Result<(), InstallError> {
        write_intent(&self.data_dir, position)
            .map_err(|source| InstallError::Intent { path: self.data_dir.join(INTENT), source })?;
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = store.switch_to_incoming(&self.machine)?;
        assert_eq!(machine.applied(), position, "the snapshot switched to is the one that was verified");
        self.shared.replace(machine.reader(), published(&machine));
        self.machine = machine;
        tracing::info!(%position, "the snapshot is in use");
        Ok(())
    }
}

/// What readers see of `machine`.
pub(crate) fn published(machine: &StateMachine) -> Published {
    Published { applied: machine.applied(), revision: machine.revision(), state_hash: machine.state_hash() }
}

fn write_intent(data_dir: &Path, position: LogPosition) -> io::Result<()> {
    let temporary = data_dir.join("INSTALLING.tmp");
    let mut file = fs::File::create(&temporary)?;
    writeln!(file, "term {} index {}", position.term, position.index)?;
    file.sync_all()?;
    fs::rename(&temporary, data_dir.join(INTENT))?;
    fs::File::open(data_dir)?.sync_all()
}

/// The snapshot whose installation was begun and not finished, if any. An intent that cannot be read names none.
pub(crate) fn unfinished_install(data_dir: &Path) -> io::Result<Option<LogPosition>> {
    match fs::read_to_string(data_dir.join(INTENT)) {
        Ok(text) => Ok(parse_intent(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_intent(text: &str) -> Option<LogPosition> {
    let (term, index) = text.trim_end().strip_prefix("term ")?.split_once(" index ")?;
    Some(LogPosition { term: Term(term.parse().ok()?), index: LogIndex(index.parse().ok()?) })
}

/// State and log agree again.
pub(crate) fn finish_install(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(data_dir.join(INTENT)) {
        Ok(()) => fs::File::open(data_dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn an_intent_lasts_until_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let position = LogPosition { term: Term(7), index: LogIndex(42) };
        assert_eq!(unfinished_install(folder.path()).unwrap(), None);
        write_intent(folder.path(), position).unwrap();
        assert_eq!(unfinished_install(folder.path()).unwrap(), Some(position));
        finish_install(folder.path()).unwrap();
        finish_install(folder.path()).unwrap();
        assert_eq!(unfinished_install(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_damaged_intent_names_nothing() {
        for text in ["", "term 1", "term x index 2", "index 2 term 1"] {
            assert_eq!(parse_intent(text), None, "{text:?}");
        }
    }
}
