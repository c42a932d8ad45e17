//! A disk that fails the way disks fail.
//!
//! One directory of files. What is written is seen at once, as through a page cache, and survives the process; it survives a power cut
//! for certain only once its file has been flushed, and a name only once the directory has been. At a power cut each sector written since is lost,
//! kept or *torn*: its beginning new, its end old. Of the directory's changes since its last flush a beginning is kept, as a
//! journal would.
//!
//! Faults are asked for one at a time: reads, writes and flushes that fail; a flush that fails and marks the pages clean all the
//! same, so that the data is read back until the power goes and is lost then (scenario 53); a full disk; bits that rot; a write that
//! goes elsewhere; the loss of everything.
//!
//! A disk outlives the processes that use it. Handles of a former process fail, so that nothing of it can tidy up behind a crash.

mod file;

use crate::counters::Counters;
use crate::random::Random;
use file::FileState;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::wal::disk::{Disk, DiskFile};

/// Written whole or torn at a power cut, never mixed up with another one.
pub const SECTOR_BYTES: usize = 512;

/// A fault that hits the next operation it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// A read fails.
    Read,
    /// A write fails, after a part of it.
    Write,
    /// A flush fails; what it was to make durable stays dirty.
    Sync,
    /// A flush fails, and what it was to make durable passes for clean: it can be read, and a power cut loses it.
    SyncForgets,
    /// A write lands one sector further on, and says that it went well.
    Misdirected,
}

/// How often the disk did what it was told to do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStatistics {
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Flushes that failed, those that passed for clean left out.
    pub failed_flushes: u64,
    /// Flushes that failed and passed for clean.
    pub forgotten: u64,
    /// Writes that went elsewhere.
    pub misdirected: u64,
    /// Operations refused for want of space.
    pub full: u64,
    /// Sectors lost at power cuts.
    pub lost: u64,
    /// Sectors torn at power cuts.
    pub torn: u64,
    /// Changes of the directory lost at power cuts.
    pub names_lost: u64,
}

/// See the module. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    random: Random,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    /// Names as a process sees them.
    names: BTreeMap<String, u64>,
    /// Names that a power cut leaves.
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the directory was flushed.
    changes: Vec<NameChange>,
    life: u64,
    /// So many more changes succeed.
    power_left: Option<u32>,
    fault: Option<DiskFault>,
    full: bool,
    statistics: DiskStatistics,
}

enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set(name, file) => {
                names.insert(name, file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
            NameChange::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl SimDisk {
    /// An empty disk. `seed` decides what [`Disk::random`] gives.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            life: 0,
            power_left: None,
            fault: None,
            full: false,
            statistics: DiskStatistics::default(),
        })))
    }

    /// The process ends; the kernel keeps what it has. Handles of its fail from here on.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.life += 1;
        (state.power_left, state.fault) = (None, None);
        let named: Vec<u64> = state.names.values().chain(state.durable_names.values()).copied().collect();
        state.files.retain(|file, _| named.contains(file));
    }

    /// The power goes: what was not flushed is lost, kept or torn as `random` decides.
    pub fn crash(&self, random: &mut Random) {
        let mut state = self.lock();
        let changes = std::mem::take(&mut state.changes);
        let kept = random.index(changes.len() + 1);
        state.statistics.names_lost += (changes.len() - kept) as u64;
        for change in changes.into_iter().take(kept) {
            change.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        let State { files, statistics, .. } = &mut *state;
        for file in files.values_mut() {
            let (lost, torn) = file.crash(random);
            statistics.lost += lost;
            statistics.torn += torn;
        }
        drop(state);
        self.kill();
    }

    /// So many more writes, flushes and changes of names succeed; then every one fails until the process ends or the power goes.
    pub fn cut_power_after(&self, operations: u32) {
        self.lock().power_left = Some(operations);
    }

    /// This fault hits the next operation it fits, in the present life of the process.
    pub fn fail_next(&self, fault: DiskFault) {
        self.lock().fault = Some(fault);
    }

    /// Whether there is room for more than there is.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Flips one bit of what is durable, in a file whose name `hits` accepts. Says where.
    pub fn rot(&self, random: &mut Random, hits: impl Fn(&str) -> bool) -> Option<(String, u64)> {
        let mut state = self.lock();
        let candidates: Vec<(String, u64)> = state
            .durable_names
            .iter()
            .filter(|(name, _)| hits(name))
            .map(|(name, file)| (name.clone(), *file))
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let (name, file) = random.pick(&candidates).clone();
        let offset = state.files.get_mut(&file)?.rot(random)?;
        Some((name, offset))
    }

    /// Everything is gone, as if the disk had been replaced. No process may be using it.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.files.clear();
        state.names.clear();
        state.durable_names.clear();
        state.changes.clear();
    }

    /// How often the disk did something wrong.
    #[must_use]
    pub fn statistics(&self) -> DiskStatistics {
        self.lock().statistics
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &State, file: u64) -> Arc<dyn DiskFile> {
        Arc::new(Handle { disk: self.clone(), life: state.life, file })
    }
}

impl State {
    /// Whether a change may still be made.
    fn spend_power(&mut self) -> io::Result<()> {
        match &mut self.power_left {
            Some(0) => Err(io::Error::other("the power is out")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes the fault that waits, if it is this one.
    fn hit(&mut self, fault: DiskFault) -> bool {
        let hit = self.fault == Some(fault);
        if hit {
            self.fault = None;
        }
        hit
    }

    fn change(&mut self, change: NameChange) {
        let again = match &change {
            NameChange::Set(name, file) => NameChange::Set(name.clone(), *file),
            NameChange::Rename(from, to) => NameChange::Rename(from.clone(), to.clone()),
            NameChange::Remove(name) => NameChange::Remove(name.clone()),
        };
        again.apply(&mut self.names);
        self.changes.push(change);
    }

    fn refuse_if_full(&mut self) -> io::Result<()> {
        if self.full {
            self.statistics.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

fn reported() -> io::Error {
    io::Error::other("the disk reports an error")
}

impl DiskStatistics {
    /// Adds them to what happened in a run.
    pub fn count(&self, counters: &mut Counters) {
        counters.add("disk: a read failed", self.failed_reads);
        counters.add("disk: a write failed", self.failed_writes);
        counters.add("disk: a flush failed", self.failed_flushes);
        counters.add("disk: a flush failed and passed for clean", self.forgotten);
        counters.add("disk: a write went elsewhere", self.misdirected);
        counters.add("disk: a write was refused for want of room", self.full);
        counters.add("disk: a sector was lost at a power cut", self.lost);
        counters.add("disk: a sector was torn at a power cut", self.torn);
        counters.add("disk: a name was lost at a power cut", self.names_lost);
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock();
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&state, file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.spend_power()?;
        state.refuse_if_full()?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, FileState::default());
        state.change(NameChange::Set(name.to_owned(), file));
        Ok(self.handle(&state, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.spend_power()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.spend_power()?;
        state.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.spend_power()?;
        state.changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/simulated").join(name)
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.lock().random.next())
    }
}

struct Handle {
    disk: SimDisk,
    life: u64,
    file: u64,
}

impl Handle {
    /// The disk, if the process that opened the file still lives.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the process that opened this file is gone"))
        }
    }
}

impl State {
    fn file(&mut self, file: u64) -> &mut FileState {
        self.files.get_mut(&file).expect("a file lasts as long as the process that has it open")
    }
}

impl DiskFile for Handle {
    fn length(&self) -> io::Result<u64> {
        Ok(self.state()?.file(self.file).length())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        if state.hit(DiskFault::Read) {
            state.statistics.failed_reads += 1;
            return Err(reported());
        }
        state.file(self.file).read(buffer, offset)
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.spend_power()?;
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        if offset + bytes.len() as u64 > state.file(self.file).length() {
            state.refuse_if_full()?;
        }
        if state.hit(DiskFault::Write) {
            state.statistics.failed_writes += 1;
            state.file(self.file).write(&bytes[..bytes.len() / 2], offset);
            return Err(reported());
        }
        let mut offset = offset;
        if state.hit(DiskFault::Misdirected) {
            state.statistics.misdirected += 1;
            offset += SECTOR_BYTES as u64;
        }
        state.file(self.file).write(&bytes, offset);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.spend_power()?;
        if state.hit(DiskFault::Sync) {
            state.statistics.failed_flushes += 1;
            return Err(reported());
        }
        if state.hit(DiskFault::SyncForgets) {
            state.statistics.forgotten += 1;
            state.file(self.file).forget();
            return Err(reported());
        }
        state.file(self.file).sync();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn write(file: &dyn DiskFile, bytes: &[u8], offset: u64) {
        file.write_at(&mut [IoSlice::new(bytes)], offset).unwrap();
    }

    fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
        let file = disk.open(name).ok()?;
        let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn what_is_flushed_survives_a_power_cut_and_what_is_not_may_not() {
        let mut fates = [0; 3];
        for seed in 0..200 {
            let (disk, mut random) = (SimDisk::new(1), Random::new(seed));
            let file = disk.create("file").unwrap();
            write(&*file, &[1; 2048], 0);
            file.sync().unwrap();
            disk.sync_directory().unwrap();
            write(&*file, &[2; 512], 512);
            disk.crash(&mut random);
            let bytes = read(&disk, "file").unwrap();
            assert_eq!(
                (&bytes[..512], &bytes[1024..]),
                (&[1; 512][..], &[1; 1024][..]),
                "flushed and not written since"
            );
            let new = bytes[512..1024].iter().take_while(|byte| **byte == 2).count();
            assert!(bytes[512 + new..1024].iter().all(|byte| *byte == 1), "a sector is torn in one place");
            fates[match new {
                0 => 0,
                512 => 1,
                _ => 2,
            }] += 1;
            assert!(file.length().is_err(), "a handle of the former process works");
        }
        assert!(fates.iter().all(|count| *count > 20), "lost, kept, torn: {fates:?}");
    }

    #[test]
    fn a_killed_process_loses_nothing_but_its_handles() {
        let disk = SimDisk::new(1);
        let file = disk.create("file").unwrap();
        write(&*file, b"kept", 0);
        disk.kill();
        assert!(file.sync().is_err());
        assert_eq!(read(&disk, "file").unwrap(), b"kept");
    }

    #[test]
    fn names_survive_a_power_cut_from_the_last_flush_on_in_order() {
        for seed in 0..50 {
            let (disk, mut random) = (SimDisk::new(1), Random::new(seed));
            disk.create("a").unwrap();
            disk.sync_directory().unwrap();
            disk.rename("a", "b").unwrap();
            disk.create("c").unwrap();
            disk.crash(&mut random);
            let names = disk.list().unwrap();
            assert!([vec!["a"], vec!["b"], vec!["b", "c"]].iter().any(|possible| names == *possible), "{names:?}");
        }
    }

    #[test]
    fn a_flush_that_forgets_is_found_out_by_a_power_cut_only() {
        let (disk, mut random) = (SimDisk::new(1), Random::new(5));
        let file = disk.create("file").unwrap();
        write(&*file, &[1; 512], 0);
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        write(&*file, &[2; 512], 0);
        disk.fail_next(DiskFault::SyncForgets);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(read(&disk, "file").unwrap(), [2; 512], "it is read back");
        disk.crash(&mut random);
        assert_eq!(read(&disk, "file").unwrap(), [1; 512], "it never reached the disk");
    }

    #[test]
    fn power_runs_out_after_so_many_changes() {
        let disk = SimDisk::new(1);
        let file = disk.create("file").unwrap();
        disk.cut_power_after(2);
        write(&*file, b"one", 0);
        file.sync().unwrap();
        assert!(file.sync().is_err() && disk.create("other").is_err() && disk.sync_directory().is_err());
        disk.kill();
        assert!(disk.create("other").is_ok(), "power is back");
    }

    #[test]
    fn a_full_disk_takes_no_more_and_can_be_written_over() {
        let disk = SimDisk::new(1);
        let file = disk.create("file").unwrap();
        write(&*file, &[1; 100], 0);
        disk.set_full(true);
        assert_eq!(disk.create("other").err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        assert!(file.write_at(&mut [IoSlice::new(&[2; 2])], 99).is_err());
        write(&*file, &[2; 100], 0);
    }

    #[test]
    fn rot_hits_one_bit_of_the_file_asked_for() {
        let (disk, mut random) = (SimDisk::new(1), Random::new(5));
        for name in ["a.wal", "b"] {
            let file = disk.create(name).unwrap();
            write(&*file, &[0; 1024], 0);
            file.sync().unwrap();
        }
        disk.sync_directory().unwrap();
        let (name, offset) = disk.rot(&mut random, |name| name.ends_with(".wal")).unwrap();
        let bytes = read(&disk, "a.wal").unwrap();
        assert_eq!((name.as_str(), bytes[usize::try_from(offset).unwrap()].count_ones()), ("a.wal", 1));
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(read(&disk, "b").unwrap(), [0; 1024]);
    }
}
