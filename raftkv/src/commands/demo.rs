//! `raftkv demo`: a whole cluster of real processes on this machine.
//!
//! Each node is this very binary run as `raftkv start`, with real certificates and its own directory. Nothing is left running
//! however the demo ends: on a signal it stops its nodes and waits for them; if it is killed outright, the kernel kills them
//! (`PR_SET_PDEATHSIG`, which each node asks for when it starts).

use super::Failure;
use anyhow::{Context, anyhow, bail};
use raftkv::config::{Config, FILE_NAME};
use raftkv::exit::{UNSAFE, USAGE};
use raftkv::http;
use raftkv::ports::free_runs_of_three;
use raftkv::provision::{ClusterSettings, NodeSpec, provision, random_cluster_id};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long the nodes may take until one of them leads.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a condition that nobody announces is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Nodes, if it is not said how many.
const NODES: u16 = 3;
/// The first node's client port, if none is given.
const BASE_PORT: u16 = 7420;
/// The distance between the ports of two nodes.
const PORT_STRIDE: u16 = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many nodes, one to seven [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: Option<u16>,
    /// Where to keep everything; used again if a demo ran there before [default: a temporary directory, removed at the end]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The first node's client port; the others follow in steps of ten. 0 picks ports that are free [default: 7420]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
}

struct NodeProcess {
    name: String,
    config: Config,
    folder: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // The nodes are spawned by this thread and die with it, so everything stays on it.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let (folder, temporary) = match &arguments.dir {
        Some(folder) => (folder.clone(), false),
        None => (std::env::temp_dir().join(format!("raftkv-demo-{}", std::process::id())), true),
    };
    let result = runtime.block_on(demo(arguments, &folder));
    if temporary && folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    result
}

async fn demo(arguments: &Arguments, folder: &Path) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut child_changed = signal(SignalKind::child()).context("cannot listen for SIGCHLD")?;

    let names = prepare(arguments, folder)?;
    let _lock = lock(folder)?;
    let mut nodes = Vec::new();
    let started = async {
        for name in &names {
            nodes.push(start(folder, name)?);
        }
        wait_for_leader(&mut nodes).await?;
        write_env(folder, &nodes)?;
        say(&greeting(folder, &nodes));
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = started => outcome,
        _ = interrupt.recv() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
        _ = hang_up.recv() => Err(anyhow!("the terminal is gone")),
    };
    if let Err(error) = outcome {
        stop(&mut nodes).await;
        return Err(error.into());
    }
    let outcome = loop {
        tokio::select! {
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
            _ = hang_up.recv() => break Ok(()),
            _ = child_changed.recv() => {
                if report_ended(&mut nodes)? {
                    break Err(anyhow!("every node has ended; their logs are in {}/*/log", folder.display()).into());
                }
            }
        }
    };
    say("\nStopping.\n");
    stop(&mut nodes).await;
    outcome
}

/// Keeps a second demo off the directory, for as long as the result lives.
fn lock(folder: &Path) -> Result<fs::File, Failure> {
    let directory = fs::File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    match rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let folder = folder.display();
            Err(Failure::new(UNSAFE, anyhow!("a demo runs in {folder} already; end it first, or choose another --dir")))
        }
        Err(error) => Err(anyhow!(error).context(format!("cannot lock {}", folder.display())).into()),
    }
}

/// Provisions the cluster, or takes up the one a former demo left. Returns the nodes' names.
fn prepare(arguments: &Arguments, folder: &Path) -> Result<Vec<String>, Failure> {
    if folder.join("ca").join("ca.crt").exists() {
        let mut names: Vec<String> = fs::read_dir(folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().join(FILE_NAME).exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        refuse_other_cluster(arguments, folder, &names)?;
        say(&format!("Using the cluster of {} nodes in {} again.\n", names.len(), folder.display()));
        return Ok(names);
    }
    let (nodes, base_port) = (arguments.nodes.unwrap_or(NODES), arguments.base_port.unwrap_or(BASE_PORT));
    let ports = if base_port == 0 {
        free_runs_of_three(nodes).context("cannot choose ports")?
    } else {
        if base_port.checked_add(PORT_STRIDE * (nodes - 1) + 2).is_none() {
            return Err(Failure::new(USAGE, anyhow!("--base-port {base_port} leaves no room for the nodes' ports")));
        }
        (0..nodes).map(|number| base_port + PORT_STRIDE * number).collect()
    };
    let specs: Vec<NodeSpec> = ports
        .iter()
        .enumerate()
        .map(|(number, port)| NodeSpec { name: format!("n{}", number + 1), host: "127.0.0.1".to_owned(), port: *port })
        .collect();
    provision(folder, &random_cluster_id(), &specs, ClusterSettings::default())
        .map_err(|error| Failure::new(USAGE, error))?;
    Ok(specs.into_iter().map(|spec| spec.name).collect())
}

/// What was asked for must be what is there: nodes and ports of a cluster stay what they were.
fn refuse_other_cluster(arguments: &Arguments, folder: &Path, names: &[String]) -> Result<(), Failure> {
    let refuse = |is: String, option: &str| {
        let folder = folder.display();
        Err(Failure::new(USAGE, anyhow!("the cluster in {folder} {is}; leave {option} out, or choose another --dir")))
    };
    if arguments.nodes.is_some_and(|nodes| usize::from(nodes) != names.len()) {
        return refuse(format!("has {} nodes", names.len()), "--nodes");
    }
    // 0 asks for no port in particular.
    if let (Some(asked), Some(first)) = (arguments.base_port.filter(|port| *port != 0), names.first()) {
        let config = Config::load(&folder.join(first).join(FILE_NAME)).map_err(|error| Failure::new(USAGE, error))?;
        let port = config.listen_client().port();
        if port != asked {
            return refuse(format!("has its first node at port {port}"), "--base-port");
        }
    }
    Ok(())
}

fn start(folder: &Path, name: &str) -> anyhow::Result<NodeProcess> {
    let own = folder.join(name);
    let config = Config::load(&own.join(FILE_NAME))?;
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(own.join("log"))
        .with_context(|| format!("cannot open {}/log", own.display()))?;
    let binary = std::env::current_exe().context("cannot find this binary")?;
    let child = Command::new(binary)
        .args(["start", "--dir"])
        .arg(&own)
        .args(["--exit-with-parent", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .env_remove("NOTIFY_SOCKET")
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    fs::write(own.join("pid"), format!("{}\n", child.id()))
        .with_context(|| format!("cannot write {}/pid", own.display()))?;
    Ok(NodeProcess { name: name.to_owned(), config, folder: own, child, ended: None })
}

async fn wait_for_leader(nodes: &mut [NodeProcess]) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut ready = vec![false; nodes.len()];
    loop {
        for (node, ready) in nodes.iter_mut().zip(&mut ready) {
            if let Some(status) = node.child.try_wait().context("cannot look after a node")? {
                bail!("{} ended while starting ({status}):\n{}", node.name, log_tail(&node.folder));
            }
            let address = node.config.node.listen_http.context("a demo node has a status page")?;
            if !*ready && let Some(status) = http::fetch_status(address).await {
                // Whoever else may answer there does not count.
                let is_ours = status.cluster == node.config.cluster.id && status.node == node.config.node.id;
                *ready = is_ours && status.leader.is_some();
            }
        }
        if ready.iter().all(|ready| *ready) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let logs: Vec<String> =
                nodes.iter().map(|node| format!("{}:\n{}", node.name, log_tail(&node.folder))).collect();
            bail!("no leader after {} s\n{}", START_TIMEOUT.as_secs(), logs.join("\n"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn log_tail(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].iter().map(|line| format!("  {line}\n")).collect()
}

fn write_env(folder: &Path, nodes: &[NodeProcess]) -> anyhow::Result<()> {
    let folder = folder.canonicalize().with_context(|| format!("cannot resolve {}", folder.display()))?;
    let list = |address: &dyn Fn(&NodeProcess) -> String| nodes.iter().map(address).collect::<Vec<_>>().join(",");
    let http = |node: &NodeProcess| node.config.node.listen_http.map(|address| address.to_string()).unwrap_or_default();
    let admin = folder.join("admin");
    let variables = [
        ("RAFTKV_ENDPOINTS", list(&|node| node.config.own_member().client.clone())),
        ("RAFTKV_CA", admin.join("ca.crt").display().to_string()),
        ("RAFTKV_CERT", admin.join("client.crt").display().to_string()),
        ("RAFTKV_KEY", admin.join("client.key").display().to_string()),
        ("RAFTKV_HTTP", list(&http)),
    ];
    let text: String =
        variables.iter().map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''"))).collect();
    let path = folder.join("env");
    let temporary = folder.join(".env.tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn greeting(folder: &Path, nodes: &[NodeProcess]) -> String {
    let mut text =
        format!("\n{} nodes are running, each a process of its own, with mutual TLS between them:\n\n", nodes.len());
    for node in nodes {
        let member = node.config.own_member();
        text.push_str(&format!(
            "  {:4} clients {}  pid {}  {}\n",
            node.name,
            member.client,
            node.child.id(),
            node.folder.display()
        ));
    }
    text.push_str(&format!(
        "\nTry, in another terminal:\n\n  . {}/env\n  raftkv-cli put greeting hello\n  raftkv-cli get greeting\n  raftkv-cli status\n\n\
         Ctrl-C ends it.\n",
        folder.display()
    ));
    text
}

/// Says which nodes have ended since the last look, and whether all have.
fn report_ended(nodes: &mut [NodeProcess]) -> anyhow::Result<bool> {
    for node in nodes.iter_mut().filter(|node| node.ended.is_none()) {
        if let Some(status) = node.child.try_wait().context("cannot look after a node")? {
            node.ended = Some(status);
            say(&format!(
                "{} has ended ({status}); start it again with: raftkv start --dir {}\n",
                node.name,
                node.folder.display()
            ));
        }
    }
    Ok(nodes.iter().all(|node| node.ended.is_some()))
}

async fn stop(nodes: &mut [NodeProcess]) {
    for node in nodes.iter_mut() {
        if matches!(node.child.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_child(&node.child);
            // It may have ended since; then there is nothing to stop.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    for node in nodes.iter_mut() {
        while matches!(node.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                say(&format!("{} did not stop within {} s and is killed\n", node.name, STOP_TIMEOUT.as_secs()));
                let _ = node.child.kill();
                let _ = node.child.wait();
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let _ = fs::remove_file(node.folder.join("pid"));
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away does not stop the cluster.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
