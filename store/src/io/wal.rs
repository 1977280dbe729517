//! The log on disk: one thread that writes and syncs groups, and readers that never wait for it.
//!
//! `append` puts entries in memory and in a queue and returns; the thread takes whatever queued up while it was syncing,
//! writes it as one frame, syncs once, and reports. Votes, truncations and purges go through the same queue, so disk
//! order is call order by construction. A failed write or sync stops the process: after one, nobody knows what is on disk.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, File};
use super::random::Random;
use crate::metrics::WalMetrics;
use crate::wal::frame::decode_record;
use crate::wal::recovery::Damage;
use crate::wal::segment::Owner;
use crate::wal::tail::Tail;
use crate::wal::{Entry, EntryId, Position, Record};

mod files;
mod open;
#[cfg(test)]
mod tests;
mod writer;

pub use open::owner;

/// Called once the change is durable, on the log's thread: it must not block.
pub type Done = Box<dyn FnOnce() + Send>;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct WalOptions {
    pub dir: PathBuf,
    pub owner: Owner,
    /// The size of a segment; a larger group gets a larger one.
    pub segment_bytes: u64,
    /// The newest entries kept in memory.
    pub cache_bytes: usize,
    /// `false` never syncs: only for tests and benchmarks.
    pub fsync: bool,
}

/// Why a log did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Damage(#[from] Damage),
}

enum Job {
    Append { entries: Vec<Entry>, done: Done },
    Vote { vote: Bytes, done: Done },
    Truncate { from: u64 },
    Purge { id: EntryId },
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    stop: bool,
}

struct Shared {
    tail: Mutex<Tail>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Every live segment's file, by number.
    segments: Mutex<BTreeMap<u32, Arc<dyn File>>>,
    metrics: WalMetrics,
}

impl Shared {
    fn push(&self, job: Job) {
        self.queue.lock().jobs.push(job);
        self.wake.notify_one();
    }
}

/// The open log. Dropping it writes what is queued and stops the thread.
pub struct Wal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Reads the log from any thread.
#[derive(Clone)]
pub struct WalReader {
    shared: Arc<Shared>,
}

impl Wal {
    /// Recovers the log in `options.dir`, or starts an empty one.
    ///
    /// # Errors
    /// When the directory cannot be used, is another member's, or acknowledged data is lost.
    pub fn open(disk: Arc<dyn Disk>, random: &dyn Random, options: WalOptions) -> Result<Self, OpenError> {
        Self::open_measured(disk, random, options, WalMetrics::default())
    }

    /// [`Wal::open`], with its writes and syncs measured.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_measured(
        disk: Arc<dyn Disk>,
        random: &dyn Random,
        options: WalOptions,
        metrics: WalMetrics,
    ) -> Result<Self, OpenError> {
        open::open(disk, random, options, metrics)
    }

    /// Appends entries after the last one; they are readable at once.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        self.append_quietly(entries, done);
        self.wake();
    }

    /// [`Wal::append`], but for the wake of the log's thread, which the caller owes.
    pub fn append_quietly(&self, entries: Vec<Entry>, done: Done) {
        {
            let mut tail = self.shared.tail.lock();
            for entry in &entries {
                tail.append(entry.clone());
            }
        }
        self.shared.queue.lock().jobs.push(Job::Append { entries, done });
    }

    /// Lets the log's thread see to what is queued.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.shared.tail.lock().set_vote(vote.clone());
        self.shared.push(Job::Vote { vote, done });
    }

    /// Drops the entries at `from` and after it.
    pub fn truncate(&self, from: u64) {
        self.shared.tail.lock().truncate(from);
        self.shared.push(Job::Truncate { from });
    }

    /// Drops the entries up to `id`; their space is reused in the background.
    pub fn purge(&self, id: EntryId) {
        self.shared.tail.lock().purge(id);
        self.shared.push(Job::Purge { id });
    }

    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader { shared: self.shared.clone() }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the log's thread stops the process rather than panic");
        }
    }
}

impl WalReader {
    /// Keeps the log's thread from going on, as a disk that stalls would, until the answer is dropped.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> std::sync::mpsc::Sender<()> {
        let (go_on, stalled) = std::sync::mpsc::channel();
        // The vote is the one that is there; what is done after it runs on that thread.
        let done: Done = Box::new(move || {
            let _ = stalled.recv();
        });
        self.shared.push(Job::Vote { vote: self.vote(), done });
        go_on
    }

    #[must_use]
    pub fn vote(&self) -> Bytes {
        self.shared.tail.lock().vote()
    }

    /// The last purged id and the last id.
    #[must_use]
    pub fn bounds(&self) -> (Option<EntryId>, Option<EntryId>) {
        let tail = self.shared.tail.lock();
        (tail.purged(), tail.last())
    }

    #[must_use]
    pub fn id_at(&self, index: u64) -> Option<EntryId> {
        self.shared.tail.lock().id_at(index)
    }

    /// The last entry that would have to go for the log's files to take no more than `bytes`.
    ///
    /// # Errors
    /// When a file cannot be looked at.
    pub fn last_beyond(&self, bytes: u64) -> io::Result<Option<u64>> {
        let segments = self.shared.segments.lock().clone();
        let mut sum = 0;
        for (number, file) in segments.iter().rev() {
            sum += file.size()?;
            if sum > bytes {
                return Ok(self.shared.tail.lock().last_before_segment(number + 1));
            }
        }
        Ok(None)
    }

    /// The entries of `start..end` if they are all in memory: never touches the disk.
    #[must_use]
    pub fn cached(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let slice = self.shared.tail.lock().slice(start, end, bytes_max);
        slice.stored.is_empty().then_some(slice.cached)
    }

    /// The entries of `start..end` that exist, fewer once `bytes_max` is exceeded. May read files.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what was written.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (slice, files) = {
            let tail = self.shared.tail.lock();
            let slice = tail.slice(start, end, bytes_max);
            // Taken under the same lock: a segment retired later stays readable through its handle.
            let files = match slice.stored.is_empty() {
                true => BTreeMap::new(),
                false => self.shared.segments.lock().clone(),
            };
            (slice, files)
        };
        let mut entries = Vec::with_capacity(slice.stored.len() + slice.cached.len());
        for run in slice.stored.chunk_by(|a, b| adjacent(a.1, b.1)) {
            read_run(&files, run, &mut entries)?;
        }
        entries.extend(slice.cached);
        Ok(entries)
    }
}

/// Close enough to be read at once: a frame's header may lie between.
fn adjacent(a: Position, b: Position) -> bool {
    const GAP_MAX: u32 = 64;
    let end = a.offset.saturating_add(a.length);
    a.segment == b.segment && b.offset >= end && b.offset - end <= GAP_MAX
}

fn read_run(
    files: &BTreeMap<u32, Arc<dyn File>>,
    run: &[(EntryId, Position)],
    entries: &mut Vec<Entry>,
) -> io::Result<()> {
    let (first, last) = (run[0].1, run[run.len() - 1].1);
    let file = files
        .get(&first.segment)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("log segment {} is gone", first.segment)))?;
    let mut buffer = vec![0; (last.offset + last.length - first.offset) as usize];
    file.read_at(&mut buffer, first.offset.into())?;
    let bytes = Bytes::from(buffer);
    for (id, position) in run {
        let start = (position.offset - first.offset) as usize;
        match decode_record(&bytes.slice(start..start + position.length as usize)) {
            Some(Record::Entry(entry)) if entry.id == *id => entries.push(entry),
            _ => {
                let what = format!(
                    "log segment {} byte {} does not hold entry {}",
                    position.segment, position.offset, id.index
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }
    Ok(())
}
