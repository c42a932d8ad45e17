//! The state machine as the apply thread holds it, together with what readers see of it.
//!
//! Switching to a snapshot takes two disks' worth of order: the state first, then the log. The intent of `marker.rs` says that this
//! is going on.

use crate::driver::StateFacts;
use crate::marker::InstallIntent;
use crate::shared_state::{Published, SharedState};
use raft::LogPosition;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use storage::state::{Engine, StateError, StateMachine, StateStore, StoreError};

/// See the module.
pub(crate) struct NodeState {
    machine: StateMachine,
    store: Arc<Mutex<StateStore>>,
    shared: Arc<SharedState>,
    intent: InstallIntent,
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
    /// The snapshot is of a format that this node does not know.
    #[error(transparent)]
    Format(StateError),
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
        intent: InstallIntent,
    ) -> NodeState {
        NodeState { machine, store, shared, intent }
    }

    /// The state machine.
    pub(crate) fn machine(&mut self) -> &mut StateMachine {
        &mut self.machine
    }

    /// What the driver has to know of it.
    pub(crate) fn facts(&self) -> StateFacts {
        StateFacts::of(&self.machine)
    }

    /// The state machine, and what readers see of it.
    pub(crate) fn parts(&mut self) -> (&mut StateMachine, &SharedState) {
        (&mut self.machine, &self.shared)
    }

    /// Switches to the snapshot that was received and verified; durable when it returns. The log is to be reset next, and then
    /// [`InstallIntent::finish`] called.
    pub(crate) fn switch_to_received(&mut self, position: LogPosition) -> Result<(), InstallError> {
        let begun = self.intent.begin(position);
        begun.map_err(|source| InstallError::Intent { path: self.intent.path(), source })?;
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut machine = store.switch_to_incoming(&self.machine)?;
        machine.hold_format(self.machine.format_max()).map_err(InstallError::Format)?;
        assert_eq!(machine.applied(), position, "the snapshot switched to is the one that was verified");
        self.shared.replace(machine.reader(), published(&machine));
        self.machine = machine;
        tracing::info!(%position, "the snapshot is in use");
        Ok(())
    }
}

/// What readers see of `machine`.
pub(crate) fn published<E: Engine>(machine: &StateMachine<E>) -> Published {
    Published { applied: machine.applied(), revision: machine.revision(), state_hash: machine.state_hash() }
}
