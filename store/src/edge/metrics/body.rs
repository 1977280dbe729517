//! The two bodies of a call, counted as they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::Code;

use super::layer::{Call, code};
use crate::metrics::RpcMetrics;

/// Finds the messages in a body: each is preceded by a flag and its length.
#[derive(Debug, Default)]
struct Meter {
    prefix: [u8; 5],
    have: usize,
    left: usize,
}

impl Meter {
    /// How many messages begin in `data`, and how long they will be together.
    fn feed(&mut self, mut data: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data = &data[skipped..];
            let taken = data.len().min(self.prefix.len() - self.have);
            self.prefix[self.have..self.have + taken].copy_from_slice(&data[..taken]);
            self.have += taken;
            data = &data[taken..];
            if self.have == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.have = 0;
                messages += 1;
                bytes += self.left as u64;
            }
        }
        (messages, bytes)
    }
}

/// A body whose frames pass through and are told to `side`, if there is one, as they do.
pub struct Metered<B, S> {
    inner: B,
    meter: Meter,
    side: Option<S>,
}

/// What is done with the frames of one direction.
pub trait Side: Unpin {
    fn messages(&mut self, messages: u64, bytes: u64);
    /// Trailers, a failure, or the end without either.
    fn ends(&mut self, ending: Ending<'_>);
}

pub enum Ending<'a> {
    Trailers(&'a HeaderMap),
    Failure,
    Nothing,
}

impl<B, S: Side> Metered<B, S> {
    pub(super) fn new(inner: B, side: Option<S>) -> Self {
        Self { inner, meter: Meter::default(), side }
    }
}

impl<B, S> http_body::Body for Metered<B, S>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    S: Side,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        let Some(side) = &mut this.side else { return Poll::Ready(frame) };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = this.meter.feed(data);
                    if messages > 0 {
                        side.messages(messages, bytes);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    side.ends(Ending::Trailers(trailers));
                }
            }
            Some(Err(_)) => side.ends(Ending::Failure),
            None => side.ends(Ending::Nothing),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What the client sends.
pub struct Requests {
    pub(super) metrics: Arc<RpcMetrics>,
    pub(super) place: usize,
    pub(super) broken: Option<Arc<AtomicBool>>,
}

impl Side for Requests {
    fn messages(&mut self, messages: u64, bytes: u64) {
        self.metrics.method(self.place).receive(messages);
        self.metrics.received_bytes.inc_by(bytes);
    }

    fn ends(&mut self, ending: Ending<'_>) {
        if let (Ending::Failure, Some(broken)) = (ending, &self.broken) {
            broken.store(true, Ordering::Relaxed);
        }
    }
}

/// What the client gets.
impl Side for Call {
    fn messages(&mut self, messages: u64, bytes: u64) {
        self.sent(messages, bytes);
    }

    fn ends(&mut self, ending: Ending<'_>) {
        self.finish(match ending {
            Ending::Trailers(trailers) => code(trailers).unwrap_or(Code::Unknown),
            // Without trailers it is not an answer of gRPC.
            Ending::Failure | Ending::Nothing => Code::Unknown,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0_usize, 3, 300, 7] {
            body.push(0);
            body.extend_from_slice(&(length as u32).to_be_bytes());
            body.extend(vec![9; length]);
        }
        for piece in [1, 2, 5, 6, 64, body.len()] {
            let mut meter = Meter::default();
            let counted = body.chunks(piece).map(|chunk| meter.feed(chunk));
            let sum = counted.fold((0, 0), |(messages, bytes), (m, b)| (messages + m, bytes + b));
            assert_eq!(sum, (4, 310), "in pieces of {piece}");
        }
    }
}
