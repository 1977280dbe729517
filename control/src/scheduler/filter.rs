//! Which nodes a pod can run on, and if not, why not: in Kubernetes' order, and in its words, because people search for them.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use super::affinity;
use super::resources::Request;
use super::view::{HostPort, NodeView, host_ports};
use crate::controllers::meta::Object;
use crate::controllers::node::tolerates;

/// What of a pod the filters look at, computed once for all nodes.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub pod: &'a Pod,
    pub request: Request,
    pub tolerations: &'a [Toleration],
    ports: Vec<HostPort>,
}

impl<'a> Wanted<'a> {
    #[must_use]
    pub fn of(pod: &'a Pod) -> Self {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        Self { pod, request: Request::of(pod), tolerations, ports: host_ports(pod) }
    }
}

/// Why the node will not do, by the first filter that says no; empty when it will.
#[must_use]
pub fn reasons(wanted: &Wanted<'_>, node: &Node, view: &NodeView) -> Vec<String> {
    if let Some(reason) = refusal(wanted, node, view) {
        return vec![reason];
    }
    shortages(wanted, view)
}

fn refusal(wanted: &Wanted<'_>, node: &Node, view: &NodeView) -> Option<String> {
    let spec = wanted.pod.spec.as_ref()?;
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) && !tolerates_unschedulable(wanted) {
        return Some("node(s) were unschedulable".into());
    }
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name()) {
        return Some("node(s) didn't match the requested node name".into());
    }
    if let Some(Taint { key, value, .. }) = untolerated(wanted, node, &["NoSchedule", "NoExecute"]).next() {
        return Some(format!("node(s) had untolerated taint {{{key}: {}}}", value.as_deref().unwrap_or_default()));
    }
    if !affinity::accepts(wanted.pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    if wanted.ports.iter().any(|port| view.ports().any(|taken| taken.conflicts(port))) {
        return Some("node(s) didn't have free ports for the requested pod ports".into());
    }
    None
}

fn tolerates_unschedulable(wanted: &Wanted<'_>) -> bool {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    wanted.tolerations.iter().any(|t| tolerates(t, &taint))
}

/// Taints of these effects that the pod does not tolerate.
pub fn untolerated<'a>(wanted: &'a Wanted<'_>, node: &'a Node, effects: &'a [&str]) -> impl Iterator<Item = &'a Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .filter(|taint| !wanted.tolerations.iter().any(|t| tolerates(t, taint)))
}

/// All that the node has too little of.
fn shortages(wanted: &Wanted<'_>, view: &NodeView) -> Vec<String> {
    let mut reasons = Vec::new();
    let pods = i64::try_from(view.pod_count()).unwrap_or(i64::MAX);
    if pods + 1 > view.allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in wanted.request.asked.iter().filter(|(_, amount)| *amount > 0) {
        if amount > view.allocatable.get(name) - view.taken.get(name) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}
