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

/// A frame between members; the connection of a larger one is closed.
pub const PEER_FRAME_BYTES_MAX: usize = 64 << 20;
/// Calls of one connection that wait to be written; further ones are refused at the caller.
pub const PEER_CALLS_WAITING: usize = 1024;
/// Calls of one connection that run at once; further ones are not read from the socket.
pub const PEER_CALLS_RUNNING: usize = 512;
/// Appends of one replication stream that are not answered yet.
pub const PEER_APPENDS_IN_FLIGHT: usize = 64;
/// An append that is not answered for this long ends its stream, and Raft starts another.
pub const PEER_APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Connecting and introducing oneself.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failed attempt, calls fail at once for this long.
pub const PEER_RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// After a connection could not be accepted.
pub const PEER_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a snapshot's file in one call.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// One call of a snapshot's transfer; the last one includes installing it.
pub const SNAPSHOT_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client's request, besides two elections; etcd's figure.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// One question to the leader (read index, lease); it is asked again until the request's own deadline.
pub const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts at the same leader.
pub const LEADER_RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Between two campaigns after the leader's process is known to be gone.
pub const CAMPAIGN_PAUSE: Duration = Duration::from_millis(30);
/// Campaigns after which the ordinary election timer takes over.
pub const CAMPAIGNS_MAX: u32 = 10;
/// Losses of connections that wait to be looked into.
pub const LOST_CONNECTIONS_WAITING: usize = 64;
/// Handing leadership over before a planned stop.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the need for a flush is looked at.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Applied entries after which the state is flushed, so that a restart never replays more.
pub const FLUSH_ENTRIES: u64 = 100_000;
/// Unflushed bytes after which the state is flushed.
pub const FLUSH_BYTES: u64 = 64 << 20;
/// Time after which the state is flushed if anything changed.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(30);
/// Entries kept in the log after they are in a snapshot, so that a follower that was away needs no copy of the state.
pub const LOG_KEEP_ENTRIES: u64 = 100_000;
/// Log bytes above which even those are dropped.
pub const LOG_KEEP_BYTES: u64 = 256 << 20;
/// Entries of one append to a follower; bytes are bounded by [`LOG_READ_BYTES_MAX`].
pub const APPEND_ENTRIES_MAX: u64 = 4096;
/// Proposals of one member under way; further ones are refused as too many.
pub const PROPOSALS_MAX: usize = 16_384;
/// A member that starts empty asks the others for this long whether it was there before.
pub const IS_KNOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// A larger request is refused: `etcdserver: request is too large`. etcd's default.
pub const MAX_REQUEST_BYTES: usize = 1_572_864;
/// What a message may be larger than its request: framing and field headers.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;
/// Operations (or comparisons) of one transaction; more are refused. etcd's default.
pub const MAX_TXN_OPS: usize = 128;
/// How often a quiet watcher with `progress_notify` hears where the store is. etcd's default.
pub const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// A watch stream that asked for a leader ends after this long without one.
pub const LEADERLESS_WATCH_GRACE: Duration = Duration::from_secs(3);
/// A longer lease is refused: `etcdserver: too large lease TTL`. etcd's limit.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;
/// A shorter lease lasts this long; the answer says so. etcd's value at its default election timeout.
pub const LEASE_TTL_MIN_S: i64 = 2;

/// A silent client connection is asked for a sign of life this often, and closed without one in time.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What a client may send before it must wait for the server to read.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// A client's header block while its authority is checked, coded or decoded; a larger one passes unchecked.
pub const HEADER_BLOCK_BYTES_MAX: usize = 64 << 10;

/// Simple tokens that a member remembers; above it the one longest unused goes, and its client authenticates again.
pub const AUTH_TOKENS_MAX: usize = 100_000;
/// How long a member that has not applied the entry of a token yet waits for it before it refuses the token.
pub const AUTH_TOKEN_WAIT: Duration = Duration::from_secs(5);
/// Entries that this member may lack and yet wait for; a token from further ahead is no token.
pub const AUTH_TOKEN_AHEAD_MAX: u64 = LOG_KEEP_ENTRIES;
/// Passwords hashed or compared at once: each takes a processor for tens of milliseconds.
pub const PASSWORDS_RUNNING: usize = 2;
/// Passwords under way, those that wait for their turn included; further ones are refused as too many.
pub const PASSWORDS_WAITING: usize = 1024;
/// A longer password is refused, as Go's bcrypt refuses it: bcrypt would ignore what lies beyond.
pub const PASSWORD_BYTES_MAX: usize = 72;
/// Times a log-in starts again because users or roles changed meanwhile; then it says so.
pub const AUTHENTICATE_RETRIES: usize = 8;
