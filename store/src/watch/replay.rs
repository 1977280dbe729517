//! Reading missed revisions from disk, a slice at a time.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_api::mvccpb::KeyValue;

use super::ring::{Block, Change};
use crate::io::engine::{Family, Step};
use crate::limits;
use crate::mvcc::index::At;
use crate::mvcc::interval::Interval;
use crate::mvcc::range;
use crate::mvcc::record::{self, Kind, Stamp};
use crate::state::core::Core;

/// One slice of history, for one range.
pub(crate) struct Slice {
    /// The revisions with matching changes; only those changes are in them.
    pub(crate) blocks: Vec<Arc<Block>>,
    /// Everything before this revision has been seen.
    pub(crate) next: i64,
}

/// The history has been compacted away; the floor.
pub(crate) struct Compacted(pub(crate) i64);

/// Reads from `from` up to and with `newest`, ending early, at the end of a revision, when enough has been read.
pub(crate) fn slice(core: &Core, interval: &Interval, from: i64, newest: i64) -> Result<Slice, Compacted> {
    let _reading = core.metrics.reading();
    let mut revisions: Vec<(i64, Vec<Change>)> = Vec::new();
    let mut next = newest + 1;
    let (mut records, mut bytes, mut last) = (0, 0, 0);
    let mut visit = |key: &[u8], value: &[u8]| {
        let stamp = Stamp::from_bytes(key).map_err(std::io::Error::other)?;
        let full = records >= limits::WATCH_REPLAY_RECORDS || bytes >= limits::WATCH_RESPONSE_BYTES;
        // Only between revisions: one is never delivered in parts.
        if stamp.main > newest || (full && stamp.main != last) {
            next = next.min(stamp.main);
            return Ok(Step::Stop);
        }
        last = stamp.main;
        records += 1;
        let (kind, kv) = record::decode(Bytes::copy_from_slice(value)).map_err(std::io::Error::other)?;
        if interval.contains(&kv.key) {
            bytes += value.len();
            // A put that did not create its key replaced something, and a deletion always did.
            let replaces = kind == Kind::Delete || kv.create_revision < stamp.main;
            let change = Change::new(kind, kv, replaces, None);
            match revisions.last_mut() {
                Some((revision, changes)) if *revision == stamp.main => changes.push(change),
                _ => revisions.push((stamp.main, vec![change])),
            }
        }
        Ok::<_, std::io::Error>(Step::Next)
    };
    let engine = core.engine();
    let scanned = engine.scan(Family::Records, &Stamp::first(from).to_bytes(), &mut visit);
    scanned.unwrap_or_else(|error| engine.unreadable(&error));
    // Compaction may have removed records while they were read; if it has come no further than `from`, it has not.
    let floor = core.index.read().floor();
    if from < floor {
        return Err(Compacted(floor));
    }
    let blocks = revisions.into_iter().map(|(revision, changes)| Arc::new(Block::new(revision, changes)));
    Ok(Slice { blocks: blocks.collect(), next })
}

/// The value of `key` before its change at `revision`; nothing if there was none or it has been compacted away.
pub(crate) fn previous(core: &Core, key: &Bytes, revision: i64) -> Option<KeyValue> {
    let before = revision - 1;
    if before < core.index.read().floor() {
        return None;
    }
    range::get(core.view(core), At::Revision(before), key).ok().flatten()
}
