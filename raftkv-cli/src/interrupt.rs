//! Ctrl-C, and who answers it.
//!
//! A command that has nothing to tidy up does not care: the signal ends the process, or in a shell the command alone. A command that has to
//! tidy up holds a [`Handler`] from then on. In a shell it is then left to end by itself, unless Ctrl-C comes a second time.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many handlers there are.
static HANDLERS: AtomicUsize = AtomicUsize::new(0);

/// A command that tidies up after Ctrl-C, until this is dropped.
#[derive(Debug)]
pub(crate) struct Handler(());

impl Handler {
    pub(crate) fn new() -> Handler {
        HANDLERS.fetch_add(1, Ordering::Relaxed);
        Handler(())
    }

    /// Waits for Ctrl-C. From the first wait on the signal no longer ends the process.
    pub(crate) async fn next(&self) -> io::Result<()> {
        tokio::signal::ctrl_c().await
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        HANDLERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the command under way tidies up by itself.
pub(crate) fn is_handled() -> bool {
    HANDLERS.load(Ordering::Relaxed) > 0
}
