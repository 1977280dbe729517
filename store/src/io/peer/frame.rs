//! Frames on a connection: `length u32 | tag u8 | number u64 | body`, little endian; `length` counts what follows it.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::limits::PEER_FRAME_BYTES_MAX;

const HEADER: usize = 13;
/// A body of this size is written from where it is; smaller ones are gathered into one write.
const GATHER_MAX: usize = 32 << 10;
/// The buffer that frames are read into, one after the other. What is taken out of it keeps all of it: the next one is begun
/// only when hardly any room is left.
const READ_CHUNK: usize = 64 << 10;
const READ_LEAST: usize = 4 << 10;

/// A message or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) number: u64,
    pub(super) body: Bytes,
}

impl Frame {
    /// What it takes on the wire.
    pub(super) fn wire_bytes(&self) -> u64 {
        (HEADER + self.body.len()) as u64
    }
}

/// Takes frames off a stream.
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end of the stream. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = take(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_LEAST {
                self.buffer.reserve(READ_CHUNK);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

fn take(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let length = u32::from_le_bytes(buffer[..4].try_into().expect("four bytes")) as usize;
    if !(HEADER - 4..=PEER_FRAME_BYTES_MAX).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(4 + length).freeze();
    frame.advance(4);
    Ok(Some(Frame { tag: frame.get_u8(), number: frame.get_u64_le(), body: frame }))
}

/// Writes what comes through the queue until it closes; everything that is waiting goes out in one write.
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(
    mut stream: W,
    mut queue: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut out = BytesMut::new();
    while let Some(mut frame) = queue.recv().await {
        loop {
            out.put_u32_le((HEADER - 4 + frame.body.len()) as u32);
            out.put_u8(frame.tag);
            out.put_u64_le(frame.number);
            if frame.body.len() <= GATHER_MAX {
                out.extend_from_slice(&frame.body);
            } else {
                stream.write_all(&out).await?;
                out.clear();
                stream.write_all(&frame.body).await?;
            }
            match queue.try_recv() {
                Ok(next) if out.len() < GATHER_MAX => frame = next,
                Ok(next) => {
                    stream.write_all(&out).await?;
                    out.clear();
                    frame = next;
                }
                Err(_) => break,
            }
        }
        stream.write_all(&out).await?;
        out.clear();
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_of_all_sizes_arrive_in_order() {
        let (near, far) = tokio::io::duplex(1000);
        let (queue, frames) = mpsc::channel(100);
        let sizes = [0, 1, 999, GATHER_MAX, GATHER_MAX + 1, 3, 200_000];
        let writer = tokio::spawn(write_frames(near, frames));
        for (number, size) in sizes.into_iter().enumerate() {
            let body = Bytes::from(vec![number as u8; size]);
            queue.send(Frame { tag: 7, number: number as u64, body }).await.unwrap();
        }
        drop(queue);
        let mut reader = FrameReader::new(far);
        for (number, size) in sizes.into_iter().enumerate() {
            let frame = reader.next().await.unwrap().unwrap();
            assert_eq!((frame.tag, frame.number, frame.body.len()), (7, number as u64, size));
            assert!(frame.body.iter().all(|byte| *byte == number as u8));
        }
        assert_eq!(reader.next().await.unwrap(), None);
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_frame_beyond_the_limit_is_refused() {
        let bytes = u32::MAX.to_le_bytes().to_vec();
        let mut reader = FrameReader::new(std::io::Cursor::new([bytes, vec![0; 20]].concat()));
        assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
