//! The fault plan: what goes wrong, how often, and for how long.
//!
//! A plan never breaks the durable data of more than a minority at a time (`damage.rs`), so everything acknowledged has an intact quorum that
//! can be brought together in the end, and any loss is a bug. Crashes, pauses and partitions may hit everybody at once: they break no data.

use crate::random::Random;
use std::time::Duration;

/// A kind of fault that a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The network loses messages.
    Loss,
    /// It delivers some twice.
    Duplicates,
    /// It takes longer for some than for others.
    Reordering,
    /// It delivers some very late, in a later life of sender or receiver.
    LateMessages,
    /// Nodes are cut off in groups.
    Partition,
    /// Nodes are heard and do not hear, or the other way round.
    OneWay,
    /// Some pairs of nodes cannot speak.
    PartialPartition,
    /// Clients cannot reach some nodes.
    ClientCuts,
    /// `kill -9`: the page cache stays.
    Kill,
    /// Power cut: what was not flushed may be lost.
    PowerCut,
    /// All nodes lose power at once.
    Blackout,
    /// A process stands still and goes on.
    Pause,
    /// A node is slow.
    SlowNode,
    /// Clocks run at different speeds.
    ClockDrift,
    /// Clocks jump.
    ClockJumps,
    /// A disk makes everybody wait.
    DiskStall,
    /// Leadership is handed over.
    Transfers,
    /// Snapshots do not arrive.
    SnapshotFailures,
    /// A disk is lost, whole or in part.
    DiskLoss,
    /// Bits rot in the log and the small files beside it, and writes go elsewhere.
    BitRot,
    /// Reads, writes and flushes fail.
    DiskErrors,
    /// A disk is full.
    FullDisk,
    /// Members come and go.
    MembershipChanges,
    /// Programs are upgraded one after the other, and sometimes back.
    Upgrades,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 24] = [
        FaultKind::Loss,
        FaultKind::Duplicates,
        FaultKind::Reordering,
        FaultKind::LateMessages,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::PartialPartition,
        FaultKind::ClientCuts,
        FaultKind::Kill,
        FaultKind::PowerCut,
        FaultKind::Blackout,
        FaultKind::Pause,
        FaultKind::SlowNode,
        FaultKind::ClockDrift,
        FaultKind::ClockJumps,
        FaultKind::DiskStall,
        FaultKind::Transfers,
        FaultKind::SnapshotFailures,
        FaultKind::DiskLoss,
        FaultKind::BitRot,
        FaultKind::DiskErrors,
        FaultKind::FullDisk,
        FaultKind::MembershipChanges,
        FaultKind::Upgrades,
    ];

    /// What a run that has it on is counted as.
    #[must_use]
    pub fn counted_as(self) -> &'static str {
        match self {
            FaultKind::Loss => "runs with lost messages",
            FaultKind::Duplicates => "runs with duplicates",
            FaultKind::Reordering => "runs with reordering",
            FaultKind::LateMessages => "runs with late messages",
            FaultKind::Partition => "runs with partitions",
            FaultKind::OneWay => "runs with one-way cuts",
            FaultKind::PartialPartition => "runs with partial partitions",
            FaultKind::ClientCuts => "runs with cut-off clients",
            FaultKind::Kill => "runs with kills",
            FaultKind::PowerCut => "runs with power cuts",
            FaultKind::Blackout => "runs with blackouts",
            FaultKind::Pause => "runs with pauses",
            FaultKind::SlowNode => "runs with slow nodes",
            FaultKind::ClockDrift => "runs with clock drift",
            FaultKind::ClockJumps => "runs with clock jumps",
            FaultKind::DiskStall => "runs with disk stalls",
            FaultKind::Transfers => "runs with transfers",
            FaultKind::SnapshotFailures => "runs with failing snapshots",
            FaultKind::DiskLoss => "runs with lost disks",
            FaultKind::BitRot => "runs with bit rot",
            FaultKind::DiskErrors => "runs with disk errors",
            FaultKind::FullDisk => "runs with full disks",
            FaultKind::MembershipChanges => "runs with changes of members",
            FaultKind::Upgrades => "runs with upgrades",
        }
    }

    /// How long it is between two of them, about, if they come one by one.
    #[must_use]
    pub fn interval(self) -> Option<Duration> {
        let seconds = match self {
            FaultKind::Loss
            | FaultKind::Duplicates
            | FaultKind::Reordering
            | FaultKind::LateMessages
            | FaultKind::ClockDrift
            | FaultKind::SnapshotFailures => return None,
            FaultKind::Partition | FaultKind::OneWay | FaultKind::PartialPartition => 8,
            FaultKind::ClientCuts | FaultKind::SlowNode | FaultKind::ClockJumps | FaultKind::DiskStall => 10,
            FaultKind::Kill
            | FaultKind::PowerCut
            | FaultKind::Pause
            | FaultKind::Transfers
            | FaultKind::DiskErrors
            | FaultKind::MembershipChanges => 6,
            FaultKind::Upgrades => 8,
            FaultKind::BitRot => 12,
            FaultKind::DiskLoss | FaultKind::FullDisk => 15,
            FaultKind::Blackout => 25,
        };
        Some(Duration::from_secs(seconds))
    }
}

/// Which kinds are on in one run.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    on: Vec<FaultKind>,
}

impl FaultPlan {
    /// Draws which kinds are on, for a cluster of this many nodes.
    #[must_use]
    pub fn draw(random: &mut Random, nodes: usize) -> FaultPlan {
        // A few runs have none: they show that the rest of the simulator is sound.
        let per_mille = *random.pick(&[0, 150, 300, 300, 500, 700]);
        let alone = |kind: FaultKind| {
            matches!(
                kind,
                FaultKind::Partition | FaultKind::OneWay | FaultKind::PartialPartition | FaultKind::Transfers
            )
        };
        let on = FaultKind::ALL.into_iter().filter(|kind| random.chance(per_mille) && !(nodes == 1 && alone(*kind)));
        FaultPlan { on: on.collect() }
    }

    /// Whether this kind is on.
    #[must_use]
    pub fn is_on(&self, kind: FaultKind) -> bool {
        self.on.contains(&kind)
    }

    /// The kinds that are on.
    #[must_use]
    pub fn kinds(&self) -> &[FaultKind] {
        &self.on
    }
}

/// The shape of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutShape {
    /// Two groups that do not hear each other.
    Groups,
    /// One group is not heard by the other, and hears it.
    OneWay,
    /// Some pairs do not hear each other.
    Pairs,
}

/// Draws the links that a partition of this shape cuts between `nodes` nodes.
#[must_use]
pub fn draw_cut(random: &mut Random, shape: CutShape, nodes: usize) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..nodes).collect();
    random.shuffle(&mut order);
    let (one_side, other_side) = order.split_at(1 + random.index(nodes - 1));
    let across = one_side.iter().flat_map(|from| other_side.iter().map(move |to| (*from, *to)));
    let both_ways = |(from, to)| [(from, to), (to, from)];
    match shape {
        CutShape::OneWay => across.collect(),
        CutShape::Groups => across.flat_map(both_ways).collect(),
        CutShape::Pairs => {
            let pairs = (0..nodes).flat_map(|from| (from + 1..nodes).map(move |to| (from, to)));
            pairs.filter(|_| random.chance(400)).flat_map(both_ways).collect()
        }
    }
}
