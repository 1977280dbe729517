//! The index: every key with its versions, and what has been published of them.
//!
//! The writer records changes as it applies them and publishes them when they are committed. Until then readers, who
//! look at a published revision, see the versions before. Values are not here, except a bounded cache of new small ones.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use kontiki_api::mvccpb::KeyValue;

use super::entry::{Entry, Past, Version};
use super::interval::Interval;
use super::record::{Kind, STAMP_BYTES, Stamp};
use super::tree::{Previous, Tree};
use crate::limits;

/// Which versions a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Everything recorded, published or not: only the writer asks this.
    Newest,
    Revision(i64),
}

/// Where a live version is.
#[derive(Clone, Debug)]
pub enum Located {
    Cached(Bytes),
    /// Asked for without its value, and known from the index.
    Bare(KeyValue),
    Stored(Stamp),
}

/// What a walk over the index has found so far.
#[derive(Debug, Default)]
pub struct Found {
    pub located: Vec<Located>,
    /// Live keys seen, located or not.
    pub count: usize,
}

/// A walk in slices: what is asked of each.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    pub end: Bound<&'a [u8]>,
    pub at: At,
    /// Values are not needed.
    pub bare: bool,
    /// Keys to locate, and whether to go on counting after that.
    pub limit: usize,
    pub count_all: bool,
}

#[derive(Debug)]
pub struct Index {
    tree: Tree,
    revision: i64,
    floor: i64,
    /// Keys changed since the last publication.
    staged: Vec<Bytes>,
    cached_bytes: usize,
    cache_bytes_max: usize,
    /// Where eviction goes on.
    hand: Box<[u8]>,
    record_bytes: u64,
}

impl Index {
    #[must_use]
    pub fn new(revision: i64, floor: i64, cache_bytes_max: usize) -> Self {
        Self {
            tree: Tree::default(),
            revision,
            floor,
            staged: Vec::new(),
            cached_bytes: 0,
            cache_bytes_max,
            hand: Box::default(),
            record_bytes: 0,
        }
    }

    /// The newest published revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The published compaction floor; -1 before the first compaction.
    #[must_use]
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// Bytes of all records that are still stored.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.tree.get(key)
    }

    /// Records a change. `record` is its stored form and `kv` that form's contents.
    pub fn record(&mut self, stamp: Stamp, kind: Kind, kv: &KeyValue, record: Bytes) -> Previous {
        self.staged.push(kv.key.clone());
        let cacheable =
            kind == Kind::Put && record.len() <= limits::CACHED_RECORD_BYTES_MAX && self.cache_bytes_max > 0;
        let version = version(stamp, kind, kv, record.len());
        let cached = cacheable.then_some(record);
        self.cached_bytes += cached.as_ref().map_or(0, Bytes::len);
        let previous = self.tree.record(&kv.key, version, cached);
        self.cached_bytes -= previous.cached.as_ref().map_or(0, Bytes::len);
        self.record_bytes += u64::from(version.size);
        if self.cached_bytes > self.cache_bytes_max {
            self.evict();
        }
        previous
    }

    /// Takes in a record found on disk when the state is opened.
    pub fn restore(&mut self, stamp: Stamp, kind: Kind, kv: &KeyValue, record_bytes: usize) -> Previous {
        let version = version(stamp, kind, kv, record_bytes);
        self.record_bytes += u64::from(version.size);
        self.tree.record(&kv.key, version, None)
    }

    /// Makes everything recorded so far visible to readers.
    pub fn publish(&mut self, revision: i64, floor: i64) {
        assert!(revision >= self.revision && floor >= self.floor, "time does not go back");
        self.revision = revision;
        self.floor = floor;
        self.staged.clear();
    }

    /// Live keys in a range, where that is known without a walk: at the newest and at the published revision.
    #[must_use]
    pub fn count(&self, interval: &Interval, at: At) -> Option<usize> {
        let Some((start, end)) = interval.bounds() else { return Some(0) };
        match at {
            At::Newest => Some(self.tree.count(start, end)),
            At::Revision(revision) if revision == self.revision => {
                let staged: BTreeSet<&Bytes> = self.staged.iter().filter(|key| interval.contains(key)).collect();
                let entries = staged.into_iter().filter_map(|key| self.tree.get(key));
                let (mut now, mut then) = (0, 0);
                for entry in entries {
                    now += usize::from(entry.is_live());
                    then += usize::from(entry.live_at(revision));
                }
                Some(self.tree.count(start, end) + then - now)
            }
            At::Revision(_) => None,
        }
    }

    /// Walks one slice from `from` on and returns where the next one begins, if there is more to see.
    pub fn walk(&self, from: &[u8], walk: Walk, found: &mut Found) -> Option<Vec<u8>> {
        let mut left = limits::INDEX_SLICE_KEYS;
        let mut next = None;
        let _ = self.tree.scan(from, walk.end, &mut |entry| {
            if left == 0 {
                next = Some(entry.key.to_vec());
                return ControlFlow::Break(());
            }
            left -= 1;
            let full = found.located.len() >= walk.limit;
            if full && !walk.count_all {
                return ControlFlow::Break(());
            }
            if let Some(located) = locate(entry, walk.at, walk.bare) {
                found.count += 1;
                if !full {
                    found.located.push(located);
                }
            }
            ControlFlow::Continue(())
        });
        next
    }

    /// What happened to a range's keys at the revisions `from` to `newest`, in order; `None` when more than `keys_max` keys
    /// are in the range. Where there are more than `count` changes, some after those and their revisions are left out.
    #[must_use]
    pub fn changes(
        &self,
        interval: &Interval,
        (from, newest): (i64, i64),
        keys_max: usize,
        count: usize,
    ) -> Option<Vec<Past>> {
        let (start, end) = interval.bounds()?;
        let (mut keys, mut changes) = (0, Vec::new());
        let _ = self.tree.scan(start, end, &mut |entry| {
            keys += 1;
            if keys > keys_max {
                return ControlFlow::Break(());
            }
            let mut last = None;
            for (taken, past) in entry.since(from).take_while(|past| past.stamp.main <= newest).enumerate() {
                changes.push(past);
                // One more than are asked for, and of another revision: it tells where the rest begins.
                if taken > count && last != Some(past.stamp.main) {
                    break;
                }
                last = Some(past.stamp.main);
            }
            ControlFlow::Continue(())
        });
        if keys > keys_max {
            return None;
        }
        changes.sort_unstable_by_key(|past| past.stamp);
        Some(changes)
    }

    /// Prunes a slice of keys and returns where the next begins. Records in `removed` are to be deleted from disk.
    pub fn prune_slice(&mut self, from: &[u8], floor: i64, removed: &mut Vec<Past>) -> Option<Box<[u8]>> {
        assert!(floor <= self.floor, "only what readers can no longer ask for is pruned");
        let first = removed.len();
        let next = self.tree.retain_leaf(from, &mut |entry| entry.prune(floor, removed));
        self.record_bytes -= removed[first..].iter().map(|past| u64::from(past.size())).sum::<u64>();
        next
    }

    /// Drops cached values leaf by leaf, in turn, until the cache is within its budget.
    fn evict(&mut self) {
        let target = self.cache_bytes_max - self.cache_bytes_max / 16;
        while self.cached_bytes > target {
            let cached_bytes = &mut self.cached_bytes;
            let next = self.tree.retain_leaf(&self.hand, &mut |entry| {
                *cached_bytes -= entry.forget_cached().map_or(0, |record| record.len());
                true
            });
            self.hand = next.unwrap_or_default();
        }
    }
}

fn locate(entry: &Entry, at: At, bare: bool) -> Option<Located> {
    let newest = entry.newest();
    if at == At::Newest || matches!(at, At::Revision(revision) if newest.stamp.main <= revision) {
        return newest.live.then(|| match (entry.cached(), bare) {
            (_, true) => Located::Bare(bare_kv(&entry.key, &newest)),
            (Some(record), false) => Located::Cached(record.clone()),
            (None, false) => Located::Stored(newest.stamp),
        });
    }
    let At::Revision(revision) = at else { unreachable!("the newest version was taken above") };
    entry.at(revision).filter(Past::live).map(|past| Located::Stored(past.stamp))
}

/// What the index knows of a version.
#[must_use]
pub fn bare_kv(key: &[u8], version: &Version) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision: version.create_revision,
        mod_revision: version.stamp.main,
        version: version.version,
        value: Bytes::new(),
        lease: version.lease,
    }
}

fn version(stamp: Stamp, kind: Kind, kv: &KeyValue, record_bytes: usize) -> Version {
    Version {
        stamp,
        size: u32::try_from(STAMP_BYTES + record_bytes).expect("a record is smaller than 2 GiB"),
        live: kind == Kind::Put,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts one key at each revision from 2 on.
    fn index(keys: &[&'static str]) -> Index {
        let mut index = Index::new(1, -1, 0);
        for (key, main) in keys.iter().zip(2..) {
            let kv = KeyValue { key: Bytes::from_static(key.as_bytes()), ..KeyValue::default() };
            index.record(Stamp::first(main), Kind::Put, &kv, Bytes::new());
        }
        index
    }

    #[test]
    fn the_changes_of_a_few_keys_come_in_order() {
        let index = index(&["a", "b", "a", "c", "a", "b", "a", "a"]);
        let changes = |end: &'static str, revisions, keys_max, count| {
            let interval = Interval::of(&Bytes::from_static(b"a"), &Bytes::from_static(end.as_bytes()));
            let changes = index.changes(&interval, revisions, keys_max, count)?;
            Some(changes.iter().map(|past| past.stamp.main).collect::<Vec<_>>())
        };
        assert_eq!(changes("d", (2, 9), 3, 100), Some((2..=9).collect()));
        assert_eq!(changes("d", (2, 9), 2, 100), None);
        assert_eq!(changes("c", (4, 8), 2, 100), Some(vec![4, 6, 7, 8]));
        assert_eq!(changes("", (10, 12), 1, 100), Some(vec![]));
        // Of what is left out, at least the first is there: it tells where the rest begins.
        assert_eq!(changes("", (2, 9), 1, 2), Some(vec![2, 4, 6, 8]));
        assert_eq!(changes("d", (2, 9), 3, 1).map(|mut some| some.drain(..3).collect()), Some(vec![2, 3, 4]));
    }
}
