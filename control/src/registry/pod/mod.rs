//! Pod: containers that run together on one node.
//!
//! [`defaults`] fills a pod specification (also those inside templates), [`admission`] adds what Kubernetes' built-in admission
//! adds on create, [`validate`] checks, [`table`] shows, [`binding`] is the scheduler's way to give a pod its node.

use serde_json::{Value, json};

use super::{Column, Context, Kind, STATUS_VERBS, Strategy, Subresource, fields, keep_field};
use crate::status::{ApiError, FieldError};

pub mod admission;
pub mod binding;
pub(in crate::registry) mod containers;
pub mod defaults;
mod environment;
mod placement;
mod probes;
pub mod qos;
pub mod resources;
mod security;
pub mod table;
pub mod validate;
mod volumes;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    resource: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    storage_prefix: "pods",
    subresources: &[
        Subresource { name: "binding", kind: "Binding", group: "", version: "v1", verbs: &["create"] },
        Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1", verbs: &["create"] },
        Subresource { name: "log", kind: "Pod", group: "", version: "v1", verbs: &["get"] },
        Subresource { name: "status", kind: "Pod", group: "", version: "v1", verbs: STATUS_VERBS },
    ],
    strategy: &Pod,
};

#[derive(Debug)]
struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = fields::object_mut(object, "spec") {
            defaults::pod_spec(spec);
            defaults::pod_only(spec);
        }
        if let Some(status) = fields::object_mut(object, "status") {
            fields::set_default_zero(status, "phase", "Pending");
        }
    }

    fn admit(&self, object: &mut Value, ctx: &Context) -> Result<(), ApiError> {
        admission::admit(object, ctx)
    }

    fn prepare_for_create(&self, object: &mut Value, _ctx: &Context) {
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(&object["spec"])});
        if fields::is_set(object, "/spec/schedulingGates") {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        object["status"] = status;
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        keep_field(new, old, "spec");
        if let Some(metadata) = new.get_mut("metadata") {
            for field in ["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                keep_field(metadata, &old["metadata"], field);
            }
        }
        if let Some(status) = fields::object_mut(new, "status") {
            fields::set_default_zero(status, "qosClass", fields::text(old, "/status/qosClass"));
        }
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate::pod(object)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::pod_update(new, old)
    }

    fn grace_period_s(&self, object: &Value, requested: Option<i64>) -> i64 {
        let finished = matches!(fields::text(object, "/status/phase"), "Succeeded" | "Failed");
        if finished || fields::text(object, "/spec/nodeName").is_empty() {
            return 0;
        }
        let period = requested.or_else(|| fields::integer(object, "/spec/terminationGracePeriodSeconds")).unwrap_or(0);
        if period < 0 { 1 } else { period }
    }

    fn columns(&self) -> &'static [Column] {
        &table::COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        table::cells(object, now)
    }

    fn row_conditions(&self, object: &Value) -> Vec<Value> {
        let (reason, message) = match fields::text(object, "/status/phase") {
            "Succeeded" => ("Succeeded", "The pod has completed successfully."),
            "Failed" => ("Failed", "The pod failed."),
            _ => return Vec::new(),
        };
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let text = |pointer| fields::text(object, pointer).to_owned();
        let ips: Vec<&str> = fields::items(object, "/status/podIPs").iter().map(|ip| fields::text(ip, "/ip")).collect();
        vec![
            ("spec.nodeName", text("/spec/nodeName")),
            ("spec.restartPolicy", text("/spec/restartPolicy")),
            ("spec.schedulerName", text("/spec/schedulerName")),
            ("spec.serviceAccountName", text("/spec/serviceAccountName")),
            ("spec.hostNetwork", fields::flag(object, "/spec/hostNetwork").to_string()),
            ("status.phase", text("/status/phase")),
            ("status.podIP", text("/status/podIP")),
            ("status.podIPs", ips.join(",")),
            ("status.nominatedNodeName", text("/status/nominatedNodeName")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{context, object};

    #[test]
    fn the_grace_period_is_the_request_or_the_pods_own() {
        let table = [
            ("{spec: {nodeName: n, terminationGracePeriodSeconds: 30}}", None, 30),
            ("{spec: {nodeName: n, terminationGracePeriodSeconds: 30}}", Some(5), 5),
            ("{spec: {nodeName: n, terminationGracePeriodSeconds: 30}}", Some(0), 0),
            ("{spec: {nodeName: n, terminationGracePeriodSeconds: -3}}", None, 1),
            ("{spec: {terminationGracePeriodSeconds: 30}}", None, 0),
            ("{spec: {nodeName: n, terminationGracePeriodSeconds: 30}, status: {phase: Failed}}", Some(9), 0),
        ];
        for (pod, requested, expected) in table {
            assert_eq!(KIND.strategy.grace_period_s(&object(pod), requested), expected, "{pod} {requested:?}");
        }
    }

    #[test]
    fn a_status_update_keeps_spec_owners_and_quality_of_service() {
        let old = object(
            "{metadata: {name: p, ownerReferences: [{uid: u}]}, spec: {nodeName: n}, status: {qosClass: Burstable}}",
        );
        let mut new = object("{metadata: {name: p, labels: {a: b}}, spec: {}, status: {phase: Running}}");
        KIND.strategy.prepare_for_status_update(&mut new, &old, &context());
        assert_eq!(
            new,
            object(
                "{metadata: {name: p, labels: {a: b}, ownerReferences: [{uid: u}]}, spec: {nodeName: n},
                  status: {phase: Running, qosClass: Burstable}}"
            )
        );
    }
}
