//! Range: every option of it, over the index and the stored records.
//!
//! A range is one point in time. Versions at or below its revision never change, so the index is walked in short slices
//! and the writer goes on between them; what compaction takes away meanwhile shows as [`Gone`], and the caller decides
//! whether to ask again at a newer revision.

use std::cmp::Ordering;

use bytes::Bytes;
use kontiki_api::etcdserverpb::RangeRequest;
use kontiki_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use kontiki_api::mvccpb::KeyValue;
use parking_lot::RwLock;

use super::index::{At, Found, Index, Located, Walk};
use super::interval::Interval;
use super::record::{self, Stamp};

/// Where records are stored.
pub trait Records {
    /// The records at these places, in their order; `None` when one of them is gone.
    fn load(&self, stamps: &[Stamp]) -> Option<Vec<Bytes>>;
}

/// The index and the records it points to.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub index: &'a RwLock<Index>,
    pub records: &'a dyn Records,
}

/// A record that the index named has been compacted away since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// A range's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranged {
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    pub count: i64,
}

/// # Errors
/// [`Gone`] when compaction has passed `at` meanwhile.
pub fn range(view: View, at: At, request: &RangeRequest) -> Result<Ranged, Gone> {
    let interval = Interval::of(&request.key, &request.range_end);
    let Some((start, end)) = interval.bounds() else { return Ok(Ranged::default()) };
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let shape = Shape::of(request);
    // One more than asked for tells whether there are more. Filters and sorting want to see everything first.
    let fetched_max = if limit == 0 || shape.wants_all { usize::MAX } else { limit + 1 };
    let counted = view.index.read().count(&interval, at);
    if request.count_only
        && let Some(count) = counted
    {
        return Ok(Ranged { count: as_i64(count), ..Ranged::default() });
    }
    let walk = Walk {
        end,
        at,
        bare: request.keys_only && shape.target != SortTarget::Value,
        limit: if request.count_only { 0 } else { fetched_max },
        count_all: counted.is_none(),
    };
    let found = walk_all(view, start, walk);
    let count = as_i64(counted.unwrap_or(found.count));
    let mut kvs = load(view, found.located)?;
    kvs.retain(|kv| shape.keeps(kv));
    shape.sort(&mut kvs);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(Ranged { kvs, more, count })
}

/// The live keys of an interval, with values only if asked for.
///
/// # Errors
/// As [`range`].
pub fn all(view: View, at: At, interval: &Interval, bare: bool) -> Result<Vec<KeyValue>, Gone> {
    let Some((start, end)) = interval.bounds() else { return Ok(Vec::new()) };
    load(view, walk_all(view, start, Walk { end, at, bare, limit: usize::MAX, count_all: false }).located)
}

/// One key.
///
/// # Errors
/// As [`range`].
pub fn get(view: View, at: At, key: &Bytes) -> Result<Option<KeyValue>, Gone> {
    Ok(all(view, at, &Interval::single(key.clone()), false)?.pop())
}

fn walk_all(view: View, start: &[u8], walk: Walk) -> Found {
    let mut found = Found::default();
    let mut next = view.index.read().walk(start, walk, &mut found);
    while let Some(from) = next {
        next = view.index.read().walk(&from, walk, &mut found);
    }
    found
}

fn load(view: View, located: Vec<Located>) -> Result<Vec<KeyValue>, Gone> {
    let stamps: Vec<Stamp> = located
        .iter()
        .filter_map(|located| match located {
            Located::Stored(stamp) => Some(*stamp),
            Located::Cached(_) | Located::Bare(_) => None,
        })
        .collect();
    let stored = if stamps.is_empty() { Vec::new() } else { view.records.load(&stamps).ok_or(Gone)? };
    let mut stored = stored.into_iter();
    let kvs = located.into_iter().map(|located| match located {
        Located::Cached(record) => record::decode_own(record),
        Located::Bare(kv) => kv,
        Located::Stored(_) => record::decode_own(stored.next().expect("one record for each place")),
    });
    Ok(kvs.collect())
}

/// The options that decide on order and membership.
struct Shape<'a> {
    request: &'a RangeRequest,
    order: SortOrder,
    target: SortTarget,
    wants_all: bool,
}

impl<'a> Shape<'a> {
    fn of(request: &'a RangeRequest) -> Self {
        let filtered = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let order = request.sort_order();
        Self { request, order, target: request.sort_target(), wants_all: filtered || order != SortOrder::None }
    }

    fn keeps(&self, kv: &KeyValue) -> bool {
        let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        within(kv.mod_revision, self.request.min_mod_revision, self.request.max_mod_revision)
            && within(kv.create_revision, self.request.min_create_revision, self.request.max_create_revision)
    }

    /// etcd's quirk is kept: a target other than the key with no order sorts ascending, but only what the limit has left.
    fn sort(&self, kvs: &mut [KeyValue]) {
        let descending = match (self.order, self.target) {
            (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => return,
            (SortOrder::None | SortOrder::Ascend, _) => false,
            (SortOrder::Descend, _) => true,
        };
        kvs.sort_by(|a, b| {
            let order = self.compare(a, b);
            if descending { order.reverse() } else { order }
        });
    }

    fn compare(&self, a: &KeyValue, b: &KeyValue) -> Ordering {
        match self.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    }
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).expect("fewer than 2^63 keys")
}
