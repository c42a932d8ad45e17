//! What a node does with its disk before it starts: opens the log and the state machine, finds out whether either has lost
//! something, and brings the two into line.
//!
//! The state machine is never ahead of the log, except in one place: a crash between switching to a snapshot and resetting the
//! log, which the intent of `marker.rs` tells. Then the log is reset here (scenarios 21 and 27). Otherwise a log that ends
//! before what was applied from it has lost what it had acknowledged; so it has if it starts after what the state machine has
//! applied (scenario 22), if it is damaged, or if it is not there. A folder is no log: an empty one is what is left where a disk is not mounted or
//! its contents are gone. A node with peers (`peers.rs`) starts under repair then (`amnesia.rs`); one that is alone refuses to start.
//!
//! Where log and state lie is behind [`Premises`]: in a data directory (`premises.rs`), or on the simulator's disks. What is decided here is the
//! same for both.

use crate::amnesia::{DamageNote, FIRST_START, Loss, RepairMarker};
use crate::directory::MemberDirectory;
use crate::error::StartError;
use crate::marker::InstallIntent;
use crate::members::Standing;
use crate::peers::{PeersNote, others_can_repair};
use raft::{HardState, LogIndex, LogPosition, LogRange, Membership, NodeId, RepairId, Restored};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::wal::disk::Disk;
use storage::wal::{LogStore, LogWrite, RecoveredLog, holds_log};

/// A file that says that the log and the state have been set up here.
const IN_USE: &str = "IN_USE";

/// Where a node keeps what it must not forget.
pub trait Premises {
    /// The log, opened.
    type Log: LogStore;
    /// The state machine, opened.
    type State;

    /// The data directory, for messages.
    fn path(&self) -> &Path;
    /// The files of the data directory itself, which say what is the matter with it. Log and state have folders of their own.
    fn disk(&self) -> Arc<dyn Disk>;
    /// The folder for the log, to look at, if there is one.
    fn log_disk(&self) -> Option<Arc<dyn Disk>>;
    /// Whether there is a folder for the state.
    fn has_state(&self) -> bool;
    /// Opens the log; sets one up if there is none.
    ///
    /// # Errors
    /// What is wrong with it.
    fn open_log(&self) -> Result<(Self::Log, RecoveredLog), StartError>;
    /// Opens the state machine; sets one up if there is none.
    ///
    /// # Errors
    /// What is wrong with it.
    fn open_state(&self) -> Result<Self::State, StartError>;
    /// What a state has applied, durably, and the membership as of then.
    fn applied(state: &Self::State) -> (LogPosition, Membership);
    /// The members that the state knows of, if it can be read, and the last entry it has applied. Changes nothing.
    fn membership_in_state(&self) -> Option<(LogIndex, Membership)>;
    /// Moves what is lost out of the way, durably, and says where it is. Deletes nothing.
    ///
    /// # Errors
    /// When there is no room for it, or what the system says.
    fn set_aside(&self, loss: Loss) -> Result<PathBuf, StartError>;
}

/// What provisioning told a node about its group.
#[derive(Debug, Clone)]
pub struct Provisioned {
    /// The node.
    pub node: NodeId,
    /// The members that found the group; nobody if the node joins a group that is there.
    pub membership: Membership,
    /// What they are called.
    pub directory: MemberDirectory,
    /// The node joins, or has joined, a group that is there.
    pub joining: bool,
}

/// Log and state, opened and in line.
pub struct Opened<P: Premises> {
    /// The log.
    pub log: P::Log,
    /// The state machine.
    pub state: P::State,
    /// What the core starts from.
    pub restored: Restored,
    /// Set while a snapshot is being put in use.
    pub intent: InstallIntent,
    /// Set while this node is under repair.
    pub repair: RepairMarker,
    /// Whether others could repair this node: to be kept up with what is applied.
    pub peers: PeersNote,
}

/// Opens what there is, or sets up what a new node needs. A node that finds that it has lost something, and has peers, sets aside what is damaged
/// and starts under repair. `number` gives a loss its number: one that no other loss has. Blocks.
///
/// # Errors
/// See [`StartError`]. What was acknowledged is where it was.
pub fn recover<P: Premises>(
    premises: &P,
    provisioned: &Provisioned,
    number: &mut dyn FnMut() -> RepairId,
) -> Result<Opened<P>, StartError> {
    let peers = PeersNote::open(premises.disk(), provisioned.node, provisioned.joining)
        .map_err(|source| StartError::Directory { path: premises.path().to_owned(), source })?;
    let recovery = Recovery { premises, provisioned, repair: RepairMarker::new(premises.disk()), peers };
    let note = DamageNote::new(premises.disk());
    let noted = note.read().map_err(|source| recovery.unusable(source))?;
    if let Some(loss) = noted.filter(|loss| recovery.has_peers(*loss)) {
        recovery.begin_repair(number(), loss, &"it was found damaged while the node ran")?;
        note.remove().map_err(|source| recovery.unusable(source))?;
    }
    recovery.note_lost_disk(number)?;
    let error = match recovery.open(number) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    let Some(loss) = Loss::behind(&error) else { return Err(error) };
    if !recovery.has_peers(loss) {
        return Err(StartError::NoPeers { cause: Box::new(error), note: recovery.peers.path() });
    }
    // What to do about a node that nobody repairs is no advice here.
    let damage = if let StartError::Log(damage) = &error {
        damage.to_string()
    } else if let StartError::LogMissing { path } = &error {
        format!(
            "the log {} is missing or empty, and this data directory has been in use; is the disk it should be on mounted?",
            path.display()
        )
    } else {
        error.to_string()
    };
    recovery.begin_repair(number(), loss, &damage)?;
    recovery.open(number)
}

struct Recovery<'a, P> {
    premises: &'a P,
    provisioned: &'a Provisioned,
    repair: RepairMarker,
    peers: PeersNote,
}

impl<P: Premises> Recovery<'_, P> {
    fn unusable(&self, source: io::Error) -> StartError {
        StartError::Directory { path: self.premises.path().to_owned(), source }
    }

    /// From here on the node remembers that it has lost something, and what is damaged is out of the way.
    fn begin_repair(&self, id: RepairId, loss: Loss, cause: &dyn Display) -> Result<(), StartError> {
        let repair = &self.repair;
        repair.begin(id).map_err(|source| StartError::Directory { path: repair.path(), source })?;
        let aside = self.premises.set_aside(loss)?;
        tracing::error!(
            %cause,
            moved_to = %aside.display(),
            "this node has lost what it had acknowledged: it neither votes nor acknowledges until its peers have repaired it"
        );
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, StartError> {
        self.premises.disk().list().map_err(|source| self.unusable(source))
    }

    fn is_marked(&self, name: &str) -> Result<bool, StartError> {
        Ok(self.names()?.iter().any(|found| found == name))
    }

    /// A data directory with nothing in it is that of a new node only if provisioning says so, once. Otherwise the disk was lost, and with
    /// it what this node had promised (scenario 35).
    fn note_lost_disk(&self, number: &mut dyn FnMut() -> RepairId) -> Result<(), StartError> {
        let is_marked = self.is_marked(IN_USE)? || self.is_marked(FIRST_START)?;
        let is_empty = !is_marked && !self.has_log()? && !self.premises.has_state();
        if !is_empty || self.repair.pending(number()).map_err(|source| self.unusable(source))?.is_some() {
            return Ok(());
        }
        if !self.has_peers(Loss::LogAndState) {
            return Err(StartError::NeverStarted { path: self.premises.path().to_owned() });
        }
        self.repair.begin(number()).map_err(|source| self.unusable(source))?;
        if self.provisioned.joining {
            tracing::warn!(
                data_dir = %self.premises.path().display(),
                "the data directory is empty: this node does not vote until the others have let it in, whether it ran before or not"
            );
            return Ok(());
        }
        tracing::error!(
            data_dir = %self.premises.path().display(),
            "the data directory is empty, and no file FIRST_START in it says that this node is new: it neither votes nor acknowledges until its peers have repaired it; \
             `raftkv init` writes that file to NODE/data: if this node has never run, stop it, remove REPAIRING, copy FIRST_START here, and start it again"
        );
        Ok(())
    }

    /// Whether there is a log, whole or not.
    fn has_log(&self) -> Result<bool, StartError> {
        let Some(disk) = self.premises.log_disk() else { return Ok(false) };
        holds_log(&*disk).map_err(|source| StartError::Directory { path: disk.path(""), source })
    }

    /// Whether anybody could repair this node: voters other than itself. The newest that is known of the members counts: of the note, and of what the
    /// loss has left whole. A node that is wrongly taken for the only voter stays down and says so; one that is wrongly repaired would
    /// set the only copy aside.
    fn has_peers(&self, loss: Loss) -> bool {
        let Provisioned { node, membership, joining, .. } = self.provisioned;
        let in_log = match loss {
            Loss::Log => None,
            Loss::LogAndState => self.newest_membership_in_log(),
        };
        // A log that is whole knows of every change that this node had a part in, and without the only voter there is none.
        if in_log.is_none() && self.peers.is_overruled() {
            return true;
        }
        let in_state = match loss {
            Loss::Log => self.premises.membership_in_state().filter(|(_, membership)| !membership.is_empty()),
            Loss::LogAndState => None,
        };
        let left_whole = in_log.or(in_state);
        let found = left_whole.map(|(index, membership)| (index, others_can_repair(*node, &membership)));
        let noted = self.peers.noted().map(|noted| (noted.index, noted.can_repair));
        let newest = noted.into_iter().chain(found).max_by_key(|(index, _)| *index);
        // Who joins or has joined was let in by others.
        newest.map_or_else(|| *joining || others_can_repair(*node, membership), |(_, can_repair)| can_repair)
    }

    /// The last membership in the log, if the log is whole and has one.
    fn newest_membership_in_log(&self) -> Option<(LogIndex, Membership)> {
        // Opening would set one up.
        if !self.has_log().ok()? {
            return None;
        }
        let (log, found) = self.premises.open_log().ok()?;
        let newest = found.memberships.last().copied()?;
        memberships_in_log(&log, &[newest]).ok()?.pop()
    }

    /// Opens log and state and brings them into line.
    fn open(&self, number: &mut dyn FnMut() -> RepairId) -> Result<Opened<P>, StartError> {
        let Recovery { premises, provisioned, repair, peers } = self;
        let mut under_repair = repair.pending(number()).map_err(|source| self.unusable(source))?;
        let is_log_missing = (self.is_marked(IN_USE)? || premises.has_state()) && !self.has_log()?;
        if is_log_missing {
            if under_repair.is_none() {
                return Err(StartError::LogMissing { path: premises.path().join("wal") });
            }
            // Set aside, or lost once more: what the log was said to hold by now counts for nothing.
            under_repair = Some(self.count_as_another_loss(number())?);
        }
        // The log first: a state without a log is a loss, a log without a state is replayed.
        let (mut log, found) = premises.open_log()?;
        if let Some(torn) = &found.torn_tail {
            tracing::warn!(
                file = %torn.file.display(),
                offset = torn.offset,
                bytes = torn.bytes,
                "the last write to the log was never finished, and never acknowledged: dropped"
            );
        }
        let state = premises.open_state()?;
        let (applied, membership) = P::applied(&state);
        let directory = MemberDirectory::of(&membership, &provisioned.directory);
        if Standing::of(provisioned.node, &membership, &directory) == Standing::Removed {
            return Err(StartError::Removed { node: provisioned.node.0, path: premises.path().to_owned() });
        }
        self.mark_in_use()?;
        let intent = InstallIntent::new(premises.disk());
        let unfinished = intent.unfinished().map_err(|source| self.unusable(source))?;
        let is_behind = !holds(&found, applied) && unfinished != Some(applied);
        if is_behind && !is_log_missing && under_repair.is_some() {
            under_repair = Some(self.count_as_another_loss(number())?);
        }
        let mut peers = peers.clone();
        peers.follow(applied.index, &membership).map_err(|source| self.unusable(source))?;
        let restored = reconcile(&intent, &mut log, found, applied, membership, under_repair)?;
        tracing::info!(
            term = %restored.hard_state.term,
            log_first = %restored.log_start.index.next(),
            log_last = %restored.log_last,
            applied = %applied.index,
            under_repair = restored.repair.is_some(),
            "storage is recovered"
        );
        Ok(Opened { log, state, restored, intent, repair: repair.clone(), peers })
    }

    /// A node under repair has lost something again.
    fn count_as_another_loss(&self, id: RepairId) -> Result<RepairId, StartError> {
        self.repair.begin(id).map_err(|source| self.unusable(source))?;
        Ok(id)
    }

    /// From here on the node may vote and acknowledge, so a log that is missing at a later start is a loss, whatever else is missing, and
    /// the directory is a new node's no more (scenario 35).
    fn mark_in_use(&self) -> Result<(), StartError> {
        let is_first = self.is_marked(FIRST_START)?;
        if self.is_marked(IN_USE)? && !is_first {
            return Ok(());
        }
        let disk = self.premises.disk();
        let mark = || {
            disk.create(IN_USE)?.sync()?;
            disk.sync_directory()?;
            if is_first {
                disk.remove(FIRST_START)?;
                disk.sync_directory()?;
            }
            Ok(())
        };
        mark().map_err(|source| self.unusable(source))
    }
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
    let is_held = holds(&found, applied);
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
    if !is_held {
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

/// Whether the log goes on from `applied`: it has that very entry, or starts after it.
fn holds(found: &RecoveredLog, applied: LogPosition) -> bool {
    let LogPosition { term, index } = applied;
    if index <= found.start.index || index > found.last {
        return applied == found.start;
    }
    found.term_runs.iter().rev().find(|(first, _)| *first <= index).is_some_and(|(_, found)| *found == term)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use raft::Term;
    use storage::wal::disk::RealDisk;
    use storage::wal::{LogConfig, SegmentedLog};

    /// Scenario 22: entries between the two were acknowledged, and are nowhere.
    #[test]
    fn a_log_that_starts_after_what_the_state_holds_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, found) = SegmentedLog::open(&folder.path().join("wal"), LogConfig::default()).unwrap();
        let intent = InstallIntent::new(Arc::new(RealDisk::create(folder.path()).unwrap()));
        let at = |index| LogPosition { term: Term(3), index: LogIndex(index) };
        let found = RecoveredLog { start: at(5), last: LogIndex(5), ..found };
        let membership = Membership::new([NodeId(1), NodeId(2), NodeId(3)]);
        let mut start = |applied| reconcile(&intent, &mut log, found.clone(), applied, membership.clone(), None);
        assert_eq!(start(at(5)).unwrap().applied, LogIndex(5));
        let Err(StartError::Gap { applied, log_start }) = start(at(4)) else { panic!("the entry at 5 is nowhere") };
        assert_eq!((applied, log_start), (at(4), at(5)));
    }
}
