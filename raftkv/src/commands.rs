//! What the binary can be told to do, one file per command.

pub(crate) mod demo;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod start;

use raftkv::exit::{CORRUPTION, ExitStatus, OTHER, UNSAFE, USAGE};
use std::io::Write;
use std::process::ExitCode;

/// Prints an error with its causes and gives the exit code it stands for.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // A broken stderr leaves nowhere to complain.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    let status = error.chain().find_map(|cause| cause.downcast_ref::<ExitStatus>().copied());
    let status = status.unwrap_or_else(|| {
        if let Some(start) = error.downcast_ref::<raftkv::StartError>() {
            start.exit_status()
        } else if let Some(fatal) = error.downcast_ref::<raftkv::FatalError>() {
            fatal.exit_status()
        } else {
            OTHER
        }
    });
    debug_assert!([OTHER, USAGE, UNSAFE, CORRUPTION].contains(&status));
    ExitCode::from(status.0)
}
