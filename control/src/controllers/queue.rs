//! The work queue: which keys to look at, in order, each once however often it was asked for, and never twice at the same time.
//!
//! Time comes in as an argument. A key that fails waits longer each time; a key may also ask to be looked at later.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::action::{Attempt, Failure};
use super::limits;

#[derive(Debug, Default)]
struct Entry {
    queued: bool,
    running: bool,
    /// Asked for while running: look again when done.
    dirty: bool,
    /// At most one timer, the earliest asked for.
    timer: Option<Timestamp>,
    attempt: Attempt,
}

/// Keys to be worked on.
#[derive(Debug)]
pub struct WorkQueue<K> {
    ready: VecDeque<K>,
    entries: HashMap<K, Entry>,
    timers: BTreeSet<(Timestamp, K)>,
}

impl<K: Clone + Eq + Hash + Ord> Default for WorkQueue<K> {
    fn default() -> Self {
        Self { ready: VecDeque::new(), entries: HashMap::new(), timers: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> WorkQueue<K> {
    /// Asks for a look at the key now.
    pub fn add(&mut self, key: K) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.running {
            entry.dirty = true;
        } else if !entry.queued {
            entry.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Asks for a look at the key at a time; an earlier one that was asked for stays.
    pub fn add_at(&mut self, key: K, at: Timestamp) {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.timer {
            Some(old) if old <= at => return,
            Some(old) => {
                self.timers.remove(&(old, key.clone()));
            }
            None => {}
        }
        entry.timer = Some(at);
        self.timers.insert((at, key));
    }

    /// The next key to look at, and what came of it before. [`Self::done`] must follow.
    pub fn pop(&mut self, now: Timestamp) -> Option<(K, Attempt)> {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.entries.entry(key.clone()).or_default().timer = None;
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        let entry = self.entries.get_mut(&key).expect("a ready key has an entry");
        entry.queued = false;
        entry.running = true;
        Some((key, entry.attempt.clone()))
    }

    /// Ends the look at a key. After a failure it comes again, later each time.
    pub fn done(&mut self, key: K, failure: Option<Failure>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.running = false;
        let dirty = std::mem::take(&mut entry.dirty);
        match failure {
            None => entry.attempt = Attempt::default(),
            Some(failure) => {
                let delay = backoff(entry.attempt.failures, &failure);
                entry.attempt.failures += 1;
                entry.attempt.last = Some(failure);
                self.add_at(key.clone(), now + delay);
            }
        }
        if dirty {
            self.add(key.clone());
        }
        let entry = &self.entries[&key];
        if !entry.queued && entry.timer.is_none() {
            self.entries.remove(&key);
        }
    }

    /// When a timer next makes a key ready.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }
}

/// A stale view heals within a watch event, a refusal needs somebody to change something.
fn backoff(failures: u32, failure: &Failure) -> Duration {
    let first = match failure {
        Failure::Refused { .. } => limits::RETRY_REFUSED_FIRST,
        Failure::NoAnswer(_) => limits::RETRY_NO_ANSWER_FIRST,
        Failure::Conflict(_) | Failure::NotFound(_) | Failure::AlreadyExists(_) | Failure::StillThere(_) => {
            limits::RETRY_STALE_FIRST
        }
    };
    first.saturating_mul(1 << failures.min(16)).min(limits::RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn stale() -> Option<Failure> {
        Some(Failure::Conflict("x".into()))
    }

    #[test]
    fn a_key_asked_for_twice_comes_once() {
        let mut queue = WorkQueue::default();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.pop(at(0)).unwrap().0, "a");
        assert_eq!(queue.pop(at(0)).unwrap().0, "b");
        assert!(queue.pop(at(0)).is_none());
    }

    #[test]
    fn a_key_is_never_worked_on_twice_at_once() {
        let mut queue = WorkQueue::default();
        queue.add("a");
        queue.pop(at(0)).unwrap();
        queue.add("a");
        assert!(queue.pop(at(0)).is_none());
        queue.done("a", None, at(0));
        assert_eq!(queue.pop(at(0)).unwrap().0, "a");
    }

    #[test]
    fn failures_wait_longer_each_time_and_success_forgets_them() {
        let mut queue = WorkQueue::default();
        queue.add("a");
        let mut now = at(0);
        let mut delays = Vec::new();
        for failures in 0..4 {
            let (key, attempt) = queue.pop(now).unwrap();
            assert_eq!(attempt.failures, failures);
            queue.done(key, stale(), now);
            let next = queue.next_timer().unwrap();
            delays.push(next.as_millisecond() - now.as_millisecond());
            assert!(queue.pop(next - Duration::from_millis(1)).is_none());
            now = next;
        }
        let first = i64::try_from(limits::RETRY_STALE_FIRST.as_millis()).unwrap();
        assert_eq!(delays, [first, 2 * first, 4 * first, 8 * first]);
        let (key, _) = queue.pop(now).unwrap();
        queue.done(key, None, now);
        queue.add("a");
        assert_eq!(queue.pop(now).unwrap().1, Attempt::default());
    }

    #[test]
    fn news_come_at_once_even_while_a_retry_waits() {
        let mut queue = WorkQueue::default();
        queue.add("a");
        queue.pop(at(0)).unwrap();
        queue.done("a", stale(), at(0));
        queue.add("a");
        assert_eq!(queue.pop(at(0)).unwrap().1.failures, 1);
    }

    #[test]
    fn the_earliest_of_several_timers_wins() {
        let mut queue = WorkQueue::default();
        queue.add_at("a", at(50));
        queue.add_at("a", at(20));
        queue.add_at("a", at(90));
        assert_eq!(queue.next_timer(), Some(at(20)));
        assert!(queue.pop(at(19)).is_none());
        assert_eq!(queue.pop(at(20)).unwrap().0, "a");
        queue.done("a", None, at(20));
        assert!(queue.next_timer().is_none() && queue.entries.is_empty());
    }
}
