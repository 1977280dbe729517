//! Whether a node is alive, as conditions and taints.
//!
//! Silence is measured on our own clock, from when a heartbeat was last seen to move: the agent's clock may be wrong. A new leader
//! therefore gives every node one whole grace period.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{COMPONENT, NOT_READY, UNREACHABLE};
use crate::controllers::ControllersConfig;
use crate::controllers::action::{Action, Attempt, EventRecord, Key, Plan, Resource, Step};
use crate::controllers::cluster::{Changed, Cluster};
use crate::controllers::controller::Controller;
use crate::controllers::meta::{self, Object, node_condition};

/// The controller that marks nodes.
#[derive(Debug)]
pub struct NodeHealth {
    grace: Duration,
}

impl NodeHealth {
    #[must_use]
    pub fn new(config: &ControllersConfig) -> Self {
        Self { grace: config.node_grace }
    }
}

impl Controller for NodeHealth {
    fn name(&self) -> &'static str {
        "node-health"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        // Renewed leases need no look: the deadline that wakes us finds out about them.
        if let Changed::Node(change) = changed {
            keys.push(change.object().key());
            let readiness = |node: &Option<std::sync::Arc<Node>>| node.as_ref().map(|n| ready_status(n).to_owned());
            // Whether pods are evicted from one node depends on whether others are alive.
            if readiness(&change.old) != readiness(&change.new) {
                keys.extend(cluster.nodes.iter().map(|n| n.key()));
            }
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, now: Timestamp) -> Plan {
        let (Some(node), Some(heartbeat)) = (cluster.nodes.get(key), cluster.heartbeat(&key.name)) else {
            return Plan::nothing();
        };
        let deadline = heartbeat.seen_at + self.grace;
        let mut plan = Plan::nothing();
        if deadline > now {
            plan.wake(deadline);
        } else if ready_status(node) != "Unknown" {
            plan.then(mark_unknown(node, now));
            // The taints follow from the condition, when it is written.
            return plan;
        }
        let taints = wanted_taints(cluster, node, now);
        if node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default() != taints.as_slice() {
            let patch =
                meta::guarded(node.as_ref(), json!({"spec": {"taints": (!taints.is_empty()).then_some(taints)}}));
            plan.then([Action::Patch {
                target: meta::target(&Resource::NODE, node.as_ref()),
                subresource: None,
                patch,
            }
            .into()]);
        }
        plan
    }
}

/// `True`, `False`, `Unknown`, or nothing when the agent has not said.
pub(super) fn ready_status(node: &Node) -> &str {
    node_condition(node, "Ready").map_or("", |c| c.status.as_str())
}

fn mark_unknown(node: &Node, now: Timestamp) -> Vec<Step> {
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        let known = conditions.iter().position(|c| c.type_ == kind);
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let unknown = NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: known.and_then(|at| conditions[at].last_heartbeat_time.clone()),
            last_transition_time: Some(meta::time(now)),
        };
        match known {
            Some(at) if conditions[at].status == "Unknown" => {}
            Some(at) => conditions[at] = unknown,
            None => conditions.push(unknown),
        }
    }
    let patch = meta::guarded(node, json!({"status": {"conditions": conditions}}));
    let about = meta::reference(&Resource::NODE, node);
    let message = format!("Node {} status is now: NodeNotReady", node.name());
    vec![
        Action::Patch { target: meta::target(&Resource::NODE, node), subresource: Some("status"), patch }.into(),
        EventRecord { about, component: COMPONENT, warning: false, reason: "NodeNotReady", message }.into(),
    ]
}

/// The node's taints: those of others as they are, ours as its conditions say.
fn wanted_taints(cluster: &Cluster, node: &Node, now: Timestamp) -> Vec<Taint> {
    let old = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let condition = |kind: &str| node_condition(node, kind).map_or("", |c| c.status.as_str());
    let ready = ready_status(node);
    // When no node at all is alive, it is more likely us who are cut off; and there is nowhere to go.
    let evicts = cluster.nodes.iter().any(|n| ready_status(n) == "True");
    let ours = [
        (NOT_READY, "NoSchedule", ready == "False"),
        (NOT_READY, "NoExecute", ready == "False" && evicts),
        (UNREACHABLE, "NoSchedule", ready == "Unknown"),
        (UNREACHABLE, "NoExecute", ready == "Unknown" && evicts),
        (
            "node.kubernetes.io/unschedulable",
            "NoSchedule",
            node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true),
        ),
        ("node.kubernetes.io/memory-pressure", "NoSchedule", condition("MemoryPressure") == "True"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule", condition("DiskPressure") == "True"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule", condition("PIDPressure") == "True"),
        ("node.kubernetes.io/network-unavailable", "NoSchedule", condition("NetworkUnavailable") == "True"),
    ];
    let rule = |taint: &Taint| ours.iter().find(|(key, effect, _)| *key == taint.key && *effect == taint.effect);
    let mut taints: Vec<Taint> = old.iter().filter(|t| rule(t).is_none_or(|(_, _, holds)| *holds)).cloned().collect();
    for (key, effect, _) in ours.iter().filter(|(_, _, holds)| *holds) {
        if !taints.iter().any(|t| t.key == *key && t.effect == *effect) {
            let time_added = Some(meta::time(now));
            taints.push(Taint { key: (*key).into(), effect: (*effect).into(), value: None, time_added });
        }
    }
    taints
}
