//! What the kernel says about this process: memory, processor time, open files.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// One look at the process. What could not be read is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_fds: u64,
    pub max_fds: u64,
    /// As much as there can be, without a limit.
    pub virtual_max_bytes: u64,
    /// Seconds since the Unix epoch.
    pub start_time_s: f64,
    /// By IP, of the whole network namespace: the kernel does not count by process.
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// The unit of `/proc/<pid>/stat`; it is 100 on every Linux, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

impl Usage {
    #[must_use]
    pub fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // One of them is the directory that is being read.
        let network = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
        let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64);
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: status_bytes(&status, "VmRSS:"),
            virtual_bytes: status_bytes(&status, "VmSize:"),
            open_fds,
            max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            virtual_max_bytes: getrlimit(Resource::As).current.unwrap_or(u64::MAX),
            start_time_s: start_time().unwrap_or(0.0),
            received_bytes: ip_extended(&network, "InOctets").unwrap_or(0),
            sent_bytes: ip_extended(&network, "OutOctets").unwrap_or(0),
        }
    }
}

/// A line of `/proc/self/status`, which is in kB.
fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// A figure of `/proc/self/net/netstat`: a line of names, and one of numbers in the same order.
fn ip_extended(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|known| known == name)?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_files_and_a_start() {
        let usage = Usage::now();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes > usage.resident_bytes, "{usage:?}");
        assert!(usage.open_fds >= 3 && usage.max_fds >= usage.open_fds, "{usage:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - usage.start_time_s;
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!(usage.virtual_max_bytes >= usage.virtual_bytes, "{usage:?}");
    }

    #[test]
    fn network_bytes_are_found_by_their_name() {
        let netstat = "TcpExt: InOctets B\nTcpExt: 1 2\nIpExt: A InOctets OutOctets\nIpExt: 3 40 500\n";
        assert_eq!((ip_extended(netstat, "InOctets"), ip_extended(netstat, "OutOctets")), (Some(40), Some(500)));
        assert_eq!((ip_extended(netstat, "B"), ip_extended("", "InOctets")), (None, None));
    }
}
