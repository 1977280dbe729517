//! Where everything of a development cluster lies: names, ports, directories, bridges, and each child's arguments.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Arguments;

pub struct Layout {
    root: PathBuf,
    /// Made by us, so removed by us.
    temporary: bool,
    node_grace_s: u64,
    pub servers: Vec<Server>,
    pub agents: Vec<Agent>,
}

pub struct Server {
    pub name: String,
    data_dir: PathBuf,
    client_port: u16,
    peer_port: u16,
    api_port: u16,
}

pub struct Agent {
    pub name: String,
    pub kubeconfig: PathBuf,
    data_dir: PathBuf,
    run_dir: PathBuf,
    bridge: String,
    pod_cidr: String,
    cgroup_parent: String,
}

impl Server {
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
}

impl Layout {
    /// Chooses everything and makes the directories.
    pub fn new(arguments: &Arguments) -> Result<Self> {
        let pid = std::process::id();
        let (root, temporary) = match &arguments.data_dir {
            Some(dir) => (std::path::absolute(dir).context("--data-dir")?, false),
            None => (std::env::temp_dir().join(format!("kontiki-dev-{pid}")), true),
        };
        let ports = Ports::choose(arguments)?;
        let servers = (0..usize::from(arguments.servers)).map(|i| Server {
            name: format!("server-{}", i + 1),
            data_dir: root.join(format!("server-{}", i + 1)),
            client_port: ports.client[i],
            peer_port: ports.peer[i],
            api_port: ports.api[i],
        });
        // Bridge names have 15 bytes at most, and several development clusters may run side by side.
        let agents = (0..usize::from(arguments.agents)).map(|i| {
            let name = format!("node-{}", i + 1);
            Agent {
                kubeconfig: root.join(format!("{name}.kubeconfig")),
                data_dir: root.join(&name),
                run_dir: PathBuf::from(format!("/run/kontiki-dev-{pid}/{name}")),
                bridge: format!("kt{pid}-{}", i + 1),
                pod_cidr: format!("10.{}.{}.0/24", 64 + pid % 64, (pid / 64 % 16) * 16 + u32::try_from(i).unwrap_or(0)),
                cgroup_parent: format!("kontiki-dev-{pid}-{name}"),
                name,
            }
        });
        let layout = Self {
            temporary,
            node_grace_s: arguments.node_grace,
            servers: servers.collect(),
            agents: agents.collect(),
            root,
        };
        for dir in [layout.root.clone(), layout.logs(), layout.pki_dir()] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(layout)
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    pub fn server_arguments(&self, server: &Server) -> Vec<OsString> {
        let cluster: Vec<String> = self.servers.iter().map(|s| format!("{}={}", s.name, s.peer_url())).collect();
        let mut words = Words::new("server");
        words.pair("--name", &server.name);
        words.pair("--data-dir", &server.data_dir);
        words.pair("--listen-client-urls", server.client_url());
        words.pair("--advertise-client-urls", server.client_url());
        words.pair("--listen-peer-urls", server.peer_url());
        words.pair("--initial-advertise-peer-urls", server.peer_url());
        words.pair("--initial-cluster", cluster.join(","));
        words.pair("--initial-cluster-token", format!("dev-{}", self.root.display()));
        words.pair("--api-listen", format!("127.0.0.1:{}", server.api_port));
        words.pair("--node-grace", self.node_grace_s.to_string());
        words.pair("--unreachable-toleration", "2");
        words.flag("--end-with-parent");
        words.0
    }

    pub fn agent_arguments(&self, agent: &Agent, arguments: &Arguments) -> Vec<OsString> {
        let mut words = Words::new("node-agent");
        words.pair("--node-name", &agent.name);
        words.pair("--kubeconfig", &agent.kubeconfig);
        words.pair("--data-dir", &agent.data_dir);
        words.pair("--run-dir", &agent.run_dir);
        words.pair("--bridge", &agent.bridge);
        words.pair("--pod-cidr", &agent.pod_cidr);
        words.pair("--cgroup-parent", &agent.cgroup_parent);
        words.pair("--lease-renew", (self.node_grace_s as f64 / 4.0).max(0.5).to_string());
        for image in &arguments.image {
            words.pair("--image", image);
        }
        words.flag("--remove-pods-at-exit");
        words.flag("--end-with-parent");
        words.0
    }

    /// Removes what is not to be kept.
    pub fn remove(&self) -> Result<()> {
        for agent in &self.agents {
            remove_tree(&agent.run_dir)?;
            if let Some(parent) = agent.run_dir.parent() {
                // The last agent's removal empties it.
                let _ = fs::remove_dir(parent);
            }
        }
        if self.temporary { remove_tree(&self.root) } else { Ok(()) }
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

struct Words(Vec<OsString>);

impl Words {
    fn new(subcommand: &str) -> Self {
        Self(vec![subcommand.into()])
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }

    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }
}

struct Ports {
    client: Vec<u16>,
    peer: Vec<u16>,
    api: Vec<u16>,
}

impl Ports {
    fn choose(arguments: &Arguments) -> Result<Self> {
        let count = arguments.servers;
        // Held until all are chosen, so that no port is chosen twice.
        let mut held = Vec::new();
        let mut any = || -> Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
            let port = listener.local_addr().context("cannot find a free port")?.port();
            held.push(listener);
            Ok(port)
        };
        let mut ports = Self { client: Vec::new(), peer: Vec::new(), api: Vec::new() };
        for i in 0..count {
            let (client, peer) = match arguments.client_port {
                0 => (any()?, any()?),
                first => (first + 2 * i, first + 2 * i + 1),
            };
            ports.client.push(client);
            ports.peer.push(peer);
            ports.api.push(if arguments.api_port == 0 { any()? } else { arguments.api_port + i });
        }
        Ok(ports)
    }
}
