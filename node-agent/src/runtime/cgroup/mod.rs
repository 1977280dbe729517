//! Control groups: where pods live in the tree, their limits, and how everything in one is killed.
//!
//! One trait, two drivers. [`v2`] is the unified hierarchy. [`v1`] puts limits into the old controllers and tracks processes
//! in the hybrid layout's unified tree, which has no controllers but can kill. What a machine lacks is a sentence in
//! `warnings`, never a failure: a pod without a memory limit is better than no pod.

mod hierarchy;
mod v1;
mod v2;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::plan::{CgroupLimits, QosClass};
pub(super) use hierarchy::Mounts;

/// All paths are relative to each hierarchy's root, e.g. `kontiki/kubepods/burstable/pod<uid>/<container>`.
pub(super) trait CgroupDriver: std::fmt::Debug + Send + Sync {
    /// Makes `path` with its parents and sets the limits. Returns what could not be set.
    fn create(&self, path: &Path, limits: &CgroupLimits) -> io::Result<Vec<String>>;
    /// The same for a container. Where the kernel can (v2), want of memory ends all of its processes and not one of them.
    fn create_container(&self, path: &Path, limits: &CgroupLimits) -> io::Result<Vec<String>> {
        self.create(path, limits)
    }
    /// For `CLONE_INTO_CGROUP`; `None` where there is no unified hierarchy.
    fn open_tracker(&self, path: &Path) -> io::Result<Option<OwnedFd>>;
    /// Moves a process into every hierarchy that `CLONE_INTO_CGROUP` did not reach (all when `tracked` is false).
    fn attach(&self, path: &Path, pid: u32, tracked: bool) -> io::Result<()>;
    /// SIGKILL to every process in `path` and below.
    fn kill(&self, path: &Path) -> io::Result<()>;
    /// Processes the kernel killed in `path` for want of memory.
    fn oom_kills(&self, path: &Path) -> u64;
    /// Removes `path` and everything below in every hierarchy, once; fails with EBUSY while something lives there.
    fn remove_once(&self, path: &Path) -> io::Result<()>;
    /// What this machine cannot do.
    fn warnings(&self) -> Vec<String>;
}

/// The driver that fits this machine.
pub(super) fn detect() -> io::Result<Box<dyn CgroupDriver>> {
    let mounts = Mounts::read()?;
    if mounts.controllers.is_empty() && mounts.unified.is_some() {
        Ok(Box::new(v2::V2::new(&mounts)))
    } else {
        Ok(Box::new(v1::V1::new(mounts)))
    }
}

/// Makes moving processes between cgroups fast (see design: 7 ms without, 0.2 ms with). Returns a warning when it cannot.
pub(super) fn favour_dynamic_modification() -> Option<String> {
    match Mounts::read().and_then(|mounts| mounts.favour_dynamic_modification()) {
        Ok(()) => None,
        Err(error) => {
            Some(format!("cgroups: favordynmods could not be set ({error}): container starts are some 7 ms slower"))
        }
    }
}

/// `kubepods[/qos]/pod<uid>` below the agent's parent.
pub(super) fn pod_path(parent: &Path, qos: QosClass, pod_uid: &str) -> PathBuf {
    let kubepods = parent.join("kubepods");
    let class = match qos {
        QosClass::Guaranteed => kubepods,
        QosClass::Burstable => kubepods.join("burstable"),
        QosClass::BestEffort => kubepods.join("besteffort"),
    };
    class.join(format!("pod{pod_uid}"))
}

/// Where shims live: outside of the agent's own cgroup, which its service manager may kill, and outside of the pods'.
pub(super) fn shim_path(parent: &Path) -> PathBuf {
    parent.join("shims")
}

/// Kills what is in `path` and removes it; gives up after `timeout`. Blocks.
pub(super) fn kill_and_remove(driver: &dyn CgroupDriver, path: &Path, timeout: Duration) -> io::Result<()> {
    #[allow(clippy::disallowed_methods)]
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_micros(200);
    loop {
        driver.kill(path)?;
        match driver.remove_once(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The weight of v2 for shares of v1, by the kubelet's linear map.
fn weight_from_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Writes a control file; a missing file (no such controller) or a refusal becomes a warning.
fn set(warnings: &mut Vec<String>, path: PathBuf, value: &str) {
    if let Err(error) = std::fs::write(&path, value) {
        warnings.push(format!("cannot write {value:?} to {}: {error}", path.display()));
    }
}

/// `rmdir` of a cgroup and those below it, deepest first. Missing is fine.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The number after `key ` in a flat keyed file.
fn keyed_value(content: &str, key: &str) -> Option<u64> {
    content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_live_where_kubelets_put_them() {
        let parent = Path::new("kontiki/node-1");
        assert_eq!(pod_path(parent, QosClass::Guaranteed, "u"), Path::new("kontiki/node-1/kubepods/podu"));
        assert_eq!(pod_path(parent, QosClass::BestEffort, "u"), Path::new("kontiki/node-1/kubepods/besteffort/podu"));
    }

    #[test]
    fn weights_follow_shares() {
        assert_eq!(weight_from_shares(2), 1);
        assert_eq!(weight_from_shares(1024), 39);
        assert_eq!(weight_from_shares(262_144), 10_000);
    }

    #[test]
    fn keyed_files_are_read_by_whole_keys() {
        let content = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed_value(content, "oom_kill"), Some(3));
        assert_eq!(keyed_value(content, "oom"), None);
    }
}
