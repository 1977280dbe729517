//! The agent's end of the connection to one shim: numbered requests, and exits as they come.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use super::client::RuntimeEvent;
use super::limits::SHIM_REPLY_TIMEOUT;
use super::protocol::{Answer, Call, Message, Request, decode, encode};

/// The name of the socket in a pod's state directory.
pub(super) const SOCKET_NAME: &str = "shim.sock";

#[derive(Debug)]
pub(super) struct Connection {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    replies: Arc<Mutex<Replies>>,
    closed: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Replies {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    next_number: u64,
    closed: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the connection is closed")]
    Closed,
    #[error("no answer within {} s", SHIM_REPLY_TIMEOUT.as_secs())]
    Timeout,
}

impl Connection {
    /// Connects through the directory's descriptor: a socket path has at most 107 bytes.
    pub(super) async fn open(state_dir: &Path, events: mpsc::Sender<RuntimeEvent>) -> std::io::Result<Self> {
        let directory = rustix::fs::open(state_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let replies = Arc::new(Mutex::new(Replies::default()));
        let (closing, closed) = watch::channel(false);
        tokio::spawn(read_all(reader, Arc::clone(&replies), events, closing));
        Ok(Self { writer: tokio::sync::Mutex::new(writer), replies, closed })
    }

    pub(super) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut replies = self.replies.lock();
            if replies.closed {
                return Err(CallError::Closed);
            }
            replies.next_number += 1;
            let number = replies.next_number;
            replies.waiting.insert(number, sender);
            number
        };
        let frame = encode(&Request { number, call });
        let exchange = async {
            self.writer.lock().await.write_all(&frame).await.map_err(|_| CallError::Closed)?;
            receiver.await.map_err(|_| CallError::Closed)
        };
        let result = tokio::time::timeout(SHIM_REPLY_TIMEOUT, exchange).await.unwrap_or(Err(CallError::Timeout));
        if result.is_err() {
            self.replies.lock().waiting.remove(&number);
        }
        result
    }

    /// Returns when the shim's end is closed: the shim is gone.
    pub(super) async fn closed(&self) {
        // An error means that the reading task is gone, which is the same.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }
}

async fn read_all(
    mut reader: OwnedReadHalf,
    replies: Arc<Mutex<Replies>>,
    events: mpsc::Sender<RuntimeEvent>,
    closing: watch::Sender<bool>,
) {
    let mut buffer = Vec::new();
    'connection: loop {
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        loop {
            match decode::<Message>(&mut buffer) {
                Ok(Some(Message::Reply { number, answer })) => {
                    if let Some(waiting) = replies.lock().waiting.remove(&number) {
                        // The caller may have given up.
                        let _ = waiting.send(answer);
                    }
                }
                Ok(Some(Message::Exited { container, exit })) => {
                    if events.send(RuntimeEvent::Exited { container, exit }).await.is_err() {
                        break 'connection;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "a shim talks nonsense");
                    break 'connection;
                }
            }
        }
    }
    let mut replies = replies.lock();
    replies.closed = true;
    replies.waiting.clear();
    let _ = closing.send(true);
}
