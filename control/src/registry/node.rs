//! Node: a machine that runs pods, as its agent reports it.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use super::fields::{entries, flag, is_set, items, or_none, text};
use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, STATUS_VERBS, Strategy, Subresource};
use super::{age_cell, fields, name_cell, names, pod, quantity};
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    resource: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    storage_prefix: "minions",
    subresources: &[Subresource { name: "status", kind: "Node", group: "", version: "v1", verbs: STATUS_VERBS }],
    strategy: &Node,
};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

static COLUMNS: [Column; 10] = [
    NAME_COLUMN,
    Column::text("Status", "The status of the node"),
    Column::text("Roles", "The roles of the node"),
    AGE_COLUMN,
    Column::text("Version", "Kubelet Version reported by the node."),
    Column::wide("Internal-IP", "The address of the node inside the cluster."),
    Column::wide("External-IP", "The address of the node outside the cluster."),
    Column::wide("OS-Image", "OS Image reported by the node."),
    Column::wide("Kernel-Version", "Kernel Version reported by the node."),
    Column::wide("Container-Runtime", "Container runtime and its version reported by the node."),
];

#[derive(Debug)]
struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        let Some(status) = object.get_mut("status").filter(|status| status.is_object()) else { return };
        if !is_set(status, "/allocatable")
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status["allocatable"] = capacity;
        }
        for list in ["capacity", "allocatable"] {
            quantity::canonicalise_list(status.get_mut(list));
        }
    }

    /// A node registers itself with its status.
    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        taints(items(object, "/spec/taints"), &mut errors);
        for list in ["capacity", "allocatable"] {
            for (name, value) in entries(object, &format!("/status/{list}")) {
                pod::resources::amount(name, value, &format!("status.{list}[{name}]"), &mut errors);
            }
        }
        let cidr = text(object, "/spec/podCIDR");
        if !cidr.is_empty() && !is_cidr(cidr) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid("spec.podCIDRs[0]", &json!(cidr), detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fixed = [("podCIDR", "spec.podCIDRs"), ("providerID", "spec.providerID")];
        let changed = |field: &str| {
            let pointer = format!("/spec/{field}");
            is_set(old, &pointer) && text(old, &pointer) != text(new, &pointer)
        };
        fixed
            .into_iter()
            .filter(|(field, _)| changed(field))
            .map(|(field, path)| {
                let detail = format!("node updates may not change {field} except from \"\" to valid");
                FieldError::forbidden(path, &detail)
            })
            .collect()
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        let info = |field: &str| match text(object, &format!("/status/nodeInfo/{field}")) {
            "" => Value::from("<unknown>"),
            text => text.into(),
        };
        vec![
            name_cell(object),
            status(object).into(),
            roles(object).into(),
            age_cell(object, now),
            text(object, "/status/nodeInfo/kubeletVersion").into(),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", flag(object, "/spec/unschedulable").to_string())]
    }
}

fn taints(taints: &[Value], errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let (key, value, effect) = (text(taint, "/key"), text(taint, "/value"), text(taint, "/effect"));
        if let Some(wrong) = names::qualified_name(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), &json!(key), &wrong));
        }
        if let Some(wrong) = names::label_value(value) {
            errors.push(FieldError::invalid(format!("{path}.value"), &json!(value), &wrong));
        }
        if effect.is_empty() {
            errors.push(FieldError::required(format!("{path}.effect"), ""));
        } else if !EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported(format!("{path}.effect"), effect, &EFFECTS));
        }
        if !seen.insert((key, effect)) {
            let mut error = FieldError::duplicate(path, taint);
            error.message.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= bits)
}

/// `Ready`, `NotReady` or `Unknown`, with `SchedulingDisabled` when cordoned.
fn status(node: &Value) -> String {
    let ready = items(node, "/status/conditions").iter().find(|condition| condition["type"] == "Ready");
    let state = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if flag(node, "/spec/unschedulable") { ",SchedulingDisabled" } else { "" };
    format!("{state}{cordoned}")
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> =
        entries(node, "/metadata/labels").filter_map(role).filter(|role| !role.is_empty()).collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(",")).to_owned()
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = items(node, "/status/addresses").iter().find(|address| address["type"] == kind);
    or_none(found.map_or("", |address| fields::text(address, "/address")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{created, invalid, invalid_update, row};

    #[test]
    fn allocatable_is_capacity_unless_reported() {
        expect![[r#"
            metadata:
              name: n
            status:
              capacity:
                cpu: '2'
                memory: 2Gi
              allocatable:
                cpu: '2'
                memory: 2Gi
        "#]]
        .assert_eq(&created(&KIND, "{metadata: {name: n}, status: {capacity: {cpu: '2', memory: 2048Mi}}}"));
    }

    #[test]
    fn taints_are_checked() {
        expect![[r#"
            spec.taints[1]: Duplicate value: {"key":"a","effect":"NoSchedule","value":"x"}: taints must be unique by key and effect pair
            spec.taints[2].effect: Required value
            spec.taints[3].key: Invalid value: "": name part must be non-empty
            spec.taints[3].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.podCIDRs[0]: Invalid value: "10.1.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {podCIDR: 10.1.0.0, taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule, value: x},
              {key: b}, {key: '', effect: Never}]}}",
        ));
    }

    #[test]
    fn the_pod_range_of_a_node_stays() {
        let old = "{spec: {podCIDR: 10.1.0.0/24}}";
        assert_eq!(invalid_update(&KIND, old, "{spec: {}}"), "");
        assert_eq!(
            invalid_update(&KIND, "{spec: {podCIDR: 10.1.1.0/24}}", old),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
    }

    #[test]
    fn the_row_shows_readiness_and_roles() {
        expect![
            "n1 | Ready,SchedulingDisabled | edge,worker | 5m | v1.33.0 | 10.0.0.1 | <none> | Debian | 6.1 | <unknown>"
        ]
        .assert_eq(&row(
            &KIND,
            "{metadata: {name: n1, labels: {node-role.kubernetes.io/worker: '', node-role.kubernetes.io/edge: ''},
              creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {unschedulable: true}, status: {
              conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 10.0.0.1}],
              nodeInfo: {kubeletVersion: v1.33.0, osImage: Debian, kernelVersion: '6.1'}}}",
        ));
        assert_eq!(row(&KIND, "{metadata: {name: n}}").split(" | ").nth(1), Some("Unknown"));
        let unknown = "{metadata: {name: n}, status: {conditions: [{type: Ready, status: Unknown}]}}";
        assert_eq!(row(&KIND, unknown).split(" | ").nth(1), Some("NotReady"));
    }
}
