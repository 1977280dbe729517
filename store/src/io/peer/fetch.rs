//! A checkpoint's way to a member that asks for it: one whose own state is damaged, or differs from the others'.
//!
//! The asking side names every piece, so it needs nothing that runs: a member fetches before it starts, or beside its
//! running Raft. The other side keeps one copy for each member that asks, until it is done or has been silent for long.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::snapshot::{Incoming, Part, list, read_chunk};
use super::{Kind, PeerError};
use crate::consensus::{Storage, codec};
use crate::ids::{LogIndex, MemberId};
use crate::io::checkpoint::{CheckpointDir, Checkpoints};
use crate::io::clock::{Clock, SystemClock};
use crate::limits::{FETCH_IDLE, SNAPSHOT_CALL_TIMEOUT, SNAPSHOT_CHUNK_BYTES};
use crate::metrics::SnapshotMetrics;

/// Why a copy did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("writing it: {0}")]
    Io(#[from] io::Error),
    #[error("its answer: {0}")]
    Answer(#[from] codec::CodecError),
}

#[derive(Serialize, Deserialize)]
struct Offer {
    /// Where the copy ends.
    applied: LogIndex,
    parts: Vec<Part>,
}

/// Copies that members are fetching.
pub struct Outgoing {
    checkpoints: Checkpoints,
    clock: SystemClock,
    copies: Mutex<HashMap<MemberId, Copy>>,
}

struct Copy {
    dir: Arc<CheckpointDir>,
    parts: Vec<Part>,
    used: Duration,
}

impl Outgoing {
    #[must_use]
    pub fn new(checkpoints: Checkpoints) -> Self {
        Self { checkpoints, clock: SystemClock::default(), copies: Mutex::default() }
    }

    /// Makes a copy for `member`, in place of an earlier one. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(&self, member: MemberId, storage: &impl Storage) -> io::Result<Bytes> {
        self.end(member);
        let dir = self.checkpoints.outgoing();
        let applied = storage.checkpoint(dir.path())?.index;
        let parts = list(dir.path())?;
        tracing::info!(%member, %applied, files = parts.len(), "a member fetches a copy of the state");
        let offer = codec::encode(&Offer { applied, parts: parts.clone() });
        let copy = Copy { dir: Arc::new(dir), parts, used: self.clock.now() };
        self.copies.lock().insert(member, copy);
        Ok(offer.into())
    }

    /// Reads one piece. Blocks on the disk.
    ///
    /// # Errors
    /// When there is no such piece.
    pub fn part(&self, member: MemberId, mut body: Bytes) -> io::Result<Bytes> {
        if body.len() != 12 {
            return Err(io::Error::other("a question for a piece of twelve bytes"));
        }
        let (number, offset) = (body.get_u32_le(), body.get_u64_le());
        let (dir, part) = {
            let mut copies = self.copies.lock();
            let copy = copies.get_mut(&member).ok_or_else(|| io::Error::other("no copy is being fetched"))?;
            copy.used = self.clock.now();
            let part = copy.parts.get(number as usize).ok_or_else(|| io::Error::other("no such file"))?;
            (copy.dir.clone(), part.clone())
        };
        let left = part.size.checked_sub(offset).ok_or_else(|| io::Error::other("beyond the file"))?;
        let length = left.min(SNAPSHOT_CHUNK_BYTES as u64) as usize;
        read_chunk(&File::open(dir.path().join(&part.path))?, number, offset, length)
    }

    pub fn end(&self, member: MemberId) {
        let copy = self.copies.lock().remove(&member);
        drop(copy);
    }

    /// Forgets copies that nobody has asked for in a while.
    pub fn expire(&self) {
        let now = self.clock.now();
        self.copies.lock().retain(|_, copy| now.saturating_sub(copy.used) < FETCH_IDLE);
    }
}

/// Asks whoever leads.
pub const ONLY_LEADER: &[u8] = &[1];
/// Asks anyone.
const ANYONE: &[u8] = &[0];

/// Fetches a copy of a member's state, and says at which entry it ends.
///
/// # Errors
/// When the member cannot be reached or has none to give, or the copy cannot be written.
pub async fn fetch(
    peer: &Arc<Client>,
    checkpoints: &Checkpoints,
    metrics: &SnapshotMetrics,
    only_leader: bool,
) -> Result<(CheckpointDir, LogIndex), FetchError> {
    let question = Bytes::from_static(if only_leader { ONLY_LEADER } else { ANYONE });
    let offer = peer.call(Kind::FetchBegin, question, SNAPSHOT_CALL_TIMEOUT).await?;
    let Offer { applied, parts } = codec::decode(&offer)?;
    let dir = checkpoints.incoming();
    let sizes: Vec<u64> = parts.iter().map(|part| part.size).collect();
    let metrics = metrics.clone();
    let mut incoming = blocking(move || Incoming::begin(dir, parts, metrics)).await?;
    for (number, size) in sizes.into_iter().enumerate() {
        let mut offset = 0;
        while offset < size {
            let mut question = BytesMut::with_capacity(12);
            question.put_u32_le(number as u32);
            question.put_u64_le(offset);
            let piece = peer.call(Kind::FetchPart, question.freeze(), SNAPSHOT_CALL_TIMEOUT).await?;
            incoming = blocking(move || incoming.chunk(piece).map(|()| incoming)).await?;
            offset += SNAPSHOT_CHUNK_BYTES as u64;
        }
    }
    let dir = blocking(move || incoming.finish()).await?;
    // It would be forgotten after a while anyway.
    let _ = peer.call(Kind::FetchEnd, Bytes::new(), SNAPSHOT_CALL_TIMEOUT).await;
    Ok((dir, applied))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
