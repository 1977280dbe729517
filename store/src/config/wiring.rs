//! Which setting goes to which part of a member, and which go nowhere yet: the one place to extend when a part learns to
//! obey another flag.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ConfigError;
use super::gates::FeatureGates;
use super::identity::{self, Place};
use super::listen::Listener;
use super::settings::{ClusterState, RaftSettings, StoreSettings};
use super::tls::TlsSettings;
use super::url::{Address, strings};
use crate::auth::AuthOptions;
use crate::edge::{EdgeConfig, HttpConfig};
use crate::io::serve::ServeOptions;
use crate::limits;
use crate::maintenance::MaintenanceOptions;
use crate::member::{MemberConfig, Timing, Tuning};
use crate::membership::MembershipOptions;

/// Flags that are understood and checked, and that nothing obeys yet: each is told at the start. Take the name out when its
/// setting is wired below.
const PENDING: &[&str] = &["grpc-keepalive-min-time"];

/// Feature gates that change nothing here when they are opened.
const GATES_WITHOUT_EFFECT: &[&str] =
    &["LeaseCheckpoint", "LeaseCheckpointPersist", "PriorityRequest", "SetMemberLocalAddr", "StopGRPCServiceOnDefrag"];

/// The flags that were given and that nothing obeys.
#[must_use]
pub fn pending(given: &BTreeSet<&'static str>) -> Vec<&'static str> {
    PENDING.iter().copied().filter(|name| given.contains(name)).collect()
}

/// The gates that were opened and that nothing obeys.
#[must_use]
pub fn gates_without_effect(gates: &FeatureGates) -> Vec<&'static str> {
    GATES_WITHOUT_EFFECT.iter().copied().filter(|name| gates.is_open(name)).collect()
}

/// A member that can be started, and how it is served.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub member: MemberConfig,
    pub edge: EdgeConfig,
    pub serve: ServeOptions,
    pub listeners: Vec<Listener>,
    /// For the listeners with TLS.
    pub client_tls: TlsSettings,
}

impl StoreConfig {
    /// # Errors
    /// When the initial cluster does not fit this member.
    pub fn new(settings: &StoreSettings) -> Result<Self, ConfigError> {
        let listeners = settings.client_listeners.iter().chain(&settings.metrics_listeners).cloned().collect();
        let client_tls = settings.client_tls.clone();
        Ok(Self { member: member(settings)?, edge: edge(settings), serve: serve(settings), listeners, client_tls })
    }
}

fn member(settings: &StoreSettings) -> Result<MemberConfig, ConfigError> {
    let cluster = &settings.cluster;
    let advertised = &settings.advertise_peer_urls;
    let Place { id, cluster_id, peers } =
        identity::place(&settings.name, advertised, &cluster.initial_cluster, &cluster.token)?;
    let listen = |url: &super::url::Url| match url.bind() {
        Ok(Address::Tcp(address)) => Ok(address),
        Ok(Address::Unix(path)) => Err(ConfigError(format!("members do not listen on {}", path.display()))),
        Err(error) => Err(ConfigError(error)),
    };
    Ok(MemberConfig {
        id,
        cluster_id,
        name: settings.name.clone(),
        data_dir: settings.data_dir.clone(),
        peers,
        peer_listen: settings.peer_listen_urls.iter().map(listen).collect::<Result<_, _>>()?,
        client_urls: strings(&settings.advertise_client_urls),
        timing: timing(&settings.raft),
        fsync: settings.fsync,
        auth: AuthOptions::parse(&settings.auth.token, settings.auth.token_ttl_s, settings.auth.bcrypt_cost)
            .map_err(|error| ConfigError(error.to_string()))?,
        maintenance: maintenance(settings),
        gates: settings.gates.clone(),
        warn_apply: settings.requests.warning_apply_duration,
        tuning: tuning(settings),
        peer_tls: peer_tls(settings)?,
        existing: settings.cluster.state == ClusterState::Existing,
        force_new_cluster: settings.cluster.force_new_cluster,
        membership: MembershipOptions {
            strict_reconfig_check: settings.cluster.strict_reconfig_check,
            max_learners: u32::try_from(settings.cluster.learners_max).unwrap_or(0),
        },
    })
}

fn peer_tls(settings: &StoreSettings) -> Result<Option<TlsSettings>, ConfigError> {
    let secure = settings.peer_listen_urls.iter().filter(|url| url.scheme().is_secure()).count();
    match secure {
        0 => Ok(None),
        all if all == settings.peer_listen_urls.len() => Ok(Some(settings.peer_tls.clone())),
        _ => Err(ConfigError("--listen-peer-urls: members listen with http or with https, not with both".into())),
    }
}

fn maintenance(settings: &StoreSettings) -> MaintenanceOptions {
    MaintenanceOptions {
        quota_backend_bytes: settings.requests.quota_backend_bytes,
        auto_compaction: settings.compaction.auto,
        corrupt_check_time: settings.given.contains("corrupt-check-time").then_some(settings.checks.corrupt_check_time),
        // On unless it is closed by name, where etcd's is off unless it is opened.
        compact_hash_check_time: match settings.gates.is_closed_by_name("CompactHashCheck") {
            true => Duration::ZERO,
            false => settings.checks.compact_hash_check_time,
        },
        initial_corrupt_check: settings.gates.is_open("InitialCorruptCheck"),
        compaction_pace: settings.compaction.pace,
        version_check_time: settings.checks.downgrade_check_time,
    }
}

fn tuning(settings: &StoreSettings) -> Tuning {
    let defaults = Tuning::default();
    // etcd's defaults suit its own log and snapshots; where nobody asked for other figures, Kontiki's hold.
    let given = |flag: &str, value: u64, default: u64| if settings.given.contains(flag) { value } else { default };
    Tuning {
        log_dir: settings.wal_dir.clone(),
        pre_vote: settings.raft.pre_vote,
        flush_entries: given("snapshot-count", settings.raft.snapshot_count, defaults.flush_entries).max(1),
        keep_entries: given("snapshot-catchup-entries", settings.raft.snapshot_catchup_entries, defaults.keep_entries),
    }
}

fn edge(settings: &StoreSettings) -> EdgeConfig {
    EdgeConfig {
        max_request_bytes: settings.requests.request_bytes_max,
        max_txn_ops: settings.requests.txn_ops_max,
        progress_interval: settings.requests.watch_progress_notify_interval,
        lease_ttl_min_s: lease_ttl_min_s(&settings.raft),
        http: HttpConfig {
            enable_grpc_gateway: settings.http.gateway,
            cors: settings.http.cors.clone(),
            host_whitelist: settings.http.host_whitelist.clone(),
            extensive_metrics: settings.http.extensive_metrics,
        },
        concurrent_streams_max: settings.requests.concurrent_streams_max,
        warn_unary: settings.requests.warning_unary_request_duration,
    }
}

fn serve(settings: &StoreSettings) -> ServeOptions {
    let interval = match settings.given.contains("grpc-keepalive-interval") {
        true => settings.keep_alive.interval,
        false => limits::KEEP_ALIVE_INTERVAL,
    };
    let timeout = settings.keep_alive.timeout;
    ServeOptions {
        keep_alive: (!interval.is_zero() && !timeout.is_zero()).then_some((interval, timeout)),
        concurrent_streams_max: settings.requests.concurrent_streams_max,
        http2_only: false,
    }
}

/// etcd's election timeout E makes a follower campaign after a random time between E and 2E of silence. Here it is the
/// leader's lease (`election_max`) and then a random time between `election_min` and `election_max`: three and one quarters
/// of E make that E to 1.5 E. A request may take as long as etcd's with the same E, whether E is given or etcd's default.
fn timing(raft: &RaftSettings) -> Timing {
    let request = limits::REQUEST_WORK_TIME + 2 * Duration::from_millis(raft.election_ms);
    if !raft.times_given {
        return Timing { request, ..Timing::default() };
    }
    let (heartbeat, election) = (raft.heartbeat_ms, raft.election_ms);
    let min = (election / 4).max(heartbeat + 1);
    let max = (election - election / 4).max(min + 1);
    let millis = Duration::from_millis;
    Timing { heartbeat: millis(heartbeat), election_min: millis(min), election_max: millis(max), request }
}

/// The shortest lease: one and a half elections in whole seconds, counted in etcd's ticks; 2 s at its defaults.
fn lease_ttl_min_s(raft: &RaftSettings) -> i64 {
    let ticks = raft.election_ms / raft.heartbeat_ms;
    let millis = (3 * ticks / 2) * raft.heartbeat_ms;
    i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags::{self, Class};

    fn raft(heartbeat_ms: u64, election_ms: u64) -> RaftSettings {
        RaftSettings {
            heartbeat_ms,
            election_ms,
            times_given: true,
            initial_election_tick_advance: true,
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5000,
        }
    }

    #[test]
    fn a_dead_leader_is_noticed_between_one_and_two_election_timeouts() {
        for (heartbeat, election) in [(100, 1000), (29, 271), (101, 521), (10, 50), (1, 5), (5000, 50_000)] {
            let timing = timing(&raft(heartbeat, election));
            let (earliest, latest) = (timing.election_max + timing.election_min, 2 * timing.election_max);
            let election_timeout = Duration::from_millis(election);
            assert!(earliest >= election_timeout, "{heartbeat}/{election}: {timing:?}");
            assert!(latest <= 2 * election_timeout, "{heartbeat}/{election}: {timing:?}");
            assert!(timing.heartbeat < timing.election_min && timing.election_min < timing.election_max);
        }
        assert_eq!(timing(&RaftSettings { times_given: false, ..raft(100, 1000) }), Timing::default());
    }

    #[test]
    fn a_request_may_take_as_long_as_etcds() {
        let seconds = |raft| timing(&raft).request.as_secs_f32();
        assert_eq!(seconds(RaftSettings { times_given: false, ..raft(100, 1000) }), 7.0);
        assert_eq!(seconds(raft(100, 1000)), 7.0);
        assert_eq!(seconds(raft(50, 500)), 6.0);
        assert_eq!(Timing::default().request.as_secs_f32(), 7.0);
    }

    #[test]
    fn the_shortest_lease_is_etcds() {
        for (heartbeat, election, seconds) in [(100, 1000, 2), (29, 271, 1), (101, 521, 1), (500, 5000, 8)] {
            assert_eq!(lease_ttl_min_s(&raft(heartbeat, election)), seconds, "{heartbeat}/{election}");
        }
    }

    #[test]
    fn what_is_pending_is_a_served_flag() {
        for name in PENDING {
            assert_eq!(flags::find(name).map(|flag| flag.class), Some(Class::Served), "{name}");
        }
    }
}
