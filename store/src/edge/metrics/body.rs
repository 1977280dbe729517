//! The two bodies of a call, counted as they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
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

/// What the client sends.
pub(super) struct Requesting {
    inner: Body,
    metrics: Arc<RpcMetrics>,
    place: usize,
    meter: Meter,
    broken: Option<Arc<AtomicBool>>,
}

impl Requesting {
    pub(super) fn new(inner: Body, metrics: Arc<RpcMetrics>, place: usize, broken: Option<Arc<AtomicBool>>) -> Self {
        Self { inner, metrics, place, meter: Meter::default(), broken }
    }
}

impl http_body::Body for Requesting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = self.meter.feed(data);
                    if messages > 0 {
                        self.metrics.method(self.place).receive(messages);
                        self.metrics.received_bytes.inc_by(bytes);
                    }
                }
            }
            Some(Err(_)) => {
                if let Some(broken) = &self.broken {
                    broken.store(true, Ordering::Relaxed);
                }
            }
            None => {}
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

/// What the client gets.
pub(super) struct Answering {
    inner: Body,
    call: Call,
    meter: Meter,
}

impl Answering {
    pub(super) fn new(inner: Body, call: Call) -> Self {
        Self { inner, call, meter: Meter::default() }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = self.meter.feed(data);
                    self.call.sent(messages, bytes);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.call.finish(code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Some(Err(_)) => self.call.finish(Code::Unknown),
            // Without trailers: not an answer of gRPC.
            None => self.call.finish(Code::Unknown),
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
