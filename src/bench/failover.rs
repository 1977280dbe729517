//! What clients of a survivor see when the leader fails.
//!
//! Puts are started at a steady rate through the survivors, each on its own, so that none waits for another. The gap is
//! the longest time without an acknowledged put; in the end every acknowledged put must be there, and a watcher must have
//! seen every key that is there exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use parking_lot::Mutex;
use pb::watch_request::RequestUnion;
use rustix::process::{Signal, geteuid};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::Connection;
use super::disk;
use super::servers::Server;

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Term,
    /// SIGSTOP, and SIGCONT once the others have gone on.
    Stop,
    /// Its link is cut, and mended once the others have gone on.
    Partition,
    /// Its disk stalls for [`STALL`].
    Disk,
}

impl Fault {
    /// # Errors
    /// When this user cannot make it happen here, to members that are `owned` here or are not.
    pub fn ensure_possible(self, owned: bool) -> Result<()> {
        ensure!(owned, "{self} needs members that are started here: --etcd-bin or --start");
        if self.needs_own_ground() {
            ensure!(geteuid().is_root(), "{self} needs root, for network namespaces and mounts");
        }
        match self {
            Self::Disk => disk::ensure_possible().with_context(|| self.to_string()),
            Self::Kill | Self::Term | Self::Stop | Self::Partition => Ok(()),
        }
    }

    /// Whether what fails is not to be shared by the members, as it is otherwise.
    pub fn needs_own_ground(self) -> bool {
        match self {
            Self::Kill | Self::Term | Self::Stop => false,
            Self::Partition | Self::Disk => true,
        }
    }

    /// What a reader of the gaps has to know.
    pub fn note(self) -> Option<String> {
        match self {
            Self::Kill | Self::Term | Self::Stop | Self::Partition => None,
            Self::Disk => Some(format!(
                "the disk stalls for {} ms: without a new leader, a gap as long means that clients waited for it",
                STALL.as_millis()
            )),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "leader-kill",
            Self::Term => "leader-term",
            Self::Stop => "leader-stop",
            Self::Partition => "leader-partition",
            Self::Disk => "leader-disk",
        })
    }
}

/// One failure.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub fault: Fault,
    pub server: String,
    pub round: u32,
    /// The longest time without an acknowledged put.
    pub gap_us: u64,
    /// The longest time without an event.
    pub watch_gap_us: u64,
    /// Whether another member led at the end.
    pub new_leader: bool,
    pub acknowledged: usize,
    pub errors: usize,
    pub first_error: Option<String>,
    /// Acknowledged puts that are not there.
    pub lost_writes: usize,
    /// Keys that are there and of which no event came.
    pub lost_events: usize,
    pub doubled_events: usize,
    /// When puts were acknowledged: milliseconds since the fault.
    pub acknowledged_at_ms: Vec<f64>,
}

/// Puts a second: the gap is known to twice the time between two of them.
const RATE: u32 = 500;
const BEFORE: Duration = Duration::from_millis(500);
/// Longer than any election of a server with usual settings.
const AFTER: Duration = Duration::from_secs(5);
/// It is over sooner when so long after the failure all puts but the last few are answered.
const SETTLED: Duration = Duration::from_secs(1);
const UNANSWERED: usize = RATE as usize / 20;
const PUT_LIMIT: Duration = Duration::from_secs(10);
/// Longer than any election too, so that a gap tells whether there was one; and over well before the puts are.
const STALL: Duration = Duration::from_secs(3);

/// What the puts and the watcher note.
#[derive(Default)]
struct Seen {
    acknowledged: BTreeMap<u32, Instant>,
    errors: usize,
    first_error: Option<String>,
    events: Vec<(u32, Instant)>,
}

/// Fails the leader once, and brings the cluster back to three members that serve.
pub async fn trial(server: &mut Server, fault: Fault, round: u32) -> Result<Trial> {
    let leader = server.leader().await?;
    let (leader_id, _) = server.own_and_leader(leader).await?;
    let survivors: Vec<usize> = (0..server.members()).filter(|member| *member != leader).collect();
    let connections = futures::future::try_join_all(survivors.iter().map(|member| server.connect_to(*member))).await?;
    let prefix = format!("bench/{fault}/{round:06}/");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (requests, events) = watch(&connections[0], &prefix).await?;
    let watcher = tokio::spawn(note_events(events, prefix.clone(), seen.clone()));
    let steady = put_through(server, &connections, &prefix, leader, fault, &seen).await?;
    let (_, led_by) = server.own_and_leader(survivors[0]).await?;
    bring_back(server, leader, fault).await?;
    let there = keys(&connections[0], &prefix).await?;
    await_events(&seen, &there).await;
    drop(requests);
    watcher.abort();
    let seen = seen.lock();
    let new_leader = led_by != 0 && led_by != leader_id;
    Ok(Trial { new_leader, ..seen.judge(server.name(), fault, round, steady, &there) })
}

/// Fails the leader; answers what goes on by itself until it is over.
fn fail(server: &Server, leader: usize, fault: Fault) -> Result<JoinSet<Result<()>>> {
    let mut going_on = JoinSet::new();
    match fault {
        Fault::Kill => server.signal(leader, Signal::KILL)?,
        Fault::Term => server.signal(leader, Signal::TERM)?,
        Fault::Stop => server.signal(leader, Signal::STOP)?,
        Fault::Partition => server.link(leader)?.cut()?,
        Fault::Disk => drop(going_on.spawn(server.disk(leader)?.stall(STALL))),
    }
    Ok(going_on)
}

/// Waits until the leader of before serves again.
async fn bring_back(server: &mut Server, leader: usize, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill | Fault::Term => return server.restart(leader).await.map(drop),
        Fault::Stop => server.signal(leader, Signal::CONT)?,
        Fault::Partition => server.link(leader)?.mend()?,
        Fault::Disk => {}
    }
    server.await_ready(leader).await
}

async fn watch(
    to: &Connection,
    prefix: &str,
) -> Result<(mpsc::Sender<pb::WatchRequest>, tonic::Streaming<pb::WatchResponse>)> {
    let (requests, waiting) = mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: prefix.to_owned().into(), range_end: end(prefix), ..Default::default() };
    requests.send(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
    let mut events = WatchClient::new(to.clone()).watch(ReceiverStream::new(waiting)).await?.into_inner();
    events.message().await?.context("the watch ended at once")?;
    Ok((requests, events))
}

fn end(prefix: &str) -> Bytes {
    format!("{}0", prefix.trim_end_matches('/')).into()
}

fn number(prefix: &str, key: &[u8]) -> Option<u32> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)?.parse().ok()
}

async fn note_events(mut events: tonic::Streaming<pb::WatchResponse>, prefix: String, seen: Arc<Mutex<Seen>>) {
    // A stream that breaks shows as events that are missing.
    while let Ok(Some(response)) = events.message().await {
        let now = Instant::now();
        let numbers = response.events.iter().filter_map(|event| number(&prefix, &event.kv.as_ref()?.key));
        seen.lock().events.extend(numbers.map(|number| (number, now)));
    }
}

/// When the leader was failed, and until when puts were started.
#[derive(Clone, Copy, Debug)]
struct Steady {
    failed: Instant,
    until: Instant,
}

/// Puts at a steady rate and fails the leader in between.
async fn put_through(
    server: &Server,
    connections: &[Connection],
    prefix: &str,
    leader: usize,
    fault: Fault,
    seen: &Arc<Mutex<Seen>>,
) -> Result<Steady> {
    let begin = Instant::now();
    let mut puts = JoinSet::new();
    let mut failed = None;
    for number in 0.. {
        let due = begin + Duration::from_secs(1) * number / RATE;
        tokio::time::sleep_until(due.into()).await;
        if failed.is_none() && begin.elapsed() >= BEFORE {
            failed = Some((Instant::now(), fail(server, leader, fault)?));
        }
        let settled = || {
            let seen = seen.lock();
            seen.acknowledged.len() + seen.errors + UNANSWERED >= number as usize
        };
        let over = match fault {
            // It ends by itself, and must be seen to the end.
            Fault::Disk => false,
            _ => begin.elapsed() >= BEFORE + SETTLED && settled(),
        };
        if over || begin.elapsed() >= BEFORE + AFTER {
            break;
        }
        let mut client = KvClient::new(connections[number as usize % connections.len()].clone());
        let (key, seen) = (format!("{prefix}{number}"), seen.clone());
        puts.spawn(async move {
            let put = pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
            let outcome = tokio::time::timeout(PUT_LIMIT, client.put(put)).await;
            let mut seen = seen.lock();
            let error = match outcome {
                Ok(Ok(_)) => {
                    seen.acknowledged.insert(number, Instant::now());
                    return;
                }
                Ok(Err(status)) => status.message().to_owned(),
                Err(_) => "no answer in time".to_owned(),
            };
            seen.errors += 1;
            seen.first_error.get_or_insert(error);
        });
    }
    let until = Instant::now();
    puts.join_all().await;
    let (failed, mut going_on) = failed.context("nothing was failed")?;
    while let Some(ended) = going_on.join_next().await {
        ended.context("a fault did not end by itself")??;
    }
    Ok(Steady { failed, until })
}

/// What is there, through a survivor.
async fn keys(connection: &Connection, prefix: &str) -> Result<BTreeSet<u32>> {
    let range = pb::RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end(prefix),
        keys_only: true,
        ..Default::default()
    };
    let answer = KvClient::new(connection.clone()).range(range).await?.into_inner();
    Ok(answer.kvs.iter().filter_map(|kv| number(prefix, &kv.key)).collect())
}

/// Waits until the watcher has seen all that is there, as long as it may take.
async fn await_events(seen: &Mutex<Seen>, there: &BTreeSet<u32>) {
    let deadline = Instant::now() + AFTER;
    let all = || {
        let seen: BTreeSet<u32> = seen.lock().events.iter().map(|(number, _)| *number).collect();
        there.is_subset(&seen)
    };
    while !all() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Seen {
    fn judge(&self, server: &str, fault: Fault, round: u32, steady: Steady, there: &BTreeSet<u32>) -> Trial {
        let mut acknowledged: Vec<Instant> = self.acknowledged.values().copied().collect();
        acknowledged.sort();
        let events: Vec<Instant> = self.events.iter().map(|(_, at)| *at).collect();
        let distinct: BTreeSet<u32> = self.events.iter().map(|(number, _)| *number).collect();
        let failed = steady.failed;
        let relative = |at: &Instant| match at.checked_duration_since(failed) {
            Some(after) => after.as_secs_f64() * 1e3,
            None => -(failed.duration_since(*at).as_secs_f64() * 1e3),
        };
        Trial {
            fault,
            server: server.to_owned(),
            round,
            gap_us: longest(&acknowledged, steady.until),
            watch_gap_us: longest(&events, steady.until),
            new_leader: false,
            acknowledged: acknowledged.len(),
            errors: self.errors,
            first_error: self.first_error.clone(),
            lost_writes: self.acknowledged.keys().filter(|number| !there.contains(number)).count(),
            lost_events: there.difference(&distinct).count(),
            doubled_events: self.events.len() - distinct.len(),
            acknowledged_at_ms: acknowledged.iter().map(relative).collect(),
        }
    }
}

/// The longest time between two of them, in microseconds; what comes `until` then or later is not of the steady rate any
/// more. A silence that lasts until then counts as long as that.
fn longest(times: &[Instant], until: Instant) -> u64 {
    let steady = times.iter().copied().take_while(|at| *at < until).chain(std::iter::once(until));
    let gaps = steady.clone().zip(steady.skip(1)).map(|(one, next)| next.duration_since(one));
    gaps.max().map_or(0, |gap| u64::try_from(gap.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_lost() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let seen = Seen {
            acknowledged: [(0, at(0)), (1, at(10)), (2, at(110)), (3, at(120)), (5, at(5000))].into(),
            events: vec![(0, at(1)), (1, at(11)), (1, at(12)), (3, at(112)), (5, at(5000))],
            ..Seen::default()
        };
        let steady = Steady { failed: at(10), until: at(200) };
        let trial = seen.judge("a", Fault::Kill, 0, steady, &[0, 1, 3, 4, 5].into());
        // The writes end after 200 ms: what comes later shows no gap, and a silence until then does.
        assert_eq!((trial.gap_us, trial.watch_gap_us), (100_000, 100_000));
        assert_eq!((trial.lost_writes, trial.lost_events, trial.doubled_events), (1, 1, 1));
        assert_eq!(trial.acknowledged_at_ms, [-10.0, 0.0, 100.0, 110.0, 4990.0]);
        let steady = Steady { failed: at(10), until: at(400) };
        assert_eq!(seen.judge("a", Fault::Kill, 0, steady, &[0].into()).gap_us, 280_000);
    }
}
