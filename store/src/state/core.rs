//! What the writer and the readers share.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kontiki_api::mvccpb::KeyValue;
use parking_lot::{Mutex, RwLock};

use super::agreed::Agreed;
use super::{Applied, OpenError, auth, members};
use crate::auth::AuthState;
use crate::auth::state::TokenChange;
use crate::auth::tokens::TokenTable;
use crate::ids::{LeaseId, LogIndex};
use crate::io::clock::{Clock, SystemClock};
use crate::io::engine::{Engine, Family, Step};
use crate::lease::table::{ChangeLog, LeaseTable};
use crate::maintenance::alarms::AlarmFlags;
use crate::membership::MemberTable;
use crate::metrics::StateMetrics;
use crate::mvcc::index::Index;
use crate::mvcc::range::{Records, View};
use crate::mvcc::record::{self, Kind, Stamp};

/// Records in a piece of what is read when the database is opened, and such pieces that wait.
const LOAD_BATCH: usize = 1_000;
const LOAD_BATCHES: usize = 4;

/// The committed state. Locks are taken in the order of the fields and held briefly.
pub(crate) struct Core {
    pub(crate) index: RwLock<Index>,
    /// Replaced, under the index's lock, when a checkpoint is installed.
    engine: RwLock<Arc<Engine>>,
    pub(crate) leases: RwLock<LeaseTable>,
    pub(crate) lease_changes: Mutex<ChangeLog>,
    pub(crate) lease_version: tokio::sync::watch::Sender<u64>,
    pub(crate) members: RwLock<MemberTable>,
    pub(crate) members_version: tokio::sync::watch::Sender<u64>,
    pub(crate) agreed: RwLock<Agreed>,
    /// The alarms in `agreed`, as apply asks for them.
    pub(crate) alarm_flags: AlarmFlags,
    /// Wakes when `agreed` has changed.
    pub(crate) agreed_version: tokio::sync::watch::Sender<u64>,
    /// What is committed; written after the data it describes.
    pub(crate) mark: Mutex<Applied>,
    applied_index: AtomicU64,
    pub(crate) metrics: StateMetrics,
    auth: RwLock<Arc<AuthState>>,
    /// Whether `auth` is enabled: what every request asks first.
    auth_enabled: AtomicBool,
    /// This member's own; not a part of the replicated state.
    tokens: Mutex<TokenTable>,
    clock: SystemClock,
}

/// Everything that is rebuilt from a database when it is opened.
pub(crate) struct Contents {
    pub(crate) index: Index,
    pub(crate) leases: LeaseTable,
    pub(crate) members: MemberTable,
    pub(crate) auth: Arc<AuthState>,
    pub(crate) agreed: Agreed,
    pub(crate) applied: Applied,
    /// The floor down to which everything is physically gone.
    pub(crate) compacted: i64,
}

impl Core {
    pub(crate) fn new(engine: Arc<Engine>, contents: Contents, metrics: StateMetrics) -> Self {
        let alarm_flags = AlarmFlags::default();
        alarm_flags.follow(&contents.agreed.alarms);
        Self {
            index: RwLock::new(contents.index),
            engine: RwLock::new(engine),
            leases: RwLock::new(contents.leases),
            lease_changes: Mutex::default(),
            lease_version: tokio::sync::watch::Sender::new(ChangeLog::default().version()),
            members: RwLock::new(contents.members),
            members_version: tokio::sync::watch::Sender::new(0),
            agreed: RwLock::new(contents.agreed),
            alarm_flags,
            agreed_version: tokio::sync::watch::Sender::new(0),
            applied_index: AtomicU64::new(contents.applied.index.0),
            mark: Mutex::new(contents.applied),
            metrics,
            auth_enabled: AtomicBool::new(contents.auth.is_enabled()),
            auth: RwLock::new(contents.auth),
            tokens: Mutex::default(),
            clock: SystemClock::default(),
        }
    }

    pub(crate) fn engine(&self) -> Arc<Engine> {
        self.engine.read().clone()
    }

    /// A view through this handle's engine. Take the engine after the revision was chosen, never before.
    pub(crate) fn view<'a>(&'a self, records: &'a dyn Records) -> View<'a> {
        View { index: &self.index, records }
    }

    pub(crate) fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied_index.load(Ordering::Acquire))
    }

    pub(crate) fn set_mark(&self, applied: Applied) {
        let index = applied.index.0;
        *self.mark.lock() = applied;
        self.applied_index.store(index, Ordering::Release);
    }

    pub(crate) fn auth(&self) -> Arc<AuthState> {
        self.auth.read().clone()
    }

    pub(crate) fn auth_enabled(&self) -> bool {
        self.auth_enabled.load(Ordering::Acquire)
    }

    /// To be called before the data that was applied under it becomes visible.
    pub(crate) fn publish_auth(&self, auth: Arc<AuthState>, changes: &[TokenChange]) {
        if !Arc::ptr_eq(&*self.auth.read(), &auth) {
            let enabled = auth.is_enabled();
            *self.auth.write() = auth;
            self.auth_enabled.store(enabled, Ordering::Release);
        }
        if !changes.is_empty() {
            let mut tokens = self.tokens.lock();
            changes.iter().for_each(|change| tokens.change(change, self.clock.now()));
        }
    }

    /// Asks or changes the table of tokens at the present moment.
    pub(crate) fn with_tokens<T>(&self, ask: impl FnOnce(&mut TokenTable, std::time::Duration) -> T) -> T {
        ask(&mut self.tokens.lock(), self.clock.now())
    }

    /// Puts other contents in place at one moment for all readers.
    pub(crate) fn replace(&self, engine: Arc<Engine>, contents: Contents) {
        let mut index = self.index.write();
        *self.engine.write() = engine;
        *self.leases.write() = contents.leases;
        *self.members.write() = contents.members;
        // Some were assigned or taken back in entries that this member never sees.
        self.publish_auth(contents.auth, &[TokenChange::ForgetAll]);
        self.alarm_flags.follow(&contents.agreed.alarms);
        *self.agreed.write() = contents.agreed;
        *index = contents.index;
        drop(index);
        self.set_mark(contents.applied);
        let version = {
            let mut changes = self.lease_changes.lock();
            changes.reset();
            changes.version()
        };
        self.lease_version.send_replace(version);
        self.note_members();
        self.agreed_version.send_modify(|version| *version += 1);
    }

    /// The table of members is another one now.
    pub(crate) fn note_members(&self) {
        self.members_version.send_modify(|version| *version += 1);
    }

    /// Makes everything committed durable and returns the mark that now is.
    pub(crate) fn flush(&self) -> io::Result<Applied> {
        // The mark is set after the write it describes, so a flush that begins now covers it.
        let applied = self.mark.lock().clone();
        self.engine().flush()?;
        Ok(applied)
    }
}

impl Records for Core {
    fn load(&self, stamps: &[Stamp]) -> Option<Vec<Bytes>> {
        self.engine().load(stamps)
    }
}

const MARK_KEY: &[u8] = b"mark";
const COMPACTED_KEY: &[u8] = b"compacted";
const MARK_FORMAT: u8 = 1;

/// The record that ties the data to the log: written in the same batch as what it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    pub(crate) applied: Applied,
}

impl Mark {
    /// A fresh store: revision 1, nothing compacted, nothing applied.
    fn fresh() -> Self {
        Self { revision: 1, floor: -1, applied: Applied::default() }
    }

    pub(crate) fn put(&self, engine: &Engine, batch: &mut rocksdb::WriteBatch) {
        let Self { revision, floor, applied: Applied { index, consensus } } = self;
        let mut bytes = BytesMut::with_capacity(25 + consensus.len());
        bytes.put_u8(MARK_FORMAT);
        bytes.put_i64(*revision);
        bytes.put_i64(*floor);
        bytes.put_u64(index.0);
        bytes.put_slice(consensus);
        engine.put(batch, Family::Meta, MARK_KEY, &bytes);
    }

    pub(crate) fn read(engine: &Engine) -> Result<Self, OpenError> {
        let Some(mut bytes) = engine.get(Family::Meta, MARK_KEY)? else { return Ok(Self::fresh()) };
        if bytes.len() < 25 || bytes.get_u8() != MARK_FORMAT {
            return Err(OpenError::Damaged("the applied mark has an unknown form".to_owned()));
        }
        let (revision, floor, index) = (bytes.get_i64(), bytes.get_i64(), LogIndex(bytes.get_u64()));
        // Not a slice: that would keep the whole record alive.
        Ok(Self { revision, floor, applied: Applied { index, consensus: Bytes::copy_from_slice(&bytes) } })
    }
}

/// Notes that everything below `floor` is physically gone.
pub(crate) fn put_compacted(engine: &Engine, batch: &mut rocksdb::WriteBatch, floor: i64) {
    engine.put(batch, Family::Meta, COMPACTED_KEY, &floor.to_be_bytes());
}

/// The floor down to which everything is physically gone; -1 before the first compaction.
pub(crate) fn read_compacted(engine: &Engine) -> Result<i64, OpenError> {
    engine.get(Family::Meta, COMPACTED_KEY)?.map_or(Ok(-1), |bytes| integer(&bytes))
}

/// Reads a database into memory.
pub(crate) fn load(engine: &Engine, cache_bytes_max: usize) -> Result<Contents, OpenError> {
    let mark = Mark::read(engine)?;
    let mut leases = LeaseTable::default();
    engine.scan(Family::Leases, b"", &mut |key, value| {
        leases.grant(LeaseId(integer(key)?), integer(value)?);
        Ok::<_, OpenError>(Step::Next)
    })?;
    let members = members::load(engine)?;
    let agreed = Agreed::load(engine)?;
    let mut index = Index::new(mark.revision, mark.floor, cache_bytes_max);
    load_records(engine, mark.revision, &mut index, &mut leases)?;
    let compacted = read_compacted(engine)?;
    let auth = Arc::new(auth::load(engine)?);
    Ok(Contents { index, leases, members, auth, agreed, applied: mark.applied, compacted })
}

/// A record without its value.
struct Head {
    stamp: Stamp,
    kind: Kind,
    kv: KeyValue,
    record_bytes: usize,
}

/// One forward scan over the records. A thread reads and decodes them, this one builds the index meanwhile: each takes
/// about as long.
fn load_records(engine: &Engine, revision: i64, index: &mut Index, leases: &mut LeaseTable) -> Result<(), OpenError> {
    thread::scope(|scope| {
        let (sender, batches) = mpsc::sync_channel::<Vec<Head>>(LOAD_BATCHES);
        let read = move || {
            let mut batch = Vec::with_capacity(LOAD_BATCH);
            engine.scan(Family::Records, b"", &mut |key, value| {
                batch.push(decode_head(revision, key, value)?);
                if batch.len() < LOAD_BATCH {
                    return Ok(Step::Next);
                }
                let full = std::mem::replace(&mut batch, Vec::with_capacity(LOAD_BATCH));
                // Nobody takes them where the other thread has panicked.
                Ok::<_, OpenError>(if sender.send(full).is_ok() { Step::Next } else { Step::Stop })
            })?;
            let _ = sender.send(batch);
            Ok(())
        };
        let reader = thread::Builder::new().name("load".into()).spawn_scoped(scope, read)?;
        for head in batches.into_iter().flatten() {
            restore(index, leases, &head);
        }
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn decode_head(revision: i64, key: &[u8], value: &[u8]) -> Result<Head, OpenError> {
    let damaged = |error: record::RecordError| OpenError::Damaged(error.to_string());
    let stamp = Stamp::from_bytes(key).map_err(damaged)?;
    if stamp.main > revision {
        return Err(OpenError::Damaged(format!("a record of revision {} after the mark of {revision}", stamp.main)));
    }
    let (kind, kv) = record::decode_head(value).map_err(damaged)?;
    Ok(Head { stamp, kind, kv, record_bytes: value.len() })
}

fn restore(index: &mut Index, leases: &mut LeaseTable, head: &Head) {
    let Head { stamp, kind, kv, record_bytes } = head;
    let previous = index.restore(*stamp, *kind, kv, *record_bytes).version;
    if let Some(previous) = previous.filter(|previous| previous.live && previous.lease != 0) {
        leases.detach(LeaseId(previous.lease), &kv.key);
    }
    if *kind == Kind::Put && kv.lease != 0 && leases.contains(LeaseId(kv.lease)) {
        leases.attach(LeaseId(kv.lease), &kv.key);
    }
}

/// Eight bytes, big-endian.
pub(crate) fn integer(bytes: &[u8]) -> Result<i64, OpenError> {
    let bytes = bytes.try_into().map_err(|_| OpenError::Damaged("a number has not 8 bytes".to_owned()))?;
    Ok(i64::from_be_bytes(bytes))
}

/// The mark inside a checkpoint, read without changing it.
pub(crate) fn read_applied(checkpoint_dir: &Path) -> Result<Applied, OpenError> {
    let engine = Engine::open_read_only(checkpoint_dir)?;
    Ok(Mark::read(&engine)?.applied)
}
