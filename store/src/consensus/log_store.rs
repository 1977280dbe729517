//! openraft's log on our WAL.
//!
//! `append`, `truncate` and `purge` only change memory and queue the change; the WAL's thread reports durability through
//! openraft's callback. `save_vote` waits for its sync, because openraft sends nothing that depends on a vote before.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};

use super::codec;
use super::types::{CommandBytes, Entry, LogId, Types, Vote, entry_id, log_id};
use crate::ids::MemberId;
use crate::io::wal::{Wal, WalReader};
use crate::limits::LOG_READ_BYTES_MAX;
use crate::wal;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The writing half, owned by Raft's core.
pub struct LogStore {
    wal: Arc<Wal>,
    reader: LogReader,
    me: MemberId,
    /// The last vote is for this member, and a majority's.
    leads: bool,
}

/// How often every task that is ready gets a turn until new entries are with the followers' connections: their replication
/// reads them, then the connections' writers send them. A leader's own write to disk begins after that: its thread would
/// compete for the processor with all that the followers still have to do, and commits wait for them, not for it.
const TURNS_TO_FOLLOWERS: u32 = 2;

/// Lets every task that is ready run first, so many times.
async fn turns(mut left: u32) {
    std::future::poll_fn(|context| {
        let Some(less) = left.checked_sub(1) else { return Poll::Ready(()) };
        left = less;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The reading half: one for each follower and one for applying.
#[derive(Clone)]
pub struct LogReader {
    wal: WalReader,
}

impl LogStore {
    #[must_use]
    pub fn new(wal: Arc<Wal>, me: MemberId) -> Self {
        let reader = LogReader { wal: wal.reader() };
        Self { wal, reader, me, leads: false }
    }
}

/// An entry as the WAL keeps it.
#[must_use]
pub fn to_wal(entry: Entry) -> wal::Entry {
    let id = entry_id(&entry.log_id);
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(CommandBytes(bytes)) => (NORMAL, bytes),
        EntryPayload::Membership(membership) => (MEMBERSHIP, codec::encode(&membership).into()),
    };
    wal::Entry { id, kind, payload }
}

/// The inverse of [`to_wal`].
///
/// # Errors
/// When the entry is of a kind that this program does not know.
pub fn from_wal(entry: wal::Entry) -> io::Result<Entry> {
    let payload = match entry.kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(CommandBytes(entry.payload)),
        MEMBERSHIP => EntryPayload::Membership(codec::decode(&entry.payload).map_err(io::Error::other)?),
        kind => {
            let index = entry.id.index;
            let what = format!("log entry {index} is of kind {kind}: written by a newer version?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    };
    Ok(Entry { log_id: log_id(entry.id), payload })
}

impl LogReader {
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = match self.wal.cached(start, end, bytes_max) {
            Some(entries) => entries,
            // Old entries come from the files, and the disk may take its time.
            None => {
                let wal = self.wal.clone();
                tokio::task::spawn_blocking(move || wal.read(start, end, bytes_max))
                    .await
                    .map_err(io::Error::other)??
            }
        };
        entries.into_iter().map(from_wal).collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogReader {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures::Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In slices, so that a member far behind never holds all it has to apply in memory.
        let (start, end) = bounds(&range);
        let reader = self.clone();
        let slices = futures::stream::try_unfold(start, move |start| {
            let reader = reader.clone();
            async move {
                if start >= end {
                    return Ok::<_, io::Error>(None);
                }
                let entries = reader.read(start, end, LOG_READ_BYTES_MAX).await?;
                let next = entries.last().map(|entry| entry.log_id.index + 1);
                Ok(next.map(|next| (futures::stream::iter(entries.into_iter().map(Ok)), next)))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(slices))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, LOG_READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.wal.vote();
        if vote.is_empty() {
            return Ok(None);
        }
        codec::decode(&vote).map(Some).map_err(io::Error::other)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let (purged, last) = self.reader.wal.bounds();
        Ok(LogState { last_purged_log_id: purged.map(log_id), last_log_id: last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.leads = vote.committed && vote.leader_id.node_id == self.me;
        let (done, durable) = tokio::sync::oneshot::channel();
        // Nobody waits any more only when the core is gone.
        let done = Box::new(move || done.send(()).unwrap_or_default());
        self.wal.save_vote(codec::encode(vote).into(), done);
        durable.await.map_err(io::Error::other)
    }

    #[allow(clippy::disallowed_methods, reason = "the task decides nothing: it wakes the log's thread a moment later")]
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(to_wal).collect();
        self.wal.append_quietly(entries, Box::new(move || callback.io_completed(Ok(()))));
        match self.leads {
            true => {
                let wal = self.wal.clone();
                tokio::spawn(async move {
                    turns(TURNS_TO_FOLLOWERS).await;
                    wal.wake();
                });
            }
            false => self.wal.wake(),
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.wal.truncate(last_log_id.map_or(0, |id| id.index + 1));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.wal.purge(entry_id(&log_id));
        Ok(())
    }
}
