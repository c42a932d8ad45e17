//! The readers' view of the state machine.
//!
//! Reads take the reader in use at that moment. When the node switches to a snapshot the reader is replaced; reads under way
//! finish on the old state, which stays until they are done.

use raft::LogPosition;
use std::sync::{PoisonError, RwLock};
use storage::state::StateReader;

/// What was applied, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// The last entry applied.
    pub(crate) applied: LogPosition,
    /// The revision after it.
    pub(crate) revision: u64,
    /// The state's hash after it.
    pub(crate) state_hash: [u8; 16],
}

/// See the module.
pub(crate) struct SharedState(RwLock<(StateReader, Published)>);

impl SharedState {
    /// Starts with this reader.
    pub(crate) fn new(reader: StateReader, published: Published) -> SharedState {
        SharedState(RwLock::new((reader, published)))
    }

    /// The reader in use.
    pub(crate) fn reader(&self) -> StateReader {
        self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// What is applied.
    pub(crate) fn published(&self) -> Published {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// More is applied.
    pub(crate) fn publish(&self, published: Published) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).1 = published;
    }

    /// Another state is in use.
    pub(crate) fn replace(&self, reader: StateReader, published: Published) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (reader, published);
    }
}
