//! Pod garbage: pods of nodes that no longer exist, pods that were deleted before they had a node, and too many finished ones.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::action::{Action, Attempt, Key, Plan, Resource, Step, Target};
use super::cache::Index;
use super::cluster::{Changed, Cluster};
use super::controller::Controller;
use super::limits;
use super::meta::{self, Object};
use super::pods;

/// The controller that removes pods nobody else will.
#[derive(Debug)]
pub struct PodGarbage {
    terminated_max: usize,
}

impl Default for PodGarbage {
    fn default() -> Self {
        Self { terminated_max: limits::TERMINATED_PODS_MAX }
    }
}

/// Stands for all finished pods; no pod has an empty namespace.
const FINISHED: &str = "finished";

impl Controller for PodGarbage {
    fn name(&self) -> &'static str {
        "pod-garbage"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        match changed {
            Changed::Pod(change) => {
                keys.extend(change.new.as_ref().map(|pod| pod.key()));
                let finishes = change.new.as_ref().is_some_and(|p| meta::is_finished(p));
                if finishes && cluster.pods.len() > self.terminated_max {
                    keys.push(Key::cluster(FINISHED));
                }
            }
            Changed::Node(change) if change.new.is_none() => {
                let here = cluster.pods.by(&Index::Node(change.object().name().to_owned()));
                keys.extend(here.map(|p| p.key()));
            }
            _ => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, now: Timestamp) -> Plan {
        if key.namespace.is_empty() {
            return self.thin_out(cluster);
        }
        let Some(pod) = cluster.pods.get(key) else { return Plan::nothing() };
        match meta::node_name(pod) {
            None if pod.is_terminating() && pod.metadata.finalizers.iter().flatten().next().is_none() => {
                Plan::one(pods::force_delete(pod))
            }
            None => Plan::nothing(),
            Some(node) if cluster.nodes.get(&Key::cluster(node)).is_some() => Plan::nothing(),
            Some(node) => orphaned(pod, node, now),
        }
    }
}

impl PodGarbage {
    fn thin_out(&self, cluster: &Cluster) -> Plan {
        let mut finished: Vec<&Arc<Pod>> =
            cluster.pods.iter().filter(|p| meta::is_finished(p) && !p.is_terminating()).collect();
        let surplus = finished.len().saturating_sub(self.terminated_max);
        finished.sort_by_key(|p| (p.created_at(), p.key()));
        let mut plan = Plan::nothing();
        plan.then(finished.into_iter().take(surplus).map(|pod| pods::force_delete(pod).into()));
        plan
    }
}

/// Its node does not exist. It gets some time to come back, since a node may be deleted and registered again.
fn orphaned(pod: &Pod, node: &str, now: Timestamp) -> Plan {
    let seen = meta::pod_condition(pod, "DisruptionTarget").filter(|c| c.reason.as_deref() == Some("DeletionByPodGC"));
    let mut plan =
        Plan::one(Action::RequireAbsent { target: Target::new(Resource::NODE, "", node), uid: String::new() });
    let Some(seen) = seen else {
        // The mark starts the wait, so that it is the same for whoever leads.
        let condition = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByPodGC".into()),
            message: Some("PodGC: node no longer exists".into()),
            ..PodCondition::default()
        };
        let patch = json!({"status": {"conditions": meta::with_pod_condition(pod, condition, now)}});
        plan.then([pods::patch(pod, Some("status"), patch).into()]);
        return plan;
    };
    let due = seen.last_transition_time.as_ref().map_or(now, |t| t.0) + limits::ORPHANED_POD_GRACE;
    if due > now {
        return Plan { wake_at: Some(due), ..Plan::nothing() };
    }
    if !meta::is_finished(pod) {
        // Whoever counts this pod must see that it has ended.
        plan.then([Step::from(pods::patch(pod, Some("status"), json!({"status": {"phase": "Failed"}})))]);
    }
    plan.then([pods::force_delete(pod).into()]);
    plan
}

#[cfg(test)]
mod tests;
