//! The log's thread: queue → frame → write → sync → report, and on to the next segment when one is full.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::super::clock::Stopwatch;
use super::super::disk::File;
use super::files::Files;
use super::{Done, Job, Shared, WalOptions};
use crate::limits::LOG_FRAME_BYTES_MAX;
use crate::wal::frame::FrameBuilder;
use crate::wal::recovery::position;
use crate::wal::segment::{SEGMENT_HEADER, SegmentHeader};
use crate::wal::{EntryId, Offset, Record};

/// The segment being written.
pub(super) struct Active {
    pub(super) file: Arc<dyn File>,
    pub(super) sequence: u64,
    pub(super) nonce: u64,
    pub(super) size: u64,
    pub(super) end: u64,
    /// The highest index of any entry ever written to it.
    pub(super) last_index: Option<u64>,
}

/// A full segment.
pub(super) struct Closed {
    pub(super) sequence: u64,
    pub(super) last_index: Option<u64>,
}

/// What a segment's header carries on from the segments before.
#[derive(Clone, Default)]
struct Carried {
    vote: Bytes,
    purged: Option<EntryId>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    options: WalOptions,
    files: Files,
    active: Active,
    closed: VecDeque<Closed>,
    /// As of the frames written.
    written: Carried,
    /// As of the frame being built.
    pending: Carried,
    /// The state of the nonces' generator, from one random seed.
    nonces: u64,
    builder: FrameBuilder,
    placed: Vec<(EntryId, usize, usize)>,
    done: Vec<Done>,
}

impl Writer {
    /// Starts the thread; creates the first segment where there is none.
    pub(super) fn start(
        shared: Arc<Shared>,
        options: WalOptions,
        files: Files,
        active: Option<Active>,
        closed: VecDeque<Closed>,
        nonce_seed: u64,
    ) -> io::Result<JoinHandle<()>> {
        let written = {
            let tail = shared.tail.lock();
            Carried { vote: tail.vote(), purged: tail.purged() }
        };
        let mut nonces = nonce_seed;
        let active = match active {
            Some(active) => active,
            None => {
                let header = SegmentHeader {
                    owner: options.owner,
                    sequence: 1,
                    nonce: next_nonce(&mut nonces),
                    previous_end: Offset::default(),
                    purged: None,
                    vote: Bytes::new(),
                };
                create(files.take_first()?, &files, &options, &header)?
            }
        };
        shared.segments.lock().insert(active.sequence as u32, active.file.clone());
        let mut writer = Self {
            shared,
            options,
            files,
            active,
            closed,
            pending: written.clone(),
            written,
            nonces,
            builder: FrameBuilder::default(),
            placed: Vec::new(),
            done: Vec::new(),
        };
        std::thread::Builder::new().name("wal".into()).spawn(move || writer.run())
    }

    fn run(&mut self) {
        loop {
            let (jobs, stop) = {
                let mut queue = self.shared.queue.lock();
                while queue.jobs.is_empty() && !queue.stop {
                    self.shared.wake.wait(&mut queue);
                }
                (std::mem::take(&mut queue.jobs), queue.stop)
            };
            for job in jobs {
                self.add(job);
            }
            self.commit();
            if stop {
                return;
            }
        }
    }

    fn add(&mut self, job: Job) {
        match job {
            Job::Append { entries, done } => {
                for entry in entries {
                    let id = entry.id;
                    let (offset, length) = self.builder.push(&Record::Entry(entry));
                    self.placed.push((id, offset, length));
                    if self.builder.length() > LOG_FRAME_BYTES_MAX {
                        self.commit();
                    }
                }
                self.done.push(done);
            }
            Job::Vote { vote, done } => {
                self.builder.push(&Record::Vote(vote.clone()));
                self.pending.vote = vote;
                self.done.push(done);
            }
            Job::Truncate { from } => {
                self.builder.push(&Record::Truncate { from });
            }
            Job::Purge { id } => {
                self.builder.push(&Record::Purge(id));
                self.pending.purged = self.pending.purged.max(Some(id));
            }
        }
    }

    /// Writes and syncs the frame, then reports it.
    fn commit(&mut self) {
        if !self.builder.is_empty() {
            let length = self.builder.length() as u64;
            if self.active.end + length > self.active.size {
                self.rotate(length);
            }
            self.write_frame();
            self.publish_positions(length);
            self.retire();
            if self.active.end > self.active.size / 2 {
                self.files.prepare();
            }
        }
        // Newest first: openraft keeps a watermark, and an older report after a newer one wakes nobody.
        while let Some(done) = self.done.pop() {
            done();
        }
    }

    fn write_frame(&mut self) {
        let Active { file, sequence, nonce, end, .. } = &self.active;
        // Without syncs nothing is ever promised, and nothing can be called lost.
        let durable = match self.options.fsync {
            true => Offset { segment: *sequence, byte: *end },
            false => Offset::default(),
        };
        let frame = self.builder.finish(*nonce, *end, durable);
        let metrics = &self.shared.metrics;
        let mut watch = Stopwatch::start();
        file.write_at(frame, *end).unwrap_or_else(|error| die(&self.options, "write", &error));
        metrics.write.observe(watch.lap().as_secs_f64());
        metrics.written_bytes.add(i64::try_from(frame.len()).unwrap_or(i64::MAX));
        if self.options.fsync {
            file.sync().unwrap_or_else(|error| die(&self.options, "sync", &error));
            metrics.fsync.observe(watch.elapsed().as_secs_f64());
        }
        self.written = self.pending.clone();
    }

    fn publish_positions(&mut self, length: u64) {
        let base = self.active.end as usize;
        let mut tail = self.shared.tail.lock();
        for (id, offset, length) in self.placed.drain(..) {
            tail.written(id, position(self.active.sequence, base + offset, length));
            self.active.last_index = self.active.last_index.max(Some(id.index));
        }
        tail.evict();
        drop(tail);
        self.active.end += length;
        self.builder.clear();
    }

    /// Continues in a new segment with room for a frame of `length`.
    fn rotate(&mut self, length: u64) {
        let header = SegmentHeader {
            owner: self.options.owner,
            sequence: self.active.sequence + 1,
            nonce: next_nonce(&mut self.nonces),
            previous_end: Offset { segment: self.active.sequence, byte: self.active.end },
            purged: self.written.purged,
            vote: self.written.vote.clone(),
        };
        let next = self
            .files
            .take(SEGMENT_HEADER as u64 + length)
            .and_then(|taken| create(taken, &self.files, &self.options, &header))
            .unwrap_or_else(|error| die(&self.options, "new segment", &error));
        self.shared.segments.lock().insert(next.sequence as u32, next.file.clone());
        let full = std::mem::replace(&mut self.active, next);
        self.closed.push_back(Closed { sequence: full.sequence, last_index: full.last_index });
    }

    /// Gives back segments that hold nothing but purged entries. The purge record is durable by now.
    fn retire(&mut self) {
        let Some(purged) = self.written.purged else { return };
        while self.closed.front().is_some_and(|closed| closed.last_index.is_none_or(|last| last <= purged.index)) {
            let closed = self.closed.pop_front().expect("it was just seen");
            let file = self.shared.segments.lock().remove(&(closed.sequence as u32)).expect("a closed segment is live");
            self.files.retire(closed.sequence, file);
        }
    }
}

/// Makes a taken file a segment.
fn create(
    (path, file, size): (PathBuf, Arc<dyn File>, u64),
    files: &Files,
    options: &WalOptions,
    header: &SegmentHeader,
) -> io::Result<Active> {
    file.write_at(&header.encode(), 0)?;
    if options.fsync {
        file.sync()?;
    }
    files.publish(&path, header.sequence)?;
    Ok(Active {
        file,
        sequence: header.sequence,
        nonce: header.nonce,
        size,
        end: SEGMENT_HEADER as u64,
        last_index: None,
    })
}

/// Nonces need to differ, not to be secret: each life of a file gets another.
fn next_nonce(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state ^ (*state >> 29)
}

/// After a failed write or sync the kernel may have dropped the bytes and cleared the error: what is on disk is unknown,
/// and going on could acknowledge a write that is not there.
fn die(options: &WalOptions, what: &str, error: &dyn Display) -> ! {
    let dir = options.dir.display();
    crate::io::abort(&format!(
        "the log in {dir}: {what} failed: {error}; stopping, because what is on disk is unknown now"
    ))
}
