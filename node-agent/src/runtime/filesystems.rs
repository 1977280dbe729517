//! What a container finds mounted besides its root: `/proc`, `/sys`, `/dev`, volumes, and what is hidden or read-only.
//!
//! Runs in the child, on descriptors: the content below the root is the image's and may be made to mislead.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use super::prepare::{Prepared, PreparedMount};
use super::rootfs::{self, Target};
use super::sys::{MountAttributes, set_mount_attributes};

const MOVE: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// Puts a detached mount on what `target` refers to.
pub(super) fn attach(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    move_mount(tree.as_fd(), c"", target.as_fd(), c"", MOVE)
}

/// A directory directly below the root, which must be one and no link (CVE-2019-19921 and its successors).
fn own_directory(root: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    match mkdirat(root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

const QUIET: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

pub(super) fn mount_proc(root: BorrowedFd<'_>) -> Result<(), Errno> {
    attach(new_mount(c"proc", &[], QUIET)?, own_directory(root, c"proc")?)
}

pub(super) fn mount_sys(root: BorrowedFd<'_>, privileged: bool) -> Result<(), Errno> {
    let attributes = if privileged { QUIET } else { QUIET.union(MountAttrFlags::MOUNT_ATTR_RDONLY) };
    let target = own_directory(root, c"sys")?;
    attach(new_mount(c"sysfs", &[], attributes)?, &target)?;
    // Where the unified hierarchy is the only one it is mounted for the container's own view; a hybrid machine's tree of
    // hierarchies is left out.
    if rustix::fs::access(c"/sys/fs/cgroup/cgroup.controllers", rustix::fs::Access::EXISTS).is_ok() {
        let target = rootfs::open_in(root, c"sys/fs/cgroup", OFlags::PATH | OFlags::DIRECTORY)?;
        attach(new_mount(c"cgroup2", &[], attributes)?, target)?;
    }
    Ok(())
}

const NODES: [&CStr; 6] = [c"null", c"zero", c"full", c"random", c"urandom", c"tty"];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];
const PTS: [(&CStr, &CStr); 3] = [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"gid", c"5")];

pub(super) fn mount_dev(root: BorrowedFd<'_>, prepared: &Prepared, privileged: bool) -> Result<(), Errno> {
    let target = own_directory(root, c"dev")?;
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = if privileged {
        // Every device of the node: its own /dev, with the pod's pts, shm and mqueue on top.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, c"/dev", flags)?
    } else {
        new_mount(c"tmpfs", &[(c"mode", c"755"), (c"size", c"65536k")], no_exec)?
    };
    attach(&dev, target)?;
    if !privileged {
        let host = rustix::fs::open(c"/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for name in NODES {
            bind_node(host.as_fd(), dev.as_fd(), name)?;
        }
        for (to, name) in LINKS {
            symlinkat(to, &dev, name)?;
        }
    }
    attach(new_mount(c"devpts", &PTS, no_exec)?, own_directory(dev.as_fd(), c"pts")?)?;
    attach(&prepared.shm, own_directory(dev.as_fd(), c"shm")?)?;
    attach(new_mount(c"mqueue", &[], QUIET)?, own_directory(dev.as_fd(), c"mqueue")?)
}

/// The node's own device, checked to be one, on an empty file (CVE-2025-31133).
fn bind_node(host: BorrowedFd<'_>, dev: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let node = openat(host, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let status = rustix::fs::fstat(&node)?;
    let major = rustix::fs::major(status.st_rdev);
    if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice || !matches!(major, 1 | 5) {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(dev, name, flags, Mode::from_raw_mode(0o666))?;
    attach(clone_of(node.as_fd())?, target)
}

/// A detached copy of the single mount point `fd` refers to.
fn clone_of(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(fd, c"", flags)
}

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

pub(super) fn attach_volume(root: BorrowedFd<'_>, mount: &PreparedMount) -> Result<(), Errno> {
    let make = if mount.is_directory { rootfs::make_directory } else { rootfs::make_file };
    let target = make(root, &mount.target)?;
    // Nothing may cover what the kernel says in /proc, wherever a link in the image makes the path lead.
    if rustix::fs::fstatfs(&target)?.f_type == PROC_SUPER_MAGIC {
        return Err(Errno::PERM);
    }
    attach(&mount.tree, target)
}

pub(super) fn mask(root: BorrowedFd<'_>, target: &Target, empty: &CStr) -> Result<(), Errno> {
    let Some(found) = existing(root, target)? else { return Ok(()) };
    let cover = if rootfs::is_directory(&found)? {
        rustix::fs::open(empty, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
    } else {
        host_null()?
    };
    attach(clone_of(cover.as_fd())?, found)
}

/// The node's `/dev/null`, checked to be it.
fn host_null() -> Result<OwnedFd, Errno> {
    let null = rustix::fs::open(c"/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let status = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && status.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NODEV) }
}

pub(super) fn make_read_only(root: BorrowedFd<'_>, target: &Target) -> io::Result<()> {
    let Some(found) = existing(root, target)? else { return Ok(()) };
    let tree = clone_of(found.as_fd())?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    set_mount_attributes(tree.as_fd(), c"", read_only)?;
    Ok(attach(tree, found)?)
}

pub(super) fn existing(root: BorrowedFd<'_>, target: &Target) -> Result<Option<OwnedFd>, Errno> {
    match rootfs::find(root, target) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
