//! A digest of the logical contents: equal on members that hold the same history above the same floor.
//!
//! Which records are still on disk differs between members, because compaction is not in step. So what counts is what
//! must be there: everything above the floor, and of each key the version that is visible at the floor. The deletion that
//! compaction keeps for watches is left out, as a member may already have dropped it.

use parking_lot::RwLock;

use super::index::Index;
use super::record::{self, Kind, Stamp};
use crate::io::engine::{Engine, Family, Step};

/// The digest as of `revision`; worthless if the index's floor is no longer `floor` afterwards.
#[must_use]
pub fn digest(index: &RwLock<Index>, engine: &Engine, revision: i64, floor: i64) -> u32 {
    let mut crc = 0;
    let mut visit = |key: &[u8], value: &[u8]| {
        let stamp = Stamp::from_bytes(key).map_err(damaged)?;
        if stamp.main > revision {
            return Ok(Step::Stop);
        }
        if stamp.main > floor || visible_at(index, stamp, floor, value)? {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
        }
        Ok::<_, std::io::Error>(Step::Next)
    };
    engine.scan(Family::Records, b"", &mut visit).expect("the state database can be read");
    crc
}

/// Whether this record is what a read of its key at `floor` finds.
fn visible_at(index: &RwLock<Index>, stamp: Stamp, floor: i64, value: &[u8]) -> Result<bool, std::io::Error> {
    let (kind, kv) = record::decode(bytes::Bytes::copy_from_slice(value)).map_err(damaged)?;
    if kind == Kind::Delete {
        return Ok(false);
    }
    let index = index.read();
    let found = index.get(&kv.key).and_then(|entry| entry.at(floor));
    Ok(found.is_some_and(|past| past.stamp == stamp))
}

fn damaged(error: record::RecordError) -> std::io::Error {
    std::io::Error::other(error)
}
