//! Namespace: empties a namespace that is being deleted, then lets it go.
//!
//! Pods go first, so that nothing they use disappears under them; then all the rest. When the graph shows nothing more, the API itself is
//! asked about every kind (the graph may lag, and does not follow events), and only an empty answer takes off the `kubernetes` finalizer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::action::{Action, Attempt, Failure, Key, Plan, Resource, Step};
use super::cluster::{Changed, Cluster};
use super::controller::Controller;
use super::graph::Vertex;
use super::meta::{self, Object, Partial};

/// The controller of Namespaces.
#[derive(Debug)]
pub struct Namespaces {
    /// Every namespaced kind that can be listed and deleted.
    deletable: Vec<Resource>,
}

impl Namespaces {
    #[must_use]
    pub fn new(deletable: Vec<Resource>) -> Self {
        Self { deletable }
    }
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        let mut left = |namespace: &str, is_gone: bool| {
            let key = Key::cluster(namespace);
            if is_gone && cluster.namespaces.get(&key).is_some_and(|n| n.is_terminating()) {
                keys.push(key);
            }
        };
        match changed {
            Changed::Namespace(change) => keys.push(change.object().key()),
            // Only what goes brings a dying namespace further.
            Changed::Pod(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::ReplicationController(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::Job(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::Service(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::Endpoints(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::ServiceAccount(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::Lease(c) => left(c.object().namespace(), c.new.is_none()),
            Changed::Other(_, c) => left(Partial::namespace(c.object()), c.new.is_none()),
            Changed::Node(_) | Changed::RootCa(_) => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, attempt: &Attempt, now: Timestamp) -> Plan {
        match cluster.namespaces.get(key) {
            Some(namespace) if namespace.is_terminating() && is_held(namespace) => {
                self.empty(cluster, namespace, attempt, now)
            }
            Some(_) | None => Plan::nothing(),
        }
    }
}

fn is_held(namespace: &Namespace) -> bool {
    namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).any(|f| f == "kubernetes")
}

impl Namespaces {
    fn empty(&self, cluster: &Cluster, namespace: &Namespace, attempt: &Attempt, now: Timestamp) -> Plan {
        let name = namespace.name();
        let mut plan = Plan::nothing();
        let left: Vec<&Vertex> = cluster.graph.in_namespace(name).collect();
        let conditions = conditions(namespace, &left, attempt, now);
        if namespace.status.as_ref().and_then(|s| s.conditions.as_ref()) != conditions.as_ref() {
            let patch = meta::guarded(namespace, json!({"status": {"conditions": conditions}}));
            let target = meta::target(&Resource::NAMESPACE, namespace);
            plan.then([Action::Patch { target, subresource: Some("status"), patch }.into()]);
        }
        if left.is_empty() {
            let kinds = self.deletable.iter().cloned();
            plan.then(kinds.map(|resource| Action::RequireEmpty { resource, namespace: name.to_owned() }.into()));
            plan.then([finalize(namespace)]);
            return plan;
        }
        let (pods, others): (Vec<&Vertex>, Vec<&Vertex>) =
            left.iter().partition(|v| v.target.resource == Resource::POD);
        let next = if pods.is_empty() { others } else { pods };
        plan.then(next.into_iter().filter(|v| !v.terminating).map(deletion));
        plan
    }
}

fn deletion(vertex: &Vertex) -> Step {
    Action::Delete {
        target: vertex.target.clone(),
        uid: vertex.uid.clone(),
        resource_version: None,
        grace_period_s: None,
        propagation: Some(super::action::Propagation::Background),
    }
    .into()
}

fn finalize(namespace: &Namespace) -> Step {
    let held = namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten());
    let left: Vec<&String> = held.filter(|f| *f != "kubernetes").collect();
    let mut object: Value = serde_json::to_value(namespace).expect("a namespace is JSON");
    object["apiVersion"] = "v1".into();
    object["kind"] = "Namespace".into();
    object["spec"] = json!({"finalizers": left});
    // The status was written by the batch before: the version we saw may be outdated by ourselves.
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    Action::Finalize { name: namespace.name().to_owned(), object }.into()
}

/// What holds the namespace up, in Kubernetes' words.
fn conditions(
    namespace: &Namespace,
    left: &[&Vertex],
    attempt: &Attempt,
    now: Timestamp,
) -> Option<Vec<NamespaceCondition>> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for vertex in left.iter().filter(|v| v.terminating) {
        let resource = &vertex.target.resource;
        let dot = if resource.group.is_empty() { "" } else { "." };
        *counts.entry(format!("{}{dot}{}", resource.plural, resource.group)).or_default() += 1;
        for finalizer in &vertex.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let content: Vec<String> = counts.iter().map(|(kind, n)| format!("{kind} has {n} resource instances")).collect();
    let held: Vec<String> = finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let failed = match &attempt.last {
        Some(failure) if !failure.is_stale_view() => Some(failure),
        Some(_) | None => None,
    };
    let error = failed.map(Failure::to_string).unwrap_or_default();
    let facts = [
        (
            "NamespaceDeletionContentFailure",
            failed.is_some(),
            ("ContentDeletionFailed", error),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            !content.is_empty(),
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", content.join(", "))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            !held.is_empty(),
            (
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", held.join(", ")),
            ),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let old = namespace.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let conditions: Vec<NamespaceCondition> = facts
        .into_iter()
        .filter_map(|(kind, holds, bad, good)| {
            let known = old.iter().find(|c| c.type_ == kind);
            // A deletion that goes well needs no conditions; one that did not says when it does again.
            if !holds && known.is_none() {
                return None;
            }
            let (status, (reason, message)) =
                if holds { ("True", bad) } else { ("False", (good.0, good.1.to_owned())) };
            let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
            Some(NamespaceCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(since.unwrap_or_else(|| meta::time(now))),
            })
        })
        .collect();
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests;
