//! A disk that fails on demand, and a model of what a log holds.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "test code")]

use bytes::Bytes;
use raft::{Entry, EntryKind, HardState, LogIndex, LogPosition, LogRange, Term};
use raftkv_storage::wal::disk::{Disk, DiskFile};
use raftkv_storage::wal::{LogConfig, LogStore, LogWrite, Preparation, RecoveredLog, SegmentedLog};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, usize),
    Rename(String, String),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    cache: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        if end > offset {
            self.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
        }
    }

    fn persist(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.cache.len());
        if from < to {
            if self.durable.len() < to {
                self.durable.resize(to, 0);
            }
            self.durable[from..to].copy_from_slice(&self.cache[from..to]);
        }
    }
}

/// How the disk fails once its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything fails from the given operation on: the process or the machine is about to die.
    Dies { at: u64 },
    /// One flush of a file whose name ends so fails, its pages are marked clean, and later ones succeed (scenario 53).
    LosesFlush { suffix: &'static str, at: u64 },
}

#[derive(Default)]
struct State {
    files: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
    operations: u64,
    flushes: u64,
    fault: Option<Fault>,
    dead: bool,
    capacity: Option<usize>,
    random: u64,
}

impl State {
    fn next_random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Counts a changing operation. `Err` if the disk is dead; `Ok(true)` if it dies in this one.
    fn operation(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(io::Error::other("the machine is off"));
        }
        self.operations += 1;
        self.dead = matches!(self.fault, Some(Fault::Dies { at }) if self.operations >= at);
        Ok(self.dead)
    }

    fn change(&mut self, change: NameChange) -> io::Result<()> {
        let dies = self.operation()?;
        apply(&mut self.names, &change);
        self.pending.push(change);
        if dies { Err(io::Error::other("died")) } else { Ok(()) }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].cache.len()).sum()
    }
}

/// A disk in memory.
#[derive(Clone)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

struct FaultFile {
    disk: FaultDisk,
    name: String,
    file: usize,
}

impl FaultDisk {
    pub fn new(seed: u64) -> FaultDisk {
        FaultDisk { state: Arc::new(Mutex::new(State { random: seed, ..State::default() })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process ends, the machine goes on: nothing is lost.
    pub fn crash_process(&self) {
        let mut state = self.state();
        state.dead = false;
        state.fault = None;
    }

    /// Each sector that was not flushed is kept or lost at random; of the changes of names that were not flushed, some of the latest are lost.
    pub fn cut_power(&self) {
        let mut state = self.state();
        let kept = usize::try_from(state.next_random()).unwrap() % (state.pending.len() + 1);
        let pending = std::mem::take(&mut state.pending);
        for change in &pending[..kept] {
            apply(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        let bias = state.next_random() % 5;
        for at in 0..state.files.len() {
            for sector in std::mem::take(&mut state.files[at].dirty) {
                if state.next_random() % 4 < bias {
                    state.files[at].persist(sector);
                }
            }
            state.files[at].cache = state.files[at].durable.clone();
        }
        state.dead = false;
        state.fault = None;
    }

    /// All files with their contents.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].cache.clone())).collect()
    }

    /// Makes the disk hold exactly these files, durably.
    pub fn set_files(&self, files: &BTreeMap<String, Vec<u8>>) {
        let mut state = self.state();
        state.files.clear();
        state.names.clear();
        for (name, bytes) in files {
            let file = state.files.len();
            state.files.push(Inode { durable: bytes.clone(), cache: bytes.clone(), dirty: BTreeSet::new() });
            state.names.insert(name.clone(), file);
        }
        state.durable_names = state.names.clone();
        state.pending.clear();
        state.dead = false;
    }
}

impl Disk for FaultDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.state().find(name)?;
        Ok(Arc::new(FaultFile { disk: self.clone(), name: name.to_owned(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let file = state.files.len();
        state.files.push(Inode::default());
        state.change(NameChange::Link(name.to_owned(), file))?;
        Ok(Arc::new(FaultFile { disk: self.clone(), name: name.to_owned(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(from)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(name)?;
        state.change(NameChange::Remove(name.to_owned()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.operation()? {
            return Err(io::Error::other("died"));
        }
        let pending = std::mem::take(&mut state.pending);
        for change in &pending {
            apply(&mut state.durable_names, change);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/fault").join(name)
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.state().next_random())
    }
}

impl DiskFile for FaultFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].cache.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let from = usize::try_from(offset).unwrap();
        let cache = &state.files[self.file].cache;
        let bytes = cache.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let offset = usize::try_from(offset).unwrap();
        let growth = (offset + bytes.len()).saturating_sub(state.files[self.file].cache.len());
        if state.capacity.is_some_and(|capacity| state.used() + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let dies = state.operation()?;
        if dies {
            let kept = usize::try_from(state.next_random()).unwrap() % (bytes.len() + 1);
            // Half of the time the whole write has reached the cache.
            if state.next_random().is_multiple_of(2) {
                bytes.truncate(kept);
            }
        }
        state.files[self.file].write(&bytes, offset);
        if dies { Err(io::Error::other("died")) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.operation()? {
            return Err(io::Error::other("died"));
        }
        let dirty = std::mem::take(&mut state.files[self.file].dirty);
        let fault = state.fault;
        if let Some(Fault::LosesFlush { suffix, at }) = fault.filter(|_| !dirty.is_empty()) {
            state.flushes += u64::from(self.name.ends_with(suffix));
            if self.name.ends_with(suffix) && state.flushes == at {
                return Err(io::Error::other("flush failed"));
            }
        }
        for sector in dirty {
            state.files[self.file].persist(sector);
        }
        Ok(())
    }
}

/// Small segments, no threads.
pub fn small_config() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        record_bytes_max: 1 << 10,
        recycled_segments_max: 2,
        preparation: Preparation::Inline,
        ..LogConfig::default()
    }
}

pub fn open(disk: &FaultDisk) -> (SegmentedLog, RecoveredLog) {
    SegmentedLog::open_on(Arc::new(disk.clone()), small_config()).unwrap()
}

pub fn entry(term: u64, index: u64, payload: &[u8]) -> Entry {
    let payload = Bytes::copy_from_slice(payload);
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Command, payload }
}

pub fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

pub fn entries_write(entries: Vec<Entry>) -> LogWrite {
    LogWrite { hard_state: None, entries }
}

/// `count` entries of `bytes` bytes each from `first` on.
pub fn run(term: u64, first: u64, count: u64, bytes: usize) -> LogWrite {
    let entries = (first..first + count).map(|index| {
        let salt = u8::try_from((index * 31 + term * 7) % 251).unwrap();
        // What is replaced by a later term is a membership at other places.
        let kind = if (index + term).is_multiple_of(7) { EntryKind::Membership } else { EntryKind::Command };
        Entry { kind, ..entry(term, index, &vec![salt; bytes]) }
    });
    entries_write(entries.collect())
}

/// What a log should hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Model {
    pub hard_state: HardState,
    pub start: LogPosition,
    pub entries: Vec<Entry>,
}

impl Model {
    pub fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.start, Entry::position)
    }

    pub fn write(&mut self, writes: &[LogWrite]) {
        for write in writes {
            self.hard_state = write.hard_state.unwrap_or(self.hard_state);
            if let Some(first) = write.entries.first() {
                self.entries.retain(|entry| entry.index < first.index);
            }
            self.entries.extend(write.entries.iter().cloned());
        }
    }

    pub fn compact(&mut self, position: LogPosition) {
        self.entries.retain(|entry| entry.index > position.index);
        self.start = position;
    }

    pub fn reset(&mut self, start: LogPosition) {
        self.entries.clear();
        self.start = start;
    }

    /// What an open log holds, all of it read back.
    pub fn of(log: &SegmentedLog, recovered: &RecoveredLog) -> Model {
        let entries = read_all(log, recovered.start, recovered.last);
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &entries {
            if runs.last().is_none_or(|run| run.1 != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        assert_eq!(runs, recovered.term_runs, "term runs are those of the entries");
        let memberships = entries.iter().filter(|entry| entry.kind == EntryKind::Membership);
        let memberships: Vec<LogIndex> = memberships.map(|entry| entry.index).collect();
        assert_eq!(memberships, recovered.memberships, "memberships are where the entries have them");
        Model { hard_state: recovered.hard_state, start: recovered.start, entries }
    }
}

pub fn read_all(log: &SegmentedLog, start: LogPosition, last: LogIndex) -> Vec<Entry> {
    let reader = log.reader();
    let mut entries: Vec<Entry> = Vec::new();
    let mut first = start.index.next();
    while first <= last {
        let more = reader.entries(LogRange { first, last }, 3000).unwrap();
        first = more.last().unwrap().index.next();
        entries.extend(more);
    }
    entries
}
