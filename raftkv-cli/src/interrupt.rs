//! Ctrl-C, for a command that has something to tidy up.
//!
//! One that has not does not care: the signal ends the process, or in a shell the command alone. One that waits for [`interrupted`] is left to end
//! by itself in a shell, unless Ctrl-C comes a second time.

use crate::failure::Failure;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the command that runs tidies up by itself. A process runs one command at a time.
static IS_HANDLED: AtomicBool = AtomicBool::new(false);
/// How often a signal has come since the first wait.
static SIGNALS: OnceLock<watch::Receiver<u64>> = OnceLock::new();
/// How often it had when the command began.
static SIGNALS_BEFORE: AtomicU64 = AtomicU64::new(0);

/// The command that runs tidies up by itself: it does not end with the signal.
pub(crate) fn handle() {
    IS_HANDLED.store(true, Ordering::Relaxed);
}

/// Returns at Ctrl-C (SIGINT) or SIGTERM. From the first wait on they no longer end the process, and none is missed: one that comes between two waits of
/// a command ends the second at once.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    handle();
    let has_come = |count: &u64| *count > SIGNALS_BEFORE.load(Ordering::Relaxed);
    let mut signals = signals()?;
    let waited = signals.wait_for(has_come).await.map(|_| ());
    waited.map_err(|_| Failure::other("signals cannot be received any more"))
}

/// The command that runs tidies up by itself, and asks now and then whether it is to: see [`has_come`].
pub(crate) fn listen() -> Result<(), Failure> {
    handle();
    signals().map(|_| ())
}

/// Whether Ctrl-C or SIGTERM has come since the command that runs has begun to [`listen`].
pub(crate) fn has_come() -> bool {
    SIGNALS.get().is_some_and(|signals| *signals.borrow() > SIGNALS_BEFORE.load(Ordering::Relaxed))
}

/// Counts signals from now on, in a task that lives as long as the runtime.
fn signals() -> Result<watch::Receiver<u64>, Failure> {
    if let Some(signals) = SIGNALS.get() {
        return Ok(signals.clone());
    }
    let handler = |kind| signal(kind).map_err(|cause| Failure::other(format!("signals cannot be received: {cause}")));
    let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            sender.send_modify(|count| *count += 1);
        }
    });
    Ok(SIGNALS.get_or_init(|| receiver).clone())
}

/// A new command begins, of which it is not known yet.
pub(crate) fn begin_command() {
    IS_HANDLED.store(false, Ordering::Relaxed);
    let signals = SIGNALS.get().map_or(0, |signals| *signals.borrow());
    SIGNALS_BEFORE.store(signals, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::time::Duration;

    #[tokio::test]
    async fn a_signal_between_two_waits_is_not_missed_and_is_of_its_command() {
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, interrupted()).await.is_err(), "nothing has come yet");
        kill_process(getpid(), Signal::INT).unwrap();
        let deadline = Duration::from_secs(20);
        tokio::time::timeout(deadline, signals().unwrap().wait_for(|count| *count == 1)).await.unwrap().unwrap();
        tokio::time::timeout(deadline, interrupted()).await.unwrap().unwrap();
        assert!(has_come());
        begin_command();
        assert!(!has_come());
        assert!(!is_handled());
        assert!(tokio::time::timeout(soon, interrupted()).await.is_err(), "that was the last command's");
    }
}
