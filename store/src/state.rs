//! The replicated state machine: what applying a committed log entry does, and the reads of its result.
//!
//! One [`State`] exists per member and is owned by the task that applies entries; any number of [`Reader`]s look at
//! what it has committed. RocksDB runs without its own WAL, because the Raft log is already the durable record: the
//! applied mark travels in the same write batch as the data, and all column families flush together, so whatever
//! survives a crash is one consistent cut that says where replay has to begin.
//!
//! Apply is a function of (state, command): no clock, no randomness, no iteration over hash maps.

pub mod check;
mod reader;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{Command, Reply};
use crate::ids::LogIndex;

pub use reader::{LeaseChange, LeaseChanges, Reader, Size};

/// Memory budgets of the state machine. The defaults suit a member with a few thousand keys on a small machine.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// RocksDB's cache of uncompressed blocks.
    pub block_cache_bytes: usize,
    /// Unflushed data, over all column families, at which RocksDB flushes by itself.
    pub write_buffer_bytes: usize,
    /// The newest versions of small values that are kept ready in the index.
    pub value_cache_bytes: usize,
    /// Recent revisions that watchers are served from without touching the disk.
    pub watch_ring_bytes: usize,
    /// Whether physical compaction runs on a thread of its own. Without it, call [`State::compact_step`].
    pub background_compaction: bool,
}

/// How far the log has been applied. `consensus` is opaque here: it holds the log id and the membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub index: LogIndex,
    pub consensus: Bytes,
}

/// Why a state could not be opened or installed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("state directory: {0}")]
    Io(#[from] io::Error),
    #[error("state database: {0}")]
    Database(String),
    /// A record that this program did not write or cannot read.
    #[error("state is damaged: {0}")]
    Damaged(String),
}

/// The single writer.
pub struct State {}

/// A handle for the slow operations, usable beside the writer and from another thread.
#[derive(Clone)]
pub struct Storage {}

impl State {
    /// Opens or creates the state under `dir` and rebuilds the index.
    ///
    /// # Errors
    /// When the directory or the database cannot be read, or holds something else.
    pub fn open(dir: &Path, options: StateOptions) -> Result<Self, OpenError> {
        let _ = (dir, options);
        todo!()
    }

    /// The last committed mark.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        todo!()
    }

    /// Applies one command. Its effect is visible to later applies at once and to readers after [`State::commit`].
    pub fn apply(&mut self, command: &Command) -> Reply {
        let _ = command;
        todo!()
    }

    /// Commits everything applied since the last commit together with the mark, in one write; then publishes it to
    /// readers and watchers. Replies may be sent when this returns.
    pub fn commit(&mut self, applied: Applied) {
        let _ = applied;
        todo!()
    }

    /// Makes everything committed durable. Blocks on the disk; see [`State::storage`] for use beside the writer.
    ///
    /// # Errors
    /// When the disk refuses; the mark then stays where it was.
    pub fn flush(&self) -> io::Result<Applied> {
        self.storage().flush()
    }

    /// Flushes and hard-links a consistent copy into `dir`, which must not exist yet.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self, dir: &Path) -> io::Result<Applied> {
        self.storage().checkpoint(dir)
    }

    /// A handle for flushing and checkpointing beside the writer.
    #[must_use]
    pub fn storage(&self) -> Storage {
        todo!()
    }

    #[must_use]
    pub fn reader(&self) -> Arc<Reader> {
        todo!()
    }

    /// Replaces the contents by a received checkpoint, whose directory is moved into place (same file system). Readers
    /// and watchers survive: watchers go on from their revision, or are cancelled when it was compacted.
    ///
    /// # Errors
    /// When the checkpoint cannot be opened; the old contents then stay.
    pub fn install(&mut self, checkpoint_dir: &Path) -> Result<(), OpenError> {
        let _ = checkpoint_dir;
        todo!()
    }
}

impl Storage {
    /// Makes everything committed durable and returns the mark that now is.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&self) -> io::Result<Applied> {
        todo!()
    }

    /// See [`State::checkpoint`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self, dir: &Path) -> io::Result<Applied> {
        let _ = dir;
        todo!()
    }

    /// Bytes committed but not flushed yet: what a crash would have to replay from the log.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        todo!()
    }
}
