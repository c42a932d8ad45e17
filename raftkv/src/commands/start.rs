//! `raftkv start`.

use super::Failure;
use anyhow::{Context, anyhow, bail};
use raftkv::config::{Config, FILE_NAME, LogFormat};
use raftkv::exit::{OTHER, USAGE};
use raftkv::{FatalError, NoObserver, Server};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  raftkv start --dir n1\n  raftkv start --config /etc/raftkv/raftkv.toml --data-dir /var/lib/raftkv"
)]
pub(crate) struct Arguments {
    /// A node's directory as `raftkv init` writes it: its configuration is raftkv.toml in there
    #[arg(long, required_unless_present = "config", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// A node's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the data here instead of node.data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// End when the process with this id, which must be the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<i32>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(parent) = arguments.exit_with_parent {
        die_with_parent(parent)?;
    }
    let path = match (&arguments.config, &arguments.dir) {
        (Some(path), _) => path.clone(),
        (None, Some(dir)) => dir.join(FILE_NAME),
        (None, None) => return Err(Failure::new(USAGE, anyhow!("neither --dir nor --config"))),
    };
    let mut config = Config::load(&path).map_err(|error| Failure::new(USAGE, error))?;
    if let Some(data_dir) = &arguments.data_dir {
        config.node.data_dir.clone_from(data_dir);
    }
    start_logging(&config)?;
    abort_on_panic();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut server = Server::start(config, Box::new(NoObserver)).await?;
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("serving")]);
    let failure = tokio::select! {
        failure = server.failed() => Some(failure),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    match failure {
        // What the next start repairs by itself wants no person: an ordinary failure, after which systemd starts again.
        Some(failure) if server.remember(&failure) => Err(Failure::new(OTHER, failure)),
        // The reason is logged already.
        Some(FatalError::Removed { .. }) => Ok(server.stop().await?),
        Some(failure) => Err(failure.into()),
        None => {
            tracing::info!("stopping");
            Ok(server.stop().await?)
        }
    }
}

/// Tells systemd, if it listens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

fn die_with_parent(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask the kernel to end this process with its parent")?;
    if getppid() != Pid::from_raw(parent) {
        bail!("process {parent} is not the parent, or has ended already");
    }
    Ok(())
}

fn start_logging(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.logging.level).map_err(|error| {
        let level = &config.logging.level;
        let what =
            format!("logging.level: `{level}` is not a level or filter; write error, warn, info, debug or trace");
        Failure::new(USAGE, anyhow!(error).context(what))
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.logging.format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// A panic anywhere ends the process: half a node must not go on talking to the others.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!("panic, the node stops: {panic}\n{backtrace}");
        std::process::abort();
    }));
}
