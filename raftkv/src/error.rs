//! Why a node did not start.

use crate::amnesia::FIRST_START;
use crate::config::ConfigError;
use crate::exit::{CORRUPTION, ExitStatus, OTHER, TLS, UNSAFE, USAGE, log_is_damaged, store_is_damaged};
use raft::{LogIndex, LogPosition, MembershipError};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use storage::identity::DirectoryError;
use storage::state::{StateError, StoreError};
use storage::wal::{LogError, OpenError};
use transport::CredentialsError;

/// Why a node did not start. Nothing was changed on its disk unless the message says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate or key.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificate is another node's.
    #[error("the certificate {} is for {found}, but the configuration says {expected}; use the certificate that `raftkv init` wrote for this node", path.display())]
    OtherIdentity {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The data directory is not this node's, or in use.
    #[error(transparent)]
    DataDirectory(#[from] DirectoryError),
    /// The data directory cannot be read or written.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error("{0}{advice}", advice = .0.advice().map(|advice| format!(". {advice}")).unwrap_or_default())]
    Log(#[from] OpenError),
    /// The log cannot be written.
    #[error("the log cannot be written: {0}")]
    LogWrite(#[from] LogError),
    /// The state machine cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data directory has been in use, and its log is not there, or its folder is empty.
    #[error("the log {} is missing or empty, but this data directory has been in use: the node has lost what it acknowledged and must not vote; nothing was changed; is the disk it should be on mounted? bring the folder back, or see \"A damaged node\" in docs/operations.md", path.display())]
    LogMissing {
        /// Where the log should be.
        path: PathBuf,
    },
    /// The log starts after what was applied.
    #[error(
        "the log starts after entry {log_start}, but the state machine has applied only up to entry {applied}: part of the state is missing; nothing was changed; bring the data directory back, or see \"A damaged node\" in docs/operations.md"
    )]
    Gap {
        /// What is applied.
        applied: LogPosition,
        /// What the log starts after.
        log_start: LogPosition,
    },
    /// The log ends before what was applied from it.
    #[error(
        "the log ends at entry {log_last}, or differs from what the state machine has applied, entry {applied}: this node has lost entries it acknowledged and must not vote; nothing was changed; bring the data directory back, or see \"A damaged node\" in docs/operations.md"
    )]
    LogBehindState {
        /// What is applied.
        applied: LogPosition,
        /// Where the log ends.
        log_last: LogIndex,
    },
    /// The data directory is empty, this node has no peers, and nothing says that it is new.
    #[error(
        "{} is empty, and by its configuration this node is the only voter: its data is gone, or it has never run here; bring the data directory back; or, if others have become members since and can repair this node, write `joining = true` under [cluster] in its configuration; or, only if it never had another member and all that it held may be forgotten, create the empty file {}; then start again",
        path.display(), path.join(FIRST_START).display()
    )]
    NeverStarted {
        /// The data directory.
        path: PathBuf,
    },
    /// Something was lost, and this node is the only voter, as far as it knows.
    #[error(
        "{cause}. By what it knows this node is the only voter, so nobody can repair it. If others have become voters since, write `joining = true` under [cluster] in its configuration, remove {} if it is there and that line was there already, and start again: they repair it", note.display()
    )]
    NoPeers {
        /// What was lost.
        cause: Box<StartError>,
        /// The file that says that there is nobody else.
        note: PathBuf,
    },
    /// Too many remains of earlier losses.
    #[error(
        "this node has lost its log or its state once more, and the remains of earlier losses fill {} (damaged-1, damaged-2, …): look at the disk, move these folders away, and start again",
        path.display()
    )]
    DamagedTooOften {
        /// The data directory.
        path: PathBuf,
    },
    /// The node was removed from the cluster.
    #[error(
        "node {node} was removed from the cluster, as {} says, and never becomes a member again; delete its directory; `raftkv-cli member add` makes a new member, with a new number", path.display()
    )]
    Removed {
        /// The node.
        node: u64,
        /// The data directory.
        path: PathBuf,
    },
    /// A membership in the log is of a form that this program does not know.
    #[error(
        "log entry {index} changes the membership, and cannot be read: {cause}; run a version of raftkv that knows it on this node"
    )]
    MembershipUnknown {
        /// The entry.
        index: LogIndex,
        /// What is wrong with it.
        cause: MembershipError,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address} ({what}): {cause}; is another process using the port?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// Why not.
        cause: String,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl StartError {
    /// The exit code of a process that ends because of this.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            StartError::Config(_) => USAGE,
            StartError::Credentials(_) | StartError::OtherIdentity { .. } => TLS,
            StartError::DataDirectory(error) => match error {
                DirectoryError::InUse { .. }
                | DirectoryError::OtherCluster { .. }
                | DirectoryError::OtherNode { .. }
                | DirectoryError::UnknownFormat { .. } => UNSAFE,
                DirectoryError::IdentityMissing { .. } | DirectoryError::Damaged { .. } => CORRUPTION,
                DirectoryError::Io { .. }
                | DirectoryError::AlreadyCreated { .. }
                | DirectoryError::NotCreated { .. }
                | DirectoryError::ClusterName { .. } => OTHER,
            },
            StartError::Log(error) if log_is_damaged(error) => CORRUPTION,
            StartError::Store(error) if store_is_damaged(error) => CORRUPTION,
            StartError::Log(OpenError::UnknownVersion { .. } | OpenError::WrongGroup { .. }) => UNSAFE,
            StartError::Store(StoreError::State { source: StateError::UnknownFormat { .. }, .. }) => UNSAFE,
            StartError::LogMissing { .. }
            | StartError::Gap { .. }
            | StartError::LogBehindState { .. }
            | StartError::NeverStarted { .. }
            | StartError::DamagedTooOften { .. } => CORRUPTION,
            StartError::NoPeers { cause, .. } => cause.exit_status(),
            StartError::MembershipUnknown { .. } | StartError::Removed { .. } => UNSAFE,
            StartError::Directory { .. }
            | StartError::Log(_)
            | StartError::LogWrite(_)
            | StartError::Store(_)
            | StartError::Listen { .. }
            | StartError::Thread(_) => OTHER,
        }
    }
}
