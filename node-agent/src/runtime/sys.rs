//! The only module of the project with `unsafe`: system calls that neither std nor rustix offer as safe functions.
//!
//! Everything here is a thin wrapper; what to do with them is decided elsewhere. Making a process without `execve` is only
//! sound in a process with one thread, which [`SingleThreaded`] proves: only the shim has one.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Proof that this process has exactly one thread.
#[derive(Debug)]
pub(super) struct SingleThreaded(());

impl SingleThreaded {
    /// Looks once; the holder must not start threads afterwards, which the shim never does.
    pub(super) fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            threads => Err(io::Error::other(format!("the shim has {threads} threads"))),
        }
    }
}

/// A child made by [`clone3`].
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
}

/// Makes a child with `flags` (`CLONE_NEW…`), in `cgroup` when given; it runs `run`, which should end in
/// `execve`; where it returns, the child exits with 127.
pub(super) fn clone3(
    _proof: &SingleThreaded,
    flags: c_int,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce(),
) -> io::Result<Child> {
    let mut pidfd: c_int = -1;
    // SAFETY: `clone_args` is plain data for which all zeros is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has a copy of this memory, and the only thread of the process is the one that
    // goes on in it, so no lock can be held by a thread that does not exist there. `arguments` and `pidfd` outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match check(result)? {
        0 => {
            run();
            exit_now(127)
        }
        pid => {
            let pid = u32::try_from(pid).expect("invariant: a pid is positive");
            // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
            Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
    }
}

/// Strings in the form `execve` wants them, made before the child exists.
pub(super) struct StringVector {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringVector {
    pub(super) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { strings, pointers }
    }

    fn as_ptr(&self) -> *const *const c_char {
        assert_eq!(self.pointers.len(), self.strings.len() + 1, "invariant: the vector ends with a null pointer");
        self.pointers.as_ptr()
    }
}

/// Returns only when it fails.
pub(super) fn execve(path: &CStr, argv: &StringVector, env: &StringVector) -> io::Error {
    // SAFETY: both vectors end with a null pointer and point to strings that live as long as they do.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends the process without running destructors or flushing: for a child that could not `execve`.
fn exit_now(code: c_int) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Handlers and masks survive `execve` where they ignore or block: a command expects the defaults.
pub(super) fn reset_signals() {
    // SAFETY: setting dispositions to default installs no code; the set is initialised by `sigemptyset`.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Every descriptor from `first` on is closed by the next `execve`.
pub(super) fn close_from_on_exec(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    // SAFETY: the call only sets a flag on descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result).map(drop)
}

/// Leaves namespaces of the shim for new ones.
pub(super) fn unshare(_proof: &SingleThreaded, flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "invariant: descriptors stay shared");
    // SAFETY: unsafe only for CLONE_FILES, which is not in `flags`.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// `unshare(CLONE_NEWCGROUP)` in a child made by [`clone3`], which has one thread like its parent.
pub(super) fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: unsafe only for CLONE_FILES.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?)
}

/// A mount namespace for the calling thread and what it starts, a copy from which nothing reaches the node. It ends with
/// the last of them.
pub fn unshare_mounts_of_thread() -> io::Result<()> {
    // SAFETY: unsafe only for CLONE_FILES.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let private = MountAttributes { propagation: libc::MS_PRIVATE, recursive: true, ..MountAttributes::default() };
    set_mount_attributes(root.as_fd(), c"", private)
}

/// A network namespace for the calling thread and what it starts, with nothing but a loopback device that is down.
pub fn unshare_network_of_thread() -> io::Result<()> {
    // SAFETY: unsafe only for CLONE_FILES.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Writes out the filesystem that `on` lies on; then whoever writes to it waits until it is thawed.
pub fn freeze_filesystem(on: BorrowedFd<'_>) -> io::Result<()> {
    const FIFREEZE: Opcode = opcode::read_write::<c_int>(b'X', 119);
    // SAFETY: the kernel ignores the argument of this call, whatever its number says.
    Ok(unsafe { ioctl(on, NoArg::<FIFREEZE>::new()) }?)
}

/// Ends what [`freeze_filesystem`] began.
pub fn thaw_filesystem(on: BorrowedFd<'_>) -> io::Result<()> {
    const FITHAW: Opcode = opcode::read_write::<c_int>(b'X', 120);
    // SAFETY: the kernel ignores the argument of this call, whatever its number says.
    Ok(unsafe { ioctl(on, NoArg::<FITHAW>::new()) }?)
}

/// What [`set_mount_attributes`] changes on a mount.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MountAttributes {
    /// `MOUNT_ATTR_…` bits to set.
    pub(super) set: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0.
    pub(super) propagation: u64,
    pub(super) recursive: bool,
}

/// `mount_setattr` on the mount that `path` below `fd` (or `fd` itself when empty) is on.
pub(super) fn set_mount_attributes(fd: BorrowedFd<'_>, path: &CStr, attributes: MountAttributes) -> io::Result<()> {
    let MountAttributes { set, propagation, recursive } = attributes;
    let argument = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `argument` is a valid `mount_attr` of the size given and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const argument,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Loads a seccomp filter for this process and all it becomes. Needs no_new_privs or `CAP_SYS_ADMIN`.
pub(super) fn load_seccomp(program: &[libc::sock_filter]) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: c_int = 1;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("invariant: a filter has fewer than 4096 instructions"),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel only reads the program, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result).map(drop)
}

/// `pidfd_send_signal` with a signal number; rustix' type excludes real-time signals.
pub(super) fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: a null `siginfo` is allowed and means the default one.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(result).map(drop)
}

/// A pidfd that becomes readable when its process ends.
pub(super) fn watch_pidfd(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// Kills a process by id, for cgroup hierarchies without `cgroup.kill`.
pub(super) fn kill_pid(pid: i32) {
    if pid > 1 {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// A child that has ended and is not reaped yet; it stays so.
pub(super) fn peek_ended_child() -> Option<u32> {
    // SAFETY: all zeros is a valid `siginfo_t`, which the call fills in; `si_pid` is set for `waitid`.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 {
            return None;
        }
        info.si_pid()
    };
    u32::try_from(pid).ok().filter(|pid| *pid != 0)
}

/// Takes over descriptor 0, which the agent passed, as one that no child inherits.
pub(super) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is open for the whole life of the process; it is only borrowed to be duplicated.
    let stdin = unsafe { BorrowedFd::borrow_raw(0) };
    Ok(rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?)
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
