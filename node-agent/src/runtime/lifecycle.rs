//! Sandboxes from the agent's side: making one, finding those of an earlier agent, removing every trace.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use rustix::fs::{Mode, OFlags};

use super::cgroup;
use super::client::{
    ContainerState, Inner, Pod, RecoveredContainer, RecoveredPod, Runtime, RuntimeEvent, expect_done, remove_directory,
};
use super::connection::{Connection, SOCKET_NAME};
use super::error::RuntimeError;
use super::journal::{FILE_NAME, Snapshot};
use super::limits::{CGROUP_EMPTY_TIMEOUT, SHIM_DEATH_DELAY, SHIM_EXIT_TIMEOUT};
use super::plan::{NetworkMode, QosClass, Sandbox, SandboxPlan};
use super::protocol::{Address, Answer, Call, CreateSandbox, VERSION};
use super::shim::state_dir;
use super::spawn::ShimProcess;

impl Runtime {
    /// Network, IPC and UTS namespaces, `/dev/shm`, the pod's cgroup, and the shim that holds them.
    pub async fn create_sandbox(&self, plan: SandboxPlan) -> Result<Sandbox, RuntimeError> {
        let inner = &self.inner;
        check(&plan)?;
        let directory = state_dir(&inner.config.run_dir, &plan.pod_uid);
        if directory.exists() {
            return Err(RuntimeError::Refused(format!("pod {} has a sandbox already", plan.pod_uid)));
        }
        let address = match plan.network {
            NetworkMode::Pod => Some(inner.network.allocate()?),
            NetworkMode::Host => None,
        };
        let (pod_uid, qos) = (plan.pod_uid.clone(), plan.qos);
        match inner.make_sandbox(plan, address).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                if let Err(error) = inner.clean_up(&pod_uid, Some(qos)).await {
                    tracing::warn!(%error, pod_uid, "cannot clean up after a failed sandbox");
                }
                if let Some(address) = address {
                    inner.network.release(address.address);
                }
                Err(error)
            }
        }
    }

    /// Reconnects to the shims of an earlier agent. Exits nobody acknowledged come as events as well.
    pub async fn recover(&self) -> Result<Vec<RecoveredPod>, RuntimeError> {
        let pods = self.inner.config.run_dir.join("pods");
        let entries = std::fs::read_dir(&pods).map_err(RuntimeError::io(pods.display().to_string()))?;
        let uids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let recovered = join_all(uids.map(|pod_uid| self.inner.recover_pod(pod_uid))).await;
        Ok(recovered.into_iter().flatten().collect())
    }

    /// Kills what still runs and leaves nothing: processes, mounts, cgroups, the network, writable layers, the run
    /// directory. Fine when there is no such sandbox.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let pod = inner.pods.lock().get(pod_uid).cloned();
        let mut qos = None;
        if let Some(pod) = pod {
            qos = Some(pod.plan.qos);
            pod.removing.store(true, Ordering::SeqCst);
            if let Err(error) = expect_done(&pod, pod.connection.call(Call::RemoveSandbox).await) {
                // What the shim cannot do is done to it.
                tracing::warn!(%error, pod_uid, "the shim did not remove its sandbox");
                pod.shim.kill();
            }
            if !pod.shim.ended_within(SHIM_EXIT_TIMEOUT).await {
                pod.shim.kill();
            }
        }
        let address = inner.clean_up(pod_uid, qos).await?;
        inner.pods.lock().remove(pod_uid);
        if let Some(address) = address {
            inner.network.release(address);
        }
        Ok(())
    }

    /// Undoes [`Runtime::open`] and [`Runtime::set_pod_cidr`] when no pod is left: bridge, rules, cgroups, run directory.
    pub async fn tear_down(&self) -> Result<(), RuntimeError> {
        let inner = Arc::clone(&self.inner);
        if !inner.pods.lock().is_empty() {
            return Err(RuntimeError::Refused("there are pods".to_owned()));
        }
        inner.network.tear_down().await.map_err(RuntimeError::io("network"))?;
        let task = move || {
            let parent = &inner.config.cgroup_parent;
            cgroup::kill_and_remove(inner.driver.as_ref(), parent, CGROUP_EMPTY_TIMEOUT)?;
            std::fs::remove_dir_all(&inner.config.run_dir)
        };
        blocking(task).await.map_err(RuntimeError::io("cgroups and run directory"))
    }
}

impl Inner {
    async fn make_sandbox(
        self: &Arc<Self>,
        plan: SandboxPlan,
        address: Option<Address>,
    ) -> Result<Sandbox, RuntimeError> {
        let directory = state_dir(&self.config.run_dir, &plan.pod_uid);
        let listener = listen(&directory).map_err(RuntimeError::io("the shim's socket"))?;
        let mut child = self
            .program
            .spawn(listener, &directory.join("shim.log"))
            .map_err(RuntimeError::io("cannot start a shim"))?;
        // Reaps it whenever it ends.
        tokio::spawn(async move { child.wait().await });
        let connection =
            Connection::open(&directory, self.events.clone()).await.map_err(RuntimeError::io("the shim's socket"))?;
        let ended = |error: super::connection::CallError| RuntimeError::ShimLost {
            pod_uid: plan.pod_uid.clone(),
            what: format!("{error}; {}", last_words(&directory)),
        };
        let shim_pid = match connection.call(Call::Hello { version: VERSION }).await.map_err(ended)? {
            Answer::Hello { pid, .. } => pid,
            other => return Err(RuntimeError::Refused(format!("unexpected answer {other:?}"))),
        };
        let request = CreateSandbox {
            plan: plan.clone(),
            state_dir: directory.clone(),
            cgroup_parent: self.config.cgroup_parent.clone(),
            address,
        };
        let result = self.fill_sandbox(&connection, request, shim_pid, address).await;
        if let Err(error) = result {
            let shim = ShimProcess::open(shim_pid);
            shim.kill();
            shim.ended_within(SHIM_EXIT_TIMEOUT).await;
            return Err(error);
        }
        let ip = address.map(|address| address.address);
        let sandbox = Sandbox { pod_uid: plan.pod_uid.clone(), ip, shim_pid, created_at: super::container::now() };
        self.watch_over(plan, shim_pid, connection);
        Ok(sandbox)
    }

    async fn fill_sandbox(
        self: &Arc<Self>,
        connection: &Connection,
        request: CreateSandbox,
        shim_pid: u32,
        address: Option<Address>,
    ) -> Result<(), RuntimeError> {
        let pod_uid = request.plan.pod_uid.clone();
        let refuse = |what: String| RuntimeError::Refused(what);
        match connection.call(Call::CreateSandbox(Box::new(request))).await {
            Ok(Answer::SandboxCreated { warnings }) => self.warn(warnings),
            Ok(Answer::Failed(what)) => return Err(refuse(what)),
            other => return Err(refuse(format!("unexpected answer {other:?}"))),
        }
        let Some(address) = address else { return Ok(()) };
        let inner = Arc::clone(self);
        let connect = move || inner.network.connect(&pod_uid, shim_pid);
        blocking(connect).await.map_err(RuntimeError::io("cannot connect the pod to the bridge"))?;
        match connection.call(Call::ConfigureNetwork(address)).await {
            Ok(Answer::Done) => Ok(()),
            other => Err(refuse(format!("cannot configure the pod's network: {other:?}"))),
        }
    }

    /// Registers the pod and waits for its shim's unexpected end.
    fn watch_over(self: &Arc<Self>, plan: SandboxPlan, shim_pid: u32, connection: Connection) {
        let shim = ShimProcess::open(shim_pid);
        let pod = Arc::new(Pod { plan, connection, shim, removing: AtomicBool::new(false) });
        self.pods.lock().insert(pod.plan.pod_uid.clone(), Arc::clone(&pod));
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            pod.connection.closed().await;
            if pod.removing.load(Ordering::SeqCst) {
                return;
            }
            let pod_uid = pod.plan.pod_uid.clone();
            // The socket closes a moment before the process is dead.
            if !pod.shim.ended_within(SHIM_DEATH_DELAY).await {
                tracing::error!(pod_uid, "another agent has taken over this pod");
                return;
            }
            tracing::error!(pod_uid, "the shim of a pod is gone");
            inner.kill_pod(&pod_uid, pod.plan.qos).await;
            // The agent may be shutting down.
            let _ = inner.events.send(RuntimeEvent::ShimLost { pod_uid }).await;
        });
    }

    async fn kill_pod(self: &Arc<Self>, pod_uid: &str, qos: QosClass) {
        let path = cgroup::pod_path(&self.config.cgroup_parent, qos, pod_uid);
        let driver = Arc::clone(&self.driver);
        if let Err(error) = blocking(move || driver.kill(&path)).await {
            tracing::error!(%error, pod_uid, "cannot kill what a lost shim left");
        }
    }

    async fn recover_pod(self: &Arc<Self>, pod_uid: String) -> Option<RecoveredPod> {
        let directory = state_dir(&self.config.run_dir, &pod_uid);
        let living = self.say_hello(&directory).await;
        let lost = living.is_none();
        let (connection, snapshot) = match living {
            Some((connection, snapshot)) => (Some(connection), snapshot),
            None => (None, Snapshot::read(&directory.join(FILE_NAME)).unwrap_or_default()),
        };
        let Some((plan, sandbox)) = snapshot.sandbox.clone() else {
            // The agent died while it was being made.
            if let Some(connection) = connection {
                let _ = connection.call(Call::RemoveSandbox).await;
                connection.closed().await;
            }
            if let Err(error) = self.clean_up(&pod_uid, None).await {
                tracing::warn!(%error, pod_uid, "cannot clean up after a half-made sandbox");
            }
            return None;
        };
        if let Some(ip) = sandbox.ip {
            self.network.reserve(ip);
        }
        match connection {
            Some(connection) => self.watch_over(plan.clone(), sandbox.shim_pid, connection),
            None => self.kill_pod(&pod_uid, plan.qos).await,
        }
        Some(RecoveredPod { plan, sandbox, containers: recovered_containers(&snapshot, lost), lost })
    }

    async fn say_hello(&self, directory: &Path) -> Option<(Connection, Snapshot)> {
        let connection = Connection::open(directory, self.events.clone()).await.ok()?;
        match connection.call(Call::Hello { version: VERSION }).await {
            Ok(Answer::Hello { snapshot, .. }) => Some((connection, *snapshot)),
            answer => {
                tracing::error!(?answer, directory = %directory.display(), "a shim does not answer");
                None
            }
        }
    }

    /// Removes what a dead shim leaves: cgroups, writable layers, the state directory. Returns the address to release.
    async fn clean_up(self: &Arc<Self>, pod_uid: &str, qos: Option<QosClass>) -> Result<Option<IpAddr>, RuntimeError> {
        let directory = state_dir(&self.config.run_dir, pod_uid);
        let snapshot = Snapshot::read(&directory.join(FILE_NAME)).unwrap_or_default();
        let classes = match qos.or(snapshot.sandbox.as_ref().map(|(plan, _)| plan.qos)) {
            Some(class) => vec![class],
            None => vec![QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort],
        };
        for class in classes {
            let path = cgroup::pod_path(&self.config.cgroup_parent, class, pod_uid);
            let driver = Arc::clone(&self.driver);
            let removal = blocking(move || cgroup::kill_and_remove(driver.as_ref(), &path, CGROUP_EMPTY_TIMEOUT));
            removal.await.map_err(RuntimeError::io("the pod's cgroup"))?;
        }
        for container in &snapshot.containers {
            remove_directory(container.plan.scratch_dir.join(&container.plan.id)).await;
        }
        remove_directory(directory).await;
        Ok(snapshot.sandbox.and_then(|(_, sandbox)| sandbox.ip))
    }
}

fn recovered_containers(snapshot: &Snapshot, lost: bool) -> Vec<RecoveredContainer> {
    let recover = |record: &super::journal::ContainerRecord| RecoveredContainer {
        key: record.key.clone(),
        plan: record.plan.clone(),
        state: match (&record.exit, lost) {
            (Some(exit), _) => ContainerState::Exited(exit.clone()),
            (None, false) => ContainerState::Running(record.started),
            (None, true) => ContainerState::Unknown,
        },
    };
    snapshot.containers.iter().map(recover).collect()
}

fn check(plan: &SandboxPlan) -> Result<(), RuntimeError> {
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !plain(&plan.pod_uid) || plan.pod_uid.starts_with('.') {
        return Err(RuntimeError::InvalidPlan(format!("pod uid {:?}", plan.pod_uid)));
    }
    if plan.hostname.len() > 63 {
        return Err(RuntimeError::InvalidPlan(format!("host name {:?} has more than 63 bytes", plan.hostname)));
    }
    match plan.tmpfs.keys().find(|name| !plain(name)) {
        Some(name) => Err(RuntimeError::InvalidPlan(format!("memory volume {name:?}"))),
        None => Ok(()),
    }
}

/// The socket exists before the shim does, so connecting never has to wait for it.
fn listen(directory: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let fd = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Through the directory's descriptor: a socket path has at most 107 bytes.
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", fd.as_raw_fd());
    Ok(std::os::unix::net::UnixListener::bind(path)?.into())
}

/// What a shim wrote before it died, for the error message.
fn last_words(directory: &Path) -> String {
    let log = std::fs::read_to_string(directory.join("shim.log")).unwrap_or_default();
    log.lines().last().unwrap_or("it left no message").to_owned()
}

async fn blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(task).await.expect("invariant: the task does not panic")
}
