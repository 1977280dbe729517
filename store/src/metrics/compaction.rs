//! Physical compaction, by the slice and as a whole.

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::{counter, doubling, gauge, histogram};

#[derive(Clone)]
pub struct CompactionMetrics {
    pub records: IntCounter,
    /// How long one slice held the index, which writes wait for.
    pub index_pause_ms: Histogram,
    /// How long the database took to delete what one slice found.
    pub pause_ms: Histogram,
    /// From the start of a compaction to its end.
    pub total_ms: Histogram,
    /// When the last one ended; 0 before the first.
    pub last_unix_s: IntGauge,
}

impl CompactionMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        let milliseconds = |name: &str, help: &str, buckets: Vec<f64>| {
            histogram(r, &format!("etcd_debugging_mvcc_{name}_duration_milliseconds"), help, buckets)
        };
        Self {
            records: counter(r, "etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted."),
            index_pause_ms: milliseconds(
                "index_compaction_pause",
                "Bucketed histogram of index compaction pause duration.",
                doubling(0.5, 14),
            ),
            pause_ms: milliseconds(
                "db_compaction_pause",
                "Bucketed histogram of db compaction pause duration.",
                doubling(1.0, 13),
            ),
            total_ms: milliseconds(
                "db_compaction_total",
                "Bucketed histogram of db compaction total duration.",
                doubling(100.0, 14),
            ),
            last_unix_s: gauge(
                r,
                "etcd_debugging_mvcc_db_compaction_last",
                "The unix time of the last db compaction. Resets to 0 on start.",
            ),
        }
    }
}
