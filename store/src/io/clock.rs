//! Time as the store sees it: monotonic, from an arbitrary start, never the time of day.
//!
//! Only leases and measurements read it. Raft's own timers run on tokio's clock, which tests can pause.

use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// Time since a start that is fixed for the life of this clock.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Takes breaks from long work on a thread of its own, so that it never has more than a part of a processor.
#[derive(Debug)]
pub struct Breaks {
    factor: u32,
    since: Instant,
}

impl Breaks {
    /// Every break is `factor` times as long as the work before it.
    #[must_use]
    pub fn new(factor: u32) -> Self {
        Self { factor, since: Instant::now() }
    }

    /// Blocks the thread.
    pub fn rest(&mut self) {
        std::thread::sleep(self.since.elapsed() * self.factor);
        self.since = Instant::now();
    }
}
