//! Starting one container in the shim: the parent's half, around what `child` does.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;

use super::cgroup::CgroupDriver;
use super::child::{self, ChildEnds, Failure, Step};
use super::error::{Stage, StartError, errno_text};
use super::plan::{ContainerPlan, Started};
use super::prepare::{Prepared, SandboxMounts, prepare};
use super::sys::{self, Child, SingleThreaded};

/// A process that runs, with the shim's ends of its output.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) started: Started,
    pub(super) pidfd: OwnedFd,
    /// Only this one with a terminal.
    pub(super) stdout: OwnedFd,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) warnings: Vec<String>,
}

/// Starts the container in `cgroup` and waits until its program runs or cannot.
pub(super) fn launch(
    proof: &SingleThreaded,
    plan: &ContainerPlan,
    sandbox: &SandboxMounts,
    driver: &dyn CgroupDriver,
    cgroup: &Path,
) -> Result<Launched, StartError> {
    let warnings = driver
        .create_container(cgroup, &plan.limits)
        .map_err(|error| StartError::io(Stage::Cgroup, "cannot make the cgroup", &error))?;
    let result = launch_in(proof, plan, sandbox, driver, cgroup).map(|launched| Launched { warnings, ..launched });
    if result.is_err() {
        let _ = super::cgroup::kill_and_remove(driver, cgroup, super::limits::CGROUP_EMPTY_TIMEOUT);
    }
    result
}

fn launch_in(
    proof: &SingleThreaded,
    plan: &ContainerPlan,
    sandbox: &SandboxMounts,
    driver: &dyn CgroupDriver,
    cgroup: &Path,
) -> Result<Launched, StartError> {
    let prepared = prepare(plan, sandbox)?;
    let (ends, ours) = pipes(plan.tty).map_err(|error| StartError::io(Stage::Stdio, "standard streams", &error))?;
    let tracker = driver.open_tracker(cgroup).map_err(|error| StartError::io(Stage::Cgroup, "cgroup", &error))?;
    let mut flags = libc::CLONE_NEWNS;
    if !plan.host_pid {
        flags |= libc::CLONE_NEWPID;
    }
    let tracker_fd = tracker.as_ref().map(|tracker| tracker.as_fd());
    let child = sys::clone3(proof, flags, tracker_fd, || child::run(plan, &prepared, &ends))
        .map_err(|error| StartError::io(Stage::Clone, "clone3", &error))?;
    drop(ends);
    let released = release(plan, driver, cgroup, &child, tracker.is_some(), &ours.release);
    let failure = released.and_then(|()| read_report(ours.report));
    match failure {
        Ok(None) => {
            let started = Started { pid: child.pid, started_at: now() };
            let Child { pidfd, .. } = child;
            Ok(Launched { started, pidfd, stdout: ours.stdout, stderr: ours.stderr, warnings: Vec::new() })
        }
        Ok(Some(failure)) => {
            reap(&child);
            Err(describe(plan, &prepared, failure))
        }
        Err(error) => {
            let _ = sys::signal_pidfd(child.pidfd.as_fd(), libc::SIGKILL);
            reap(&child);
            Err(error)
        }
    }
}

/// The shim's ends.
struct OurEnds {
    release: OwnedFd,
    report: OwnedFd,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

fn pipes(tty: bool) -> io::Result<(ChildEnds, OurEnds)> {
    let (release_read, release_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (report_read, report_write) = pipe_with(PipeFlags::CLOEXEC)?;
    if tty {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        // By the master, never by a path in the container (CVE-2025-52565).
        let peer =
            rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let ends = ChildEnds {
            release: release_read,
            report: report_write,
            stdin: peer.try_clone()?,
            stdout: peer.try_clone()?,
            stderr: peer,
        };
        return Ok((ends, OurEnds { release: release_write, report: report_read, stdout: master, stderr: None }));
    }
    let (stdout_read, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr_read, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    // Only our ends: a program may be surprised by a standard stream that does not block.
    rustix::io::ioctl_fionbio(&stdout_read, true)?;
    rustix::io::ioctl_fionbio(&stderr_read, true)?;
    let stdin = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let ends = ChildEnds { release: release_read, report: report_write, stdin, stdout, stderr };
    Ok((ends, OurEnds { release: release_write, report: report_read, stdout: stdout_read, stderr: Some(stderr_read) }))
}

/// Puts the child where `clone3` could not and lets it go.
fn release(
    plan: &ContainerPlan,
    driver: &dyn CgroupDriver,
    cgroup: &Path,
    child: &Child,
    tracked: bool,
    release: &OwnedFd,
) -> Result<(), StartError> {
    driver
        .attach(cgroup, child.pid, tracked)
        .map_err(|error| StartError::io(Stage::Cgroup, "cannot move into the cgroup", &error))?;
    if let Some(adjustment) = plan.oom_score_adj {
        // Lowering needs CAP_SYS_RESOURCE, which not every machine gives its root.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.pid), adjustment.to_string());
    }
    rustix::io::write(release, &[1]).map_err(|error| StartError::io(Stage::Clone, "the child died", &error.into()))?;
    Ok(())
}

/// `None` when the pipe closed because `execve` succeeded.
fn read_report(report: OwnedFd) -> Result<Option<Failure>, StartError> {
    let mut bytes = Vec::new();
    let mut report = std::fs::File::from(report);
    report.read_to_end(&mut bytes).map_err(|error| StartError::io(Stage::Clone, "the child's report", &error))?;
    match <[u8; Failure::SIZE]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Ok(Some(Failure::from_bytes(bytes).expect("invariant: the child runs this program"))),
        // A child that was killed on its way, by the OOM killer say, looks started and exits at once.
        Err(_) => Ok(None),
    }
}

fn reap(child: &Child) {
    let _ = rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
}

fn describe(plan: &ContainerPlan, prepared: &Prepared, failure: Failure) -> StartError {
    let Failure { step, index, errno } = failure;
    let error = io::Error::from_raw_os_error(errno);
    let text = errno_text(&error);
    let mount_name = || {
        let mount = prepared.mounts.get(usize::from(index));
        mount.map_or_else(String::new, |mount| mount.target.to_string())
    };
    let message = match step {
        Step::Exec => exec_message(&plan.argv[0], errno, &text),
        Step::Cwd => format!("chdir to cwd ({:?}) set in config failed: {text}", prepared.cwd),
        Step::Volume => format!("cannot mount a volume on {}: {text}", mount_name()),
        Step::Mask => format!("cannot mask {}: {text}", prepared.masked[usize::from(index)]),
        Step::ReadOnly => format!("cannot make {} read-only: {text}", prepared.read_only[usize::from(index)]),
        Step::Rlimit => format!("cannot set {}: {text}", plan.rlimits[usize::from(index)].name),
        Step::User => format!("cannot become user {} of group {}: {text}", plan.user.uid, plan.user.gid),
        Step::Proc => format!("cannot mount /proc: {text}"),
        Step::Sys => format!("cannot mount /sys: {text}"),
        Step::Dev => format!("cannot set up /dev: {text}"),
        other => format!("container setup failed at {other:?}: {text}"),
    };
    StartError { stage: step.stage(), errno, message }
}

/// The words of other runtimes, which users and tools search for.
fn exec_message(argv0: &str, errno: i32, text: &str) -> String {
    match errno {
        libc::ENOENT if argv0.contains('/') => format!("exec: {argv0:?}: stat {argv0}: no such file or directory"),
        libc::ENOENT => format!("exec: {argv0:?}: executable file not found in $PATH"),
        _ => format!("exec: {argv0:?}: {text}"),
    }
}

pub(super) fn now() -> SystemTime {
    #[allow(clippy::disallowed_methods)]
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_failures_read_as_elsewhere() {
        assert_eq!(exec_message("x", libc::ENOENT, ""), "exec: \"x\": executable file not found in $PATH");
        assert_eq!(exec_message("/x", libc::ENOENT, ""), "exec: \"/x\": stat /x: no such file or directory");
        assert_eq!(exec_message("/x", libc::EACCES, "permission denied"), "exec: \"/x\": permission denied");
    }
}
