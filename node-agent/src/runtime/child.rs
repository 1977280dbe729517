//! What happens between `clone3` and `execve`: the new process builds its own world and then gives up its power.
//!
//! It runs in a copy of the shim, which has one thread, and makes only system calls on what `prepare` made. The order is the
//! design: mounts while still privileged, `pivot_root`, then limits, ids and capabilities, seccomp last. The first call that
//! fails is reported as {step, index, errno} through a close-on-exec pipe; an `execve` that succeeds closes the pipe.

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::error::Stage;
use super::filesystems::{attach, attach_volume, existing, make_read_only, mask, mount_dev, mount_proc, mount_sys};
use super::plan::ContainerPlan;
use super::prepare::Prepared;
use super::rootfs::{self, Target};
use super::sys::{self, MountAttributes, set_mount_attributes};

/// What the child was doing; its number travels through the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Release,
    CgroupNamespace,
    Root,
    Proc,
    Sys,
    Dev,
    Volume,
    Mask,
    ReadOnly,
    Pivot,
    Stdio,
    Rlimit,
    Seccomp,
    Capabilities,
    User,
    Cwd,
    Exec,
}

impl Step {
    const ALL: [Self; 17] = [
        Self::Release,
        Self::CgroupNamespace,
        Self::Root,
        Self::Proc,
        Self::Sys,
        Self::Dev,
        Self::Volume,
        Self::Mask,
        Self::ReadOnly,
        Self::Pivot,
        Self::Stdio,
        Self::Rlimit,
        Self::Seccomp,
        Self::Capabilities,
        Self::User,
        Self::Cwd,
        Self::Exec,
    ];

    pub(super) fn stage(self) -> Stage {
        match self {
            Self::Release | Self::CgroupNamespace => Stage::Cgroup,
            Self::Root
            | Self::Proc
            | Self::Sys
            | Self::Dev
            | Self::Volume
            | Self::Mask
            | Self::ReadOnly
            | Self::Pivot => Stage::Mount,
            Self::Stdio => Stage::Stdio,
            Self::Rlimit | Self::Seccomp | Self::Capabilities | Self::User => Stage::Privileges,
            Self::Cwd => Stage::Cwd,
            Self::Exec => Stage::Exec,
        }
    }
}

/// The first call that failed; `index` says which volume or limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) index: u8,
    pub(super) errno: i32,
}

impl Failure {
    pub(super) const SIZE: usize = 6;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let Self { step, index, errno } = self;
        let errno = errno.to_le_bytes();
        [step as u8, index, errno[0], errno[1], errno[2], errno[3]]
    }

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let [step, index, errno @ ..] = bytes;
        let step = *Step::ALL.get(usize::from(step))?;
        Some(Self { step, index, errno: i32::from_le_bytes(errno) })
    }
}

/// Descriptors of the child alone.
pub(super) struct ChildEnds {
    /// A byte when the cgroups are set; end of file when the shim died.
    pub(super) release: OwnedFd,
    pub(super) report: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The whole life of the child up to `execve`; returns only when something failed.
pub(super) fn run(plan: &ContainerPlan, prepared: &Prepared, ends: &ChildEnds) {
    let Err(failure) = build(plan, prepared, ends);
    // Nobody reads only when the shim is dead.
    let _ = rustix::io::write(&ends.report, &failure.to_bytes());
}

type Outcome<T> = Result<T, Failure>;

fn at<T>(step: Step, index: usize, result: Result<T, impl Into<io::Error>>) -> Outcome<T> {
    result.map_err(|error| {
        let errno = error.into().raw_os_error().unwrap_or(libc::EIO);
        Failure { step, index: u8::try_from(index).unwrap_or(u8::MAX), errno }
    })
}

fn build(plan: &ContainerPlan, prepared: &Prepared, ends: &ChildEnds) -> Outcome<Infallible> {
    at(Step::Release, 0, wait_for_release(ends))?;
    at(Step::CgroupNamespace, 0, sys::unshare_cgroup())?;
    let root = prepared.root.as_fd();
    at(Step::Root, 0, attach_root(prepared))?;
    at(Step::Proc, 0, mount_proc(root))?;
    at(Step::Sys, 0, mount_sys(root, plan.privileged))?;
    at(Step::Dev, 0, mount_dev(root, prepared, plan.privileged))?;
    for (index, mount) in prepared.mounts.iter().enumerate() {
        at(Step::Volume, index, attach_volume(root, mount))?;
    }
    for (index, target) in prepared.masked.iter().enumerate() {
        at(Step::Mask, index, mask(root, target, &prepared.empty))?;
    }
    for (index, target) in prepared.read_only.iter().enumerate() {
        at(Step::ReadOnly, index, make_read_only(root, target))?;
    }
    at(Step::Cwd, 0, make_cwd(root, &prepared.cwd_target, plan))?;
    at(Step::Pivot, 0, pivot(prepared))?;
    at(Step::Stdio, 0, take_stdio(ends, plan.tty))?;
    for (index, (resource, limit)) in prepared.rlimits.iter().enumerate() {
        at(Step::Rlimit, index, rustix::process::setrlimit(*resource, *limit))?;
    }
    drop_power(plan, prepared)?;
    at(Step::Exec, 0, sys::close_from_on_exec(3))?;
    Err(exec(prepared))
}

fn wait_for_release(ends: &ChildEnds) -> Result<(), Errno> {
    let mut byte = [0];
    match rustix::io::read(&ends.release, &mut byte)? {
        1 => Ok(()),
        _ => Err(Errno::PIPE),
    }
}

fn attach_root(prepared: &Prepared) -> io::Result<()> {
    let private = MountAttributes { propagation: libc::MS_PRIVATE, recursive: true, ..MountAttributes::default() };
    let node_root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    set_mount_attributes(node_root.as_fd(), c"", private)?;
    let staging = rustix::fs::open(prepared.staging.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(attach(&prepared.root, &staging)?)
}

/// A missing working directory is made, and belongs to the user who starts in it. One that cannot be made is reported by
/// `chdir` later.
fn make_cwd(root: BorrowedFd<'_>, target: &Target, plan: &ContainerPlan) -> Result<(), Errno> {
    if existing(root, target)?.is_some() {
        return Ok(());
    }
    if let Ok(made) = rootfs::make_directory(root, target) {
        let (owner, group) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
        rustix::fs::chownat(&made, c"", Some(owner), Some(group), rustix::fs::AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

fn pivot(prepared: &Prepared) -> io::Result<()> {
    if prepared.root_read_only {
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        set_mount_attributes(prepared.root.as_fd(), c"", read_only)?;
    }
    rustix::process::fchdir(&prepared.root)?;
    // The old root goes on top of the new one and is taken off again: no directory in the image is needed for it.
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

fn take_stdio(ends: &ChildEnds, tty: bool) -> Result<(), Errno> {
    rustix::process::setsid()?;
    rustix::stdio::dup2_stdin(&ends.stdin)?;
    rustix::stdio::dup2_stdout(&ends.stdout)?;
    rustix::stdio::dup2_stderr(&ends.stderr)?;
    if tty {
        rustix::process::ioctl_tiocsctty(&ends.stdin)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    Ok(())
}

/// Ids, capabilities, no_new_privs and seccomp. Without no_new_privs the filter needs `CAP_SYS_ADMIN` and goes first.
fn drop_power(plan: &ContainerPlan, prepared: &Prepared) -> Outcome<()> {
    if let (Some(program), false) = (&prepared.seccomp, plan.no_new_privileges) {
        at(Step::Seccomp, 0, sys::load_seccomp(program))?;
    }
    let keep = CapabilitySet::from_bits_retain(plan.capabilities.bits());
    at(Step::Capabilities, 0, bound_capabilities(keep))?;
    let (uid, gid) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    at(Step::User, 0, rustix::thread::set_thread_groups(&prepared.groups))?;
    at(Step::User, 1, rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    at(Step::User, 2, rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    let held = if uid.is_root() { keep } else { CapabilitySet::empty() };
    at(Step::Capabilities, 1, hold_capabilities(held))?;
    at(Step::Cwd, 1, enter_cwd(&prepared.cwd))?;
    if plan.no_new_privileges {
        at(Step::Seccomp, 1, rustix::thread::set_no_new_privs(true))?;
        if let Some(program) = &prepared.seccomp {
            at(Step::Seccomp, 2, sys::load_seccomp(program))?;
        }
    }
    Ok(())
}

/// What is not in the bounding set can never be gained, not even by a set-user-id program.
fn bound_capabilities(keep: CapabilitySet) -> Result<(), Errno> {
    for number in 0..63 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) if !keep.contains(one) => rustix::thread::remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    rustix::thread::clear_ambient_capability_set()
}

/// Permitted and effective; inheritable stays empty (CVE-2022-29162).
fn hold_capabilities(held: CapabilitySet) -> Result<(), Errno> {
    let now = rustix::thread::capabilities(None)?;
    let held = held & now.permitted;
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// After the change of user, so that its permissions count; and verified to be inside (CVE-2024-21626).
fn enter_cwd(cwd: &CStr) -> Result<(), Errno> {
    rustix::process::chdir(cwd)?;
    if rustix::process::getcwd(Vec::new())?.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

/// Tries the candidates as `execvp` does: what is not there is passed over, what may not run is remembered.
fn exec(prepared: &Prepared) -> Failure {
    let mut errno = libc::ENOENT;
    for candidate in &prepared.candidates {
        let error = sys::execve(candidate, &prepared.argv, &prepared.env).raw_os_error().unwrap_or(libc::EIO);
        match error {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => errno = error,
            _ => return Failure { step: Step::Exec, index: 1, errno: error },
        }
    }
    Failure { step: Step::Exec, index: 1, errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_the_pipe() {
        for step in Step::ALL {
            let failure = Failure { step, index: 3, errno: libc::ENOENT };
            assert_eq!(Failure::from_bytes(failure.to_bytes()), Some(failure));
        }
        assert_eq!(Failure::from_bytes([200, 0, 0, 0, 0, 0]), None);
    }
}
