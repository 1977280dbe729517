//! Limits of the controllers, each with what happens when it is reached.

use std::time::Duration;

/// Deleted uids each store remembers, so that a late answer does not revive an object; older ones are forgotten.
pub const REMEMBERED_DELETIONS_MAX: usize = 1024;
/// How long an object that we wrote is believed in without the watch showing it; then it is dropped.
pub const UNCONFIRMED_WRITE_KEPT: Duration = Duration::from_secs(30);
/// Deleted owners the graph remembers as certainly gone; others are asked for at the API.
pub const REMEMBERED_OWNERS_MAX: usize = 4096;

/// First delays of a key that failed; doubled with each failure in a row up to `RETRY_MAX`.
pub const RETRY_STALE_FIRST: Duration = Duration::from_millis(10);
pub const RETRY_REFUSED_FIRST: Duration = Duration::from_millis(200);
pub const RETRY_NO_ANSWER_FIRST: Duration = Duration::from_millis(100);
pub const RETRY_MAX: Duration = Duration::from_secs(60);

/// Plans carried out at the same time; further keys wait in the queue.
pub const PLANS_AT_ONCE_MAX: usize = 64;
/// Requests of one batch that are under way at the same time.
pub const REQUESTS_AT_ONCE_MAX: usize = 32;
/// Changes waiting between a watch and those who follow it; when full, the watch is read more slowly.
pub const WATCHED_QUEUE_MAX: usize = 1024;
/// Events waiting to be written; when full, further ones are dropped, because work must not wait for its account.
pub const EVENT_QUEUE_MAX: usize = 1024;
/// Kinds of events remembered, to count repetitions instead of writing new ones; the oldest is forgotten.
pub const EVENT_SERIES_MAX: usize = 4096;
/// A repetition later than this is a new event.
pub const EVENT_SERIES_AGE: Duration = Duration::from_secs(600);
/// First and longest delay before a broken watch is started again.
pub const WATCH_RETRY_FIRST: Duration = Duration::from_millis(50);
pub const WATCH_RETRY_MAX: Duration = Duration::from_secs(5);
/// Everything is looked at again this often, in case something was missed.
pub const RESYNC_PERIOD: Duration = Duration::from_secs(600);

/// Pods created or deleted for one owner in one go; the next look goes on.
pub const PODS_PER_SYNC_MAX: usize = 500;
/// Terminated pods kept; the oldest beyond are deleted.
pub const TERMINATED_PODS_MAX: usize = 12_500;
/// How long a pod may point to a node that does not exist before it is deleted.
pub const ORPHANED_POD_GRACE: Duration = Duration::from_secs(40);
/// Addresses in one Endpoints object; further ones are left out and an annotation says so.
pub const ENDPOINTS_MAX: usize = 1000;
/// Objects listed at once when a namespace is emptied.
pub const LIST_PAGE: u32 = 500;
/// How soon an owner is looked at again that cannot be judged because not all kinds are listed.
pub const UNLISTED_RETRY: Duration = Duration::from_secs(1);
