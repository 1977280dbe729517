//! Credentials for people and agents, from the cluster's certificate authority.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_control::io::pki::{ClusterPki, write_private};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tonic::transport::{Channel, Endpoint};

use crate::net;

/// `kontiki kubeconfig`: prints a kubeconfig for the administrator, or for a node agent.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// The store's client URLs, separated by commas. Who can reach them owns the cluster's keys.
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    etcd_servers: String,
    /// The API servers' URLs, separated by commas; each becomes a cluster and a context of its own.
    #[arg(long, default_value = "https://127.0.0.1:6443")]
    servers: String,
    /// Make credentials of the node agent of this name instead of the administrator's.
    #[arg(long)]
    node: Option<String>,
    /// Addresses at which that node agent is reached, separated by commas.
    #[arg(long, default_value = "127.0.0.1", requires = "node")]
    node_addresses: String,
    /// Write here, readable by this user only, instead of to standard output.
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    net::current_thread()?.block_on(async {
        let endpoints: Vec<String> = arguments.etcd_servers.split(',').map(|url| url.trim().to_owned()).collect();
        let servers: Vec<String> = arguments.servers.split(',').map(|url| url.trim().to_owned()).collect();
        let pki = open_pki(&endpoints, Path::new("")).await?;
        let text = match &arguments.node {
            None => admin(&pki, &servers)?,
            Some(node) => {
                let addresses: Result<Vec<IpAddr>, _> =
                    arguments.node_addresses.split(',').map(|text| text.trim().parse()).collect();
                agent(&pki, node, &addresses.context("--node-addresses")?, &servers)?
            }
        };
        match &arguments.out {
            Some(path) => write_private(path, &text).with_context(|| format!("cannot write {}", path.display())),
            None => {
                print!("{text}");
                Ok(())
            }
        }
    })
}

/// A client of the first endpoint that answers.
pub async fn connect(endpoints: &[String]) -> Result<Channel> {
    let mut last = None;
    for endpoint in endpoints {
        let address = Endpoint::from_shared(endpoint.clone()).with_context(|| format!("{endpoint:?} is not a URL"))?;
        match address.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = Some(anyhow::Error::new(error).context(format!("cannot reach {endpoint}"))),
        }
    }
    Err(last.context("no store endpoint was given")?)
}

/// The cluster's authority; made by the first who asks.
pub async fn open_pki(endpoints: &[String], dir: &Path) -> Result<ClusterPki> {
    let channel = connect(endpoints).await?;
    ClusterPki::open(KvClient::new(channel), dir).await.context("cannot read the cluster's keys")
}

pub fn write_admin(pki: &ClusterPki, servers: &[String], path: &Path) -> Result<()> {
    write_private(path, &admin(pki, servers)?).with_context(|| format!("cannot write {}", path.display()))
}

pub fn write_agent(pki: &ClusterPki, node: &str, servers: &[String], path: &Path) -> Result<()> {
    let text = agent(pki, node, &[IpAddr::V4(Ipv4Addr::LOCALHOST)], servers)?;
    write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

fn admin(pki: &ClusterPki, servers: &[String]) -> Result<String> {
    pki.admin_kubeconfig(servers).context("cannot make the administrator's certificate")
}

fn agent(pki: &ClusterPki, node: &str, addresses: &[IpAddr], servers: &[String]) -> Result<String> {
    pki.agent_kubeconfig(node, addresses, servers).with_context(|| format!("cannot make the certificate of {node}"))
}

/// How many nodes are ready, once every API server of the file answers.
pub async fn ready_nodes(path: &Path, servers: usize) -> Result<usize> {
    let file = Kubeconfig::read_from(path).context("cannot read the kubeconfig")?;
    if file.contexts.len() < servers {
        bail!("{} names {} API servers, not {servers}", path.display(), file.contexts.len());
    }
    let mut ready = usize::MAX;
    for context in &file.contexts {
        let options = KubeConfigOptions { context: Some(context.name.clone()), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(file.clone(), &options).await?;
        let nodes = Api::<Node>::all(kube::Client::try_from(config)?).list(&ListParams::default()).await?;
        ready = ready.min(nodes.items.iter().filter(|node| is_ready(node)).count());
    }
    Ok(ready)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
