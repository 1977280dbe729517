//! A checkpoint's way to another member: what it consists of, its files in checked pieces, then "install it".
//!
//! The receiver writes into a directory of its own, syncs all of it, and only then lets Raft install it, by rename. A
//! transfer that breaks leaves nothing behind, and starts again from the beginning.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::{Kind, PeerError};
use crate::consensus::state_machine::SnapshotData;
use crate::consensus::types::{SnapshotMeta, SnapshotResponse, Types, Vote};
use crate::consensus::{Storage, codec};
use crate::ids::MemberId;
use crate::io::checkpoint::{CheckpointDir, Checkpoints};
use crate::io::clock::Stopwatch;
use crate::limits::{SNAPSHOT_CALL_TIMEOUT, SNAPSHOT_CHUNK_BYTES};
use crate::metrics::SnapshotMetrics;

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("sending a snapshot: {0}")]
    Peer(#[from] PeerError),
    #[error("reading a snapshot: {0}")]
    Io(#[from] io::Error),
    #[error("the answer to a snapshot: {0}")]
    Answer(#[from] codec::CodecError),
}

/// A file of a checkpoint, by its path within it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) path: String,
    pub(super) size: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    parts: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct End {
    vote: Vote,
    meta: SnapshotMeta,
}

/// Sends `snapshot` and waits until it is installed.
///
/// # Errors
/// When the peer cannot be reached or refuses it, or the snapshot cannot be read.
pub async fn send<S: Storage>(
    peer: &Arc<Client>,
    vote: Vote,
    snapshot: openraft::alias::SnapshotOf<Types, SnapshotData<S>>,
) -> Result<SnapshotResponse, SendError> {
    let dir = snapshot.snapshot.dir().ok_or_else(|| io::Error::other("a snapshot without a copy"))?;
    let root = dir.clone();
    let parts = blocking(move || list(&root)).await?;
    let bytes: u64 = parts.iter().map(|part| part.size).sum();
    tracing::info!(member = %peer.member(), files = parts.len(), bytes, "sending a snapshot");
    let manifest = codec::encode(&Manifest { parts: parts.clone() });
    peer.call(Kind::SnapshotBegin, manifest.into(), SNAPSHOT_CALL_TIMEOUT).await?;
    for (number, part) in parts.into_iter().enumerate() {
        let file = Arc::new(File::open(dir.join(&part.path))?);
        let mut offset = 0;
        while offset < part.size {
            let length = (part.size - offset).min(SNAPSHOT_CHUNK_BYTES as u64) as usize;
            let from = file.clone();
            let chunk = blocking(move || read_chunk(&from, number as u32, offset, length)).await?;
            peer.call(Kind::SnapshotChunk, chunk, SNAPSHOT_CALL_TIMEOUT).await?;
            offset += length as u64;
        }
    }
    let end = codec::encode(&End { vote, meta: snapshot.meta });
    let answer = peer.call(Kind::SnapshotEnd, end.into(), SNAPSHOT_CALL_TIMEOUT).await?;
    tracing::info!(member = %peer.member(), bytes, "sent database snapshot");
    Ok(codec::decode(&answer)?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

pub(super) const CHUNK_HEADER: usize = 16;

/// `file u32 | crc u32 | offset u64 | bytes`
pub(super) fn read_chunk(file: &File, number: u32, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(CHUNK_HEADER + length);
    chunk.resize(CHUNK_HEADER + length, 0);
    file.read_exact_at(&mut chunk[CHUNK_HEADER..], offset)?;
    let crc = crc32c::crc32c(&chunk[CHUNK_HEADER..]);
    let mut header = &mut chunk[..CHUNK_HEADER];
    header.put_u32_le(number);
    header.put_u32_le(crc);
    header.put_u64_le(offset);
    Ok(chunk.freeze())
}

pub(super) fn list(root: &Path) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(root).map_err(io::Error::other)?;
                let name = name.to_str().ok_or_else(|| io::Error::other("a file name that is not text"))?;
                parts.push(Part { path: name.to_owned(), size: metadata.len() });
            }
        }
    }
    parts.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(parts)
}

/// A checkpoint that is arriving.
pub(super) struct Incoming {
    dir: CheckpointDir,
    files: Vec<(Part, File)>,
    received: u64,
    since: Stopwatch,
    metrics: SnapshotMetrics,
}

impl Incoming {
    /// Makes the files that are to be filled.
    pub(super) fn begin(dir: CheckpointDir, parts: Vec<Part>, metrics: SnapshotMetrics) -> io::Result<Self> {
        let since = Stopwatch::start();
        std::fs::create_dir_all(dir.path())?;
        let mut files = Vec::with_capacity(parts.len());
        for part in parts {
            let path = within(dir.path(), &part.path)?;
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let file = File::options().write(true).create_new(true).open(path)?;
            files.push((part, file));
        }
        Ok(Self { dir, files, received: 0, since, metrics })
    }

    /// Writes one piece, as [`read_chunk`] made it.
    pub(super) fn chunk(&mut self, mut body: Bytes) -> io::Result<()> {
        if body.len() < CHUNK_HEADER {
            return Err(invalid("a piece without a header"));
        }
        let (number, crc, offset) = (body.get_u32_le() as usize, body.get_u32_le(), body.get_u64_le());
        if crc32c::crc32c(&body) != crc {
            return Err(invalid("a damaged piece"));
        }
        let (part, file) = self.files.get(number).ok_or_else(|| invalid("a piece of no file"))?;
        if offset + body.len() as u64 > part.size {
            return Err(invalid("a piece beyond its file"));
        }
        file.write_all_at(&body, offset)?;
        self.received += body.len() as u64;
        Ok(())
    }

    /// Makes what arrived durable.
    pub(super) fn finish(self) -> io::Result<CheckpointDir> {
        let size: u64 = self.files.iter().map(|(part, _)| part.size).sum();
        if self.received != size {
            return Err(invalid("the end of an incomplete transfer"));
        }
        let syncing = Stopwatch::start();
        let mut dirs = std::collections::BTreeSet::from([self.dir.path().to_owned()]);
        for (part, file) in &self.files {
            file.sync_all()?;
            dirs.extend(within(self.dir.path(), &part.path)?.parent().map(Path::to_owned));
        }
        for dir in dirs {
            File::open(dir)?.sync_all()?;
        }
        self.metrics.received_fsync_s.observe(syncing.elapsed().as_secs_f64());
        self.metrics.received_s.observe(self.since.elapsed().as_secs_f64());
        Ok(self.dir)
    }
}

/// Takes snapshots in; one from each member at a time.
pub struct Receiver {
    checkpoints: Checkpoints,
    incoming: Mutex<HashMap<MemberId, Incoming>>,
    metrics: SnapshotMetrics,
}

/// A snapshot that arrived whole.
pub struct Received {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub dir: CheckpointDir,
}

impl Receiver {
    #[must_use]
    pub fn new(checkpoints: Checkpoints, metrics: SnapshotMetrics) -> Self {
        Self { checkpoints, incoming: Mutex::new(HashMap::new()), metrics }
    }

    /// Starts a transfer; an unfinished one of the same member is forgotten.
    ///
    /// # Errors
    /// When the manifest cannot be followed.
    pub fn begin(&self, from: MemberId, body: &[u8]) -> io::Result<()> {
        let manifest: Manifest = codec::decode(body).map_err(io::Error::other)?;
        let incoming = Incoming::begin(self.checkpoints.incoming(), manifest.parts, self.metrics.clone())?;
        self.incoming.lock().insert(from, incoming);
        Ok(())
    }

    /// Writes one piece.
    ///
    /// # Errors
    /// When the piece is damaged or belongs to no transfer.
    pub fn chunk(&self, from: MemberId, body: Bytes) -> io::Result<()> {
        let mut incoming = self.incoming.lock();
        incoming.get_mut(&from).ok_or_else(|| invalid("a piece of no transfer"))?.chunk(body)
    }

    /// Makes what arrived durable.
    ///
    /// # Errors
    /// When something is missing.
    pub fn end(&self, from: MemberId, body: &[u8]) -> io::Result<Received> {
        let End { vote, meta } = codec::decode(body).map_err(io::Error::other)?;
        let transfer = self.incoming.lock().remove(&from).ok_or_else(|| invalid("the end of no transfer"))?;
        Ok(Received { vote, meta, dir: transfer.finish()? })
    }
}

/// `path` inside `root`, and nowhere else.
fn within(root: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|component| matches!(component, Component::Normal(_)));
    match plain && !path.is_empty() {
        true => Ok(root.join(relative)),
        false => Err(invalid("a file outside the snapshot")),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::types::Vote;

    const FROM: MemberId = MemberId(1);

    fn receiver() -> (tempfile::TempDir, Receiver) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(dir.path().join("in")).unwrap();
        (dir, Receiver::new(checkpoints, SnapshotMetrics::default()))
    }

    fn end() -> Vec<u8> {
        codec::encode(&End { vote: Vote::new(1, FROM), meta: SnapshotMeta::default() })
    }

    #[test]
    fn a_directory_arrives_as_it_was() {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("a"), b"alpha").unwrap();
        std::fs::create_dir(source.path().join("sub")).unwrap();
        std::fs::write(source.path().join("sub/b"), vec![7; 3000]).unwrap();
        let (_guard, receiver) = receiver();
        let parts = list(source.path()).unwrap();
        receiver.begin(FROM, &codec::encode(&Manifest { parts: parts.clone() })).unwrap();
        for (number, part) in parts.iter().enumerate() {
            let file = File::open(source.path().join(&part.path)).unwrap();
            for offset in (0..part.size).step_by(1000) {
                let length = (part.size - offset).min(1000) as usize;
                receiver.chunk(FROM, read_chunk(&file, number as u32, offset, length).unwrap()).unwrap();
            }
        }
        let received = receiver.end(FROM, &end()).unwrap();
        assert_eq!(list(received.dir.path()).unwrap(), parts);
        assert_eq!(std::fs::read(received.dir.path().join("sub/b")).unwrap(), vec![7; 3000]);
        let SnapshotMetrics { received_s, received_fsync_s, .. } = &receiver.metrics;
        assert_eq!((received_s.get_sample_count(), received_fsync_s.get_sample_count()), (1, 1));
        assert!(received_s.get_sample_sum() > received_fsync_s.get_sample_sum());
    }

    #[test]
    fn damaged_missing_and_escaping_pieces_are_refused() {
        let (guard, receiver) = receiver();
        let parts = vec![Part { path: "a".to_owned(), size: 4 }];
        receiver.begin(FROM, &codec::encode(&Manifest { parts })).unwrap();
        let source = guard.path().join("source");
        std::fs::write(&source, b"data").unwrap();
        let mut chunk = read_chunk(&File::open(source).unwrap(), 0, 0, 4).unwrap().to_vec();
        chunk[17] ^= 1;
        assert!(receiver.chunk(FROM, chunk.into()).is_err());
        assert!(receiver.end(FROM, &end()).is_err());
        let parts = vec![Part { path: "../a".to_owned(), size: 4 }];
        assert!(receiver.begin(FROM, &codec::encode(&Manifest { parts })).is_err());
    }
}
