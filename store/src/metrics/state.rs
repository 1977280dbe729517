//! The state machine: keys, revisions, watchers, leases and the database under them.

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::{CompactionMetrics, WatchMetrics, counter, doubling, gauge, histogram};
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
    pub compaction: CompactionMetrics,
    leases_granted: IntCounter,
    leases_revoked: IntCounter,
    lease_ttl_s: Histogram,
    pub watch: WatchMetrics,
    reads: IntGauge,
    pub keys: IntGauge,
    pub revision: IntGauge,
    pub compact_revision: IntGauge,
    pub size: IntGauge,
    pub size_in_use: IntGauge,
    pub auth_revision: IntGauge,
}

/// Counts as a read in progress until it is dropped.
pub(crate) struct Reading<'a>(&'a IntGauge);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
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
            compaction: CompactionMetrics::new(r),
            leases_granted: counter(r, "etcd_debugging_lease_granted_total", "The total number of granted leases."),
            leases_revoked: counter(r, "etcd_debugging_lease_revoked_total", "The total number of revoked leases."),
            lease_ttl_s: histogram(
                r,
                "etcd_debugging_lease_ttl_total",
                "Bucketed histogram of lease TTLs.",
                doubling(1.0, 24),
            ),
            watch: WatchMetrics::new(r),
            reads: gauge(
                r,
                "etcd_mvcc_db_open_read_transactions",
                "The number of reads of the stored records in progress: ranges, digests, replays, snapshots.",
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
            auth_revision: gauge(r, "etcd_debugging_auth_revision", "The current revision of auth store."),
        }
    }

    /// A read of the stored records begins.
    pub(crate) fn reading(&self) -> Reading<'_> {
        self.reads.inc();
        Reading(&self.reads)
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
