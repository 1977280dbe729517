//! Making a sandbox in the shim: its namespaces, shared file systems, sysctls, cgroup and journal.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::thread::UnshareFlags;

use super::cgroup::{self, CgroupDriver};
use super::container::now;
use super::journal::{FILE_NAME, Journal, Record};
use super::netlink::Netlink;
use super::plan::{NetworkMode, Sandbox, SandboxPlan, TmpfsPlan};
use super::prepare::{SandboxMounts, tmpfs};
use super::protocol::{Address, CreateSandbox};
use super::sys::{self, MountAttributes, SingleThreaded, set_mount_attributes};

/// A sandbox that this process is.
#[derive(Debug)]
pub(super) struct Sandboxed {
    pub(super) pod_uid: String,
    pub(super) cgroup: PathBuf,
    pub(super) mounts: SandboxMounts,
    pub(super) journal: Journal,
}

/// Sysctls that belong to a namespace of the pod; any other would change the node.
const NAMESPACED: [&str; 6] = ["net.", "kernel.shm", "kernel.msg", "kernel.sem", "kernel.domainname", "fs.mqueue."];

/// What every pod with an own network gets, as containerd does it: no port needs root, and `ping` works without it.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

impl Sandboxed {
    /// Moves this process into new namespaces. Returns the record to journal and what could not be limited.
    pub(super) fn create(
        proof: &SingleThreaded,
        driver: &dyn CgroupDriver,
        request: &CreateSandbox,
    ) -> Result<(Self, Record, Vec<String>), String> {
        let CreateSandbox { plan, state_dir, cgroup_parent, address } = request;
        let context = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let pid = std::process::id();
        let shims = cgroup::shim_path(cgroup_parent);
        let mut warnings = driver.create(&shims, &Default::default()).map_err(context("the shims' cgroup"))?;
        driver.attach(&shims, pid, false).map_err(context("the shims' cgroup"))?;
        let pod_cgroup = cgroup::pod_path(cgroup_parent, plan.qos, &plan.pod_uid);
        warnings.extend(driver.create(&pod_cgroup, &plan.limits).map_err(context("the pod's cgroup"))?);
        sys::unshare(proof, namespaces(plan)).map_err(context("namespaces"))?;
        let mounts = SandboxMounts { directory: state_dir.clone() };
        make_mounts(plan, &mounts).map_err(context("shared file systems"))?;
        if plan.network == NetworkMode::Pod {
            rustix::system::sethostname(plan.hostname.as_bytes())
                .map_err(|error| context("host name")(error.into()))?;
            NETWORK_SYSCTLS.iter().for_each(|(name, value)| warnings.extend(set_sysctl(name, value).err()));
        }
        for (name, value) in &plan.sysctls {
            set_sysctl(name, value)?;
        }
        let journal = Journal::create(&state_dir.join(FILE_NAME)).map_err(context("journal"))?;
        let ip = address.map(|address| address.address);
        let sandbox = Sandbox { pod_uid: plan.pod_uid.clone(), ip, shim_pid: pid, created_at: now() };
        let record = Record::Sandbox { plan: Box::new(plan.clone()), sandbox };
        Ok((Self { pod_uid: plan.pod_uid.clone(), cgroup: pod_cgroup, mounts, journal }, record, warnings))
    }
}

fn namespaces(plan: &SandboxPlan) -> UnshareFlags {
    let mut flags = UnshareFlags::NEWNS;
    if plan.network == NetworkMode::Pod {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWUTS;
    }
    if !plan.host_ipc {
        flags |= UnshareFlags::NEWIPC;
    }
    flags
}

/// In the shim's own mount namespace, which follows the node's and tells it nothing.
fn make_mounts(plan: &SandboxPlan, mounts: &SandboxMounts) -> io::Result<()> {
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let slave = MountAttributes { propagation: libc::MS_SLAVE, recursive: true, ..MountAttributes::default() };
    set_mount_attributes(root.as_fd(), c"", slave)?;
    std::fs::create_dir_all(mounts.rootfs())?;
    let shm = TmpfsPlan { size: Some(plan.shm_size), mode: 0o1777 };
    mount_tmpfs(&mounts.tmpfs(SandboxMounts::SHM), &shm, false)?;
    let empty = TmpfsPlan { size: Some(4096), mode: 0o755 };
    mount_tmpfs(&mounts.tmpfs(SandboxMounts::EMPTY), &empty, true)?;
    plan.tmpfs.iter().try_for_each(|(name, plan)| mount_tmpfs(&mounts.volume(name), plan, false))
}

fn mount_tmpfs(path: &Path, plan: &TmpfsPlan, read_only: bool) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let tree = tmpfs(plan, false)?;
    if read_only {
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        set_mount_attributes(tree.as_fd(), c"", read_only)?;
    }
    Ok(move_mount(&tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// `/proc/sys` shows the namespaces of whoever looks. Written before any container exists, through the node's procfs.
fn set_sysctl(name: &str, value: &str) -> Result<(), String> {
    let known = NAMESPACED.iter().any(|prefix| name.starts_with(prefix));
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) && !name.contains("..");
    if !known || !plain {
        return Err(format!("sysctl {name:?} is not one of a pod"));
    }
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value).map_err(|error| format!("sysctl {name}: {error}"))
}

/// Loopback and `eth0` up, the address and the default route.
pub(super) fn configure_network(address: Address) -> io::Result<()> {
    let Address { address, prefix_length, gateway } = address;
    let mut netlink = Netlink::open()?;
    let missing = |name: &str| io::Error::other(format!("no interface {name} in the pod"));
    let loopback = netlink.index("lo")?.ok_or_else(|| missing("lo"))?;
    netlink.set_up(loopback)?;
    let interface =
        netlink.index(super::network::POD_INTERFACE)?.ok_or_else(|| missing(super::network::POD_INTERFACE))?;
    netlink.set_up(interface)?;
    netlink.add_address(interface, address, prefix_length)?;
    netlink.add_default_route(gateway)
}
