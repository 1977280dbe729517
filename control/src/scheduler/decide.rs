//! Where a pod goes: the whole decision, as a function of the view.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::filter::{self, Wanted};
use super::score;
use super::view::{ClusterView, NodeView};
use crate::controllers::meta::Object;

/// What to do with a pending pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Bind {
        node: String,
    },
    /// As told in the event and the condition of the pod.
    Unschedulable {
        message: String,
    },
}

/// Decides on the pod. `tie` chooses among that many equally good nodes (a random number from outside), so that two schedulers and
/// identical nodes do not always meet on the first.
#[must_use]
pub fn schedule(view: &ClusterView, pod: &Pod, tie: &mut dyn FnMut(usize) -> usize) -> Decision {
    let wanted = Wanted::of(pod);
    let mut candidates: Vec<(&Node, &NodeView)> = Vec::new();
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let mut total = 0;
    for (node, node_view) in view.nodes() {
        total += 1;
        let reasons = filter::reasons(&wanted, node, node_view);
        if reasons.is_empty() {
            candidates.push((node, node_view));
        }
        for reason in reasons {
            *refusals.entry(reason).or_insert(0) += 1;
        }
    }
    if candidates.is_empty() {
        return Decision::Unschedulable { message: message(total, &refusals) };
    }
    let scores = score::scores(&wanted, &candidates);
    let best = scores.iter().copied().max().unwrap_or(0);
    let winners: Vec<&str> =
        candidates.iter().zip(&scores).filter(|(_, score)| **score == best).map(|((node, _), _)| node.name()).collect();
    let chosen = tie(winners.len()) % winners.len();
    Decision::Bind { node: winners[chosen].to_owned() }
}

/// `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.`
fn message(nodes: usize, refusals: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut reasons: Vec<String> = refusals.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

#[cfg(test)]
mod tests;
