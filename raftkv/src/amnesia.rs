//! What a node does that has lost what it had promised or acknowledged: its log, its state, or its whole disk.
//!
//! Such a node may have voted in a term it does not know any more, and acknowledged entries it does not hold. It must neither vote
//! nor acknowledge until its peers have taken its vote and given it the log again: the core does that (`raft/src/repair.rs`).
//! What is left for the disk is to notice the loss, to remember it, and to make room:
//!
//! ```text
//!   loss found ──▶ REPAIRING written, with a number ──▶ what is damaged moved aside ──▶ start with an empty log
//!                                                                                             │ repaired by the peers
//!   REPAIRING removed ◀───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The marker is durable before anything is moved, so that no crash leaves a node that has forgotten that it forgot. Every loss found
//! gets a new number, also one found while an earlier one is being repaired. Nothing is deleted: what is damaged goes to
//! `damaged-<n>`, for whoever wants to look at it, and is limited in number.
//!
//! An empty data directory is a loss too, unless it holds the file [`FIRST_START`], which `raftkv init` puts there once and the first
//! start takes away. A node that joins has no such file: its directory can be written twice, and the second time it would have forgotten what it
//! promised the first time; so it is let in by way of a repair. Caveat: whoever restores an old copy of a data directory brings back a state that no longer promises what it
//! did, and nothing in the copy tells. A node whose directory is to be restored is removed from the group and added anew.

use crate::error::StartError;
use crate::exit::{log_failure_is_damage, log_is_damaged, state_is_damaged, store_is_damaged};
use crate::failure::FatalError;
use crate::marker::Marker;
use raft::RepairId;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::wal::disk::Disk;

/// Says, in an empty data directory, that the node has never run. Provisioning writes it; the first start removes it.
pub const FIRST_START: &str = "FIRST_START";

/// Losses whose remains are kept. One more, and somebody has to look at the disk.
const DAMAGED_MAX: u32 = 8;

/// The note that this node has lost what it had promised, and the number of that loss.
#[derive(Clone)]
pub struct RepairMarker(Marker);

impl RepairMarker {
    /// The marker in a data directory.
    pub fn new(data_dir: Arc<dyn Disk>) -> RepairMarker {
        RepairMarker(Marker::new(data_dir, "REPAIRING"))
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// A loss was found. Durable when it returns.
    ///
    /// # Errors
    /// What the system says; the node must not start then.
    pub fn begin(&self, id: RepairId) -> io::Result<()> {
        self.0.write(&seal(id))
    }

    /// The number of the loss that is not repaired, if there is one. A marker that cannot be read still says that there is one: it
    /// gets the number `otherwise`.
    ///
    /// # Errors
    /// What the system says.
    pub fn pending(&self, otherwise: RepairId) -> io::Result<Option<RepairId>> {
        let Some(text) = self.0.read()? else { return Ok(None) };
        if let Some(id) = unseal(&text) {
            return Ok(Some(id));
        }
        self.begin(otherwise)?;
        Ok(Some(otherwise))
    }

    /// The node is repaired. Durable when it returns.
    ///
    /// # Errors
    /// What the system says; the node is under repair still.
    pub fn finish(&self) -> io::Result<()> {
        self.0.remove()
    }
}

/// Says that damage was found while the node ran: what opens may be damaged all the same. The next start takes it for lost.
#[derive(Clone)]
pub struct DamageNote(Marker);

impl DamageNote {
    /// The note in a data directory.
    pub fn new(data_dir: Arc<dyn Disk>) -> DamageNote {
        DamageNote(Marker::new(data_dir, "DAMAGED"))
    }

    /// Damage was found. Durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, loss: Loss) -> io::Result<()> {
        self.0.write(match loss {
            Loss::Log => "log\n",
            Loss::LogAndState => "log and state\n",
        })
    }

    /// What was found damaged. A note that cannot be read stands for everything.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self) -> io::Result<Option<Loss>> {
        Ok(self.0.read()?.map(|text| if text == "log\n" { Loss::Log } else { Loss::LogAndState }))
    }

    /// It was set aside. Durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> io::Result<()> {
        self.0.remove()
    }
}

fn seal(id: RepairId) -> String {
    let text = format!("repair {:016x}", id.0);
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

fn unseal(text: &str) -> Option<RepairId> {
    let id = RepairId(u64::from_str_radix(text.strip_prefix("repair ")?.get(..16)?, 16).ok()?);
    (seal(id) == text).then_some(id)
}

/// How much of its disk a node cannot use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The log. The state is whole, and the log can start after it.
    Log,
    /// The state, and with it what the log would have to be replayed on.
    LogAndState,
}

impl Loss {
    /// What was lost, if `error` means that something was, rather than that something cannot be used at this moment.
    #[must_use]
    pub fn behind(error: &StartError) -> Option<Loss> {
        match error {
            StartError::LogMissing { .. } | StartError::LogBehindState { .. } => Some(Loss::Log),
            StartError::Log(error) if log_is_damaged(error) => Some(Loss::Log),
            StartError::LogWrite(error) if log_failure_is_damage(error) => Some(Loss::Log),
            StartError::Gap { .. } => Some(Loss::LogAndState),
            StartError::Store(error) if store_is_damaged(error) => Some(Loss::LogAndState),
            StartError::Config(_)
            | StartError::Credentials(_)
            | StartError::OtherIdentity { .. }
            | StartError::DataDirectory(_)
            | StartError::Directory { .. }
            | StartError::Log(_)
            | StartError::LogWrite(_)
            | StartError::Store(_)
            | StartError::MembershipUnknown { .. }
            | StartError::NeverStarted { .. }
            | StartError::NoPeers { .. }
            | StartError::Removed { .. }
            | StartError::DamagedTooOften { .. }
            | StartError::Listen { .. }
            | StartError::Thread(_) => None,
        }
    }

    /// What was lost, if a running node stopped because of what is on its disk.
    #[must_use]
    pub fn behind_failure(failure: &FatalError) -> Option<Loss> {
        match failure {
            FatalError::Log(error) if log_failure_is_damage(error) => Some(Loss::Log),
            FatalError::State(error) if state_is_damaged(error) => Some(Loss::LogAndState),
            FatalError::Log(_)
            | FatalError::State(_)
            | FatalError::Install(_)
            | FatalError::Marker { .. }
            | FatalError::Removed { .. }
            | FatalError::Panicked { .. } => None,
        }
    }

    fn folders(self) -> &'static [&'static str] {
        match self {
            Loss::Log => &["wal"],
            Loss::LogAndState => &["wal", "state"],
        }
    }
}

/// Moves what is damaged out of the way, into the next `damaged-<n>`, durably. The marker must have been written.
///
/// # Errors
/// [`StartError::DamagedTooOften`], or what the system says. What was not moved is where it was.
pub fn set_aside(data_dir: &Path, loss: Loss) -> Result<PathBuf, StartError> {
    let numbered = |number: u32| data_dir.join(format!("damaged-{number}"));
    let free = (1..=DAMAGED_MAX).map(numbered).find(|path| !path.exists());
    let Some(aside) = free else { return Err(StartError::DamagedTooOften { path: data_dir.to_owned() }) };
    let move_all = || {
        fs::create_dir(&aside)?;
        for folder in loss.folders() {
            match fs::rename(data_dir.join(folder), aside.join(folder)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        File::open(&aside)?.sync_all()?;
        File::open(data_dir)?.sync_all()
    };
    move_all().map_err(|source| StartError::Directory { path: aside.clone(), source })?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use storage::wal::disk::RealDisk;

    fn marker(folder: &Path) -> RepairMarker {
        RepairMarker::new(Arc::new(RealDisk::create(folder).unwrap()))
    }

    #[test]
    fn a_loss_is_remembered_until_it_is_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let marker = marker(folder.path());
        assert_eq!(marker.pending(RepairId(9)).unwrap(), None);
        marker.begin(RepairId(u64::MAX)).unwrap();
        assert_eq!(marker.pending(RepairId(9)).unwrap(), Some(RepairId(u64::MAX)));
        marker.begin(RepairId(3)).unwrap();
        assert_eq!(marker.pending(RepairId(9)).unwrap(), Some(RepairId(3)));
        marker.finish().unwrap();
        marker.finish().unwrap();
        assert_eq!(marker.pending(RepairId(9)).unwrap(), None);
    }

    #[test]
    fn a_damaged_marker_is_a_marker() {
        let folder = tempfile::tempdir().unwrap();
        let marker = marker(folder.path());
        for damaged in ["", "repair", "repair 0000000000000003 00000000\n", "\u{fffd}"] {
            fs::write(marker.path(), damaged).unwrap();
            assert_eq!(marker.pending(RepairId(9)).unwrap(), Some(RepairId(9)), "{damaged:?}");
            assert_eq!(marker.pending(RepairId(8)).unwrap(), Some(RepairId(9)), "the number stays");
        }
    }

    #[test]
    fn damage_found_while_running_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let note = DamageNote::new(Arc::new(RealDisk::create(folder.path()).unwrap()));
        assert_eq!(note.read().unwrap(), None);
        for loss in [Loss::Log, Loss::LogAndState] {
            note.write(loss).unwrap();
            assert_eq!(note.read().unwrap(), Some(loss));
        }
        note.remove().unwrap();
        assert_eq!(note.read().unwrap(), None);
    }

    #[test]
    fn what_is_damaged_is_moved_and_never_deleted() {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=DAMAGED_MAX {
            for name in ["wal", "state"] {
                fs::create_dir(folder.path().join(name)).unwrap();
                fs::write(folder.path().join(name).join("file"), format!("{name} {number}")).unwrap();
            }
            let aside = set_aside(folder.path(), Loss::LogAndState).unwrap();
            assert_eq!(fs::read_to_string(aside.join("state/file")).unwrap(), format!("state {number}"));
            assert!(!folder.path().join("wal").exists());
        }
        fs::create_dir(folder.path().join("wal")).unwrap();
        let error = set_aside(folder.path(), Loss::Log).unwrap_err();
        assert!(error.to_string().contains("damaged-1"), "{error}");
        assert!(folder.path().join("wal").exists());
    }

    #[test]
    fn a_missing_log_leaves_the_state_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        set_aside(folder.path(), Loss::Log).unwrap();
        assert!(folder.path().join("state").exists());
    }
}
