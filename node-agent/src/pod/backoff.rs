//! How long a container that keeps ending, or an image that cannot be pulled, is left alone.
//!
//! 10 s, doubling to 5 min, forgotten when nothing failed for twice the longest wait. Which moment a wait is measured from is
//! the caller's: a crash loop counts from the exit, an image from the failed pull. [`Retry`] is the quicker relative
//! for failures that pass by themselves.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, RETRY_FIRST, RETRY_MAX};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    delay: SignedDuration,
    updated: Option<Timestamp>,
}

impl Backoff {
    /// When to go on, if that is still to come: `since` plus the current wait.
    pub fn until(&self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let until = after(since, self.delay);
        (!self.is_expired(now) && until > now).then_some(until)
    }

    /// The current wait in whole seconds, as messages show it.
    pub fn delay_s(&self) -> i64 {
        self.delay.as_secs()
    }

    /// One more attempt is made: the wait after it is the next longer one.
    pub fn step(&mut self, now: Timestamp) {
        let first = signed(BACKOFF_FIRST);
        self.delay = match self.delay {
            delay if delay.is_zero() || self.is_expired(now) => first,
            delay => delay.saturating_mul(2).min(signed(BACKOFF_MAX)),
        };
        self.updated = Some(now);
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        self.updated.is_none_or(|updated| now.duration_since(updated) > signed(BACKOFF_MAX * 2))
    }
}

/// Waits between attempts at something that should work soon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retry {
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Retry {
    pub fn failed(&mut self, now: Timestamp) {
        let delay = signed(RETRY_FIRST).saturating_mul(1 << self.failures.min(10)).min(signed(RETRY_MAX));
        self.failures += 1;
        self.not_before = Some(after(now, delay));
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// When to try again, if that is still to come.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.not_before.filter(|until| *until > now)
    }
}

/// `instant` plus `delay`, at the end of time where that does not exist.
pub fn after(instant: Timestamp, delay: SignedDuration) -> Timestamp {
    instant.checked_add(delay).unwrap_or(Timestamp::MAX)
}

fn signed(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_waits_double_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let exit = at(now + 1);
            let go = backoff.until(exit, exit).unwrap_or(exit);
            waits.push(go.as_second() - exit.as_second());
            backoff.step(go);
            now = go.as_second();
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_are_forgiven() {
        let mut backoff = Backoff::default();
        backoff.step(at(0));
        backoff.step(at(20));
        assert_eq!(backoff.until(at(620), at(620)), Some(at(640)));
        assert_eq!(backoff.until(at(621), at(621)), None);
        backoff.step(at(621));
        assert_eq!(backoff.delay_s(), 10);
    }

    #[test]
    fn retries_grow_and_reset() {
        let mut retry = Retry::default();
        assert_eq!(retry.until(at(0)), None);
        retry.failed(at(0));
        retry.failed(at(1));
        assert_eq!(retry.until(at(1)), Some(at(2)));
        retry.succeeded();
        assert_eq!(retry, Retry::default());
    }
}
