//! Reading container logs: CRI lines in, what a user asked for out.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; `P` is a piece of a line that goes on in the next one. Following
//! waits for the kernel to say that the file grew, and ends when the container has ended and all of it was read.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::limits::{LOG_CHUNK_BYTES, LOG_LINE_BYTES_MAX};

/// What a reader of a log asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    pub follow: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
}

/// Turns CRI lines into text, within the wish. Feed it the file from where [`start_of_tail`] says.
#[derive(Debug)]
pub struct Filter {
    wish: Wish,
    carry: Vec<u8>,
    is_line_start: bool,
    left: u64,
}

impl Filter {
    pub fn new(wish: Wish) -> Self {
        let left = wish.limit_bytes.unwrap_or(u64::MAX);
        Self { wish, carry: Vec::new(), is_line_start: true, left }
    }

    /// The limit of bytes is reached: nothing more will come.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        self.carry.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.carry);
        let mut rest = buffer.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line(&rest[..end], &mut out);
            rest = &rest[end + 1..];
        }
        if rest.len() > LOG_LINE_BYTES_MAX {
            self.line(rest, &mut out);
            rest = &[];
        }
        self.carry = rest.to_vec();
        out.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= out.len() as u64;
        out
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(line) else {
            // Not ours, or damaged: shown as it is rather than lost.
            out.extend_from_slice(line);
            out.push(b'\n');
            return;
        };
        let is_old = self.wish.since.is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|time| time < since));
        if !is_old {
            if self.wish.timestamps && self.is_line_start {
                out.extend_from_slice(line.time.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line.text);
            if line.is_full {
                out.push(b'\n');
            }
        }
        self.is_line_start = line.is_full;
    }
}

struct Line<'a> {
    time: &'a str,
    is_full: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let is_known = matches!(stream, b"stdout" | b"stderr");
        let is_full = tag == b"F";
        (is_known && (is_full || tag == b"P")).then_some(())?;
        Some(Self { time: std::str::from_utf8(time).ok()?, is_full, text: parts.next().unwrap_or_default() })
    }
}

/// Where the last `lines` lines of a file begin.
pub fn start_of_tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok(size);
    }
    let mut buffer = vec![0; LOG_CHUNK_BYTES];
    let (mut end, mut seen) = (size, 0);
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let chunk = &mut buffer[..usize::try_from(end - start).unwrap_or(usize::MAX)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(chunk)?;
        for (at, _) in chunk.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let next = start + at as u64 + 1;
            // The newline that ends the file begins no line.
            if next < size {
                seen += 1;
                if seen == lines {
                    return Ok(next);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The text at the end of a log, at most about `bytes_max` bytes of it; empty when there is no log.
pub fn tail_text(path: &Path, bytes_max: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        // Stamps are about 45 bytes a line, lines of one letter are the worst case.
        let wanted = (bytes_max as u64) * 32;
        let start = file.metadata()?.len().saturating_sub(wanted);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(wanted).read_to_end(&mut bytes)?;
        let first =
            if start == 0 { 0 } else { bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1) };
        Ok(String::from_utf8_lossy(&Filter::new(Wish::default()).feed(&bytes[first..])).into_owned())
    };
    read().unwrap_or_default()
}

/// Which start of which container a log belongs to, to know when it has ended.
#[derive(Debug, Clone)]
pub struct Subject {
    pub container: String,
    pub attempt: i32,
}

impl Subject {
    fn is_running(&self, status: &PodStatus) -> bool {
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let own = all.into_iter().find(|status| status.name == self.container);
        own.is_some_and(|status| {
            status.restart_count == self.attempt && status.state.as_ref().is_some_and(|state| state.running.is_some())
        })
    }
}

/// Reads the log into `sink` until its end, or when following until the container's end. Stops when nobody listens.
pub async fn read(
    path: PathBuf,
    wish: Wish,
    subject: Subject,
    mut status: watch::Receiver<PodStatus>,
    sink: mpsc::Sender<io::Result<Bytes>>,
) {
    if let Err(error) = read_all(&path, wish, &subject, &mut status, &sink).await {
        let _ = sink.send(Err(error)).await;
    }
}

async fn read_all(
    path: &Path,
    wish: Wish,
    subject: &Subject,
    status: &mut watch::Receiver<PodStatus>,
    sink: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    let start = wish.tail_lines.map_or(Ok(0), |lines| start_of_tail(&mut file, lines))?;
    file.seek(SeekFrom::Start(start))?;
    let follow = wish.follow;
    let mut filter = Filter::new(wish);
    let growth = if follow { Some(Growth::of(path)?) } else { None };
    let mut buffer = vec![0; LOG_CHUNK_BYTES];
    loop {
        // Asked before reading: what was written before the end, or before a rotation, is then read.
        let is_running = follow && subject.is_running(&status.borrow_and_update());
        let next = rotated(path, &file)?;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            let text = filter.feed(&buffer[..count]);
            if !text.is_empty() && sink.send(Ok(text.into())).await.is_err() {
                return Ok(());
            }
            if filter.is_done() {
                return Ok(());
            }
        }
        if let Some(next) = next {
            file = next;
            continue;
        }
        let Some(growth) = growth.as_ref().filter(|_| is_running) else { return Ok(()) };
        tokio::select! {
            grown = growth.wait() => grown?,
            // The pod is gone with its worker: the end is near, or here.
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = sink.closed() => return Ok(()),
        }
    }
}

/// The file that has taken the place of `file`, if one has.
fn rotated(path: &Path, file: &File) -> io::Result<Option<File>> {
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(current) if current.ino() != own.ino() => File::open(path).map(Some),
        _ => Ok(None),
    }
}

/// Tells that something happened to the files of a directory.
struct Growth {
    events: AsyncFd<std::os::fd::OwnedFd>,
}

impl Growth {
    /// The directory is watched, so that a rotated file is noticed too.
    fn of(path: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let dir = path.parent().unwrap_or(path);
        inotify::add_watch(&events, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        // Its successor is unsafe for types that may change their descriptor; an OwnedFd cannot.
        #[expect(deprecated)]
        let events = AsyncFd::new(events)?;
        Ok(Self { events })
    }

    async fn wait(&self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [0; 4096];
        while matches!(rustix::io::read(self.events.get_ref(), &mut buffer), Ok(count) if count > 0) {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStatus};
    use std::io::Write as _;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01.1Z stderr P tw\n2026-01-01T00:00:01.2Z stderr F o\n2026-01-01T00:00:02.1Z stdout F \n2026-01-01T00:00:03.1Z stdout F three\n";

    fn filtered(wish: Wish) -> String {
        let mut filter = Filter::new(wish);
        // In pieces that cut lines anywhere.
        let out: Vec<u8> = LOG.as_bytes().chunks(7).flat_map(|piece| filter.feed(piece)).collect();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn stamps_are_taken_off_and_pieces_joined() {
        assert_eq!(filtered(Wish::default()), "one\ntwo\n\nthree\n");
        assert_eq!(filtered(Wish { limit_bytes: Some(6), ..Wish::default() }), "one\ntw");
        let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
        assert_eq!(filtered(Wish { since, ..Wish::default() }), "\nthree\n");
        let stamped = filtered(Wish { timestamps: true, ..Wish::default() });
        assert!(stamped.starts_with("2026-01-01T00:00:00.1Z one\n2026-01-01T00:00:01.1Z two\n"), "{stamped}");
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nbb\nccc\n").unwrap();
        let starts: Vec<u64> =
            [0, 1, 2, 3, 9].into_iter().map(|lines| start_of_tail(&mut file, lines).unwrap()).collect();
        assert_eq!(starts, [9, 5, 2, 0, 0]);
        file.write_all(b"d").unwrap();
        assert_eq!(start_of_tail(&mut file, 1).unwrap(), 9);
    }

    fn status(is_running: bool) -> PodStatus {
        let running = is_running.then(ContainerStateRunning::default);
        let state = ContainerState { running, ..ContainerState::default() };
        PodStatus {
            container_statuses: Some(vec![ContainerStatus {
                name: "c".into(),
                state: Some(state),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        }
    }

    #[tokio::test]
    async fn following_ends_with_the_container_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F first\n").unwrap();
        let (shown, seen) = watch::channel(status(true));
        let (sink, mut out) = mpsc::channel(8);
        let subject = Subject { container: "c".into(), attempt: 0 };
        let reading = tokio::spawn(read(path.clone(), Wish { follow: true, ..Wish::default() }, subject, seen, sink));
        assert_eq!(out.recv().await.unwrap().unwrap(), "first\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"t stdout F second\n").unwrap();
        assert_eq!(out.recv().await.unwrap().unwrap(), "second\n");
        // A rotation in between.
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "t stdout F third\n").unwrap();
        assert_eq!(out.recv().await.unwrap().unwrap(), "third\n");
        std::fs::write(&path, "t stdout F third\nt stdout F last\n").unwrap();
        shown.send(status(false)).unwrap();
        assert_eq!(out.recv().await.unwrap().unwrap(), "last\n");
        assert!(out.recv().await.is_none());
        reading.await.unwrap();
    }
}
