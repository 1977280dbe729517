//! From values to settings: types, and etcd's checks, in its order, so that of two mistakes the same one is told.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    AuthSettings, AutoCompaction, CheckSettings, ClusterSettings, ClusterState, CompactionSettings, HttpSettings,
    KeepAliveSettings, RaftSettings, RequestSettings, StoreSettings,
};
use crate::config::flags::{Class, Flag};
use crate::config::gates::FeatureGates;
use crate::config::listen::{self, Listener};
use crate::config::logs::LogSettings;
use crate::config::notice::Notice;
use crate::config::tls::TlsSettings;
use crate::config::url::{Address, Url, strings};
use crate::config::values::{Origin, Values};
use crate::config::{ConfigError, duration, wiring};
use crate::limits;
use crate::state::CompactionPace;

/// A longer election timeout would leave a cluster without a leader for minutes; etcd's figure.
const ELECTION_MS_MAX: u64 = 50_000;
/// A watch never hears more often; etcd's figure.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// etcd's figures, above which it warns.
const REQUEST_BYTES_RECOMMENDED: u64 = 10 << 20;
const QUOTA_BYTES_RECOMMENDED: i64 = 8 << 30;
const BCRYPT_COSTS: std::ops::RangeInclusive<u64> = 4..=31;
const BCRYPT_COST_DEFAULT: u32 = 10;

impl StoreSettings {
    /// # Errors
    /// The first setting that cannot be used, in etcd's words where it has some.
    pub fn from_values(mut values: Values, notices: &mut Vec<Notice>) -> Result<Self, ConfigError> {
        say_what_has_no_effect(&values, notices)?;
        values.resolve_aliases();
        let logs = LogSettings::from_values(&values)?;
        let client_tls = TlsSettings::client(&values)?;
        let bound = Bound::from_values(&values, &client_tls)?;
        let settings = Self {
            name: values.text("name").to_owned(),
            data_dir: match values.text("data-dir") {
                "" => PathBuf::from(format!("{}.etcd", values.text("name"))),
                dir => PathBuf::from(dir),
            },
            wal_dir: Some(values.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            cluster: cluster(&values),
            raft: raft(&values)?,
            client_listeners: bound.clients,
            metrics_listeners: bound.metrics,
            peer_listen_urls: bound.peers,
            advertise_peer_urls: values.urls("initial-advertise-peer-urls"),
            advertise_client_urls: advertised_to_clients(&values)?,
            socket_reuse_port: values.bool("socket-reuse-port"),
            peer_tls: TlsSettings::peer(&values)?,
            client_tls,
            requests: requests(&values, notices)?,
            keep_alive: keep_alive(&values),
            compaction: compaction(&values)?,
            checks: checks(&values)?,
            auth: auth(&values, notices)?,
            http: http(&values),
            logs,
            gates: FeatureGates::from_values(&values)?,
            fsync: !values.bool("unsafe-no-fsync"),
            given: given(&values),
            values,
        };
        settings.check()?;
        settings.warn(notices);
        Ok(settings)
    }

    fn check(&self) -> Result<(), ConfigError> {
        has_hosts("initial-advertise-peer-urls", &self.advertise_peer_urls, "\"host:port\"")?;
        let forms = "in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"";
        has_hosts("advertise-client-urls", &self.advertise_client_urls, forms)?;
        if self.peer_listen_urls.iter().any(|url| url.scheme().is_secure()) && !self.peer_tls.can_serve() {
            return Err(ConfigError(
                "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for --listen-peer-urls with HTTPS \
                 scheme"
                    .into(),
            ));
        }
        if self.wal_dir.as_ref() == Some(&self.data_dir) {
            return Err(ConfigError("--wal-dir must be a directory of its own, not --data-dir".into()));
        }
        Ok(())
    }

    fn warn(&self, notices: &mut Vec<Notice>) {
        if self.name == "default" {
            notices.push(Notice::warn(
                "it isn't recommended to use default name, please set a value for --name. Note that etcd might run \
                 into issue when multiple members have the same default name",
                &[("name", "default")],
            ));
        }
        let has_certificate = self.client_tls.cert_file.is_some();
        if has_certificate && self.client_listeners.iter().any(|listener| !listener.tls) {
            notices.push(Notice::warn(
                "scheme is http or unix while key and cert files are present; ignoring key and cert files",
                &[],
            ));
        }
        for name in wiring::pending(&self.given) {
            notices.push(Notice::warn(format!("--{name} is accepted and has no effect"), &[("flag", name)]));
        }
        for name in wiring::gates_without_effect(&self.gates) {
            let message = format!("the feature gate {name} is accepted and has no effect");
            notices.push(Notice::warn(message, &[("gate", name)]));
        }
    }
}

/// An older name of a gate counts as `feature-gates` too.
fn given(values: &Values) -> BTreeSet<&'static str> {
    let gates = values.given().filter(|(flag, _)| matches!(flag.class, Class::GateAlias(_))).map(|_| "feature-gates");
    values.given().map(|(flag, _)| flag.name).chain(gates).collect()
}

/// Deprecated names and flags without a use are told; what must not be ignored is refused.
fn say_what_has_no_effect(values: &Values, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    let deprecated = |flag: &Flag, instead: String| {
        Notice::warn(format!("--{} is deprecated, use --{instead} instead", flag.name), &[("flag", flag.name)])
    };
    for (flag, given) in values.given() {
        match flag.class {
            Class::Served | Class::Silent | Class::FileOnly => {}
            Class::Ignored => {
                let message = format!("--{} is accepted and has no effect", flag.name);
                notices.push(Notice::warn(message, &[("flag", flag.name)]));
            }
            Class::Alias(target) => notices.push(deprecated(flag, target.to_owned())),
            Class::GateAlias(gate) => {
                notices.push(deprecated(flag, format!("feature-gates={gate}={}", values.bool(flag.name))));
            }
            Class::Refused(_) if given.text.is_empty() || given.text == flag.default => {}
            Class::Refused(reason) => return Err(ConfigError(format!("--{}: {reason}", flag.name))),
        }
    }
    match values.text("logger") {
        "zap" => Ok(()),
        "capnslog" => Err(ConfigError("--logger=capnslog is removed in v3.5".into())),
        other => Err(ConfigError(format!("unknown logger option {other:?}"))),
    }
}

/// What is listened on.
struct Bound {
    peers: Vec<Url>,
    clients: Vec<Listener>,
    metrics: Vec<Listener>,
}

impl Bound {
    fn from_values(values: &Values, tls: &TlsSettings) -> Result<Self, ConfigError> {
        let peers = some(values, "listen-peer-urls")?;
        for url in &peers {
            if let Address::Unix(_) = url.bind().map_err(ConfigError)? {
                return Err(ConfigError(format!("--listen-peer-urls: members do not speak over unix sockets ({url})")));
            }
        }
        let clients = some(values, "listen-client-urls")?;
        Ok(Self {
            peers,
            clients: listen::clients(&clients, &values.urls("listen-client-http-urls"), tls)?,
            metrics: listen::metrics(&values.urls("listen-metrics-urls"), tls)?,
        })
    }
}

fn some(values: &Values, flag: &'static str) -> Result<Vec<Url>, ConfigError> {
    let urls = values.urls(flag);
    if urls.is_empty() { Err(ConfigError(format!("--{flag}: no valid URLs given"))) } else { Ok(urls) }
}

/// Where clients listen elsewhere than by default, only the operator knows how they get there.
fn advertised_to_clients(values: &Values) -> Result<Vec<Url>, ConfigError> {
    let in_a_file = values.given().any(|(_, given)| given.origin == Origin::File);
    let moved = values.is_given("listen-client-urls") && !in_a_file;
    let urls = values.urls("advertise-client-urls");
    if urls.is_empty() || (moved && !values.is_given("advertise-client-urls")) {
        let reason = "--advertise-client-urls is required when --listen-client-urls is set explicitly";
        return Err(ConfigError(reason.into()));
    }
    Ok(urls)
}

fn has_hosts(flag: &str, urls: &[Url], forms: &str) -> Result<(), ConfigError> {
    match urls.iter().find(|url| !url.scheme().is_unix() && url.host().is_empty()) {
        Some(url) => {
            let all = strings(urls).join(",");
            Err(ConfigError(format!("--{flag} {all:?} must be {forms} (unexpected empty host ({url}))")))
        }
        None => Ok(()),
    }
}

fn cluster(values: &Values) -> ClusterSettings {
    let given = values.is_given("initial-cluster");
    ClusterSettings {
        initial_cluster: if given { values.text("initial-cluster").to_owned() } else { String::new() },
        state: match values.text("initial-cluster-state") {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        token: values.text("initial-cluster-token").to_owned(),
        force_new_cluster: values.bool("force-new-cluster"),
        strict_reconfig_check: values.bool("strict-reconfig-check"),
        learners_max: values.signed("max-learners"),
    }
}

fn raft(values: &Values) -> Result<RaftSettings, ConfigError> {
    let (heartbeat_ms, election_ms) = (values.unsigned("heartbeat-interval"), values.unsigned("election-timeout"));
    let error = |text: String| Err(ConfigError(text));
    if heartbeat_ms == 0 {
        return error("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election_ms == 0 {
        return error("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return error(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > ELECTION_MS_MAX {
        return error(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok(RaftSettings {
        heartbeat_ms,
        election_ms,
        times_given: values.is_given("heartbeat-interval") || values.is_given("election-timeout"),
        initial_election_tick_advance: values.bool("initial-election-tick-advance"),
        pre_vote: values.bool("pre-vote"),
        snapshot_count: values.unsigned("snapshot-count"),
        snapshot_catchup_entries: values.unsigned("snapshot-catchup-entries"),
    })
}

fn requests(values: &Values, notices: &mut Vec<Notice>) -> Result<RequestSettings, ConfigError> {
    let size = |flag: &str| {
        usize::try_from(values.unsigned(flag))
            .map_err(|_| ConfigError(format!("--{flag} is larger than this machine's memory")))
    };
    let quota_backend_bytes = values.signed("quota-backend-bytes");
    if quota_backend_bytes > QUOTA_BYTES_RECOMMENDED {
        let fields = [("quota-size-bytes", &*quota_backend_bytes.to_string())];
        notices.push(Notice::warn("quota exceeds the maximum that etcd recommends", &fields));
    }
    if values.unsigned("max-request-bytes") > REQUEST_BYTES_RECOMMENDED {
        let fields = [("max-request-bytes", values.text("max-request-bytes"))];
        notices.push(Notice::warn("exceeded recommended request limit", &fields));
    }
    let mut progress = values.duration("watch-progress-notify-interval");
    if progress < PROGRESS_INTERVAL_MIN {
        let fields = [("min-watch-progress-notify-interval", &*duration::format(PROGRESS_INTERVAL_MIN))];
        notices.push(Notice::warn("adjusting watch progress notify interval to minimum period", &fields));
        progress = PROGRESS_INTERVAL_MIN;
    }
    Ok(RequestSettings {
        quota_backend_bytes,
        txn_ops_max: size("max-txn-ops")?,
        request_bytes_max: size("max-request-bytes")?,
        concurrent_streams_max: values.text("max-concurrent-streams").parse().unwrap_or(u32::MAX),
        watch_progress_notify_interval: progress,
        warning_apply_duration: values.duration("warning-apply-duration"),
        warning_unary_request_duration: values.duration("warning-unary-request-duration"),
    })
}

fn keep_alive(values: &Values) -> KeepAliveSettings {
    KeepAliveSettings {
        min_time: values.duration("grpc-keepalive-min-time"),
        interval: values.duration("grpc-keepalive-interval"),
        timeout: values.duration("grpc-keepalive-timeout"),
    }
}

fn compaction(values: &Values) -> Result<CompactionSettings, ConfigError> {
    let (mode, retention) = (values.text("auto-compaction-mode"), values.text("auto-compaction-retention"));
    let number: Option<u32> = if retention.is_empty() { Some(0) } else { retention.parse().ok() };
    let auto = match (mode, number) {
        ("periodic" | "revision", Some(0)) => AutoCompaction::Off,
        ("periodic", Some(hours)) => AutoCompaction::Periodic(Duration::from_secs(3600 * u64::from(hours))),
        ("revision", Some(revisions)) => AutoCompaction::Revision(i64::from(revisions)),
        ("periodic", None) => match duration::parse(retention) {
            Ok(Duration::ZERO) => AutoCompaction::Off,
            Ok(period) => AutoCompaction::Periodic(period),
            Err(error) => return Err(ConfigError(format!("error parsing CompactionRetention: {error}"))),
        },
        ("revision", None) => {
            return Err(ConfigError(format!("error parsing CompactionRetention: {retention:?} is no number")));
        }
        ("", _) => return Err(ConfigError("undefined auto-compaction-mode".into())),
        (other, _) => return Err(ConfigError(format!("unknown auto-compaction-mode {other:?}"))),
    };
    Ok(CompactionSettings {
        auto,
        pace: CompactionPace {
            // etcd, too, takes what is no number of records for its default.
            batch: usize::try_from(values.signed("compaction-batch-limit"))
                .ok()
                .filter(|batch| *batch > 0)
                .unwrap_or(limits::COMPACTION_BATCH_RECORDS),
            pause: values.duration("compaction-sleep-interval"),
        },
    })
}

fn checks(values: &Values) -> Result<CheckSettings, ConfigError> {
    let compact_hash_check_time = values.duration("compact-hash-check-time");
    if compact_hash_check_time.is_zero() {
        return Err(ConfigError("--compact-hash-check-time must be >0 (set to 0s)".into()));
    }
    Ok(CheckSettings {
        corrupt_check_time: values.duration("corrupt-check-time"),
        compact_hash_check_time,
        downgrade_check_time: values.duration("downgrade-check-time"),
    })
}

fn auth(values: &Values, notices: &mut Vec<Notice>) -> Result<AuthSettings, ConfigError> {
    let token = values.text("auth-token");
    let kind = token.split(',').next().unwrap_or("");
    if !matches!(kind, "" | "simple" | "jwt") {
        return Err(ConfigError(format!("auth: invalid auth options (--auth-token {token:?})")));
    }
    let cost = values.unsigned("bcrypt-cost");
    let bcrypt_cost = match u32::try_from(cost) {
        Ok(fits) if BCRYPT_COSTS.contains(&cost) => fits,
        _ => {
            let fields = [("given-cost", &*cost.to_string())];
            notices.push(Notice::warn("use default bcrypt cost instead of the invalid given cost", &fields));
            BCRYPT_COST_DEFAULT
        }
    };
    Ok(AuthSettings { token: token.to_owned(), token_ttl_s: values.unsigned("auth-token-ttl"), bcrypt_cost })
}

fn http(values: &Values) -> HttpSettings {
    HttpSettings {
        gateway: values.bool("enable-grpc-gateway"),
        cors: values.list("cors"),
        host_whitelist: values.list("host-whitelist"),
        extensive_metrics: values.text("metrics") == "extensive",
    }
}
