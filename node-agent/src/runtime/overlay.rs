//! A container's root as a detached overlayfs mount: no path of the node is ever mounted on, so nothing can leak.
//!
//! Layers go in one `lowerdir+` each (Linux 6.7), which has no length limit. Older kernels get the classic `mount(2)`
//! on a directory of the shim's private mount namespace, cloned and unmounted at once. `volatile` skips the sync of the
//! whole disk when a container ends; such an upper can never be mounted again, and none ever is.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree, unmount,
};

/// All layers merged, nothing writable. `layers` are lowest first and at least two: overlayfs refuses a single lower.
pub(super) fn mount_read_only(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    set_lowers(&context, layers)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

/// The root of one container instance. `scratch` is a fresh directory of this instance.
pub(super) fn mount_writable(layers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    std::fs::create_dir_all(&work)?;
    std::fs::create_dir_all(&upper)?;
    copy_mode(layers.last(), &upper)?;
    match mount_by_context(layers, &upper, &work) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => mount_classic(layers, scratch, &upper, &work),
        result => result,
    }
}

/// The root directory itself has the mode the image gives it, not that of a directory just made with umask 077.
fn copy_mode(top: Option<&PathBuf>, upper: &Path) -> io::Result<()> {
    let permissions = match top {
        Some(top) => std::fs::metadata(top)?.permissions(),
        None => std::os::unix::fs::PermissionsExt::from_mode(0o755),
    };
    std::fs::set_permissions(upper, permissions)
}

fn mount_by_context(layers: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    set_lowers(&context, layers)?;
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    fsconfig_set_flag(&context, "volatile")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn set_lowers(context: &OwnedFd, layers: &[PathBuf]) -> io::Result<()> {
    // overlayfs wants the topmost first.
    for layer in layers.iter().rev() {
        fsconfig_set_string(context, "lowerdir+", layer)?;
    }
    Ok(())
}

fn mount_classic(layers: &[PathBuf], scratch: &Path, upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let merged = scratch.join("merged");
    std::fs::create_dir_all(&merged)?;
    let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let lowers: Vec<String> = layers.iter().rev().map(|layer| escape(layer)).collect();
    let data = format!("lowerdir={},upperdir={},workdir={},volatile", lowers.join(":"), escape(upper), escape(work));
    let data = std::ffi::CString::new(data)?;
    mount("overlay", &merged, "overlay", MountFlags::empty(), data.as_c_str())?;
    let tree = open_tree(CWD, &merged, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    unmount(&merged, UnmountFlags::DETACH)?;
    Ok(tree?)
}
