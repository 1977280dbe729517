//! One key of the index: its newest version in full, and where its older ones are.

use std::mem;

use bytes::Bytes;

use super::record::Stamp;

/// The newest version of a key, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub stamp: Stamp,
    /// Bytes of the stored record with its key.
    pub size: u32,
    /// False for a deletion.
    pub live: bool,
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// An older version: only what is needed to find and to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub stamp: Stamp,
    /// The size, shifted left by one, and whether it is live.
    packed: u32,
}

fn pack(version: &Version) -> u32 {
    assert!(version.size < u32::MAX / 2, "a record is smaller than 2 GiB");
    version.size << 1 | u32::from(version.live)
}

impl Past {
    #[must_use]
    pub fn live(&self) -> bool {
        self.packed & 1 == 1
    }

    #[must_use]
    pub fn size(&self) -> u32 {
        self.packed >> 1
    }
}

/// Oldest first. A type of its own so that the common case, none, takes one word in the entry.
#[derive(Debug, Default)]
struct History(Vec<Past>);

/// There is one for every key, so each word of it is counted: what is rare lies behind a pointer.
#[derive(Debug)]
pub struct Entry {
    pub key: Box<[u8]>,
    main: i64,
    create_revision: i64,
    version: i64,
    lease: i64,
    sub: u32,
    packed: u32,
    older: Option<Box<History>>,
    /// The newest version's record, ready to be answered.
    cached: Option<Box<Bytes>>,
}

impl Entry {
    #[must_use]
    pub fn new(key: &[u8], newest: Version, cached: Option<Bytes>) -> Self {
        let Version { stamp: Stamp { main, sub }, create_revision, version, lease, .. } = newest;
        let (packed, cached) = (pack(&newest), cached.map(Box::new));
        Self { key: key.into(), main, create_revision, version, lease, sub, packed, older: None, cached }
    }

    #[must_use]
    pub fn newest(&self) -> Version {
        let Past { stamp, packed } = self.newest_past();
        let (live, size) = (packed & 1 == 1, packed >> 1);
        let Self { create_revision, version, lease, .. } = *self;
        Version { stamp, size, live, create_revision, version, lease }
    }

    /// Whether the newest version is no deletion.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.packed & 1 == 1
    }

    #[must_use]
    pub fn cached(&self) -> Option<&Bytes> {
        self.cached.as_deref()
    }

    pub fn forget_cached(&mut self) -> Option<Bytes> {
        self.cached.take().map(|cached| *cached)
    }

    fn newest_past(&self) -> Past {
        Past { stamp: Stamp { main: self.main, sub: self.sub }, packed: self.packed }
    }

    /// Adds a newer version and returns what was cached for the one before.
    pub fn push(&mut self, newest: Version, cached: Option<Bytes>) -> Option<Bytes> {
        let past = self.newest_past();
        assert!(newest.stamp > past.stamp, "versions of a key are recorded in order");
        self.older.get_or_insert_default().0.push(past);
        let Version { stamp: Stamp { main, sub }, create_revision, version, lease, .. } = newest;
        (self.main, self.sub, self.packed) = (main, sub, pack(&newest));
        (self.create_revision, self.version, self.lease) = (create_revision, version, lease);
        mem::replace(&mut self.cached, cached.map(Box::new)).map(|cached| *cached)
    }

    /// The version that was current at `revision`, deleted or not.
    #[must_use]
    pub fn at(&self, revision: i64) -> Option<Past> {
        if self.main <= revision {
            return Some(self.newest_past());
        }
        let older = &self.older.as_ref()?.0;
        let after = older.partition_point(|past| past.stamp.main <= revision);
        after.checked_sub(1).map(|index| older[index])
    }

    /// Its versions from `revision` on, oldest first.
    pub fn since(&self, revision: i64) -> impl Iterator<Item = Past> {
        let older = self.older.as_ref().map_or(&[][..], |history| &history.0);
        let first = older.partition_point(|past| past.stamp.main < revision);
        let newest = (self.main >= revision).then(|| self.newest_past());
        older[first..].iter().copied().chain(newest)
    }

    #[must_use]
    pub fn live_at(&self, revision: i64) -> bool {
        self.at(revision).is_some_and(|past| past.live())
    }

    /// Drops what no read at `floor` or later can see, into `removed`, and says whether anything is left. A deletion at
    /// exactly `floor` stays, for watches that start there.
    pub fn prune(&mut self, floor: i64, removed: &mut Vec<Past>) -> bool {
        if let Some(older) = &mut self.older {
            let history = &mut older.0;
            let visible = history.partition_point(|past| past.stamp.main <= floor);
            let newest_visible = self.main <= floor;
            // The newest version at or below the floor stays if it is live; it is the last of the visible ones, unless
            // the newest of all is visible too and hides it.
            let keep_last = !newest_visible
                && visible > 0
                && (history[visible - 1].live() || history[visible - 1].stamp.main == floor);
            removed.extend(history.drain(..visible - usize::from(keep_last)));
            if history.is_empty() {
                self.older = None;
            } else if history.capacity() > 4 * history.len() {
                history.shrink_to_fit();
            }
        }
        let dead = !self.is_live() && self.main < floor;
        if dead {
            assert!(self.older.is_none(), "nothing is newer than the newest version");
            removed.push(self.newest_past());
        }
        !dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(main: i64, live: bool) -> Version {
        Version { stamp: Stamp::first(main), size: 10, live, create_revision: 1, version: 1, lease: 0 }
    }

    fn entry(versions: &[(i64, bool)]) -> Entry {
        let mut entry = Entry::new(b"k", version(versions[0].0, versions[0].1), None);
        for &(main, live) in &versions[1..] {
            entry.push(version(main, live), None);
        }
        entry
    }

    /// Prunes at `floor` and returns the revisions removed and whether the key stays.
    fn pruned(versions: &[(i64, bool)], floor: i64) -> (Vec<i64>, bool) {
        let mut removed = Vec::new();
        let stays = entry(versions).prune(floor, &mut removed);
        (removed.iter().map(|past| past.stamp.main).collect(), stays)
    }

    #[test]
    fn a_read_sees_the_newest_version_that_is_not_later() {
        let entry = entry(&[(2, true), (5, false), (9, true)]);
        assert_eq!(entry.at(1), None);
        assert!(entry.live_at(2) && entry.live_at(4));
        assert!(!entry.live_at(5) && !entry.live_at(8));
        assert!(entry.live_at(9) && entry.live_at(100));
    }

    #[test]
    fn pruning_keeps_the_version_visible_at_the_floor() {
        assert_eq!(pruned(&[(2, true), (5, true), (9, true)], 6), (vec![2], true));
        assert_eq!(pruned(&[(2, true), (5, true), (9, true)], 9), (vec![2, 5], true));
        assert_eq!(pruned(&[(2, true), (5, true), (9, true)], 1), (vec![], true));
    }

    #[test]
    fn pruning_removes_a_key_that_was_deleted_before_the_floor() {
        assert_eq!(pruned(&[(2, true), (5, false)], 6), (vec![2, 5], false));
        assert_eq!(pruned(&[(2, true), (5, false), (9, true)], 6), (vec![2, 5], true));
    }

    #[test]
    fn the_deletion_at_the_floor_itself_is_kept() {
        assert_eq!(pruned(&[(2, true), (5, false)], 5), (vec![2], true));
        assert_eq!(pruned(&[(2, true), (5, false), (9, true)], 5), (vec![2], true));
    }
}
