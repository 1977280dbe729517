//! A client of the store that writes one key after the other and remembers what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};

/// How long the writer may be without an acknowledgement before the demonstration is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The client URL of the member that leads.
pub async fn leader(endpoints: &[String]) -> Result<String> {
    for endpoint in endpoints {
        let status = MaintenanceClient::new(channel(endpoint)?).status(pb::StatusRequest {}).await?.into_inner();
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(endpoint.clone());
        }
    }
    anyhow::bail!("no server says that it leads")
}

pub struct Writer {
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Duration>>,
}

/// What the writer saw.
pub struct Report {
    pub acknowledged: usize,
    pub median: Duration,
    pub longest_gap: Duration,
}

fn key(n: usize) -> String {
    format!("demo/{n:08}")
}

impl Writer {
    /// Starts writing through one member.
    pub fn start(endpoint: &str) -> Result<Self> {
        let mut client = KvClient::new(channel(endpoint)?);
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped) = (count.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut gaps = Vec::new();
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let n = counter.load(Ordering::Relaxed);
                let put = pb::PutRequest { key: key(n).into(), value: n.to_string().into(), ..Default::default() };
                // Not acknowledged: the same key is written again.
                if client.put(put).await.is_ok() {
                    gaps.push(last.elapsed());
                    last = Instant::now();
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            gaps
        });
        Ok(Self { count, stop, task })
    }

    /// Waits for that many further acknowledgements.
    pub async fn await_writes(&self, writes: usize) -> Result<()> {
        let target = self.count.load(Ordering::Relaxed) + writes;
        let deadline = Instant::now() + PATIENCE;
        while self.count.load(Ordering::Relaxed) < target {
            ensure!(Instant::now() < deadline, "no further write was acknowledged within {} s", PATIENCE.as_secs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub async fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut gaps = self.task.await.context("the writer")?;
        gaps.sort_unstable();
        let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
        let longest_gap = gaps.last().copied().unwrap_or_default();
        Ok(Report { acknowledged: gaps.len(), median, longest_gap })
    }
}

impl Report {
    /// Acknowledged writes that a member does not have.
    pub async fn lost(&self, endpoints: &[String]) -> Result<usize> {
        let mut lost = 0;
        for endpoint in endpoints {
            let range = pb::RangeRequest {
                key: key(0).into(),
                range_end: key(self.acknowledged).into(),
                count_only: true,
                ..Default::default()
            };
            let there = KvClient::new(channel(endpoint)?).range(range).await?.into_inner().count;
            lost += self.acknowledged - usize::try_from(there)?.min(self.acknowledged);
        }
        Ok(lost)
    }
}

fn channel(endpoint: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .connect_lazy())
}
