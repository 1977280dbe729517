//! The v2 driver: one unified hierarchy with controllers handed down from the root.
//!
//! Only leaves hold processes: a shim in `shims`, a container's in its own; the kernel refuses controllers below a cgroup
//! that has processes, and excepts only the real root. Pods live below that root, beside systemd's slices, as a
//! kubelet's with the `cgroupfs` driver do. systemd leaves alone what it did not make, and it cannot take back a controller
//! at the root which a child hands on. So it does not matter which slice or session the agent itself runs in.

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
        Self::at(mounts.unified.clone().expect("invariant: v2 is chosen when it is mounted"))
    }

    fn at(root: PathBuf) -> Self {
        let offered = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let available =
            CONTROLLERS.into_iter().filter(|name| offered.split_whitespace().any(|offer| offer == *name)).collect();
        Self { root, available }
    }

    /// Makes `path` step by step. Every directory above the last hands the controllers down; the last one does not: it may
    /// be a leaf.
    fn create_directories(&self, path: &Path, warnings: &mut Vec<String>) -> io::Result<()> {
        let mut current = self.root.clone();
        for component in path.components() {
            self.hand_down(&current, warnings);
            current.push(component);
            match std::fs::create_dir(&current) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks first: a write waits for every cgroup below that is on its way out, even when it changes nothing.
    fn hand_down(&self, directory: &Path, warnings: &mut Vec<String>) {
        let file = directory.join("cgroup.subtree_control");
        let handed = std::fs::read_to_string(&file).unwrap_or_default();
        let missing: Vec<String> = (self.available.iter())
            .filter(|name| !handed.split_whitespace().any(|handed| handed == **name))
            .map(|name| format!("+{name}"))
            .collect();
        // All or none go together; when they cannot, as many as can.
        if !missing.is_empty() && std::fs::write(&file, missing.join(" ")).is_err() {
            missing.iter().for_each(|controller| set(warnings, file.clone(), controller));
        }
    }

    fn set_limits(&self, path: &Path, limits: &CgroupLimits, warnings: &mut Vec<String>) {
        let directory = self.root.join(path);
        let has = |controller| self.available.contains(&controller);
        let CgroupLimits { memory_bytes, cpu_shares, cpu_quota_us, pids } = *limits;
        if let (Some(bytes), true) = (memory_bytes, has("memory")) {
            set(warnings, directory.join("memory.max"), &bytes.to_string());
            // Absent where the kernel has no swap accounting.
            if directory.join("memory.swap.max").exists() {
                set(warnings, directory.join("memory.swap.max"), "0");
            }
        }
        if let (Some(shares), true) = (cpu_shares, has("cpu")) {
            set(warnings, directory.join("cpu.weight"), &weight_from_shares(shares).to_string());
        }
        if let (Some(quota), true) = (cpu_quota_us, has("cpu")) {
            set(warnings, directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"));
        }
        if let (Some(pids), true) = (pids, has("pids")) {
            set(warnings, directory.join("pids.max"), &pids.to_string());
        }
    }
}

impl CgroupDriver for V2 {
    fn create(&self, path: &Path, limits: &CgroupLimits) -> io::Result<Vec<String>> {
        let mut warnings = Vec::new();
        self.create_directories(path, &mut warnings)?;
        self.set_limits(path, limits, &mut warnings);
        Ok(warnings)
    }

    /// The group to kill is the container: had its pod this mark, one greedy container would end all of them.
    fn create_container(&self, path: &Path, limits: &CgroupLimits) -> io::Result<Vec<String>> {
        let mut warnings = self.create(path, limits)?;
        if self.available.contains(&"memory") {
            set(&mut warnings, self.root.join(path).join("memory.oom.group"), "1");
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
            // Gone, or gone between the opening and the writing.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            result => result,
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Plain directories and files where the kernel would have a hierarchy: what is written where. What the kernel makes of
    /// it is the matter of `tests/runtime.rs`.
    fn on_paper(controllers: &str) -> (tempfile::TempDir, V2) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        let driver = V2::at(root.path().to_owned());
        (root, driver)
    }

    const POD: &str = "kontiki/kubepods/podu";
    const CONTAINER: &str = "kontiki/kubepods/podu/c";

    #[test]
    fn controllers_are_handed_down_to_the_leaf_but_not_by_it() {
        let (root, driver) = on_paper("cpuset cpu io memory hugetlb pids rdma misc\n");
        let control = |path: &str| fs::read_to_string(root.path().join(path).join("cgroup.subtree_control")).ok();
        driver.create(Path::new(POD), &CgroupLimits::default()).unwrap();
        assert_eq!(control(POD), None);
        // As systemd has it: what is there already is not asked for again.
        fs::write(root.path().join("cgroup.subtree_control"), "memory pids\n").unwrap();
        fs::write(root.path().join("kontiki/cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        driver.create_container(Path::new(CONTAINER), &CgroupLimits::default()).unwrap();
        assert_eq!(control("").as_deref(), Some("+cpu"));
        assert_eq!(control("kontiki").as_deref(), Some("cpu memory pids\n"));
        assert_eq!(control(POD).as_deref(), Some("+cpu +memory +pids"));
        assert_eq!(control(CONTAINER), None);
    }

    #[test]
    fn a_container_is_one_group_to_kill_and_a_pod_is_not() {
        let (root, driver) = on_paper("memory");
        let limits = CgroupLimits { memory_bytes: Some(1 << 20), ..CgroupLimits::default() };
        driver.create(Path::new(POD), &limits).unwrap();
        driver.create_container(Path::new(CONTAINER), &limits).unwrap();
        for (path, is_group) in [(POD, false), (CONTAINER, true)] {
            let directory = root.path().join(path);
            assert_eq!(fs::read_to_string(directory.join("memory.max")).unwrap(), "1048576");
            assert_eq!(directory.join("memory.oom.group").exists(), is_group, "{path}");
        }
    }

    #[test]
    fn a_limit_without_its_controller_is_a_warning_once_and_no_failure() {
        let (root, driver) = on_paper("memory");
        let limits = CgroupLimits { cpu_quota_us: Some(1000), pids: Some(1), ..CgroupLimits::default() };
        assert!(driver.create(Path::new(POD), &limits).unwrap().is_empty());
        assert_eq!(driver.warnings().len(), 2);
        assert!(!root.path().join(POD).join("pids.max").exists());
    }
}
