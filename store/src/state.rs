//! The replicated state machine: what applying a committed log entry does, and the reads of its result.
//!
//! One [`State`] exists per member and is owned by the task that applies entries; any number of [`Reader`]s look at
//! what it has committed. RocksDB runs without its own WAL, because the Raft log is already the durable record: the
//! applied mark travels in the same write batch as the data, and all column families flush together, so whatever
//! survives a crash is one consistent cut that says where replay has to begin.
//!
//! Apply is a function of (state, command): no clock, no randomness, no iteration over hash maps.

pub mod agreed;
mod apply;
pub(crate) mod auth;
pub mod check;
mod compactor;
pub(crate) mod core;
mod members;
mod reader;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::apply::{Stage, Writer};
use self::compactor::Compactor;
use self::core::{Core, Mark};
use crate::auth::Caller;
use crate::command::{Command, Reply};
use crate::ids::LogIndex;
use crate::io::clock::Stopwatch;
use crate::io::engine::{self, Engine, EngineOptions};
use crate::limits;
use crate::metrics::StateMetrics;
use crate::watch::hub::Hub;

pub use self::reader::{LeaseChanges, Reader, Size};
pub use crate::lease::table::LeaseChange;

/// Memory budgets of the state machine. The defaults suit a member on a small machine.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// RocksDB's cache of uncompressed blocks.
    pub block_cache_bytes: usize,
    /// Unflushed records at which RocksDB flushes by itself.
    pub write_buffer_bytes: usize,
    /// The newest versions of small values that are kept ready in the index.
    pub value_cache_bytes: usize,
    /// Recent revisions that watchers are served from without touching the disk.
    pub watch_ring_bytes: usize,
    /// A watcher of no more keys finds the past by the index; another one looks through all that happened.
    pub watch_replay_keys: usize,
    /// Whether physical compaction runs on a thread of its own. Without it, call [`State::compact_step`].
    pub background_compaction: bool,
    pub compaction_pace: CompactionPace,
    /// Where operations are counted; for nobody by default.
    pub metrics: StateMetrics,
}

/// How fast the compaction thread removes records: etcd's `--compaction-batch-limit` and `--compaction-sleep-interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPace {
    /// Records removed between two pauses.
    pub batch: usize,
    pub pause: Duration,
}

impl Default for CompactionPace {
    fn default() -> Self {
        Self { batch: limits::COMPACTION_BATCH_RECORDS, pause: limits::COMPACTION_PAUSE }
    }
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 8 << 20,
            write_buffer_bytes: 8 << 20,
            value_cache_bytes: 16 << 20,
            watch_ring_bytes: 16 << 20,
            watch_replay_keys: limits::WATCH_REPLAY_KEYS,
            background_compaction: true,
            compaction_pace: CompactionPace::default(),
            metrics: StateMetrics::default(),
        }
    }
}

/// How far the log has been applied. `consensus` is opaque here: it holds the log id and the membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub index: LogIndex,
    pub consensus: Bytes,
}

/// What an entry brings besides its command: its place in the log, and whose permissions decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub index: LogIndex,
    pub caller: Caller,
}

/// Why a state could not be opened or installed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("state database: {0}")]
    Io(#[from] io::Error),
    /// A record that this program did not write or cannot read.
    #[error("state database is damaged: {0}")]
    Damaged(String),
}

impl OpenError {
    /// Whether the contents are at fault, and not the way to them.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::InvalidData,
            Self::Damaged(_) => true,
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error,
            OpenError::Damaged(_) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// The single writer.
pub struct State {
    dir: PathBuf,
    options: StateOptions,
    generation: u64,
    core: Arc<Core>,
    engine: Arc<Engine>,
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    compactor: Arc<Compactor>,
    compactor_thread: Option<std::thread::JoinHandle<()>>,
    stage: Stage,
    applied: Applied,
}

/// A handle for the slow operations, usable beside the writer and from another thread.
#[derive(Clone)]
pub struct Storage {
    core: Arc<Core>,
}

impl State {
    /// Opens or creates the state under `dir` and rebuilds the index.
    ///
    /// # Errors
    /// When the directory or the database cannot be read, or holds something else.
    #[allow(clippy::disallowed_methods, reason = "makes the place for the engine, which then owns it")]
    pub fn open(dir: &Path, options: StateOptions) -> Result<Self, OpenError> {
        fs::create_dir_all(dir)?;
        let found = engine::current_generation(dir)?;
        let generation = found.unwrap_or(1);
        engine::remove_other_generations(dir, generation)?;
        let engine = Arc::new(Engine::open(&engine::generation_path(dir, generation), engine_options(&options))?);
        if found.is_none() {
            engine::switch_generation(dir, generation)?;
        }
        let contents = core::load(&engine, options.value_cache_bytes)?;
        let (applied, compacted) = (contents.applied.clone(), contents.compacted);
        let (revision, floor) = (contents.index.revision(), contents.index.floor());
        let core = Arc::new(Core::new(engine.clone(), contents, options.metrics.clone()));
        let hub = Arc::new(Hub::new(core.clone(), revision, options.watch_ring_bytes, options.watch_replay_keys));
        let compactor = Arc::new(Compactor::new(core.clone(), compacted));
        let reader = Arc::new(Reader::new(core.clone(), hub.clone(), compactor.clone()));
        let compactor_thread = options.background_compaction.then(|| compactor.clone().spawn(options.compaction_pace));
        let stage = Stage { revision, floor, auth: core.auth(), ..Stage::default() };
        // A compaction that a crash interrupted is finished now.
        compactor.wake();
        Ok(Self {
            dir: dir.to_owned(),
            options,
            generation,
            core,
            engine,
            hub,
            reader,
            compactor,
            compactor_thread,
            stage,
            applied,
        })
    }

    /// The last committed mark.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Applies one command of the member itself, outside of any permissions.
    pub fn apply(&mut self, command: &Command) -> Reply {
        let index = LogIndex(self.applied.index.0 + 1);
        self.apply_as(&Context { index, caller: Caller::Internal }, command)
    }

    /// Applies one command, if its caller may have it applied. Its effect is visible to later applies at once and to
    /// readers after [`State::commit`].
    pub fn apply_as(&mut self, context: &Context, command: &Command) -> Reply {
        let previous_wanted = self.hub.previous_wanted();
        Writer::new(&self.core, &self.engine, &mut self.stage, previous_wanted).apply(context, command)
    }

    /// Commits everything applied since the last commit together with the mark, in one write; then publishes it to
    /// readers and watchers. Replies may be sent when this returns.
    ///
    /// # Panics
    /// When the database refuses the write: it is then broken, and the log must not be taken as applied.
    pub fn commit(&mut self, applied: Applied) {
        let Stage { revision, floor, .. } = self.stage;
        let fresh = Stage { revision, floor, auth: self.stage.auth.clone(), ..Stage::default() };
        let Stage {
            mut batch,
            revision,
            floor,
            records: _,
            blocks,
            lease_changes,
            members_changed,
            agreed,
            counts,
            auth,
            token_changes,
        } = mem::replace(&mut self.stage, fresh);
        let mark = Mark { revision, floor, applied };
        mark.put(&self.engine, &mut batch);
        let writing = Stopwatch::start();
        self.engine.write(batch).expect("the state database accepts writes");
        self.core.metrics.commit.observe(writing.elapsed().as_secs_f64());
        self.core.metrics.add(&counts);
        // Before the data: who sees a change also sees that somebody was shut out before it.
        self.core.publish_auth(auth, &token_changes);
        let compacted = {
            let mut index = self.core.index.write();
            let compacted = floor > index.floor();
            index.publish(revision, floor);
            compacted
        };
        self.applied = mark.applied;
        self.core.set_mark(self.applied.clone());
        self.hub.publish(blocks);
        self.note_leases(&lease_changes);
        if members_changed {
            self.core.note_members();
        }
        if agreed {
            self.core.agreed_version.send_modify(|version| *version += 1);
        }
        if compacted {
            self.compactor.wake();
        }
    }

    fn note_leases(&self, noted: &[LeaseChange]) {
        if noted.is_empty() {
            return;
        }
        let version = {
            let mut changes = self.core.lease_changes.lock();
            noted.iter().for_each(|change| changes.push(*change));
            changes.version()
        };
        for change in noted {
            self.core.metrics.note_lease(change);
        }
        self.core.lease_version.send_replace(version);
    }

    /// Makes everything committed durable. Blocks on the disk; see [`State::storage`] for use beside the writer.
    ///
    /// # Errors
    /// When the disk refuses; the durable mark then stays where it was.
    pub fn flush(&self) -> io::Result<Applied> {
        self.core.flush()
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
        Storage { core: self.core.clone() }
    }

    #[must_use]
    pub fn reader(&self) -> Arc<Reader> {
        self.reader.clone()
    }

    /// Replaces the contents by a received checkpoint, whose directory is moved into place (same file system; its files
    /// already synced). Readers and watchers survive: watchers go on from their revision, or are cancelled when it was
    /// compacted. The mark of the checkpoint is then [`State::applied`].
    ///
    /// # Errors
    /// When the checkpoint cannot be opened; the old contents then stay.
    #[allow(clippy::disallowed_methods, reason = "moves directories for the engine; applying touches none")]
    pub fn install(&mut self, checkpoint_dir: &Path) -> Result<(), OpenError> {
        assert!(self.stage.records.is_empty(), "nothing is applied and uncommitted when a checkpoint is installed");
        let generation = self.generation + 1;
        let path = engine::generation_path(&self.dir, generation);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::rename(checkpoint_dir, &path)?;
        let engine = Arc::new(Engine::open(&path, engine_options(&self.options))?);
        let contents = core::load(&engine, self.options.value_cache_bytes)?;
        engine::switch_generation(&self.dir, generation)?;
        let (applied, compacted) = (contents.applied.clone(), contents.compacted);
        self.stage = Stage {
            revision: contents.index.revision(),
            floor: contents.index.floor(),
            auth: contents.auth.clone(),
            ..Stage::default()
        };
        self.compactor.replace(compacted, || self.core.replace(engine.clone(), contents));
        self.applied = applied;
        // It may still be read for a moment.
        mem::replace(&mut self.engine, engine).doom();
        self.generation = generation;
        self.hub.reset(self.stage.revision);
        Ok(())
    }

    /// One slice of physical compaction, for a state without its own thread; false when there is nothing left to do.
    pub fn compact_step(&self) -> bool {
        self.compactor.step()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.compactor.stop();
        if let Some(thread) = self.compactor_thread.take() {
            // A panic there has already been reported.
            let _ = thread.join();
        }
    }
}

impl Storage {
    /// Makes everything committed durable and returns the mark that now is.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&self) -> io::Result<Applied> {
        self.core.flush()
    }

    /// See [`State::checkpoint`]. The mark is that of the copy, which may be newer than the last flush.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self, dir: &Path) -> io::Result<Applied> {
        self.core.engine().checkpoint(dir)?;
        Ok(core::read_applied(dir)?)
    }

    /// Has the database give back what compaction has freed, until `stop`. Slow; nothing waits for it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn reclaim(&self, stop: &dyn Fn() -> bool) -> io::Result<()> {
        self.core.flush()?;
        self.core.engine().compact(stop);
        Ok(())
    }

    /// Bytes committed but not flushed yet: what a crash would have to replay from the log.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        self.core.engine().unflushed_bytes()
    }
}

fn engine_options(options: &StateOptions) -> EngineOptions {
    let StateOptions { block_cache_bytes, write_buffer_bytes, .. } = *options;
    EngineOptions { block_cache_bytes, write_buffer_bytes }
}
