//! What a node says of itself, for the client protocol, the status page and the demo.

use crate::config::MemberConfig;
use crate::driver::{DriverStatus, Input, ReadWaiter};
use crate::inbox::Inbox;
use crate::members::Members;
use crate::shared_state::SharedState;
use crossbeam_channel::Sender;
use raft::Role;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use transport::proto::client as wire;

/// A node's status at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The cluster.
    pub cluster: String,
    /// The node's number.
    pub node: u64,
    /// The node's name.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// `follower`, `pre-candidate`, `candidate` or `leader`.
    pub role: String,
    /// What it is in its group: `voter`, `learner`, `joining` (not made a member yet) or `removed`.
    pub standing: String,
    /// Its term.
    pub term: u64,
    /// The leader it follows, or itself.
    pub leader: Option<u64>,
    /// The first index in its log.
    pub log_first: u64,
    /// The last index in its log.
    pub log_last: u64,
    /// Committed up to here.
    pub commit: u64,
    /// Applied up to here.
    pub applied: u64,
    /// Flushed by RocksDB up to here.
    pub flushed: u64,
    /// The revision of the state machine at `state_applied`.
    pub revision: u64,
    /// The oldest revision that can be read; zero: all can.
    pub compacted: u64,
    /// The oldest revision that this node keeps for a scan although it is compacted: what has been dead since then takes its space meanwhile. None: it keeps
    /// nothing for scans.
    #[serde(default)]
    pub held: Option<u64>,
    /// The index at which `revision` and `state_hash` were read.
    pub state_applied: u64,
    /// The hash of the state at `state_applied`, in hexadecimal.
    pub state_hash: String,
    /// Bytes of state on disk, about.
    pub state_bytes: u64,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Messages of peers that made no sense and were dropped.
    pub dropped_messages: u64,
    /// Who votes, as far as this node knows; during a change, who will.
    pub voters: Vec<u64>,
    /// Who voted before the change of the members that is under way and decides with them; empty when none is.
    #[serde(default)]
    pub voters_outgoing: Vec<u64>,
    /// It has lost what it had promised, and neither votes nor acknowledges until its peers have repaired it.
    pub under_repair: bool,
    /// On a leader: members that refuse what they had acknowledged. Their logs are gone, and they have not noticed: they have to be started again.
    pub lost_logs: Vec<u64>,
    /// The format in effect: what the members may write, because all of them know it.
    pub format: u32,
}

/// Called with a status.
pub(crate) type StatusCallback = Box<dyn FnOnce(NodeStatus) + Send>;

/// Puts a node's status together from what its parts say.
pub(crate) struct StatusReporter {
    cluster: String,
    own: MemberConfig,
    members: Arc<Members>,
    inbox: Inbox,
    reads: Sender<Vec<ReadWaiter>>,
    shared: Arc<SharedState>,
    started: std::time::Instant,
}

impl StatusReporter {
    /// A reporter for member `own`.
    pub(crate) fn new(
        cluster: String,
        own: MemberConfig,
        members: Arc<Members>,
        inbox: Inbox,
        reads: Sender<Vec<ReadWaiter>>,
        shared: Arc<SharedState>,
    ) -> StatusReporter {
        StatusReporter { cluster, own, members, inbox, reads, shared, started: std::time::Instant::now() }
    }

    /// The cluster's name.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// This node.
    pub(crate) fn own(&self) -> &MemberConfig {
        &self.own
    }

    /// Calls back with the status, from a thread that may block. Never, if the node is stopping: then the callback is dropped.
    pub(crate) fn report(self: &Arc<Self>, callback: StatusCallback) {
        let reporter = self.clone();
        self.inbox.push(Input::Status(Box::new(move |status| {
            // The rest asks RocksDB, which the driver must not wait for.
            let reads = reporter.reads.clone();
            let rest: ReadWaiter = Box::new(move |_| callback(reporter.status(&status)));
            // The read threads end only when the node stops.
            let _ = reads.send(vec![rest]);
        })));
    }

    fn status(&self, driver: &DriverStatus) -> NodeStatus {
        let published = self.shared.published();
        let reader = self.shared.reader();
        let statistics = reader.statistics();
        if let Err(error) = &statistics {
            tracing::warn!(%error, "RocksDB does not say how it is doing");
        }
        let role = match driver.role {
            Role::Follower => "follower",
            Role::PreCandidate => "pre-candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        };
        NodeStatus {
            cluster: self.cluster.clone(),
            node: driver.id.0,
            name: self.own.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role.to_owned(),
            standing: self.members.view().standing.name().to_owned(),
            term: driver.term.0,
            leader: driver.leader.map(|leader| leader.0),
            log_first: driver.log_first.0,
            log_last: driver.log_last.0,
            commit: driver.commit.0,
            applied: driver.applied.0,
            flushed: driver.flushed.0,
            revision: published.revision,
            compacted: reader.compacted_revision(),
            held: reader.held_revision(),
            state_applied: published.applied.index.0,
            state_hash: hexadecimal(&published.state_hash),
            state_bytes: statistics.map_or(0, |statistics| statistics.disk_bytes + statistics.memtable_bytes),
            log_bytes: driver.log_bytes,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            dropped_messages: driver.dropped_messages,
            voters: driver.membership.voters().iter().map(|id| id.0).collect(),
            voters_outgoing: driver.membership.voters_outgoing().iter().map(|id| id.0).collect(),
            under_repair: driver.repair.is_some(),
            lost_logs: driver.peers.iter().filter(|peer| peer.lost).map(|peer| peer.id.0).collect(),
            format: driver.format,
        }
    }
}

impl NodeStatus {
    /// The status in the form of the client protocol.
    pub(crate) fn into_reply(self, members: Vec<wire::Member>) -> wire::StatusReply {
        let hash = (0..self.state_hash.len() / 2)
            .map(|at| u8::from_str_radix(&self.state_hash[2 * at..2 * at + 2], 16).expect("the hash is hexadecimal"));
        wire::StatusReply {
            state_hash: hash.collect(),
            cluster: self.cluster,
            node: self.node,
            name: self.name,
            version: self.version,
            role: self.role,
            term: self.term,
            leader: self.leader.unwrap_or(0),
            log_first: self.log_first,
            log_last: self.log_last,
            commit: self.commit,
            applied: self.state_applied,
            revision: self.revision,
            flushed: self.flushed,
            members,
            uptime_ms: self.uptime_ms,
            state_bytes: self.state_bytes,
            log_bytes: self.log_bytes,
            under_repair: self.under_repair,
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
