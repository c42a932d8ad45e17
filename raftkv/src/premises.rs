//! The data directory of a real node: the log in `wal`, the state in `state`, and small files that say what is the matter with it.

use crate::amnesia::{Loss, RepairMarker, set_aside};
use crate::config::Config;
use crate::directory::MemberDirectory;
use crate::error::StartError;
use crate::marker::InstallIntent;
use crate::recovery::{Opened, Premises, Provisioned, recover};
use crate::shared_state::SharedState;
use crate::state::{NodeState, published};
use raft::{LogPosition, Membership, NodeId, RepairId, Restored};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use storage::identity::{DataDirectory, Identity};
use storage::state::{Bootstrap, RocksEngine, RocksOptions, StateMachine, StateStore, StoreError};
use storage::wal::disk::{Disk, RealDisk};
use storage::wal::{LogConfig, RecoveredLog, SegmentedLog};

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

/// Opens the data directory of the node that `config` describes; creates it if there is none. See [`recover`]. Blocks.
pub(crate) fn open_data_directory(config: &Config) -> Result<Recovered, StartError> {
    let path = &config.node.data_dir;
    let identity = Identity { cluster: config.cluster.id.clone(), node: NodeId(config.node.id) };
    let directory = Arc::new(DataDirectory::open_or_create(path, &identity)?);
    let disk =
        RealDisk::create(path).map_err(|source| StartError::Directory { path: path.clone(), source }).map(Arc::new)?;
    let provisioned = Provisioned {
        node: NodeId(config.node.id),
        membership: config.membership(),
        directory: MemberDirectory::founding(config),
        joining: config.cluster.joining,
    };
    let premises = DirectoryPremises { config, disk };
    let Opened { log, state: (store, machine), restored, intent, repair } =
        recover(&premises, &provisioned, &mut || RepairId(rand::random()))?;
    let store = Arc::new(Mutex::new(store));
    let shared = Arc::new(SharedState::new(machine.reader(), published(&machine)));
    let state = NodeState::new(machine, store.clone(), shared.clone(), intent.clone());
    Ok(Recovered { directory, log, state, shared, store, restored, intent, repair, outgoing: path.join("snapshots") })
}

struct DirectoryPremises<'a> {
    config: &'a Config,
    disk: Arc<RealDisk>,
}

impl DirectoryPremises<'_> {
    fn state_path(&self) -> PathBuf {
        self.path().join("state")
    }

    fn rocks_options(&self) -> RocksOptions {
        RocksOptions {
            block_cache_bytes: mib(self.config.storage.block_cache_mib),
            write_buffer_bytes: mib(self.config.storage.write_buffer_mib),
            ..RocksOptions::default()
        }
    }
}

impl Premises for DirectoryPremises<'_> {
    type Log = SegmentedLog;
    type State = (StateStore, StateMachine<RocksEngine>);

    fn path(&self) -> &Path {
        &self.config.node.data_dir
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn has_log(&self) -> bool {
        self.path().join("wal").exists()
    }

    fn has_state(&self) -> bool {
        self.state_path().exists()
    }

    fn open_log(&self) -> Result<(SegmentedLog, RecoveredLog), StartError> {
        let config = LogConfig { segment_bytes: self.config.storage.log_segment_mib << 20, ..LogConfig::default() };
        Ok(SegmentedLog::open(&self.path().join("wal"), config)?)
    }

    fn open_state(&self) -> Result<Self::State, StartError> {
        let bootstrap = Bootstrap { cluster: self.config.cluster.id.clone(), membership: self.config.membership() };
        let path = self.state_path();
        let (store, mut machine) = StateStore::open(&path, self.rocks_options(), &bootstrap)?;
        let held = machine.hold_format(self.config.node.format_max);
        held.map_err(|source| StoreError::State { path, source })?;
        Ok((store, machine))
    }

    fn applied((_, machine): &Self::State) -> (LogPosition, Membership) {
        (machine.applied(), machine.membership().clone())
    }

    fn membership_in_state(&self) -> Option<Membership> {
        let machine = StateStore::open_read_only(&self.state_path(), &self.rocks_options()).ok()?;
        Some(machine.membership().clone())
    }

    fn set_aside(&self, loss: Loss) -> Result<PathBuf, StartError> {
        set_aside(self.path(), loss)
    }
}

fn mib(count: u64) -> usize {
    usize::try_from(count << 20).expect("checked when the configuration was read: at most a tebibyte")
}
