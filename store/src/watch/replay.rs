//! Reading missed revisions, a slice at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_api::mvccpb::KeyValue;
use parking_lot::Mutex;

use super::hub::Hub;
use super::ring::{Block, Change};
use crate::io::engine::{Family, Step};
use crate::limits;
use crate::mvcc::index::At;
use crate::mvcc::interval::Interval;
use crate::mvcc::range::{self, Records as _};
use crate::mvcc::record::{self, Kind, Stamp};
use crate::state::core::Core;

/// Consecutive revisions as they were read from disk.
pub(crate) struct Past {
    from: i64,
    /// The first revision after them.
    next: i64,
    blocks: Vec<Arc<Block>>,
}

/// The part of it that a watcher has not seen.
pub(crate) struct Slice {
    past: Arc<Past>,
    seen: usize,
}

impl Slice {
    /// The watcher's changes are all in here, and maybe others.
    pub(crate) fn blocks(&self) -> &[Arc<Block>] {
        &self.past.blocks[self.seen..]
    }

    /// Everything before this revision has been seen.
    pub(crate) fn next(&self) -> i64 {
        self.past.next
    }

    #[cfg(test)]
    pub(crate) fn was_read_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.past, &other.past)
    }
}

/// What was read last, for as long as anybody replays: who comes back after a failure comes with all the others, and they
/// have missed the same.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// In the order of their use.
    pasts: VecDeque<Arc<Past>>,
    replays: usize,
    /// How often the contents were replaced: what was read before is not of them.
    generation: u64,
}

impl Recent {
    pub(crate) fn begin(&self) {
        self.0.lock().replays += 1;
    }

    pub(crate) fn end(&self) {
        let mut kept = self.0.lock();
        kept.replays -= 1;
        if kept.replays == 0 {
            kept.pasts.clear();
        }
    }

    /// For when the contents are replaced.
    pub(crate) fn forget(&self) {
        let mut kept = self.0.lock();
        kept.pasts.clear();
        kept.generation += 1;
    }

    fn find_or(&self, from: i64, read: impl FnOnce() -> Past) -> Arc<Past> {
        let generation = {
            let mut kept = self.0.lock();
            if let Some(place) = kept.pasts.iter().position(|past| (past.from..past.next).contains(&from)) {
                let found = kept.pasts.remove(place).expect("it was just seen");
                kept.pasts.push_back(found.clone());
                return found;
            }
            kept.generation
        };
        let past = Arc::new(read());
        let mut kept = self.0.lock();
        if kept.generation == generation && kept.replays > 0 {
            kept.pasts.push_back(past.clone());
            if kept.pasts.len() > limits::WATCH_PASTS_KEPT {
                kept.pasts.pop_front();
            }
        }
        past
    }
}

/// The history has been compacted away; the floor.
pub(crate) struct Compacted(pub(crate) i64);

/// Reads from `from` up to and with `newest`, ending early, at the end of a revision, when enough has been read. Where no
/// more than `keys_max` keys are in the range, the index tells which records to read; else all are read, for everybody.
pub(crate) fn slice(hub: &Hub, interval: &Interval, (from, newest): (i64, i64)) -> Result<Slice, Compacted> {
    let core = &hub.core;
    let _reading = core.metrics.reading();
    let past = match indexed(core, interval, (from, newest), hub.replay_keys_max) {
        Some(own) => Arc::new(own),
        None => hub.recent.find_or(from, || scanned(core, (from, newest))),
    };
    // Compaction may have removed records while they were read; if it has come no further than `from`, it has not.
    let floor = core.index.read().floor();
    if from < floor {
        return Err(Compacted(floor));
    }
    let seen = past.blocks.partition_point(|block| block.revision < from);
    Ok(Slice { past, seen })
}

/// The changes of a slice by their revisions.
#[derive(Default)]
struct Revisions(Vec<(i64, Vec<Change>)>);

impl Revisions {
    fn push(&mut self, revision: i64, kind: Kind, kv: KeyValue) {
        // A put that did not create its key replaced something, and a deletion always did.
        let replaces = kind == Kind::Delete || kv.create_revision < revision;
        let change = Change::new(kind, kv, replaces, None);
        match self.0.last_mut() {
            Some((last, changes)) if *last == revision => changes.push(change),
            _ => self.0.push((revision, vec![change])),
        }
    }

    fn between(self, from: i64, next: i64) -> Past {
        let blocks = self.0.into_iter().map(|(revision, changes)| Arc::new(Block::new(revision, changes)));
        Past { from, next, blocks: blocks.collect() }
    }
}

fn is_full(records: usize, bytes: usize) -> bool {
    records >= limits::WATCH_REPLAY_RECORDS || bytes >= limits::WATCH_RESPONSE_BYTES
}

/// `None` when there are too many keys, or when a record has been compacted away meanwhile.
fn indexed(core: &Core, interval: &Interval, (from, newest): (i64, i64), keys_max: usize) -> Option<Past> {
    let mut changes = core.index.read().changes(interval, (from, newest), keys_max, limits::WATCH_REPLAY_RECORDS)?;
    let mut bytes = 0;
    let rest = changes.iter().enumerate().position(|(index, past)| {
        // Only between revisions: one is never delivered in parts.
        let ends = is_full(index, bytes) && changes[index - 1].stamp.main != past.stamp.main;
        bytes += past.size() as usize;
        ends
    });
    let next = rest.map_or(newest + 1, |rest| changes[rest].stamp.main);
    changes.truncate(rest.unwrap_or(changes.len()));
    let stamps: Vec<Stamp> = changes.iter().map(|past| past.stamp).collect();
    let engine = core.engine();
    let mut revisions = Revisions::default();
    for (stamp, record) in stamps.iter().zip(engine.load(&stamps)?) {
        let decoded = record::decode(record).map_err(std::io::Error::other);
        let (kind, kv) = decoded.unwrap_or_else(|error| engine.unreadable(&error));
        revisions.push(stamp.main, kind, kv);
    }
    Some(revisions.between(from, next))
}

fn scanned(core: &Core, (from, newest): (i64, i64)) -> Past {
    let mut revisions = Revisions::default();
    let mut next = newest + 1;
    let (mut records, mut bytes, mut last) = (0, 0, 0);
    let mut visit = |key: &[u8], value: &[u8]| {
        let stamp = Stamp::from_bytes(key).map_err(std::io::Error::other)?;
        // Only between revisions: one is never delivered in parts.
        if stamp.main > newest || (is_full(records, bytes) && stamp.main != last) {
            next = next.min(stamp.main);
            return Ok(Step::Stop);
        }
        last = stamp.main;
        records += 1;
        let (kind, kv) = record::decode(Bytes::copy_from_slice(value)).map_err(std::io::Error::other)?;
        bytes += value.len();
        revisions.push(stamp.main, kind, kv);
        Ok::<_, std::io::Error>(Step::Next)
    };
    let engine = core.engine();
    let scanned = engine.scan(Family::Records, &Stamp::first(from).to_bytes(), &mut visit);
    scanned.unwrap_or_else(|error| engine.unreadable(&error));
    revisions.between(from, next)
}

/// The value of `key` before its change at `revision`; nothing if there was none or it has been compacted away.
pub(crate) fn previous(core: &Core, key: &Bytes, revision: i64) -> Option<KeyValue> {
    let before = revision - 1;
    if before < core.index.read().floor() {
        return None;
    }
    range::get(core.view(core), At::Revision(before), key).ok().flatten()
}
