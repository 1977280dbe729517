//! `kontiki bench`: measures any etcd v3 server, alone or in turn with a second one.
//!
//! What is compared runs in turn (A B B A …), never at once, and a difference is claimed only where the whole interval of
//! the paired ratios lies on one side. `--etcd-bin` starts three members of each beside each other; only then are the
//! servers' own costs (processor, bytes written, memory) known.

mod compare;
mod connection;
mod crew;
mod disk;
mod drive;
mod failover;
mod ground;
mod load;
mod measure;
mod netns;
mod operations;
mod report;
mod responses;
mod servers;
mod table;
mod watchers;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::compare::Comparison;
use self::failover::{Fault, Trial};
use self::ground::Ground;
use self::load::{Kind, Load, Loads};
use self::measure::Sample;
use self::servers::{Server, Servers};
use crate::etcd::Access;
use crate::net;

/// `kontiki bench`.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// What to measure [default: all of it]; `--list` tells what there is.
    loads: Vec<String>,
    /// Tell what can be measured, and stop.
    #[arg(long)]
    list: bool,
    /// The members of the server to measure, with commas between them.
    #[arg(long, value_name = "URLS", default_value = "http://127.0.0.1:2379", env = "ETCDCTL_ENDPOINTS")]
    endpoints: String,
    /// The members of a second server, to measure in turn with the first.
    #[arg(long, value_name = "URLS", conflicts_with = "etcd_bin")]
    vs: Option<String>,
    /// Start three members of Kontiki and three of this etcd here, and compare them.
    #[arg(long, value_name = "FILE")]
    etcd_bin: Option<PathBuf>,
    /// Start three members of Kontiki here, and measure them.
    #[arg(long, conflicts_with_all = ["vs", "etcd_bin"])]
    start: bool,
    /// Where the members that are started keep their data: the disk that is measured [default: the temporary directory].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Pairs of runs of a comparison.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// How long each run is measured.
    #[arg(long, default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How long each run goes before it is measured.
    #[arg(long, default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// Clients at once, instead of each load's own number.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    clients: Option<u32>,
    /// Open loop: start this many operations a second, however long they take, and count from when each should have begun.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How often the leader fails, for each of the ways in which it may.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// Keys that fill puts.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Write a page with plots there.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// How to print the results.
    #[arg(short = 'o', long, default_value = "table")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Table,
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    kontiki_store::config::duration::parse(text).map_err(|error| error.to_string())
}

/// Everything that was measured, as `--output json` prints it.
#[derive(Serialize)]
struct Results {
    servers: Vec<servers::Description>,
    runs: Vec<Sample>,
    comparisons: Vec<Comparison>,
    failovers: Vec<Trial>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        print!("{}", load::list());
        return Ok(());
    }
    let owned = arguments.start || arguments.etcd_bin.is_some();
    let loads = Loads::select(&arguments.loads, |kind| match kind {
        Kind::Failover(fault) => fault.ensure_possible(owned).is_ok(),
        Kind::Restart => owned,
        _ => true,
    })?;
    // Told now, and not after everything before it was measured.
    loads.faults().try_for_each(|fault| fault.ensure_possible(owned))?;
    // One thread: on few cores, what the generator does not use is the servers'.
    net::current_thread()?.block_on(async {
        let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        // What was started ends with what is dropped here.
        tokio::select! {
            done = measure(arguments, &loads) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = hang_up.recv() => bail!("the terminal has gone"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })
}

async fn measure(arguments: &Arguments, loads: &Loads) -> Result<()> {
    let shared = loads.iter().any(|load| !load.kind.needs_own_ground());
    let mut servers = if shared { servers(arguments).await? } else { Servers::running(Vec::new()) };
    let mut results =
        Results { servers: servers.describe(), runs: Vec::new(), comparisons: Vec::new(), failovers: Vec::new() };
    let table = arguments.output == Output::Table;
    if table && shared {
        table::print_servers(&results.servers);
    }
    // What was measured before something failed is told all the same, and first: a member that has died cannot be stopped.
    let measured = measure_all(arguments, loads, &mut servers, &mut results).await;
    if let Some(dir) = &arguments.report {
        let page = report::write(dir, &results).with_context(|| format!("cannot write to {}", dir.display()))?;
        eprintln!("{}", page.display());
    }
    if !table {
        println!("{}", serde_json::to_string_pretty(&results)?);
    }
    let stopped = servers.stop().await;
    measured.and(stopped)
}

async fn measure_all(arguments: &Arguments, loads: &Loads, servers: &mut Servers, results: &mut Results) -> Result<()> {
    let table = arguments.output == Output::Table;
    let plan = drive::Plan {
        duration: arguments.duration,
        warm_up: arguments.warm_up,
        rate: arguments.rate,
        clients: arguments.clients,
        value_bytes: arguments.value_size,
        keys: arguments.keys,
    };
    for load in loads.iter() {
        if let Kind::Failover(fault) = load.kind {
            let trials = if load.kind.needs_own_ground() {
                let (servers, trials) = fail_on_own_ground(arguments, fault).await?;
                if table {
                    println!();
                    table::print_servers(&servers);
                }
                results.servers.extend(servers);
                trials
            } else {
                fail(arguments, fault, servers).await?
            };
            if table {
                table::print_failovers(&trials);
            }
            results.failovers.extend(trials);
            continue;
        }
        let samples = in_turn(arguments, *load, servers, &plan).await?;
        let comparison = (servers.len() == 2).then(|| Comparison::of(&samples));
        if table {
            table::print(&samples, comparison.as_ref());
        }
        results.runs.extend(samples);
        results.comparisons.extend(comparison);
    }
    Ok(())
}

/// The leader of each server fails in turn, so many times.
async fn fail(arguments: &Arguments, fault: Fault, servers: &mut Servers) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    let progress = Progress::new();
    for round in 0..arguments.trials {
        for which in 0..servers.len() {
            let server = servers.get_mut(which);
            progress.say(&format!("{fault}: trial {} of {}, {}", round + 1, arguments.trials, server.name()));
            let trial = failover::trial(server, fault, round).await;
            trials.push(trial.with_context(|| format!("{fault} of {}", servers.get(which).name()))?);
        }
    }
    progress.end();
    Ok(trials)
}

/// With members that stand on what may fail.
async fn fail_on_own_ground(arguments: &Arguments, fault: Fault) -> Result<(Vec<servers::Description>, Vec<Trial>)> {
    let ground = Ground::for_fault(fault).with_context(|| fault.to_string())?;
    let mut servers = start(arguments, ground).await?;
    let trials = fail(arguments, fault, &mut servers).await?;
    let mut described = servers.describe();
    described.iter_mut().for_each(|server| server.only_for = Some(fault));
    servers.stop().await?;
    Ok((described, trials))
}

async fn start(arguments: &Arguments, ground: Ground) -> Result<Servers> {
    Servers::start(ground, arguments.dir.as_deref(), arguments.etcd_bin.as_deref()).await
}

async fn servers(arguments: &Arguments) -> Result<Servers> {
    if arguments.start || arguments.etcd_bin.is_some() {
        return start(arguments, Ground::Shared).await;
    }
    let mut servers = vec![Server::at("A", &arguments.endpoints, &arguments.access).await?];
    if let Some(vs) = &arguments.vs {
        servers.push(Server::at("B", vs, &arguments.access).await?);
    }
    Ok(Servers::running(servers))
}

/// The runs of one load: A alone, or A B, B A, A B …
async fn in_turn(arguments: &Arguments, load: Load, servers: &mut Servers, plan: &drive::Plan) -> Result<Vec<Sample>> {
    // A second time, the keys would not be new.
    let rounds = if servers.len() == 2 && load.kind != Kind::Fill { arguments.pairs } else { 1 };
    let mut samples = Vec::new();
    let progress = Progress::new();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for which in order {
            let server = servers.get(which);
            progress.say(&format!("{load}: round {} of {rounds}, {}", round + 1, server.name()));
            let sample = match load.kind {
                Kind::Restart => drive::restart(servers.get_mut(which), round).await?,
                _ => drive::run(load, servers.get(which), plan, round).await?,
            };
            let server = servers.get(which);
            if sample.operations == 0 {
                let error = sample.error.as_deref().unwrap_or("nothing was answered in time");
                bail!("{load} on {}: no operation succeeded: {error}", server.name());
            }
            samples.push(sample);
        }
    }
    progress.end();
    ensure!(!samples.is_empty(), "{load}: nothing was measured");
    Ok(samples)
}

/// What is going on: one line in place on a terminal, nothing elsewhere.
struct Progress(bool);

impl Progress {
    fn new() -> Self {
        Self(std::io::stderr().is_terminal())
    }

    fn say(&self, text: &str) {
        if self.0 {
            eprint!("\r\x1b[K{text}");
        }
    }

    fn end(&self) {
        if self.0 {
            eprint!("\r\x1b[K");
        }
    }
}
