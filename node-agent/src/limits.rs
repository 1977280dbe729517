//! Every limit of the node agent that is not the runtime's, with what happens when it is reached.

use std::time::Duration;

/// Longer hostnames are cut (the kernel's own limit is 64).
pub const HOSTNAME_BYTES_MAX: usize = 63;
/// libc's resolver reads no more; further ones are left out of a pod's resolv.conf.
pub const NAMESERVERS_MAX: usize = 3;
pub const SEARCH_DOMAINS_MAX: usize = 32;
pub const SEARCH_CHARS_MAX: usize = 2048;

/// The first wait of a crashing container or a failing image pull; doubles each time.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Waits grow no longer than this; one that was not needed for twice as long is forgotten.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Waits after failures that are likely to pass: sandboxes, volumes, container configuration.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
pub const RETRY_MAX: Duration = Duration::from_secs(15);

/// What is read of a container's termination message; the rest is ignored.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;
/// With `FallbackToLogsOnError`: the end of the log that becomes the message.
pub const TERMINATION_LOG_BYTES_MAX: usize = 2048;
pub const TERMINATION_LOG_LINES_MAX: usize = 80;

/// Pods a node takes unless configured; later ones are rejected with `OutOfpods`.
pub const PODS_MAX_DEFAULT: u32 = 110;
/// The grace of pods that the API no longer knows.
pub const ORPHAN_GRACE_S: i64 = 1;
/// What a pod without `terminationGracePeriodSeconds` gets.
pub const GRACE_DEFAULT_S: i64 = 30;

/// Inputs waiting for one pod's worker; a full queue makes the sender wait.
pub const POD_QUEUE_LEN: usize = 64;
/// Kubernetes Events waiting to be written; further ones are dropped, since a pod must never wait for its story.
pub const EVENT_QUEUE_LEN: usize = 1024;
/// Event series remembered for counting; all are forgotten when full, and repeats begin new Events.
pub const EVENT_SERIES_MAX: usize = 4096;

/// A server that does not answer a request's head within this is left for the next one.
pub const API_RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);
pub const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub const API_RETRY_FIRST: Duration = Duration::from_millis(50);
pub const API_RETRY_MAX: Duration = Duration::from_secs(5);
/// A watch is asked to end by itself after this, so that a silent dead connection is noticed.
pub const WATCH_TIMEOUT_S: u32 = 60;

/// Bytes of one log chunk on its way to a client; larger logs flow in many.
pub const LOG_CHUNK_BYTES: usize = 64 * 1024;
/// A longer line of a log file is taken for damage and passed on in pieces.
pub const LOG_LINE_BYTES_MAX: usize = 256 * 1024;
/// Chunks between the reader of a log and a slow client; then the reader waits.
pub const LOG_CHUNKS_IN_FLIGHT: usize = 8;
/// The size of one projected volume's contents; larger ones fail to mount.
pub const PROJECTED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often volumes made of ConfigMaps, Secrets and tokens are read again.
pub const VOLUME_REFRESH_S: i64 = 60;
/// What is left of the grace for the stop signal after a `preStop` hook, at least.
pub const GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);
/// Images that the Node object names, the largest first.
pub const NODE_IMAGES_MAX: usize = 50;
/// The pods' addresses where neither the settings nor the cluster say any.
pub const POD_CIDR_DEFAULT: &str = "10.244.0.0/24";
/// How long the agent waits for the cluster to give the Node its `podCIDR`.
pub const POD_CIDR_PATIENCE: Duration = Duration::from_secs(3);
/// A client of the log server that does not finish its handshake is dropped.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
