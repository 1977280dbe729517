//! Limits of objects, as Kubernetes sets them; past each the object is refused with 422.

/// Data of a ConfigMap or Secret, in bytes.
pub const CONFIG_SIZE_MAX: usize = 1024 * 1024;

/// Grace period after which pods leave a node that is not ready or unreachable, unless they say otherwise.
pub const DEFAULT_TOLERATION_S: i64 = 300;

/// The highest priority a user's pod can have; above are the two classes of the system.
pub const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// How long an Event is kept after its last write.
pub const EVENT_TTL_S: i64 = 3600;

/// Addresses of an Endpoints object that its row shows.
pub const ENDPOINTS_SHOWN_MAX: usize = 3;
