//! Snapshots. What Raft calls one is a flush of the state here, and what travels to a follower is a checkpoint.

use std::time::Duration;

use prometheus::{Histogram, Registry};

use super::{doubling, histogram};

#[derive(Clone)]
pub struct SnapshotMetrics {
    /// Making the state durable, for a snapshot of this member's own.
    flush_s: Histogram,
    /// Describing such a snapshot: where it ends, and who belongs to the cluster.
    description_s: Histogram,
    /// Both together.
    save_s: Histogram,
    /// Syncing the files of a checkpoint that another member sent.
    pub received_fsync_s: Histogram,
    /// From the beginning of such a checkpoint until it is durable.
    pub received_s: Histogram,
}

impl Default for SnapshotMetrics {
    /// Counts for nobody.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl SnapshotMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let seconds = |name: &str, help: &str| histogram(registry, name, help, doubling(0.001, 14));
        Self {
            flush_s: seconds(
                "etcd_snap_fsync_duration_seconds",
                "The latency distributions of making the state durable for a snapshot.",
            ),
            description_s: seconds(
                "etcd_debugging_snap_save_marshalling_duration_seconds",
                "The cost distributions of describing a snapshot.",
            ),
            save_s: seconds(
                "etcd_debugging_snap_save_total_duration_seconds",
                "The total latency distributions of making a snapshot.",
            ),
            received_fsync_s: seconds(
                "etcd_snap_db_fsync_duration_seconds",
                "The latency distributions of fsyncing the files of a received snapshot.",
            ),
            received_s: histogram(
                registry,
                "etcd_snap_db_save_total_duration_seconds",
                "The total latency distributions of receiving and saving a snapshot.",
                doubling(0.1, 10),
            ),
        }
    }

    pub(crate) fn note_saved(&self, flushed: Duration, described: Duration) {
        self.flush_s.observe(flushed.as_secs_f64());
        self.description_s.observe(described.as_secs_f64());
        self.save_s.observe((flushed + described).as_secs_f64());
    }
}
