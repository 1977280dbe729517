//! Pods that wait for a node: those to be tried now by priority and arrival, those that wait out a failure, those that wait for the
//! cluster to change.
//!
//! Time comes in as an argument. A pod that could not be placed is tried again when something happens that may help, but not before its
//! backoff (1 s doubling to 10 s) is over; or after five minutes in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::limits;
use crate::controllers::action::Key;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Ready {
        order: (i64, u64),
    },
    /// Ready at that time.
    Waiting {
        until: Timestamp,
    },
    /// Until something helps; tried anyway at that time.
    Unschedulable {
        until: Timestamp,
    },
    /// Being bound.
    Away,
}

#[derive(Clone, Debug)]
struct Entry {
    uid: String,
    priority: i32,
    arrival: u64,
    failures: u32,
    /// Not to be tried before.
    backoff_until: Timestamp,
    place: Place,
}

/// The pods that wait.
#[derive(Debug, Default)]
pub struct PendingQueue {
    entries: BTreeMap<Key, Entry>,
    ready: BTreeSet<((i64, u64), Key)>,
    timers: BTreeSet<(Timestamp, Key)>,
    arrivals: u64,
    /// Counts what may help an unschedulable pod.
    cycle: u64,
}

impl PendingQueue {
    /// Adds a pod, or learns its priority anew. `is_changed` says that its spec may have become easier to satisfy.
    pub fn add(&mut self, key: &Key, uid: &str, priority: i32, is_changed: bool, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.uid == uid
        {
            entry.priority = priority;
            if is_changed && matches!(entry.place, Place::Unschedulable { .. }) {
                self.activate(key, now);
            }
            return;
        }
        self.remove(key);
        self.arrivals += 1;
        let order = (-i64::from(priority), self.arrivals);
        let place = Place::Ready { order };
        let entry =
            Entry { uid: uid.to_owned(), priority, arrival: self.arrivals, failures: 0, backoff_until: now, place };
        self.entries.insert(key.clone(), entry);
        self.ready.insert((order, key.clone()));
    }

    /// Takes a pod out, whatever it waits for.
    pub fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.unplace(key, &entry.place);
        }
    }

    /// The next pod to try; it is away until [`Self::failed`], [`Self::unschedulable`] or [`Self::remove`].
    pub fn pop(&mut self, now: Timestamp) -> Option<Key> {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.place(&key, |entry| Place::Ready { order: (-i64::from(entry.priority), entry.arrival) });
        }
        let (_, key) = self.ready.first().cloned()?;
        self.place(&key, |_| Place::Away);
        Some(key)
    }

    /// No node would do. `cycle` is what [`Self::cycle`] said before the decision: when something helpful has happened since, it is tried again.
    pub fn unschedulable(&mut self, key: &Key, cycle: u64, now: Timestamp) {
        self.back_off(key, now);
        if cycle == self.cycle {
            self.place(key, |_| Place::Unschedulable { until: now + limits::UNSCHEDULABLE_RETRY });
        } else {
            self.place(key, |entry| Place::Waiting { until: entry.backoff_until });
        }
    }

    /// The attempt failed for a reason that has nothing to do with nodes.
    pub fn failed(&mut self, key: &Key, now: Timestamp) {
        self.back_off(key, now);
        self.place(key, |entry| Place::Waiting { until: entry.backoff_until });
    }

    /// Something happened that may help pods which no node would do for.
    pub fn cluster_changed(&mut self, now: Timestamp) {
        self.cycle += 1;
        let waiting = self.entries.iter().filter(|(_, e)| matches!(e.place, Place::Unschedulable { .. }));
        let keys: Vec<Key> = waiting.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.activate(&key, now);
        }
    }

    #[must_use]
    pub fn cycle(&self) -> u64 {
        self.cycle
    }

    /// When a pod becomes ready by itself.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn activate(&mut self, key: &Key, now: Timestamp) {
        self.place(key, |entry| {
            if entry.backoff_until <= now {
                Place::Ready { order: (-i64::from(entry.priority), entry.arrival) }
            } else {
                Place::Waiting { until: entry.backoff_until }
            }
        });
    }

    fn back_off(&mut self, key: &Key, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key) {
            let delay: Duration = limits::BACKOFF_FIRST.saturating_mul(1 << entry.failures.min(16));
            entry.backoff_until = now + delay.min(limits::BACKOFF_MAX);
            entry.failures += 1;
        }
    }

    fn place(&mut self, key: &Key, choose: impl FnOnce(&Entry) -> Place) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let place = choose(entry);
        let old = std::mem::replace(&mut entry.place, place.clone());
        self.unplace(key, &old);
        match place {
            Place::Ready { order } => {
                self.ready.insert((order, key.clone()));
            }
            Place::Waiting { until } | Place::Unschedulable { until } => {
                self.timers.insert((until, key.clone()));
            }
            Place::Away => {}
        }
    }

    fn unplace(&mut self, key: &Key, place: &Place) {
        match place {
            Place::Ready { order } => {
                self.ready.remove(&(*order, key.clone()));
            }
            Place::Waiting { until } | Place::Unschedulable { until } => {
                self.timers.remove(&(*until, key.clone()));
            }
            Place::Away => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(name: &str) -> Key {
        Key::new("a", name)
    }

    fn add(queue: &mut PendingQueue, name: &str, priority: i32) {
        queue.add(&key(name), &format!("uid-{name}"), priority, false, at(0));
    }

    #[test]
    fn higher_priority_goes_first_then_arrival() {
        let mut queue = PendingQueue::default();
        add(&mut queue, "b", 0);
        add(&mut queue, "a", 0);
        add(&mut queue, "c", 10);
        let order: Vec<String> = std::iter::from_fn(|| queue.pop(at(0))).map(|k| k.name).collect();
        assert_eq!(order, ["c", "b", "a"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_and_for_its_backoff() {
        let mut queue = PendingQueue::default();
        add(&mut queue, "a", 0);
        let popped = queue.pop(at(0)).unwrap();
        queue.unschedulable(&popped, queue.cycle(), at(0));
        assert!(queue.pop(at(60)).is_none(), "nothing has changed");
        queue.cluster_changed(at(60));
        assert_eq!(queue.pop(at(60)), Some(key("a")));
        queue.unschedulable(&key("a"), queue.cycle(), at(60));
        queue.cluster_changed(at(61));
        assert!(queue.pop(at(61)).is_none(), "its second backoff is two seconds");
        assert_eq!(queue.next_timer(), Some(at(62)));
        assert_eq!(queue.pop(at(62)), Some(key("a")));
    }

    #[test]
    fn a_change_during_the_attempt_is_not_missed() {
        let mut queue = PendingQueue::default();
        add(&mut queue, "a", 0);
        let popped = queue.pop(at(0)).unwrap();
        let cycle = queue.cycle();
        queue.cluster_changed(at(0));
        queue.unschedulable(&popped, cycle, at(0));
        assert_eq!(queue.pop(at(1)), Some(key("a")));
    }

    #[test]
    fn without_any_change_it_is_tried_again_in_the_end() {
        let mut queue = PendingQueue::default();
        add(&mut queue, "a", 0);
        let popped = queue.pop(at(0)).unwrap();
        queue.unschedulable(&popped, queue.cycle(), at(0));
        let end = i64::try_from(limits::UNSCHEDULABLE_RETRY.as_secs()).unwrap();
        assert!(queue.pop(at(end - 1)).is_none());
        assert_eq!(queue.pop(at(end)), Some(key("a")));
    }

    #[test]
    fn a_removed_pod_never_comes_and_a_new_one_of_its_name_does() {
        let mut queue = PendingQueue::default();
        add(&mut queue, "a", 0);
        queue.remove(&key("a"));
        assert!(queue.pop(at(0)).is_none());
        add(&mut queue, "a", 0);
        queue.pop(at(0)).unwrap();
        queue.add(&key("a"), "another", 0, false, at(0));
        assert_eq!(queue.pop(at(0)), Some(key("a")));
    }

    #[test]
    fn a_changed_spec_is_tried_again_without_any_other_change() {
        let mut queue = PendingQueue::default();
        add(&mut queue, "a", 0);
        let popped = queue.pop(at(0)).unwrap();
        queue.unschedulable(&popped, queue.cycle(), at(0));
        queue.add(&key("a"), "uid-a", 0, true, at(5));
        assert_eq!(queue.pop(at(5)), Some(key("a")));
    }
}
