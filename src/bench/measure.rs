//! What is measured: latencies of the clients, costs of the servers, and the disk under them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Microseconds, from one to two minutes, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order")
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

/// Ten steps to each halving of what is left.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    histogram.iter_quantiles(10).map(|step| (step.percentile(), step.value_iterated_to())).collect()
}

/// One run of one load on one server.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub load: String,
    pub server: String,
    pub round: u32,
    pub operations: u64,
    pub errors: u64,
    /// The first error.
    pub error: Option<String>,
    pub seconds: f64,
    pub per_second: f64,
    pub latency_us: Latency,
    /// Percentiles and microseconds, finer towards the end: what a plot shows.
    pub curve: Vec<(f64, u64)>,
    /// Only where the servers' processes are known.
    pub cost: Option<Cost>,
    /// A write of a typical log record and its fdatasync, just before the run.
    pub fdatasync_us: Option<Probe>,
    /// Of the last minute, before the run.
    pub load_average: f64,
}

/// What all members of a server spent on an operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub cpu_us_per_operation: f64,
    pub written_bytes_per_operation: f64,
    /// Of the largest member, after the run.
    pub resident_bytes: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Probe {
    pub p50: u64,
    pub p99: u64,
}

/// What processes have spent so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    cpu_us: f64,
    written_bytes: u64,
    resident_bytes: u64,
}

impl Spent {
    /// Of all of these together; none where one of them cannot be looked at.
    pub fn by(pids: &[u32]) -> Option<Self> {
        let mut all = Self::default();
        for pid in pids {
            let one = Self::of(*pid)?;
            all.cpu_us += one.cpu_us;
            all.written_bytes += one.written_bytes;
            all.resident_bytes = all.resident_bytes.max(one.resident_bytes);
        }
        (!pids.is_empty()).then_some(all)
    }

    fn of(pid: u32) -> Option<Self> {
        let schedstat = task_nanoseconds(pid)?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident_kib: u64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
        Some(Self { cpu_us: schedstat as f64 / 1e3, written_bytes: written, resident_bytes: resident_kib << 10 })
    }

    pub fn resident_bytes(self) -> u64 {
        self.resident_bytes
    }

    pub fn since(self, before: Self, operations: u64) -> Cost {
        let operations = operations.max(1) as f64;
        Cost {
            cpu_us_per_operation: (self.cpu_us - before.cpu_us) / operations,
            written_bytes_per_operation: self.written_bytes.saturating_sub(before.written_bytes) as f64 / operations,
            resident_bytes: self.resident_bytes,
        }
    }
}

/// Processor time of all threads: finer than the ticks of `stat`. Threads that have ended are not in it, which is nothing
/// for servers whose threads live as long as they do.
fn task_nanoseconds(pid: u32) -> Option<u64> {
    let mut all = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).unwrap_or_default();
        all += text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(all)
}

/// Writes of 2,300 bytes, each made durable, at the place where the servers keep their logs.
pub fn probe_disk(dir: &Path) -> std::io::Result<Probe> {
    const WRITES: usize = 100;
    let path = dir.join("probe");
    let mut file = File::create(&path)?;
    let mut took = histogram();
    for _ in 0..WRITES {
        let start = Instant::now();
        file.write_all(&[b'p'; 2300])?;
        file.sync_data()?;
        took.saturating_record(micros(start.elapsed()));
    }
    fs::remove_file(&path)?;
    Ok(Probe { p50: took.value_at_quantile(0.5), p99: took.value_at_quantile(0.99) })
}

pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
