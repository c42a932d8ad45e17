//! Who waits for what, and how a wait can end.

use super::FormatPending;
use raft::{LogIndex, NodeId};
use std::time::Duration;
use storage::state::CommandOutcome;

/// What became of an applied write.
#[derive(Debug)]
pub struct WriteOutcome {
    /// The log index the write took.
    pub index: LogIndex,
    /// The state's revision after the run in which it was applied.
    pub revision: u64,
    /// What the command did.
    pub outcome: CommandOutcome,
}

/// Called once with what became of a write. Must not block.
pub type WriteWaiter = Box<dyn FnOnce(Result<WriteOutcome, WriteRefusal>) + Send>;

/// Called once: with `Ok` when the state machine may be read, from a thread that may block on the disk; with a refusal otherwise,
/// from a thread that may not.
pub type ReadWaiter = Box<dyn FnOnce(Result<(), ReadRefusal>) + Send>;

/// Why a write has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefusal {
    /// This node does not lead. Certainly not applied.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<NodeId>,
    },
    /// Too much waits already. Certainly not applied.
    #[error("overloaded: more writes wait than the cluster gets done in time")]
    Overloaded,
    /// It would add data to a state that is as large as it may be. Certainly not applied.
    #[error(
        "the state takes {} MiB, and the quota of the cluster is {} MiB: delete what is not needed and compact, or raise cluster.quota_mib; \
         deletes and compaction are taken, and writes are taken again once there is room",
        bytes >> 20,
        bytes_max >> 20
    )]
    NoSpace {
        /// Bytes it takes.
        bytes: u64,
        /// Bytes it may take.
        bytes_max: u64,
    },
    /// Its format is not in effect yet. Certainly not applied.
    #[error("{0}")]
    FormatPending(FormatPending),
    /// The node is stopping. Certainly not applied.
    #[error("the node is stopping")]
    Stopping,
    /// It entered the log of a leader and then lost sight: it may or may not be applied.
    #[error("the outcome is unknown: leadership was lost before the write was committed")]
    OutcomeUnknown,
}

/// Why a read was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefusal {
    /// No leader has confirmed a read index.
    #[error("no leader has confirmed the read")]
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The state is older than the client takes.
    #[error("the state of this node is {}; ask another node, or allow more", describe_age(*age))]
    TooOld {
        /// How old it may be; `None`: the node has heard no leader since it started.
        age: Option<Duration>,
    },
}

fn describe_age(age: Option<Duration>) -> String {
    match age {
        Some(age) => format!("up to {} ms old, older than asked for", age.as_millis()),
        None => "of unknown age: it has heard no leader since it started".to_owned(),
    }
}
