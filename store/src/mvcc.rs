//! Multi-version keys and values: the index, the record format, ranges, transactions, compaction.
//!
//! Every version of every key is a record in RocksDB, ordered by time. An in-memory B-tree finds them: current and
//! historic reads are decided in memory, and the disk only supplies bytes. Nothing here knows of Raft or of clients.

pub mod compare;
pub mod entry;
pub mod hash;
mod heads;
pub mod index;
pub mod interval;
pub mod range;
pub mod record;
pub mod tree;
