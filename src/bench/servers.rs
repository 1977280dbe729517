//! The servers under test: some that run already, or clusters of three that are started here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::connection::{self, Connection};
use super::crew::{Crew, Seat};
use super::disk::Disk;
use super::failover::Fault;
use super::ground::{Ground, Place};
use super::measure::Spent;
use super::netns::Link;
use crate::etcd::Access;

const MEMBERS: usize = 3;
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether a member serves: how exact the time of a restart is.
const READY_PAUSE: Duration = Duration::from_millis(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Larger than any load needs, and the same for all.
const QUOTA_BYTES: u64 = 8 << 30;

/// What was compared, for whoever reads the results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Description {
    pub name: String,
    /// As the server tells it.
    pub version: String,
    pub endpoints: Vec<String>,
    /// Of the first member, where it was started here.
    pub command: Option<String>,
    /// The only load it is asked to carry, where it was started for that one.
    pub only_for: Option<Fault>,
    /// The memory of its largest member before anything was asked of it.
    pub idle_bytes: Option<u64>,
}

pub struct Server {
    description: Description,
    access: Access,
    /// Where they were started here.
    members: Vec<Member>,
    dir: Option<PathBuf>,
}

impl Server {
    /// One that runs already; `urls` with commas between them.
    pub async fn at(name: &str, urls: &str, access: &Access) -> Result<Self> {
        let endpoints: Vec<String> = urls.split(',').map(str::to_owned).filter(|url| !url.is_empty()).collect();
        ensure!(!endpoints.is_empty(), "{urls:?} names no endpoint");
        let description = Description { name: name.to_owned(), endpoints, ..Description::default() };
        let mut server = Self { description, access: access.clone(), members: Vec::new(), dir: None };
        server.description.version = server.version().await?;
        Ok(server)
    }

    async fn version(&self) -> Result<String> {
        let mut client = MaintenanceClient::new(self.connect_to(0).await?);
        let status = client.status(pb::StatusRequest {}).await;
        let status =
            status.map_err(|status| anyhow::anyhow!("{}: {}", self.description.endpoints[0], status.message()));
        Ok(status?.into_inner().version)
    }

    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// The members' processes, where they are known.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.child.id()).collect()
    }

    /// A directory on the disk that the members write to, where it is known.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// A connection to one member.
    pub async fn connect_to(&self, member: usize) -> Result<Connection> {
        connection::connect(&self.access, &self.description.endpoints[member]).await
    }

    /// The member that leads, by what the members say.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(member) = self.find_leader().await {
                return Ok(member);
            }
            ensure!(Instant::now() < deadline, "no member of {} leads", self.name());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn find_leader(&self) -> Option<usize> {
        for member in 0..self.description.endpoints.len() {
            let Ok((own, leader)) = self.own_and_leader(member).await else { continue };
            if leader != 0 && own == leader {
                return Some(member);
            }
        }
        None
    }

    /// The ids of a member and of the one that leads as far as it knows; 0 is none.
    pub async fn own_and_leader(&self, member: usize) -> Result<(u64, u64)> {
        let mut client = MaintenanceClient::new(self.connect_to(member).await?);
        let status = client.status(pb::StatusRequest {}).await?.into_inner();
        Ok((status.header.context("an answer without a header")?.member_id, status.leader))
    }

    pub fn signal(&self, member: usize, signal: Signal) -> Result<()> {
        self.members[member].signal(signal)
    }

    pub fn link(&self, member: usize) -> Result<&Link> {
        self.members[member].link.as_ref().context("the members share a network")
    }

    pub fn disk(&self, member: usize) -> Result<&Disk> {
        self.members[member].disk.as_ref().context("the members share a disk")
    }

    /// Waits until a member that was told to has ended, and starts it again; answers how long it took until it served.
    pub async fn restart(&mut self, member: usize) -> Result<Duration> {
        let ended = &mut self.members[member];
        if tokio::time::timeout(STOP_LIMIT, ended.child.wait()).await.is_err() {
            ended.child.kill().await.context("a member cannot be stopped")?;
        }
        let start = Instant::now();
        ended.child = spawn(&ended.program, &ended.arguments, &ended.log, ended.link.as_ref())?;
        self.await_ready(member).await?;
        Ok(start.elapsed())
    }

    pub async fn await_ready(&self, member: usize) -> Result<()> {
        let ready = await_ready(&self.access, &self.description.endpoints[member]).await;
        ready.with_context(|| format!("{}:\n{}", self.name(), tail(&self.members[member].log)))
    }

    /// So many connections, in turn to each endpoint. The leader's comes first, where it is among them: a single client
    /// is as far from it on every server that is compared.
    pub async fn connect(&self, count: u32) -> Result<Vec<Connection>> {
        let endpoints = self.endpoints(count).await;
        futures::future::try_join_all(endpoints.map(|endpoint| connection::connect(&self.access, endpoint))).await
    }

    /// [`Server::connect`], with the connections dealt out to the threads of `crew`.
    pub async fn seat(&self, crew: &Crew, count: u32) -> Result<Vec<Seat>> {
        let seats = self.endpoints(count).await.enumerate().map(|(turn, endpoint)| async move {
            let (access, endpoint, thread) = (self.access.clone(), endpoint.clone(), crew.thread(turn));
            let connected = thread.spawn(async move { connection::connect(&access, &endpoint).await });
            let connection = connected.await.expect("connecting does not panic")?;
            Ok(Seat { connection, thread })
        });
        futures::future::try_join_all(seats).await
    }

    async fn endpoints(&self, count: u32) -> impl Iterator<Item = &String> {
        let first = self.find_leader().await.unwrap_or(0);
        self.description.endpoints.iter().cycle().skip(first).take(count as usize)
    }
}

/// A member that was started here. In this order, what it stands on goes after it.
struct Member {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Child,
    link: Option<Link>,
    disk: Option<Disk>,
}

/// Starts a member, in the network at the end of its link.
fn spawn(program: &Path, arguments: &[OsString], log: &Path, link: Option<&Link>) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot make {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .kill_on_drop(true)
        // A Ctrl-C in the terminal goes to the whole process group; members are stopped in order instead.
        .process_group(0);
    let runtime = Handle::current();
    let spawned = match link {
        None => command.spawn(),
        Some(link) => link.inside(|| {
            let _entered = runtime.enter();
            command.spawn()
        }),
    };
    spawned.with_context(|| format!("cannot start {}", program.display()))
}

impl Member {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("the member has ended")?;
        kill_process(pid, signal).context("a member cannot be signalled")
    }

    fn command(&self) -> String {
        let words = std::iter::once(self.program.as_os_str()).chain(self.arguments.iter().map(|word| &**word));
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

pub struct Servers {
    servers: Vec<Server>,
    ground: Ground,
    /// Removed with everything in it.
    dir: Option<TempDir>,
}

impl Servers {
    pub fn running(servers: Vec<Server>) -> Self {
        Self { servers, ground: Ground::Shared, dir: None }
    }

    /// Three members of Kontiki, and three of the etcd at `etcd`, all with their own defaults.
    pub async fn start(ground: Ground, dir: Option<&Path>, etcd: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("kontiki-bench-");
        let dir = match dir {
            Some(dir) => builder.tempdir_in(dir).with_context(|| format!("cannot use {}", dir.display()))?,
            None => builder.tempdir().context("cannot use the temporary directory")?,
        };
        let mut servers = Self { servers: Vec::new(), ground, dir: Some(dir) };
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        servers.add("kontiki", &own, &["store"]).await?;
        if let Some(etcd) = etcd {
            servers.add("etcd", etcd, &[]).await?;
        }
        Ok(servers)
    }

    async fn add(&mut self, name: &str, program: &Path, first: &[&str]) -> Result<()> {
        let dir = self.dir.as_ref().expect("members are started in a directory").path().join(name);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let places = self.ground.places(&dir, MEMBERS)?;
        let url = |address: SocketAddr| format!("http://{address}");
        let endpoints: Vec<String> = places.iter().map(|place| url(place.clients)).collect();
        let cluster: Vec<String> =
            places.iter().enumerate().map(|(i, place)| format!("m{i}={}", url(place.peers))).collect();
        let mut members = Vec::new();
        for (i, Place { clients, peers, data_dir, link, disk }) in places.into_iter().enumerate() {
            let words = |flags: &[(&str, String)]| -> Vec<OsString> {
                flags.iter().flat_map(|(flag, value)| [format!("--{flag}").into(), value.into()]).collect()
            };
            let mut arguments: Vec<OsString> = first.iter().map(OsString::from).collect();
            arguments.extend(words(&[
                ("name", format!("m{i}")),
                ("data-dir", data_dir.display().to_string()),
                ("listen-client-urls", url(clients)),
                ("advertise-client-urls", url(clients)),
                ("listen-peer-urls", url(peers)),
                ("initial-advertise-peer-urls", url(peers)),
                ("initial-cluster", cluster.join(",")),
                ("quota-backend-bytes", QUOTA_BYTES.to_string()),
            ]));
            let log = dir.join(format!("m{i}.log"));
            let child = spawn(program, &arguments, &log, link.as_ref())?;
            members.push(Member { program: program.to_owned(), arguments, log, child, link, disk });
        }
        let command = Some(members[0].command());
        let description = Description { name: name.to_owned(), endpoints, command, ..Description::default() };
        let mut server = Server { description, access: Access::default(), members, dir: Some(dir) };
        for i in 0..MEMBERS {
            server.await_ready(i).await?;
        }
        server.description.version = server.version().await?;
        server.description.idle_bytes = Spent::by(&server.pids()).map(Spent::resident_bytes);
        self.servers.push(server);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn get(&self, which: usize) -> &Server {
        &self.servers[which]
    }

    pub fn get_mut(&mut self, which: usize) -> &mut Server {
        &mut self.servers[which]
    }

    pub fn describe(&self) -> Vec<Description> {
        self.servers.iter().map(|server| server.description.clone()).collect()
    }

    /// Ends what was started here: at once, because nothing that they hold is wanted any more, and members of etcd that
    /// are told to end together wait for each other.
    pub async fn stop(mut self) -> Result<()> {
        let members = self.servers.iter_mut().flat_map(|server| &mut server.members);
        let ended = members.map(|member| member.child.kill());
        futures::future::try_join_all(ended).await.context("a member cannot be stopped")?;
        Ok(())
    }
}

/// A linearizable read: the member serves, and there is a leader.
async fn await_ready(access: &Access, endpoint: &str) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let tried = async {
            let get = pb::RangeRequest { key: "bench".into(), ..Default::default() };
            let connection = connection::connect(access, endpoint).await?;
            let read = tokio::time::timeout(Duration::from_secs(2), KvClient::new(connection).range(get)).await;
            read.context("no answer in two seconds")?.map_err(|status| anyhow::anyhow!("{}", status.message()))
        };
        match tried.await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => bail!("{endpoint} does not serve: {error:#}"),
            Err(_) => tokio::time::sleep(READY_PAUSE).await,
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
