//! Where a pod's files are, and reading and writing the small ones.
//!
//! `<data>/pods/<uid>/` holds what lives as long as the pod; `<run>/volumes/<uid>/` what must never reach a disk, such as
//! Secrets; `<data>/logs/<namespace>_<name>_<uid>/<container>/<attempt>.log` what the containers said.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

#[derive(Debug, Clone)]
pub struct Files {
    data_dir: PathBuf,
    run_dir: PathBuf,
}

impl Files {
    pub fn new(data_dir: PathBuf, run_dir: PathBuf) -> Self {
        Self { data_dir, run_dir }
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    pub fn volume_dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir(uid).join("volumes").join(plugin).join(volume)
    }

    /// On the run directory's memory file system.
    pub fn memory_volume_dir(&self, uid: &str, volume: &str) -> PathBuf {
        self.memory_dir(uid).join(volume)
    }

    fn memory_dir(&self, uid: &str) -> PathBuf {
        self.run_dir.join("volumes").join(uid)
    }

    pub fn hosts(&self, uid: &str) -> PathBuf {
        self.pod_dir(uid).join("etc-hosts")
    }

    pub fn resolv_conf(&self, uid: &str) -> PathBuf {
        self.pod_dir(uid).join("resolv.conf")
    }

    pub fn hostname(&self, uid: &str) -> PathBuf {
        self.pod_dir(uid).join("hostname")
    }

    pub fn termination_log(&self, uid: &str, container: &str, container_id: &str) -> PathBuf {
        self.pod_dir(uid).join("containers").join(container).join(container_id.get(..16).unwrap_or(container_id))
    }

    /// Below it the runtime makes writable layers.
    pub fn scratch_dir(&self) -> PathBuf {
        self.data_dir.join("scratch")
    }

    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &pod.metadata;
        self.data_dir.join("logs").join(format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)))
    }

    pub fn log(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        self.log_dir(pod).join(container).join(format!("{attempt}.log"))
    }

    /// The number of the newest log of a container, the last trace of how often it was started.
    pub fn newest_attempt(&self, pod: &Pod, container: &str) -> Option<u32> {
        attempts(&self.log_dir(pod).join(container)).into_iter().max()
    }

    /// Drops logs that nobody can ask for: all but the current and the previous one.
    pub fn prune_logs(&self, pod: &Pod, container: &str, current: u32) {
        for attempt in attempts(&self.log_dir(pod).join(container)) {
            if attempt + 1 < current {
                let _ = std::fs::remove_file(self.log(pod, container, attempt));
            }
        }
    }

    /// Deletes everything that the pod has on this machine outside the runtime.
    pub fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        assert!(!uid.is_empty() && !uid.contains('/'), "a pod's uid is a path component");
        for dir in [self.pod_dir(uid), self.memory_dir(uid), self.log_dir(pod)] {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The uids of pods that have files here.
    pub fn known_pods(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.data_dir.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Deletes the files of a pod of which only the uid is left.
    pub fn remove_unknown(&self, uid: &str) {
        let _ = std::fs::remove_dir_all(self.pod_dir(uid));
        let _ = std::fs::remove_dir_all(self.memory_dir(uid));
        let suffix = format!("_{uid}");
        for entry in std::fs::read_dir(self.data_dir.join("logs")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(&suffix) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn attempts(dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok()).collect()
}

/// Writes a small file, with its directory, in place.
pub fn write_text(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // A file that is mounted into a container must keep its inode.
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// At most `size_max` bytes of a file; empty when there is none.
pub fn read_start(path: &Path, size_max: usize) -> Vec<u8> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(size_max as u64).read_to_end(&mut bytes);
    }
    bytes
}
