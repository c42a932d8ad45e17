//! The data directory of a real node: the log in `wal`, the state in `state`, and small files that say what is the matter with it.

use crate::amnesia::{Loss, RepairMarker, set_aside};
use crate::config::Config;
use crate::directory::MemberDirectory;
use crate::error::StartError;
use crate::marker::InstallIntent;
use crate::peers::PeersNote;
use crate::recovery::{Opened, Premises, Provisioned, recover};
use crate::shared_state::SharedState;
use crate::state::{NodeState, published};
use raft::{LogIndex, LogPosition, Membership, NodeId, RepairId, Restored};
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
    /// Whether others could repair this node, for the apply thread to follow.
    pub(crate) peers: PeersNote,
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
    let Opened { log, state: (store, machine), restored, intent, repair, peers } =
        recover(&premises, &provisioned, &mut || RepairId(rand::random()))?;
    let store = Arc::new(Mutex::new(store));
    let shared = Arc::new(SharedState::new(machine.reader(), published(&machine)));
    let state = NodeState::new(machine, store.clone(), shared.clone(), intent.clone());
    let outgoing = path.join("snapshots");
    Ok(Recovered { directory, log, state, shared, store, restored, intent, repair, peers, outgoing })
}

struct DirectoryPremises<'a> {
    config: &'a Config,
    disk: Arc<RealDisk>,
}

impl DirectoryPremises<'_> {
    fn log_path(&self) -> PathBuf {
        self.path().join("wal")
    }

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

    fn log_disk(&self) -> Option<Arc<dyn Disk>> {
        let path = self.log_path();
        path.is_dir().then(|| Arc::new(RealDisk::read_only(&path)) as Arc<dyn Disk>)
    }

    fn has_state(&self) -> bool {
        self.state_path().exists()
    }

    fn open_log(&self) -> Result<(SegmentedLog, RecoveredLog), StartError> {
        let config = LogConfig { segment_bytes: self.config.storage.log_segment_mib << 20, ..LogConfig::default() };
        Ok(SegmentedLog::open(&self.log_path(), config)?)
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

    fn membership_in_state(&self) -> Option<(LogIndex, Membership)> {
        let machine = StateStore::open_read_only(&self.state_path(), &self.rocks_options()).ok()?;
        Some((machine.applied().index, machine.membership().clone()))
    }

    fn set_aside(&self, loss: Loss) -> Result<PathBuf, StartError> {
        set_aside(self.path(), loss)
    }
}

fn mib(count: u64) -> usize {
    usize::try_from(count << 20).expect("checked when the configuration was read: at most a tebibyte")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use crate::amnesia::FIRST_START;
    use raft::{Entry, EntryKind, HardState, LogIndex, Term};
    use std::fs;
    use storage::wal::{LogStore, LogWrite};

    const CONFIG: &str = r#"
        [cluster]
        id = "test"
        [[cluster.members]]
        id = 1
        name = "n1"
        client = "127.0.0.1:7420"
        peer = "127.0.0.1:7421"
        [node]
        id = 1
        [tls]
    "#;
    const LOSS: RepairId = RepairId(7);

    /// The data directory of a node that has applied three entries, and a copy of its log from before.
    fn used_directory() -> (tempfile::TempDir, Config, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::parse(CONFIG, Path::new("raftkv.toml")).unwrap();
        config.node.data_dir = folder.path().join("data");
        fs::create_dir(&config.node.data_dir).unwrap();
        fs::write(config.node.data_dir.join(FIRST_START), "").unwrap();
        drop(open_data_directory(&config).unwrap());
        let former = folder.path().join("former");
        copy(&config.node.data_dir.join("wal"), &former);
        let Recovered { directory: _lock, mut log, mut state, .. } = open_data_directory(&config).unwrap();
        let entry = |index| Entry {
            term: Term(1),
            index: LogIndex(index),
            kind: EntryKind::Noop,
            payload: bytes::Bytes::new(),
        };
        let entries: Vec<Entry> = (1..=3).map(entry).collect();
        let hard_state = Some(HardState { term: Term(1), vote: None });
        log.write(&[LogWrite { hard_state, entries: entries.clone() }]).unwrap();
        state.machine().apply(&entries, &mut Vec::new()).unwrap();
        state.machine().flush(true).unwrap();
        (folder, config, former)
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }

    fn is_under_repair(config: &Config) {
        let disk = RealDisk::create(&config.node.data_dir).unwrap();
        RepairMarker::new(Arc::new(disk)).begin(LOSS).unwrap();
    }

    /// The number of the loss that a start finds to be unrepaired.
    fn loss_at_start(config: &Config) -> Option<RepairId> {
        open_data_directory(config).unwrap().restored.repair
    }

    /// A second loss, while the first is repaired, that leaves a log that opens: what was said to be repaired under the first number counts
    /// for nothing.
    #[test]
    fn a_log_that_falls_behind_during_a_repair_is_another_loss() {
        let (_folder, config, former) = used_directory();
        is_under_repair(&config);
        let log = config.node.data_dir.join("wal");
        fs::remove_dir_all(&log).unwrap();
        copy(&former, &log);
        let another = loss_at_start(&config).unwrap();
        assert_ne!(another, LOSS);
        assert_eq!(loss_at_start(&config), Some(another), "the log starts after the state now");
    }

    #[test]
    fn a_repair_goes_on_over_a_restart() {
        let (_folder, config, _) = used_directory();
        is_under_repair(&config);
        assert_eq!(loss_at_start(&config), Some(LOSS));
    }

    #[test]
    fn an_empty_folder_is_no_log() {
        let (_folder, config, _) = used_directory();
        let log = config.node.data_dir.join("wal");
        for file in fs::read_dir(&log).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let refused = open_data_directory(&config).err().unwrap();
        assert!(
            matches!(&refused, StartError::NoPeers { cause, .. } if matches!(**cause, StartError::LogMissing { .. })),
            "{refused}"
        );
        assert!(refused.to_string().contains("mounted"), "names what it may be: {refused}");
        assert!(log.exists(), "nothing was moved");
    }
}
