//! What a controller is.

use k8s_openapi::jiff::Timestamp;

use super::action::{Attempt, Key, Plan};
use super::cluster::{Changed, Cluster};

/// A controller: which keys a change concerns, and what to do about a key. Both are pure.
pub trait Controller: Send + Sync {
    /// As in logs: `replication`.
    fn name(&self) -> &'static str;

    /// Adds the keys that must be looked at after this change; `cluster` already has it.
    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>);

    /// Decides what to do about a key, which may have ceased to exist.
    fn reconcile(&self, cluster: &Cluster, key: &Key, attempt: &Attempt, now: Timestamp) -> Plan;
}
