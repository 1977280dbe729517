//! Every limit of the control plane has a name here, with what happens when it is reached.

use std::time::Duration;

/// A request body above this is refused with 413, as Kubernetes does.
pub const REQUEST_BODY_SIZE_MAX: usize = 3 << 20;
/// gRPC messages from the store (a page of a list) up to this size; larger ones fail the request.
pub const STORE_MESSAGE_SIZE_MAX: usize = 512 << 20;
/// How long one request may keep trying the store before it answers 503.
pub const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// How long one of several endpoints may take before the next one is tried.
pub const STORE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
pub const STORE_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection to the store that is silent this long is probed, and dropped after the same time again.
pub const STORE_KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Keys that share one lease; the next key gets a new lease.
pub const KEYS_PER_SHARED_LEASE_MAX: usize = 1000;
/// Events (and only they) vanish after an hour.
pub const EVENT_TTL_S: i64 = 3600;
/// Keys read from the store per page when a list is not served from the cache.
pub const STORE_PAGE: i64 = 1000;

/// Changes kept per resource for watches that start in the past; older ones get 410 Expired.
pub const HISTORY_CHANGES_MAX: usize = 8192;
/// Bytes of those changes.
pub const HISTORY_BYTES_MAX: usize = 16 << 20;
/// How long a read waits for the cache to reach its revision before it goes to the store, or answers 504.
pub const CACHE_WAIT: Duration = Duration::from_secs(3);
/// Time between two bookmarks on a watch that asked for them.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after between one and two of these, so that clients spread over servers.
pub const WATCH_TIMEOUT_MIN_S: u64 = 1800;
/// Bytes of events put into one chunk of a watch response.
pub const WATCH_CHUNK_SIZE: usize = 64 << 10;

/// How often a patch or delete without a precondition starts again after losing a race; then 409.
pub const CONFLICT_RETRIES_MAX: usize = 16;
/// Random suffixes tried for one `generateName`; then 409.
pub const GENERATED_NAME_TRIES_MAX: usize = 8;
/// Annotation keys and values together.
pub const ANNOTATIONS_SIZE_MAX: usize = 256 << 10;
/// A stored object above this is refused with 413: etcd's own limit for a request.
pub const OBJECT_SIZE_MAX: usize = (3 << 20) / 2;
/// How long a client may take for a TLS handshake.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node agent may take to begin its answer.
pub const AGENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open connections may finish after the listener closed.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// A server's address vanishes from `endpoints/kubernetes` this long after the server was last alive.
pub const SERVER_ADDRESS_TTL_S: i64 = 15;
/// History in the store is kept this long; the leader compacts what is older.
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// Operations in one JSON patch; more are answered 413, as Kubernetes does.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// Bytes that the `copy` and `move` operations of one JSON patch may carry around; more are answered 413.
pub const JSON_PATCH_COPIED_SIZE_MAX: usize = 3 << 20;

/// Levels of arrays and objects that a JSON patch may make; more are answered 413. The parser reads 127.
pub const OBJECT_DEPTH_MAX: usize = 120;

/// The least life of a ServiceAccount token; a shorter wish is refused with 422.
pub const TOKEN_EXPIRATION_S_MIN: u64 = 600;

/// The life of a ServiceAccount token when the request names none.
pub const TOKEN_EXPIRATION_S_DEFAULT: u64 = 3600;

/// The longest life of a ServiceAccount token; a longer wish gets this.
pub const TOKEN_EXPIRATION_S_MAX: u64 = 1 << 32;

/// How far the clocks of two servers may differ before a fresh token of one is refused by the other.
pub const TOKEN_CLOCK_SKEW_S: u64 = 60;
