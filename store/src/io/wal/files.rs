//! The log's directory: names, spare files, and the thread that prepares and removes files.
//!
//! Creating a segment (allocation, directory sync) and removing one take milliseconds; the log's thread only ever renames
//! a spare that is ready, unless it outruns the preparation. A spare has been written all over, with zeros or with what it
//! held before: a synced write to space that is only allocated has to tell the file system so, which makes it a third
//! slower. Segments leave strictly oldest first, each removal durable
//! before the next, so that what is left is always a row without a hole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::super::disk::{Disk, File};

/// The first segment is written all over at the start, for which somebody waits.
const FIRST_SEGMENT_BYTES: u64 = 8 << 20;
/// The page cache keeps what was written at once as one unit, and then writes and counts all of it for each small change.
const FILL_BYTES: usize = 4 << 10;
const FILL_SYNC_BYTES: u64 = 1 << 20;
/// Ready files kept for the next segments; more are removed.
const SPARES_MAX: usize = 2;
pub(super) const SEGMENT: &str = ".wal";
const SPARE: &str = ".spare";
const UNFINISHED: &str = ".tmp";

/// The name of segment `sequence`.
pub(super) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}{SEGMENT}"))
}

/// What a log's directory holds.
pub(super) struct Listing {
    /// Segment numbers, ascending.
    pub(super) segments: Vec<u64>,
    pub(super) spares: Vec<PathBuf>,
}

/// Lists the directory, and removes files whose creation did not finish.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing { segments: Vec::new(), spares: Vec::new() };
    for name in disk.list(dir)? {
        if let Some(number) = name.strip_suffix(SEGMENT) {
            match u64::from_str_radix(number, 16) {
                Ok(sequence) => listing.segments.push(sequence),
                Err(_) => tracing::warn!(name, "not a file of the log; left alone"),
            }
        } else if name.ends_with(SPARE) {
            listing.spares.push(dir.join(name));
        } else if name.ends_with(UNFINISHED) {
            disk.remove(&dir.join(name))?;
        }
    }
    listing.segments.sort_unstable();
    Ok(listing)
}

enum Chore {
    Prepare,
    Retire { path: PathBuf, file: Arc<dyn File> },
}

struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    spares: Mutex<Vec<PathBuf>>,
    preparing: AtomicBool,
    names: AtomicU64,
}

/// Hands out files for segments and takes old ones back.
pub(super) struct Files {
    pool: Arc<Pool>,
    chores: Option<mpsc::Sender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

impl Files {
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        spares: Vec<PathBuf>,
    ) -> io::Result<Self> {
        let pool = Arc::new(Pool {
            disk,
            dir,
            segment_bytes,
            spares: Mutex::new(spares),
            preparing: AtomicBool::new(false),
            names: AtomicU64::new(0),
        });
        let (chores, work) = mpsc::channel();
        let worker = pool.clone();
        let thread = std::thread::Builder::new().name("wal-files".into()).spawn(move || {
            for chore in work {
                if let Err(error) = worker.run(chore) {
                    // The log goes on without: it creates its next segment itself, or keeps an old one longer.
                    tracing::warn!(%error, "log file upkeep");
                }
            }
        })?;
        Ok(Self { pool, chores: Some(chores), thread: Some(thread) })
    }

    /// A file of at least `size` bytes under a temporary name; [`Files::publish`] gives it its own.
    pub(super) fn take(&self, size: u64) -> io::Result<(PathBuf, Arc<dyn File>, u64)> {
        let pool = &self.pool;
        if size <= pool.segment_bytes {
            let spare = pool.spares.lock().pop();
            if let Some(path) = spare {
                let file = pool.disk.open(&path)?;
                if file.size()? == pool.segment_bytes {
                    return Ok((path, file, pool.segment_bytes));
                }
                pool.disk.remove(&path)?;
            }
        }
        let size = size.max(pool.segment_bytes);
        let path = pool.unused_name(UNFINISHED);
        let file = pool.disk.create(&path, size)?;
        Ok((path, file, size))
    }

    /// A file for the first segment of a log.
    pub(super) fn take_first(&self) -> io::Result<(PathBuf, Arc<dyn File>, u64)> {
        let size = FIRST_SEGMENT_BYTES.min(self.pool.segment_bytes);
        let path = self.pool.unused_name(UNFINISHED);
        let file = self.pool.disk.create(&path, size)?;
        fill(&*file, size)?;
        Ok((path, file, size))
    }

    /// Renames a taken file, whose header is durable, to its segment's name, durably.
    pub(super) fn publish(&self, taken: &Path, sequence: u64) -> io::Result<()> {
        self.pool.disk.rename(taken, &segment_path(&self.pool.dir, sequence))?;
        self.pool.disk.sync_dir(&self.pool.dir)
    }

    /// Makes sure a spare is ready before the segment is full.
    pub(super) fn prepare(&self) {
        let pool = &self.pool;
        if pool.spares.lock().is_empty() && !pool.preparing.swap(true, Ordering::Relaxed) {
            self.send(Chore::Prepare);
        }
    }

    /// Gives back the oldest segment.
    pub(super) fn retire(&self, sequence: u64, file: Arc<dyn File>) {
        self.send(Chore::Retire { path: segment_path(&self.pool.dir, sequence), file });
    }

    fn send(&self, chore: Chore) {
        let chores = self.chores.as_ref().expect("taken only on drop");
        chores.send(chore).expect("the thread ends only after the sender");
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.chores.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes a new file all over, with a sync now and then: the log's own syncs wait for no more than what is in between.
fn fill(file: &dyn File, size: u64) -> io::Result<()> {
    let zeros = [0; FILL_BYTES];
    let mut offset = 0;
    while offset < size {
        let piece = (size - offset).min(FILL_BYTES as u64);
        file.write_at(&zeros[..piece as usize], offset)?;
        offset += piece;
        if offset.is_multiple_of(FILL_SYNC_BYTES) || offset == size {
            file.sync()?;
        }
    }
    Ok(())
}

impl Pool {
    fn run(&self, chore: Chore) -> io::Result<()> {
        match chore {
            Chore::Prepare => {
                let made = self.prepare();
                self.preparing.store(false, Ordering::Relaxed);
                made
            }
            Chore::Retire { path, file } => self.retire(&path, file),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        let path = self.unused_name(UNFINISHED);
        fill(&*self.disk.create(&path, self.segment_bytes)?, self.segment_bytes)?;
        self.add_spare(&path)
    }

    fn retire(&self, path: &Path, file: Arc<dyn File>) -> io::Result<()> {
        // A reader may still hold it: then its bytes must not be written over.
        let reusable = Arc::strong_count(&file) == 1 && file.size()? == self.segment_bytes;
        if reusable && self.spares.lock().len() < SPARES_MAX {
            self.add_spare(path)
        } else {
            self.disk.remove(path)?;
            self.disk.sync_dir(&self.dir)
        }
    }

    fn add_spare(&self, from: &Path) -> io::Result<()> {
        let path = self.unused_name(SPARE);
        self.disk.rename(from, &path)?;
        self.disk.sync_dir(&self.dir)?;
        self.spares.lock().push(path);
        Ok(())
    }

    fn unused_name(&self, suffix: &str) -> PathBuf {
        loop {
            let number = self.names.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join(format!("{number}{suffix}"));
            if self.disk.open(&path).is_err() {
                return path;
            }
        }
    }
}
