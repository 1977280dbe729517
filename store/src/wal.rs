//! The log's format and its decisions, without any file: frames, segments, recovery, and the in-memory tail.
//!
//! A log is a row of segments; a segment is a header and frames; a frame is what one group commit wrote and synced, and
//! holds records: entries, votes, truncations, purges. `io::wal` writes and reads it; `consensus::log_store` gives it
//! Raft's meaning. Here an entry is an id, a kind and bytes, nothing more.

use bytes::Bytes;

pub mod frame;
pub mod recovery;
pub mod segment;
pub mod tail;

/// An entry's identity: who led, in which term, and the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// One log entry. `kind` says how `payload` is to be read; the log itself does not care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    pub kind: u8,
    pub payload: Bytes,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Entry(Entry),
    /// The vote, opaque here. The last one counts.
    Vote(Bytes),
    /// Every entry at `from` and after it is gone.
    Truncate {
        from: u64,
    },
    /// Every entry up to this one is gone, and the log goes on after it.
    Purge(EntryId),
}

/// Where a record's bytes are. 12 bytes an entry: a hundred thousand entries cost about a megabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

/// A byte in the log as a whole; ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset {
    pub segment: u64,
    pub byte: u64,
}
