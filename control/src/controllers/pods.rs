//! What the controllers that own pods share: who is theirs, in which order pods go, how they are created in growing batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::action::{Action, Key, Narration, Resource, Step};
use super::cluster::Cluster;
use super::limits;
use super::meta::{self, Object};

/// Pods go in this order: unassigned, not running, not ready, cheap, crowded, young and restless first.
pub fn sort_for_deletion(pods: &mut [Arc<Pod>], crowding: &BTreeMap<String, usize>) {
    pods.sort_by_cached_key(|pod| {
        let phase = match meta::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let node = meta::node_name(pod);
        let cost: i64 =
            pod.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse().ok()).unwrap_or(0);
        let neighbours = node.and_then(|n| crowding.get(n)).copied().unwrap_or(0);
        let restarts: i32 = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0);
        // Whole seconds negated: the later, the earlier in the order.
        let recent = |at: Option<Timestamp>| at.map_or(i64::MIN, |t| -t.as_second());
        (
            (node.is_some(), phase, meta::is_ready(pod), cost),
            (-i64::try_from(neighbours).unwrap_or(0), recent(meta::ready_since(pod)), -i64::from(restarts)),
            (recent(pod.created_at()), pod.name().to_owned()),
        )
    });
}

/// How many of these pods each node has.
#[must_use]
pub fn crowding(pods: &[Arc<Pod>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in pods.iter().filter_map(|p| meta::node_name(p)) {
        *counts.entry(node.to_owned()).or_insert(0) += 1;
    }
    counts
}

/// Splits into batches of 1, 2, 4, …: when the API refuses the first, the rest is not tried.
pub fn slow_start(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut batches = Vec::new();
    let mut rest = steps.into_iter();
    let mut size = 1;
    loop {
        let batch: Vec<Step> = rest.by_ref().take(size).collect();
        if batch.is_empty() {
            return batches;
        }
        size *= 2;
        batches.push(batch);
    }
}

/// A pod of this template, owned and named.
#[must_use]
pub fn from_template(template: &PodTemplateSpec, namespace: &str, name: &str, owner: OwnerReference) -> Pod {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    // Only what a template may say: an identity in it would be somebody else's.
    metadata.name = Some(name.to_owned());
    metadata.generate_name = None;
    metadata.namespace = Some(namespace.to_owned());
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.creation_timestamp = None;
    metadata.deletion_timestamp = None;
    metadata.owner_references = Some(vec![owner]);
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// The creation of a pod, told as `SuccessfulCreate` or `FailedCreate`.
#[must_use]
pub fn create(pod: &Pod, narration: Narration) -> Step {
    let mut object = serde_json::to_value(pod).expect("a pod is JSON");
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), "v1".into());
        map.insert("kind".into(), "Pod".into());
    }
    let action = Action::Create { resource: Resource::POD, namespace: pod.namespace().to_owned(), object };
    let told = Narration {
        done: Some(("SuccessfulCreate", "Created pod: ")),
        failed: Some(("FailedCreate", "Error creating: ")),
        ..narration
    };
    Step { action, narration: Some(told) }
}

/// The deletion of this very pod, told as `SuccessfulDelete` or `FailedDelete`.
#[must_use]
pub fn delete(pod: &Pod, narration: Narration) -> Step {
    let told = Narration {
        done: Some(("SuccessfulDelete", "Deleted pod: ")),
        failed: Some(("FailedDelete", "Error deleting: ")),
        ..narration
    };
    Step { action: delete_action(pod, None), narration: Some(told) }
}

/// The deletion of this very pod.
#[must_use]
pub fn delete_action(pod: &Pod, grace_period_s: Option<u32>) -> Action {
    Action::Delete {
        target: meta::target(&Resource::POD, pod),
        uid: pod.uid().to_owned(),
        resource_version: None,
        grace_period_s,
        propagation: None,
    }
}

/// Removal at once, without the word of an agent that will not speak again.
#[must_use]
pub fn force_delete(pod: &Pod) -> Action {
    delete_action(pod, Some(0))
}

/// A change of a pod's metadata or status that applies only to the pod as it was seen.
#[must_use]
pub fn patch(pod: &Pod, subresource: Option<&'static str>, patch: Value) -> Action {
    Action::Patch { target: meta::target(&Resource::POD, pod), subresource, patch: meta::guarded(pod, patch) }
}

/// Takes a finalizer off the pod.
#[must_use]
pub fn without_finalizer(pod: &Pod, finalizer: &str) -> Action {
    let left: Vec<&String> = pod.metadata.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    patch(pod, None, json!({"metadata": {"finalizers": left}}))
}

/// The reference by which this owner controls the pod goes, others stay.
#[must_use]
pub fn release(pod: &Pod, owner_uid: &str) -> Action {
    let left: Vec<&OwnerReference> = pod.owners().iter().filter(|o| o.uid != owner_uid).collect();
    patch(pod, None, json!({"metadata": {"ownerReferences": left}}))
}

/// The owner becomes the pod's controller.
#[must_use]
pub fn adopt(pod: &Pod, owner: &OwnerReference) -> Action {
    let mut owners: Vec<OwnerReference> = pod.owners().iter().filter(|o| o.uid != owner.uid).cloned().collect();
    owners.push(owner.clone());
    patch(pod, None, json!({"metadata": {"ownerReferences": owners}}))
}

/// Whether any pod of the namespace has this name.
#[must_use]
pub fn is_taken(cluster: &Cluster, namespace: &str, name: &str) -> bool {
    cluster.pods.get(&Key::new(namespace, name)).is_some()
}

/// Nothing can be created in a namespace that is going.
#[must_use]
pub fn may_create(cluster: &Cluster, namespace: &str) -> bool {
    cluster.namespaces.get(&Key::cluster(namespace)).is_none_or(|n| !n.is_terminating())
}

/// How many at most in one go.
#[must_use]
pub fn at_most(wanted: i64) -> usize {
    usize::try_from(wanted).unwrap_or(0).min(limits::PODS_PER_SYNC_MAX)
}
