//! The agent's side: one [`Runtime`] for the node, a connection to each pod's shim.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::cgroup::{self, CgroupDriver};
use super::connection::{CallError, Connection};
use super::error::{RuntimeError, Stage, StartError};
use super::limits::EVENT_QUEUE_LEN;
use super::network::NodeNetwork;
use super::plan::{ContainerKey, ContainerPlan, Exit, Sandbox, SandboxPlan, Started};
use super::protocol::{Answer, Call};
use super::shim::state_dir;
use super::spawn::{ShimProcess, ShimProgram};

#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// On a tmpfs, e.g. `/run/kontiki/<node>`: sockets, journals. Made with mode 0700.
    pub run_dir: PathBuf,
    /// Below each cgroup hierarchy's root, e.g. `kontiki/node-1`; pods live in `<cgroup_parent>/kubepods/…`.
    pub cgroup_parent: PathBuf,
    /// The node's bridge, at most 15 bytes; two agents on one machine need two names.
    pub bridge: String,
    /// The network of all pods of the cluster, e.g. `10.244.0.0/16`: packets to it keep the pod's address. `None` masquerades
    /// everything that leaves this node's bridge.
    pub pod_network: Option<String>,
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
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: RuntimeConfig,
    pub(super) driver: Arc<dyn CgroupDriver>,
    pub(super) program: ShimProgram,
    pub(super) network: NodeNetwork,
    pub(super) warnings: Mutex<Vec<String>>,
    pub(super) pods: Mutex<HashMap<String, Arc<Pod>>>,
    pub(super) events: mpsc::Sender<RuntimeEvent>,
    receiver: Mutex<Option<mpsc::Receiver<RuntimeEvent>>>,
}

/// A sandbox with a living shim.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) plan: SandboxPlan,
    pub(super) connection: Connection,
    pub(super) shim: ShimProcess,
    /// The shim's end is expected.
    pub(super) removing: AtomicBool,
}

impl Runtime {
    /// Prepares directories, cgroup parents and the shim program. Call [`Runtime::recover`] next.
    pub async fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        tokio::task::spawn_blocking(move || Self::open_blocking(config))
            .await
            .expect("invariant: opening does not panic")
    }

    fn open_blocking(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let pods = config.run_dir.join("pods");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&pods);
        made.map_err(RuntimeError::io(pods.display().to_string()))?;
        let driver: Arc<dyn CgroupDriver> = Arc::from(cgroup::detect().map_err(RuntimeError::io("cgroups"))?);
        let mut warnings = driver.warnings();
        warnings.extend(cgroup::favour_dynamic_modification());
        let program =
            ShimProgram::prepare(config.shim_command.as_deref()).map_err(RuntimeError::io("the shim program"))?;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE_LEN);
        let network = NodeNetwork::new(&config.bridge);
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                driver,
                program,
                network,
                warnings: Mutex::new(warnings),
                pods: Mutex::default(),
                events,
                receiver: Mutex::new(Some(receiver)),
            }),
        })
    }

    /// What this machine cannot do, one sentence each, e.g. a cgroup controller that is missing.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.inner.warnings.lock().clone()
    }

    /// Makes the bridge with the first address of `pod_cidr` (e.g. `10.244.1.0/24`). Needed before the first sandbox with
    /// an own network; may be called again with the same value.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), RuntimeError> {
        let warnings = self.inner.network.set_up(pod_cidr, self.inner.config.pod_network.as_deref()).await?;
        self.inner.warn(warnings);
        Ok(())
    }

    /// Returns when the container's program runs, or with the reason why it never will.
    pub async fn start_container(&self, pod_uid: &str, plan: ContainerPlan) -> Result<Started, StartError> {
        let pod = self.inner.pod(pod_uid).map_err(|error| StartError::new(Stage::Sandbox, error.to_string()))?;
        let scratch = plan.scratch_dir.join(&plan.id);
        let error = match pod.connection.call(Call::StartContainer(Box::new(plan))).await {
            Ok(Answer::Started(started)) => return Ok(started),
            Ok(Answer::NotStarted(error)) => error,
            Ok(other) => StartError::new(Stage::Sandbox, format!("unexpected answer {other:?}")),
            Err(error) => StartError::new(Stage::Sandbox, format!("the pod's shim: {error}")),
        };
        // No record tells of this instance, so nobody else will clean up after it.
        remove_directory(scratch).await;
        Err(error)
    }

    /// Sends a signal to the container's first process. Fine when it has already ended.
    pub async fn signal(&self, pod_uid: &str, container: &str, signal: i32) -> Result<(), RuntimeError> {
        self.order(pod_uid, Call::Signal { container: container.to_owned(), signal }).await
    }

    /// The plan's stop signal, then after `grace` SIGKILL to everything in the container. Returns at once; the end comes
    /// as an event. The timer is the shim's, so it runs on without the agent. Calling again can only shorten the grace.
    pub async fn stop(&self, pod_uid: &str, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.order(pod_uid, Call::Stop { container: container.to_owned(), grace_ms }).await
    }

    /// SIGKILL to every process of the container.
    pub async fn kill(&self, pod_uid: &str, container: &str) -> Result<(), RuntimeError> {
        self.order(pod_uid, Call::Kill { container: container.to_owned() }).await
    }

    /// Deletes what an exited container left: writable layer and cgroup. Its log stays. A new start of the same name does
    /// not need it to be done first.
    pub async fn remove_container(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        let pod = self.inner.pod(&container.pod_uid)?;
        let scratch = self.inner.scratch_of(container);
        expect_done(&pod, pod.connection.call(Call::RemoveContainer { container: container.clone() }).await)?;
        if let Some(scratch) = scratch {
            remove_directory(scratch).await;
        }
        Ok(())
    }

    /// The exit of this container is safe with the caller and need not be told again.
    pub async fn ack(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        self.order(&container.pod_uid, Call::Acknowledge { container: container.clone() }).await
    }

    async fn order(&self, pod_uid: &str, call: Call) -> Result<(), RuntimeError> {
        let name = match &call {
            Call::Signal { container, .. } | Call::Stop { container, .. } | Call::Kill { container } => {
                container.clone()
            }
            _ => String::new(),
        };
        let pod = self.inner.pod(pod_uid)?;
        match pod.connection.call(call).await {
            Ok(Answer::NoContainer) => Err(RuntimeError::NoContainer { pod_uid: pod_uid.to_owned(), name }),
            answer => expect_done(&pod, answer),
        }
    }

    /// The stream of events; there is one, the first caller gets it.
    ///
    /// # Panics
    /// When called twice.
    #[must_use]
    pub fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        self.inner.receiver.lock().take().expect("the runtime's events are taken once")
    }

    /// The configuration this runtime was opened with.
    #[must_use]
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }
}

impl Inner {
    pub(super) fn pod(&self, pod_uid: &str) -> Result<Arc<Pod>, RuntimeError> {
        self.pods.lock().get(pod_uid).cloned().ok_or_else(|| RuntimeError::NoSandbox(pod_uid.to_owned()))
    }

    pub(super) fn warn(&self, warnings: Vec<String>) {
        let mut known = self.warnings.lock();
        for warning in warnings {
            if !known.contains(&warning) {
                tracing::warn!("{warning}");
                known.push(warning);
            }
        }
    }

    /// Where the writable layer of a recorded container is.
    fn scratch_of(&self, container: &ContainerKey) -> Option<PathBuf> {
        let journal = state_dir(&self.config.run_dir, &container.pod_uid).join(super::journal::FILE_NAME);
        let snapshot = super::journal::Snapshot::read(&journal).ok()?;
        let record = snapshot.containers.into_iter().find(|record| record.key == *container)?;
        Some(record.plan.scratch_dir.join(&record.plan.id))
    }
}

pub(super) fn lost(pod: &Pod, error: &CallError) -> RuntimeError {
    RuntimeError::ShimLost { pod_uid: pod.plan.pod_uid.clone(), what: error.to_string() }
}

pub(super) fn expect_done(pod: &Pod, answer: Result<Answer, CallError>) -> Result<(), RuntimeError> {
    match answer {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Failed(what)) => Err(RuntimeError::Refused(what)),
        Ok(other) => Err(RuntimeError::Refused(format!("unexpected answer {other:?}"))),
        Err(error) => Err(lost(pod, &error)),
    }
}

/// Deletes a directory off the runtime's threads; a missing one is fine.
pub(super) async fn remove_directory(path: PathBuf) {
    let removal = tokio::task::spawn_blocking(move || {
        if let Err(error) = std::fs::remove_dir_all(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "cannot delete a container's writable layer");
        }
    });
    removal.await.expect("invariant: deleting does not panic");
}
