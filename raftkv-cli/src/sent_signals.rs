//! Signals that some process has sent to this one.
//!
//! Ctrl-C at a terminal is a signal too, but the system sends it, and to everybody who is in the foreground: a command that we run has it
//! already. What a process sends, such as `kill`, comes to us alone. The system tells the two apart (`si_code`), and tokio does not pass
//! that on.

use rustix::process::Signal;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::{Handle, SignalsInfo};
use signal_hook::low_level::siginfo::Cause;
use std::io;
use tokio::sync::mpsc;

/// Signals that are waited for.
pub(crate) struct SentSignals {
    handle: Handle,
    sent: mpsc::UnboundedReceiver<Signal>,
}

impl SentSignals {
    /// From here on these signals do not end this process, whoever sends them.
    pub(crate) fn listen(signals: &[Signal]) -> io::Result<SentSignals> {
        let mut signals = SignalsInfo::<WithOrigin>::new(signals.iter().map(|signal| signal.as_raw()))?;
        let handle = signals.handle();
        let (told, sent) = mpsc::unbounded_channel();
        // Ends when the handle is closed.
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for origin in signals.forever().filter(|origin| !matches!(origin.cause, Cause::Kernel)) {
                if let Some(signal) = Signal::from_named_raw(origin.signal) {
                    // Fails when nobody waits any more.
                    let _told = told.send(signal);
                }
            }
        })?;
        Ok(SentSignals { handle, sent })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Option<Signal> {
        self.sent.recv().await
    }
}

impl Drop for SentSignals {
    fn drop(&mut self) {
        self.handle.close();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use rustix::process::{getpid, kill_process};
    use std::time::Duration;

    #[tokio::test]
    async fn what_a_process_sends_is_told() {
        let mut signals = SentSignals::listen(&[Signal::USR1, Signal::USR2]).unwrap();
        for signal in [Signal::USR2, Signal::USR1, Signal::USR1] {
            kill_process(getpid(), signal).unwrap();
            let told = tokio::time::timeout(Duration::from_secs(20), signals.next()).await.unwrap();
            assert_eq!(told, Some(signal));
        }
    }
}
