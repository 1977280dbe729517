//! The Snapshot stream: the bbolt file of this member's state, in etcd's pieces.
//!
//! The member makes a checkpoint (hard links, one flush) and goes on writing. A thread of the blocking pool reads the
//! checkpoint twice, once to learn the file's size, which the first message must tell, and once to send it; it never has
//! more than a few pages and a few messages in memory, and waits where the client does. When the client goes away the next
//! message cannot be sent, the work ends, and the checkpoint goes with it.

use std::io::{self, Write};
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use kontiki_api::etcdserverpb as pb;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Edge, STORAGE_VERSION};
use crate::bolt::export::Export;
use crate::io::checkpoint::CheckpointDir;
use crate::io::clock::Stopwatch;
use crate::limits::{SNAPSHOT_BLOB_BYTES, SNAPSHOT_BLOBS_WAITING};
use crate::state::OpenError;

pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;
type Sender = mpsc::Sender<Result<pb::SnapshotResponse, Status>>;

impl Edge {
    pub(super) async fn stream_snapshot(&self) -> Result<Response<Chunks>, Status> {
        let checkpoint = self.member.checkpoint().await.map_err(|error| failed(&error))?;
        let (sender, receiver) = mpsc::channel(SNAPSHOT_BLOBS_WAITING);
        let metrics = self.member.metrics().clone();
        tokio::task::spawn_blocking(move || {
            let _reading = metrics.state.reading();
            let outcome = send(&checkpoint, &sender);
            match outcome {
                Err(_) if sender.is_closed() => tracing::info!("a client left before its snapshot was complete"),
                Err(error) => {
                    tracing::warn!(%error, "a snapshot was not sent");
                    // The client may leave at any moment.
                    let _ = sender.blocking_send(Err(failed(&error)));
                }
                Ok(()) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn failed(error: &dyn std::fmt::Display) -> Status {
    Status::unknown(format!("etcdserver: the snapshot failed: {error}"))
}

fn send(checkpoint: &CheckpointDir, sender: &Sender) -> Result<(), OpenError> {
    let start = Stopwatch::start();
    let export = Export::open(checkpoint.path())?;
    let layout = export.measure(Listening(sender))?;
    let (bytes, revision) = (layout.size(), export.revision());
    tracing::info!(bytes, revision, storage_version = STORAGE_VERSION, "sending database snapshot to client");
    let blobs =
        Blobs { sender, blob: BytesMut::with_capacity(SNAPSHOT_BLOB_BYTES), sum: Sha256::new(), remaining: bytes };
    let mut blobs = export.write(blobs, layout)?;
    blobs.send_blob()?;
    let sum = blobs.sum.finalize().to_vec().into();
    send_message(sender, sum, 0)?;
    tracing::info!(bytes, revision, took = ?start.elapsed(), "successfully sent database snapshot to client");
    Ok(())
}

fn send_message(sender: &Sender, blob: Bytes, remaining_bytes: u64) -> io::Result<()> {
    let message = pb::SnapshotResponse { header: None, remaining_bytes, blob, version: STORAGE_VERSION.to_owned() };
    sender.blocking_send(Ok(message)).map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Takes everything for as long as somebody listens.
struct Listening<'a>(&'a Sender);

impl Write for Listening<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.is_closed() {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts the file into messages.
struct Blobs<'a> {
    sender: &'a Sender,
    blob: BytesMut,
    sum: Sha256,
    remaining: u64,
}

impl Blobs<'_> {
    fn send_blob(&mut self) -> io::Result<()> {
        if self.blob.is_empty() {
            return Ok(());
        }
        let blob = std::mem::replace(&mut self.blob, BytesMut::with_capacity(SNAPSHOT_BLOB_BYTES)).freeze();
        self.sum.update(&blob);
        self.remaining -= blob.len() as u64;
        send_message(self.sender, blob, self.remaining)
    }
}

impl Write for Blobs<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(SNAPSHOT_BLOB_BYTES - self.blob.len());
        self.blob.extend_from_slice(&bytes[..taken]);
        if self.blob.len() == SNAPSHOT_BLOB_BYTES {
            self.send_blob()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bolt::Db;
    use crate::bolt::status::status;
    use crate::consensus::state_machine::Mark;
    use crate::io::checkpoint::Checkpoints;
    use crate::state::testing::Harness;

    /// A state with about `bytes` of values, and a copy of it.
    fn checkpoint(bytes: usize) -> (Harness, CheckpointDir) {
        let mut harness = Harness::new();
        for n in 0..bytes / 10_000 {
            harness.put(&format!("key {n}"), &"x".repeat(10_000));
        }
        harness.state.commit(Mark::default().applied());
        let dir = Checkpoints::open(harness.path("checkpoints")).unwrap().outgoing();
        harness.state.checkpoint(dir.path()).unwrap();
        (harness, dir)
    }

    #[test]
    fn the_messages_are_etcds() {
        let (harness, dir) = checkpoint(300_000);
        let (sender, mut receiver) = mpsc::channel(1000);
        send(&dir, &sender).unwrap();
        drop(sender);
        let messages: Vec<_> = std::iter::from_fn(|| receiver.blocking_recv()).map(Result::unwrap).collect();
        let (trailer, data) = messages.split_last().unwrap();
        let file: Vec<u8> = data.iter().flat_map(|message| message.blob.clone()).collect();
        let mut sent = 0;
        for message in data {
            sent += message.blob.len();
            assert_eq!(message.remaining_bytes, (file.len() - sent) as u64);
            assert!(message.blob.len() == SNAPSHOT_BLOB_BYTES || message.remaining_bytes == 0);
            assert!(message.header.is_none() && message.version == STORAGE_VERSION);
        }
        assert_eq!((&trailer.blob[..], trailer.remaining_bytes), (&Sha256::digest(&file)[..], 0));
        assert_eq!((file.len() + trailer.blob.len()) % 512, 32);
        assert_eq!(status(&Db::open(&file[..]).unwrap()).unwrap().revision, harness.revision());
    }

    #[test]
    fn a_client_that_leaves_ends_the_work_and_leaves_nothing() {
        let (_harness, dir) = checkpoint(2_000_000);
        let path = dir.path().to_owned();
        let (sender, mut receiver) = mpsc::channel(SNAPSHOT_BLOBS_WAITING);
        let sending = std::thread::spawn(move || send(&dir, &sender).map_err(|error| error.to_string()));
        // More than may wait: the sender is held up until it hears that nobody listens any more.
        assert!(receiver.blocking_recv().unwrap().unwrap().remaining_bytes > 1_000_000);
        assert!(path.exists());
        drop(receiver);
        assert!(sending.join().unwrap().is_err());
        assert!(!path.exists());
    }
}
