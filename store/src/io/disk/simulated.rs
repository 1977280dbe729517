//! A disk in memory that forgets what was not synced, tears writes, and can lie about syncing.
//!
//! `crash` gives the disk that a machine would find after a power cut: durable bytes, durable names, and of the last
//! unsynced write only as many bytes as the test asks for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Disk, File};

#[derive(Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(u64, Vec<u8>)>,
}

struct SimulatedFile {
    content: Mutex<Content>,
    lying: Arc<AtomicBool>,
}

#[derive(Default)]
struct Names {
    current: BTreeMap<PathBuf, Arc<SimulatedFile>>,
    durable: BTreeMap<PathBuf, Arc<SimulatedFile>>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    names: Arc<Mutex<Names>>,
    lying: Arc<AtomicBool>,
}

impl SimulatedDisk {
    /// From now on a sync answers "done" and does nothing, and a crash shows it.
    pub fn lie(&self) {
        self.lying.store(true, Ordering::SeqCst);
    }

    /// What is left after a power cut when of the last unsynced write only `kept` bytes reached the platter. Earlier
    /// unsynced writes are lost whole.
    pub fn crash(&self, kept: usize) -> Self {
        let names = self.names.lock();
        let mut left = Names::default();
        let lying = Arc::new(AtomicBool::new(false));
        for (path, file) in &names.durable {
            let content = file.content.lock();
            let mut bytes = content.durable.clone();
            if let Some((offset, last)) = content.unsynced.last() {
                put(&mut bytes, *offset, &last[..kept.min(last.len())]);
            }
            let file = Arc::new(SimulatedFile {
                content: Mutex::new(Content { current: bytes.clone(), durable: bytes, unsynced: Vec::new() }),
                lying: lying.clone(),
            });
            left.current.insert(path.clone(), file.clone());
            left.durable.insert(path.clone(), file);
        }
        drop(names);
        Self { names: Arc::new(Mutex::new(left)), lying }
    }

    /// The length of the last write that no sync covered.
    pub fn last_unsynced(&self) -> Option<usize> {
        let names = self.names.lock();
        names.current.values().find_map(|file| file.content.lock().unsynced.last().map(|(_, bytes)| bytes.len()))
    }

    /// Flips one bit of a file, as rot would.
    pub fn flip(&self, path: &Path, offset: usize) {
        let names = self.names.lock();
        let mut content = names.current[path].content.lock();
        content.current[offset] ^= 1;
        content.durable[offset] ^= 1;
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.names.lock().current.keys().cloned().collect()
    }
}

fn put(bytes: &mut [u8], offset: u64, write: &[u8]) {
    let start = offset as usize;
    bytes[start..start + write.len()].copy_from_slice(write);
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.names.lock();
        let inside = names.current.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        match self.names.lock().current.get(path) {
            Some(file) => Ok(file.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn File>> {
        let zeros = vec![0; size as usize];
        let file = Arc::new(SimulatedFile {
            content: Mutex::new(Content { current: zeros.clone(), durable: zeros, unsynced: Vec::new() }),
            lying: self.lying.clone(),
        });
        self.names.lock().current.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        let file = names.current.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.current.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.names.lock().current.remove(path);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        if !self.lying.load(Ordering::SeqCst) {
            let mut names = self.names.lock();
            names.durable = names.current.clone();
        }
        Ok(())
    }
}

impl File for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.content.lock();
        let start = offset as usize;
        let from = content.current.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        put(&mut content.current, offset, bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if !self.lying.load(Ordering::SeqCst) {
            let mut content = self.content.lock();
            content.durable = content.current.clone();
            content.unsynced.clear();
        }
        Ok(())
    }
}
