//! How long applying takes, by kind of command.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, Registry};

use super::{counter, doubling, labelled};
use crate::command::Command;

/// The two outcomes of a kind of command.
#[derive(Clone)]
struct Outcomes {
    applied: Histogram,
    refused: Histogram,
}

#[derive(Clone)]
pub struct ApplyMetrics {
    put: Outcomes,
    delete_range: Outcomes,
    txn: Outcomes,
    compaction: Outcomes,
    lease_grant: Outcomes,
    lease_revoke: Outcomes,
    other: Outcomes,
    slow: IntCounter,
}

impl Default for ApplyMetrics {
    /// Counts for nobody.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl ApplyMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let outcomes = |op: &str| {
            let outcome = |success: &str| {
                labelled(
                    registry,
                    "etcd_server_apply_duration_seconds",
                    "The latency distributions of applying a command.",
                    doubling(0.0001, 20),
                    &[("version", "v3"), ("op", op), ("success", success)],
                )
            };
            Outcomes { applied: outcome("true"), refused: outcome("false") }
        };
        Self {
            put: outcomes("Put"),
            delete_range: outcomes("DeleteRange"),
            txn: outcomes("Txn"),
            compaction: outcomes("Compaction"),
            lease_grant: outcomes("LeaseGrant"),
            lease_revoke: outcomes("LeaseRevoke"),
            other: outcomes("Other"),
            slow: counter(
                registry,
                "etcd_server_slow_apply_total",
                "The total number of slow apply requests (likely overloaded from slow disk).",
            ),
        }
    }

    /// Notes one command; what took longer than `warning` counts as slow and is said to be.
    pub fn note(&self, command: &Command, succeeded: bool, took: Duration, warning: Duration) {
        let (name, outcomes) = match command {
            Command::Put(_) => ("Put", &self.put),
            Command::DeleteRange(_) => ("DeleteRange", &self.delete_range),
            Command::Txn(_) => ("Txn", &self.txn),
            Command::Compact(_) => ("Compaction", &self.compaction),
            Command::LeaseGrant(_) => ("LeaseGrant", &self.lease_grant),
            Command::LeaseRevoke(_) => ("LeaseRevoke", &self.lease_revoke),
            // The rare ones share a name: membership, users, alarms.
            _ => ("Other", &self.other),
        };
        let outcome = if succeeded { &outcomes.applied } else { &outcomes.refused };
        outcome.observe(took.as_secs_f64());
        if took > warning {
            self.slow.inc();
            tracing::warn!(
                took = ?took,
                "expected-duration" = ?warning,
                request = name,
                success = succeeded,
                "apply request took too long"
            );
        }
    }
}
