//! Limits and fixed times of objects, as Kubernetes sets them.

/// Data of a ConfigMap or Secret, in bytes; more is refused with 422.
pub const CONFIG_SIZE_MAX: usize = 1024 * 1024;

/// Grace period after which pods leave a node that is not ready or unreachable, unless they say otherwise.
pub const DEFAULT_TOLERATION_S: i64 = 300;

/// Addresses of an Endpoints object or EndpointSlice that its row shows; the rest is counted.
pub const ENDPOINTS_SHOWN_MAX: usize = 3;
