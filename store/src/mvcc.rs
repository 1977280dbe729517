//! Multi-version keys and values: the index, the record format, ranges, transactions, compaction.

pub mod entry;
pub mod interval;
pub mod record;
pub mod tree;
