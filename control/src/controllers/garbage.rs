//! Garbage: objects whose owners are all gone, and owners that wait for (or let go of) their dependents.
//!
//! Works on the ownership graph, by uid. That an owner is gone is believed when its end was seen; otherwise the API is asked before
//! anything is deleted, since the graph may not have the owner yet. Owners of kinds that are not followed are left alone: nobody
//! here could tell whether they exist.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::action::{Action, Attempt, EventRecord, Key, Plan, Propagation, Step, Target};
use super::cluster::{Changed, Cluster, with_kinds};
use super::controller::Controller;
use super::graph::{Graph, Vertex};
use super::limits;
use super::meta::Object;

/// The garbage collector. Its keys are uids.
#[derive(Debug, Default)]
pub struct Garbage;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl Controller for Garbage {
    fn name(&self) -> &'static str {
        "garbage"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        let mut touch = |old: Option<&ObjectMeta>, new: Option<&ObjectMeta>| match (old, new) {
            (_, Some(new)) => {
                let is_concerned =
                    new.deletion_timestamp.is_some() || new.owner_references.iter().flatten().next().is_some();
                keys.extend(new.uid.as_ref().filter(|_| is_concerned).map(Key::cluster));
                // An owner that waits is told when a dependent no longer names it.
                let named = old.iter().flat_map(|o| o.owner_references.iter().flatten());
                keys.extend(named.map(|o| Key::cluster(&o.uid)));
            }
            (Some(old), None) => {
                let uid = old.uid.as_deref().unwrap_or_default();
                keys.extend(cluster.graph.dependents(uid).map(|d| Key::cluster(&d.uid)));
                keys.extend(old.owner_references.iter().flatten().map(|o| Key::cluster(&o.uid)));
            }
            (None, None) => {}
        };
        macro_rules! dispatch {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                match changed {
                    $(Changed::$variant(c) => touch(c.old.as_deref().map(Object::metadata), c.new.as_deref().map(Object::metadata)),)*
                    Changed::RootCa(_) => {}
                    Changed::Other(_, c) => touch(c.old.as_deref().map(Object::metadata), c.new.as_deref().map(Object::metadata)),
                }
            };
        }
        with_kinds!(dispatch);
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, now: Timestamp) -> Plan {
        let graph = &cluster.graph;
        let Some(vertex) = graph.get(&key.name) else { return Plan::nothing() };
        if vertex.terminating && !cluster.is_listed() {
            // Dependents of a kind that is not listed yet would be passed over.
            return Plan { wake_at: Some(now + limits::UNLISTED_RETRY), ..Plan::nothing() };
        }
        if vertex.terminating && vertex.has_finalizer(ORPHAN) {
            orphan_dependents(graph, vertex)
        } else if vertex.waits_for_dependents() {
            wait_for_dependents(graph, vertex)
        } else if vertex.terminating || vertex.owners.is_empty() {
            Plan::nothing()
        } else {
            judge(graph, vertex)
        }
    }
}

/// Takes the owner's name off all its dependents, then lets it go.
fn orphan_dependents(graph: &Graph, owner: &Vertex) -> Plan {
    let mut plan = Plan::nothing();
    plan.then(graph.dependents(&owner.uid).map(|dependent| keep_owners(dependent, |o| o.uid != owner.uid)));
    plan.then([drop_finalizer(owner, ORPHAN)]);
    plan
}

/// Deletes the dependents that block the owner; lets the owner go when there are none.
fn wait_for_dependents(graph: &Graph, owner: &Vertex) -> Plan {
    let mut blocking = graph.dependents(&owner.uid).filter(|d| blocks(d, &owner.uid)).peekable();
    let mut plan = Plan::nothing();
    if blocking.peek().is_none() {
        plan.then([drop_finalizer(owner, FOREGROUND)]);
        return plan;
    }
    for dependent in blocking.filter(|d| !d.terminating) {
        let others = dependent.owners.iter().filter(|o| o.uid != owner.uid);
        let has_other = others.into_iter().any(|o| graph.get(&o.uid).is_some_and(|v| !v.waits_for_dependents()));
        let step = if has_other {
            keep_owners(dependent, |o| o.uid != owner.uid)
        } else {
            // Its own dependents go before it, or "after the dependents" would end at the first generation.
            let has_dependents = graph.dependents(&dependent.uid).next().is_some();
            delete(dependent, if has_dependents { Propagation::Foreground } else { Propagation::Background })
        };
        match plan.batches.first_mut() {
            Some(batch) => batch.push(step),
            None => plan.then([step]),
        }
    }
    plan
}

fn blocks(dependent: &Vertex, owner_uid: &str) -> bool {
    dependent.owners.iter().any(|o| o.uid == owner_uid && o.block_owner_deletion == Some(true))
}

/// Whether an object with owners may stay.
fn judge(graph: &Graph, vertex: &Vertex) -> Plan {
    let mut plan = Plan::nothing();
    let (mut solid, mut waiting) = (Vec::new(), Vec::new());
    let mut absent: Vec<&OwnerReference> = Vec::new();
    let mut checks: Vec<Step> = Vec::new();
    let mut complaints: Vec<Step> = Vec::new();
    for owner in &vertex.owners {
        match standing(graph, vertex, owner) {
            Standing::Present => solid.push(owner),
            Standing::Waiting => waiting.push(owner),
            Standing::Gone => absent.push(owner),
            Standing::Unseen(target) => {
                checks.push(Action::RequireAbsent { target, uid: owner.uid.clone() }.into());
                absent.push(owner);
            }
            Standing::Elsewhere => {
                complaints.push(invalid_owner(vertex, owner));
                absent.push(owner);
            }
            Standing::Unknowable => return plan,
        }
    }
    if absent.is_empty() && (waiting.is_empty() || solid.is_empty()) {
        // All there, or waiting for this very object: that is their look, not this one's.
        return plan;
    }
    plan.then(complaints);
    plan.then(checks);
    if !solid.is_empty() {
        plan.then([keep_owners(vertex, |o| solid.contains(&o))]);
    } else if waiting.is_empty() {
        let policy = if vertex.has_finalizer(ORPHAN) {
            Propagation::Orphan
        } else if vertex.has_finalizer(FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        plan.then([delete(vertex, policy)]);
    }
    plan
}

/// What can be said of an owner.
enum Standing {
    Present,
    /// Being deleted, after its dependents.
    Waiting,
    Gone,
    /// Not in the graph; the API must be asked.
    Unseen(Target),
    /// Exists in another namespace: nobody's owner here.
    Elsewhere,
    /// Of a kind that is not followed.
    Unknowable,
}

fn standing(graph: &Graph, vertex: &Vertex, owner: &OwnerReference) -> Standing {
    let namespace = &vertex.target.key.namespace;
    if let Some(found) = graph.get(&owner.uid) {
        let at = &found.target.key.namespace;
        return if !at.is_empty() && at != namespace {
            Standing::Elsewhere
        } else if found.waits_for_dependents() && blocks(vertex, &owner.uid) {
            Standing::Waiting
        } else {
            Standing::Present
        };
    }
    if graph.is_gone(&owner.uid) {
        return Standing::Gone;
    }
    match graph.resource_of(owner) {
        None => Standing::Unknowable,
        Some(resource) if resource.namespaced && namespace.is_empty() => Standing::Elsewhere,
        Some(resource) => {
            let namespace = if resource.namespaced { namespace.as_str() } else { "" };
            Standing::Unseen(Target::new(resource.clone(), namespace, &owner.name))
        }
    }
}

fn delete(vertex: &Vertex, propagation: Propagation) -> Step {
    Action::Delete {
        target: vertex.target.clone(),
        uid: vertex.uid.clone(),
        // Decided on its owners: somebody may be adopting it right now.
        resource_version: Some(vertex.resource_version.clone()),
        grace_period_s: None,
        propagation: Some(propagation),
    }
    .into()
}

fn patch_metadata(vertex: &Vertex, mut metadata: serde_json::Value) -> Step {
    metadata["resourceVersion"] = vertex.resource_version.as_str().into();
    metadata["uid"] = vertex.uid.as_str().into();
    let patch = json!({"metadata": metadata});
    Action::Patch { target: vertex.target.clone(), subresource: None, patch }.into()
}

fn keep_owners(vertex: &Vertex, keep: impl Fn(&OwnerReference) -> bool) -> Step {
    let kept: Vec<&OwnerReference> = vertex.owners.iter().filter(|o| keep(o)).collect();
    patch_metadata(vertex, json!({"ownerReferences": (!kept.is_empty()).then_some(kept)}))
}

fn drop_finalizer(vertex: &Vertex, finalizer: &str) -> Step {
    let kept: Vec<&String> = vertex.finalizers.iter().filter(|f| *f != finalizer).collect();
    patch_metadata(vertex, json!({"finalizers": kept}))
}

fn invalid_owner(vertex: &Vertex, owner: &OwnerReference) -> Step {
    let Target { resource, key } = &vertex.target;
    let about = ObjectReference {
        api_version: Some(resource.api_version()),
        kind: Some(resource.kind.to_string()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(vertex.uid.clone()),
        ..ObjectReference::default()
    };
    let OwnerReference { api_version, kind, name, uid, .. } = owner;
    let message = format!(
        "ownerRef [{api_version}/{kind}, namespace: {}, name: {name}, uid: {uid}] does not exist in namespace {:?}",
        key.namespace, key.namespace
    );
    let reason = "OwnerRefInvalidNamespace";
    EventRecord { about, component: "garbage-collector-controller", warning: true, reason, message }.into()
}

#[cfg(test)]
mod tests;
