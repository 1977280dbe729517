//! Every limit of the store, with what happens when it is reached.

use std::time::Duration;

/// The log's group commit is split into frames of about this many bytes, each written and synced by itself.
pub const LOG_FRAME_BYTES_MAX: usize = 8 << 20;
/// The size of a log segment; a full one is followed by the next. Each is written all over once before it is used, until old
/// ones can be used again: the smaller they are, the sooner.
pub const LOG_SEGMENT_BYTES: u64 = 16 << 20;
/// The newest log entries kept in memory; older ones are read from the files.
pub const LOG_CACHE_BYTES: usize = 8 << 20;
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
/// Records that the compactor removes between two pauses; etcd's figure.
pub const COMPACTION_BATCH_RECORDS: usize = 1000;
/// The compactor's pause, in which writes have disk and processor to themselves; etcd's figure.
pub const COMPACTION_PAUSE: Duration = Duration::from_millis(10);
/// Times a read of the current state starts again because compaction overtook it; then it says so.
pub const READ_RETRIES: usize = 16;
/// Lease changes remembered for the lessor; one that asks later gets the whole table.
pub const LEASE_CHANGES_KEPT: usize = 4096;

/// Revisions in one response to a watcher; the rest follow in the next.
pub const WATCH_RESPONSE_REVISIONS: usize = 1000;
/// Bytes of events after which no further revision is added to a response.
pub const WATCH_RESPONSE_BYTES: usize = 1 << 20;
/// Responses that are ready go out together, up to about this many bytes.
pub const WATCH_CHUNK_BYTES: usize = 32 << 10;
/// A response of a watcher that accepts fragments is split above this: the largest request and half a mebibyte.
pub const WATCH_FRAGMENT_BYTES: usize = (3 << 19) + (512 << 10);
/// Matching revisions remembered for a group of watchers; a watcher further behind replays from disk.
pub const WATCH_GROUP_REVISIONS: usize = 4096;
/// Revisions of the ring searched when a watcher starts in the recent past; one further back replays from disk.
pub const WATCH_BACKFILL_REVISIONS: i64 = 256;
/// Records read from disk in one slice of a replay.
pub const WATCH_REPLAY_RECORDS: usize = 1000;
/// Slices kept while there are replays, for others that come to the same place: a mebibyte each, or one large revision.
pub const WATCH_PASTS_KEPT: usize = 16;
/// Keys of a watcher up to which the index tells what of the past it has missed.
pub const WATCH_REPLAY_KEYS: usize = 64;
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
/// How long the peer port talks to one HTTP client; then the connection is closed.
pub const PEER_PAGES_TIME: Duration = Duration::from_secs(10);
/// Bytes of a snapshot's file in one call.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// One call of a snapshot's transfer; the last one includes installing it.
pub const SNAPSHOT_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client's request, besides two election timeouts; after both: `etcdserver: request timed out`. etcd's figure.
pub const REQUEST_WORK_TIME: Duration = Duration::from_secs(5);
/// The same, with the two election timeouts of etcd's default.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// One question to the leader (read index, lease); it is asked again until the request's own deadline.
pub const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest elections without word from the leader, or of a leader from a majority, after which there is none.
pub const SILENT_ELECTIONS: u32 = 2;
/// Between two attempts at the same leader.
pub const LEADER_RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Between two looks whether a leader whose connection ended still listens; after the last one it counts as alive.
pub const GONE_CHECK_PAUSES: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
];
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
/// Learners of a cluster; more are refused: `etcdserver: too many learner members in cluster`. etcd's default.
pub const MAX_LEARNERS: u32 = 1;
/// A member that the leader has not heard for this long is not active; one whose connections have ended is not either.
pub const MEMBER_SILENT: Duration = Duration::from_secs(1);
/// A member that has been active for this long is relied on by the checks of a membership change. etcd's interval.
pub const MEMBER_STABLE: Duration = Duration::from_secs(5);
/// A member that lacks fewer entries than this may vote: it holds the rest within a fraction of a second.
pub const PROMOTE_LAG_ENTRIES: u64 = 1000;
/// How often the leader looks whether Raft's configuration can move closer to the table of members.
pub const RECONFIGURE_INTERVAL: Duration = Duration::from_millis(50);
/// How often it looks who is there while there is nothing to change.
pub const ACTIVITY_INTERVAL: Duration = Duration::from_millis(250);
/// One step of Raft's configuration; after it the leader looks again at what is.
pub const RECONFIGURE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a removed member is still replicated to, so that it hears of its removal.
pub const DISMISS_GRACE: Duration = Duration::from_secs(2);
/// Between a member's hearing that it was removed and its end: answers on their way leave.
pub const LEAVE_PAUSE: Duration = Duration::from_millis(500);
/// How often a member without a leader, or one that is removed, asks the others whether it still belongs to them.
pub const STANDING_INTERVAL: Duration = Duration::from_secs(1);
/// How long a new member looks for somebody who describes the cluster to it.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two rounds of that.
pub const JOIN_PAUSE: Duration = Duration::from_millis(200);
/// How long a new member tries to resolve the names in peer URLs that differ as texts. etcd's figure.
pub const JOIN_RESOLVE_TIME: Duration = Duration::from_secs(30);
/// Between two rounds of that. etcd's figure.
pub const JOIN_RESOLVE_PAUSE: Duration = Duration::from_secs(1);
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

/// Bytes of the pages that hold one value in a bbolt file; a file with more is refused as damaged.
pub const BOLT_PAGE_BYTES_MAX: u64 = 1 << 30;
/// Levels of a tree in a bbolt file; one with more is refused as damaged. Twenty hold more keys than any disk.
pub const BOLT_DEPTH_MAX: usize = 64;
/// Records of a snapshot that are written at once when it is restored.
pub const IMPORT_BATCH_BYTES: usize = 1 << 20;
/// Unflushed records at which RocksDB flushes while a snapshot is restored.
pub const RESTORE_BUFFER_BYTES: usize = 16 << 20;
/// What one message of a snapshot's stream carries; etcd's figure.
pub const SNAPSHOT_BLOB_BYTES: usize = 32 << 10;
/// Messages of a snapshot's stream that wait for the client; then its thread waits too.
pub const SNAPSHOT_BLOBS_WAITING: usize = 8;
/// The lease of a lock or a candidate that brings none, in seconds; nobody renews it. etcd's figure.
pub const SESSION_TTL_S: i64 = 60;
/// Keys in the first part of a streamed range; later ones hold as many as fit into the largest request. etcd's figure.
pub const RANGE_PART_KEYS_FIRST: usize = 10;
/// Keys in a part of a streamed range, however small they are.
pub const RANGE_PART_KEYS_MAX: usize = 10_000;
/// A TLS handshake, or the first byte that tells whether there will be one; then the connection is closed.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Versions that clients claim to be of, counted by themselves; further ones are counted together.
pub const CLIENT_VERSIONS_MAX: usize = 64;
/// A command whose application takes longer is logged. etcd's default.
pub const WARN_APPLY: Duration = Duration::from_millis(100);
/// A unary request that takes longer is logged. etcd's default.
pub const WARN_UNARY: Duration = Duration::from_millis(300);
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
/// The space quota of a member that sets none; etcd's default.
pub const QUOTA_BYTES: u64 = 2 << 30;
/// A larger quota is taken and warned of; etcd's suggestion.
pub const QUOTA_BYTES_SUGGESTED: i64 = 8 << 30;
/// How often a member looks whether what it applied has crossed its quota.
pub const QUOTA_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How soon after a compaction the members' contents are compared; etcd's default.
pub const COMPACT_HASH_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How often the members' contents are compared when nobody asks for it.
pub const LEISURELY_CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// Between two such comparisons at least this many times as long as the last one took.
pub const CHECK_IDLE_FACTOR: u32 = 20;
/// How often a member looks whether a comparison is due.
pub const CHECK_TICK: Duration = Duration::from_secs(1);
/// Records digested in one go by a comparison in the background, which then rests a multiple of the time that took.
pub const DIGEST_SLICE_RECORDS: usize = 500;
pub const DIGEST_REST_FACTOR: u32 = 3;
/// A member that cannot say its digest in this time is left out of the comparison.
pub const DIGEST_TIMEOUT: Duration = Duration::from_secs(600);
/// How often the leader asks its members for their version; etcd's default.
pub const VERSION_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// One question for a version.
pub const VERSION_CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a copy of the state is kept for a member that has stopped fetching it.
pub const FETCH_IDLE: Duration = Duration::from_secs(120);
/// Between two attempts to be rebuilt from another member.
pub const REBUILD_PAUSE: Duration = Duration::from_secs(1);
/// A defragmentation waits at most this long for the compaction under way.
pub const DEFRAGMENT_WAIT: Duration = Duration::from_secs(30);
