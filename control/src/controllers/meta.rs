//! Reading what all objects have: identity, owners, conditions, time.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, NodeCondition, ObjectReference, Pod, PodCondition, ReplicationController,
    Service, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::action::{Key, Resource, Target};

/// Anything with `metadata`.
pub trait Object {
    fn metadata(&self) -> &ObjectMeta;

    fn key(&self) -> Key {
        let meta = self.metadata();
        Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    fn resource_version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }

    /// Kontiki's and etcd's resource versions are one growing number.
    fn resource_version_number(&self) -> u64 {
        self.resource_version().parse().unwrap_or(0)
    }

    fn is_terminating(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    fn has_finalizer(&self, finalizer: &str) -> bool {
        self.metadata().finalizers.iter().flatten().any(|f| f == finalizer)
    }

    fn owners(&self) -> &[OwnerReference] {
        self.metadata().owner_references.as_deref().unwrap_or_default()
    }

    /// The owner that manages this object.
    fn controller(&self) -> Option<&OwnerReference> {
        self.owners().iter().find(|o| o.controller == Some(true))
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(name).map(String::as_str)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn created_at(&self) -> Option<Timestamp> {
        self.metadata().creation_timestamp.as_ref().map(|t| t.0)
    }
}

/// An object of which only the metadata matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partial {
    pub metadata: ObjectMeta,
}

macro_rules! objects {
    ($($type:ty),* $(,)?) => {
        $(impl Object for $type {
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        })*
    };
}
objects!(
    ConfigMap,
    Endpoints,
    Job,
    Lease,
    Namespace,
    Node,
    Partial,
    Pod,
    ReplicationController,
    Service,
    ServiceAccount
);

/// How events name an object.
#[must_use]
pub fn reference(resource: &Resource, object: &impl Object) -> ObjectReference {
    ObjectReference {
        api_version: Some(resource.api_version()),
        kind: Some(resource.kind.to_string()),
        namespace: object.metadata().namespace.clone(),
        name: object.metadata().name.clone(),
        uid: object.metadata().uid.clone(),
        resource_version: object.metadata().resource_version.clone(),
        field_path: None,
    }
}

/// Where an object lives.
#[must_use]
pub fn target(resource: &Resource, object: &impl Object) -> Target {
    Target { resource: resource.clone(), key: object.key() }
}

/// The reference that makes `owner` the controller of an object.
#[must_use]
pub fn controller_reference(resource: &Resource, owner: &impl Object) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version(),
        kind: resource.kind.to_string(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A merge patch that only applies to the object as it was seen.
#[must_use]
pub fn guarded(object: &impl Object, mut patch: Value) -> Value {
    let map = patch.as_object_mut().expect("a merge patch is an object");
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    metadata["resourceVersion"] = object.resource_version().into();
    metadata["uid"] = object.uid().into();
    patch
}

/// Whether all of a (non-empty) selector's labels are there.
#[must_use]
pub fn selects(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// `status.phase`, `Pending` when the agent has not said anything.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor on its way out.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_terminating()
}

#[must_use]
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

#[must_use]
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

#[must_use]
pub fn node_condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Since when the pod is ready.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = pod_condition(pod, "Ready").filter(|c| c.status == "True")?;
    condition.last_transition_time.as_ref().map(|t| t.0)
}

/// The pod's conditions with this one set; the transition time is kept when the status did not change.
#[must_use]
pub fn with_pod_condition(pod: &Pod, mut condition: PodCondition, now: Timestamp) -> Vec<PodCondition> {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    condition.last_transition_time = Some(time(now));
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time.take();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    conditions
}

/// API times have whole seconds.
#[must_use]
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).expect("a second of a valid time is valid"))
}
