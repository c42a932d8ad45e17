//! What a node does with its disk before it starts: opens the data directory, the log and the state machine, and brings the
//! two into line.
//!
//! The state machine is never ahead of the log, except in one place: a crash between switching to a snapshot and resetting the
//! log, which the intent of `marker.rs` tells. Then the log is reset here (scenarios 21 and 27). Otherwise a log that ends
//! before what was applied from it has lost what it had acknowledged; so it has if it starts after what the state machine has
//! applied (scenario 22), if it is damaged, or if it is not there. A node with peers starts under repair then (`amnesia.rs`); one that is
//! alone refuses to start.

use crate::amnesia::{DamageNote, FIRST_START, Loss, RepairMarker, set_aside};
use crate::config::Config;
use crate::directory::MemberDirectory;
use crate::error::StartError;
use crate::marker::InstallIntent;
use crate::members::Standing;
use crate::shared_state::SharedState;
use crate::state::{NodeState, published};
use raft::{HardState, LogIndex, LogPosition, LogRange, Membership, NodeId, RepairId, Restored};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use storage::identity::{DataDirectory, Identity};
use storage::state::{Bootstrap, RocksOptions, StateStore};
use storage::wal::disk::RealDisk;
use storage::wal::{LogConfig, LogStore, LogWrite, RecoveredLog, SegmentedLog};

/// A file that says that the log and the state have been set up here.
const IN_USE: &str = "IN_USE";

/// Everything on disk, opened and consistent.
pub(crate) struct Recovered {
    /// Holds the lock on the data directory.
    pub(crate) directory: Arc<DataDirectory>,
    /// The log.
    pub(crate) log: SegmentedLog,
    /// The state machine, for the apply thread.
    pub(crate) state: NodeState,
    /// The readers' view of it.
    pub(crate) shared: Arc<SharedState>,
    /// Where snapshots are received.
    pub(crate) store: Arc<Mutex<StateStore>>,
    /// What the core starts from.
    pub(crate) restored: Restored,
    /// Set while a snapshot is being put in use.
    pub(crate) intent: InstallIntent,
    /// Set while this node is under repair.
    pub(crate) repair: RepairMarker,
    /// Where snapshots for others are kept while they are sent.
    pub(crate) outgoing: PathBuf,
}

/// Opens the data directory of the node that `config` describes; creates it if there is none. A node that finds that it has lost
/// something, and has peers, sets aside what is damaged and starts under repair. Blocks.
pub(crate) fn recover(config: &Config) -> Result<Recovered, StartError> {
    let path = &config.node.data_dir;
    let identity = Identity { cluster: config.cluster.id.clone(), node: NodeId(config.node.id) };
    let directory = Arc::new(DataDirectory::open_or_create(path, &identity)?);
    let unusable = |source| StartError::Directory { path: path.clone(), source };
    let disk = Arc::new(RealDisk::create(path).map_err(unusable)?);
    let repair = RepairMarker::new(disk.clone());
    let note = DamageNote::new(disk.clone());
    if let Some(loss) = note.read().map_err(unusable)?.filter(|loss| has_peers(config, *loss)) {
        begin_repair(path, &repair, loss, &"it was found damaged while the node ran")?;
        note.remove().map_err(unusable)?;
    }
    note_lost_disk(config, &repair)?;
    let error = match open_storage(config, &directory, disk.clone(), &repair) {
        Ok(recovered) => return Ok(recovered),
        Err(error) => error,
    };
    let Some(loss) = Loss::behind(&error).filter(|loss| has_peers(config, *loss)) else { return Err(error) };
    begin_repair(path, &repair, loss, &error)?;
    open_storage(config, &directory, disk, &repair)
}

/// From here on the node remembers that it has lost something, and what is damaged is out of the way.
fn begin_repair(path: &Path, repair: &RepairMarker, loss: Loss, cause: &dyn Display) -> Result<(), StartError> {
    repair.begin(RepairId(rand::random())).map_err(|source| StartError::Directory { path: repair.path(), source })?;
    let aside = set_aside(path, loss)?;
    tracing::error!(
        %cause,
        moved_to = %aside.display(),
        "this node has lost what it had acknowledged: it neither votes nor acknowledges until its peers have repaired it"
    );
    Ok(())
}

/// A data directory with nothing in it is that of a new node only if provisioning says so, once. Otherwise the disk was lost, and with it what
/// this node had promised (scenario 35).
fn note_lost_disk(config: &Config, repair: &RepairMarker) -> Result<(), StartError> {
    let path = &config.node.data_dir;
    let unusable = |source| StartError::Directory { path: path.clone(), source };
    let is_empty = [IN_USE, "wal", "state", FIRST_START].iter().all(|name| !path.join(name).exists());
    if !is_empty || repair.pending(RepairId(rand::random())).map_err(unusable)?.is_some() {
        return Ok(());
    }
    if !has_peers(config, Loss::LogAndState) {
        return Err(StartError::NeverStarted { path: path.clone() });
    }
    tracing::error!(
        data_dir = %path.display(),
        "the data directory is empty, and no file FIRST_START in it says that this node is new: it neither votes nor acknowledges until its peers have repaired it; \
         `raftkv init` writes that file to NODE/data: if this node has never run, stop it, remove REPAIRING, copy FIRST_START here, and start it again"
    );
    repair.begin(RepairId(rand::random())).map_err(unusable)
}

/// Whether anybody could repair this node. What the state knows of the members counts, if it is whole.
fn has_peers(config: &Config, loss: Loss) -> bool {
    // Who joins or has joined was let in by others.
    let in_configuration = if config.cluster.joining { usize::MAX } else { config.membership().voters().len() };
    let in_state = || {
        let state = config.node.data_dir.join("state");
        let machine = StateStore::open_read_only(&state, &rocks_options(config)).ok()?;
        Some(machine.membership().voters().len())
    };
    match loss {
        Loss::Log => in_state().unwrap_or(in_configuration) > 1,
        Loss::LogAndState => in_configuration > 1,
    }
}

fn rocks_options(config: &Config) -> RocksOptions {
    RocksOptions {
        block_cache_bytes: mib(config.storage.block_cache_mib),
        write_buffer_bytes: mib(config.storage.write_buffer_mib),
        ..RocksOptions::default()
    }
}

/// Opens log and state and brings them into line.
fn open_storage(
    config: &Config,
    directory: &Arc<DataDirectory>,
    disk: Arc<RealDisk>,
    repair: &RepairMarker,
) -> Result<Recovered, StartError> {
    let path = &config.node.data_dir;
    let unusable = |source| StartError::Directory { path: path.clone(), source };
    let bootstrap = Bootstrap { cluster: config.cluster.id.clone(), membership: config.membership() };
    let (wal, state) = (path.join("wal"), path.join("state"));
    let in_use = path.join(IN_USE);
    let mut under_repair = repair.pending(RepairId(rand::random())).map_err(unusable)?;
    if (in_use.exists() || state.exists()) && !wal.exists() {
        if under_repair.is_none() {
            return Err(StartError::LogMissing { path: wal });
        }
        // Set aside, or lost once more: what the log was said to hold by now counts for nothing.
        let another = RepairId(rand::random());
        repair.begin(another).map_err(unusable)?;
        under_repair = Some(another);
    }
    // The log first: a state without a log is a loss, a log without a state is replayed.
    let log_config = LogConfig { segment_bytes: config.storage.log_segment_mib << 20, ..LogConfig::default() };
    let (mut log, found) = SegmentedLog::open(&wal, log_config)?;
    if let Some(torn) = &found.torn_tail {
        tracing::warn!(
            file = %torn.file.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "the last write to the log was never finished, and never acknowledged: dropped"
        );
    }
    let (store, machine) = StateStore::open(&state, rocks_options(config), &bootstrap)?;
    let founding = MemberDirectory::founding(config);
    let directory_of_state = MemberDirectory::of(machine.membership(), &founding);
    if Standing::of(directory.identity().node, machine.membership(), &directory_of_state) == Standing::Removed {
        return Err(StartError::Removed { node: config.node.id, path: path.clone() });
    }
    mark_in_use(&in_use).map_err(unusable)?;
    let applied = machine.applied();
    let intent = InstallIntent::new(disk);
    let restored = reconcile(&intent, &mut log, found, applied, machine.membership().clone(), under_repair)?;
    tracing::info!(
        term = %restored.hard_state.term,
        log_first = %restored.log_start.index.next(),
        log_last = %restored.log_last,
        applied = %applied.index,
        under_repair = restored.repair.is_some(),
        "storage is recovered"
    );
    let store = Arc::new(Mutex::new(store));
    let shared = Arc::new(SharedState::new(machine.reader(), published(&machine)));
    let state = NodeState::new(machine, store.clone(), shared.clone(), intent.clone());
    let (directory, repair, outgoing) = (directory.clone(), repair.clone(), path.join("snapshots"));
    Ok(Recovered { directory, log, state, shared, store, restored, intent, repair, outgoing })
}

/// From here on the node may vote and acknowledge, so a log that is missing at a later start is a loss, whatever else is missing, and
/// the directory is a new node's no more (scenario 35).
fn mark_in_use(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().expect("the marker is in the data directory");
    let first_start = directory.join(FIRST_START);
    if path.exists() && !first_start.exists() {
        return Ok(());
    }
    std::fs::File::create(path)?.sync_all()?;
    std::fs::File::open(directory)?.sync_all()?;
    if first_start.exists() {
        std::fs::remove_file(first_start)?;
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Brings log and state machine into line, after whatever crash there was, and says what the core starts from. `applied` and
/// `membership` are the state machine's. A node `under_repair` has lost its log, or part of it: its log starts after what is applied.
///
/// # Errors
/// When something that was acknowledged is missing, and when the disk fails.
pub fn reconcile(
    intent: &InstallIntent,
    log: &mut dyn LogStore,
    found: RecoveredLog,
    applied: LogPosition,
    membership: Membership,
    under_repair: Option<RepairId>,
) -> Result<Restored, StartError> {
    let mut in_log = found.memberships;
    let mut restored = Restored {
        hard_state: found.hard_state,
        membership,
        log_start: found.start,
        log_last: found.last,
        term_runs: found.term_runs,
        applied: applied.index,
        memberships: Vec::new(),
        repair: under_repair,
    };
    if applied.index < restored.log_start.index {
        return Err(StartError::Gap { applied, log_start: restored.log_start });
    }
    let unusable = |source| StartError::Directory { path: intent.path(), source };
    let unfinished = intent.unfinished().map_err(unusable)?;
    if term_at(&restored, applied.index) != Some(applied.term) {
        if unfinished != Some(applied) && under_repair.is_none() {
            return Err(StartError::LogBehindState { applied, log_last: restored.log_last });
        }
        tracing::info!(%applied, log_last = %restored.log_last, "the log starts after what is applied: it was lost, or a crash came between a snapshot and the log");
        log.reset(applied)?;
        restored.log_start = applied;
        restored.log_last = applied.index;
        restored.term_runs = Vec::new();
        in_log = Vec::new();
    }
    if restored.hard_state.term < applied.term {
        // The snapshot came from a leader of a later term than this node had on disk. It voted for nobody in that term.
        restored.hard_state = HardState { term: applied.term, vote: None };
        log.write(&[LogWrite { hard_state: Some(restored.hard_state), entries: Vec::new() }])?;
    }
    if unfinished.is_some() {
        intent.finish().map_err(unusable)?;
    }
    in_log.retain(|index| *index > applied.index);
    restored.memberships = memberships_in_log(log, &in_log)?;
    Ok(restored)
}

/// The memberships at these places in the log.
fn memberships_in_log(log: &dyn LogStore, places: &[LogIndex]) -> Result<Vec<(LogIndex, Membership)>, StartError> {
    let reader = log.reader();
    let mut memberships = Vec::new();
    for index in places.iter().copied() {
        let entries = reader.entries(LogRange { first: index, last: index }, 0)?;
        let entry = entries.first().expect("a read gives at least one entry");
        let membership =
            Membership::decode(&entry.payload).map_err(|cause| StartError::MembershipUnknown { index, cause })?;
        memberships.push((index, membership));
    }
    Ok(memberships)
}

fn term_at(restored: &Restored, index: LogIndex) -> Option<raft::Term> {
    if index == restored.log_start.index {
        return Some(restored.log_start.term);
    }
    if index < restored.log_start.index || index > restored.log_last {
        return None;
    }
    restored.term_runs.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term)
}

fn mib(count: u64) -> usize {
    usize::try_from(count << 20).expect("checked when the configuration was read: at most a tebibyte")
}
