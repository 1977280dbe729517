//! Lines wait for the disk, the terminal or the pipe that they go to on a thread of their own.
//!
//! A write to a file can take as long as the disk is stalled, and one to a pipe as long as nobody reads; the thread that
//! answers heartbeats must not wait with it. What finds too much waiting is dropped, and the log tells how many lines that
//! was. (The non-blocking writer of `tracing-appender` counts what it drops without a word in the log, is limited by lines
//! instead of bytes, and is flushed by ending it, which a line before an abort cannot do.)

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use kontiki_store::config::logs::FATAL;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait at most.
const LIMIT: usize = 4 << 20;
/// What the end of the process waits at most for lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue of this process' log.
static LOG: OnceLock<Queue> = OnceLock::new();

/// The lines of one log, in order.
#[derive(Clone)]
pub struct Queue {
    sender: mpsc::Sender<Word>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Lines that were dropped and not told of yet.
    dropped: AtomicU64,
}

enum Word {
    Line(Vec<u8>),
    Flush(mpsc::Sender<()>),
}

impl Queue {
    /// The queue of this process' log, which goes to `output`. A process has one.
    pub fn of(output: impl Write + Send + 'static) -> Result<Self> {
        let queue = Self::start(output, tell_of_dropped)?;
        LOG.set(queue.clone()).ok().context("this process has a log already")?;
        Ok(queue)
    }

    /// `tell` is called, on the queue's thread, with the number of lines that were dropped.
    fn start(mut output: impl Write + Send + 'static, tell: impl Fn(u64) + Send + 'static) -> Result<Self> {
        let (sender, words) = mpsc::channel();
        let waiting = Arc::new(Waiting::default());
        let theirs = waiting.clone();
        let write = move || {
            for word in words {
                match word {
                    Word::Line(line) => {
                        // A log that cannot be written to stops nothing.
                        let _ = output.write_all(&line);
                        theirs.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                        match theirs.dropped.swap(0, Ordering::Relaxed) {
                            0 => {}
                            dropped => tell(dropped),
                        }
                    }
                    // Nobody may wait any more.
                    Word::Flush(done) => drop(done.send(())),
                }
            }
        };
        thread::Builder::new().name("log".into()).spawn(write).context("cannot start the log's thread")?;
        Ok(Self { sender, waiting })
    }

    fn push(&self, line: &[u8]) {
        let before = self.waiting.bytes.fetch_add(line.len(), Ordering::Relaxed);
        if before + line.len() > LIMIT || self.sender.send(Word::Line(line.to_vec())).is_err() {
            self.waiting.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines so far are written, or for [`FLUSH_TIMEOUT`].
    fn flush(&self) {
        let (done, flushed) = mpsc::channel();
        if self.sender.send(Word::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn tell_of_dropped(lines: u64) {
    tracing::warn!(lines, "lines of this log were dropped: its output did not take them in time");
}

/// Takes the lines of an event.
pub struct EventWriter {
    queue: Queue,
    /// The process ends with this event, perhaps without another word.
    is_last: bool,
}

impl MakeWriter<'_> for Queue {
    type Writer = EventWriter;

    fn make_writer(&self) -> EventWriter {
        EventWriter { queue: self.clone(), is_last: false }
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> EventWriter {
        EventWriter { queue: self.clone(), is_last: event.target() == FATAL }
    }
}

impl Write for EventWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line);
        if self.is_last {
            self.queue.flush();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Called where the process ends without a [`FATAL`] line: waits until its last lines are written, or for [`FLUSH_TIMEOUT`].
pub fn flush() {
    if let Some(queue) = LOG.get() {
        queue.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes a line when it is let; keeps what it took.
    #[derive(Clone)]
    struct Gate {
        open: Arc<Mutex<()>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _open = self.open.lock().unwrap();
            self.taken.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_an_output_and_what_was_dropped_is_told() {
        let gate = Gate { open: Arc::default(), taken: Arc::default() };
        let told = Arc::new(AtomicU64::new(0));
        let tell = told.clone();
        let tell = move |lines| {
            tell.fetch_add(lines, Ordering::Relaxed);
        };
        let queue = Queue::start(gate.clone(), tell).unwrap();
        let line = |number: usize| format!("{number:01023}\n").into_bytes();
        let fit = LIMIT / line(0).len();
        let closed = gate.open.lock().unwrap();
        // These return although nothing takes them; the last ten find no place.
        for number in 0..fit + 10 {
            queue.push(&line(number));
        }
        drop(closed);
        queue.flush();
        let expected: Vec<u8> = (0..fit).flat_map(line).collect();
        assert!(*gate.taken.lock().unwrap() == expected, "lines are missing, changed or out of order");
        assert_eq!(told.load(Ordering::Relaxed), 10);
        assert_eq!(queue.waiting.bytes.load(Ordering::Relaxed), 0);
    }
}
