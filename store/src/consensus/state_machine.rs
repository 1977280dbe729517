//! openraft's state machine on ours.
//!
//! Entries are applied in batches: each batch is one write of the state, and answers go out after it. The mark written
//! with the data holds the log id and the membership, so a restart knows exactly where to go on. A "snapshot" is a flush:
//! the state is already on disk, only its newest part may be in memory. A copy is made only when a follower needs one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::rebuild::{Rebuilder, Turn};
use super::requests::{self, Origin, Requests};
use super::types::{Answer, CommandBytes, Entry, LeaderId, LogId, SnapshotMeta, StoredMembership, Types};
use super::{StateMachine, Storage, codec};
use crate::command::Reply;
use crate::ids::LogIndex;
use crate::io::checkpoint::{CheckpointDir, Checkpoints};
use crate::io::clock::Stopwatch;
use crate::limits::{APPLY_BATCH_BYTES, APPLY_BATCH_ENTRIES, WARN_APPLY};
use crate::metrics::{ApplyMetrics, SnapshotMetrics};
use crate::state::{Applied, Context};

/// What the opaque part of [`Applied`] holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
}

impl Mark {
    /// # Errors
    /// When the mark was written by something else.
    pub fn decode(applied: &Applied) -> io::Result<Self> {
        if applied.consensus.is_empty() {
            return Ok(Self::default());
        }
        let (last, membership) = codec::decode(&applied.consensus).map_err(io::Error::other)?;
        Ok(Self { last, membership })
    }

    /// The inverse of [`Mark::decode`].
    #[must_use]
    pub fn applied(&self) -> Applied {
        let consensus = codec::encode(&(self.last, &self.membership)).into();
        Applied { index: LogIndex(self.last.map_or(0, |id| id.index)), consensus }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

/// How far this member has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The index after the last applied entry.
    pub next: u64,
    /// Who led when that entry was appended.
    pub leader: Option<LeaderId>,
}

impl Progress {
    fn of(mark: &Mark) -> Self {
        Self { next: mark.last.map_or(0, |id| id.index + 1), leader: mark.last.map(|id| id.leader_id) }
    }
}

/// The state machine as Raft's worker task owns it.
pub struct Machine<M: StateMachine> {
    state: Arc<Mutex<M>>,
    storage: M::Storage,
    checkpoints: Checkpoints,
    mark: Mark,
    /// Kept encoded: every batch writes it, and it hardly ever changes.
    membership: Bytes,
    progress: watch::Sender<Progress>,
    requests: Arc<Requests>,
    /// Until Raft runs, a snapshot is only asked for to learn its metadata.
    running: Arc<AtomicBool>,
    metrics: ApplyMetrics,
    snapshots: SnapshotMetrics,
    /// A command that takes longer is logged.
    warn_apply: Duration,
    turn: Turn,
}

impl<M: StateMachine> Machine<M> {
    /// # Errors
    /// When the state's mark cannot be read.
    pub fn new(mut state: M, checkpoints: Checkpoints, requests: Arc<Requests>) -> io::Result<Self> {
        let mark = Mark::decode(state.applied())?;
        // A state of a time without a table of members learns them here.
        state.adopt_members(mark.membership.membership());
        let storage = state.storage();
        let (progress, _) = watch::channel(Progress::of(&mark));
        let membership = encode_membership(&mark.membership);
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
            storage,
            checkpoints,
            mark,
            membership,
            progress,
            requests,
            running: Arc::new(AtomicBool::new(false)),
            metrics: ApplyMetrics::default(),
            snapshots: SnapshotMetrics::default(),
            warn_apply: WARN_APPLY,
            turn: Turn::default(),
        })
    }

    /// Measures what is applied from here on.
    #[must_use]
    pub fn measured(self, metrics: ApplyMetrics, snapshots: SnapshotMetrics, warn_apply: Duration) -> Self {
        Self { metrics, snapshots, warn_apply, ..self }
    }

    /// For replacing the state under a running Raft.
    #[must_use]
    pub fn rebuilder(&self) -> Rebuilder<M> {
        Rebuilder { state: self.state.clone(), turn: self.turn.clone() }
    }

    /// Becomes visible after the data it speaks of, and after the requests that it completes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// To be set once Raft runs.
    #[must_use]
    pub fn running(&self) -> Arc<AtomicBool> {
        self.running.clone()
    }

    fn applied(&self) -> Applied {
        let mut consensus = BytesMut::from(&codec::encode(&self.mark.last)[..]);
        consensus.extend_from_slice(&self.membership);
        Applied { index: LogIndex(self.mark.last.map_or(0, |id| id.index)), consensus: consensus.freeze() }
    }

    /// Applies a batch, writes it, and only then answers.
    fn apply_batch(&mut self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let state = self.state.clone();
        let mut state = state.lock();
        let mut answers: Vec<(ApplyResponder<Types>, Answer)> = Vec::with_capacity(batch.len());
        let mut completed: Vec<(Origin, Reply)> = Vec::new();
        let mut watch = Stopwatch::start();
        for (Entry { log_id, payload }, responder) in batch {
            let mut answer = Answer(None);
            match payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(CommandBytes(bytes)) => {
                    let (origin, caller, command) =
                        requests::decode(bytes).map_err(|error| unreadable(&log_id, &error))?;
                    let reply = state.apply(&Context { index: LogIndex(log_id.index), caller }, &command);
                    self.metrics.note(&command, reply.is_ok(), watch.lap(), self.warn_apply);
                    if responder.is_none() && self.requests.is_mine(origin) {
                        completed.push((origin, reply));
                    } else {
                        answer = Answer(Some(reply));
                    }
                }
                EntryPayload::Membership(membership) => {
                    state.adopt_members(&membership);
                    self.mark.membership = StoredMembership::new(Some(log_id), membership);
                    self.membership = encode_membership(&self.mark.membership);
                }
            }
            self.mark.last = Some(log_id);
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        state.commit(self.applied());
        drop(state);
        for (origin, reply) in completed {
            self.requests.complete(origin, reply);
        }
        self.progress.send_replace(Progress::of(&self.mark));
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }
}

fn unreadable(id: &LogId, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {id}: {error}"))
}

pub(super) fn encode_membership(membership: &StoredMembership) -> Bytes {
    codec::encode(membership).into()
}

/// A snapshot: where its bytes are, or how to get them.
pub enum SnapshotData<S> {
    /// The state's own files; a copy is made when one is needed.
    Live(S),
    /// A complete copy, removed when this is dropped.
    Copy(CheckpointDir),
}

impl<S> SnapshotData<S> {
    /// The copy's directory.
    #[must_use]
    pub fn dir(&self) -> Option<PathBuf> {
        match self {
            Self::Live(_) => None,
            Self::Copy(dir) => Some(dir.path().to_owned()),
        }
    }
}

/// Runs something that waits for the disk beside the runtime's thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

async fn copy<S: Storage>(storage: S, checkpoints: &Checkpoints) -> io::Result<(Mark, CheckpointDir)> {
    let dir = checkpoints.outgoing();
    blocking(move || {
        let applied = storage.checkpoint(dir.path())?;
        Ok((Mark::decode(&applied)?, dir))
    })
    .await
}

/// Flushes beside the worker task.
pub struct Builder<S> {
    storage: S,
    turn: Turn,
    metrics: SnapshotMetrics,
}

impl<S: Storage> RaftSnapshotBuilder<Types> for Builder<S> {
    type SnapshotData = SnapshotData<S>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<S>, io::Error> {
        let storage = self.storage.clone();
        let _turn = self.turn.read().await;
        let mut watch = Stopwatch::start();
        let applied = blocking(move || storage.flush()).await?;
        let flushed = watch.lap();
        let meta = Mark::decode(&applied)?.meta();
        self.metrics.note_saved(flushed, watch.lap());
        let index = meta.last_log_id.map_or(0, |id| id.index);
        tracing::info!("snapshot-index" = index, "saved snapshot to disk");
        Ok(Snapshot { meta, snapshot: SnapshotData::Live(self.storage.clone()) })
    }
}

type SnapshotOf<S> = openraft::alias::SnapshotOf<Types, SnapshotData<S>>;

impl<M: StateMachine> RaftStateMachine<Types> for Machine<M> {
    type SnapshotData = SnapshotData<M::Storage>;
    type SnapshotBuilder = Builder<M::Storage>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.mark.last, self.mark.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < APPLY_BATCH_ENTRIES && bytes < APPLY_BATCH_BYTES {
                let Some(item) = entries.next().await else { break };
                let (entry, responder) = item?;
                if let EntryPayload::Normal(command) = &entry.payload {
                    bytes += command.0.len();
                }
                batch.push((entry, responder));
            }
            if batch.is_empty() {
                return Ok(());
            }
            let turn = self.turn.clone().read_owned().await;
            self.apply_batch(batch)?;
            drop(turn);
            // Heartbeats and the core share this thread.
            tokio::task::yield_now().await;
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Self::SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { storage: self.storage.clone(), turn: self.turn.clone(), metrics: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Self::SnapshotData) -> Result<(), io::Error> {
        let dir = match snapshot {
            SnapshotData::Copy(dir) => dir,
            SnapshotData::Live(storage) => copy(storage, &self.checkpoints).await?.1,
        };
        let _turn = self.turn.clone().read_owned().await;
        let state = self.state.clone();
        let applied = blocking(move || {
            let mut state = state.lock();
            state.install(dir.path())?;
            Ok(state.applied().clone())
        })
        .await?;
        let mark = Mark::decode(&applied)?;
        if mark.last != meta.last_log_id {
            let what = format!("a snapshot said to end at {:?} ends at {:?}", meta.last_log_id, mark.last);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let index = mark.last.map_or(0, |id| id.index);
        tracing::info!("snapshot-index" = index, "applied snapshot");
        self.membership = encode_membership(&mark.membership);
        self.mark = mark;
        self.requests.forget();
        self.progress.send_replace(Progress::of(&self.mark));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<M::Storage>>, io::Error> {
        if self.mark.last.is_none() {
            return Ok(None);
        }
        if !self.running.load(Ordering::Relaxed) {
            let snapshot = SnapshotData::Live(self.storage.clone());
            return Ok(Some(Snapshot { meta: self.mark.meta(), snapshot }));
        }
        let _turn = self.turn.clone().read_owned().await;
        let (mark, dir) = copy(self.storage.clone(), &self.checkpoints).await?;
        Ok(Some(Snapshot { meta: mark.meta(), snapshot: SnapshotData::Copy(dir) }))
    }
}
