//! A command that runs while something is held, and is ended when that is lost.
//!
//! When it is lost, the command and whatever it has started get SIGTERM, and SIGKILL if they are still there after a grace. While it runs, what somebody sends to
//! this program of SIGINT, SIGQUIT, SIGTERM and SIGHUP is passed on to all of them; a terminal's own SIGINT and SIGQUIT are not, since it sends those to all of us.
//! After a SIGTERM or SIGHUP the end of all is awaited, so that what it holds is let go only afterwards. A command that ends by itself may leave something
//! running. If this program is killed with SIGKILL, the system sends SIGTERM to the command, but not to what that has started, and nobody sees to their end: only
//! the fencing token in their environment protects from what they do then.
//!
//! Who belongs to the command is known because orphans become children of this program (`PR_SET_CHILD_SUBREAPER`) and have a mark in their environment, not by a
//! process group: a group of its own would take the terminal away from the command.

use crate::failure::Failure;
use crate::interrupt;
use crate::sent_signals::SentSignals;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_child_subreaper, set_parent_process_death_signal,
};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Runs a command with these variables in its environment until it ends, or until `lost` returns. On the main thread: the command ends with the
/// thread that has started it.
pub(crate) async fn run<L>(
    command: &[OsString],
    environment: &[(&str, OsString)],
    lost: impl Future<Output = L>,
    grace: Duration,
) -> Result<Ended<L>, Failure> {
    let (program, arguments) = command.split_first().expect("clap gives a command at least one word");
    let failed = |cause: &io::Error| Failure::io(&program.to_string_lossy(), cause);
    let deaf = |cause| Failure::other(format!("signals cannot be received: {cause}"));
    // From here on SIGINT does not end this program, nor a shell's command: the command that is run decides.
    interrupt::handle();
    let mut sent = SentSignals::listen(&[Signal::INT, Signal::QUIT]).map_err(deaf)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(deaf)?;
    adopt_orphans().map_err(|cause| Failure::other(format!("orphans cannot be adopted: {cause}")))?;
    let environment = environment.iter().map(|(name, value)| (*name, value));
    let mark = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new(program);
    command.args(arguments).envs(environment).env(MARK, &mark).kill_on_drop(true);
    end_with_this_thread(&mut command);
    let child = command.spawn().map_err(|cause| Failure::cannot_run(program, &cause))?;
    let mut family = Family { child, mark };
    let mut lost = std::pin::pin!(lost);
    let mut told_to_end = false;
    loop {
        tokio::select! {
            biased;
            status = family.child.wait() => {
                let status = status.map_err(|cause| failed(&cause))?;
                if told_to_end {
                    family.end(grace).await.map_err(|cause| failed(&cause))?;
                }
                return Ok(Ended::ByItself(code_of(status)));
            }
            loss = &mut lost => {
                family.end(grace).await.map_err(|cause| failed(&cause))?;
                return Ok(Ended::Lost(loss));
            }
            _ = terminate.recv() => {
                told_to_end = true;
                pass_on(&family, Signal::TERM);
            }
            _ = hang_up.recv() => {
                told_to_end = true;
                pass_on(&family, Signal::HUP);
            }
            Some(signal) = sent.next() => pass_on(&family, signal),
        }
    }
}

/// Has the system send SIGTERM to a command when the thread ends that starts it, as it does with this program, whatever ends that. It is not
/// SIGKILL, so that the command may tidy up, as after any other loss.
#[expect(
    unsafe_code,
    reason = "between fork and exec not everything is allowed, and only the caller knows what is done there"
)]
fn end_with_this_thread(command: &mut Command) {
    let parent = getpid();
    let in_child = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // Who has ended before that sends nothing any more.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: these are two system calls, which take no lock and allocate nothing.
    unsafe { command.pre_exec(in_child) };
}

fn pass_on(family: &Family, signal: Signal) {
    if let Err(error) = family.send(signal) {
        interrupt::tell(&error.to_string());
    }
}

/// How often it is looked whether all have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// In the environment of a command and of what it starts, so that orphans are known.
const MARK: &str = "RAFTKV_SUPERVISED";
/// Commands that this program has run.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// A command, and whatever it has started.
struct Family {
    child: Child,
    mark: String,
}

impl Family {
    /// SIGTERM to all, and SIGKILL if that does not help.
    async fn end(&mut self, grace: Duration) -> io::Result<()> {
        // Who may not be told to may listen all the same, such as to the end of what it reads from.
        let _told = self.send(Signal::TERM);
        let until = tokio::time::Instant::now() + grace;
        while self.is_there()? && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        // Again and again: they may start others meanwhile.
        while self.is_there()? {
            self.send(Signal::KILL)?;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    fn is_there(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none() || !self.members().is_empty())
    }

    /// To all. An error names the first that may not be told, such as one of another user.
    fn send(&self, signal: Signal) -> io::Result<()> {
        let mut outcome = Ok(());
        for pid in self.members() {
            match kill_process(pid, signal) {
                // It may end at this moment, which is what is wanted.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => {
                    let text = format!("process {pid} cannot be ended: {error}");
                    outcome = outcome.and(Err(io::Error::new(io::Error::from(error).kind(), text)));
                }
            }
        }
        outcome
    }

    /// All that are running.
    fn members(&self) -> Vec<Pid> {
        let own = std::process::id();
        let running: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, parent_of(pid)?)))
            .collect();
        // A child whose end has been awaited has no id any more, so nobody else can get its signal.
        let is_first = |pid: u32| self.child.id() == Some(pid) || is_marked(pid, &self.mark);
        let mut found: Vec<u32> =
            running.iter().filter(|(pid, parent)| *parent == own && is_first(*pid)).map(|(pid, _)| *pid).collect();
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(running.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
    }
}

/// Whether a process has the mark in the environment that it was started with.
fn is_marked(pid: u32, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|all| all.split(|byte| *byte == 0).any(|it| it == wanted.as_bytes()))
}

/// The parent of a process that runs: not of one that has ended and is only waited for.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.next()?.parse().ok() }
}

/// From now on what outlives its parent is a child of this program, not of the system's first.
fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
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
    use crate::failure::Code;
    use std::ffi::OsStr;
    use std::os::unix::fs::PermissionsExt;
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

    /// Of a process that a shell has written the number of into a file.
    fn runs(file: &std::path::Path) -> bool {
        parent_of(fs::read_to_string(file).unwrap().trim().parse().unwrap()).is_some()
    }

    #[tokio::test]
    async fn what_the_command_has_started_ends_with_it() {
        for script in
            ["sleep 600 & echo $! >PIDS; wait", "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >PIDS; sleep 600; :'; :"]
        {
            let folder = tempfile::tempdir().unwrap();
            let pids = folder.path().join("pids");
            let lost = async {
                while fs::read_to_string(&pids).map_or(true, |text| text.trim().is_empty()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let script = script.replace("PIDS", &pids.display().to_string());
            let ended = run(&shell(&script), &[], lost, Duration::from_millis(200)).await.unwrap();
            assert_eq!(ended, Ended::Lost(()));
            assert!(!runs(&pids), "{script}");
        }
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
        assert_eq!(failure.code, Code::CommandNotFound);
    }

    #[tokio::test]
    async fn what_is_there_and_no_command_is_told_apart_from_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (text, script) = (folder.path().join("text"), folder.path().join("script"));
        fs::write(&text, "exit 3\n").unwrap();
        fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        let never = std::future::pending::<()>;
        for (program, code) in [
            (text.as_os_str(), Code::CommandNotExecutable),
            (folder.path().as_os_str(), Code::CommandNotExecutable),
            (script.as_os_str(), Code::CommandNotFound),
            (OsStr::new("no-command-of-this-name"), Code::CommandNotFound),
        ] {
            let failure = run(&[program.to_owned()], &[], never(), DEADLINE).await.unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.next.is_some(), "{failure}");
        }
    }
}
