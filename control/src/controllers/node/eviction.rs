//! What becomes of the pods of a node that is not alive.
//!
//! Three steps: the pod is marked not ready; it is deleted when its toleration of the node's NoExecute taints ends; and, because the agent of an
//! unreachable node can never confirm that deletion, it is removed some time after. Kubernetes does not do the last by itself and waits
//! for a person, since the container may still run on a node that is only cut off; here an agent that comes back stops whatever the API no
//! longer knows, so the wait is bounded. Pods of a StatefulSet, whose names promise "at most one", are left to a person here as well.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::health::ready_status;
use super::{NOT_READY, OUT_OF_SERVICE, UNREACHABLE};
use crate::controllers::ControllersConfig;
use crate::controllers::action::{Attempt, EventRecord, Key, Plan, Resource};
use crate::controllers::cache::Index;
use crate::controllers::cluster::{Changed, Cluster};
use crate::controllers::controller::Controller;
use crate::controllers::meta::{self, Object};
use crate::controllers::pods;

/// The toleration that admission gives to every pod.
const DEFAULT_TOLERATION_S: i64 = 300;

/// The controller that evicts pods from nodes they do not tolerate.
#[derive(Debug)]
pub struct Evictions {
    defaulted_toleration_s: i64,
    force_remove_after: Option<Duration>,
}

impl Evictions {
    #[must_use]
    pub fn new(config: &ControllersConfig) -> Self {
        Self {
            defaulted_toleration_s: config.unreachable_toleration_s.unwrap_or(DEFAULT_TOLERATION_S),
            force_remove_after: config.force_remove_after,
        }
    }
}

impl Controller for Evictions {
    fn name(&self) -> &'static str {
        "eviction"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        match changed {
            Changed::Pod(change) if change.new.is_some() => keys.push(change.object().key()),
            Changed::Node(change) => {
                let facts = |node: &Option<std::sync::Arc<Node>>| {
                    node.as_ref().map(|n| (ready_status(n).to_owned(), n.spec.as_ref().and_then(|s| s.taints.clone())))
                };
                if facts(&change.old) != facts(&change.new) {
                    let here = cluster.pods.by(&Index::Node(change.object().name().to_owned()));
                    keys.extend(here.map(|p| p.key()));
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, now: Timestamp) -> Plan {
        let Some(pod) = cluster.pods.get(key) else { return Plan::nothing() };
        let node = meta::node_name(pod).and_then(|name| cluster.nodes.get(&Key::cluster(name)));
        let Some(node) = node else { return Plan::nothing() };
        if pod.is_terminating() {
            return self.remove(pod, node, now);
        }
        if meta::is_finished(pod) {
            return Plan::nothing();
        }
        if let Some(plan) = mark_not_ready(pod, node, now) {
            return plan;
        }
        match self.eviction_at(pod, node, now) {
            Some(at) if at <= now => evict(pod, now),
            Some(at) => Plan { wake_at: Some(at), ..Plan::nothing() },
            None => Plan::nothing(),
        }
    }
}

impl Evictions {
    /// When the pod must leave, if ever.
    fn eviction_at(&self, pod: &Pod, node: &Node, now: Timestamp) -> Option<Timestamp> {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        taints
            .iter()
            .filter(|t| t.effect == "NoExecute")
            .filter_map(|taint| {
                let since = taint.time_added.as_ref().map_or(now, |t| t.0);
                let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
                if matching.peek().is_none() {
                    return Some(now);
                }
                let seconds = matching.filter_map(|t| self.toleration_s(t)).min()?;
                Some(since + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
            })
            .min()
    }

    /// How long this toleration lasts, `None` for ever.
    fn toleration_s(&self, toleration: &Toleration) -> Option<i64> {
        let is_default = matches!(toleration.key.as_deref(), Some(NOT_READY | UNREACHABLE))
            && toleration.operator.as_deref() == Some("Exists")
            && toleration.toleration_seconds == Some(DEFAULT_TOLERATION_S);
        if is_default { Some(self.defaulted_toleration_s) } else { toleration.toleration_seconds }
    }

    /// Removes a pod whose deletion nobody will confirm.
    fn remove(&self, pod: &Pod, node: &Node, now: Timestamp) -> Plan {
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let added = |key: &str| {
            let taint = taints.iter().find(|t| t.key == key && (t.effect == "NoExecute" || key == OUT_OF_SERVICE))?;
            Some(taint.time_added.as_ref().map_or(now, |t| t.0))
        };
        let is_dead = ready_status(node) != "True";
        if is_dead && added(OUT_OF_SERVICE).is_some() {
            return Plan::one(pods::force_delete(pod));
        }
        let (Some(wait), Some(since)) = (self.force_remove_after, added(UNREACHABLE)) else { return Plan::nothing() };
        if ready_status(node) != "Unknown" || pod.owners().iter().any(|o| o.kind == "StatefulSet") {
            return Plan::nothing();
        }
        let deleted = pod.metadata.deletion_timestamp.as_ref().map_or(now, |t| t.0);
        let due = deleted.max(since) + wait;
        if due <= now { Plan::one(pods::force_delete(pod)) } else { Plan { wake_at: Some(due), ..Plan::nothing() } }
    }
}

/// Whether this toleration is for this taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |field: &Option<String>| field.as_deref().filter(|f| !f.is_empty()).map(str::to_owned);
    if set(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if set(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => {
            // An empty key only stands for all keys with Exists.
            set(&toleration.key).is_some()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

fn mark_not_ready(pod: &Pod, node: &Node, now: Timestamp) -> Option<Plan> {
    if !matches!(ready_status(node), "False" | "Unknown") || !meta::is_ready(pod) {
        return None;
    }
    let condition = PodCondition {
        type_: "Ready".into(),
        status: "False".into(),
        reason: Some("NodeNotReady".into()),
        message: Some("Node is not ready".into()),
        ..PodCondition::default()
    };
    let patch = json!({"status": {"conditions": meta::with_pod_condition(pod, condition, now)}});
    let mut plan = Plan::one(pods::patch(pod, Some("status"), patch));
    plan.then([told(pod, true, "NodeNotReady", "Node is not ready".into())]);
    Some(plan)
}

fn evict(pod: &Pod, now: Timestamp) -> Plan {
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        ..PodCondition::default()
    };
    let patch = json!({"status": {"conditions": meta::with_pod_condition(pod, condition, now)}});
    let mut plan =
        Plan::one(told(pod, false, "TaintManagerEviction", format!("Marking for deletion Pod {}", pod.key())));
    if meta::pod_condition(pod, "DisruptionTarget").is_none_or(|c| c.status != "True") {
        plan.then([pods::patch(pod, Some("status"), patch).into()]);
    }
    plan.then([pods::delete_action(pod, None).into()]);
    plan
}

fn told(pod: &Pod, warning: bool, reason: &'static str, message: String) -> crate::controllers::action::Step {
    let component = if reason == "TaintManagerEviction" { "taint-eviction-controller" } else { super::COMPONENT };
    EventRecord { about: meta::reference(&Resource::POD, pod), component, warning, reason, message }.into()
}
