//! The exit codes the server shares with `raftkv-cli`.

use storage::state::{StateError, StoreError};
use storage::wal::{LogError, OpenError};

/// An exit code with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("exit status {0}")]
pub struct ExitStatus(pub u8);

/// Everything went as it should.
pub const SUCCESS: ExitStatus = ExitStatus(0);
/// Any error that has no code of its own.
pub const OTHER: ExitStatus = ExitStatus(1);
/// The command line or the configuration is wrong.
pub const USAGE: ExitStatus = ExitStatus(2);
/// A certificate or key cannot be used.
pub const TLS: ExitStatus = ExitStatus(7);
/// Refused because it would be unsafe: another process, cluster or node owns the data.
pub const UNSAFE: ExitStatus = ExitStatus(8);
/// What is on disk is damaged or incomplete.
pub const CORRUPTION: ExitStatus = ExitStatus(9);

/// Whether a log that did not open is damaged or incomplete.
pub(crate) fn log_is_damaged(error: &OpenError) -> bool {
    match error {
        OpenError::Corrupt { .. } | OpenError::AcknowledgedLost { .. } | OpenError::HighWaterLost { .. } => true,
        OpenError::Log(error) => log_failure_is_damage(error),
        OpenError::Config { .. } | OpenError::UnknownVersion { .. } | OpenError::WrongGroup { .. } => false,
    }
}

/// Whether an open log failed because of what is on disk.
pub(crate) fn log_failure_is_damage(error: &LogError) -> bool {
    matches!(error, LogError::Damaged { .. })
}

/// Whether a state that did not open is damaged or incomplete.
pub(crate) fn store_is_damaged(error: &StoreError) -> bool {
    match error {
        StoreError::State { source, .. } => state_is_damaged(source),
        StoreError::CurrentDamaged { .. } | StoreError::DatabaseMissing { .. } => true,
        StoreError::Io { .. } | StoreError::NoIncoming { .. } | StoreError::IncomingOlder { .. } => false,
    }
}

/// Whether the state machine failed because of what is on disk.
pub(crate) fn state_is_damaged(error: &StateError) -> bool {
    match error {
        StateError::Engine(error) => error.is_corruption(),
        StateError::Corrupt(_) | StateError::DescriptionMissing { .. } | StateError::Empty => true,
        StateError::UnknownFormat { .. }
        | StateError::OtherCluster { .. }
        | StateError::UnknownFeature { .. }
        | StateError::MembershipChange { .. }
        | StateError::FailedBefore => false,
    }
}
