//! From a plan to everything the child needs, made in the shim before the child exists: strings with their NULs, detached
//! mounts by descriptor, the seccomp program. After this the child takes no decision and allocates nothing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};
use rustix::process::{Resource, Rlimit};

use super::error::{Stage, StartError};
use super::plan::{ContainerPlan, MountSource, Propagation, TmpfsPlan};
use super::rootfs::{self, Target};
use super::sys::{MountAttributes, StringVector, set_mount_attributes};
use super::{overlay, seccomp, user};

/// PATH when neither image nor pod sets one.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the sandbox's shared file systems are, in the shim's mount namespace.
#[derive(Debug)]
pub(super) struct SandboxMounts {
    pub(super) directory: PathBuf,
}

impl SandboxMounts {
    pub(super) const SHM: &str = "shm";
    /// Read-only and empty: hides directories.
    pub(super) const EMPTY: &str = "empty";

    pub(super) fn tmpfs(&self, name: &str) -> PathBuf {
        self.directory.join("tmpfs").join(name)
    }

    /// Names of the plan are prefixed so that none is [`Self::SHM`].
    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.directory.join("tmpfs").join(format!("volume-{name}"))
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.directory.join("root")
    }
}

/// A detached mount and where it goes.
#[derive(Debug)]
pub(super) struct PreparedMount {
    pub(super) tree: OwnedFd,
    pub(super) target: Target,
    pub(super) is_directory: bool,
}

/// All a child needs.
pub(super) struct Prepared {
    pub(super) root: OwnedFd,
    pub(super) root_read_only: bool,
    /// An existing directory to attach the root to.
    pub(super) staging: CString,
    pub(super) empty: CString,
    pub(super) shm: OwnedFd,
    pub(super) mounts: Vec<PreparedMount>,
    pub(super) masked: Vec<Target>,
    pub(super) read_only: Vec<Target>,
    pub(super) rlimits: Vec<(Resource, Rlimit)>,
    pub(super) cwd: CString,
    pub(super) cwd_target: Target,
    pub(super) candidates: Vec<CString>,
    pub(super) argv: StringVector,
    pub(super) env: StringVector,
    pub(super) groups: Vec<rustix::thread::Gid>,
    pub(super) seccomp: Option<Vec<libc::sock_filter>>,
}

pub(super) fn prepare(plan: &ContainerPlan, sandbox: &SandboxMounts) -> Result<Prepared, StartError> {
    let argv0 = plan.argv.first().ok_or_else(|| StartError::new(Stage::Plan, "no command specified"))?;
    let root = mount_root(plan)?;
    let env = environment(plan, &root);
    let cwd = if plan.cwd.as_os_str().is_empty() { Path::new("/") } else { &plan.cwd };
    let staging = sandbox.rootfs();
    Ok(Prepared {
        root_read_only: plan.read_only_root,
        staging: c_string(staging.as_os_str().as_bytes())?,
        empty: c_string(sandbox.tmpfs(SandboxMounts::EMPTY).as_os_str().as_bytes())?,
        shm: clone_tree(&sandbox.tmpfs(SandboxMounts::SHM))
            .map_err(|error| StartError::io(Stage::Mount, "/dev/shm", &error))?,
        mounts: mounts(plan, sandbox)?,
        masked: if plan.privileged { Vec::new() } else { targets(&plan.masked_paths)? },
        read_only: if plan.privileged { Vec::new() } else { targets(&plan.read_only_paths)? },
        rlimits: plan.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
        cwd: c_string(cwd.as_os_str().as_bytes())?,
        cwd_target: target(cwd)?,
        candidates: candidates(argv0, &env)?,
        argv: strings(&plan.argv)?,
        env: strings(&env)?,
        groups: plan.user.groups.iter().map(|group| rustix::thread::Gid::from_raw(*group)).collect(),
        seccomp: if plan.privileged { None } else { seccomp::program(plan.seccomp, plan.capabilities) },
        root,
    })
}

fn mount_root(plan: &ContainerPlan) -> Result<OwnedFd, StartError> {
    let scratch = plan.scratch_dir.join(&plan.id);
    let mount = || {
        let root = overlay::mount_writable(&plan.layers, &scratch)?;
        let set = if plan.privileged { 0 } else { libc::MOUNT_ATTR_NODEV };
        set_mount_attributes(root.as_fd(), c"", MountAttributes { set, ..MountAttributes::default() })?;
        Ok(root)
    };
    mount().map_err(|error: io::Error| StartError::io(Stage::Mount, "root file system", &error))
}

/// The plan's variables, with HOME and PATH where absent.
fn environment(plan: &ContainerPlan, root: &OwnedFd) -> Vec<String> {
    let has = |name: &str| plan.env.iter().any(|entry| entry.split('=').next() == Some(name));
    let mut env = plan.env.clone();
    if !has("PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !has("HOME") {
        env.push(format!("HOME={}", user::home_of(root.as_fd(), plan.user.uid)));
    }
    if plan.tty && !has("TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// The paths to try, in order: the command itself when it has a slash, else each directory of PATH with it.
fn candidates(argv0: &str, env: &[String]) -> Result<Vec<CString>, StartError> {
    if argv0.contains('/') {
        return Ok(vec![c_string(argv0.as_bytes())?]);
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let absolute = path.split(':').filter(|directory| directory.starts_with('/'));
    absolute.map(|directory| c_string(format!("{}/{argv0}", directory.trim_end_matches('/')).as_bytes())).collect()
}

fn mounts(plan: &ContainerPlan, sandbox: &SandboxMounts) -> Result<Vec<PreparedMount>, StartError> {
    let mut prepared = Vec::new();
    for mount in &plan.mounts {
        let target = target(&mount.destination)?;
        if target.is_root() {
            return Err(StartError::new(Stage::Plan, "a volume cannot be mounted on /"));
        }
        let tree = source_tree(&mount.source, sandbox, plan.privileged)
            .and_then(|tree| dress(tree, mount.read_only, mount.propagation, plan.privileged))
            .map_err(|error| StartError::io(Stage::Mount, source_name(mount), &error))?;
        prepared.push(with_kind(tree, target)?);
    }
    if let Some(log) = &plan.termination_log {
        let tree = make_termination_log(&log.host_path)
            .and_then(|()| clone_tree(&log.host_path))
            .map_err(|error| StartError::io(Stage::Mount, log.host_path.display(), &error))?;
        prepared.push(with_kind(tree, target(&log.container_path)?)?);
    }
    // A mount below another must come after it.
    let mut with_depth: Vec<_> = prepared.into_iter().map(|mount| (mount.target.depth(), mount)).collect();
    with_depth.sort_by_key(|(depth, _)| *depth);
    Ok(with_depth.into_iter().map(|(_, mount)| mount).collect())
}

fn with_kind(tree: OwnedFd, target: Target) -> Result<PreparedMount, StartError> {
    let is_directory =
        rootfs::is_directory(&tree).map_err(|error| StartError::io(Stage::Mount, "volume", &io::Error::from(error)))?;
    Ok(PreparedMount { tree, target, is_directory })
}

fn source_name(mount: &super::plan::Mount) -> String {
    let source = match &mount.source {
        MountSource::Bind(path) => path.display().to_string(),
        MountSource::BindBelow { root, sub_path } => root.join(sub_path).display().to_string(),
        MountSource::Tmpfs(_) => "tmpfs".to_owned(),
        MountSource::SandboxTmpfs { name, .. } => name.clone(),
    };
    format!("cannot mount {source} on {}", mount.destination.display())
}

fn source_tree(source: &MountSource, sandbox: &SandboxMounts, privileged: bool) -> io::Result<OwnedFd> {
    match source {
        MountSource::Bind(path) => clone_tree(path),
        MountSource::BindBelow { root, sub_path } => clone_below(root, sub_path),
        MountSource::Tmpfs(plan) => tmpfs(plan, privileged),
        MountSource::SandboxTmpfs { name, sub_path: None } => clone_tree(&sandbox.volume(name)),
        MountSource::SandboxTmpfs { name, sub_path: Some(sub_path) } => clone_below(&sandbox.volume(name), sub_path),
    }
}

const CLONE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_RECURSIVE);

/// A detached copy of the mounts at `path` of the node.
fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, CLONE)?)
}

/// A detached copy of what is at `sub_path` without ever leaving `root` (CVE-2017-1002101, CVE-2021-25741).
fn clone_below(root: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = match rustix::fs::openat2(&root, sub_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
        Err(rustix::io::Errno::NOENT) => {
            let wanted = Target::parse(&Path::new("/").join(sub_path)).ok_or(rustix::io::Errno::INVAL)?;
            rootfs::make_directory(root.as_fd(), &wanted)?
        }
        result => result?,
    };
    Ok(open_tree(&found, c"", CLONE | OpenTreeFlags::AT_EMPTY_PATH)?)
}

pub(super) fn tmpfs(plan: &TmpfsPlan, privileged: bool) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(size) = plan.size {
        fsconfig_set_string(&context, "size", size.to_string())?;
    }
    fsconfig_set_string(&context, "mode", format!("{:o}", plan.mode))?;
    fsconfig_create(&context)?;
    let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID;
    if !privileged {
        flags |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// Read-only, device and propagation attributes of a volume. Without devices on volumes nor on the root, a container that
/// may `mknod` still cannot open what it made, whatever the cgroup version.
fn dress(tree: OwnedFd, read_only: bool, propagation: Propagation, privileged: bool) -> io::Result<OwnedFd> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        // The shim's own mounts are slaves of the node's, so nothing can go back to the node.
        Propagation::HostToContainer | Propagation::Bidirectional => libc::MS_SLAVE,
    };
    let recursive =
        MountAttributes { set: if privileged { 0 } else { libc::MOUNT_ATTR_NODEV }, propagation, recursive: true };
    set_mount_attributes(tree.as_fd(), c"", recursive)?;
    if read_only {
        let set = libc::MOUNT_ATTR_RDONLY;
        set_mount_attributes(tree.as_fd(), c"", MountAttributes { set, propagation: 0, recursive: true })?;
    }
    Ok(tree)
}

fn make_termination_log(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path)?.set_permissions(std::fs::Permissions::from_mode(0o666))
}

fn rlimit(limit: &super::plan::Rlimit) -> Result<(Resource, Rlimit), StartError> {
    let upper = limit.name.to_ascii_uppercase();
    let resource = match upper.strip_prefix("RLIMIT_").unwrap_or(&upper) {
        "CPU" => Resource::Cpu,
        "FSIZE" => Resource::Fsize,
        "DATA" => Resource::Data,
        "STACK" => Resource::Stack,
        "CORE" => Resource::Core,
        "RSS" => Resource::Rss,
        "NPROC" => Resource::Nproc,
        "NOFILE" => Resource::Nofile,
        "MEMLOCK" => Resource::Memlock,
        "AS" => Resource::As,
        "LOCKS" => Resource::Locks,
        "SIGPENDING" => Resource::Sigpending,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        _ => return Err(StartError::new(Stage::Plan, format!("unknown resource limit {:?}", limit.name))),
    };
    Ok((resource, Rlimit { current: Some(limit.soft), maximum: Some(limit.hard) }))
}

fn targets(paths: &[PathBuf]) -> Result<Vec<Target>, StartError> {
    paths.iter().map(|path| target(path)).collect()
}

fn target(path: &Path) -> Result<Target, StartError> {
    Target::parse(path)
        .ok_or_else(|| StartError::new(Stage::Plan, format!("{path:?} is not an absolute path without \"..\"")))
}

fn strings(strings: &[String]) -> Result<StringVector, StartError> {
    Ok(StringVector::new(strings.iter().map(|string| c_string(string.as_bytes())).collect::<Result<_, _>>()?))
}

fn c_string(bytes: &[u8]) -> Result<CString, StartError> {
    CString::new(bytes).map_err(|error| StartError::new(Stage::Plan, format!("a NUL byte in a string: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sought_in_the_containers_path() {
        let env = ["PATH=/a:/b/:relative".to_owned()];
        assert_eq!(candidates("x", &env).unwrap(), [c"/a/x".to_owned(), c"/b/x".to_owned()]);
        assert_eq!(candidates("./x", &env).unwrap(), [c"./x".to_owned()]);
        assert!(candidates("x\0y", &env).is_err());
    }
}
