//! Time for the controllers: the wall clock at the start, moved on by the monotonic clock, so that it never goes back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// Tells the time and when a time will be.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        Self { wall: Timestamp::now(), started: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall + self.started.elapsed()
    }

    /// When on the monotonic clock it will be `at`; a past time is now.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        let ahead = Duration::try_from(at.duration_since(self.now())).unwrap_or(Duration::ZERO);
        // Timers fire on whole milliseconds: one too early would look, find nothing due and set itself again.
        Instant::now() + ahead + Duration::from_millis(1)
    }
}
