//! What the runtime is asked to run: fully resolved plans, serialisable, shaped like an OCI runtime configuration.
//!
//! Whoever writes a plan has made every decision: names are numbers, defaults are filled in, environment variables are
//! expanded. The runtime decides nothing but how Linux is told. Plans travel to the shim as JSON and are kept in its
//! journal, so fields may be added with `#[serde(default)]` and never change their meaning: an old shim may outlive the
//! agent that started it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use super::capability::CapabilitySet;

/// What all containers of a pod share: the network, IPC and UTS namespaces, `/dev/shm` and the pod's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    pub pod_uid: String,
    pub namespace: String,
    pub name: String,
    /// At most 63 bytes. With [`NetworkMode::Host`] the node's own host name stays and this is ignored.
    pub hostname: String,
    #[serde(default)]
    pub network: NetworkMode,
    /// Share the node's IPC namespace (`spec.hostIPC`).
    #[serde(default)]
    pub host_ipc: bool,
    #[serde(default)]
    pub qos: QosClass,
    /// Limits of the whole pod.
    #[serde(default)]
    pub limits: CgroupLimits,
    /// Size of `/dev/shm`, which all containers of the pod share.
    #[serde(default = "default_shm_size")]
    pub shm_size: u64,
    /// Memory file systems that live as long as the sandbox, by name, with their size limit: `emptyDir` with
    /// `medium: Memory`. Containers mount them by [`MountSource::SandboxTmpfs`].
    #[serde(default)]
    pub tmpfs: BTreeMap<String, TmpfsPlan>,
    /// Namespaced sysctls in dotted form, e.g. `net.ipv4.ip_unprivileged_port_start`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Kept with the sandbox and given back by `recover`; the runtime does not look inside.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

fn default_shm_size() -> u64 {
    super::limits::SHM_SIZE_DEFAULT
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsPlan {
    /// Bytes; `None` is the kernel's default of half the memory.
    pub size: Option<u64>,
    pub mode: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// An own network namespace on the node's bridge.
    #[default]
    Pod,
    /// The node's network namespace (`spec.hostNetwork`).
    Host,
}

/// Decides where in the cgroup tree the pod lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    #[default]
    BestEffort,
}

/// `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    pub memory_bytes: Option<u64>,
    /// v1 shares (2..=262144); converted to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per [`CPU_PERIOD_US`].
    pub cpu_quota_us: Option<u64>,
    pub pids: Option<u64>,
}

/// The period that `cpu_quota_us` counts in.
pub const CPU_PERIOD_US: u64 = 100_000;

impl CgroupLimits {
    /// Shares from a CPU request in thousandths of a core, the way the kubelet does it.
    #[must_use]
    pub fn shares_from_milli_cpu(milli: u64) -> u64 {
        (milli * 1024 / 1000).clamp(2, 262_144)
    }

    /// Quota from a CPU limit in thousandths of a core; never under one millisecond.
    #[must_use]
    pub fn quota_from_milli_cpu(milli: u64) -> u64 {
        (milli * CPU_PERIOD_US / 1000).max(1000)
    }
}

/// One start of one container. A restart is a new plan with a higher `attempt` and a new `id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub name: String,
    /// 0 for the first start.
    pub attempt: u32,
    /// 64 hexadecimal digits, never used twice.
    pub id: String,
    /// Layer directories, lowest first, with overlayfs whiteouts. They are never written to.
    pub layers: Vec<PathBuf>,
    /// Where the runtime makes the writable layer of this instance, in a directory named after `id`; on a disk that can
    /// hold an overlayfs upper. Removed by `remove_container`.
    pub scratch_dir: PathBuf,
    /// Root file system read-only (`readOnlyRootFilesystem`).
    #[serde(default)]
    pub read_only_root: bool,
    /// Not empty. `argv[0]` is looked up in the container's PATH unless it contains a slash.
    pub argv: Vec<String>,
    /// `NAME=value`, complete. The runtime adds PATH (the usual default) and HOME (from the image) when absent.
    pub env: Vec<String>,
    /// Absolute; created when missing. Empty means `/`.
    pub cwd: PathBuf,
    #[serde(default)]
    pub user: UserPlan,
    #[serde(default)]
    pub capabilities: CapabilitySet,
    #[serde(default)]
    pub seccomp: Seccomp,
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Every host device, `/sys` writable, nothing masked, no seccomp. Capabilities are still taken from `capabilities`.
    #[serde(default)]
    pub privileged: bool,
    /// `/proc` and friends come first; then these, in order of their destination's depth.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default = "default_masked_paths")]
    pub masked_paths: Vec<PathBuf>,
    #[serde(default = "default_read_only_paths")]
    pub read_only_paths: Vec<PathBuf>,
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Share the node's process ids (`spec.hostPID`).
    #[serde(default)]
    pub host_pid: bool,
    #[serde(default)]
    pub limits: CgroupLimits,
    /// Receives stdout and stderr in CRI format; its directory is made when missing.
    pub log_path: PathBuf,
    #[serde(default)]
    pub log_limits: LogLimits,
    /// A host file made empty with mode 0666 and bound to `termination_message_path`.
    #[serde(default)]
    pub termination_log: Option<TerminationLog>,
    #[serde(default)]
    pub tty: bool,
    /// What `stop` sends first: a name with or without SIG, or a number.
    #[serde(default = "default_stop_signal")]
    pub stop_signal: String,
    /// Kept with the container and given back by `recover`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

fn default_stop_signal() -> String {
    "SIGTERM".to_owned()
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPlan {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; missing directories (or an empty file, for a file source) are made.
    pub destination: PathBuf,
    pub source: MountSource,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub propagation: Propagation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory or file of the node, with the mounts below it.
    Bind(PathBuf),
    /// `sub_path` below `root`, resolved without ever leaving `root`; made as a directory when missing.
    BindBelow { root: PathBuf, sub_path: PathBuf },
    /// A memory file system of this container alone.
    Tmpfs(TmpfsPlan),
    /// One of [`SandboxPlan::tmpfs`].
    SandboxTmpfs { name: String, sub_path: Option<PathBuf> },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminationLog {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
}

/// When a log file is rotated, and how many files are kept with the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    pub file_size_max: u64,
    pub files_max: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_size_max: super::limits::LOG_FILE_SIZE_MAX, files_max: super::limits::LOG_FILES_MAX }
    }
}

/// What the OCI default profile hides: paths that tell of the host or let a container disturb it.
#[must_use]
pub fn default_masked_paths() -> Vec<PathBuf> {
    [
        "/proc/asound",
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/interrupts",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]
    .map(PathBuf::from)
    .to_vec()
}

/// What the OCI default profile makes read-only.
#[must_use]
pub fn default_read_only_paths() -> Vec<PathBuf> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(PathBuf::from).to_vec()
}

/// A sandbox that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    pub pod_uid: String,
    /// `None` with [`NetworkMode::Host`].
    pub ip: Option<IpAddr>,
    pub shim_pid: u32,
    pub created_at: SystemTime,
}

/// A container whose program is running: `execve` has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// As the node sees it.
    pub pid: u32,
    pub started_at: SystemTime,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What the process returned; 128 + `signal` when a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for want of memory.
    pub oom: bool,
    pub started_at: SystemTime,
    pub finished_at: SystemTime,
}

/// Which container of which pod, and which start of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerKey {
    pub pod_uid: String,
    pub name: String,
    pub attempt: u32,
    pub id: String,
}
