//! Starting a shim: a sealed copy of this program, spawned without `fork`.
//!
//! The copy in memory cannot be changed by what a container does to `/proc/self/exe` (CVE-2019-5736) and lets the file on
//! disk be replaced while shims run; its pages are shared by all shims. Without a `pre_exec` hook the standard library uses
//! `posix_spawn`, whose cost does not grow with the agent's memory.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

/// What is run as shim.
#[derive(Debug)]
pub(super) enum ShimProgram {
    SealedCopy(OwnedFd),
    Command { program: String, arguments: Vec<String> },
}

impl ShimProgram {
    /// `command` as configured, or a sealed copy of the running program. Blocks while it copies.
    pub(super) fn prepare(command: Option<&[String]>) -> io::Result<Self> {
        match command {
            Some([program, arguments @ ..]) => {
                Ok(Self::Command { program: program.clone(), arguments: arguments.to_vec() })
            }
            Some([]) => Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty shim command")),
            None => sealed_copy().map(Self::SealedCopy),
        }
    }

    /// The shim listens on `listener`; what it has to say goes to `log`.
    pub(super) fn spawn(&self, listener: OwnedFd, log: &Path) -> io::Result<Child> {
        let mut command = match self {
            Self::SealedCopy(copy) => {
                let mut command = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
                command.arg0("kontiki").arg("shim");
                command
            }
            Self::Command { program, arguments } => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.env_clear().env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::from(log)).kill_on_drop(false).spawn()
    }
}

/// A shim as a process, by descriptor: its id may be another's by the time it is used.
#[derive(Debug)]
pub(super) struct ShimProcess {
    /// `None` when it had ended already.
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl ShimProcess {
    /// Right after the shim itself told its id on a connection that is still open.
    pub(super) fn open(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pidfd: pidfd.and_then(|pidfd| super::sys::watch_pidfd(pidfd).ok()) }
    }

    pub(super) async fn ended_within(&self, timeout: Duration) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        tokio::time::timeout(timeout, pidfd.readable()).await.is_ok()
    }

    pub(super) fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            // Fails only when it has ended.
            let _ = rustix::process::pidfd_send_signal(pidfd.get_ref(), Signal::KILL);
        }
    }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is required where the administrator forbids executable memory files by default, and unknown before 6.3.
    let copy = match rustix::fs::memfd_create(c"kontiki-shim", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(c"kontiki-shim", flags)?,
        result => result?,
    };
    let mut file = std::fs::File::from(copy);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut file)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    // A descriptor open for writing cannot be executed: reopen it for reading.
    let read_only = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(read_only.into())
}
