//! What is measured: latencies of the clients, costs of the servers, and the disk under them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::AbortHandle;

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

/// Looks at processes now and then while a load runs.
pub struct Meter {
    pids: Vec<u32>,
    looks: Arc<Mutex<Vec<(Instant, Spent)>>>,
    task: AbortHandle,
}

impl Meter {
    pub fn start(pids: Vec<u32>) -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let (looked, watched) = (looks.clone(), pids.clone());
        let task = tokio::spawn(async move {
            while let Some(spent) = Spent::by(&watched) {
                looked.lock().push((Instant::now(), spent));
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        });
        Self { pids, looks, task: task.abort_handle() }
    }

    /// What had been spent at these two times; none where the processes are not known.
    pub fn spent(self, from: Instant, until: Instant) -> Option<(Spent, Spent)> {
        self.task.abort();
        let mut looks = self.looks.lock().clone();
        looks.push((Instant::now(), Spent::by(&self.pids)?));
        Some((at(&looks, from)?, at(&looks, until)?))
    }
}

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Between two looks, in proportion; before the first and after the last, what they saw.
fn at(looks: &[(Instant, Spent)], time: Instant) -> Option<Spent> {
    let after = looks.partition_point(|(at, _)| *at <= time);
    let (Some((later, high)), Some(before)) = (looks.get(after), after.checked_sub(1)) else {
        return looks.get(after.saturating_sub(1)).map(|(_, spent)| *spent);
    };
    let (earlier, low) = looks[before];
    let share = time.duration_since(earlier).as_secs_f64() / later.duration_since(earlier).as_secs_f64();
    let written = (high.written_bytes.saturating_sub(low.written_bytes)) as f64 * share;
    Some(Spent {
        cpu_us: low.cpu_us + (high.cpu_us - low.cpu_us) * share,
        written_bytes: low.written_bytes + written as u64,
        resident_bytes: high.resident_bytes,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_between_two_looks_is_in_proportion() {
        let start = Instant::now();
        let look = |ms: u64, cpu_us, written_bytes| {
            (start + Duration::from_millis(ms), Spent { cpu_us, written_bytes, resident_bytes: ms })
        };
        let looks = [look(0, 0.0, 0), look(100, 50.0, 1000), look(200, 250.0, 1000)];
        let spent = |ms| at(&looks, start + Duration::from_millis(ms)).unwrap();
        assert_eq!((spent(50).cpu_us, spent(50).written_bytes), (25.0, 500));
        assert_eq!((spent(150).cpu_us, spent(150).resident_bytes), (150.0, 200));
        assert_eq!((spent(200).cpu_us, spent(900).cpu_us), (250.0, 250.0));
        let cost = spent(200).since(spent(100), 10);
        assert_eq!((cost.cpu_us_per_operation, cost.written_bytes_per_operation), (20.0, 0.0));
    }
}
