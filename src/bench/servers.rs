//! The servers under test: some that run already, or clusters of three that are started here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::TcpListener;
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

use super::measure::Spent;
use crate::etcd::{Access, Connection};

const MEMBERS: usize = 3;
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether a member serves: how exact the time of a restart is.
const READY_PAUSE: Duration = Duration::from_millis(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Larger than any load needs, and the same for all.
const QUOTA_BYTES: u64 = 8 << 30;

/// What was compared, for whoever reads the results.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    pub name: String,
    /// As the server tells it.
    pub version: String,
    pub endpoints: Vec<String>,
    /// Of the first member, where it was started here.
    pub command: Option<String>,
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
        let description =
            Description { name: name.to_owned(), version: String::new(), endpoints, command: None, idle_bytes: None };
        let mut server = Self { description, access: access.clone(), members: Vec::new(), dir: None };
        server.description.version = server.version().await?;
        Ok(server)
    }

    async fn version(&self) -> Result<String> {
        let mut client = MaintenanceClient::new(self.connect(1).await?.remove(0));
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
        self.access.connect(&self.description.endpoints[member]).await
    }

    /// The member that leads, by what the members say.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            for member in 0..self.description.endpoints.len() {
                let Ok(connection) = self.connect_to(member).await else { continue };
                let Ok(status) = MaintenanceClient::new(connection).status(pb::StatusRequest {}).await else {
                    continue;
                };
                let status = status.into_inner();
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok(member);
                }
            }
            ensure!(Instant::now() < deadline, "no member of {} leads", self.name());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn signal(&self, member: usize, signal: Signal) -> Result<()> {
        self.members[member].signal(signal)
    }

    /// Waits until a member that was told to has ended, and starts it again; answers how long it took until it served.
    pub async fn restart(&mut self, member: usize) -> Result<Duration> {
        let ended = &mut self.members[member];
        if tokio::time::timeout(STOP_LIMIT, ended.child.wait()).await.is_err() {
            ended.child.kill().await.context("a member cannot be stopped")?;
        }
        let start = Instant::now();
        *ended = Member::start(&ended.program, ended.arguments.clone(), ended.log.clone())?;
        self.await_ready(member).await?;
        Ok(start.elapsed())
    }

    async fn await_ready(&self, member: usize) -> Result<()> {
        let ready = await_ready(&self.access, &self.description.endpoints[member]).await;
        ready.with_context(|| format!("{}:\n{}", self.name(), tail(&self.members[member].log)))
    }

    /// So many connections, in turn to each endpoint.
    pub async fn connect(&self, count: u32) -> Result<Vec<Connection>> {
        let endpoints = self.description.endpoints.iter().cycle().take(count as usize);
        futures::future::try_join_all(endpoints.map(|endpoint| self.access.connect(endpoint))).await
    }
}

/// A member that was started here.
struct Member {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Child,
}

impl Member {
    fn start(program: &Path, arguments: Vec<OsString>, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot make {}", log.display()))?;
        let child = Command::new(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            // A Ctrl-C in the terminal goes to the whole process group; members are stopped in order instead.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { program: program.to_owned(), arguments, log, child })
    }

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
    /// Removed with everything in it.
    dir: Option<TempDir>,
}

impl Servers {
    pub fn running(servers: Vec<Server>) -> Self {
        Self { servers, dir: None }
    }

    /// Three members of Kontiki, and three of the etcd at `etcd`, all with their own defaults.
    pub async fn start(dir: Option<&Path>, etcd: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("kontiki-bench-");
        let dir = match dir {
            Some(dir) => builder.tempdir_in(dir).with_context(|| format!("cannot use {}", dir.display()))?,
            None => builder.tempdir().context("cannot use the temporary directory")?,
        };
        let mut servers = Self { servers: Vec::new(), dir: Some(dir) };
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
        let ports = free_ports(2 * MEMBERS).context("no free ports")?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (clients, peers) = ports.split_at(MEMBERS);
        let cluster: Vec<String> = (0..MEMBERS).map(|i| format!("m{i}={}", url(peers[i]))).collect();
        let mut members = Vec::new();
        for i in 0..MEMBERS {
            let words = |flags: &[(&str, String)]| -> Vec<OsString> {
                flags.iter().flat_map(|(flag, value)| [format!("--{flag}").into(), value.into()]).collect()
            };
            let mut arguments: Vec<OsString> = first.iter().map(OsString::from).collect();
            arguments.extend(words(&[
                ("name", format!("m{i}")),
                ("data-dir", dir.join(format!("m{i}")).display().to_string()),
                ("listen-client-urls", url(clients[i])),
                ("advertise-client-urls", url(clients[i])),
                ("listen-peer-urls", url(peers[i])),
                ("initial-advertise-peer-urls", url(peers[i])),
                ("initial-cluster", cluster.join(",")),
                ("quota-backend-bytes", QUOTA_BYTES.to_string()),
            ]));
            members.push(Member::start(program, arguments, dir.join(format!("m{i}.log")))?);
        }
        let endpoints: Vec<String> = clients.iter().map(|port| url(*port)).collect();
        let command = Some(members[0].command());
        let description =
            Description { name: name.to_owned(), version: String::new(), endpoints, command, idle_bytes: None };
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

    /// Ends what was started here.
    pub async fn stop(mut self) -> Result<()> {
        let mut members: Vec<&mut Member> = self.servers.iter_mut().flat_map(|server| &mut server.members).collect();
        for member in &members {
            // One that has ended by itself is waited for below.
            let _ = member.signal(Signal::TERM);
        }
        for member in &mut members {
            if tokio::time::timeout(STOP_LIMIT, member.child.wait()).await.is_err() {
                member.child.kill().await.context("a member cannot be stopped")?;
            }
        }
        Ok(())
    }
}

/// A linearizable read: the member serves, and there is a leader.
async fn await_ready(access: &Access, endpoint: &str) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let tried = async {
            let get = pb::RangeRequest { key: "bench".into(), ..Default::default() };
            let connection = access.connect(endpoint).await?;
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

fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
