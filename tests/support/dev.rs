//! `kontiki dev` as a child process, kubectl against it, and the small image that its pods run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{KONTIKI, client, succeed, text, wait_for};

/// How long anything may take that a user waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running development cluster with the image `busybox`.
pub struct Dev {
    child: Child,
    pub ready: Value,
    pub dir: tempfile::TempDir,
    stopped: bool,
}

impl Dev {
    pub fn start(servers: usize, agents: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = busybox_image(dir.path());
        let log = fs::File::create(dir.path().join("dev.log")).unwrap();
        let mut child = Command::new(KONTIKI)
            .args(["dev", "--client-port", "0", "--api-port", "0", "--output", "json"])
            .args(["--servers", &servers.to_string(), "--agents", &agents.to_string()])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg("--image")
            .arg(format!("busybox={}", image.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let _ = child.wait();
            panic!("kontiki dev did not start\n{}", logs(dir.path()));
        }
        Self { child, ready: serde_json::from_str(&line).unwrap(), dir, stopped: false }
    }

    pub fn kubeconfig(&self) -> &Path {
        Path::new(self.ready["kubeconfig"].as_str().unwrap())
    }

    /// `kubectl` as found on PATH.
    pub fn kubectl(&self) -> Kubectl<'_> {
        Kubectl { dev: self, program: client("kubectl"), home: self.dir.path().join("home") }
    }

    /// Every kubectl of this machine: those on PATH, each with its `kubectl.1.NN` neighbours.
    pub fn every_kubectl(&self) -> Vec<Kubectl<'_>> {
        let path = std::env::var_os("PATH").unwrap();
        let mut programs = BTreeSet::new();
        for found in std::env::split_paths(&path).filter_map(|folder| folder.join("kubectl").canonicalize().ok()) {
            let versions: Vec<PathBuf> = fs::read_dir(found.parent().unwrap())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("kubectl.1."))
                .collect();
            programs.extend(if versions.is_empty() { vec![found] } else { versions });
        }
        assert!(!programs.is_empty(), "kubectl must be installed: `cargo xtask setup`");
        let home = |program: &Path| self.dir.path().join(program.display().to_string().replace('/', "_"));
        programs.into_iter().map(|program| Kubectl { dev: self, home: home(&program), program }).collect()
    }

    /// The process id of a server or an agent.
    pub fn pid(&self, name: &str) -> i32 {
        let all = ["servers", "agents"].iter().flat_map(|kind| self.ready[*kind].as_array().unwrap());
        let found = all.into_iter().find(|entry| entry["name"] == name).unwrap();
        i32::try_from(found["pid"].as_i64().unwrap()).unwrap()
    }

    /// As Ctrl-C does; the cluster takes itself down.
    pub fn stop(&mut self) {
        self.stopped = true;
        signal(i32::try_from(self.child.id()).unwrap(), rustix::process::Signal::INT);
        let status = wait_for("kontiki dev to stop", PATIENCE, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", logs(self.dir.path()));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", logs(self.dir.path()));
        }
        if !self.stopped {
            signal(i32::try_from(self.child.id()).unwrap(), rustix::process::Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The last lines of every log of a cluster, for a test that fails.
fn logs(dir: &Path) -> String {
    let mut all = String::new();
    let folders = [dir.to_owned(), dir.join("data/logs")];
    for path in folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten()).filter_map(Result::ok) {
        if path.path().extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(path.path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            all.push_str(&format!("--- {}\n{}\n", path.path().display(), tail.join("\n")));
        }
    }
    all
}

pub struct Kubectl<'a> {
    dev: &'a Dev,
    pub program: PathBuf,
    /// Its own cache of discovery, so that versions do not share one.
    home: PathBuf,
}

impl Kubectl<'_> {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", &self.home).arg("--kubeconfig").arg(self.dev.kubeconfig()).args(arguments);
        command
    }

    /// 33 of version 1.33.
    #[track_caller]
    pub fn minor(&self) -> u32 {
        let output = succeed(Command::new(&self.program).args(["version", "--client", "--output=json"]));
        let version: Value = serde_json::from_slice(&output.stdout).unwrap();
        let minor = version["clientVersion"]["minor"].as_str().unwrap();
        minor.trim_end_matches('+').parse().unwrap()
    }

    /// Standard output of a command that succeeds and says nothing on standard error.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = succeed(&mut self.command(arguments));
        let errors = text(&output.stderr);
        assert!(errors.is_empty(), "{}: kubectl {}: {errors}", self.program.display(), arguments.join(" "));
        text(&output.stdout)
    }

    /// Standard error of a command that fails.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "kubectl {} succeeded: {}", arguments.join(" "), text(&output.stdout));
        text(&output.stderr)
    }

    /// `kubectl <verb> -f` of a manifest.
    #[track_caller]
    pub fn file(&self, verb: &str, manifest: &str) -> String {
        let file = self.manifest(manifest);
        self.run(&[verb, "-f", file.path().to_str().unwrap()])
    }

    pub fn manifest(&self, manifest: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(self.dev.dir.path()).unwrap();
        fs::write(file.path(), manifest).unwrap();
        file
    }

    /// `kubectl get -o jsonpath`.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        self.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until a field has a value.
    #[track_caller]
    pub fn await_field(&self, object: &str, path: &str, expected: &str) {
        let mut last = String::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        while last != expected {
            assert!(
                std::time::Instant::now() < deadline,
                "{object} {path} is {last:?}, not {expected:?}\n{}",
                self.run(&["describe", object])
            );
            last = self.field(object, path);
        }
    }
}

/// The tar of a root filesystem with busybox.
fn busybox_image(dir: &Path) -> PathBuf {
    let root = dir.join("busybox");
    for folder in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static: `cargo xtask setup` installs it");
    let applets = succeed(Command::new("/bin/busybox").arg("--list"));
    for applet in text(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    let archive = dir.join("busybox.tar");
    succeed(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."));
    archive
}
