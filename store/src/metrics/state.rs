//! The state machine: keys, revisions, watchers, leases and the database under them.

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::{counter, doubling, gauge, histogram};
use crate::lease::table::LeaseChange;

/// What a batch of commands did, counted without atomics and added up when it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub puts: u64,
    pub put_bytes: u64,
    pub deletes: u64,
    pub ranges: u64,
    /// Commands of more than one operation.
    pub txns: u64,
}

impl Counts {
    /// Operations so far, of any kind.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.puts + self.deletes + self.ranges
    }
}

#[derive(Clone)]
pub struct StateMetrics {
    puts: IntCounter,
    deletes: IntCounter,
    ranges: IntCounter,
    txns: IntCounter,
    put_bytes: IntGauge,
    /// One write of the database: a batch of commands.
    pub commit: Histogram,
    pub compacted_records: IntCounter,
    /// From the start of a physical compaction to its end.
    pub compaction_ms: Histogram,
    leases_granted: IntCounter,
    leases_revoked: IntCounter,
    lease_ttl_s: Histogram,
    pub events_sent: IntCounter,
    pub watchers: IntGauge,
    pub watch_streams: IntGauge,
    /// Watchers that still read the past.
    pub slow_watchers: IntGauge,
    pub keys: IntGauge,
    pub revision: IntGauge,
    pub compact_revision: IntGauge,
    pub size: IntGauge,
    pub size_in_use: IntGauge,
}

impl Default for StateMetrics {
    /// Counts for nobody.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl std::fmt::Debug for StateMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateMetrics").finish_non_exhaustive()
    }
}

impl StateMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let r = registry;
        // Watchers fetch events when they can send them: none is ever waiting in memory.
        gauge(r, "etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.");
        Self {
            puts: counter(r, "etcd_mvcc_put_total", "Total number of puts seen by this member."),
            deletes: counter(r, "etcd_mvcc_delete_total", "Total number of deletes seen by this member."),
            ranges: counter(r, "etcd_mvcc_range_total", "Total number of ranges seen by this member."),
            txns: counter(r, "etcd_mvcc_txn_total", "Total number of txns seen by this member."),
            put_bytes: gauge(
                r,
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "The total size of put kv pairs seen by this member.",
            ),
            commit: histogram(
                r,
                "etcd_disk_backend_commit_duration_seconds",
                "The latency distributions of commit called by the state database.",
                doubling(0.001, 14),
            ),
            compacted_records: counter(
                r,
                "etcd_debugging_mvcc_db_compaction_keys_total",
                "Total number of db keys compacted.",
            ),
            compaction_ms: histogram(
                r,
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Bucketed histogram of db compaction total duration.",
                doubling(100.0, 14),
            ),
            leases_granted: counter(r, "etcd_debugging_lease_granted_total", "The total number of granted leases."),
            leases_revoked: counter(r, "etcd_debugging_lease_revoked_total", "The total number of revoked leases."),
            lease_ttl_s: histogram(
                r,
                "etcd_debugging_lease_ttl_total",
                "Bucketed histogram of lease TTLs.",
                doubling(1.0, 24),
            ),
            events_sent: counter(r, "etcd_debugging_mvcc_events_total", "Total number of events sent by this member."),
            watchers: gauge(r, "etcd_debugging_mvcc_watcher_total", "Total number of watchers."),
            watch_streams: gauge(r, "etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams."),
            slow_watchers: gauge(
                r,
                "etcd_debugging_mvcc_slow_watcher_total",
                "Total number of unsynced slow watchers.",
            ),
            keys: gauge(r, "etcd_debugging_mvcc_keys_total", "Total number of keys."),
            revision: gauge(r, "etcd_debugging_mvcc_current_revision", "The current revision of store."),
            compact_revision: gauge(
                r,
                "etcd_debugging_mvcc_compact_revision",
                "The revision of the last compaction in store.",
            ),
            size: gauge(r, "etcd_mvcc_db_total_size_in_bytes", "Total size of the stored records in bytes."),
            size_in_use: gauge(
                r,
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Total size of the stored records logically in use in bytes.",
            ),
        }
    }

    pub(crate) fn note_lease(&self, change: &LeaseChange) {
        match change {
            LeaseChange::Granted { ttl_s, .. } => {
                self.leases_granted.inc();
                self.lease_ttl_s.observe(*ttl_s as f64);
            }
            LeaseChange::Revoked { .. } => self.leases_revoked.inc(),
        }
    }

    /// Adds what a batch did.
    pub fn add(&self, counts: &Counts) {
        let Counts { puts, put_bytes, deletes, ranges, txns } = *counts;
        let add = |counter: &IntCounter, by: u64| {
            if by > 0 {
                counter.inc_by(by);
            }
        };
        add(&self.puts, puts);
        add(&self.deletes, deletes);
        add(&self.ranges, ranges);
        add(&self.txns, txns);
        if put_bytes > 0 {
            self.put_bytes.add(i64::try_from(put_bytes).unwrap_or(i64::MAX));
        }
    }
}
