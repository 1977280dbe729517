//! What the suites of the whole program share: processes that end with their test, free ports, waiting with a deadline.

#![allow(dead_code, reason = "each suite uses its own part")]

pub mod dev;
pub mod load;
pub mod pki;
pub mod store;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub const KONTIKI: &str = env!("CARGO_BIN_EXE_kontiki");

/// A child process that does not outlive its test.
pub struct Process {
    pub name: String,
    child: Child,
}

impl Process {
    /// Starts a program; its output goes to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and the exit status within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        wait_for(&format!("{} to end after SIGTERM", self.name), limit, || self.child.try_wait().unwrap())
    }

    /// The exit status, once the process has ended by itself.
    pub fn exited(&mut self, limit: Duration) -> std::process::ExitStatus {
        wait_for(&format!("{} to end by itself", self.name), limit, || self.child.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks again and again until there is an answer; fails the test after `limit`.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ports that were free a moment ago, all different.
pub fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Where a client program lies; the test fails where it is missing (`cargo xtask test` installs it).
#[track_caller]
pub fn client(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not on PATH; `cargo xtask setup` installs it"))
}

/// Runs to the end; fails the test, with its output, when it does not succeed.
#[track_caller]
pub fn succeed(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
