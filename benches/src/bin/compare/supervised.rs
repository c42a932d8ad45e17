//! Processes that do not outlive this one.
//!
//! A store's node is started by this very binary, run as `compare --supervised PARENT PROGRAM …`: it asks the kernel to kill it when its
//! parent ends (`PR_SET_PDEATHSIG`, which survives `exec`), checks that the parent is still there, and turns into the program. So nothing
//! is left running even if the comparison is killed outright. In all other cases dropping a [`Supervised`] ends it.
//!
//! The kernel sends that signal when the *thread* that spawned the child ends, so everything is spawned on the main thread.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first argument that makes this binary turn into another.
pub(crate) const FLAG: &str = "--supervised";
/// How long a node may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a child that is stopping is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of its log a message quotes.
const LOG_LINES: usize = 12;

/// Turns this process into `arguments`: the parent's id, a program, and what to tell it. Returns only when that fails.
pub(crate) fn become_program(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Error {
    let parent = arguments.next().and_then(|text| text.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let (Some(parent), Some(program)) = (parent, arguments.next()) else {
        return anyhow::anyhow!("{FLAG} is for this program's own use: PARENT PROGRAM [ARGUMENT…]");
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::Error::new(error).context("cannot ask the kernel to end this process with its parent");
    }
    if getppid() != Some(parent) {
        return anyhow::anyhow!("process {parent} has ended already");
    }
    let error = Command::new(&program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("cannot run {}", Path::new(&program).display()))
}

/// A child process with its log.
pub(crate) struct Supervised {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Supervised {
    /// Starts `program`; what it prints goes to `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[A],
        log: PathBuf,
    ) -> anyhow::Result<Supervised> {
        let output = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("cannot share {}", log.display()))?;
        let own_binary = std::env::current_exe().context("cannot find this binary")?;
        let child = Command::new(own_binary)
            .arg(FLAG)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C in a terminal reaches this program alone, which then stops its nodes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Supervised { name: name.to_owned(), log, child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails, quoting its log, if it has ended.
    pub(crate) fn check_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("cannot look after {}", self.name))? {
            bail!("{} has ended by itself ({status}); the end of its log:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// The end of its log, indented.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("  {line}\n")).collect()
    }

    fn terminate(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may have ended since; then there is nothing to stop.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks all of them to end, and waits; whoever takes longer than [`STOP_TIMEOUT`] is killed, which is an error.
pub(crate) async fn stop_all(mut processes: Vec<Supervised>) -> anyhow::Result<()> {
    for process in &mut processes {
        process.terminate();
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    for process in &mut processes {
        while process.child.try_wait().with_context(|| format!("cannot wait for {}", process.name))?.is_none() {
            if Instant::now() > deadline {
                bail!(
                    "{} did not stop within {} s and was killed; the end of its log:\n{}",
                    process.name,
                    STOP_TIMEOUT.as_secs(),
                    process.log_tail()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}
