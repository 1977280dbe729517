//! The settings as one line of the log at the start, in the names that etcd uses there: its tools look for some of them.

use serde_json::{Map, Value, json};

use super::duration::format;
use super::settings::{AutoCompaction, ClusterState, StoreSettings};
use super::url::strings;
use crate::edge::ETCD_VERSION;
use crate::member::MemberConfig;

/// What etcd's quota is where none is set.
const QUOTA_DEFAULT_BYTES: i64 = 2 << 30;

/// The fields of the line. `initialised`: the data directory has a member.
#[must_use]
pub fn fields(settings: &StoreSettings, member: &MemberConfig, initialised: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    let all = [identity(settings, member, initialised), addresses(settings), limits(settings), upkeep(settings)];
    for part in all {
        if let Value::Object(part) = part {
            fields.extend(part);
        }
    }
    fields
}

fn identity(settings: &StoreSettings, member: &MemberConfig, initialised: bool) -> Value {
    let dir = |path: &std::path::Path| path.display().to_string();
    json!({
        "etcd-version": ETCD_VERSION,
        "kontiki-version": env!("CARGO_PKG_VERSION"),
        "member-initialized": initialised,
        "name": settings.name,
        "data-dir": dir(&settings.data_dir),
        "wal-dir": settings.wal_dir.as_deref().map(dir).unwrap_or_default(),
        "member-dir": dir(&settings.data_dir.join("member")),
        "local-member-id": member.id.to_string(),
        "cluster-id": member.cluster_id.to_string(),
        "force-new-cluster": settings.cluster.force_new_cluster,
        "heartbeat-interval": format(member.timing.heartbeat),
        "election-timeout": format(member.timing.election_min + member.timing.election_max),
        "initial-election-tick-advance": settings.raft.initial_election_tick_advance,
        "snapshot-count": settings.raft.snapshot_count,
        "snapshot-catchup-entries": settings.raft.snapshot_catchup_entries,
        "unsafe-no-fsync": !settings.fsync,
    })
}

fn addresses(settings: &StoreSettings) -> Value {
    let cluster: Vec<&str> = settings.cluster.initial_cluster.split(',').filter(|entry| !entry.is_empty()).collect();
    json!({
        "initial-advertise-peer-urls": strings(&settings.advertise_peer_urls),
        "listen-peer-urls": strings(&settings.peer_listen_urls),
        "advertise-client-urls": strings(&settings.advertise_client_urls),
        "listen-client-urls": strings(&settings.values().urls("listen-client-urls")),
        "listen-client-http-urls": strings(&settings.values().urls("listen-client-http-urls")),
        "listen-metrics-urls": strings(&settings.values().urls("listen-metrics-urls")),
        "cors": settings.http.cors,
        "host-whitelist": settings.http.host_whitelist,
        "initial-cluster": cluster.join(","),
        "initial-cluster-state": match settings.cluster.state {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        },
        "initial-cluster-token": settings.cluster.token,
    })
}

fn limits(settings: &StoreSettings) -> Value {
    let requests = &settings.requests;
    let quota = if requests.quota_backend_bytes == 0 { QUOTA_DEFAULT_BYTES } else { requests.quota_backend_bytes };
    json!({
        "quota-backend-bytes": quota,
        "max-request-bytes": requests.request_bytes_max,
        "max-txn-ops": requests.txn_ops_max,
        "max-concurrent-streams": requests.concurrent_streams_max,
        "pre-vote": settings.raft.pre_vote,
        "feature-gates": settings.gates.explicit(),
        "max-learners": settings.cluster.learners_max,
        "strict-reconfig-check": settings.cluster.strict_reconfig_check,
    })
}

fn upkeep(settings: &StoreSettings) -> Value {
    let interval = match settings.compaction.auto {
        AutoCompaction::Off => "0s".to_owned(),
        AutoCompaction::Periodic(period) => format(period),
        AutoCompaction::Revision(revisions) => revisions.to_string(),
    };
    json!({
        "initial-corrupt-check": settings.gates.is_open("InitialCorruptCheck"),
        "corrupt-check-time-interval": format(settings.checks.corrupt_check_time),
        "compact-check-time-interval": format(settings.checks.compact_hash_check_time),
        "auto-compaction-mode": settings.values().text("auto-compaction-mode"),
        "auto-compaction-retention": settings.values().text("auto-compaction-retention"),
        "auto-compaction-interval": interval,
        "downgrade-check-interval": format(settings.checks.downgrade_check_time),
    })
}
