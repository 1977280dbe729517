//! `kontiki node-agent`: runs the pods of this Linux machine.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kontiki_node_agent::agent::{self, AgentConfig, ClusterAccess};
use kontiki_node_agent::image::pull::PullingStore;

use crate::{image, logging, net, signals};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// The name of this machine's Node [default: the host name].
    #[arg(long)]
    node_name: Option<String>,
    /// Credentials and API servers; `kontiki kubeconfig --node NAME` makes one.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Pod volumes, images and logs.
    #[arg(long, default_value = "/var/lib/kontiki/node-agent")]
    data_dir: PathBuf,
    /// Sockets and journals of running pods; on a tmpfs.
    #[arg(long, default_value = "/run/kontiki/node-agent")]
    run_dir: PathBuf,
    /// Below the root of each cgroup hierarchy.
    #[arg(long, default_value = "kontiki")]
    cgroup_parent: PathBuf,
    /// Where container logs are served to API servers.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The address at which API servers reach this agent: the Node's InternalIP.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// The bridge that pods are attached to; 15 bytes at most.
    #[arg(long, default_value = "kontiki0")]
    bridge: String,
    /// The pods' addresses, instead of the Node's spec.podCIDR.
    #[arg(long)]
    pod_cidr: Option<String>,
    /// Seconds between renewals of the node's Lease.
    #[arg(long, default_value_t = 10.0)]
    lease_renew: f64,
    /// Images to import at start: NAME=PATH of a rootfs tar, docker archive or OCI layout.
    #[arg(long, value_name = "NAME=PATH")]
    image: Vec<String>,
    /// Take all pods down when stopping, instead of leaving them to the next agent.
    #[arg(long)]
    remove_pods_at_exit: bool,
    /// Take the pods of an agent that is gone down, and end.
    #[arg(long, hide = true)]
    only_remove_pods: bool,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    end_with_parent: bool,
    /// debug, info, warn or error.
    #[arg(long, default_value = "info")]
    log_level: String,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    logging::text(&arguments.log_level)?;
    if arguments.end_with_parent {
        signals::end_with_parent()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        for image in &arguments.image {
            image::import_argument(&arguments.data_dir, image)?;
        }
        let config = arguments.config().await?;
        if arguments.only_remove_pods {
            return agent::remove_pods(&config).await.context("node agent");
        }
        let images = PullingStore::open(&image::store_dir(&arguments.data_dir)).context("image store")?;
        let ended = agent::run(config.clone(), Arc::new(images), shutdown).await.context("node agent");
        if arguments.remove_pods_at_exit {
            agent::remove_pods(&config).await.context("node agent")?;
        }
        ended
    })
}

impl Arguments {
    async fn config(&self) -> Result<AgentConfig> {
        let cluster = ClusterAccess::from_kubeconfig(&self.kubeconfig).await.context("--kubeconfig")?;
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => net::host_name()?,
        };
        let mut config = AgentConfig::new(node_name, &self.data_dir, &self.run_dir, cluster);
        config.cgroup_parent.clone_from(&self.cgroup_parent);
        config.listen = self.listen;
        config.address = self.address;
        config.bridge.clone_from(&self.bridge);
        config.pod_cidr.clone_from(&self.pod_cidr);
        config.lease_renew_interval = Duration::try_from_secs_f64(self.lease_renew).context("--lease-renew")?;
        Ok(config)
    }
}
