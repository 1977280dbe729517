//! The v2 driver: one unified hierarchy with controllers enabled from the root down.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::hierarchy::Mounts;
use super::{CgroupDriver, keyed_value, remove_tree, set, weight_from_shares};
use crate::runtime::plan::{CPU_PERIOD_US, CgroupLimits};

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

#[derive(Debug)]
pub(super) struct V2 {
    root: PathBuf,
    /// Those of [`CONTROLLERS`] that the kernel offers at the root.
    available: Vec<&'static str>,
}

impl V2 {
    pub(super) fn new(mounts: &Mounts) -> Self {
        let root = mounts.unified.clone().expect("invariant: v2 is chosen when it is mounted");
        let offered = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let available =
            CONTROLLERS.into_iter().filter(|name| offered.split_whitespace().any(|offer| offer == *name)).collect();
        Self { root, available }
    }

    /// Makes `path` step by step, handing the controllers down. The last directory is a leaf when it is a container's: then
    /// its parent hands down and it does not, by the rule that only leaves hold processes.
    fn create_directories(&self, path: &Path, warnings: &mut Vec<String>) -> io::Result<()> {
        let mut current = self.root.clone();
        for component in path.components() {
            for controller in &self.available {
                let file = current.join("cgroup.subtree_control");
                set(warnings, file, &format!("+{controller}"));
            }
            current.push(component);
            match std::fs::create_dir(&current) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl CgroupDriver for V2 {
    fn create(&self, path: &Path, limits: &CgroupLimits) -> io::Result<Vec<String>> {
        let mut warnings = Vec::new();
        self.create_directories(path, &mut warnings)?;
        let directory = self.root.join(path);
        let has = |controller| self.available.contains(&controller);
        let CgroupLimits { memory_bytes, cpu_shares, cpu_quota_us, pids } = *limits;
        if let (Some(bytes), true) = (memory_bytes, has("memory")) {
            set(&mut warnings, directory.join("memory.max"), &bytes.to_string());
            set(&mut warnings, directory.join("memory.oom.group"), "1");
            // Absent where the kernel has no swap accounting.
            if directory.join("memory.swap.max").exists() {
                set(&mut warnings, directory.join("memory.swap.max"), "0");
            }
        }
        if let (Some(shares), true) = (cpu_shares, has("cpu")) {
            set(&mut warnings, directory.join("cpu.weight"), &weight_from_shares(shares).to_string());
        }
        if let (Some(quota), true) = (cpu_quota_us, has("cpu")) {
            set(&mut warnings, directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"));
        }
        if let (Some(pids), true) = (pids, has("pids")) {
            set(&mut warnings, directory.join("pids.max"), &pids.to_string());
        }
        Ok(warnings)
    }

    fn open_tracker(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::open(self.root.join(path), flags, Mode::empty())?))
    }

    fn attach(&self, path: &Path, pid: u32, tracked: bool) -> io::Result<()> {
        if tracked {
            return Ok(());
        }
        std::fs::write(self.root.join(path).join("cgroup.procs"), pid.to_string())
    }

    fn kill(&self, path: &Path) -> io::Result<()> {
        match std::fs::write(self.root.join(path).join("cgroup.kill"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn oom_kills(&self, path: &Path) -> u64 {
        let content = std::fs::read_to_string(self.root.join(path).join("memory.events")).unwrap_or_default();
        keyed_value(&content, "oom_kill").unwrap_or(0)
    }

    fn remove_once(&self, path: &Path) -> io::Result<()> {
        remove_tree(&self.root.join(path))
    }

    fn warnings(&self) -> Vec<String> {
        let missing = CONTROLLERS.into_iter().filter(|name| !self.available.contains(name));
        missing
            .map(|name| format!("cgroups: the {name} controller is not available: its limits are not enforced"))
            .collect()
    }
}
