//! What the driver has to know of the state.
//!
//! The state machine belongs to the apply thread. Whatever leaders go by is told the driver with each job that is applied, and is as of that job: what was
//! committed since may have changed it. So it decides when something is *proposed*, never what comes of it.

use storage::state::{Engine, StateMachine};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateFacts {
    /// The format in effect.
    pub format: u32,
    /// The cluster's time, in milliseconds since 1970: the greatest of any batch applied. Zero: none carried one.
    pub time_ms: u64,
    /// When the next lease or session is due, by the cluster's time. `None`: there is none.
    pub next_expiry_ms: Option<u64>,
}

impl StateFacts {
    /// Of the state as it is.
    #[must_use]
    pub fn of<E: Engine>(machine: &StateMachine<E>) -> StateFacts {
        StateFacts { format: machine.format(), time_ms: machine.time_ms(), next_expiry_ms: machine.next_expiry_ms() }
    }
}
