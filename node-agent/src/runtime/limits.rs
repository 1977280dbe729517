//! Every limit of the runtime, by name, with what happens when it is reached.

use std::time::Duration;

/// A larger frame on a shim's socket is a bug of one side: the connection is closed.
pub(crate) const FRAME_SIZE_MAX: usize = 4 << 20;

/// How long the agent waits for a shim to answer a request before it calls the shim lost.
pub(crate) const SHIM_REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Runtime events waiting for the agent; a full queue makes the shims' readers wait, nothing is dropped.
pub(crate) const EVENT_QUEUE_LEN: usize = 1024;

/// `/dev/shm` of a pod when the plan does not say.
pub const SHM_SIZE_DEFAULT: u64 = 64 << 20;

/// A log line longer than this is written in parts marked `P`.
pub const LOG_LINE_SIZE_MAX: usize = 16 << 10;

/// A log file that has reached this size is rotated at the next line.
pub const LOG_FILE_SIZE_MAX: u64 = 10 << 20;

/// Log files of one container instance, with the current one; the oldest is deleted.
pub const LOG_FILES_MAX: u32 = 5;

/// Bytes read from one pipe before the shim looks at its other descriptors.
pub(crate) const PIPE_READ_SIZE: usize = 64 << 10;

/// Largest `etc/passwd` or `etc/group` that is looked at; a larger one is an error.
pub(crate) const USER_FILE_SIZE_MAX: u64 = 4 << 20;

/// An address of a removed pod is not given out again for this long: peers may still hold connections to it.
pub(crate) const ADDRESS_REUSE_DELAY: Duration = Duration::from_secs(60);

/// How long a killed cgroup may take to become empty.
pub(crate) const CGROUP_EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a sandbox may take to disappear after its containers are killed.
pub(crate) const SHIM_EXIT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a shim whose socket has closed may take to be dead before another agent is thought to have it.
pub(crate) const SHIM_DEATH_DELAY: Duration = Duration::from_secs(2);

/// What `mount(2)` reads of its options: a page, with the NUL at its end. More is refused, because the kernel would cut it
/// and mount something else.
pub(crate) const MOUNT_OPTIONS_SIZE_MAX: usize = 4095;
