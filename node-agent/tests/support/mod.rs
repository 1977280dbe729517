//! A node for tests of the runtime: busybox as image, an own bridge, network, cgroup parent and directories, all removed
//! whatever the test does.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kontiki_node_agent::runtime::plan::{
    CgroupLimits, ContainerKey, ContainerPlan, Exit, LogLimits, NetworkMode, QosClass, SandboxPlan, Seccomp, UserPlan,
    default_masked_paths, default_read_only_paths,
};
use kontiki_node_agent::runtime::{Runtime, RuntimeConfig, RuntimeEvent};
use tokio::sync::mpsc;

pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) events: mpsc::Receiver<RuntimeEvent>,
    pub(crate) directory: PathBuf,
    pub(crate) config: RuntimeConfig,
    pub(crate) pod_cidr: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs `body` on a fresh node and cleans up after it, also when it panics.
pub(crate) fn on_a_node<F, Fut>(body: F)
where
    F: FnOnce(Node) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    executor.block_on(async {
        let directory = tempfile::Builder::new().prefix("kontiki-runtime-").tempdir_in("/var/tmp").unwrap();
        let number = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 250;
        let tag = format!("{}-{number}", std::process::id());
        let config = RuntimeConfig {
            run_dir: PathBuf::from(format!("/run/kontiki-test-{tag}")),
            cgroup_parent: PathBuf::from(format!("kontiki-test-{tag}")),
            bridge: format!("kt{:x}", std::process::id() * 256 + number),
            pod_network: None,
            shim_command: Some(vec![env!("CARGO_BIN_EXE_kontiki-shim").to_owned()]),
        };
        let pod_cidr = format!("10.199.{number}.0/24");
        make_rootfs(&directory.path().join("rootfs"));
        let runtime = Runtime::open(config.clone()).await.unwrap();
        runtime.set_pod_cidr(&pod_cidr).await.unwrap();
        let events = runtime.events();
        let node = Node { runtime, events, directory: directory.path().to_owned(), config: config.clone(), pod_cidr };
        let outcome = tokio::spawn(body(node)).await;
        clean_up(config).await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic.into_panic());
        }
    });
}

async fn clean_up(config: RuntimeConfig) {
    let parent = config.cgroup_parent.clone();
    let runtime = Runtime::open(config).await.unwrap();
    // The bridge is known by its name alone; the network need not be set up again to be torn down.
    for pod in runtime.recover().await.unwrap() {
        runtime.remove_sandbox(&pod.plan.pod_uid).await.unwrap();
    }
    runtime.tear_down().await.unwrap();
    for hierarchy in hierarchies() {
        assert!(!hierarchy.join(&parent).exists(), "cgroups are left in {}", hierarchy.display());
    }
}

/// Roots of all cgroup hierarchies: one on a machine with v2 alone.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    match is_unified() {
        true => vec![root],
        false => std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.path()).collect(),
    }
}

/// Whether this machine has cgroup v2 alone.
pub(crate) fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn make_rootfs(root: &Path) {
    for directory in ["bin", "etc", "tmp", "proc", "root"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("apt-get install busybox-static");
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n")
        .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\nlogs:x:40:web\n").unwrap();
}

pub(crate) fn sandbox(pod_uid: &str) -> SandboxPlan {
    SandboxPlan {
        pod_uid: pod_uid.to_owned(),
        namespace: "default".to_owned(),
        name: pod_uid.to_owned(),
        hostname: format!("{pod_uid}-host"),
        network: NetworkMode::Pod,
        host_ipc: false,
        qos: QosClass::BestEffort,
        limits: CgroupLimits::default(),
        shm_size: 1 << 20,
        tmpfs: Default::default(),
        sysctls: Default::default(),
        annotations: Default::default(),
    }
}

impl Node {
    /// A container `c` that runs `argv`.
    pub(crate) fn container(&self, pod_uid: &str, argv: &[&str]) -> ContainerPlan {
        let id = format!(
            "{:064x}",
            u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) + (u128::from(std::process::id()) << 32)
        );
        ContainerPlan {
            name: "c".to_owned(),
            attempt: 0,
            id,
            layers: vec![self.directory.join("rootfs")],
            scratch_dir: self.directory.join("scratch"),
            read_only_root: false,
            argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
            env: vec!["GREETING=hello".to_owned()],
            cwd: PathBuf::new(),
            user: UserPlan::default(),
            capabilities: Default::default(),
            seccomp: Seccomp::RuntimeDefault,
            no_new_privileges: false,
            privileged: false,
            mounts: Vec::new(),
            masked_paths: default_masked_paths(),
            read_only_paths: default_read_only_paths(),
            rlimits: Vec::new(),
            oom_score_adj: None,
            host_pid: false,
            limits: CgroupLimits::default(),
            log_path: self.log_path(pod_uid),
            log_limits: LogLimits::default(),
            termination_log: None,
            tty: false,
            stop_signal: "SIGTERM".to_owned(),
            annotations: Default::default(),
        }
    }

    pub(crate) fn shell(&self, pod_uid: &str, script: &str) -> ContainerPlan {
        self.container(pod_uid, &["sh", "-c", script])
    }

    pub(crate) fn log_path(&self, pod_uid: &str) -> PathBuf {
        self.directory.join("logs").join(pod_uid).join("c/0.log")
    }

    /// The text of the log without times and tags.
    pub(crate) fn log(&self, pod_uid: &str) -> String {
        let log = std::fs::read_to_string(self.log_path(pod_uid)).unwrap_or_default();
        log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    /// Waits for the next exit.
    pub(crate) async fn exit(&mut self) -> (ContainerKey, Exit) {
        let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await;
        match event.expect("an exit within a minute").expect("the runtime lives") {
            RuntimeEvent::Exited { container, exit } => (container, exit),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a container in a new pod to its end: exit and log.
    pub(crate) async fn run(&mut self, pod_uid: &str, plan: ContainerPlan) -> (Exit, String) {
        self.runtime.create_sandbox(sandbox(pod_uid)).await.unwrap();
        self.runtime.start_container(pod_uid, plan).await.unwrap();
        let (key, exit) = self.exit().await;
        assert_eq!(key.pod_uid, pod_uid);
        (exit, self.log(pod_uid))
    }
}

/// Asks again until it is so, for at most a minute.
pub(crate) async fn wait_until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not come true within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
