//! `kontiki dev` as a child process, and who of it lives.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

/// What `kontiki dev --output json` prints when it is ready.
#[derive(Deserialize)]
pub struct Ready {
    pub kubeconfig: PathBuf,
    pub ready_ms: u64,
    pub servers: Vec<Server>,
    pub agents: Vec<Agent>,
}

#[derive(Deserialize)]
pub struct Server {
    pub name: String,
    pub pid: i32,
    pub client_url: String,
}

#[derive(Deserialize)]
pub struct Agent {
    pub name: String,
    pub pid: i32,
}

pub struct Cluster {
    dev: Child,
    pub ready: Ready,
    dead: BTreeSet<String>,
}

/// How long stopping everything may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

impl Cluster {
    pub fn start(image: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        // target/<profile>/examples/demo → target/<profile>/kontiki
        let program =
            program.parent().and_then(Path::parent).context("cannot find the build directory")?.join("kontiki");
        let mut dev = Command::new(&program)
            .args(["dev", "--client-port", "0", "--api-port", "0", "--output", "json", "--image"])
            .arg(format!("debian={}", image.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdout = dev.stdout.take().context("no output of kontiki dev")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("reading from kontiki dev")?;
        if line.is_empty() {
            let status = dev.wait().context("kontiki dev")?;
            bail!("kontiki dev did not start: {status}");
        }
        let ready = serde_json::from_str(&line).context("what kontiki dev printed")?;
        Ok(Self { dev, ready, dead: BTreeSet::new() })
    }

    pub fn describe(&self) -> String {
        let servers = self.ready.servers.iter().map(|s| format!("{} (pid {}, {})", s.name, s.pid, s.client_url));
        let agents = self.ready.agents.iter().map(|a| format!("{} (pid {})", a.name, a.pid));
        servers.chain(agents).collect::<Vec<_>>().join(", ")
    }

    pub fn living_endpoints(&self) -> Vec<String> {
        self.living().map(|(_, server)| server.client_url.clone()).collect()
    }

    /// The kubeconfig's context of a server that lives.
    pub fn living_context(&self) -> Result<String> {
        let (at, _) = self.living().next().context("no server lives")?;
        context_name(&self.ready.kubeconfig, at)
    }

    pub async fn living_client(&self) -> Result<kube::Client> {
        let (at, _) = self.living().next().context("no server lives")?;
        self.client(at).await
    }

    /// A client of the server with this number.
    pub async fn client(&self, at: usize) -> Result<kube::Client> {
        let file = Kubeconfig::read_from(&self.ready.kubeconfig)?;
        let context = Some(context_name(&self.ready.kubeconfig, at)?);
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        Ok(kube::Client::try_from(kube::Config::from_custom_kubeconfig(file, &options).await?)?)
    }

    /// Kills the server behind a client URL; returns its name.
    pub fn kill_server(&mut self, client_url: &str) -> Result<String> {
        let server = self.ready.servers.iter().find(|server| server.client_url == client_url);
        let server = server.with_context(|| format!("no server at {client_url}"))?;
        kill(server.pid, Signal::KILL)?;
        self.dead.insert(server.name.clone());
        Ok(server.name.clone())
    }

    pub fn kill_agent(&mut self, name: &str) -> Result<()> {
        let agent = self.ready.agents.iter().find(|agent| agent.name == name);
        kill(agent.with_context(|| format!("no agent {name}"))?.pid, Signal::KILL)
    }

    /// Tells it to stop, as Ctrl-C does, and checks that nothing stays.
    pub fn stop(&mut self) -> Result<()> {
        kill(i32::try_from(self.dev.id())?, Signal::INT)?;
        let deadline = Instant::now() + STOP_LIMIT;
        let status = loop {
            if let Some(status) = self.dev.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "kontiki dev did not stop within {} s", STOP_LIMIT.as_secs());
            std::thread::sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "kontiki dev: {status}");
        let root = self.ready.kubeconfig.parent().context("the kubeconfig has no folder")?;
        ensure!(!root.exists(), "{} was left behind", root.display());
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&*root.to_string_lossy())).collect();
        ensure!(left.is_empty(), "mounts were left behind:\n{}", left.join("\n"));
        println!("servers, agents, pods, mounts and directories are gone");
        Ok(())
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.ready.servers.iter().enumerate().filter(|(_, server)| !self.dead.contains(&server.name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(None) = self.dev.try_wait() {
            // It takes its children down itself when it is asked rather than killed.
            let asked =
                i32::try_from(self.dev.id()).map_err(anyhow::Error::from).and_then(|pid| kill(pid, Signal::TERM));
            if asked.is_ok() {
                let _ = self.dev.wait();
            }
        }
    }
}

fn context_name(kubeconfig: &Path, at: usize) -> Result<String> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    Ok(file.contexts.get(at).context("the kubeconfig has too few contexts")?.name.clone())
}

fn kill(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("not a process id")?;
    kill_process(pid, signal).with_context(|| format!("cannot signal process {}", pid.as_raw_nonzero()))
}
