//! A command that runs while something is held, and is ended when that is lost.
//!
//! When it is lost, the command gets SIGTERM, and SIGKILL if it is still there after a grace. While it runs, SIGINT is left to it (a
//! terminal sends that to both of us), and SIGTERM is passed on; either way its end is awaited, so that what it holds is let go only
//! afterwards. What is ended is the command, not what it has started itself. If this program is killed with SIGKILL, the command goes on:
//! only the fencing token in its environment protects from that.

use crate::failure::Failure;
use crate::interrupt;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended<L> {
    /// By itself, or by a signal that was not ours.
    ByItself(u8),
    /// By us, because what was held is lost.
    Lost(L),
}

/// Runs a command with these variables in its environment until it ends, or until `lost` returns.
pub(crate) async fn run<L>(
    command: &[OsString],
    environment: &[(&str, OsString)],
    lost: impl Future<Output = L>,
    grace: Duration,
) -> Result<Ended<L>, Failure> {
    let (program, arguments) = command.split_first().expect("clap gives a command at least one word");
    let failed = |cause: &io::Error| Failure::io(&program.to_string_lossy(), cause);
    let handler = |kind| signal(kind).map_err(|cause| Failure::other(format!("signals cannot be received: {cause}")));
    // From here on SIGINT does not end this program, nor a shell's command: the command that is run decides.
    interrupt::handle();
    let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    let environment = environment.iter().map(|(name, value)| (*name, value));
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment)
        .kill_on_drop(true)
        .spawn()
        .map_err(|cause| failed(&cause))?;
    let mut lost = std::pin::pin!(lost);
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return Ok(Ended::ByItself(code_of(status.map_err(|cause| failed(&cause))?))),
            loss = &mut lost => {
                end(&mut child, grace).await.map_err(|cause| failed(&cause))?;
                return Ok(Ended::Lost(loss));
            }
            _ = terminate.recv() => send(&child, Signal::TERM),
            _ = interrupt.recv() => {}
        }
    }
}

/// SIGTERM, and SIGKILL if that does not help.
async fn end(child: &mut Child, grace: Duration) -> io::Result<()> {
    send(child, Signal::TERM);
    match tokio::time::timeout(grace, child.wait()).await {
        Ok(ended) => ended.map(|_| ()),
        Err(_) => child.kill().await,
    }
}

fn send(child: &Child, signal: Signal) {
    // A child whose end has been awaited has no id any more, so nobody else can get its signal.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It fails if the command ends at this moment, which is what is wanted.
        let _sent = kill_process(pid, signal);
    }
}

/// As a shell has it: 128 and the signal for a command that a signal has ended.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::time::Instant;

    /// Longer than anything here takes.
    const DEADLINE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Vec<OsString> {
        ["sh", "-c", script].map(Into::into).to_vec()
    }

    #[tokio::test]
    async fn the_exit_code_is_passed_on_and_the_environment_is_there() {
        let never = std::future::pending::<()>();
        let environment = [("RAFTKV_FENCING_TOKEN", "7".into())];
        let ended = run(&shell("exit $RAFTKV_FENCING_TOKEN"), &environment, never, DEADLINE).await.unwrap();
        assert_eq!(ended, Ended::ByItself(7));
        let never = std::future::pending::<()>();
        assert_eq!(run(&shell("kill -9 $$"), &[], never, DEADLINE).await.unwrap(), Ended::ByItself(137));
    }

    #[tokio::test]
    async fn a_command_gets_sigterm_when_what_it_needs_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, goodbye) = (folder.path().join("ready"), folder.path().join("goodbye"));
        let script = format!(
            "trap 'touch {}; exit 0' TERM; touch {}; while true; do sleep 0.01; done",
            goodbye.display(),
            ready.display()
        );
        let began = Instant::now();
        let lost = async {
            while !ready.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            "gone"
        };
        assert_eq!(run(&shell(&script), &[], lost, DEADLINE).await.unwrap(), Ended::Lost("gone"));
        assert!(goodbye.exists(), "the command had no chance to say goodbye");
        assert!(began.elapsed() < DEADLINE, "it was waited for the whole grace");
    }

    #[tokio::test]
    async fn a_command_that_does_not_listen_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let script = format!("trap '' TERM; touch {}; while true; do sleep 0.01; done", ready.display());
        let lost = async {
            while !ready.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = run(&shell(&script), &[], lost, Duration::from_millis(50)).await.unwrap();
        assert_eq!(ended, Ended::Lost(()));
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_named() {
        let missing = ["/nonexistent/program".into()];
        let failure = run(&missing, &[], std::future::pending::<()>(), DEADLINE).await.unwrap_err();
        assert!(failure.cause.contains("/nonexistent/program"), "{failure}");
    }
}
