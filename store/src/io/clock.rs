//! Time as the store sees it: monotonic, from an arbitrary start. The time of day only makes a new member's id unique, and
//! is told of the last compaction.
//!
//! Only leases, measurements and checks of who is there read it. Raft's own timers run on tokio's clock, which tests can pause.

use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// Time since a start that is fixed for the life of this clock.
    fn now(&self) -> Duration;
}

/// Seconds since 1970 by the machine's clock; 0 when that is set to before.
#[must_use]
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

/// Measures how long something takes; for measurements only, never for decisions.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The time since the start or the last lap.
    pub fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
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
