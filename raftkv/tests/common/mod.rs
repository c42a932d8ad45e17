//! A cluster of real processes for tests: real certificates, real disks, `kill -9`.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses part of this, and a test that cannot go on fails"
)]

use raftkv::config::{Config, FILE_NAME};
use raftkv::http::fetch_status;
use raftkv::ports::free_runs_of_three;
use raftkv::status::NodeStatus;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The binary `raftkv`.
pub const RAFTKV: &str = env!("CARGO_BIN_EXE_raftkv");

/// The binary `raftkv-cli`, which `make test` builds beside it.
pub fn cli_binary() -> PathBuf {
    let path = Path::new(RAFTKV).with_file_name("raftkv-cli");
    assert!(path.exists(), "{} is missing; build it first: cargo build --release --workspace --bins", path.display());
    path
}

/// Waits until `condition` gives something, or fails the test with what it was waiting for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "after {} s still waiting for {what}", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One node: its directory and, while it runs, its process.
pub struct TestNode {
    pub name: String,
    pub folder: PathBuf,
    pub config: Config,
    pub child: Option<Child>,
}

impl TestNode {
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = Command::new(RAFTKV)
            .args(["start", "--dir"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{} had ended by itself ({status}):\n{}", self.name, self.log());
    }

    /// SIGSTOP, and waits until every thread of it stands still.
    pub async fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.as_ref().expect("it runs").id());
        eventually("the process to stand still", || async {
            let stopped = |task: fs::DirEntry| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
            };
            fs::read_dir(&tasks).ok()?.filter_map(Result::ok).all(stopped).then_some(())
        })
        .await;
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// SIGTERM, and waits until it is gone.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        wait_for_exit(&mut self.child.take().expect("it runs"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child.take().expect("it runs"))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub async fn status(&self) -> Option<NodeStatus> {
        fetch_status(self.config.node.listen_http.unwrap()).await
    }

    pub fn client_address(&self) -> &str {
        &self.config.own_member().client
    }

    pub fn data(&self) -> PathBuf {
        self.config.node.data_dir.clone()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "process {} does not end", child.id());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A provisioned cluster.
pub struct Cluster {
    pub nodes: Vec<TestNode>,
    pub folder: TempDir,
}

impl Cluster {
    /// Provisions with `raftkv init`; starts nothing.
    pub fn provision(count: u16) -> Cluster {
        Cluster::provision_with(count, &[])
    }

    /// Provisions with further arguments for `raftkv init`.
    pub fn provision_with(count: u16, arguments: &[&str]) -> Cluster {
        let folder = tempfile::Builder::new().prefix("raftkv-test-").tempdir().unwrap();
        let out = folder.path().join("out");
        let mut init = Command::new(RAFTKV);
        init.args(["init", "--dir"]).arg(&out).args(arguments);
        for (number, port) in free_runs_of_three(count).unwrap().into_iter().enumerate() {
            init.arg("--node").arg(format!("n{}=127.0.0.1:{port}", number + 1));
        }
        let output = init.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let nodes = (1..=count)
            .map(|number| {
                let name = format!("n{number}");
                let folder = out.join(&name);
                let config = Config::load(&folder.join(FILE_NAME)).unwrap();
                TestNode { name, folder, config, child: None }
            })
            .collect();
        Cluster { nodes, folder }
    }

    /// Provisions, starts every node and waits for a leader that all of them know.
    pub async fn start(count: u16) -> Cluster {
        let mut cluster = Cluster::provision(count);
        cluster.start_all().await;
        cluster
    }

    pub async fn start_all(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        self.agreed_leader().await;
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Waits until every running node follows one leader, which leads; returns its position.
    pub async fn agreed_leader(&mut self) -> usize {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.assert_running();
            if let Some(leader) = self.leader_now().await {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader that all follow\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leader_now(&self) -> Option<usize> {
        let mut statuses = Vec::new();
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            statuses.push(node.status().await?);
        }
        let leader = statuses.first()?.leader?;
        let term = statuses.first()?.term;
        let agreed = statuses.iter().all(|status| status.leader == Some(leader) && status.term == term);
        let leads = statuses.iter().any(|status| status.node == leader && status.role == "leader");
        (agreed && leads).then(|| self.nodes.iter().position(|node| node.config.node.id == leader)).flatten()
    }

    /// Fails the test if a node has ended by itself.
    pub fn assert_running(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("{} has ended by itself ({status}):\n{}", node.name, node.log());
            }
        }
    }

    /// Waits until every node has applied the same index, and returns all statuses at that index.
    pub async fn settled(&mut self) -> Vec<NodeStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.assert_running();
            let mut statuses = Vec::new();
            for node in &self.nodes {
                statuses.extend(node.status().await);
            }
            let first = statuses.first().map(|status| status.state_applied);
            if statuses.len() == self.nodes.len()
                && statuses
                    .iter()
                    .all(|status| Some(status.state_applied) == first && status.commit == status.state_applied)
            {
                return statuses;
            }
            assert!(Instant::now() < deadline, "nodes do not settle: {statuses:#?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn logs(&self) -> String {
        let tail = |node: &TestNode| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {}\n{}", node.name, lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// All clients' addresses, comma-separated.
    pub fn endpoints(&self) -> String {
        self.nodes.iter().map(TestNode::client_address).collect::<Vec<_>>().join(",")
    }

    /// `raftkv-cli` with the admin's certificate and these endpoints, ready for arguments.
    pub fn cli_at(&self, endpoints: &str) -> Command {
        let admin = self.out().join("admin");
        let mut command = Command::new(cli_binary());
        command
            .env("RAFTKV_ENDPOINTS", endpoints)
            .env("RAFTKV_CA", admin.join("ca.crt"))
            .env("RAFTKV_CERT", admin.join("client.crt"))
            .env("RAFTKV_KEY", admin.join("client.key"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `raftkv-cli` against all nodes.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_at(&self.endpoints()).args(arguments).output().unwrap()
    }

    /// A client that starts from one node.
    pub fn client_at(&self, node: usize) -> client::Client {
        self.client_with(vec![self.nodes[node].client_address().to_owned()])
    }

    /// A client that knows all nodes.
    pub fn client(&self) -> client::Client {
        self.client_with(self.nodes.iter().map(|node| node.client_address().to_owned()).collect())
    }

    /// A client that knows all nodes, and begins with one of them.
    pub fn client_from(&self, node: usize) -> client::Client {
        let ordered = (0..self.nodes.len()).map(|offset| (node + offset) % self.nodes.len());
        self.client_with(ordered.map(|node| self.nodes[node].client_address().to_owned()).collect())
    }

    /// The admin's certificate.
    pub fn credentials(&self) -> client::Credentials {
        let admin = self.out().join("admin");
        client::Credentials::load(&client::CredentialPaths {
            authority: admin.join("ca.crt"),
            certificate: admin.join("client.crt"),
            key: admin.join("client.key"),
        })
        .unwrap()
    }

    fn client_with(&self, endpoints: Vec<String>) -> client::Client {
        client::Client::builder()
            .endpoints(endpoints)
            .credentials(self.credentials())
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap()
    }
}

/// What a command wrote to stderr, for messages of assertions.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the node that `client` starts from has applied for `key`.
pub async fn get_stale(client: &client::Client, key: impl Into<bytes::Bytes>) -> Option<client::KeyValue> {
    let get = client::Get::new(key).level(client::Level::Stale { age_max: None });
    client.get(get).await.unwrap().kv
}
