//! The Node object and the node lease: what the cluster knows of this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::config::AgentConfig;
use crate::image::Images;
use crate::io::machine;
use crate::limits::{API_RETRY_FIRST, API_RETRY_MAX, NODE_IMAGES_MAX, PODS_MAX_DEFAULT};
use crate::pod::fields::Allocatable;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_DURATION_S: i32 = 40;

/// What this machine offers to pods.
pub fn allocatable(config: &AgentConfig) -> Allocatable {
    let found = machine::resources(&config.data_dir);
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Allocatable {
        cpu_milli: signed(config.capacity.cpu_milli.unwrap_or(found.cpu_milli)),
        memory_bytes: signed(config.capacity.memory_bytes.unwrap_or(found.memory_bytes)),
        ephemeral_storage_bytes: signed(found.disk_bytes),
        pods: i64::from(config.capacity.pods.unwrap_or(PODS_MAX_DEFAULT)),
    }
}

pub struct NodeReporter {
    client: Client,
    config: Arc<AgentConfig>,
    images: Arc<dyn Images>,
    allocatable: Allocatable,
    /// Where the log server listens.
    port: u16,
}

impl NodeReporter {
    pub fn new(
        client: Client,
        config: Arc<AgentConfig>,
        images: Arc<dyn Images>,
        allocatable: Allocatable,
        port: u16,
    ) -> Self {
        Self { client, config, images, allocatable, port }
    }

    /// Makes the Node object, or takes over the one that is there; returns it. Tries until the API answers.
    pub async fn register(&self) -> Node {
        let mut wait = API_RETRY_FIRST;
        loop {
            match self.try_register().await {
                Ok(node) => return node,
                Err(error) => tracing::warn!(%error, "the node is not registered yet"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(API_RETRY_MAX);
        }
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let nodes = Api::<Node>::all(self.client.clone());
        let name = &self.config.node_name;
        let node = Node {
            metadata: ObjectMeta { name: Some(name.clone()), labels: Some(self.labels()), ..ObjectMeta::default() },
            ..Node::default()
        };
        match nodes.create(&PostParams::default(), &node).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = json!({"metadata": {"labels": self.labels()}});
                nodes.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await?;
            }
            Err(error) => return Err(error),
        }
        self.report(&nodes).await
    }

    async fn report(&self, nodes: &Api<Node>) -> Result<Node, kube::Error> {
        let name = &self.config.node_name;
        let existing = nodes.get(name).await?;
        let status = self.status(existing.status.as_ref(), Timestamp::now()).await;
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await
    }

    /// Reports the status now and then, for as long as the agent runs.
    pub async fn keep_reporting(&self) {
        let nodes = Api::<Node>::all(self.client.clone());
        loop {
            tokio::time::sleep(self.config.status_interval).await;
            match self.report(&nodes).await {
                Ok(_) => {}
                // Somebody deleted the Node while its machine is alive.
                Err(kube::Error::Api(status)) if status.code == 404 => drop(self.register().await),
                Err(error) => tracing::warn!(%error, "the node's status was not saved"),
            }
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let arch = machine::architecture();
        let usual = [
            ("kubernetes.io/hostname", self.config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ];
        let usual = usual.map(|(key, value)| (key.to_owned(), value.to_owned()));
        usual.into_iter().chain(self.config.labels.clone()).collect()
    }

    async fn status(&self, existing: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
        let amounts = amounts(&self.allocatable);
        let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
        let mut images = self.images.list().await;
        images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
        let image = |image: crate::image::Image| ContainerImage {
            names: Some(image.repo_tags.into_iter().chain(image.repo_digests).collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.config.address.to_string()),
                address("Hostname", self.config.node_name.clone()),
            ]),
            allocatable: Some(amounts.clone()),
            capacity: Some(amounts),
            conditions: Some(conditions(existing, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            images: Some(images.into_iter().take(NODE_IMAGES_MAX).map(image).collect()),
            node_info: Some(machine::system_info()),
            ..NodeStatus::default()
        }
    }
}

fn amounts(allocatable: &Allocatable) -> BTreeMap<String, Quantity> {
    let cpu = if allocatable.cpu_milli % 1000 == 0 {
        (allocatable.cpu_milli / 1000).to_string()
    } else {
        format!("{}m", allocatable.cpu_milli)
    };
    let amounts = [
        ("cpu", cpu),
        ("memory", format!("{}Ki", allocatable.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", allocatable.ephemeral_storage_bytes / 1024)),
        ("pods", allocatable.pods.to_string()),
        ("hugepages-1Gi", "0".to_owned()),
        ("hugepages-2Mi", "0".to_owned()),
    ];
    amounts.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount))).collect()
}

/// The four conditions of a kubelet, with the ones of others kept.
fn conditions(existing: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let existing = existing.and_then(|status| status.conditions.clone()).unwrap_or_default();
    let own = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let condition = |(type_, status, reason, message): (&str, &str, &str, &str)| {
        let before = existing.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before.and_then(|before| before.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let mut out: Vec<NodeCondition> = own.into_iter().map(condition).collect();
    let of_others = |condition: &NodeCondition| own.iter().all(|(type_, ..)| condition.type_ != *type_);
    out.extend(existing.iter().filter(|condition| of_others(condition)).cloned());
    out
}

/// Renews the node lease for as long as the agent runs: the cluster's proof that this machine lives.
pub async fn keep_lease(client: Client, node: Node, interval: Duration) {
    let leases = Api::<Lease>::namespaced(client, LEASE_NAMESPACE);
    let mut wait = Duration::ZERO;
    loop {
        tokio::time::sleep(wait).await;
        wait = match renew(&leases, &node).await {
            Ok(()) => interval,
            Err(error) => {
                tracing::warn!(%error, "the node lease was not renewed");
                (wait / 8).clamp(API_RETRY_FIRST * 4, interval)
            }
        };
    }
}

async fn renew(leases: &Api<Lease>, node: &Node) -> Result<(), kube::Error> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let renew_time = Some(MicroTime(Timestamp::now()));
    let patch = Patch::Merge(
        json!({"spec": {"renewTime": renew_time, "holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S}}),
    );
    match leases.patch(&name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_DURATION_S),
        renew_time,
        ..LeaseSpec::default()
    };
    let lease = Lease {
        metadata: ObjectMeta { name: Some(name), owner_references: Some(vec![owner]), ..ObjectMeta::default() },
        spec: Some(spec),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}
