//! Ctrl-C, for a command that has something to tidy up.
//!
//! One that has not does not care: the signal ends the process, or in a shell the command alone. One that waits for [`interrupted`] is left to end
//! by itself in a shell, unless Ctrl-C comes a second time.

use crate::failure::Failure;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the command that runs tidies up by itself. A process runs one command at a time.
static IS_HANDLED: AtomicBool = AtomicBool::new(false);

/// The command that runs tidies up by itself: it does not end with the signal.
pub(crate) fn handle() {
    IS_HANDLED.store(true, Ordering::Relaxed);
}

/// Returns at Ctrl-C (SIGINT) or SIGTERM. From the first wait on they no longer end the process.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    handle();
    let handler = |kind| signal(kind).map_err(|cause| Failure::other(format!("signals cannot be received: {cause}")));
    let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// A new command begins, of which it is not known yet.
pub(crate) fn begin_command() {
    IS_HANDLED.store(false, Ordering::Relaxed);
}

/// Whether the command that runs tidies up by itself.
pub(crate) fn is_handled() -> bool {
    IS_HANDLED.load(Ordering::Relaxed)
}

/// A remark for whoever watches.
pub(crate) fn tell(remark: &str) {
    // What the command does counts; that standard error is closed does not.
    let _told = writeln!(io::stderr(), "{remark}");
}
