//! Three members of etcd, as Debian ships it, on loopback.
//!
//! Everything that decides durability and speed is left at etcd's defaults: fsync on, snapshots every `--snapshot-count` entries,
//! heartbeat 100 ms, election timeout 1 s. Only the backend quota is raised, because the default of 2 GiB would end a long run.

mod connection;
mod messages;
mod tls;

use crate::ports;
use crate::supervised::{Supervised, stop_all};
use crate::target::{Cluster, Endpoints};
use anyhow::{Context, bail};
pub(crate) use connection::EtcdConnection;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tls::TlsFiles;

/// The backend's quota: enough for hours of puts.
const QUOTA_BYTES: u64 = 8 << 30;
const NODES: usize = 3;
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a member that is starting is asked for its leader.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How to start etcd.
#[derive(Debug, Clone)]
pub(crate) struct EtcdSettings {
    pub(crate) program: PathBuf,
    pub(crate) endpoints: Endpoints,
    /// Mutual TLS, for peers as well as for clients.
    pub(crate) tls: bool,
}

/// See the module.
pub(crate) struct Etcd {
    processes: Vec<Supervised>,
    client_ports: Vec<u16>,
    endpoints: Endpoints,
    tls: Option<TlsFiles>,
}

/// Finds `etcd` on PATH.
pub(crate) fn find() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|program| program.is_file());
    found.context(
        "etcd is not on PATH. On Debian: apt-get install etcd-server (the service it starts is not needed: \
         systemctl disable --now etcd). Or name the binary with --etcd-bin FILE, or leave etcd out with --only raftkv",
    )
}

impl Etcd {
    /// Starts three members with their data below `folder`, and waits until all know a leader.
    pub(crate) async fn start(folder: &Path, settings: &EtcdSettings) -> anyhow::Result<Etcd> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let tls = if settings.tls { Some(TlsFiles::create(folder)?) } else { None };
        let client_ports = ports::free_runs(NODES)?;
        let mut etcd = Etcd { processes: Vec::new(), client_ports, endpoints: settings.endpoints, tls };
        for number in 0..NODES {
            let name = member_name(number);
            let arguments = etcd.arguments(number, &folder.join(&name));
            let log = folder.join(format!("{name}.log"));
            etcd.processes.push(Supervised::start(&format!("etcd {name}"), &settings.program, &arguments, log)?);
        }
        etcd.wait_for_leader().await?;
        Ok(etcd)
    }

    fn arguments(&self, number: usize, data: &Path) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_ports[number]);
        let peer = |number: usize| format!("{scheme}://127.0.0.1:{}", self.client_ports[number] + 1);
        let members: Vec<String> =
            (0..NODES).map(|number| format!("{}={}", member_name(number), peer(number))).collect();
        let mut arguments = vec![
            format!("--name={}", member_name(number)),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={}", peer(number)),
            format!("--initial-advertise-peer-urls={}", peer(number)),
            format!("--initial-cluster={}", members.join(",")),
            "--initial-cluster-state=new".to_owned(),
            format!("--quota-backend-bytes={QUOTA_BYTES}"),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        if let Some(files) = &self.tls {
            for prefix in ["", "peer-"] {
                arguments.push(format!("--{prefix}trusted-ca-file={}", files.authority.display()));
                arguments.push(format!("--{prefix}cert-file={}", files.certificate.display()));
                arguments.push(format!("--{prefix}key-file={}", files.key.display()));
                arguments.push(format!("--{prefix}client-cert-auth"));
            }
        }
        arguments
    }

    async fn wait_for_leader(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.check_running()?;
            let Err(error) = self.leader().await else { return Ok(()) };
            if Instant::now() > deadline {
                let logs: String = self.processes.iter().map(Supervised::log_tail).collect();
                return Err(error.context(format!("etcd has no leader after {} s\n{logs}", START_TIMEOUT.as_secs())));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The position of the leader, which all members agree on.
    async fn leader(&self) -> anyhow::Result<usize> {
        let mut members = Vec::new();
        for port in &self.client_ports {
            let status = EtcdConnection::open(*port, self.tls.as_ref()).await?.status().await?;
            let header = status.header.context("etcd answered without a header")?;
            members.push((header.member_id, status.leader));
        }
        let (_, leader) = members[0];
        if leader == 0 || members.iter().any(|(_, other)| *other != leader) {
            bail!("the members do not follow one leader: {members:?}");
        }
        members.iter().position(|(member, _)| *member == leader).context("the leader is not among the members")
    }
}

fn member_name(number: usize) -> String {
    format!("e{}", number + 1)
}

impl Cluster for Etcd {
    type Target = EtcdConnection;

    async fn connect(&self, connections: usize) -> anyhow::Result<Vec<EtcdConnection>> {
        let ports = match self.endpoints {
            Endpoints::Leader => vec![self.client_ports[self.leader().await?]],
            Endpoints::All => self.client_ports.clone(),
        };
        let mut opened = Vec::new();
        for port in ports.iter().cycle().take(connections) {
            opened.push(EtcdConnection::open(*port, self.tls.as_ref()).await?);
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
