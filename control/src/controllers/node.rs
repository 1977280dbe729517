//! Node lifecycle: which nodes are alive, and what becomes of the pods of those that are not.
//!
//! A node speaks by renewing its lease and by its status. When it is silent for the grace period it is marked Unknown and tainted
//! ([`health`]); its pods stop counting as ready, are deleted when their toleration ends ([`eviction`]), and are at last removed without
//! the agent's word. Controllers that count pods do not wait for that: a pod marked for deletion is replaced at once.

pub use eviction::Evictions;
pub(crate) use eviction::tolerates;
pub use health::NodeHealth;

mod eviction;
mod health;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(super) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const COMPONENT: &str = "node-controller";

#[cfg(test)]
mod tests;
