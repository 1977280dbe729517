//! What this machine is: read once when the agent starts.

use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// CPUs, memory and disk, before anybody overrides them.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

pub fn resources(data_dir: &Path) -> Resources {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let disk_bytes = rustix::fs::statvfs(data_dir).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    Resources { cpu_milli: cpus * 1000, memory_bytes: memory_bytes(&read("/proc/meminfo")), disk_bytes }
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

pub fn system_info() -> NodeSystemInfo {
    let uname = rustix::system::uname();
    let version = format!("v{}-kontiki", env!("CARGO_PKG_VERSION"));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        container_runtime_version: format!("kontiki://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        kube_proxy_version: String::new(),
        kubelet_version: version,
        machine_id: read("/etc/machine-id").trim().to_owned(),
        operating_system: "linux".to_owned(),
        os_image: os_image(&read("/etc/os-release")),
        swap: None,
        system_uuid: read("/sys/class/dmi/id/product_uuid").trim().to_owned(),
    }
}

/// The architecture by Go's name, which labels and images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".to_owned(), |value| value.trim_matches('"').to_owned())
}

/// The text of a small file of the system; empty when it cannot be read, since none of them is needed to run pods.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_in_their_files() {
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16_777_216);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert!(resources(Path::new("/")).memory_bytes > 0);
    }
}
