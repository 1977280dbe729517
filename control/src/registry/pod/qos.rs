//! The quality-of-service class of a pod, from the CPU and memory of its containers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::registry::fields;
use crate::registry::quantity::Quantity;

/// `Guaranteed` when every container limits CPU and memory and requests as much as its limits, `BestEffort` when none asks for
/// anything, else `Burstable`.
#[must_use]
pub fn class(spec: &Value) -> &'static str {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let mut all_limited = true;
    for container in fields::items(spec, "/containers").iter().chain(fields::items(spec, "/initContainers")) {
        add(&mut requests, container, "/resources/requests");
        all_limited &= add(&mut limits, container, "/resources/limits") == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds the positive amounts of CPU and memory of a container; returns how many there were.
fn add(sums: &mut BTreeMap<&'static str, i128>, container: &Value, pointer: &str) -> usize {
    let mut count = 0;
    for name in ["cpu", "memory"] {
        let amount = container.pointer(pointer).and_then(|list| list.get(name)).map(Quantity::from_json);
        if let Some(Ok(quantity)) = amount
            && quantity.nanos > 0
        {
            *sums.entry(name).or_default() += quantity.nanos;
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::object;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let table = [
            ("{containers: [{name: a}]}", "BestEffort"),
            ("{containers: [{resources: {requests: {cpu: 0}}}]}", "BestEffort"),
            ("{containers: [{resources: {requests: {cpu: 1}}}]}", "Burstable"),
            (
                "{containers: [{resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1000m, memory: 1Gi}}}]}",
                "Guaranteed",
            ),
            (
                "{containers: [{resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1, memory: 1Gi}}}, {}]}",
                "Burstable",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(class(&object(spec)), expected, "{spec}");
        }
    }
}
