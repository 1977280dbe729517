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

/// Keys visited while the index is held by a reader; a longer walk lets go and comes back.
pub const INDEX_SLICE_KEYS: usize = 1000;
/// Records that may be cached in the index; larger ones are read from RocksDB.
pub const CACHED_RECORD_BYTES_MAX: usize = 4 << 10;
/// Leaves pruned while the index is held by the compactor.
pub const PRUNE_SLICE_LEAVES: usize = 8;
/// Times a read of the current state starts again because compaction overtook it; then it says so.
pub const READ_RETRIES: usize = 16;
/// Lease changes remembered for the lessor; one that asks later gets the whole table.
pub const LEASE_CHANGES_KEPT: usize = 4096;

/// Revisions in one response to a watcher; the rest follow in the next.
pub const WATCH_RESPONSE_REVISIONS: usize = 1000;
/// Bytes of events after which no further revision is added to a response.
pub const WATCH_RESPONSE_BYTES: usize = 1 << 20;
/// A response of a watcher that accepts fragments is split above this: the largest request and half a mebibyte.
pub const WATCH_FRAGMENT_BYTES: usize = (3 << 19) + (512 << 10);
/// Matching revisions remembered for a group of watchers; a watcher further behind replays from disk.
pub const WATCH_GROUP_REVISIONS: usize = 4096;
/// Revisions of the ring searched when a watcher starts in the recent past; one further back replays from disk.
pub const WATCH_BACKFILL_REVISIONS: i64 = 256;
/// Records read from disk in one slice of a replay.
pub const WATCH_REPLAY_RECORDS: usize = 1000;
/// Watchers of a stream that are looked at before other tasks get a turn.
pub const WATCH_SERVED_AT_ONCE: usize = 64;
