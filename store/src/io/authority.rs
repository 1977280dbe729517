//! Accepts HTTP/2 clients whose `:authority` is a URL, which `h2` answers with a reset before a request is seen.
//!
//! etcdctl 3.4 dials `passthrough:///http://host:port` where a call is meant for one endpoint (`endpoint status`), and
//! grpc-go then sends `http://host:port` as authority. etcd does not mind, and `h2` offers no way not to. So the client's
//! bytes are looked at before hyper gets them, until the first header block is complete: then they pass without cost, or
//! header blocks are written anew with an authority that can be parsed (`frames`).
//!
//! Only reading is changed, and only the authority: what a request means is not known here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::{Frames, Verdict};

mod frames;
mod hpack;
mod huffman;
#[cfg(test)]
mod tests;

/// How much is read from the connection at once while it is looked at.
const READ_BYTES: usize = 16 << 10;

/// Wraps the server's side of an accepted connection.
pub fn tolerant<I>(io: I) -> TolerantAuthority<I> {
    TolerantAuthority { io, inspection: Some(Box::new(Inspection::new())) }
}

/// A connection whose client may send an authority that cannot be parsed.
#[derive(Debug)]
pub struct TolerantAuthority<I> {
    io: I,
    /// Gone as soon as all bytes pass.
    inspection: Option<Box<Inspection>>,
}

#[derive(Debug)]
struct Inspection {
    frames: Frames,
    input: Vec<u8>,
    /// What the reader gets next, from `read` on.
    output: Vec<u8>,
    read: usize,
}

impl Inspection {
    fn new() -> Inspection {
        Inspection { frames: Frames::new(), input: vec![0; READ_BYTES], output: Vec::new(), read: 0 }
    }

    /// Reads from `io` until there is output or, if `io` ends, nothing more will come.
    fn poll_fill<I: AsyncRead + Unpin>(&mut self, io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output.is_empty() {
            let mut input = ReadBuf::new(&mut self.input);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut input))?;
            if input.filled().is_empty() {
                self.frames.end(&mut self.output);
                break;
            }
            self.frames.take(input.filled(), &mut self.output);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands out output; true if that was the last of it and all further bytes pass.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let waiting = &self.output[self.read..];
        let length = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..length]);
        self.read += length;
        if self.read < self.output.len() {
            return false;
        }
        self.output.clear();
        self.read = 0;
        self.frames.verdict() == Verdict::Pass
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for TolerantAuthority<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(inspection) = &mut this.inspection else {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(inspection.poll_fill(&mut this.io, cx))?;
        if inspection.hand_out(buf) {
            this.inspection = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for TolerantAuthority<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.get_mut().io);
        match bufs {
            // A small response. `send` takes 4.4 µs for one where `writev` takes 4.7.
            [buf] => io.poll_write(cx, buf),
            _ => io.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
