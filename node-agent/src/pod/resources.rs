//! Requests and limits as the kernel is told them: QoS class, cgroup values, out-of-memory score.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::quantity;
use crate::runtime::plan::{CgroupLimits, QosClass};

/// Requests and limits of one container in thousandths of a core and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_request_milli: Option<u64>,
    pub cpu_limit_milli: Option<u64>,
    pub memory_request_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
}

impl Amounts {
    pub fn of(resources: Option<&ResourceRequirements>) -> Self {
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let read =
            |map: Option<&std::collections::BTreeMap<_, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
             name: &str| {
                let text = &map?.get(name)?.0;
                let value = if name == "cpu" { quantity::milli(text) } else { quantity::units(text) };
                value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0)
            };
        let (cpu_limit_milli, memory_limit_bytes) = (read(limits, "cpu"), read(limits, "memory"));
        // A limit without a request is its own request.
        Self {
            cpu_request_milli: read(requests, "cpu").or(cpu_limit_milli),
            cpu_limit_milli,
            memory_request_bytes: read(requests, "memory").or(memory_limit_bytes),
            memory_limit_bytes,
        }
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

pub fn qos_class(spec: &PodSpec) -> QosClass {
    let amounts: Vec<Amounts> =
        all_containers(spec).map(|container| Amounts::of(container.resources.as_ref())).collect();
    let is_guaranteed = |amounts: &Amounts| {
        amounts.cpu_limit_milli.is_some()
            && amounts.memory_limit_bytes.is_some()
            && amounts.cpu_limit_milli == amounts.cpu_request_milli
            && amounts.memory_limit_bytes == amounts.memory_request_bytes
    };
    if amounts.iter().all(|amounts| *amounts == Amounts::default()) {
        QosClass::BestEffort
    } else if amounts.iter().all(is_guaranteed) {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

pub fn qos_name(class: QosClass) -> &'static str {
    match class {
        QosClass::Guaranteed => "Guaranteed",
        QosClass::Burstable => "Burstable",
        QosClass::BestEffort => "BestEffort",
    }
}

pub fn container_limits(amounts: &Amounts) -> CgroupLimits {
    CgroupLimits {
        memory_bytes: amounts.memory_limit_bytes,
        cpu_shares: Some(CgroupLimits::shares_from_milli_cpu(amounts.cpu_request_milli.unwrap_or(0))),
        cpu_quota_us: amounts.cpu_limit_milli.map(CgroupLimits::quota_from_milli_cpu),
        pids: None,
    }
}

/// What the pod needs: the containers' sum, or the largest plain init container if that is more. Sidecars count with both.
/// A value is `None` unless every container has it, since one without a limit must not be limited by the others'.
pub fn pod_amounts(spec: &PodSpec) -> Amounts {
    let of = |pick: fn(&Amounts) -> Option<u64>, needs_all: bool| -> Option<u64> {
        let value = |container: &Container| pick(&Amounts::of(container.resources.as_ref()));
        let is_missing = |container: &Container| needs_all && value(container).is_none();
        if all_containers(spec).any(is_missing) {
            return None;
        }
        let mains: u64 = spec.containers.iter().filter_map(value).sum();
        let (mut sidecars, mut largest_init) = (0, 0);
        for init in spec.init_containers.iter().flatten() {
            if init.restart_policy.as_deref() == Some("Always") {
                sidecars += value(init).unwrap_or(0);
                largest_init = largest_init.max(sidecars);
            } else {
                largest_init = largest_init.max(sidecars + value(init).unwrap_or(0));
            }
        }
        Some((mains + sidecars).max(largest_init)).filter(|total| *total > 0)
    };
    Amounts {
        cpu_request_milli: of(|amounts| amounts.cpu_request_milli, false),
        cpu_limit_milli: of(|amounts| amounts.cpu_limit_milli, true),
        memory_request_bytes: of(|amounts| amounts.memory_request_bytes, false),
        memory_limit_bytes: of(|amounts| amounts.memory_limit_bytes, true),
    }
}

/// Who the kernel sacrifices first when the node runs out of memory.
pub fn oom_score_adj(class: QosClass, amounts: &Amounts, node_memory_bytes: u64) -> i32 {
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = amounts.memory_request_bytes.unwrap_or(0);
            let share = request.saturating_mul(1000).checked_div(node_memory_bytes).unwrap_or(0);
            i32::try_from(1000_u64.saturating_sub(share)).unwrap_or(999).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(containers: serde_json::Value, init: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": containers, "initContainers": init})).unwrap()
    }

    #[test]
    fn qos_classes() {
        let of =
            |resources: serde_json::Value| qos_class(&spec(json!([{"name": "c", "resources": resources}]), json!([])));
        assert_eq!(of(json!({})), QosClass::BestEffort);
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), QosClass::Burstable);
        assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), QosClass::Guaranteed);
        assert_eq!(
            of(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})),
            QosClass::Burstable
        );
    }

    #[test]
    fn a_limit_without_request_is_the_request() {
        let amounts =
            Amounts::of(Some(&serde_json::from_value(json!({"limits": {"cpu": "250m", "memory": "64Mi"}})).unwrap()));
        let limits = container_limits(&amounts);
        assert_eq!(
            (limits.cpu_shares, limits.cpu_quota_us, limits.memory_bytes),
            (Some(256), Some(25_000), Some(64 << 20))
        );
        assert_eq!(container_limits(&Amounts::default()).cpu_shares, Some(2));
    }

    #[test]
    fn a_pod_is_limited_only_when_all_its_containers_are() {
        let limited = json!({"name": "a", "resources": {"limits": {"memory": "64Mi", "cpu": "1"}}});
        let large_init = json!({"name": "i", "resources": {"limits": {"memory": "256Mi", "cpu": "1"}}});
        let both = pod_amounts(&spec(json!([limited, limited]), json!([large_init])));
        assert_eq!((both.memory_limit_bytes, both.cpu_limit_milli), (Some(256 << 20), Some(2000)));
        let one = pod_amounts(&spec(json!([limited, {"name": "b"}]), json!([])));
        assert_eq!((one.memory_limit_bytes, one.memory_request_bytes), (None, Some(64 << 20)));
    }

    #[test]
    fn out_of_memory_scores() {
        let half = Amounts { memory_request_bytes: Some(512), ..Amounts::default() };
        assert_eq!(oom_score_adj(QosClass::Burstable, &half, 1024), 500);
        assert_eq!(oom_score_adj(QosClass::Burstable, &Amounts::default(), 1024), 999);
        assert_eq!(oom_score_adj(QosClass::BestEffort, &half, 1024), 1000);
        assert_eq!(oom_score_adj(QosClass::Guaranteed, &half, 1024), -997);
    }
}
