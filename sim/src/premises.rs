//! The disks of a simulated node, as the production recovery sees them.

use crate::disk::SimDisk;
use crate::engine::SimEngine;
use crate::node::CLUSTER;
use raft::{LogIndex, LogPosition, Membership};
use raftkv::StartError;
use raftkv::amnesia::Loss;
use raftkv::recovery::Premises;
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::state::{Bootstrap, RunBounds, StateMachine, StoreError};
use storage::wal::disk::Disk;
use storage::wal::{LogConfig, RecoveredLog, SegmentedLog};

/// What a node keeps when its process ends, and what is lost when its disk is.
#[derive(Clone)]
pub(crate) struct Disks {
    /// The log's folder.
    pub(crate) log: SimDisk,
    /// The data directory, without log and state.
    pub(crate) data: SimDisk,
    /// The state's folder.
    pub(crate) engine: SimEngine,
    /// Whether the log's folder is there, with or without a log in it.
    pub(crate) has_log_folder: bool,
    /// Whether the state's folder is there.
    pub(crate) has_state: bool,
}

impl Disks {
    /// Everything is gone, as if the machine had been replaced.
    pub(crate) fn wipe(&mut self) {
        self.data.wipe();
        self.lose_log();
        self.lose_state();
    }

    /// The log's folder is gone.
    pub(crate) fn lose_log(&mut self) {
        self.empty_log();
        self.has_log_folder = false;
    }

    /// The log's folder is empty: its disk is not mounted, or somebody has tidied up.
    pub(crate) fn empty_log(&mut self) {
        self.log.wipe();
    }

    /// Everything is gone but the folders, which are empty.
    pub(crate) fn empty(&mut self) {
        self.data.wipe();
        self.empty_log();
        self.engine = SimEngine::new();
    }

    /// The state's folder is gone.
    pub(crate) fn lose_state(&mut self) {
        self.engine = SimEngine::new();
        self.has_state = false;
    }
}

/// The disks for the time of one start.
pub(crate) struct SimPremises<'a> {
    pub(crate) disks: RefCell<&'a mut Disks>,
    pub(crate) log_config: LogConfig,
    /// The newest format that the node's program knows.
    pub(crate) format_max: u32,
    pub(crate) run_bounds: RunBounds,
    pub(crate) bootstrap: Bootstrap,
    /// Losses that were set aside.
    pub(crate) set_aside: Cell<Option<Loss>>,
    /// The log's last write had not been finished.
    pub(crate) torn_tail: Cell<bool>,
}

impl Premises for SimPremises<'_> {
    type Log = SegmentedLog;
    type State = StateMachine<SimEngine>;

    fn path(&self) -> &Path {
        Path::new("/simulated")
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disks.borrow().data.clone())
    }

    fn log_disk(&self) -> Option<Arc<dyn Disk>> {
        let disks = self.disks.borrow();
        disks.has_log_folder.then(|| Arc::new(disks.log.clone()) as Arc<dyn Disk>)
    }

    fn has_state(&self) -> bool {
        self.disks.borrow().has_state
    }

    fn open_log(&self) -> Result<(SegmentedLog, RecoveredLog), StartError> {
        let mut disks = self.disks.borrow_mut();
        disks.has_log_folder = true;
        let (log, found) = SegmentedLog::open_on(Arc::new(disks.log.clone()), self.log_config)?;
        self.torn_tail.set(found.torn_tail.is_some());
        Ok((log, found))
    }

    fn open_state(&self) -> Result<StateMachine<SimEngine>, StartError> {
        let mut disks = self.disks.borrow_mut();
        disks.has_state = true;
        let mut machine = StateMachine::open(disks.engine.clone(), &self.bootstrap)
            .unwrap_or_else(|error| panic!("the state of {CLUSTER} cannot be opened: {error}"));
        machine.bound_runs(self.run_bounds);
        let held = machine.hold_format(self.format_max);
        held.map_err(|source| StartError::Store(StoreError::State { path: self.path().to_owned(), source }))?;
        Ok(machine)
    }

    fn applied(state: &StateMachine<SimEngine>) -> (LogPosition, Membership) {
        (state.applied(), state.membership().clone())
    }

    fn membership_in_state(&self) -> Option<(LogIndex, Membership)> {
        let disks = self.disks.borrow();
        let machine = StateMachine::open_existing(disks.engine.clone()).ok()?;
        Some((machine.applied().index, machine.membership().clone()))
    }

    fn set_aside(&self, loss: Loss) -> Result<PathBuf, StartError> {
        let mut disks = self.disks.borrow_mut();
        // The folder that takes it is a change of the data directory, so it does not come about without power.
        let unusable = |source| StartError::Directory { path: "/simulated".into(), source };
        disks.data.create("damaged").and_then(|_| disks.data.sync_directory()).map_err(unusable)?;
        disks.lose_log();
        if loss == Loss::LogAndState {
            disks.lose_state();
        }
        self.set_aside.set(Some(loss));
        Ok("/simulated/damaged".into())
    }
}
