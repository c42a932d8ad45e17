//! The configuration of a node: one TOML file, strict, with two kinds of settings kept apart.
//!
//! `[cluster]` must be the same on every node: nodes compare a digest of it when they connect and refuse each other if it
//! differs, but for what only a leader goes by and is to be changed while the cluster runs. Everything else is the node's own. Relative paths are relative to the file. An unknown key is an error that
//! suggests the known key it resembles.

mod limits;

pub use limits::LimitsConfig;

use crate::driver::SpaceLimits;
use crate::requests::RequestLimits;
use raft::{Membership, NodeId};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage::state::{STATE_FORMAT, STATE_FORMAT_OLDEST};

/// Bytes proposed and not yet committed, unless two of the largest values need more.
const UNCOMMITTED_BYTES_MAX: usize = 16 << 20;

const COMPACT_AGE_MIN: Duration = Duration::from_secs(60);
const COMPACT_AGE_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);

/// The name of the file inside a node's directory.
pub const FILE_NAME: &str = "raftkv.toml";

/// The configuration of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What must agree across the cluster.
    pub cluster: ClusterConfig,
    /// What this node is and where it listens.
    pub node: NodeConfig,
    /// Its certificate.
    pub tls: TlsConfig,
    /// Its disk.
    #[serde(default)]
    pub storage: StorageConfig,
    /// Its log output.
    #[serde(default)]
    pub logging: LoggingConfig,
}

/// Settings that must be the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Names the cluster, in certificates too: 1 to 63 characters of `a-z`, `0-9` and `-`.
    pub id: String,
    /// The longest key, in bytes. 1 to 65,536; default 4,096.
    #[serde(default = "default_key_bytes_max")]
    pub key_bytes_max: u64,
    /// The longest value, in bytes. 1 to 31,457,280 (30 MiB: a request may name two, and has to fit
    /// in a frame); default 8,388,608 (8 MiB).
    #[serde(default = "default_value_bytes_max")]
    pub value_bytes_max: u64,
    /// A follower that hears no leader for this long campaigns, in milliseconds. 50 to 60,000; default 1,000.
    #[serde(default = "default_election_timeout_ms")]
    pub election_timeout_ms: u64,
    /// An idle leader speaks this often, in milliseconds. 5 to a third of the election timeout; default 100.
    #[serde(default = "default_heartbeat_interval_ms")]
    pub heartbeat_interval_ms: u64,
    /// Whether a read of level `lease` may be answered on the word of the leader's lease, without asking a majority. It trusts the nodes' monotonic
    /// clocks: their speeds must differ by less than a quarter, and none may stand still or jump. Without it such a read is linearizable like
    /// any other. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lease_reads: bool,
    /// How large the state may grow, in MiB: on disk, with what waits in memory for the disk. Above it the leader refuses writes that add data; deletes
    /// and compaction are taken. 16 to 16,777,216. None: no limit. Nodes do not compare it, so that it can be raised one node after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_mib: Option<u64>,
    /// How many of the last revisions stay readable: the leader lets go of older ones by itself. 1 to 10^15. None, and no `compact_age`: all of
    /// them, until somebody compacts. Nodes do not compare it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_revisions: Option<u64>,
    /// For how long what was readable stays so, such as `"90m"`, `"12h"` or `"7d"`: the leader lets go of what is older by itself. A minute to ten years. None, and no
    /// `compact_revisions`: for ever. With both, what either keeps is kept. Nodes do not compare it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "readable_duration")]
    pub compact_age: Option<Duration>,
    /// This node joins a cluster that runs already: it starts without members and waits for the leader to reach it. Written by
    /// `raftkv-cli member add`; of no meaning once the node has joined. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
    /// How much clients may ask for, and keep.
    #[serde(default, skip_serializing_if = "LimitsConfig::is_default")]
    pub limits: LimitsConfig,
    /// The voters the cluster starts with, one to seven, with ids and names of their own. From the first change on, the members are part of
    /// the replicated state, and this list is read no more. On a node that joins: itself, and those it is told of.
    pub members: Vec<MemberConfig>,
}

impl ClusterConfig {
    /// How much of the past is kept, and how large the state may grow.
    #[must_use]
    pub fn space_limits(&self) -> SpaceLimits {
        SpaceLimits {
            quota_bytes: self.quota_mib.map(|mib| mib << 20),
            keep_revisions: self.compact_revisions,
            keep_age: self.compact_age,
        }
    }
}

/// A time as people write it, in a TOML string.
mod readable_duration {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::time::Duration;

    #[expect(clippy::ref_option, reason = "serde hands out references")]
    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.collect_str(&humantime::format_duration(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = humantime::parse_duration(&text);
        parsed
            .map(Some)
            .map_err(|cause| de::Error::custom(format!("`{text}` is no time such as 90m, 12h or 7d: {cause}")))
    }
}

/// One member as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its number, in its certificate too. Not zero, never used again.
    pub id: u64,
    /// Its name, for people.
    pub name: String,
    /// Where clients reach it: `HOST:PORT`, UDP.
    pub client: String,
    /// Where its peers reach it: `HOST:PORT`, UDP.
    pub peer: String,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Which of the members this node is.
    pub id: u64,
    /// Where it keeps its data. Default `data`.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// The newest format of log and state that this node is to know, 2 to the newest that the program knows, which is the default. A member that is held
    /// back holds all back: no format above it comes into effect, and the way back to the program that knows no more stays open.
    #[serde(default = "default_format_max", skip_serializing_if = "is_default_format_max")]
    pub format_max: u32,
    /// The address its client port is bound to, UDP. Default: the port of this member's `client`, on every IPv4 interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_client: Option<SocketAddr>,
    /// The address its peer port is bound to, UDP. Default: the port of this member's `peer`, on every IPv4 interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_peer: Option<SocketAddr>,
    /// The address of its read-only status page over HTTP, TCP, without TLS: loopback only. None: no HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_http: Option<SocketAddr>,
}

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The cluster's certificate authority. Default `ca.crt`.
    #[serde(default = "default_ca")]
    pub ca: PathBuf,
    /// The node's certificate. Default `node.crt`.
    #[serde(default = "default_cert")]
    pub cert: PathBuf,
    /// Its private key. Default `node.key`.
    #[serde(default = "default_key")]
    pub key: PathBuf,
}

/// Sizes of what is kept on disk and cached in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The size of one log segment, in MiB. 1 to 1,024; default 64.
    pub log_segment_mib: u64,
    /// Once the log is larger than this, in MiB, what RocksDB has flushed of it is dropped. 4 to 1,048,576; default 512.
    pub log_retained_mib: u64,
    /// RocksDB's block cache, in MiB. 8 to 1,048,576; default 256.
    pub block_cache_mib: u64,
    /// RocksDB's write buffer, in MiB. 4 to 4,096; default 64.
    pub write_buffer_mib: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        StorageConfig { log_segment_mib: 64, log_retained_mib: 512, block_cache_mib: 256, write_buffer_mib: 64 }
    }
}

/// How the node logs. Lines go to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    /// `text` or `json`. Default `text`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,raftkv::driver=debug`. Default `info`.
    pub level: String,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        LoggingConfig { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn default_key_bytes_max() -> u64 {
    4096
}
fn default_value_bytes_max() -> u64 {
    8 << 20
}
fn default_format_max() -> u32 {
    STATE_FORMAT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_default_format_max(format_max: &u32) -> bool {
    *format_max == STATE_FORMAT
}

fn default_election_timeout_ms() -> u64 {
    1000
}
fn default_heartbeat_interval_ms() -> u64 {
    100
}
fn default_data_dir() -> PathBuf {
    PathBuf::from("data")
}
fn default_ca() -> PathBuf {
    PathBuf::from("ca.crt")
}
fn default_cert() -> PathBuf {
    PathBuf::from("node.crt")
}
fn default_key() -> PathBuf {
    PathBuf::from("node.key")
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}; `raftkv init` writes one for each node", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or a key is unknown, missing or of the wrong type.
    #[error("{}: {message}{}", path.display(), suggestion.as_ref().map(|known| format!("did you mean `{known}`?")).unwrap_or_default())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        message: String,
        /// The known key that an unknown one resembles.
        suggestion: Option<String>,
    },
    /// A value is out of bounds or contradicts another.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

impl Config {
    /// Reads and checks the file at `path`, and makes its relative paths relative to the file's folder.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config = Config::parse(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for relative in [&mut config.node.data_dir, &mut config.tls.ca, &mut config.tls.cert, &mut config.tls.key] {
            *relative = folder.join(&*relative);
        }
        Ok(config)
    }

    /// Reads and checks `text`; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.into(),
            suggestion: suggestion(error.message()),
            message: error.to_string(),
        })?;
        config.check().map_err(|(key, problem)| ConfigError::Value { path: path.into(), key, problem })?;
        Ok(config)
    }

    /// The membership the node's state is set up with: the founding members, or nobody if it joins.
    #[must_use]
    pub fn membership(&self) -> Membership {
        if self.cluster.joining {
            return Membership::default();
        }
        Membership::new(self.cluster.members.iter().map(|member| NodeId(member.id)))
    }

    /// This node's entry among the members.
    #[must_use]
    pub fn own_member(&self) -> &MemberConfig {
        self.member(NodeId(self.node.id)).expect("checked when the configuration was read: the node is a member")
    }

    /// Where clients are listened for.
    #[must_use]
    pub fn listen_client(&self) -> SocketAddr {
        self.node.listen_client.unwrap_or_else(|| everywhere(&self.own_member().client))
    }

    /// Where peers are listened for.
    #[must_use]
    pub fn listen_peer(&self) -> SocketAddr {
        self.node.listen_peer.unwrap_or_else(|| everywhere(&self.own_member().peer))
    }

    /// The entry of member `id`.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&MemberConfig> {
        self.cluster.members.iter().find(|member| member.id == id.0)
    }

    /// The core's settings.
    #[must_use]
    pub fn raft(&self) -> raft::Config {
        let value_bytes_max = usize::try_from(self.cluster.value_bytes_max).expect("at most 30 MiB, checked");
        let defaults = raft::Config::new(NodeId(self.node.id));
        raft::Config {
            election_timeout: Duration::from_millis(self.cluster.election_timeout_ms),
            heartbeat_interval: Duration::from_millis(self.cluster.heartbeat_interval_ms),
            inflight_bytes_max: defaults.inflight_bytes_max.max(2 * value_bytes_max),
            // What waits for the disk must not take an election timeout to write: then it is refused, not queued.
            uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX.max(2 * value_bytes_max),
            lease_reads: self.cluster.lease_reads,
            ..defaults
        }
    }

    /// The limits on clients' requests.
    #[must_use]
    pub fn requests(&self) -> RequestLimits {
        let ClusterConfig { key_bytes_max, value_bytes_max, limits, .. } = &self.cluster;
        limits.for_requests(*key_bytes_max, *value_bytes_max)
    }

    /// A number that differs when the settings that must agree differ. Nodes compare it when they connect. The members are not among them: they
    /// change while nodes run, and the replicated state has them. Limits that travel in commands are not either: whoever leads sets them, and
    /// nodes of the version before, which do not know them, are upgraded one by one.
    #[must_use]
    pub fn cluster_digest(&self) -> u64 {
        let cluster = &self.cluster;
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n",
            cluster.id,
            cluster.key_bytes_max,
            cluster.value_bytes_max,
            cluster.election_timeout_ms,
            cluster.heartbeat_interval_ms,
            cluster.lease_reads
        );
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    /// Checks what the parser cannot: bounds, and that the parts fit together. An error names the key and what is allowed.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let cluster = &self.cluster;
        within("cluster.key_bytes_max", cluster.key_bytes_max, 1, 64 << 10)?;
        within("cluster.value_bytes_max", cluster.value_bytes_max, 1, 30 << 20)?;
        let format_max = u64::from(self.node.format_max);
        within("node.format_max", format_max, u64::from(STATE_FORMAT_OLDEST), u64::from(STATE_FORMAT))?;
        if let Some(quota_mib) = cluster.quota_mib {
            within("cluster.quota_mib", quota_mib, 16, 1 << 24)?;
        }
        if let Some(revisions) = cluster.compact_revisions {
            within("cluster.compact_revisions", revisions, 1, 1_000_000_000_000_000)?;
        }
        if let Some(age) = cluster.compact_age
            && !(COMPACT_AGE_MIN..=COMPACT_AGE_MAX).contains(&age)
        {
            let problem =
                format!("{} is out of bounds; a minute to ten years is allowed", humantime::format_duration(age));
            return Err(("cluster.compact_age", problem));
        }
        within("cluster.election_timeout_ms", cluster.election_timeout_ms, 50, 60_000)?;
        within("cluster.heartbeat_interval_ms", cluster.heartbeat_interval_ms, 5, cluster.election_timeout_ms / 3)?;
        cluster.limits.check()?;
        within("storage.log_segment_mib", self.storage.log_segment_mib, 1, 1024)?;
        within("storage.log_retained_mib", self.storage.log_retained_mib, 4, 1 << 20)?;
        within("storage.block_cache_mib", self.storage.block_cache_mib, 8, 1 << 20)?;
        within("storage.write_buffer_mib", self.storage.write_buffer_mib, 4, 4096)?;
        if let Err(error) = cluster.id.parse::<transport::ClusterId>() {
            return Err(("cluster.id", error.to_string()));
        }
        if let Some(http) = self.node.listen_http
            && !http.ip().is_loopback()
        {
            let problem =
                format!("{http} is not a loopback address; the status page has no TLS and stays on the machine");
            return Err(("node.listen_http", problem));
        }
        self.check_members()
    }

    fn check_members(&self) -> Result<(), (&'static str, String)> {
        let members = &self.cluster.members;
        if members.is_empty() || members.len() > 7 {
            return Err(("cluster.members", format!("{} members; one to seven are allowed", members.len())));
        }
        for (position, member) in members.iter().enumerate() {
            if member.id == 0 {
                return Err(("cluster.members", format!("member `{}` has id 0; ids start at 1", member.name)));
            }
            if !is_node_name(&member.name) {
                let problem = format!("`{}` is not a name: 1 to 63 characters of a-z, A-Z, 0-9, `-`, `_`", member.name);
                return Err(("cluster.members", problem));
            }
            for address in [&member.client, &member.peer] {
                check_address(address).map_err(|problem| ("cluster.members", problem))?;
                let taken = |other: &MemberConfig| other.client == *address || other.peer == *address;
                let twice = member.client == member.peer;
                if twice || members[..position].iter().any(taken) {
                    let problem = format!(
                        "the address {address} of member `{}` is given twice; each port serves one purpose",
                        member.name
                    );
                    return Err(("cluster.members", problem));
                }
            }
            if let Some(twin) =
                members[..position].iter().find(|other| other.id == member.id || other.name == member.name)
            {
                let problem = format!(
                    "members `{}` ({}) and `{}` ({}) share an id or a name; each needs its own",
                    twin.name, twin.id, member.name, member.id
                );
                return Err(("cluster.members", problem));
            }
        }
        if self.member(NodeId(self.node.id)).is_none() {
            let ids: Vec<String> = members.iter().map(|member| member.id.to_string()).collect();
            let problem = format!("{} is not among cluster.members ({})", self.node.id, ids.join(", "));
            return Err(("node.id", problem));
        }
        Ok(())
    }
}

/// Every IPv4 interface, at the port of `address`.
fn everywhere(address: &str) -> SocketAddr {
    let (_, port) = check_address(address).expect("checked when the configuration was read: members have addresses");
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

/// Whether `name` can name a node, and so a folder.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Whether a new node may have this name: one of digits alone could be taken for a member's number. Nodes that have such a name keep it.
#[must_use]
pub fn is_new_node_name(name: &str) -> bool {
    is_node_name(name) && !name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Checks that `address` is `HOST:PORT`, and returns both.
pub fn check_address(address: &str) -> Result<(&str, u16), String> {
    let problem = || {
        format!(
            "`{address}` is not an address; write HOST:PORT, such as 10.0.0.1:7420, [::1]:7420 or kv1.example.org:7420"
        )
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(problem)?;
    let port: u16 = port.parse().map_err(|_| problem())?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_ipv6 || port == 0 || host.contains(char::is_whitespace) {
        return Err(problem());
    }
    Ok((host, port))
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), (&'static str, String)> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err((key, format!("{value} is out of bounds; {least} to {most} is allowed")))
    }
}

/// The known key nearest to the unknown one a parser message names, if it is near enough to be a slip.
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return None;
    }
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len() / 3 + 1)
        .min()
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    const MINIMAL: &str = r#"
        [cluster]
        id = "test"
        [[cluster.members]]
        id = 1
        name = "n1"
        client = "127.0.0.1:7420"
        peer = "127.0.0.1:7421"
        [node]
        id = 1
        listen_client = "127.0.0.1:7420"
        listen_peer = "127.0.0.1:7421"
        [tls]
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("raftkv.toml"))
    }

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.cluster.key_bytes_max, 4096);
        assert_eq!(config.cluster.value_bytes_max, 8 << 20);
        assert_eq!(config.storage, StorageConfig::default());
        assert_eq!(config.own_member().name, "n1");
    }

    #[test]
    fn unknown_key_is_refused_with_the_line_and_a_suggestion() {
        let text = MINIMAL.replace("listen_peer", "listen_peers");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("listen_peers") && message.contains("did you mean `listen_peer`?"), "{message}");
        assert!(message.contains("line 12"), "{message}");
    }

    #[test]
    fn values_out_of_bounds_name_key_and_bounds() {
        let text = MINIMAL.replace("id = \"test\"", "id = \"test\"\nheartbeat_interval_ms = 500");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("cluster.heartbeat_interval_ms") && message.contains("5 to 333"), "{message}");
    }

    #[test]
    fn room_and_the_past_are_limited_as_people_write_it() {
        let with = |lines: &str| MINIMAL.replace("id = \"test\"", &format!("id = \"test\"\n{lines}"));
        assert_eq!(parse(MINIMAL).unwrap().cluster.space_limits(), SpaceLimits::default());
        let config = parse(&with("quota_mib = 64\ncompact_revisions = 1000\ncompact_age = \"90m\"")).unwrap();
        let limits = SpaceLimits {
            quota_bytes: Some(64 << 20),
            keep_revisions: Some(1000),
            keep_age: Some(Duration::from_secs(5400)),
        };
        assert_eq!(config.cluster.space_limits(), limits);
        let written = toml::to_string(&config).unwrap();
        assert_eq!(parse(&written).unwrap(), config);
        assert_eq!(config.cluster_digest(), parse(MINIMAL).unwrap().cluster_digest(), "one node after the other");
        for (bad, part) in [
            ("quota_mib = 1", "16 to 16777216"),
            ("compact_revisions = 0", "1 to"),
            ("compact_age = \"5s\"", "a minute to ten years"),
            ("compact_age = \"soon\"", "such as 90m"),
        ] {
            let message = parse(&with(bad)).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_node_outside_its_cluster_is_refused() {
        let text = MINIMAL.replace("[node]\n        id = 1", "[node]\n        id = 2");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("2 is not among cluster.members (1)"), "{message}");
    }

    #[test]
    fn a_joining_node_starts_without_members() {
        assert_eq!(parse(MINIMAL).unwrap().membership(), Membership::new([NodeId(1)]));
        let joining = parse(&MINIMAL.replace("id = \"test\"", "id = \"test\"\njoining = true")).unwrap();
        assert!(joining.membership().is_empty());
    }

    #[test]
    fn a_node_listens_on_its_own_ports_unless_told_otherwise() {
        let text =
            MINIMAL.replace("listen_client = \"127.0.0.1:7420\"", "").replace("listen_peer = \"127.0.0.1:7421\"", "");
        let config = parse(&text).unwrap();
        assert_eq!(config.listen_client(), "0.0.0.0:7420".parse().unwrap());
        assert_eq!(config.listen_peer(), "0.0.0.0:7421".parse().unwrap());
    }

    #[test]
    fn an_address_serves_one_purpose() {
        let text = MINIMAL.replace("peer = \"127.0.0.1:7421\"", "peer = \"127.0.0.1:7420\"");
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("127.0.0.1:7420") && message.contains("twice"), "{message}");
    }

    #[test]
    fn http_stays_on_loopback() {
        let text = MINIMAL.replace("[tls]", "listen_http = \"0.0.0.0:80\"\n[tls]");
        assert!(parse(&text).unwrap_err().to_string().contains("loopback"));
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for good in ["127.0.0.1:1", "[::1]:7420", "a.example:65535"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in ["", "host", ":80", "host:", "host:0", "host:70000", "::1:80", "a b:80"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digest_ignores_members_but_not_settings() {
        let one = parse(MINIMAL).unwrap();
        let mut moved = one.clone();
        moved.cluster.members[0].client = "10.0.0.9:1".to_owned();
        moved.cluster.members[0].name = "other".to_owned();
        moved.cluster.joining = true;
        assert_eq!(one.cluster_digest(), moved.cluster_digest());
        let mut other = one.clone();
        other.cluster.value_bytes_max += 1;
        assert_ne!(one.cluster_digest(), other.cluster_digest());
    }
}
