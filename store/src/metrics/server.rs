//! The member as a whole: leadership, proposals, health, and what it was told to be.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{counter, counters, gauge, gauges};

pub struct ServerMetrics {
    pub has_leader: IntGauge,
    pub is_leader: IntGauge,
    pub is_learner: IntGauge,
    pub leader_changes: IntCounter,
    pub id: IntGaugeVec,
    pub version: IntGaugeVec,
    pub cluster_version: IntGaugeVec,
    pub committed: IntGauge,
    pub applied: IntGauge,
    pub pending: IntGauge,
    pub failed: IntCounter,
    pub slow_read_indexes: IntCounter,
    pub failed_read_indexes: IntCounter,
    pub snapshots_applying: IntGauge,
    pub learners_promoted: IntCounter,
    pub quota_bytes: IntGauge,
    pub leases_expired: IntCounter,
    pub leases_renewed: IntCounter,
    pub health_successes: IntCounter,
    pub health_failures: IntCounter,
    pub check: IntGaugeVec,
    pub checks: IntCounterVec,
    pub features: IntGaugeVec,
}

impl ServerMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        let server = |name: &str, help: &str| gauge(r, &format!("etcd_server_{name}"), help);
        let total = |name: &str, help: &str| counter(r, &format!("etcd_server_{name}"), help);
        no_go(r);
        Self {
            has_leader: server("has_leader", "Whether or not a leader exists. 1 is existence, 0 is not."),
            is_leader: server("is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise."),
            is_learner: server("is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise."),
            leader_changes: total("leader_changes_seen_total", "The number of leader changes seen."),
            id: gauges(
                r,
                "etcd_server_id",
                "Server or member ID in hexadecimal format. 1 for 'server_id'.",
                &["server_id"],
            ),
            version: gauges(
                r,
                "etcd_server_version",
                "Which version is running. 1 for 'server_version' label with current version.",
                &["server_version"],
            ),
            cluster_version: gauges(
                r,
                "etcd_cluster_version",
                "Which version is running. 1 for 'cluster_version' label with current cluster version",
                &["cluster_version"],
            ),
            committed: server("proposals_committed_total", "The total number of consensus proposals committed."),
            applied: server("proposals_applied_total", "The total number of consensus proposals applied."),
            pending: server("proposals_pending", "The current number of pending proposals to commit."),
            failed: total("proposals_failed_total", "The total number of failed proposals seen."),
            slow_read_indexes: total(
                "slow_read_indexes_total",
                "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            ),
            failed_read_indexes: total("read_indexes_failed_total", "The total number of failed read indexes seen."),
            snapshots_applying: server(
                "snapshot_apply_in_progress_total",
                "1 if the server is applying the incoming snapshot. 0 if none.",
            ),
            learners_promoted: total(
                "learner_promote_successes",
                "The total number of successful learner promotions while this member is leader.",
            ),
            quota_bytes: server("quota_backend_bytes", "Current backend storage quota size in bytes."),
            leases_expired: counter(
                r,
                "etcd_debugging_server_lease_expired_total",
                "The total number of expired leases.",
            ),
            leases_renewed: counter(
                r,
                "etcd_debugging_lease_renewed_total",
                "The number of renewed leases seen by the leader.",
            ),
            health_successes: total("health_success", "The total number of successful health checks"),
            health_failures: total("health_failures", "The total number of failed health checks"),
            check: gauges(r, "etcd_server_healthcheck", "The result of each kind of healthcheck.", &["type", "name"]),
            checks: counters(
                r,
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                &["type", "name", "status"],
            ),
            features: gauges(r, "etcd_server_feature_enabled", FEATURE_HELP, &["name", "stage"]),
        }
    }
}

const FEATURE_HELP: &str = "Whether or not a feature is enabled. 1 is enabled, 0 is not.";

/// Dashboards read the label only; there is no Go in here, and it says so.
fn no_go(r: &Registry) {
    let help = "Which Go version server is running with: none.";
    gauges(r, "etcd_server_go_version", help, &["server_go_version"]).with_label_values(&["none"]).set(1);
}
