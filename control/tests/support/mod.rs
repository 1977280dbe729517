//! A real etcd, a control plane on it, and real kubectl against both.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kontiki_control::io::etcd::Storage;
use kontiki_control::server::{ControlConfig, ControlPlane, Running};
use tokio::sync::watch;

pub struct Etcd {
    process: Child,
    pub endpoint: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    pub fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let (client, peer) = (free_port(), free_port());
        let endpoint = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--unsafe-no-fsync", "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd must be installed");
        Self { process, endpoint, _data: data }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// A control plane on an own etcd, run by a thread of its own.
pub struct Cluster {
    pub home: tempfile::TempDir,
    pub kubeconfig: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _etcd: Etcd,
}

impl Cluster {
    pub fn start(run_controllers: bool) -> Self {
        let etcd = Etcd::start();
        let home = tempfile::tempdir().expect("a temporary directory");
        let kubeconfig = home.path().join("kubeconfig");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let (endpoint, data_dir, file) = (etcd.endpoint.clone(), home.path().join("data"), kubeconfig.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let (_leader, leadership) = watch::channel(true);
                let mut config = ControlConfig::new(([127, 0, 0, 1], 0).into(), data_dir);
                config.run_controllers = run_controllers;
                let storage = Storage::connect(&[endpoint]).expect("an endpoint");
                let running: Running = ControlPlane::start(config, storage, leadership).await.expect("it starts");
                let url = format!("https://{}", running.address());
                let text = running.admin_kubeconfig(&[url]).expect("a kubeconfig");
                std::fs::write(file, text).expect("a writable home");
                ready.send(()).expect("the test waits");
                let _ = stopped.await;
                running.shutdown().await;
            });
        });
        started.recv_timeout(Duration::from_secs(30)).expect("the control plane starts");
        let cluster = Self { home, kubeconfig, stop: Some(stop), thread: Some(thread), _etcd: etcd };
        let kubectl = kubectls().pop().expect("a kubectl");
        cluster.wait("the cluster's own objects", || {
            let found = cluster.run(&kubectl, &["get", "endpoints", "kubernetes"], "");
            found.status.success()
        });
        cluster
    }

    /// Runs kubectl; each version has its own cache, as on the machines of different users.
    pub fn run(&self, kubectl: &Path, arguments: &[&str], stdin: &str) -> Output {
        use std::io::Write;
        let cache = self.home.path().join(kubectl.display().to_string().replace('/', "_"));
        let mut child = Command::new(kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &cache)
            .env("EDITOR", "sed -i s/colour:.*/colour:\\ edited/")
            .env_remove("KUBE_EDITOR")
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(stdin.as_bytes()).expect("kubectl reads its input");
        drop(input);
        child.wait_with_output().expect("kubectl ends")
    }

    /// Runs kubectl, which must succeed without a word on stderr; its output.
    pub fn ok(&self, kubectl: &Path, arguments: &[&str], stdin: &str) -> String {
        let output = self.run(kubectl, arguments, stdin);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success() && err.is_empty(),
            "{} {arguments:?}: {}\n{out}\n{err}",
            kubectl.display(),
            output.status
        );
        out.into_owned()
    }

    /// Runs kubectl, which must fail; its complaint.
    pub fn refused(&self, kubectl: &Path, arguments: &[&str], stdin: &str) -> String {
        let output = self.run(kubectl, arguments, stdin);
        assert!(!output.status.success(), "{} {arguments:?} succeeded", kubectl.display());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a kubectl that goes on (`-w`).
    pub fn background(&self, kubectl: &Path, arguments: &[&str]) -> Watching {
        let mut child = Command::new(kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.home.path().join("watching"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let mut output = child.stdout.take().expect("piped");
        let (lines, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(size @ 1..) = output.read(&mut buffer) {
                if lines.send(String::from_utf8_lossy(&buffer[..size]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Watching { child, seen, text: String::new() }
    }

    pub fn wait(&self, what: &str, mut held: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !held() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Watching {
    child: Child,
    seen: std::sync::mpsc::Receiver<String>,
    text: String,
}

impl Watching {
    /// Waits until the output contains `part`.
    pub fn until(&mut self, part: &str) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !self.text.contains(part) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok(more) => self.text.push_str(&more),
                Err(_) => panic!("waited in vain for {part:?} in:\n{}", self.text),
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 33 of kubectl 1.33.
pub fn minor(kubectl: &Path) -> u32 {
    let output = Command::new(kubectl).args(["version", "--client", "--output=json"]).output().expect("kubectl runs");
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).expect("kubectl's version");
    let minor = version["clientVersion"]["minor"].as_str().expect("a minor version");
    minor.trim_end_matches('+').parse().expect("a number")
}

/// Every kubectl on this machine: those on the PATH, each with the versions that lie beside what it links to.
pub fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").expect("a PATH");
    let mut all = BTreeSet::new();
    for found in std::env::split_paths(&path).filter_map(|folder| folder.join("kubectl").canonicalize().ok()) {
        let versions: Vec<PathBuf> = std::fs::read_dir(found.parent().expect("a file has a folder"))
            .expect("a readable folder")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1.")))
            .collect();
        all.extend(if versions.is_empty() { vec![found] } else { versions });
    }
    assert!(!all.is_empty(), "kubectl must be installed: `cargo xtask setup`");
    all.into_iter().collect()
}
