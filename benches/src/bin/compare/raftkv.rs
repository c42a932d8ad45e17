//! Three nodes of raftkv on loopback, provisioned and started as an operator does it: `raftkv init`, then `raftkv start` for each.
//!
//! All settings are those that `raftkv init` writes. Clients are the `client` crate with the admin's certificate, so every byte goes
//! through QUIC with mutual TLS 1.3, between the nodes as well.

use crate::ports;
use crate::supervised::{Supervised, stop_all};
use crate::target::{Cluster, Endpoints, Target};
use anyhow::{Context, bail};
use bytes::Bytes;
use client::{Client, CredentialPaths, Credentials};
use serde::Deserialize;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODES: usize = 3;
/// The status page's port, counted from a node's client port.
const STATUS_PORT_OFFSET: u16 = 2;
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a node that is starting is asked for its leader.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a status page may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// The most that is read of one.
const STATUS_BYTES_MAX: u64 = 64 << 10;
/// How long one operation may take, retries included.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Raftkv {
    processes: Vec<Supervised>,
    client_ports: Vec<u16>,
    admin: PathBuf,
    endpoints: Endpoints,
}

/// The part of a node's status page that matters here.
#[derive(Deserialize)]
struct NodeStatus {
    node: u64,
    leader: Option<u64>,
}

/// Finds the binary `raftkv` in `folder`, or else beside this one.
pub(crate) fn find(folder: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match folder {
        Some(folder) => folder.join("raftkv"),
        None => std::env::current_exe().context("cannot find this binary")?.with_file_name("raftkv"),
    };
    if !program.is_file() {
        bail!(
            "{} is missing. Build it with: cargo build --release -p raftkv, or say where it is with --raftkv-bin DIR, \
             or leave raftkv out with --only etcd",
            program.display()
        );
    }
    Ok(program)
}

impl Raftkv {
    /// Provisions a cluster below `folder`, starts it, and waits until all nodes know a leader.
    pub(crate) async fn start(folder: &Path, program: &Path, endpoints: Endpoints) -> anyhow::Result<Raftkv> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let client_ports = ports::free_runs(NODES)?;
        let out = folder.join("cluster");
        let mut init = Command::new(program);
        init.args(["init", "--dir"]).arg(&out);
        for (number, port) in client_ports.iter().enumerate() {
            init.arg("--node").arg(format!("{}=127.0.0.1:{port}", node_name(number)));
        }
        let output = init.output().with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            bail!("raftkv init failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let mut raftkv = Raftkv { processes: Vec::new(), client_ports, admin: out.join("admin"), endpoints };
        for number in 0..NODES {
            let name = node_name(number);
            let arguments = ["start".into(), "--dir".into(), out.join(&name).into_os_string()];
            let log = folder.join(format!("{name}.log"));
            raftkv.processes.push(Supervised::start(&format!("raftkv {name}"), program, &arguments, log)?);
        }
        raftkv.wait_for_leader().await?;
        Ok(raftkv)
    }

    async fn wait_for_leader(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.check_running()?;
            if self.leader().await.is_some() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let logs: String = self.processes.iter().map(Supervised::log_tail).collect();
                bail!("raftkv has no leader after {} s\n{logs}", START_TIMEOUT.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The position of the leader, if all nodes agree on one.
    async fn leader(&self) -> Option<usize> {
        let mut statuses = Vec::new();
        for port in &self.client_ports {
            statuses.push(status(port + STATUS_PORT_OFFSET).await?);
        }
        let leader = statuses[0].leader?;
        let agreed = statuses.iter().all(|status| status.leader == Some(leader));
        statuses.iter().position(|status| agreed && status.node == leader)
    }
}

/// The status page of one node; `None` if it does not answer.
async fn status(port: u16) -> Option<NodeStatus> {
    let fetch = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.take(STATUS_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        serde_json::from_slice(&answer[body..]).ok()
    };
    tokio::time::timeout(STATUS_TIMEOUT, fetch).await.ok().flatten()
}

fn node_name(number: usize) -> String {
    format!("n{}", number + 1)
}

impl Cluster for Raftkv {
    type Target = RaftkvConnection;

    async fn connect(&self, connections: usize) -> anyhow::Result<Vec<RaftkvConnection>> {
        let mut ports = self.client_ports.clone();
        let leader = self.leader().await.context("raftkv has lost its leader")?;
        ports.rotate_left(leader);
        let mut opened = Vec::new();
        for _ in 0..connections {
            let file = |name: &str| self.admin.join(name);
            let paths =
                CredentialPaths { authority: file("ca.crt"), certificate: file("client.crt"), key: file("client.key") };
            let client = Client::builder()
                .endpoints(ports.iter().map(|port| format!("127.0.0.1:{port}")))
                .credentials(Credentials::load(&paths).context("cannot load the admin's certificate")?)
                .timeout(OPERATION_TIMEOUT)
                .build()
                .context("cannot make a client")?;
            opened.push(RaftkvConnection { client });
            // A client reads from the first endpoint that answers.
            if self.endpoints == Endpoints::All {
                ports.rotate_left(1);
            }
        }
        Ok(opened)
    }

    fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().map(Supervised::id).collect()
    }

    fn check_running(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Supervised::check_running)
    }

    async fn stop(self) -> anyhow::Result<()> {
        stop_all(self.processes).await
    }
}

/// One client of the `client` crate, with its own connection; it finds the leader by itself.
#[derive(Clone)]
pub(crate) struct RaftkvConnection {
    client: Client,
}

impl Target for RaftkvConnection {
    async fn put(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        self.client.put((key, value)).await?;
        Ok(())
    }

    async fn get(&self, key: Bytes) -> anyhow::Result<Option<Bytes>> {
        Ok(self.client.get(key).await?.kv.map(|pair| pair.value))
    }
}
