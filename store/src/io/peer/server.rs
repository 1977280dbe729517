//! The receiving side: accepts members, runs their calls, answers as they finish.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connection::{DONE, REFUSED};
use super::frame::{Frame, FrameReader, write_frames};
use super::handshake::{self, Caller};
use super::{Answer, Identity, Kind, Service, VISITOR, pages};
use crate::io::network::{Listener, Stream};
use crate::limits::{PEER_ACCEPT_PAUSE, PEER_CALLS_RUNNING, PEER_CALLS_WAITING, PEER_CONNECT_TIMEOUT};
use crate::metrics::PeerTraffic;

/// Accepts connections until `stop`.
pub async fn serve(listener: Box<dyn Listener>, me: Identity, service: Arc<dyn Service>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, from)) => {
                let (service, stop) = (service.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = receive(stream, &from, me, service) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: it passes, and accepting again at once would spin.
                tracing::warn!(%error, "a peer connection was not accepted");
                tokio::time::sleep(PEER_ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn receive(mut stream: Box<dyn Stream>, from: &str, me: Identity, service: Arc<dyn Service>) {
    let introduction = async {
        let opening = handshake::opening(&mut stream).await?;
        if pages::are_wanted(&opening) {
            return Ok(Err(opening));
        }
        handshake::answer(&mut stream, opening, me, |member| service.is_removed(member)).await.map(Ok)
    };
    let caller = match tokio::time::timeout(PEER_CONNECT_TIMEOUT, introduction).await {
        Ok(Ok(Ok(caller))) => caller,
        Ok(Ok(Err(opening))) => return pages::serve(opening, stream, from, service).await,
        // Somebody looked whether this port is open: another member, or a health check.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Ok(Err(error)) => return tracing::warn!(from, %error, "peer connection refused"),
        Err(_) => return tracing::warn!(from, "peer connection refused: it did not introduce itself"),
    };
    let Caller { member, lane } = caller;
    tracing::debug!(%member, ?lane, from, "a member connected");
    let visits = member == VISITOR.member;
    if !visits {
        service.connected(member);
    }
    let traffic = service.traffic(member);
    match run_calls(stream, member, &*service, &traffic).await {
        Ok(()) => tracing::debug!(%member, ?lane, "a member disconnected"),
        Err(error) => {
            traffic.received_failures.inc();
            tracing::debug!(%member, ?lane, %error, "a member's connection broke");
        }
    }
    if !visits {
        service.lost(member);
    }
}

/// Gives the answer to one call at another time, or never.
pub struct Later {
    number: u64,
    out: mpsc::Sender<Frame>,
    sent: IntCounter,
}

impl Later {
    pub fn answer(self, answer: Answer) {
        // The queue is longer than the calls that may run: it is full, or gone, where the caller reads nothing any more.
        let _ = send(&self.out, &self.sent, frame(self.number, answer));
    }
}

fn frame(number: u64, answer: Answer) -> Frame {
    match answer {
        Ok(body) => Frame { tag: DONE, number, body },
        Err(reason) => Frame { tag: REFUSED, number, body: reason.into_bytes().into() },
    }
}

fn send(out: &mpsc::Sender<Frame>, sent: &IntCounter, answer: Frame) -> io::Result<()> {
    sent.inc_by(answer.wire_bytes());
    // The queue is longer than the calls that may run: only a caller that reads nothing fills it.
    out.try_send(answer).map_err(|_| io::Error::other("the member does not read its answers"))
}

/// A call that could not be answered at once.
struct Running {
    number: u64,
    call: BoxFuture<'static, Option<Answer>>,
}

impl Future for Running {
    type Output = Option<Frame>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let answer = ready!(self.call.as_mut().poll(context));
        Poll::Ready(answer.map(|answer| frame(self.number, answer)))
    }
}

async fn run_calls(
    stream: Box<dyn Stream>,
    member: crate::ids::MemberId,
    service: &dyn Service,
    traffic: &PeerTraffic,
) -> io::Result<()> {
    let (read, write) = tokio::io::split(stream);
    let mut frames = FrameReader::new(read);
    let (out, queue) = mpsc::channel(PEER_CALLS_WAITING);
    let writer = write_frames(write, queue);
    tokio::pin!(writer);
    let mut running: FuturesUnordered<Running> = FuturesUnordered::new();
    let sent = &traffic.sent_bytes;
    loop {
        tokio::select! {
            biased;
            written = &mut writer => return written,
            Some(answer) = running.next(), if !running.is_empty() => {
                if let Some(answer) = answer {
                    send(&out, sent, answer)?;
                }
            }
            frame = frames.next(), if running.len() < PEER_CALLS_RUNNING => {
                let Some(frame) = frame? else { return Ok(()) };
                traffic.received_bytes.inc_by(frame.wire_bytes());
                let Frame { tag, number, body } = frame;
                let kind = Kind::from_number(tag)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("unknown kind of call {tag}")))?;
                // Its next connection is refused with the reason.
                if service.is_removed(member) {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the member was removed"));
                }
                if member == VISITOR.member && kind != Kind::Roster {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a visitor may only ask for the members"));
                }
                let later = Later { number, out: out.clone(), sent: sent.clone() };
                let mut call = Running { number, call: service.call(member, kind, body, later) };
                // Once before the next frame is read: appends reach Raft in their order.
                match futures::poll!(&mut call) {
                    Poll::Ready(Some(answer)) => send(&out, sent, answer)?,
                    Poll::Ready(None) => {}
                    Poll::Pending => running.push(call),
                }
            }
        }
    }
}
