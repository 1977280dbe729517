//! Limits of the scheduler, each with what happens when it is reached.

use std::time::Duration;

/// Bindings under way at the same time; further decisions wait.
pub const BINDINGS_AT_ONCE_MAX: usize = 64;
/// Delay after a pod's first failed try, doubled with each to the longest.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after this long although nothing happened that could help it.
pub const UNSCHEDULABLE_RETRY: Duration = Duration::from_secs(300);
/// Pods placed in one go before watch events are looked at again.
pub const DECISIONS_IN_A_ROW_MAX: usize = 128;
