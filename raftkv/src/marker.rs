//! Small files that say something about a data directory for as long as they are there.
//!
//! A marker appears whole or not at all, and is durable when [`Marker::write`] returns. It lies on a
//! [`Disk`], so that the simulator's crashes meet it as power cuts meet a real one.

use raft::{LogIndex, LogPosition, Term};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use storage::wal::disk::Disk;

/// One marker. Clones name the same file.
#[derive(Clone)]
pub struct Marker {
    disk: Arc<dyn Disk>,
    name: &'static str,
}

impl Marker {
    /// The marker called `name` in the directory `disk`.
    pub fn new(disk: Arc<dyn Disk>, name: &'static str) -> Marker {
        Marker { disk, name }
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.disk.path(self.name)
    }

    /// Sets the marker, in place of one that is there. Durable when it returns.
    ///
    /// # Errors
    /// What the system says; the former marker, or none, may be in place still.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let temporary = format!("{}.tmp", self.name);
        let file = self.disk.create(&temporary)?;
        file.write_at(&mut [IoSlice::new(text.as_bytes())], 0)?;
        file.sync()?;
        self.disk.rename(&temporary, self.name)?;
        self.disk.sync_directory()
    }

    /// What the marker says; `None` if it is not set. A damaged text reads as an empty one.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self) -> io::Result<Option<String>> {
        let file = match self.disk.open(self.name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = file.length()?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
    }

    /// Takes the marker away, if it is set. Durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> io::Result<()> {
        match self.disk.remove(self.name) {
            Ok(()) => self.disk.sync_directory(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Says that a snapshot is being put in use.
///
/// Switching to a snapshot takes two disks' worth of order: the state first, then the log. The intent says that this is going
/// on, so that after a crash in between, a state ahead of the log is known for what it is. Without the intent it means that the log
/// has lost what it had acknowledged.
#[derive(Clone)]
pub struct InstallIntent(Marker);

impl InstallIntent {
    /// The intent in a data directory.
    pub fn new(data_dir: Arc<dyn Disk>) -> InstallIntent {
        InstallIntent(Marker::new(data_dir, "INSTALLING"))
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// The snapshot at `position` is about to be put in use. Durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(&self, position: LogPosition) -> io::Result<()> {
        self.0.write(&format!("term {} index {}\n", position.term, position.index))
    }

    /// The snapshot whose installation was begun and not finished, if any. An intent that makes no sense names none.
    ///
    /// # Errors
    /// What the system says.
    pub fn unfinished(&self) -> io::Result<Option<LogPosition>> {
        Ok(self.0.read()?.and_then(|text| parse(&text)))
    }

    /// State and log agree again.
    ///
    /// # Errors
    /// What the system says. The next start does it then.
    pub fn finish(&self) -> io::Result<()> {
        self.0.remove()
    }
}

fn parse(text: &str) -> Option<LogPosition> {
    let (term, index) = text.trim_end().strip_prefix("term ")?.split_once(" index ")?;
    Some(LogPosition { term: Term(term.parse().ok()?), index: LogIndex(index.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use storage::wal::disk::RealDisk;

    #[test]
    fn an_intent_lasts_until_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let intent = InstallIntent::new(Arc::new(RealDisk::create(folder.path()).unwrap()));
        let position = LogPosition { term: Term(7), index: LogIndex(42) };
        assert_eq!(intent.unfinished().unwrap(), None);
        intent.begin(position).unwrap();
        assert_eq!(intent.unfinished().unwrap(), Some(position));
        assert!(intent.path().is_file());
        intent.finish().unwrap();
        intent.finish().unwrap();
        assert_eq!(intent.unfinished().unwrap(), None);
    }

    #[test]
    fn a_damaged_intent_names_nothing() {
        for text in ["", "term 1", "term x index 2", "index 2 term 1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
