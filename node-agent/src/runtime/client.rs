//! The agent's side: one [`Runtime`] for the node, a connection to each pod's shim.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::error::{RuntimeError, StartError};
use super::plan::{ContainerKey, ContainerPlan, Exit, Sandbox, SandboxPlan, Started};

#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// On a tmpfs, e.g. `/run/kontiki/<node>`: sockets, journals, address assignments. Made with mode 0700.
    pub run_dir: PathBuf,
    /// Below each cgroup hierarchy's root, e.g. `kontiki/node-1`; pods live in `<cgroup_parent>/kubepods/…`.
    pub cgroup_parent: PathBuf,
    /// The node's bridge, at most 15 bytes; two agents on one machine need two names.
    pub bridge: String,
    /// The program to run as shim, with its first arguments. `None` is a sealed copy of the running program with the
    /// argument `shim`.
    pub shim_command: Option<Vec<String>>,
}

/// What the agent hears without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Repeated after a restart of the agent until it is acknowledged by [`Runtime::ack`].
    Exited { container: ContainerKey, exit: Exit },
    /// The shim died; everything in the pod was killed. The sandbox must be removed and made again.
    ShimLost { pod_uid: String },
}

/// A pod that an earlier agent left running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPod {
    pub plan: SandboxPlan,
    pub sandbox: Sandbox,
    pub containers: Vec<RecoveredContainer>,
    /// The shim is gone, nothing runs any more: `remove_sandbox` cleans up.
    pub lost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredContainer {
    pub key: ContainerKey,
    pub plan: ContainerPlan,
    pub state: ContainerState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Running(Started),
    Exited(Exit),
    /// Was running when its shim died; how it ended is unknown.
    Unknown,
}

/// Handle to the node's runtime; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<RuntimeConfig>,
}

impl Runtime {
    /// Prepares directories, cgroup parents and the shim program. Call [`Runtime::recover`] next.
    pub async fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        Ok(Self { inner: Arc::new(config) })
    }

    /// What this machine cannot do, one sentence each, e.g. a cgroup controller that is missing.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Reconnects to the shims of an earlier agent. Exits nobody acknowledged come as events as well.
    pub async fn recover(&self) -> Result<Vec<RecoveredPod>, RuntimeError> {
        Ok(Vec::new())
    }

    /// Makes the bridge with the first address of `pod_cidr` (e.g. `10.244.1.0/24`). Needed before the first sandbox with
    /// an own network; may be called again with the same value.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::InvalidPlan(pod_cidr.to_owned()))
    }

    /// Network, IPC and UTS namespaces, `/dev/shm`, the pod's cgroup, and the shim that holds them.
    pub async fn create_sandbox(&self, plan: SandboxPlan) -> Result<Sandbox, RuntimeError> {
        Err(RuntimeError::NoSandbox(plan.pod_uid))
    }

    /// Returns when the container's program runs, or with the reason why it never will.
    pub async fn start_container(&self, pod_uid: &str, plan: ContainerPlan) -> Result<Started, StartError> {
        let _ = plan;
        Err(StartError::new(super::Stage::Sandbox, format!("pod {pod_uid} has no sandbox")))
    }

    /// Sends a signal to the container's first process. Fine when it has already ended.
    pub async fn signal(&self, pod_uid: &str, container: &str, signal: i32) -> Result<(), RuntimeError> {
        let _ = signal;
        Err(RuntimeError::NoContainer { pod_uid: pod_uid.to_owned(), name: container.to_owned() })
    }

    /// The plan's stop signal, then after `grace` SIGKILL to everything in the container. Returns at once; the end comes
    /// as an event. The timer is the shim's, so it runs on without the agent. Calling again can only shorten the grace.
    pub async fn stop(&self, pod_uid: &str, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        let _ = grace;
        Err(RuntimeError::NoContainer { pod_uid: pod_uid.to_owned(), name: container.to_owned() })
    }

    /// SIGKILL to every process of the container.
    pub async fn kill(&self, pod_uid: &str, container: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::NoContainer { pod_uid: pod_uid.to_owned(), name: container.to_owned() })
    }

    /// Deletes what an exited container left: writable layer and cgroup. Its log stays. A new start of the same name does
    /// not need it to be done first.
    pub async fn remove_container(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        Err(RuntimeError::NoSandbox(container.pod_uid.clone()))
    }

    /// Kills what still runs and leaves nothing: processes, mounts, cgroups, the network, writable layers, the run
    /// directory. Fine when there is no such sandbox.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::NoSandbox(pod_uid.to_owned()))
    }

    /// The exit of this container is safe with the caller and need not be told again.
    pub async fn ack(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        Err(RuntimeError::NoSandbox(container.pod_uid.clone()))
    }

    /// The stream of events; there is one, the first caller gets it.
    ///
    /// # Panics
    /// When called twice.
    #[must_use]
    pub fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        mpsc::channel(super::limits::EVENT_QUEUE_LEN).1
    }

    /// The configuration this runtime was opened with.
    #[must_use]
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner
    }
}

/// Entry of the shim process: never returns. The program calls it before anything else when its first argument is `shim`.
pub fn shim_main() -> ! {
    std::process::exit(1)
}
