//! The log's disk.

use prometheus::{Histogram, IntGauge, Registry};

use super::{doubling, gauge, histogram};

#[derive(Clone)]
pub struct WalMetrics {
    /// Writing one group, without its sync.
    pub write: Histogram,
    pub fsync: Histogram,
    /// A gauge by type, as etcd's is; it only grows.
    pub written_bytes: IntGauge,
}

impl Default for WalMetrics {
    /// Counts for nobody.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl WalMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let buckets = || doubling(0.001, 14);
        Self {
            write: histogram(
                registry,
                "etcd_disk_wal_write_duration_seconds",
                "The latency distributions of writing a group of entries to the log.",
                buckets(),
            ),
            fsync: histogram(
                registry,
                "etcd_disk_wal_fsync_duration_seconds",
                "The latency distributions of fsync called by the log.",
                buckets(),
            ),
            written_bytes: gauge(
                registry,
                "etcd_disk_wal_write_bytes_total",
                "Total number of bytes written to the log.",
            ),
        }
    }
}
