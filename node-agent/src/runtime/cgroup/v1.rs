//! The v1 driver: limits in the old controllers, processes tracked in the unified tree of the hybrid layout.
//!
//! Without a unified tree, killing is a loop over `cgroup.procs` of whatever hierarchy there is, with the freezer where it
//! exists so that a fork bomb cannot outrun it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::hierarchy::Mounts;
use super::{CgroupDriver, keyed_value, remove_tree, set};
use crate::runtime::plan::{CPU_PERIOD_US, CgroupLimits};
use crate::runtime::sys;

#[derive(Debug)]
pub(super) struct V1 {
    mounts: Mounts,
    /// Every distinct mount point but the unified one.
    old: Vec<PathBuf>,
}

impl V1 {
    pub(super) fn new(mounts: Mounts) -> Self {
        let old: BTreeSet<PathBuf> = mounts.controllers.values().chain(&mounts.named).cloned().collect();
        Self { mounts, old: old.into_iter().collect() }
    }

    fn control_file(&self, controller: &str, path: &Path, file: &str) -> Option<PathBuf> {
        Some(self.mounts.controllers.get(controller)?.join(path).join(file))
    }

    fn set_limits(&self, path: &Path, limits: &CgroupLimits) -> Vec<String> {
        let mut warnings = Vec::new();
        let CgroupLimits { memory_bytes, cpu_shares, cpu_quota_us, pids } = *limits;
        let mut write = |controller, file, value: Option<u64>| {
            let (Some(value), Some(file)) = (value, self.control_file(controller, path, file)) else { return };
            set(&mut warnings, file, &value.to_string());
        };
        write("memory", "memory.limit_in_bytes", memory_bytes);
        write("cpu", "cpu.shares", cpu_shares);
        write("cpu", "cpu.cfs_period_us", cpu_quota_us.map(|_| CPU_PERIOD_US));
        write("cpu", "cpu.cfs_quota_us", cpu_quota_us);
        write("pids", "pids.max", pids);
        // Only where the kernel accounts swap; without swap there is nothing to limit.
        if let (Some(bytes), Some(file)) =
            (memory_bytes, self.control_file("memory", path, "memory.memsw.limit_in_bytes"))
            && file.exists()
        {
            set(&mut warnings, file, &bytes.to_string());
        }
        warnings
    }

    /// Processes in `path` and below, by the first hierarchy that has it.
    fn processes(&self, path: &Path) -> Vec<i32> {
        let Some(root) = self.old.iter().map(|root| root.join(path)).find(|root| root.exists()) else {
            return Vec::new();
        };
        let mut directories = vec![root];
        let mut pids = Vec::new();
        while let Some(directory) = directories.pop() {
            let content = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(content.lines().filter_map(|line| line.parse::<i32>().ok()));
            let children = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            directories.extend(children.map(|child| child.path()).filter(|child| child.is_dir()));
        }
        pids
    }

    fn kill_one_by_one(&self, path: &Path) {
        let freezer = self.control_file("freezer", path, "freezer.state");
        if let Some(file) = &freezer {
            let _ = std::fs::write(file, "FROZEN");
        }
        self.processes(path).into_iter().for_each(sys::kill_pid);
        if let Some(file) = &freezer {
            let _ = std::fs::write(file, "THAWED");
        }
    }
}

impl CgroupDriver for V1 {
    fn create(&self, path: &Path, limits: &CgroupLimits) -> io::Result<Vec<String>> {
        for root in self.old.iter().chain(&self.mounts.unified) {
            std::fs::create_dir_all(root.join(path))?;
        }
        Ok(self.set_limits(path, limits))
    }

    fn open_tracker(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let Some(unified) = &self.mounts.unified else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::open(unified.join(path), flags, Mode::empty())?))
    }

    fn attach(&self, path: &Path, pid: u32, tracked: bool) -> io::Result<()> {
        let unified = self.mounts.unified.as_ref().filter(|_| !tracked);
        for root in self.old.iter().chain(unified) {
            std::fs::write(root.join(path).join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    fn kill(&self, path: &Path) -> io::Result<()> {
        if let Some(unified) = &self.mounts.unified {
            match std::fs::write(unified.join(path).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Before Linux 5.14, or the cgroup is gone.
                Err(_) => {}
            }
        }
        self.kill_one_by_one(path);
        Ok(())
    }

    fn oom_kills(&self, path: &Path) -> u64 {
        let file = self.control_file("memory", path, "memory.oom_control");
        let content = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        keyed_value(&content, "oom_kill").unwrap_or(0)
    }

    fn remove_once(&self, path: &Path) -> io::Result<()> {
        self.old.iter().chain(&self.mounts.unified).try_for_each(|root| remove_tree(&root.join(path)))
    }

    fn warnings(&self) -> Vec<String> {
        let missing = |(controller, what): (&str, &str)| {
            (!self.mounts.controllers.contains_key(controller))
                .then(|| format!("cgroups: no {controller} controller: {what}"))
        };
        let wanted = [
            ("memory", "memory limits are not enforced"),
            ("cpu", "CPU requests and limits are not enforced"),
            ("pids", "the number of processes is not limited"),
        ];
        let mut warnings: Vec<String> = wanted.into_iter().filter_map(missing).collect();
        if self.mounts.unified.is_none() {
            warnings.push("cgroups: no unified hierarchy: containers are killed process by process".to_owned());
        }
        warnings
    }
}
