//! How much of a node a pod asks for, and how much a node has.
//!
//! Amounts are whole numbers: millicores for cpu, bytes or pieces for the rest. What a pod asks for is the largest it needs at any time: its
//! containers together, or one init container with the sidecars started before it, plus the overhead of its runtime.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::registry::quantity;

/// Amounts by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, i64>);

/// For scoring only, a container without a request counts as this much, so that many such pods do not pile up.
const ASSUMED_CPU_MILLI: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

impl Resources {
    fn parse(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let amount = |(name, quantity): (&String, &Quantity)| Some((name.clone(), parse(name, quantity)?));
        Self(quantities.into_iter().flatten().filter_map(amount).collect())
    }

    /// The amount of a resource, 0 when it is not named.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if let Some(rest) = self.0.get_mut(name) {
                *rest = rest.saturating_sub(*amount);
            }
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_insert(0);
            *most = (*most).max(*amount);
        }
    }
}

/// `None` for what is no quantity; the API server does not store such.
fn parse(resource: &str, quantity: &Quantity) -> Option<i64> {
    let quantity = quantity::Quantity::parse(&quantity.0).ok()?;
    Some(if resource == "cpu" { quantity.millis() } else { quantity.units() })
}

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub asked: Resources,
    /// As `asked`, with assumptions for containers that ask for nothing: what scores count.
    pub scored: Resources,
}

impl Request {
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self { asked: sum(pod, container_request), scored: sum(pod, scored_request) }
    }
}

fn sum(pod: &Pod, request: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&request(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = request(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut together = own;
            together.add(&sidecars);
            peak.raise_to(&together);
        }
    }
    total.add(&sidecars);
    total.raise_to(&peak);
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total
}

fn container_request(container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    let mut request = Resources::parse(resources.and_then(|r| r.requests.as_ref()));
    // A limit without a request is a request; admission says so too, but not for every client that writes objects.
    for (name, limit) in Resources::parse(resources.and_then(|r| r.limits.as_ref())).0 {
        request.0.entry(name).or_insert(limit);
    }
    request
}

fn scored_request(container: &Container) -> Resources {
    let mut request = container_request(container);
    request.0.entry("cpu".into()).or_insert(ASSUMED_CPU_MILLI);
    request.0.entry("memory".into()).or_insert(ASSUMED_MEMORY);
    request
}

/// What a node has for pods.
#[must_use]
pub fn allocatable(node: &Node) -> Resources {
    let status = node.status.as_ref();
    Resources::parse(status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(spec: Value) -> Vec<(String, i64)> {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        Request::of(&pod).asked.iter().map(|(n, a)| (n.to_owned(), a)).collect()
    }

    fn cpu(amount: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": amount}}})
    }

    #[test]
    fn containers_add_up() {
        assert_eq!(asked(json!({"containers": [cpu("100m"), cpu("1")]})), [("cpu".into(), 1100)]);
    }

    #[test]
    fn the_largest_init_container_counts_when_it_is_more() {
        let spec =
            json!({"containers": [cpu("1")], "initContainers": [cpu("3"), cpu("2")], "overhead": {"cpu": "250m"}});
        assert_eq!(asked(spec), [("cpu".into(), 3250)]);
    }

    #[test]
    fn a_sidecar_runs_beside_later_init_containers_and_beside_all_containers() {
        let mut sidecar = cpu("1");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [cpu("1")], "initContainers": [sidecar, cpu("3")]});
        assert_eq!(asked(spec), [("cpu".into(), 4000)]);
    }

    #[test]
    fn a_limit_stands_for_a_missing_request_and_nothing_asked_is_scored_as_a_little() {
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1Mi"}}}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let request = Request::of(&pod);
        assert_eq!(request.asked.get("memory"), 1 << 20);
        assert_eq!(request.asked.get("cpu"), 0);
        assert_eq!(request.scored.get("cpu"), ASSUMED_CPU_MILLI);
    }
}
