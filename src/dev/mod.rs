//! `kontiki dev`: a whole cluster on this machine, as child processes, gone again on Ctrl-C.
//!
//! The servers and agents are ordinary `kontiki server` and `kontiki node-agent` processes with their own directories, ports
//! and bridges, so that any of them can be killed to see what happens; this process only starts, watches and stops them.

mod child;
mod layout;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{kubeconfig, net, signals};
use child::Child;
use layout::Layout;

/// How long the cluster may take to start before it is given up.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// How many servers: store member, API server, controllers and scheduler in each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub servers: u16,
    /// How many node agents.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=8))]
    pub agents: u16,
    /// Keep the cluster's data here [default: a temporary directory, removed at the end].
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// The first server's etcd client port; peers and further servers follow. 0 takes free ports.
    #[arg(long, default_value_t = 2379)]
    pub client_port: u16,
    /// The first server's Kubernetes port; further servers follow. 0 takes free ports.
    #[arg(long, default_value_t = 6443)]
    pub api_port: u16,
    /// Images to import into every agent: NAME=PATH of a rootfs tar, docker archive or OCI layout.
    #[arg(long, value_name = "NAME=PATH")]
    pub image: Vec<String>,
    /// Seconds without a heartbeat after which a node counts as lost.
    #[arg(long, default_value_t = 4)]
    pub node_grace: u64,
    /// `text` for people; `json` prints one object when the cluster is ready.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.agents > 0 && !rustix::process::geteuid().is_root() {
        bail!("node agents need root, for namespaces and cgroups: run as root, or with --agents 0");
    }
    net::current_thread()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let layout = Layout::new(arguments)?;
        let mut cluster = Cluster { layout, children: Vec::new() };
        let result = cluster.run(arguments, shutdown).await;
        cluster.stop().await;
        result
    })
}

struct Cluster {
    layout: Layout,
    children: Vec<Child>,
}

impl Cluster {
    async fn run(&mut self, arguments: &Arguments, shutdown: CancellationToken) -> Result<()> {
        let started = Instant::now();
        let up = tokio::select! {
            up = tokio::time::timeout(START_LIMIT, self.start(arguments)) => up,
            () = shutdown.cancelled() => return Ok(()),
        };
        match up {
            Ok(result) => result?,
            Err(_) => bail!(
                "the cluster was not ready after {} s; see the logs in {}",
                START_LIMIT.as_secs(),
                self.layout.logs().display()
            ),
        }
        self.announce(arguments, started.elapsed());
        self.watch(shutdown).await;
        Ok(())
    }

    async fn start(&mut self, arguments: &Arguments) -> Result<()> {
        for server in &self.layout.servers {
            self.children.push(Child::spawn(&server.name, &self.layout.server_arguments(server), &self.layout.logs())?);
        }
        let endpoints: Vec<String> = self.layout.servers.iter().map(layout::Server::client_url).collect();
        let apis: Vec<String> = self.layout.servers.iter().map(layout::Server::api_url).collect();
        // The first server to lead makes the cluster's certificate authority; agents' certificates come from it.
        let pki = loop {
            match self.ended() {
                Some(ended) => bail!("{ended}; see the logs in {}", self.layout.logs().display()),
                None => match kubeconfig::open_pki(&endpoints, &self.layout.pki_dir()).await {
                    Ok(pki) => break pki,
                    Err(error) => tracing::debug!(%error, "the store is not ready yet"),
                },
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        kubeconfig::write_admin(&pki, &apis, &self.layout.kubeconfig())?;
        for agent in &self.layout.agents {
            kubeconfig::write_agent(&pki, &agent.name, &apis, &agent.kubeconfig)?;
            let arguments = self.layout.agent_arguments(agent, arguments);
            self.children.push(Child::spawn(&agent.name, &arguments, &self.layout.logs())?);
        }
        self.await_nodes().await
    }

    /// Ready means: every API server answers and every node says it is ready.
    async fn await_nodes(&mut self) -> Result<()> {
        loop {
            if let Some(ended) = self.ended() {
                bail!("{ended}; see the logs in {}", self.layout.logs().display());
            }
            match kubeconfig::ready_nodes(&self.layout.kubeconfig(), self.layout.servers.len()).await {
                Ok(ready) if ready >= self.layout.agents.len() => return Ok(()),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the API is not ready yet"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn ended(&mut self) -> Option<String> {
        self.children.iter_mut().find_map(Child::ended)
    }

    fn announce(&self, arguments: &Arguments, took: Duration) {
        let kubeconfig = self.layout.kubeconfig();
        let endpoints: Vec<String> = self.layout.servers.iter().map(layout::Server::client_url).collect();
        if arguments.output == "json" {
            let pid = |name: &str| self.children.iter().find(|child| child.name() == name).map(Child::pid);
            let servers = self.layout.servers.iter().map(
                |s| json!({"name": s.name, "pid": pid(&s.name), "client_url": s.client_url(), "api_url": s.api_url()}),
            );
            let agents = self.layout.agents.iter().map(|a| {
                let words = self.layout.agent_arguments(a, arguments);
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
                json!({"name": a.name, "pid": pid(&a.name), "arguments": words})
            });
            let ready = json!({
                "kubeconfig": kubeconfig,
                "endpoints": endpoints,
                "servers": servers.collect::<Vec<_>>(),
                "agents": agents.collect::<Vec<_>>(),
                "logs": self.layout.logs(),
                "ready_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            });
            println!("{ready}");
            return;
        }
        let bold = |text: String| if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text };
        let (servers, agents) = (self.layout.servers.len(), self.layout.agents.len());
        println!("{servers} servers and {agents} node agents are ready after {:.1} s.\n", took.as_secs_f64());
        println!("  kubeconfig  {}", kubeconfig.display());
        println!("  etcd        {}", endpoints.join(","));
        println!("  logs        {}", self.layout.logs().display());
        for child in &self.children {
            println!("  {:<11} pid {}", child.name(), child.pid());
        }
        println!("\nTry:  {}", bold(format!("kubectl --kubeconfig {} get nodes -o wide", kubeconfig.display())));
        println!(
            "Kill any of them with `kill -9 PID` to see what happens. Ctrl-C stops it all and leaves nothing behind."
        );
    }

    /// Tells what ends while the rest goes on, until told to stop.
    async fn watch(&mut self, shutdown: CancellationToken) {
        loop {
            let ended = futures::future::select_all(self.children.iter_mut().map(|child| Box::pin(child.wait())));
            if self.layout.servers.is_empty() {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                (message, _, _) = ended => eprintln!("kontiki: {message}; the others go on"),
            }
            if self.children.iter().all(Child::is_gone) {
                eprintln!("kontiki: nothing is left running");
                return;
            }
        }
    }

    /// Agents first, since they take their pods down and say so to the servers.
    async fn stop(&mut self) {
        let (mut agents, servers): (Vec<&mut Child>, Vec<&mut Child>) =
            self.children.iter_mut().partition(|child| child.name().starts_with("node-"));
        futures::future::join_all(agents.iter_mut().map(|agent| agent.stop())).await;
        // An agent that was killed left its pods running, as it should; here they go too.
        for agent in agents.into_iter().filter(|agent| !agent.ended_well()) {
            agent.run_again(&["--only-remove-pods"], &self.layout.logs()).await;
        }
        futures::future::join_all(servers.into_iter().map(Child::stop)).await;
        if let Err(error) = self.layout.remove() {
            eprintln!("kontiki: {error:#}");
        }
    }
}
