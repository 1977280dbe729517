//! ReplicationController: as many running pods as asked for.
//!
//! Finished and terminating pods do not count, so a pod on a dead node is replaced as soon as it is marked for deletion. Pods that match the
//! selector and belong to nobody are adopted; owned pods that no longer match are released.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::action::{Action, Attempt, Failure, Key, Narration, Plan, Resource, Step};
use super::cluster::{Changed, Cluster};
use super::controller::Controller;
use super::meta::{self, Object, selects};
use super::names::Suffixes;
use super::pods;

/// The controller of ReplicationControllers.
#[derive(Debug, Default)]
pub struct Replication;

const COMPONENT: &str = "replication-controller";
const KIND: Resource = Resource::REPLICATION_CONTROLLER;

impl Controller for Replication {
    fn name(&self) -> &'static str {
        "replication"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        match changed {
            Changed::ReplicationController(change) => keys.push(change.object().key()),
            Changed::Pod(change) => {
                for pod in change.old.iter().chain(&change.new) {
                    owners_of(cluster, pod, keys);
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, attempt: &Attempt, now: Timestamp) -> Plan {
        match cluster.replication_controllers.get(key) {
            Some(rc) => sync(cluster, rc, attempt, now),
            None => Plan::nothing(),
        }
    }
}

/// The controller of the pod, or for an orphan all that would adopt it.
fn owners_of(cluster: &Cluster, pod: &Pod, keys: &mut Vec<Key>) {
    match pod.controller() {
        Some(owner) if owner.kind == "ReplicationController" => keys.push(Key::new(pod.namespace(), &owner.name)),
        Some(_) => {}
        None => keys.extend(
            cluster
                .replication_controllers
                .in_namespace(pod.namespace())
                .filter(|rc| selects(selector(rc), pod.metadata.labels.as_ref()))
                .map(|rc| rc.key()),
        ),
    }
}

fn selector(rc: &ReplicationController) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    rc.spec.as_ref().and_then(|s| s.selector.as_ref()).unwrap_or(&NONE)
}

/// Whose the pods of the namespace are, seen from one controller.
#[derive(Default)]
struct Claims {
    /// Owned (or about to be) and counting.
    active: Vec<Arc<Pod>>,
    writes: Vec<Step>,
}

fn sync(cluster: &Cluster, rc: &ReplicationController, attempt: &Attempt, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Claims { active, writes } = claim(cluster, rc);
    plan.then(writes);
    if let Some(at) = next_available(rc, &active, now) {
        plan.wake(at);
    }
    let missing = wanted(rc) - i64::try_from(active.len()).unwrap_or(i64::MAX);
    let status = status(rc, &active, missing, attempt, now);
    if rc.status.as_ref() != Some(&status) {
        let patch = meta::guarded(rc, json!({"status": status_patch(&status)}));
        plan.then([Action::Patch { target: meta::target(&KIND, rc), subresource: Some("status"), patch }.into()]);
    }
    if rc.is_terminating() {
        return plan;
    }
    if missing > 0 && pods::may_create(cluster, rc.namespace()) {
        plan.batches.extend(pods::slow_start(creations(cluster, rc, pods::at_most(missing))));
    } else if missing < 0 {
        plan.then(deletions(rc, active, pods::at_most(-missing)));
    }
    plan
}

fn wanted(rc: &ReplicationController) -> i64 {
    i64::from(rc.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
}

fn claim(cluster: &Cluster, rc: &ReplicationController) -> Claims {
    let mut claims = Claims::default();
    let us = meta::controller_reference(&KIND, rc);
    for pod in cluster.pods.in_namespace(rc.namespace()) {
        let matches = selects(selector(rc), pod.metadata.labels.as_ref());
        match pod.controller() {
            Some(owner) if owner.uid == rc.uid() && matches => {
                if meta::is_active(pod) {
                    claims.active.push(Arc::clone(pod));
                }
            }
            Some(owner) if owner.uid == rc.uid() => {
                if !rc.is_terminating() {
                    claims.writes.push(pods::release(pod, rc.uid()).into());
                }
            }
            None if matches && meta::is_active(pod) && !rc.is_terminating() => {
                claims.writes.push(pods::adopt(pod, &us).into());
                claims.active.push(Arc::clone(pod));
            }
            Some(_) | None => {}
        }
    }
    claims
}

fn narration(rc: &ReplicationController) -> Narration {
    Narration { about: meta::reference(&KIND, rc), component: COMPONENT, done: None, failed: None }
}

fn creations(cluster: &Cluster, rc: &ReplicationController, count: usize) -> Vec<Step> {
    let Some(template) = rc.spec.as_ref().and_then(|s| s.template.as_ref()) else { return Vec::new() };
    let namespace = rc.namespace();
    let suffixes = Suffixes::new(rc.name(), rc.uid());
    let seen = cluster.pods.in_namespace(namespace).map(|p| p.name());
    let names = suffixes.fresh(seen, count, |name| pods::is_taken(cluster, namespace, name));
    names
        .iter()
        .map(|name| {
            let owner = meta::controller_reference(&KIND, rc);
            pods::create(&pods::from_template(template, namespace, name, owner), narration(rc))
        })
        .collect()
}

fn deletions(rc: &ReplicationController, mut active: Vec<Arc<Pod>>, count: usize) -> Vec<Step> {
    let crowding = pods::crowding(&active);
    pods::sort_for_deletion(&mut active, &crowding);
    active.iter().take(count).map(|pod| pods::delete(pod, narration(rc))).collect()
}

fn min_ready(rc: &ReplicationController) -> Duration {
    let seconds = rc.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn is_available(pod: &Pod, min_ready: Duration, now: Timestamp) -> bool {
    meta::is_ready(pod) && (min_ready.is_zero() || meta::ready_since(pod).is_some_and(|since| since + min_ready <= now))
}

/// When the next ready pod becomes available.
fn next_available(rc: &ReplicationController, active: &[Arc<Pod>], now: Timestamp) -> Option<Timestamp> {
    active.iter().filter_map(|p| meta::ready_since(p)).map(|since| since + min_ready(rc)).filter(|at| *at > now).min()
}

fn status(
    rc: &ReplicationController,
    active: &[Arc<Pod>],
    missing: i64,
    attempt: &Attempt,
    now: Timestamp,
) -> ReplicationControllerStatus {
    let count =
        |test: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|p| test(p)).count()).unwrap_or(i32::MAX);
    // Zero is left out, as Kubernetes leaves it out: the comparison with what is stored must hold.
    let some = |n: i32| (n != 0).then_some(n);
    let template_labels = rc.spec.as_ref().and_then(|s| s.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let fully_labeled =
        |pod: &Pod| template_labels.is_none_or(|l| l.is_empty() || selects(l, pod.metadata.labels.as_ref()));
    ReplicationControllerStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&fully_labeled)),
        ready_replicas: some(count(&meta::is_ready)),
        available_replicas: some(count(&|p| is_available(p, min_ready(rc), now))),
        observed_generation: rc.metadata.generation,
        conditions: conditions(rc, missing, attempt, now),
    }
}

/// `ReplicaFailure` while the API refuses what the controller wants.
fn conditions(
    rc: &ReplicationController,
    missing: i64,
    attempt: &Attempt,
    now: Timestamp,
) -> Option<Vec<ReplicationControllerCondition>> {
    let old = rc.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut conditions: Vec<_> = old.iter().filter(|c| c.type_ != "ReplicaFailure").cloned().collect();
    if let Some(Failure::Refused { message, .. }) = &attempt.last
        && missing != 0
    {
        let reason = if missing > 0 { "FailedCreate" } else { "FailedDelete" };
        let known = old.iter().find(|c| c.type_ == "ReplicaFailure" && c.reason.as_deref() == Some(reason));
        conditions.push(known.cloned().unwrap_or_else(|| ReplicationControllerCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.clone()),
            last_transition_time: Some(meta::time(now)),
        }));
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// As a merge patch: what is absent must be said to go.
fn status_patch(status: &ReplicationControllerStatus) -> serde_json::Value {
    let ReplicationControllerStatus {
        available_replicas,
        conditions,
        fully_labeled_replicas,
        observed_generation,
        ready_replicas,
        replicas,
    } = status;
    json!({
        "availableReplicas": available_replicas,
        "conditions": conditions,
        "fullyLabeledReplicas": fully_labeled_replicas,
        "observedGeneration": observed_generation,
        "readyReplicas": ready_replicas,
        "replicas": replicas,
    })
}

#[cfg(test)]
mod tests;
