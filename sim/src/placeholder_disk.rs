//! Stands in for `disk/` until that is there.

use crate::random::Random;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use storage::wal::disk::{Disk, DiskFile};

#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct State {
    files: BTreeMap<String, Arc<Mutex<FileState>>>,
    life: u64,
    cut_after: Option<u32>,
    random: Random,
}

#[derive(Clone, Default)]
struct FileState {
    data: Vec<u8>,
    synced: Vec<u8>,
    zeros: u64,
}

struct Handle {
    disk: SimDisk,
    life: u64,
    file: Arc<Mutex<FileState>>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            life: 0,
            cut_after: None,
            random: Random::new(seed),
        })))
    }
    pub(crate) fn kill(&self) {
        let mut state = self.0.lock().expect("lock");
        state.life += 1;
        state.cut_after = None;
    }
    pub(crate) fn crash(&self, random: &mut Random) {
        self.kill();
        let state = self.0.lock().expect("lock");
        for file in state.files.values() {
            let mut file = file.lock().expect("lock");
            if file.data.len() == file.synced.len() {
                let length = file.data.len();
                let mut at = 0;
                while at < length {
                    let end = (at + 512).min(length);
                    if file.data[at..end] != file.synced[at..end] && random.chance(500) {
                        let old = file.synced[at..end].to_vec();
                        file.data[at..end].copy_from_slice(&old);
                    }
                    at = end;
                }
            } else {
                file.data = file.synced.clone();
            }
            file.synced = file.data.clone();
        }
    }
    pub(crate) fn cut_power_after(&self, operations: u32) {
        self.0.lock().expect("lock").cut_after = Some(operations);
    }
    fn mutate(&self, life: Option<u64>) -> io::Result<()> {
        let mut state = self.0.lock().expect("lock");
        if life.is_some_and(|life| life != state.life) {
            return Err(io::Error::other("handle of a former life"));
        }
        match &mut state.cut_after {
            Some(0) => Err(io::Error::other("power is out")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
    fn handle(&self, file: Arc<Mutex<FileState>>) -> Arc<dyn DiskFile> {
        let life = self.0.lock().expect("lock").life;
        Arc::new(Handle { disk: self.clone(), life, file })
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().expect("lock").files.keys().cloned().collect())
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.lock().expect("lock").files.get(name).cloned();
        file.map(|file| self.handle(file)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.mutate(None)?;
        let file = Arc::new(Mutex::new(FileState::default()));
        self.0.lock().expect("lock").files.insert(name.to_owned(), file.clone());
        Ok(self.handle(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.mutate(None)?;
        let mut state = self.0.lock().expect("lock");
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.mutate(None)?;
        let mut state = self.0.lock().expect("lock");
        state.files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.mutate(None)
    }
    fn path(&self, name: &str) -> PathBuf {
        Path::new("/sim").join(name)
    }
    fn random(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("lock").random.next())
    }
}

impl DiskFile for Handle {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.lock().expect("lock").data.len() as u64)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.file.lock().expect("lock");
        let offset = offset as usize;
        let end = offset + buffer.len();
        if end > file.data.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.copy_from_slice(&file.data[offset..end]);
        Ok(())
    }
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.mutate(Some(self.life))?;
        let mut file = self.file.lock().expect("lock");
        let mut at = offset as usize;
        for slice in slices.iter() {
            if file.data.len() < at + slice.len() {
                file.data.resize(at + slice.len(), 0);
            }
            file.data[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        file.zeros = 0;
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.mutate(Some(self.life))?;
        let mut file = self.file.lock().expect("lock");
        file.synced = file.data.clone();
        Ok(())
    }
}
