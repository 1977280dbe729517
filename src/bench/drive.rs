//! Puts a load on a server for a while.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustix::process::Signal;
use tonic::Status;

use super::crew::Crew;
use super::load::{Kind, Load};
use super::measure::{self, Latency, Meter, Sample, histogram, micros};
use super::operations::{self, Keys, Known};
use super::servers::Server;
use super::watchers;

/// How a load is put on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub duration: Duration,
    pub warm_up: Duration,
    /// Operations a second; none is a closed loop, in which a client starts the next when it has the answer.
    pub rate: Option<u32>,
    pub clients: Option<u32>,
    pub value_bytes: usize,
    /// Keys of a fill.
    pub keys: u32,
}

/// When a run began, when it is measured, and when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub begin: Instant,
    pub from: Instant,
    pub until: Instant,
}

impl Window {
    pub fn starting_now(plan: &Plan) -> Self {
        let begin = Instant::now();
        let from = begin + plan.warm_up;
        Self { begin, from, until: from + plan.duration }
    }

    pub fn counts(&self, at: Instant) -> bool {
        at >= self.from && at < self.until
    }
}

/// What was seen within the window.
pub struct Tally {
    pub latency: Histogram<u64>,
    pub operations: u64,
    pub errors: u64,
    pub error: Option<String>,
    /// From when until when what is counted here was done.
    pub span: Option<(Instant, Instant)>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { latency: histogram(), operations: 0, errors: 0, error: None, span: None }
    }
}

impl Tally {
    pub fn note(&mut self, window: &Window, from: Instant, outcome: Result<(), Status>) {
        if !window.counts(from) {
            return;
        }
        match outcome {
            Ok(()) => {
                self.operations += 1;
                self.latency.saturating_record(micros(from.elapsed()));
            }
            Err(status) => {
                self.errors += 1;
                self.error.get_or_insert_with(|| status.message().to_owned());
            }
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.operations += other.operations;
        self.errors += other.errors;
        if self.error.is_none() {
            self.error.clone_from(&other.error);
        }
    }
}

/// One client's way to do one thing.
pub trait Operate: Send + 'static {
    fn operate(&mut self) -> impl Future<Output = Result<(), Status>> + Send;
}

pub async fn run(load: Load, server: &Server, plan: &Plan, round: u32) -> Result<Sample> {
    let load = Load { clients: plan.clients.unwrap_or(load.clients), ..load };
    let keys = Keys { value_bytes: plan.value_bytes };
    operations::prepare(load, server, keys).await.with_context(|| format!("cannot prepare {load}"))?;
    let fdatasync_us = server.dir().map(measure::probe_disk).transpose().context("cannot probe the disk")?;
    let load_average = measure::load_average();
    let meter = Meter::start(server.pids());
    let tally = put_on(load, server, plan, keys).await.with_context(|| format!("{load} on {}", server.name()))?;
    let (from, until) = tally.span.context("a load that does not say when it was measured")?;
    let seconds = until.duration_since(from).as_secs_f64();
    Ok(Sample {
        load: load.to_string(),
        server: server.name().to_owned(),
        round,
        operations: tally.operations,
        errors: tally.errors,
        error: tally.error,
        seconds,
        per_second: tally.operations as f64 / seconds,
        latency_us: Latency::of(&tally.latency),
        curve: measure::curve(&tally.latency),
        cost: meter.spent(from, until).map(|(before, after)| after.since(before, tally.operations)),
        fdatasync_us,
        load_average,
    })
}

/// Ends a follower and starts it again; the operation is from its start to its first linearizable read.
pub async fn restart(server: &mut Server, round: u32) -> Result<Sample> {
    ensure!(server.members() > 1, "a restart needs members that were started here: --etcd-bin or --start");
    let follower = (server.leader().await? + 1) % server.members();
    let load_average = measure::load_average();
    server.signal(follower, Signal::TERM)?;
    let took = server.restart(follower).await?;
    let mut latency = histogram();
    latency.saturating_record(micros(took));
    Ok(Sample {
        load: Load { kind: Kind::Restart, clients: 1 }.to_string(),
        server: server.name().to_owned(),
        round,
        operations: 1,
        errors: 0,
        error: None,
        seconds: took.as_secs_f64(),
        per_second: 1.0 / took.as_secs_f64(),
        latency_us: Latency::of(&latency),
        curve: measure::curve(&latency),
        cost: None,
        fdatasync_us: None,
        load_average,
    })
}

async fn put_on(load: Load, server: &Server, plan: &Plan, keys: Keys) -> Result<Tally> {
    if let Kind::WatchLatency | Kind::WatchFanOut | Kind::PutBesideSlowWatchers | Kind::WatchResume = load.kind {
        return watch_on(load, server, plan, keys).await;
    }
    let connections = server.connect(load.clients.min(CONNECTIONS_MAX)).await?;
    let each = (0..load.clients as usize).map(|client| connections[client % connections.len()].clone());
    Ok(match load.kind {
        Kind::Put => together(each.map(|to| operations::Put::new(to, keys)), plan).await,
        Kind::Txn => {
            let known = Known::default();
            together(each.map(|to| operations::Update::new(to, keys, known.clone())), plan).await
        }
        Kind::Get => together(each.map(|to| operations::Get::new(to, false)), plan).await,
        Kind::GetSerializable => together(each.map(|to| operations::Get::new(to, true)), plan).await,
        Kind::Range(count) => together(each.map(|to| operations::Range::new(to, count)), plan).await,
        Kind::LeaseGrant => together(each.map(operations::Grant::new), plan).await,
        Kind::LeaseKeepAlive => {
            let renewing = futures::future::try_join_all(each.map(operations::KeepAlive::open)).await?;
            together(renewing.into_iter(), plan).await
        }
        Kind::Mixed => {
            let known = Known::default();
            together(each.map(|to| operations::Mixed::new(to, keys, known.clone())), plan).await
        }
        Kind::WatchLatency | Kind::WatchFanOut | Kind::PutBesideSlowWatchers | Kind::WatchResume => {
            unreachable!("{load} has threads of its own")
        }
        Kind::Fill => operations::fill(each.collect(), plan.keys, keys).await?,
        Kind::Restart => bail!("a member is restarted, not asked"),
        Kind::Failover(fault) => bail!("{fault} is no load"),
    })
}

/// The loads with watchers.
async fn watch_on(load: Load, server: &Server, plan: &Plan, keys: Keys) -> Result<Tally> {
    let crew = Crew::new()?;
    let seats = server.seat(&crew, load.clients.min(CONNECTIONS_MAX)).await?;
    let writer = seats[0].connection.clone();
    let each = (0..load.clients as usize).map(|client| seats[client % seats.len()].clone());
    match load.kind {
        Kind::WatchLatency => watchers::watch_latency(each.collect(), writer, plan).await,
        Kind::WatchFanOut => watchers::fan_out(load.clients, &seats, writer, plan).await,
        Kind::WatchResume => watchers::resume(each.collect()).await,
        Kind::PutBesideSlowWatchers => {
            let slow = (load.clients / 100).max(1) as usize;
            let _watched = watchers::watch_and_stall(each.collect(), slow).await?;
            let writer = watchers::PutWatched::new(server.connect(1).await?.remove(0), keys);
            Ok(together([writer].into_iter(), plan).await)
        }
        _ => unreachable!("{load} has no watchers"),
    }
}

/// More clients share connections.
const CONNECTIONS_MAX: u32 = 100;

/// All clients at once, in a closed or an open loop.
async fn together<O: Operate>(clients: impl ExactSizeIterator<Item = O>, plan: &Plan) -> Tally {
    let window = Window::starting_now(plan);
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX).max(1);
    let tasks: Vec<_> = clients
        .enumerate()
        .map(|(number, client)| {
            let pace = plan.rate.map(|rate| Pace::of(rate, count, number as u32, window.begin));
            tokio::spawn(one_client(client, window, pace))
        })
        .collect();
    let mut all = Tally { span: Some((window.from, window.until)), ..Tally::default() };
    for task in tasks {
        all.add(&task.await.expect("clients do not panic"));
    }
    all
}

/// When the operations of one client of an open loop are due.
pub struct Pace {
    next: Instant,
    every: Duration,
}

impl Pace {
    pub fn of(rate: u32, clients: u32, number: u32, begin: Instant) -> Self {
        let every = Duration::from_secs(1) * clients / rate;
        Self { next: begin + every * number / clients, every }
    }

    /// Waits until the next one is due, and answers from when it counts: from when it was due, if the client is behind
    /// because earlier ones took so long; else from now, because a timer's lateness is not the server's.
    pub async fn due(&mut self) -> Instant {
        let due = self.next;
        self.next += self.every;
        if Instant::now() > due {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}

async fn one_client<O: Operate>(mut client: O, window: Window, mut pace: Option<Pace>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let start = match &mut pace {
            Some(pace) => pace.due().await,
            None => Instant::now(),
        };
        if start >= window.until {
            return tally;
        }
        let outcome = client.operate().await;
        let failed = outcome.is_err();
        tally.note(&window, start, outcome);
        if failed {
            // A server that refuses at once is not to be flooded.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stalls(u32);

    impl Operate for Stalls {
        async fn operate(&mut self) -> Result<(), Status> {
            self.0 += 1;
            let length = if self.0 == 1 { 100 } else { 1 };
            tokio::time::sleep(Duration::from_millis(length)).await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_open_loop_counts_a_stall_for_everything_that_was_due_meanwhile() {
        let plan = Plan {
            duration: Duration::from_millis(400),
            warm_up: Duration::ZERO,
            rate: Some(100),
            clients: None,
            value_bytes: 0,
            keys: 0,
        };
        let tally = together([Stalls(0)].into_iter(), &plan).await;
        // Ten were due during the stall of 100 ms; a closed loop would have one slow operation.
        let slow = tally.latency.iter_recorded().filter(|value| value.value_iterated_to() > 20_000);
        let slow: u64 = slow.map(|value| value.count_since_last_iteration()).sum();
        assert!((5..=15).contains(&slow), "{slow} of {}", tally.operations);
        assert!((30..=40).contains(&tally.operations), "{}", tally.operations);
    }

    #[tokio::test]
    async fn the_warm_up_is_not_counted() {
        let plan = Plan {
            duration: Duration::from_millis(50),
            warm_up: Duration::from_millis(150),
            rate: None,
            clients: None,
            value_bytes: 0,
            keys: 0,
        };
        let tally = together([Stalls(0)].into_iter(), &plan).await;
        assert!(tally.latency.max() < 100_000 && tally.operations > 0, "the stall was in the warm-up");
    }
}
