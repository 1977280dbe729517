//! The calling end of one connection: numbered calls out, answers in, in any order.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};

use super::frame::{Frame, FrameReader, write_frames};
use super::{Kind, PeerError};
use crate::io::network::Stream;
use crate::limits::PEER_CALLS_WAITING;
use crate::metrics::PeerTraffic;

/// Tags of answers.
pub(super) const DONE: u8 = 0;
pub(super) const REFUSED: u8 = 1;

type Answer = Result<Bytes, String>;

#[derive(Default)]
struct Waiting {
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    /// Why no further answer will come.
    closed: Option<String>,
}

/// A live connection.
pub(super) struct Connection {
    out: mpsc::Sender<Frame>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    sent: IntCounter,
}

impl Connection {
    /// Runs the connection on `stream` until it breaks or this handle is dropped.
    pub(super) fn start(stream: Box<dyn Stream>, traffic: PeerTraffic) -> Self {
        let (out, queue) = mpsc::channel(PEER_CALLS_WAITING);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (read, write) = tokio::io::split(stream);
        let from_writer = waiting.clone();
        let writer = tokio::spawn(async move {
            if let Err(error) = write_frames(write, queue).await {
                close(&from_writer, &error.to_string());
            }
        });
        let from_reader = waiting.clone();
        let received = traffic.received_bytes.clone();
        tokio::spawn(async move {
            let reason = receive(FrameReader::new(read), &from_reader, &received).await;
            close(&from_reader, &reason);
            writer.abort();
        });
        Self { out, waiting, next: AtomicU64::new(0), sent: traffic.sent_bytes }
    }

    pub(super) fn is_open(&self) -> bool {
        self.waiting.lock().closed.is_none()
    }

    /// Sends a call at once, without waiting; calls go out in the order of these calls.
    pub(super) fn call(&self, kind: Kind, body: Bytes) -> Result<Call, PeerError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if let Some(reason) = &waiting.closed {
                return Err(PeerError::NotSent(reason.clone()));
            }
            waiting.calls.insert(number, sender);
        }
        let call = Call { number, answer, waiting: self.waiting.clone() };
        let frame = Frame { tag: kind.number(), number, body };
        self.sent.inc_by(frame.wire_bytes());
        // A call that is refused here takes itself off the list.
        self.out.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PeerError::NotSent("too many calls are waiting".to_owned()),
            mpsc::error::TrySendError::Closed(_) => PeerError::NotSent("the connection is closed".to_owned()),
        })?;
        Ok(call)
    }
}

async fn receive(
    mut frames: FrameReader<impl tokio::io::AsyncRead + Unpin>,
    waiting: &Mutex<Waiting>,
    received: &IntCounter,
) -> String {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "closed by the peer".to_owned(),
            Err(error) => return error.to_string(),
        };
        received.inc_by(frame.wire_bytes());
        let answer = match frame.tag {
            DONE => Ok(frame.body),
            _ => Err(String::from_utf8_lossy(&frame.body).into_owned()),
        };
        // Nobody waits any more where the caller gave up.
        if let Some(call) = waiting.lock().calls.remove(&frame.number) {
            let _ = call.send(answer);
        }
    }
}

fn close(waiting: &Mutex<Waiting>, reason: &str) {
    let mut waiting = waiting.lock();
    waiting.closed.get_or_insert_with(|| reason.to_owned());
    waiting.calls.clear();
}

/// A call under way; dropping it gives up the answer, not the call.
pub(super) struct Call {
    number: u64,
    answer: oneshot::Receiver<Answer>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Future for Call {
    type Output = Result<Bytes, PeerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready(match answer {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(reason)) => Err(PeerError::Refused(reason)),
            Err(_) => {
                let reason = self.waiting.lock().closed.clone();
                Err(PeerError::Lost(reason.unwrap_or_else(|| "closed".to_owned())))
            }
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.waiting.lock().calls.remove(&self.number);
    }
}
