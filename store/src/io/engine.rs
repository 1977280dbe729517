//! RocksDB, set up for a state machine whose log is elsewhere.
//!
//! No WAL: every write goes to memtables, and all column families flush together, so what survives a crash is a prefix of
//! the writes. Records are keyed by time, so a key is written once and deleted once; compaction is mostly moving files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    FlushOptions, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::mvcc::range::Records;
use crate::mvcc::record::Stamp;

/// The column families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The applied mark and how far compaction got.
    Meta,
    /// Every version of every key, by [`Stamp`].
    Records,
    Leases,
    Members,
    /// Users, roles, and whether they matter.
    Auth,
}

const FAMILIES: [Family; 5] = [Family::Meta, Family::Records, Family::Leases, Family::Members, Family::Auth];

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Meta => "default",
            Self::Records => "rev",
            Self::Leases => "lease",
            Self::Members => "member",
            Self::Auth => "auth",
        }
    }
}

/// Memory budgets.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    pub block_cache_bytes: usize,
    pub write_buffer_bytes: usize,
}

pub struct Engine {
    db: DB,
    /// After `db`, so that the files are closed when they are removed.
    files: Files,
}

/// Parts in which everything is rewritten.
const COMPACT_SLICES: i64 = 32;

/// Why the contents cannot be trusted any more, for the next start: a file beside the generations.
const DAMAGED: &str = "damaged";

/// The directory of a database, and whether it goes when the database is closed.
struct Files {
    path: PathBuf,
    doomed: AtomicBool,
}

impl Drop for Files {
    fn drop(&mut self) {
        if *self.doomed.get_mut() {
            // What is left over is removed when the state is next opened.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Engine {
    /// # Errors
    /// When the database cannot be opened.
    pub fn open(path: &Path, options: EngineOptions) -> io::Result<Self> {
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let families = FAMILIES.map(|family| {
            // Everything but the records is small and rarely written.
            let buffer = if family == Family::Records { options.write_buffer_bytes } else { 1 << 20 };
            ColumnFamilyDescriptor::new(family.name(), family_options(&cache, buffer))
        });
        let db = DB::open_cf_descriptors(&database_options(options), path, families).map_err(failure)?;
        Ok(Self { db, files: Files { path: path.to_owned(), doomed: AtomicBool::new(false) } })
    }

    /// Opens a database for a look inside, leaving its files as they are.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        let names = FAMILIES.map(Family::name);
        let db = DB::open_cf_for_read_only(&Options::default(), path, names, false).map_err(failure)?;
        Ok(Self { db, files: Files { path: path.to_owned(), doomed: AtomicBool::new(false) } })
    }

    /// Has the files removed once nobody uses this database any more.
    pub fn doom(&self) {
        self.files.doomed.store(true, Ordering::Relaxed);
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is created when the database is opened")
    }

    pub fn put(&self, batch: &mut WriteBatch, family: Family, key: &[u8], value: &[u8]) {
        batch.put_cf(self.family(family), key, value);
    }

    pub fn delete(&self, batch: &mut WriteBatch, family: Family, key: &[u8]) {
        batch.delete_cf(self.family(family), key);
    }

    /// Writes to memory; durable after the next [`Engine::flush`].
    ///
    /// # Errors
    /// When an earlier flush or compaction in the background has failed.
    pub fn write(&self, batch: WriteBatch) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(failure)
    }

    /// Makes everything written so far durable, as one cut over all families.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&self) -> io::Result<()> {
        let families = FAMILIES.map(|family| self.family(family));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(failure)
    }

    /// Hard-links a consistent copy into `dir`; the caller has flushed what must be in it.
    ///
    /// # Errors
    /// When the disk refuses or `dir` exists.
    pub fn checkpoint(&self, dir: &Path) -> io::Result<()> {
        // A log size of 0 means: flush first. There is no WAL that could be copied instead.
        Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(dir)).map_err(failure)
    }

    /// # Errors
    /// When the disk refuses.
    pub fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self.db.get_cf(self.family(family), key).map_err(failure)?;
        Ok(value.map(Bytes::from))
    }

    /// Visits the pairs of a family from `from` on, in key order, until `visit` says stop.
    ///
    /// # Errors
    /// When the disk refuses, or what `visit` fails with.
    pub fn scan<E: From<io::Error>>(&self, family: Family, from: &[u8], visit: &mut Visit<'_, E>) -> Result<(), E> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut pairs = self.db.raw_iterator_cf_opt(self.family(family), options);
        pairs.seek(from);
        while let Some((key, value)) = pairs.item() {
            if visit(key, value)? == Step::Stop {
                return Ok(());
            }
            pairs.next();
        }
        Ok(pairs.status().map_err(failure)?)
    }

    /// Rewrites the records so that what was deleted takes no space, until `stop`. Runs beside everything else, and
    /// takes long.
    pub fn compact(&self, stop: &dyn Fn() -> bool) {
        let family = self.family(Family::Records);
        let edge = |mode| self.db.iterator_cf(family, mode).next().and_then(Result::ok);
        let revision = |pair: (Box<[u8]>, Box<[u8]>)| Stamp::from_bytes(&pair.0).ok().map(|stamp| stamp.main);
        let (Some(first), Some(last)) =
            (edge(IteratorMode::Start).and_then(revision), edge(IteratorMode::End).and_then(revision))
        else {
            return;
        };
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // In slices of history, so that a stop need not wait for all of it.
        let slice = (last - first) / COMPACT_SLICES + 1;
        let mut from = first;
        while from <= last && !stop() {
            let (start, end) = (Stamp::first(from).to_bytes(), Stamp::first(from + slice).to_bytes());
            self.db.compact_range_cf_opt(family, Some(start), Some(end), &options);
            from += slice;
        }
    }

    /// The disk has lied. Nothing read from it may be served or digested any more, so the process ends; the next start
    /// finds the note and has this member rebuilt from the others.
    pub fn unreadable(&self, error: &io::Error) -> ! {
        let remedy = match (error.kind(), self.files.path.parent()) {
            (io::ErrorKind::InvalidData, Some(dir)) => match mark_damaged(dir, &error.to_string()) {
                Ok(()) => "the next start rebuilds it from the other members".to_owned(),
                Err(error) => format!("and no note of it can be left for the next start: {error}"),
            },
            _ => "stopping the process".to_owned(),
        };
        super::abort(&format!("the state database cannot be read: {error}; {remedy}"))
    }

    /// Bytes in memtables: written and not yet flushed, with the arenas' overhead.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        let size = |family| self.db.property_int_value_cf(self.family(family), "rocksdb.cur-size-all-mem-tables");
        FAMILIES.iter().map(|family| size(*family).ok().flatten().unwrap_or(0)).sum()
    }
}

/// What a scan calls with each key and value.
pub type Visit<'a, E> = dyn FnMut(&[u8], &[u8]) -> Result<Step, E> + 'a;

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Next,
    Stop,
}

impl Records for Engine {
    fn load(&self, stamps: &[Stamp]) -> Option<Vec<Bytes>> {
        let family = self.family(Family::Records);
        if let [stamp] = stamps {
            let record = self.db.get_cf(family, stamp.to_bytes());
            let record = record.unwrap_or_else(|error| self.unreadable(&failure(error)))?;
            return Some(vec![Bytes::from(record)]);
        }
        let keys: Vec<_> = stamps.iter().map(|stamp| stamp.to_bytes()).collect();
        self.db
            .batched_multi_get_cf(family, &keys, false)
            .into_iter()
            .map(|record| {
                let record = record.unwrap_or_else(|error| self.unreadable(&failure(error)));
                record.map(|record| Bytes::copy_from_slice(&record))
            })
            .collect()
    }
}

fn database_options(options: EngineOptions) -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_atomic_flush(true);
    database.set_db_write_buffer_size(2 * options.write_buffer_bytes);
    database.set_max_background_jobs(2);
    database.set_max_open_files(256);
    database.set_bytes_per_sync(1 << 20);
    // One writer: the concurrent memtable only costs.
    database.set_allow_concurrent_memtable_write(false);
    database.set_enable_write_thread_adaptive_yield(false);
    database.set_max_manifest_file_size(4 << 20);
    database.set_log_level(LogLevel::Warn);
    database.set_keep_log_file_num(2);
    database.set_max_log_file_size(1 << 20);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    database
}

fn family_options(cache: &Cache, write_buffer_bytes: usize) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(8 << 10);
    blocks.set_cache_index_and_filter_blocks(true);
    let mut family = Options::default();
    family.set_block_based_table_factory(&blocks);
    family.set_write_buffer_size(write_buffer_bytes);
    family.set_max_write_buffer_number(3);
    family.set_arena_block_size((write_buffer_bytes / 16).clamp(64 << 10, 1 << 20));
    // What is young is rewritten or removed soon; compressing it is wasted.
    let (plain, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    family.set_compression_per_level(&[plain, plain, lz4, lz4, lz4, lz4, lz4]);
    // Files that are mostly deletions are compacted soon, so that a compacted store gives its space back.
    family.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    family
}

fn failure(error: rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.into_string())
}

/// The directory of the current database under `dir`, as the pointer file names it.
///
/// # Errors
/// When the disk refuses.
pub fn current_generation(dir: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(dir.join(CURRENT)) {
        Ok(text) => {
            let number = text.trim().parse().map_err(|_| io::Error::other("the file `current` is damaged"))?;
            Ok(Some(number))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where generation `number` of the database lives.
#[must_use]
pub fn generation_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{GENERATION}{number}"))
}

/// Makes `number` the generation that is opened next time, durably.
///
/// # Errors
/// When the disk refuses.
pub fn switch_generation(dir: &Path, number: u64) -> io::Result<()> {
    let next = dir.join("current.next");
    fs::write(&next, format!("{number}\n"))?;
    fs::File::open(&next)?.sync_all()?;
    fs::rename(&next, dir.join(CURRENT))?;
    fs::File::open(dir)?.sync_all()
}

/// Makes a received checkpoint, moved into place, the database that is opened next, and forgets any damage.
///
/// # Errors
/// When the disk refuses.
pub fn adopt(dir: &Path, checkpoint_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let number = current_generation(dir).ok().flatten().unwrap_or(0) + 1;
    let path = generation_path(dir, number);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::rename(checkpoint_dir, &path)?;
    switch_generation(dir, number)?;
    match fs::remove_file(dir.join(DAMAGED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Notes, durably, that the database must not be used again.
///
/// # Errors
/// When the disk refuses.
pub fn mark_damaged(dir: &Path, reason: &str) -> io::Result<()> {
    fs::write(dir.join(DAMAGED), reason)?;
    fs::File::open(dir.join(DAMAGED))?.sync_all()?;
    fs::File::open(dir)?.sync_all()
}

/// Why the database must not be used again, if so.
#[must_use]
pub fn damage(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join(DAMAGED)).ok()
}

/// Removes every generation but `number`: leftovers of an install.
///
/// # Errors
/// When the disk refuses.
pub fn remove_other_generations(dir: &Path, number: u64) -> io::Result<()> {
    let kept = generation_path(dir, number);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let generation = entry.file_name().to_str().is_some_and(|name| name.starts_with(GENERATION));
        if generation && entry.path() != kept {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

const CURRENT: &str = "current";
const GENERATION: &str = "db.";
