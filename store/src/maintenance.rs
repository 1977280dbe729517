//! Looking after the store, as decisions: alarms, the space quota, automatic compaction, comparing members, versions.
//!
//! Everything here is pure. Alarms and versions are a part of the replicated state and change only by commands, so that
//! apply decides by them alike everywhere; what a member thinks of its own size or of its peers' hashes becomes such a
//! command first. `member` drives it with clocks and peers.

use std::time::Duration;

use crate::limits;
use crate::state::CompactionPace;

pub mod alarms;
pub mod autocompact;
pub mod consistency;
pub mod quota;
pub mod version;

pub use autocompact::AutoCompaction;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceOptions {
    /// etcd's `--quota-backend-bytes`: 0 is the default of 2 GiB, a negative number is no quota.
    pub quota_backend_bytes: i64,
    /// etcd's `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// etcd's `--corrupt-check-time`: how often the members' contents are compared; zero is never. Where nobody said, it
    /// is not etcd's never, but whenever [`limits::LEISURELY_CHECK_INTERVAL`] has passed.
    pub corrupt_check_time: Option<Duration>,
    /// etcd's `--compact-hash-check-time`: how soon after a compaction the members' contents are compared.
    pub compact_hash_check_time: Duration,
    /// etcd's feature gate `InitialCorruptCheck`: compare once after the start.
    pub initial_corrupt_check: bool,
    /// How fast a compaction removes records.
    pub compaction_pace: CompactionPace,
    /// How often the leader looks at its members' versions: etcd's `--downgrade-check-time`.
    pub version_check_time: Duration,
}

impl Default for MaintenanceOptions {
    fn default() -> Self {
        Self {
            quota_backend_bytes: 0,
            auto_compaction: AutoCompaction::Off,
            corrupt_check_time: None,
            compact_hash_check_time: limits::COMPACT_HASH_CHECK_INTERVAL,
            initial_corrupt_check: false,
            compaction_pace: CompactionPace::default(),
            version_check_time: limits::VERSION_CHECK_INTERVAL,
        }
    }
}

/// The body of a command that says which version the whole cluster speaks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterVersion {
    #[prost(string, tag = "1")]
    pub version: String,
}

/// The body of a command by which a comparison of the members takes one out of service, or back into it. Member 0: they
/// differ, and nobody can say who is right.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Quarantine {
    #[prost(uint64, tag = "1")]
    pub member: u64,
    #[prost(bool, tag = "2")]
    pub raised: bool,
}
