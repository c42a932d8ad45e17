//! What a seed decides before the run begins: the size of the cluster, its limits, the workload, and which faults are on.
//!
//! Which kinds of fault are on is itself drawn: with all of them on at once, most would hide behind a few. Limits are drawn small, so
//! that segments roll, caches evict, logs are compacted and snapshots are needed within a minute.

use crate::faults::{FaultKind, FaultPlan};
use crate::network::NetworkSettings;
use crate::random::Random;
use raft::{Membership, NodeId};
use raftkv::directory::{DirectoryMember, MemberDirectory};
use raftkv::driver::SpaceLimits;
use raftkv::recovery::Provisioned;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nodes that found the cluster.
    pub founders: usize,
    /// Nodes that may be added.
    pub spares: usize,
    /// Clients.
    pub clients: usize,
    /// Operations of clients that are answered at least.
    pub operations: u64,
    /// Simulated time that the run takes at least.
    pub duration: Duration,
    /// Keys that the clients work on.
    pub keys: u64,
    /// How long a client pauses between two operations at most.
    pub think_time_max: Duration,
    /// How long a client's operation may take.
    pub client_timeout: Duration,
    /// The core's settings.
    pub raft: raft::Config,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Payload bytes after which a log record ends.
    pub record_bytes_max: usize,
    /// Segments kept for use again.
    pub recycled_segments_max: usize,
    /// Log that is kept at least.
    pub log_retained_bytes: u64,
    /// How much of the past is kept, and how large the state may be.
    pub space: SpaceLimits,
    /// Clients that watch.
    pub watchers: usize,
    /// Bytes of recent events that a node keeps for watches.
    pub watch_ring_bytes: usize,
    /// Bytes of events that are gathered, read or told at a time.
    pub watch_part_bytes: usize,
    /// Inputs that a driver takes in before it sets off what was gathered.
    pub drain_max: usize,
    /// The network.
    pub network: NetworkSettings,
    /// The faults.
    pub faults: FaultPlan,
}

impl Settings {
    /// What `random` decides.
    #[must_use]
    pub fn draw(random: &mut Random) -> Settings {
        let founders = *random.pick(&[1, 3, 3, 3, 3, 3, 5, 5]);
        let faults = FaultPlan::draw(random, founders);
        let spares = if faults.is_on(FaultKind::MembershipChanges) { random.index(5) + 1 } else { 0 };
        let election_timeout = Duration::from_millis(*random.pick(&[300, 500, 1000]));
        Settings {
            founders,
            spares,
            clients: random.index(7) + 3,
            operations: 1000,
            duration: Duration::from_secs(60),
            keys: *random.pick(&[3, 10, 30]),
            think_time_max: Duration::from_millis(*random.pick(&[100, 300, 600])),
            client_timeout: Duration::from_millis(*random.pick(&[1000, 2000, 5000])),
            raft: raft::Config {
                election_timeout,
                heartbeat_interval: election_timeout / 10,
                inflight_messages_max: *random.pick(&[1, 4, 256]),
                inflight_bytes_max: *random.pick(&[1 << 10, 16 << 20]),
                append_bytes_max: *random.pick(&[512, 4 << 10, 1 << 20]),
                uncommitted_bytes_max: *random.pick(&[8 << 10, 64 << 20]),
                cache_bytes_max: *random.pick(&[1 << 10, 16 << 10, 32 << 20]),
                // A lease is as good as the clocks.
                lease_reads: random.chance(500) && !faults.is_on(FaultKind::ClockJumps),
                ..raft::Config::new(NodeId(1))
            },
            segment_bytes: *random.pick(&[16 << 10, 32 << 10]),
            record_bytes_max: *random.pick(&[1 << 10, 256 << 10]),
            recycled_segments_max: random.index(3),
            log_retained_bytes: *random.pick(&[48 << 10, 96 << 10, 1 << 20]),
            space: SpaceLimits {
                quota_bytes: if random.chance(200) { Some(*random.pick(&[40 << 10, 100 << 10])) } else { None },
                keep_revisions: if random.chance(200) { Some(*random.pick(&[20, 200])) } else { None },
                keep_age: if random.chance(200) { Some(Duration::from_secs(*random.pick(&[3, 20]))) } else { None },
            },
            watchers: random.index(5),
            watch_ring_bytes: *random.pick(&[0, 500, 5_000, 16 << 20]),
            watch_part_bytes: *random.pick(&[1, 300, 32 << 10]),
            drain_max: *random.pick(&[1, 16, 4096]),
            network: Settings::draw_network(random, &faults),
            faults,
        }
    }

    /// All nodes that there may ever be.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.founders + self.spares
    }

    /// Who the members are at the beginning.
    #[must_use]
    pub fn founding_membership(&self) -> Membership {
        Membership::new((1..=self.founders as u64).map(NodeId))
    }

    /// By how much a stale read may be older than its age allows: a word of the leader counts from when it was heard, however long it was on its way, and
    /// a leader that was deposed speaks on for an election timeout (`raftkv/src/driver/freshness.rs`). `None` where words may wait for long, or clocks
    /// jump.
    #[must_use]
    pub fn stale_slack(&self) -> Option<Duration> {
        let blurs = [
            FaultKind::LateMessages,
            FaultKind::Pause,
            FaultKind::SlowNode,
            FaultKind::ClockJumps,
            FaultKind::DiskStall,
        ];
        let (_, delay_max) = self.network.delay;
        let slack = self.raft.election_timeout * 2 + delay_max * 2;
        (!blurs.iter().any(|kind| self.faults.is_on(*kind))).then_some(slack)
    }

    /// What a node is told about its group before its first start, or when an operator has told it that it has peers.
    #[must_use]
    pub fn provisioned(&self, node: NodeId, told_to_join: bool) -> Provisioned {
        let founders = self.founders as u64;
        let joining = node.0 > founders || told_to_join;
        let members = (1..=founders).map(member_of).collect();
        Provisioned {
            node,
            membership: if joining { Membership::default() } else { self.founding_membership() },
            directory: MemberDirectory { id_max: if joining { 0 } else { founders }, members },
            joining,
        }
    }

    fn draw_network(random: &mut Random, faults: &FaultPlan) -> NetworkSettings {
        let when = |kind: FaultKind, value: u64| if faults.is_on(kind) { value } else { 0 };
        let far = Duration::from_micros(*random.pick(&[500, 2_000, 30_000]));
        NetworkSettings {
            loss: when(FaultKind::Loss, random.between(1, 100)),
            duplicates: when(FaultKind::Duplicates, random.between(1, 100)),
            late: when(FaultKind::LateMessages, random.between(1, 20)),
            late_max: Duration::from_secs(*random.pick(&[1, 10, 30, 150])),
            delay: (Duration::from_micros(50), if faults.is_on(FaultKind::Reordering) { far * 10 } else { far }),
            encoded: random.chance(300),
        }
    }
}

/// What a node is called and where it is reached.
#[must_use]
pub fn member_of(id: u64) -> DirectoryMember {
    DirectoryMember {
        id,
        name: format!("n{id}"),
        peer_address: format!("n{id}:2"),
        client_address: format!("n{id}:1"),
        http_address: None,
    }
}
