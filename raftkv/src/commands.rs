//! What the binary can be told to do, one file per command.

pub(crate) mod demo;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod start;

use raftkv::exit::{ExitStatus, OTHER};
use std::io::Write;
use std::process::ExitCode;

/// An error with the exit code it stands for, where the error itself does not say.
#[derive(Debug)]
pub(crate) struct Failure {
    status: ExitStatus,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        let status = if let Some(start) = error.downcast_ref::<raftkv::StartError>() {
            start.exit_status()
        } else if let Some(fatal) = error.downcast_ref::<raftkv::FatalError>() {
            fatal.exit_status()
        } else {
            OTHER
        };
        Failure { status, error }
    }
}

impl Failure {
    /// This error, with this exit code.
    pub(crate) fn new(status: ExitStatus, error: impl Into<anyhow::Error>) -> Failure {
        Failure { status, error: error.into() }
    }

    /// Whether whoever read our output has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.error.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
        })
    }
}

/// Prints an error with its causes and gives the exit code it stands for.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    // A broken stderr leaves nowhere to complain.
    let _ = writeln!(std::io::stderr(), "error: {}", with_causes(&failure.error));
    ExitCode::from(failure.status.0)
}

/// The error and its causes, leaving out those that the text before has said already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("the disk").context("cannot read x: the disk").context("outer");
        assert_eq!(with_causes(&error), "outer: cannot read x: the disk");
    }
}
