//! What a command that goes on until it is told to stop needs: to be told, and to say what it does meanwhile.

use crate::failure::Failure;
use std::io::{self, Write};
use tokio::signal::unix::{SignalKind, signal};

/// Returns at Ctrl-C (SIGINT) or SIGTERM, which end such a command as it should be ended.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    let handler = |kind| signal(kind).map_err(|cause| Failure::other(format!("signals cannot be received: {cause}")));
    let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// A remark for whoever watches.
pub(crate) fn tell(remark: &str) {
    // What the command does counts; that standard error is closed does not.
    let _told = writeln!(io::stderr(), "{remark}");
}
