//! What makes a node stop for good.
//!
//! After one of these nothing is acknowledged any more: the thread that met it has stopped, so the events that an
//! acknowledgement needs cannot come. The server's owner learns of it from [`Server::failed`](crate::Server::failed) and ends the process.

use crate::exit::{CORRUPTION, ExitStatus, OTHER, SUCCESS, UNSAFE, log_failure_is_damage, state_is_damaged};
use crate::state::InstallError;
use raft::NodeId;
use std::path::PathBuf;
use storage::state::StateError;
use storage::wal::LogError;
use tokio::sync::mpsc;

/// Why a node stopped.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The log could not be written or read. What was acknowledged before is on disk.
    #[error("the log failed, so the node stops: {0}; check the disk, then start the node again")]
    Log(#[source] LogError),
    /// The state machine could not apply a committed entry.
    #[error("the state machine failed, so the node stops: {0}")]
    State(#[source] StateError),
    /// A received snapshot could not be put in use.
    #[error("a snapshot could not be installed, so the node stops: {0}; check the disk, then start the node again")]
    Install(#[source] InstallError),
    /// A note in the data directory could not be written or removed.
    #[error("cannot change {}, so the node stops: {source}; check the disk, then start the node again", path.display())]
    Marker {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A committed membership does not have this node any more. Not a failure: the node stops in order.
    #[error(
        "node {node} was removed from the cluster, so it stops; its number is not given out again, and its directory can be deleted"
    )]
    Removed {
        /// This node.
        node: NodeId,
    },
    /// A thread of the node panicked: an invariant did not hold.
    #[error("the {thread} thread panicked, so the node stops; this is a bug, please report it with the lines above")]
    Panicked {
        /// Which thread.
        thread: &'static str,
    },
}

impl FatalError {
    /// The exit code of a process that ends because of this.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            FatalError::Log(error) if log_failure_is_damage(error) => CORRUPTION,
            FatalError::State(error) if state_is_damaged(error) => CORRUPTION,
            FatalError::State(StateError::UnknownFormat { .. } | StateError::UnknownFeature { .. }) => UNSAFE,
            FatalError::Removed { .. } => SUCCESS,
            FatalError::Log(_)
            | FatalError::State(_)
            | FatalError::Install(_)
            | FatalError::Marker { .. }
            | FatalError::Panicked { .. } => OTHER,
        }
    }
}

/// Where threads report that they cannot go on.
#[derive(Clone)]
pub(crate) struct FailureReporter(mpsc::UnboundedSender<FatalError>);

impl FailureReporter {
    /// A reporter and the end where reports come out.
    pub(crate) fn new() -> (FailureReporter, mpsc::UnboundedReceiver<FatalError>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (FailureReporter(sender), receiver)
    }

    /// Reports a failure. The first one counts.
    pub(crate) fn report(&self, error: FatalError) {
        if let FatalError::Removed { .. } = error {
            tracing::warn!("{error}");
        } else {
            tracing::error!("{error}");
        }
        // Nobody listens any more: the server is stopping already.
        let _ = self.0.send(error);
    }

    /// Starts a named thread whose panic is reported.
    pub(crate) fn spawn(
        &self,
        thread: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        let guard = PanicGuard { failures: self.clone(), thread };
        std::thread::Builder::new().name(format!("raftkv-{thread}")).spawn(move || {
            let _guard = guard;
            body();
        })
    }
}

struct PanicGuard {
    failures: FailureReporter,
    thread: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failures.report(FatalError::Panicked { thread: self.thread });
        }
    }
}
