//! A digest of the logical contents: equal on members that hold the same history above the same floor.
//!
//! Which records are still on disk differs between members, because compaction is not in step. So what counts is what
//! must be there: everything above the floor, and of each key the version that is visible at the floor. The deletion that
//! compaction keeps for watches is left out, as a member may already have dropped it.

use std::io;

use parking_lot::RwLock;

use super::index::Index;
use super::record::{self, Kind, Stamp};
use crate::io::engine::{Engine, Family, Step};
use crate::limits;

/// The digest as of `revision`; worthless if the index's floor is no longer `floor` afterwards. `rest` is called now and
/// then.
///
/// # Errors
/// When the disk refuses, or lies.
pub fn digest(
    index: &RwLock<Index>,
    engine: &Engine,
    revision: i64,
    floor: i64,
    rest: &mut dyn FnMut(),
) -> io::Result<u32> {
    let (mut crc, mut seen) = (0, 0);
    let mut visit = |key: &[u8], value: &[u8]| {
        let stamp = Stamp::from_bytes(key).map_err(damaged)?;
        if stamp.main > revision {
            return Ok(Step::Stop);
        }
        seen += 1;
        if seen % limits::DIGEST_SLICE_RECORDS == 0 {
            rest();
        }
        if stamp.main > floor || visible_at(index, stamp, floor, value)? {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
        }
        Ok::<_, io::Error>(Step::Next)
    };
    engine.scan(Family::Records, b"", &mut visit)?;
    Ok(crc)
}

/// Whether this record is what a read of its key at `floor` finds.
fn visible_at(index: &RwLock<Index>, stamp: Stamp, floor: i64, value: &[u8]) -> io::Result<bool> {
    let (kind, key) = record::peek(value).map_err(damaged)?;
    if kind == Kind::Delete {
        return Ok(false);
    }
    let index = index.read();
    let found = index.get(&key).and_then(|entry| entry.at(floor));
    Ok(found.is_some_and(|past| past.stamp == stamp))
}

fn damaged(error: record::RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
