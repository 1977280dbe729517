//! The node's side of a pod's life: what is watched, done and told. What is decided is in [`crate::pod`].
//!
//! [`run`] opens the runtime, takes over what an earlier agent left, registers the Node and then follows its pods, a task a pod
//! ([`worker`]). Stopping the agent stops no pod.

#![allow(clippy::disallowed_methods, reason = "the driver: does what `pod` decides, and feeds it time")]

mod config;
pub mod context;
mod fill_volumes;
mod find_image;
mod hooks;
mod node;
mod pods;
pub mod ports;
mod probing;
mod report;
mod start;
#[cfg(test)]
mod tests;
pub mod worker;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::image::Images;
use crate::io::files::Files;
use crate::io::log_server::LogServer;
use crate::io::{api::KubeApi, failover, machine, recorder};
use crate::limits::{API_RETRY_FIRST, POD_CIDR_DEFAULT, POD_CIDR_PATIENCE, WATCH_TIMEOUT_S};
use crate::pod::hostname::NodeNames;
use crate::pod::machine::{Note, Restored, RestoredContainer, RestoredState};
use crate::runtime::{ContainerState, RecoveredPod, Runtime, RuntimeConfig, RuntimeError};
use context::{Board, Context};
use node::NodeReporter;

pub use config::{AgentConfig, CapacityOverrides, ClusterAccess};

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{what}")]
    Config { what: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the runtime cannot work: {0}")]
    Runtime(#[from] RuntimeError),
    #[error("the API client cannot be made: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// Runs the agent until `shutdown`; pods run on. Returns early only when the machine or the settings make it impossible.
pub async fn run(config: AgentConfig, images: Arc<dyn Images>, shutdown: CancellationToken) -> Result<(), AgentError> {
    // The provider is process-wide; a second agent in one process finds it set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for dir in ["pods", "logs", "scratch"] {
        let path = config.data_dir.join(dir);
        std::fs::create_dir_all(&path).map_err(|source| AgentError::Io { what: path.display().to_string(), source })?;
    }
    let client =
        failover::client(config.cluster.servers.clone()).map_err(|error| AgentError::Client(Box::new(error)))?;
    let runtime = Runtime::open(runtime_config(&config)).await?;
    for warning in runtime.warnings() {
        tracing::warn!(warning, "this machine is limited");
    }
    let restored = runtime.recover().await?.into_iter().map(restore).collect();
    let agent = Agent { config: Arc::new(config), client, runtime, images };
    tokio::select! {
        result = agent.serve(restored) => result,
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Takes down everything that runs on the node, also what an earlier agent left, without asking the API.
pub async fn remove_pods(config: &AgentConfig) -> Result<(), AgentError> {
    let runtime = Runtime::open(runtime_config(config)).await?;
    for pod in runtime.recover().await? {
        runtime.remove_sandbox(&pod.plan.pod_uid).await?;
    }
    runtime.tear_down().await?;
    Ok(())
}

fn runtime_config(config: &AgentConfig) -> RuntimeConfig {
    RuntimeConfig {
        run_dir: config.run_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        bridge: config.bridge.clone(),
        pod_network: None,
        shim_command: config.shim_command.clone(),
    }
}

struct Agent {
    config: Arc<AgentConfig>,
    client: Client,
    runtime: Runtime,
    images: Arc<dyn Images>,
}

impl Agent {
    async fn serve(self, restored: HashMap<String, Restored>) -> Result<(), AgentError> {
        let config = &self.config;
        let events = self.runtime.events();
        let allocatable = node::allocatable(config);
        let board = Arc::new(Board::default());
        let files = Files::new(config.data_dir.clone(), config.run_dir.clone());
        let server = LogServer::bind(config.listen, &config.cluster, board.clone(), files.clone()).await?;
        let reporter =
            NodeReporter::new(self.client.clone(), config.clone(), self.images.clone(), allocatable, server.port());
        let (recorder, recording) = recorder::recorder(self.client.clone(), config.node_name.clone());
        let (services, store) = self.services();
        let context = Arc::new(Context {
            api: Arc::new(KubeApi::new(self.client.clone(), store, recorder.clone())),
            images: self.images.clone(),
            containers: Arc::new(self.runtime.clone()),
            files,
            names: self.names(),
            host_ips: vec![config.address.to_string()],
            allocatable,
            board,
        });
        let work = async {
            let node = reporter.register().await;
            let note = Note {
                is_warning: false,
                reason: "Starting",
                message: "Starting kubelet.".to_owned(),
                field_path: None,
            };
            recorder.record_node(&config.node_name, note);
            let lease = node::keep_lease(self.client.clone(), node.clone(), config.lease_renew_interval);
            let pods = async {
                self.set_up_network(node).await;
                pods::Pods::new(context, restored).run(self.client.clone(), &config.node_name, events).await;
            };
            tokio::join!(lease, pods, reporter.keep_reporting());
        };
        tokio::join!(work, recording, services, server.serve());
        Ok(())
    }

    /// Services of all namespaces, kept current; the future does the keeping.
    fn services(&self) -> (impl Future<Output = ()> + use<>, reflector::Store<Service>) {
        let (store, writer) = reflector::store::<Service>();
        let config = watcher::Config::default().timeout(WATCH_TIMEOUT_S);
        let watch = watcher(Api::<Service>::all(self.client.clone()), config).backoff(pods::QuickBackoff::default());
        let keeping = reflector::reflector(writer, watch).for_each(|event| async move {
            if let Err(error) = event {
                tracing::debug!(%error, "the watch on services begins again");
            }
        });
        (keeping, store)
    }

    fn names(&self) -> NodeNames {
        NodeNames {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            hosts: machine::read("/etc/hosts"),
            resolv_conf: machine::read("/etc/resolv.conf"),
            cluster_dns: self.config.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: self.config.cluster_domain.clone(),
        }
    }

    /// The addresses of this node's pods: as configured, else as the cluster gives them, else a default that is right for one
    /// node alone.
    async fn set_up_network(&self, node: Node) {
        let given =
            |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).filter(|cidr| !cidr.is_empty());
        let mut cidr = self.config.pod_cidr.clone().or_else(|| given(&node));
        let nodes = Api::<Node>::all(self.client.clone());
        let begun = Timestamp::now();
        while cidr.is_none() && Timestamp::now().duration_since(begun).unsigned_abs() < POD_CIDR_PATIENCE {
            tokio::time::sleep(API_RETRY_FIRST * 2).await;
            cidr = nodes.get(&self.config.node_name).await.ok().as_ref().and_then(given);
        }
        let cidr = cidr.unwrap_or_else(|| POD_CIDR_DEFAULT.to_owned());
        if let Err(error) = self.runtime.set_pod_cidr(&cidr).await {
            tracing::error!(%error, cidr, "pods get no network of their own");
        }
    }
}

/// What the runtime recovered, in the words of the pods' machines.
fn restore(pod: RecoveredPod) -> (String, Restored) {
    let containers = pod.containers.into_iter().map(|container| {
        let time = |at| Timestamp::try_from(at).ok();
        let (state, started_at) = match container.state {
            ContainerState::Running(started) => (RestoredState::Running, time(started.started_at)),
            ContainerState::Exited(exit) => (RestoredState::Exited, time(exit.started_at)),
            ContainerState::Unknown => (RestoredState::Unknown, None),
        };
        RestoredContainer {
            name: container.key.name,
            attempt: container.key.attempt,
            container_id: container.key.id,
            started_at,
            state,
        }
    });
    let restored = Restored {
        sandbox_ips: (!pod.lost).then(|| pod.sandbox.ip.map(|ip| ip.to_string()).into_iter().collect()),
        is_sandbox_lost: pod.lost,
        containers: containers.collect(),
        log_attempts: Default::default(),
    };
    (pod.plan.pod_uid, restored)
}
