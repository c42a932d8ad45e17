//! What must be true of every run.
//!
//! - `safety`: the five properties of the Raft paper, looked at after every turn of every driver.
//! - `reference`: the one true log and the one true state, fed by whoever applies an entry first. Everybody else must apply the same and
//!   come to the same state hash.
//! - `model`: what the commands of the log mean, written down a second time and as simply as possible: it shares no code with the
//!   state machine.
//! - `watch`: what watchers are told, held against the changes that the model knows, reply by reply.
//! - `history`: what clients asked and were told, compared in the end with log and model: nothing acknowledged is lost, nothing is
//!   applied twice, and the whole is linearizable.

mod history;
mod model;
mod reference;
mod safety;
pub(crate) mod watch;

pub(crate) use history::{History, OperationId, Outcome};
pub(crate) use reference::Reference;
pub(crate) use safety::Safety;
