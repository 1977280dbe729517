//! Everything that the flags decide, as types that cannot be wrong: what [`super::wiring`] hands to the parts of a member.
//! [`StoreSettings::from_values`] makes and checks them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::gates::FeatureGates;
use super::listen::Listener;
use super::logs::LogSettings;
use super::tls::TlsSettings;
use super::url::Url;
use super::values::Values;
pub use crate::maintenance::AutoCompaction;
use crate::state::CompactionPace;

mod read;

/// A member's settings.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub name: String,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub cluster: ClusterSettings,
    pub raft: RaftSettings,
    pub client_listeners: Vec<Listener>,
    pub metrics_listeners: Vec<Listener>,
    pub peer_listen_urls: Vec<Url>,
    pub advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub socket_reuse_port: bool,
    pub client_tls: TlsSettings,
    pub peer_tls: TlsSettings,
    pub requests: RequestSettings,
    pub keep_alive: KeepAliveSettings,
    pub compaction: CompactionSettings,
    pub checks: CheckSettings,
    pub auth: AuthSettings,
    pub http: HttpSettings,
    pub logs: LogSettings,
    pub gates: FeatureGates,
    pub fsync: bool,
    /// The flags that were given, by whatever means.
    pub given: BTreeSet<&'static str>,
    values: Values,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Empty: this member alone.
    pub initial_cluster: String,
    pub state: ClusterState,
    pub token: String,
    pub force_new_cluster: bool,
    pub strict_reconfig_check: bool,
    pub learners_max: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    /// Whether either of the two was given; otherwise Kontiki's own times hold.
    pub times_given: bool,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSettings {
    /// 0: the default of 2 GiB. Negative: none.
    pub quota_backend_bytes: i64,
    pub txn_ops_max: usize,
    pub request_bytes_max: usize,
    pub concurrent_streams_max: u32,
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAliveSettings {
    pub min_time: Duration,
    /// Zero: never.
    pub interval: Duration,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionSettings {
    pub auto: AutoCompaction,
    pub pace: CompactionPace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSettings {
    /// Zero: never.
    pub corrupt_check_time: Duration,
    pub compact_hash_check_time: Duration,
    pub downgrade_check_time: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// `simple`, or `jwt` with its options.
    pub token: String,
    pub token_ttl_s: u64,
    pub bcrypt_cost: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    pub gateway: bool,
    /// Origins; `*` is any.
    pub cors: Vec<String>,
    /// Host names; `*` is any.
    pub host_whitelist: Vec<String>,
    pub extensive_metrics: bool,
}

impl StoreSettings {
    /// A flag's value, whether it was given or not.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }
}
