//! Whether the node can take a pod that was bound to it.
//!
//! The scheduler has decided already, from what it knew; two schedulers, or a pod bound by hand, may ask for more than there is.

use k8s_openapi::api::core::v1::Pod;

use super::fields::Allocatable;
use super::resources::{Amounts, pod_amounts};

/// What the pods of a node take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub pods: i64,
}

impl Usage {
    pub fn of(pod: &Pod) -> Self {
        let amounts = pod.spec.as_ref().map_or_else(Amounts::default, pod_amounts);
        let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
        Self {
            cpu_milli: signed(amounts.cpu_request_milli),
            memory_bytes: signed(amounts.memory_request_bytes),
            pods: 1,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli + other.cpu_milli,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            pods: self.pods + other.pods,
        }
    }
}

/// The reason and the message when there is no room.
pub fn refusal(pod: Usage, used: Usage, node: &Allocatable) -> Option<(&'static str, String)> {
    let checks = [
        ("OutOfpods", "pods", pod.pods, used.pods, node.pods),
        ("OutOfcpu", "cpu", pod.cpu_milli, used.cpu_milli, node.cpu_milli),
        ("OutOfmemory", "memory", pod.memory_bytes, used.memory_bytes, node.memory_bytes),
    ];
    let full =
        checks.into_iter().find(|(_, _, requested, used, capacity)| *requested > 0 && requested + used > *capacity);
    full.map(|(reason, resource, requested, used, capacity)| {
        let why = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        (reason, format!("Pod was rejected: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_sums() {
        let node = Allocatable { cpu_milli: 2000, memory_bytes: 100, pods: 2, ..Allocatable::default() };
        let pod = Usage { cpu_milli: 500, memory_bytes: 0, pods: 1 };
        assert_eq!(refusal(pod, Usage { cpu_milli: 1500, memory_bytes: 500, pods: 1 }, &node), None);
        let (reason, message) = refusal(pod, Usage { cpu_milli: 1501, memory_bytes: 0, pods: 1 }, &node).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 1501, capacity: 2000"
        );
        assert_eq!(refusal(pod, Usage { pods: 2, ..Usage::default() }, &node).unwrap().0, "OutOfpods");
    }
}
