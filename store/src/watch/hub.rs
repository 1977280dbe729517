//! Where apply meets the watchers: the ring of revisions, the groups that match them, and who is to be woken.
//!
//! Watchers of the same range form a group. Publishing a revision finds the groups that it concerns, notes its number in
//! each, and marks their watchers as having something to read; it copies no event and waits for nobody. A watcher that has
//! read everything is in no queue, which is how "synced" is known.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::intervals::Intervals;
use super::replay::Recent;
use super::ring::{Block, Ring};
use crate::limits;
use crate::mvcc::interval::Interval;
use crate::state::core::Core;

pub(crate) struct Hub {
    pub(crate) core: Arc<Core>,
    /// A watcher of no more keys finds the past by the index.
    pub(crate) replay_keys_max: usize,
    pub(crate) recent: Arc<Recent>,
    inner: Mutex<Inner>,
    /// The newest revision that is published, or about to be: changed before any watcher is marked.
    newest: AtomicI64,
    /// Watchers that want `prev_kv`.
    previous_wanted: AtomicUsize,
}

struct Inner {
    ring: Ring,
    groups: HashMap<GroupId, Group>,
    next_id: u64,
    by_interval: HashMap<Interval, GroupId>,
    by_key: HashMap<Bytes, GroupId>,
    by_range: Intervals<GroupId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(u64);

struct Group {
    interval: Interval,
    watchers: BTreeMap<u64, Arc<Slot>>,
    /// Revisions with a matching change, all of them from `complete_from` on.
    matched: VecDeque<i64>,
    complete_from: i64,
}

/// The part of a watcher that apply touches.
pub(crate) struct Slot {
    pub(crate) watch_id: i64,
    /// Whether the watcher is in its stream's queue: it may have something to read.
    pub(crate) queued: AtomicBool,
    /// Nothing before this revision is missing, whatever the cursor says; raised when the contents are replaced.
    pub(crate) synced_before: AtomicI64,
    pub(crate) signal: Arc<Signal>,
}

/// How a stream learns that some of its watchers have something to read. Bounded by the number of its watchers.
#[derive(Default)]
pub(crate) struct Signal {
    pub(crate) queue: Mutex<VecDeque<i64>>,
    pub(crate) notify: Notify,
}

/// A watcher's place among the groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration {
    pub(super) group: GroupId,
    slot: u64,
    prev_kv: bool,
}

/// Mostly it is one.
pub(crate) type Blocks = SmallVec<[Arc<Block>; 1]>;

/// What a watcher finds when it looks.
pub(crate) enum Look {
    /// Everything matching is read, up to and with this revision.
    Synced(i64),
    /// The next matching revisions, in order, and whether there are more after them, up to the given newest one.
    Blocks { blocks: Blocks, more: bool, newest: i64 },
    /// What follows is not in memory: it has to be read from disk, from this revision up to the given newest one.
    Behind { from: i64, newest: i64 },
}

impl Slot {
    pub(crate) fn enqueue(&self) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.signal.queue.lock().push_back(self.watch_id);
            self.signal.notify.notify_one();
        }
    }

    /// [`Slot::enqueue`], but for the stream's wake, which the caller owes to those in `wakes`.
    fn enqueue_quietly(&self, wakes: &mut Vec<Arc<Signal>>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            let mut queue = self.signal.queue.lock();
            queue.push_back(self.watch_id);
            // Whoever put the one before there wakes it.
            if queue.len() == 1 {
                wakes.push(self.signal.clone());
            }
        }
    }
}

impl Hub {
    pub(crate) fn new(core: Arc<Core>, revision: i64, ring_bytes_max: usize, replay_keys_max: usize) -> Self {
        let inner = Inner {
            ring: Ring::new(revision, ring_bytes_max),
            groups: HashMap::new(),
            next_id: 0,
            by_interval: HashMap::new(),
            by_key: HashMap::new(),
            by_range: Intervals::default(),
        };
        let recent = Arc::default();
        Self {
            core,
            replay_keys_max,
            recent,
            inner: Mutex::new(inner),
            newest: AtomicI64::new(revision),
            previous_wanted: AtomicUsize::new(0),
        }
    }

    pub(crate) fn previous_wanted(&self) -> bool {
        self.previous_wanted.load(Ordering::Relaxed) > 0
    }

    /// The newest published revision. Every watcher with something to read up to it is in its stream's queue.
    pub(crate) fn revision(&self) -> i64 {
        self.inner.lock().ring.revision()
    }

    /// The newest revision. Who is no longer marked, and then sees the same one as at an earlier look, has missed nothing
    /// since: whatever is published afterwards marks it again.
    pub(crate) fn newest(&self) -> i64 {
        self.newest.load(Ordering::SeqCst)
    }

    pub(crate) fn publish(&self, blocks: Vec<Block>) {
        if blocks.is_empty() {
            return;
        }
        let mut wakes = Vec::new();
        let mut inner = self.inner.lock();
        self.newest.store(blocks.last().expect("there is one").revision, Ordering::SeqCst);
        for block in blocks {
            for id in inner.matching(&block) {
                let group = inner.groups.get_mut(&id).expect("a matched group exists");
                group.note(block.revision, &mut wakes);
            }
            inner.ring.push(block);
        }
        drop(inner);
        wakes.iter().for_each(|signal| signal.notify.notify_one());
    }

    /// Starts over at `revision`, reached by other means than publication.
    pub(crate) fn reset(&self, revision: i64) {
        self.recent.forget();
        let mut inner = self.inner.lock();
        self.newest.store(revision, Ordering::SeqCst);
        let synced_before = inner.ring.revision() + 1;
        inner.ring.reset(revision);
        for group in inner.groups.values_mut() {
            group.matched.clear();
            group.complete_from = revision + 1;
            for slot in group.watchers.values() {
                if !slot.queued.load(Ordering::SeqCst) {
                    slot.synced_before.store(synced_before, Ordering::Release);
                    slot.enqueue();
                }
            }
        }
    }

    /// Adds a watcher from `start` on (0: from the next revision) and returns the revision now and the start.
    pub(crate) fn register(
        &self,
        interval: &Interval,
        start: i64,
        prev_kv: bool,
        slot: Arc<Slot>,
    ) -> (Registration, i64, i64) {
        let mut inner = self.inner.lock();
        let revision = inner.ring.revision();
        let start = if start == 0 { revision + 1 } else { start };
        let group = inner.group(interval, start);
        inner.next_id += 1;
        let id = inner.next_id;
        let watchers = &mut inner.groups.get_mut(&group).expect("just found or made").watchers;
        watchers.insert(id, slot);
        self.core.metrics.watch.watchers.inc();
        if prev_kv {
            self.previous_wanted.fetch_add(1, Ordering::Relaxed);
        }
        (Registration { group, slot: id, prev_kv }, revision, start)
    }

    pub(crate) fn unregister(&self, registration: Registration) {
        self.core.metrics.watch.watchers.dec();
        let mut inner = self.inner.lock();
        if registration.prev_kv {
            self.previous_wanted.fetch_sub(1, Ordering::Relaxed);
        }
        let group = inner.groups.get_mut(&registration.group).expect("a registered watcher has its group");
        group.watchers.remove(&registration.slot);
        if group.watchers.is_empty() {
            inner.remove_group(registration.group);
        }
    }

    /// Whether nobody watches.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.inner.lock();
        let unused = inner.groups.is_empty() && inner.by_interval.is_empty() && inner.by_key.is_empty();
        unused && inner.by_range.is_empty() && !self.previous_wanted()
    }

    /// What a watcher whose next revision is `next` finds.
    pub(crate) fn look(&self, registration: Registration, next: i64) -> Look {
        let inner = self.inner.lock();
        let newest = inner.ring.revision();
        let group = &inner.groups[&registration.group];
        if next < group.complete_from {
            return if next > newest { Look::Synced(newest) } else { Look::Behind { from: next, newest } };
        }
        let first = group.first_matched(next);
        let Some(&from) = group.matched.get(first) else { return Look::Synced(newest) };
        if from < inner.ring.first() {
            return Look::Behind { from, newest };
        }
        let mut blocks = Blocks::new();
        let mut bytes = 0;
        for revision in group.matched.range(first..) {
            if blocks.len() == limits::WATCH_RESPONSE_REVISIONS || bytes >= limits::WATCH_RESPONSE_BYTES {
                return Look::Blocks { blocks, more: true, newest };
            }
            let block = inner.ring.get(*revision).expect("the ring has no gaps");
            bytes += block.bytes();
            blocks.push(block.clone());
        }
        Look::Blocks { blocks, more: false, newest }
    }
}

impl Inner {
    /// The groups that a block concerns, each once.
    fn matching(&self, block: &Block) -> BTreeSet<GroupId> {
        let mut groups = BTreeSet::new();
        if self.groups.is_empty() {
            return groups;
        }
        for change in &block.changes {
            groups.extend(self.by_key.get(change.key()));
            self.by_range.containing(change.key(), &mut |id| {
                groups.insert(*id);
            });
        }
        groups
    }

    /// The group of a range; a new one knows the recent past from `start` on if that is near.
    fn group(&mut self, interval: &Interval, start: i64) -> GroupId {
        if let Some(id) = self.by_interval.get(interval) {
            return *id;
        }
        self.next_id += 1;
        let id = GroupId(self.next_id);
        let next = self.ring.revision() + 1;
        let known = start >= self.ring.first() && next - start <= limits::WATCH_BACKFILL_REVISIONS;
        let complete_from = if known { start.min(next) } else { next };
        let concerns = |revision: &i64| {
            let block = self.ring.get(*revision).expect("the ring has no gaps");
            block.changes.iter().any(|change| interval.contains(change.key()))
        };
        let matched = (complete_from..next).filter(concerns).collect();
        let group = Group { interval: interval.clone(), watchers: BTreeMap::new(), matched, complete_from };
        self.groups.insert(id, group);
        self.by_interval.insert(interval.clone(), id);
        match interval.as_single() {
            Some(key) => {
                self.by_key.insert(key.clone(), id);
            }
            None => self.by_range.insert(interval.clone(), id),
        }
        id
    }

    fn remove_group(&mut self, id: GroupId) {
        let group = self.groups.remove(&id).expect("a group is removed once");
        self.by_interval.remove(&group.interval);
        match group.interval.as_single() {
            Some(key) => {
                self.by_key.remove(key);
            }
            None => self.by_range.remove(&group.interval),
        }
    }
}

impl Group {
    /// The place of the first matching revision from `next` on. Most watchers have read all but the newest.
    fn first_matched(&self, next: i64) -> usize {
        match self.matched.len().checked_sub(2) {
            Some(near) if self.matched[near] < next => near + 1 + usize::from(self.matched[near + 1] < next),
            _ => self.matched.partition_point(|revision| *revision < next),
        }
    }

    fn note(&mut self, revision: i64, wakes: &mut Vec<Arc<Signal>>) {
        self.matched.push_back(revision);
        if self.matched.len() > limits::WATCH_GROUP_REVISIONS {
            let forgotten = self.matched.pop_front().expect("more than one");
            self.complete_from = forgotten + 1;
        }
        self.watchers.values().for_each(|slot| slot.enqueue_quietly(wakes));
    }
}
