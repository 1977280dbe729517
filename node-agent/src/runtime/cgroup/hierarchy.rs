//! Which cgroup hierarchies are mounted where, from `/proc/self/mountinfo`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick};

/// Controllers that limits are written to; others are left alone.
const USED: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::runtime) struct Mounts {
    /// Mount point of the unified hierarchy and its options.
    pub(super) unified: Option<PathBuf>,
    unified_options: Vec<String>,
    /// Mount point by v1 controller; several may share one.
    pub(super) controllers: BTreeMap<String, PathBuf>,
    /// Named v1 hierarchies without controllers, such as systemd's.
    pub(super) named: Vec<PathBuf>,
}

impl Mounts {
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            match kind {
                "cgroup2" if mounts.unified.is_none() => {
                    mounts.unified = Some(mount_point);
                    mounts.unified_options = options.split(',').map(str::to_owned).collect();
                }
                "cgroup" => mounts.add_v1(mount_point, options),
                _ => {}
            }
        }
        mounts
    }

    fn add_v1(&mut self, mount_point: PathBuf, options: &str) {
        for option in options.split(',') {
            if USED.contains(&option) {
                self.controllers.entry(option.to_owned()).or_insert_with(|| mount_point.clone());
            } else if option.starts_with("name=") {
                self.named.push(mount_point.clone());
            }
        }
    }

    /// Remounts the unified hierarchy with `favordynmods`, which acts on all of them. The other options must be repeated,
    /// a remount would clear them.
    pub(super) fn favour_dynamic_modification(&self) -> io::Result<()> {
        let unified = self.unified.as_ref().ok_or_else(|| io::Error::other("no unified hierarchy"))?;
        if self.unified_options.iter().any(|option| option == "favordynmods") {
            return Ok(());
        }
        let context = fspick(CWD, unified, FsPickFlags::FSPICK_CLOEXEC)?;
        for option in self.unified_options.iter().filter(|option| !matches!(option.as_str(), "rw" | "ro" | "")) {
            fsconfig_set_flag(&context, option.as_str())?;
        }
        fsconfig_set_flag(&context, "favordynmods")?;
        Ok(fsconfig_reconfigure(&context)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_layout_is_understood() {
        let mounts = Mounts::parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(mounts.unified, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounts.controllers["cpuacct"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(mounts.controllers.len(), 3);
        assert_eq!(mounts.named, [PathBuf::from("/sys/fs/cgroup/systemd")]);
    }
}
