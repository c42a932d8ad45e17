//! The exit codes the server shares with `raftkv-cli`.

/// An exit code with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("exit status {0}")]
pub struct ExitStatus(pub u8);

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
