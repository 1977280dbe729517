//! Which nodes a pod wants, by their labels and names: nodeSelector and node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PreferredSchedulingTerm};

use crate::controllers::meta::Object;

/// Whether the node is one of those the pod insists on.
#[must_use]
pub fn accepts(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = node.metadata.labels.as_ref();
    let has = |(key, value): (&String, &String)| labels.and_then(|l| l.get(key)) == Some(value);
    if !spec.node_selector.iter().flatten().all(has) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    match affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) {
        // Terms are alternatives: none of them is no alternative.
        Some(required) => required.node_selector_terms.iter().any(|term| matches(term, node)),
        None => true,
    }
}

/// The weight of the preferences that the node fulfils.
#[must_use]
pub fn preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let fulfilled = |p: &&PreferredSchedulingTerm| is_empty(&p.preference) || matches(&p.preference, node);
    preferred.unwrap_or_default().iter().filter(fulfilled).map(|p| i64::from(p.weight)).sum()
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.iter().flatten().next().is_none() && term.match_fields.iter().flatten().next().is_none()
}

/// An empty required term matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let name = BTreeMap::from([("metadata.name".to_owned(), node.name().to_owned())]);
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    !is_empty(term)
        && term.match_expressions.iter().flatten().all(|r| fulfils(r, labels))
        && term.match_fields.iter().flatten().all(|r| fulfils(r, &name))
}

fn fulfils(requirement: &NodeSelectorRequirement, values: &BTreeMap<String, String>) -> bool {
    let value = values.get(&requirement.key);
    let wanted = requirement.values.as_deref().unwrap_or_default();
    let compare = |than: fn(i64, i64) -> bool| match (
        value.and_then(|v| v.parse().ok()),
        wanted.first().and_then(|w| w.parse().ok()),
    ) {
        (Some(value), Some(wanted)) => than(value, wanted),
        (_, None) | (None, _) => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| wanted.contains(v)),
        "NotIn" => value.is_none_or(|v| !wanted.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|value, wanted| value > wanted),
        "Lt" => compare(|value, wanted| value < wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn accepted(requirement: Value) -> bool {
        let term = if requirement["key"] == "metadata.name" {
            json!({"matchFields": [requirement]})
        } else {
            json!({"matchExpressions": [requirement]})
        };
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}, term]}});
        let pod = json!({"spec": {"containers": [], "affinity": {"nodeAffinity": required}}});
        let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}});
        accepts(&serde_json::from_value(pod).unwrap(), &serde_json::from_value(node).unwrap())
    }

    #[test]
    fn every_operator_does_what_it_says() {
        let table = [
            (json!({"key": "zone", "operator": "In", "values": ["a", "b"]}), true),
            (json!({"key": "zone", "operator": "In", "values": ["b"]}), false),
            (json!({"key": "zone", "operator": "NotIn", "values": ["b"]}), true),
            (json!({"key": "zone", "operator": "NotIn", "values": ["a"]}), false),
            (json!({"key": "absent", "operator": "NotIn", "values": ["a"]}), true),
            (json!({"key": "zone", "operator": "Exists"}), true),
            (json!({"key": "absent", "operator": "Exists"}), false),
            (json!({"key": "absent", "operator": "DoesNotExist"}), true),
            (json!({"key": "zone", "operator": "DoesNotExist"}), false),
            (json!({"key": "cores", "operator": "Gt", "values": ["4"]}), true),
            (json!({"key": "cores", "operator": "Gt", "values": ["8"]}), false),
            (json!({"key": "cores", "operator": "Lt", "values": ["16"]}), true),
            (json!({"key": "zone", "operator": "Lt", "values": ["16"]}), false),
            (json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}), true),
            (json!({"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}), false),
        ];
        for (requirement, expected) in table {
            assert_eq!(accepted(requirement.clone()), expected, "{requirement}");
        }
    }

    #[test]
    fn a_node_selector_needs_all_its_labels() {
        let pod = |selector: Value| {
            serde_json::from_value(json!({"spec": {"containers": [], "nodeSelector": selector}})).unwrap()
        };
        let node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"a": "1", "b": "2"}}})).unwrap();
        assert!(accepts(&pod(json!({"a": "1"})), &node));
        assert!(!accepts(&pod(json!({"a": "1", "b": "1"})), &node));
    }
}
