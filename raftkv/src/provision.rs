//! `raftkv init`: provisions a whole cluster offline.
//!
//! ```text
//! OUT/ca/     ca.crt ca.key                            stays with the operator
//! OUT/admin/  ca.crt client.crt client.key env         for raftkv-cli
//! OUT/<node>/ raftkv.toml ca.crt node.crt node.key     ready to copy to the node
//! ```
//!
//! Nothing is overwritten: an existing `OUT` that is not empty is refused. Everything is written under a temporary name beside
//! `OUT` and renamed at the end, so a crash leaves nothing that looks finished.

use crate::amnesia::FIRST_START;
use crate::config::{
    ClusterConfig, Config, FILE_NAME, LimitsConfig, LoggingConfig, MemberConfig, NodeConfig, StorageConfig, TlsConfig,
    check_address, is_new_node_name,
};
use anyhow::{Context, bail};
use raft::NodeId;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use storage::state::STATE_FORMAT;
use transport::ClusterId;
use transport::{Authority, IssuedCertificate, LEAF_VALIDITY, Validity};

/// The client port when an address names none.
pub const DEFAULT_CLIENT_PORT: u16 = 7420;

/// One node to provision: `NAME=HOST[:PORT]`. Clients use PORT, peers PORT+1, the status page PORT+2 on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// The node's name.
    pub name: String,
    /// Where the others reach it, without port.
    pub host: String,
    /// Its client port.
    pub port: u16,
}

impl FromStr for NodeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeSpec, String> {
        let (name, address) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not a node; write NAME=HOST:PORT, such as n1=10.0.0.1:7420"))?;
        if !is_new_node_name(name) || matches!(name, "ca" | "admin") {
            return Err(format!(
                "`{name}` cannot name a node: 1 to 63 characters of a-z, A-Z, 0-9, `-`, `_`, not digits alone, and neither `ca` nor \
                 `admin`"
            ));
        }
        let without_port = !address.is_empty() && !address.contains(':') || address.ends_with(']');
        let address = if without_port { format!("{address}:{DEFAULT_CLIENT_PORT}") } else { address.to_owned() };
        let (host, port) = check_address(&address)?;
        if port > u16::MAX - 2 {
            return Err(format!(
                "port {port} leaves no room for the peer port ({port}+1) and the status port ({port}+2)"
            ));
        }
        Ok(NodeSpec { name: name.to_owned(), host: host.to_owned(), port })
    }
}

/// Writes the directories of a new cluster below `out`. Returns each node's directory.
pub fn provision(
    out: &Path,
    cluster: &ClusterId,
    nodes: &[NodeSpec],
    settings: ClusterSettings,
) -> anyhow::Result<Vec<PathBuf>> {
    refuse_existing(out)?;
    let members = members(nodes)?;
    let authority = Authority::create(cluster.clone()).context("cannot create the certificate authority")?;
    let parent = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let mut name = std::ffi::OsString::from(".");
    name.push(out.file_name().with_context(|| format!("{} cannot be a directory to create", out.display()))?);
    name.push(format!(".{}.tmp", std::process::id()));
    let staging = parent.join(name);
    make_directory(&staging)?;
    let written =
        write_all(&staging, &authority, cluster, nodes, &members, settings).and_then(|()| put_in_place(&staging, out));
    if let Err(error) = written {
        // Best effort: what could not be written is reported, the leftovers have a telling name.
        let _ = fs::remove_dir_all(&staging);
        return Err(error);
    }
    Ok(nodes.iter().map(|node| out.join(&node.name)).collect())
}

/// Settings that go into every node's `[cluster]` section.
#[derive(Debug, Clone, Copy)]
pub struct ClusterSettings {
    /// See [`ClusterConfig::key_bytes_max`].
    pub key_bytes_max: u64,
    /// See [`ClusterConfig::value_bytes_max`].
    pub value_bytes_max: u64,
    /// See [`ClusterConfig::election_timeout_ms`].
    pub election_timeout_ms: u64,
    /// See [`ClusterConfig::heartbeat_interval_ms`].
    pub heartbeat_interval_ms: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            key_bytes_max: 4096,
            value_bytes_max: 8 << 20,
            election_timeout_ms: 1000,
            heartbeat_interval_ms: 100,
        }
    }
}

/// A cluster id nobody else has: `kv-` and 64 random bits.
#[must_use]
pub fn random_cluster_id() -> ClusterId {
    format!("kv-{:016x}", rand::random::<u64>()).parse().expect("kv- and hexadecimal digits are a cluster id")
}

fn refuse_existing(out: &Path) -> anyhow::Result<()> {
    match fs::read_dir(out) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!("{} exists and is not empty; choose another --dir, nothing is overwritten", out.display());
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot use {}", out.display())),
    }
}

fn members(nodes: &[NodeSpec]) -> anyhow::Result<Vec<MemberConfig>> {
    if nodes.is_empty() || nodes.len() > 7 {
        bail!(
            "{} nodes; one to seven are possible, and three or five are wise: repeat --node NAME=HOST:PORT",
            nodes.len()
        );
    }
    for (position, node) in nodes.iter().enumerate() {
        for other in &nodes[..position] {
            if other.name == node.name {
                bail!("two nodes are named `{}`; each needs a name of its own", node.name);
            }
            if other.host == node.host && other.port.abs_diff(node.port) < 3 {
                bail!(
                    "`{}` and `{}` would share ports on {}: each node takes three in a row (clients, peers, status page)",
                    other.name,
                    node.name,
                    node.host
                );
            }
        }
    }
    let member = |(position, node): (usize, &NodeSpec)| MemberConfig {
        id: position as u64 + 1,
        name: node.name.clone(),
        client: format!("{}:{}", node.host, node.port),
        peer: format!("{}:{}", node.host, node.port + 1),
    };
    Ok(nodes.iter().enumerate().map(member).collect())
}

fn write_all(
    staging: &Path,
    authority: &Authority,
    cluster: &ClusterId,
    nodes: &[NodeSpec],
    members: &[MemberConfig],
    settings: ClusterSettings,
) -> anyhow::Result<()> {
    let ca = staging.join("ca");
    make_directory(&ca)?;
    write_file(&ca.join("ca.crt"), authority.certificate_pem(), 0o644)?;
    write_file(&ca.join("ca.key"), &authority.key_pem(), 0o600)?;

    let admin = staging.join("admin");
    make_directory(&admin)?;
    let issued = authority
        .issue_client("admin", Validity::lasting(LEAF_VALIDITY))
        .context("cannot issue the admin certificate")?;
    write_pair(&admin, "client", authority, &issued)?;
    let endpoints: Vec<&str> = members.iter().map(|member| member.client.as_str()).collect();
    write_file(&admin.join("env"), &admin_env(&endpoints), 0o644)?;

    for (node, member) in nodes.iter().zip(members) {
        let folder = staging.join(&node.name);
        make_directory(&folder)?;
        let issued = authority
            .issue_node(NodeId(member.id), Validity::lasting(LEAF_VALIDITY))
            .with_context(|| format!("cannot issue the certificate of {}", node.name))?;
        write_pair(&folder, "node", authority, &issued)?;
        let config = node_config(cluster, node, member, members, settings);
        config.check().map_err(|(key, problem)| anyhow::anyhow!("{key}: {problem}"))?;
        let text = config_text(&config)?;
        write_file(&folder.join(FILE_NAME), &text, 0o644)?;
        let data = folder.join("data");
        make_directory(&data)?;
        write_file(&data.join(FIRST_START), FIRST_START_TEXT, 0o600)?;
    }
    Ok(())
}

/// For whoever finds the file.
const FIRST_START_TEXT: &str =
    "This node has never run. Its first start removes this file; after that, an empty data directory is a loss.\n";

/// An environment file for the admin's shell: it finds its own folder, so it can be moved together with the certificates.
/// Only bash tells a sourced file where it is; in other shells it works in its own folder, and says so elsewhere.
fn admin_env(endpoints: &[&str]) -> String {
    format!(
        "# Source this file: . admin/env (in bash; in other shells, cd to its folder first: . ./env)\n\
         RAFTKV_ADMIN=\"$(cd \"$(dirname \"${{BASH_SOURCE:-./env}}\")\" && pwd)\"\n\
         if [ -f \"$RAFTKV_ADMIN/client.key\" ]; then\n\
         \x20   export RAFTKV_ENDPOINTS=\"{}\"\n\
         \x20   export RAFTKV_CA=\"$RAFTKV_ADMIN/ca.crt\"\n\
         \x20   export RAFTKV_CERT=\"$RAFTKV_ADMIN/client.crt\"\n\
         \x20   export RAFTKV_KEY=\"$RAFTKV_ADMIN/client.key\"\n\
         else\n\
         \x20   echo \"env: this shell does not tell where this file is; cd to its folder and source ./env\" >&2\n\
         fi\n",
        endpoints.join(",")
    )
}

fn node_config(
    cluster: &ClusterId,
    node: &NodeSpec,
    member: &MemberConfig,
    members: &[MemberConfig],
    settings: ClusterSettings,
) -> Config {
    let listen = listen_ip(&node.host);
    Config {
        cluster: ClusterConfig {
            limits: LimitsConfig::default(),
            joining: false,
            id: cluster.to_string(),
            key_bytes_max: settings.key_bytes_max,
            value_bytes_max: settings.value_bytes_max,
            election_timeout_ms: settings.election_timeout_ms,
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            lease_reads: false,
            quota_mib: None,
            compact_revisions: None,
            compact_age: None,
            members: members.to_vec(),
        },
        node: NodeConfig {
            id: member.id,
            data_dir: PathBuf::from("data"),
            format_max: STATE_FORMAT,
            listen_client: Some(SocketAddr::new(listen, node.port)),
            listen_peer: Some(SocketAddr::new(listen, node.port + 1)),
            listen_http: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), node.port + 2)),
        },
        tls: TlsConfig { ca: "ca.crt".into(), cert: "node.crt".into(), key: "node.key".into() },
        storage: StorageConfig::default(),
        logging: LoggingConfig::default(),
    }
}

/// The files, beside its certificates, with which a node that was added to a running cluster starts for the first time: paths relative
/// to its directory, and their text.
///
/// # Errors
/// It is no member, or its addresses are no addresses.
pub fn joining_files(
    cluster: &ClusterConfig,
    members: &[MemberConfig],
    node: u64,
) -> anyhow::Result<Vec<(String, String)>> {
    let member = members.iter().find(|member| member.id == node);
    let member = member.with_context(|| format!("node {node} is not a member: add it first"))?;
    let listen = |address: &str| -> anyhow::Result<SocketAddr> {
        let (host, port) = check_address(address).map_err(|problem| anyhow::anyhow!("{address}: {problem}"))?;
        Ok(SocketAddr::new(listen_ip(host), port))
    };
    let (client, peer) = (listen(&member.client)?, listen(&member.peer)?);
    let http_port = client.port().max(peer.port()).checked_add(1).context("no port is left for the status page")?;
    let config = Config {
        cluster: ClusterConfig { joining: true, members: members.to_vec(), ..cluster.clone() },
        node: NodeConfig {
            id: member.id,
            data_dir: PathBuf::from("data"),
            format_max: STATE_FORMAT,
            listen_client: Some(client),
            listen_peer: Some(peer),
            listen_http: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), http_port)),
        },
        tls: TlsConfig { ca: "ca.crt".into(), cert: "node.crt".into(), key: "node.key".into() },
        storage: StorageConfig::default(),
        logging: LoggingConfig::default(),
    };
    config.check().map_err(|(key, problem)| anyhow::anyhow!("{key}: {problem}"))?;
    Ok(vec![(FILE_NAME.to_owned(), config_text(&config)?)])
}

/// Loopback hosts listen on loopback only; others on every address of the machine.
fn listen_ip(host: &str) -> IpAddr {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => address,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Ok(IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        Err(_) if bare == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn config_text(config: &Config) -> anyhow::Result<String> {
    let body = toml::to_string(config).context("cannot write the configuration")?;
    Ok(format!(
        "# The configuration of one raftkv node. Every key is explained in deploy/raftkv.toml.\n\
         # [cluster] must be the same on every node; everything else is this node's own.\n\n{body}"
    ))
}

fn write_pair(folder: &Path, name: &str, authority: &Authority, issued: &IssuedCertificate) -> anyhow::Result<()> {
    write_file(&folder.join("ca.crt"), authority.certificate_pem(), 0o644)?;
    write_file(&folder.join(format!("{name}.crt")), &issued.certificate_pem, 0o644)?;
    write_file(&folder.join(format!("{name}.key")), &issued.key_pem, 0o600)
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn write_file(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn put_in_place(staging: &Path, out: &Path) -> anyhow::Result<()> {
    // An empty directory at the destination is replaced by the rename.
    fs::rename(staging, out).with_context(|| format!("cannot move {} to {}", staging.display(), out.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn spec(text: &str) -> NodeSpec {
        text.parse().unwrap()
    }

    #[test]
    fn node_specs_take_a_default_port_and_refuse_nonsense() {
        assert_eq!(spec("n1=10.0.0.1"), NodeSpec { name: "n1".into(), host: "10.0.0.1".into(), port: 7420 });
        assert_eq!(spec("a-b=[::1]:99").host, "[::1]");
        assert_eq!(spec("a-b=[::1]").port, 7420);
        for bad in ["n1", "=h:1", "n1=", "ca=h:1", "admin=h:1", "2=h:1", "a/b=h:1", "n1=h:65534", "n1=h:x", "../x=h:1"]
        {
            assert!(bad.parse::<NodeSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_node_gets_a_configuration_that_the_server_takes() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let nodes = [spec("n1=127.0.0.1:7420"), spec("n2=kv2.example:7420")];
        let cluster = random_cluster_id();
        let folders = provision(&out, &cluster, &nodes, ClusterSettings::default()).unwrap();
        let configs: Vec<Config> =
            folders.iter().map(|folder| Config::load(&folder.join(FILE_NAME)).unwrap()).collect();
        assert_eq!(configs[0].cluster_digest(), configs[1].cluster_digest());
        assert_eq!(configs[0].listen_client(), "127.0.0.1:7420".parse().unwrap());
        assert_eq!(configs[1].listen_peer(), "0.0.0.0:7421".parse().unwrap());
        let mode = |path: &str| fs::metadata(out.join(path)).unwrap().permissions().mode() & 0o777;
        for key in ["ca/ca.key", "admin/client.key", "n1/node.key", "n2/node.key"] {
            assert_eq!(mode(key), 0o600, "{key}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "x").unwrap();
        let error =
            provision(folder.path(), &random_cluster_id(), &[spec("n1=h:1")], ClusterSettings::default()).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn settings_that_no_node_would_take_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let settings = ClusterSettings { value_bytes_max: 0, ..ClusterSettings::default() };
        let error = provision(&out, &random_cluster_id(), &[spec("n1=h:1")], settings).unwrap_err();
        assert!(error.to_string().contains("cluster.value_bytes_max"), "{error}");
        assert!(!out.exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn overlapping_ports_and_names_are_refused() {
        for nodes in [["n1=h:1", "n1=i:1"], ["n1=h:10", "n2=h:12"]] {
            let nodes = nodes.map(spec);
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("out");
            assert!(provision(&out, &random_cluster_id(), &nodes, ClusterSettings::default()).is_err(), "{nodes:?}");
            assert!(!out.exists());
        }
    }
}
