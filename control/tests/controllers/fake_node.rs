//! A node that pretends: it renews its lease, says that its pods run (or how they ended), and confirms deletions at once.

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::world::World;

/// Annotation: the phase in which a pod ends as soon as it starts.
pub const OUTCOME: &str = "test/outcome";

pub struct FakeNode {
    name: String,
    client: Client,
    tasks: JoinSet<()>,
}

impl FakeNode {
    pub async fn start(world: &World, name: &str) -> Self {
        let client = world.client();
        let nodes: Api<Node> = Api::all(client.clone());
        if nodes.get_opt(name).await.unwrap().is_none() {
            let labels = json!({"kubernetes.io/hostname": name});
            let node = json!({"metadata": {"name": name, "labels": labels}});
            nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        }
        let now = Timestamp::now().to_string();
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(renew(client.clone(), name.to_owned()));
        tasks.spawn(run_pods(client.clone(), name.to_owned()));
        Self { name: name.to_owned(), client, tasks }
    }

    /// Falls silent.
    pub async fn die(mut self) {
        self.tasks.shutdown().await;
    }

    pub async fn taints(&self) -> Vec<String> {
        let node: Node = Api::all(self.client.clone()).get(&self.name).await.unwrap();
        node.spec.iter().flat_map(|s| s.taints.iter().flatten()).map(|t| t.key.clone()).collect()
    }
}

async fn renew(client: Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
    // It may be there from an earlier life.
    let _ = leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await;
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(250));
    loop {
        beat.tick().await;
        let patch = json!({"spec": {"renewTime": format!("{:.6}", Timestamp::now())}});
        if let Err(error) = leases.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            tracing::warn!(%error, "lease not renewed");
        }
    }
}

async fn run_pods(client: Client, name: String) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let events = watcher::watcher(Api::<Pod>::all(client.clone()), config);
    let mut events = std::pin::pin!(events);
    let mut address = 0;
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
            address += 1;
            act(&client, &pod, address).await;
        }
    }
}

async fn act(client: &Client, pod: &Pod, address: u8) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let _ = pods.delete(&name, &DeleteParams::default().grace_period(0).preconditions(preconditions)).await;
        return;
    }
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if phase != "Pending" {
        return;
    }
    let phase = pod.annotations().get(OUTCOME).map_or("Running", String::as_str);
    let ready = if phase == "Running" { "True" } else { "False" };
    let now = Timestamp::now().to_string();
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": now});
    let status =
        json!({"phase": phase, "podIP": format!("10.9.0.{address}"), "startTime": now, "conditions": [condition]});
    // It may be gone or changed meanwhile: then there is another event.
    let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await;
}
