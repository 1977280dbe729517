//! Every limit of the store, with what happens when it is reached.

use std::time::Duration;

/// The log's group commit is split into frames of about this many bytes, each written and synced by itself.
pub const LOG_FRAME_BYTES_MAX: usize = 8 << 20;
/// The size of a log segment; a full one is followed by the next.
pub const LOG_SEGMENT_BYTES: u64 = 64 << 20;
/// The newest log entries kept in memory; older ones are read from the files.
pub const LOG_CACHE_BYTES: usize = 32 << 20;
/// Entries read from the log at once, for a follower or for applying; the rest follow in further reads.
pub const LOG_READ_BYTES_MAX: usize = 1 << 20;

/// Leases handed out for revoking at once; the rest follow in the next round.
pub const LEASE_EXPIRE_BATCH: usize = 512;
/// How long a revoke may take before the lessor offers the lease again.
pub const LEASE_REVOKE_RETRY: Duration = Duration::from_secs(3);

/// Replies to requests that may wait on one watch stream; above it the edge reads no further requests.
pub const WATCH_REPLIES_WAITING: usize = 256;
/// Log entries applied in one write of the state, so that Raft's own messages are never far behind a long batch.
pub const APPLY_BATCH_ENTRIES: usize = 512;
/// The same, counted in bytes of commands.
pub const APPLY_BATCH_BYTES: usize = 2 << 20;
