//! The `binding` subresource: a scheduler gives a pod its node, once.

use serde_json::{Value, json};

use crate::registry::{Context, fields};
use crate::status::{ApiError, FieldError};

/// The pod as it is after the binding: node, annotations and labels of the binding, condition PodScheduled. `pod` is as stored.
/// The caller writes it only if the stored pod has not changed meanwhile, and decides again when it has.
pub fn bind(pod: &Value, binding: &Value, ctx: &Context) -> Result<Value, ApiError> {
    let name = fields::text(pod, "/metadata/name");
    let node = fields::text(binding, "/target/name");
    let errors = target_errors(binding);
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "Binding", name, &errors));
    }
    let conflict = |why: &str| Err(ApiError::conflict("", "pods/binding", name, why));
    let wanted_uid = fields::text(binding, "/metadata/uid");
    let uid = fields::text(pod, "/metadata/uid");
    if !wanted_uid.is_empty() && wanted_uid != uid {
        return conflict(&format!("Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {uid}"));
    }
    if fields::is_set(pod, "/metadata/deletionTimestamp") {
        return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = fields::text(pod, "/spec/nodeName");
    if !assigned.is_empty() {
        return conflict(&format!("pod {name} is already assigned to node {assigned:?}"));
    }
    if fields::is_set(pod, "/spec/schedulingGates") {
        return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut bound = pod.clone();
    fields::set(&mut bound, "/spec", "nodeName", node);
    for field in ["annotations", "labels"] {
        merge(&mut bound["metadata"], field, &binding["metadata"][field]);
    }
    set_scheduled(&mut bound, &ctx.now);
    Ok(bound)
}

fn target_errors(binding: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = fields::text(binding, "/target/kind");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if fields::text(binding, "/target/name").is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    errors
}

fn merge(metadata: &mut Value, field: &str, from: &Value) {
    let Some(from) = from.as_object().filter(|map| !map.is_empty()) else { return };
    if let Some(Value::Object(into)) = fields::object_mut(metadata, field) {
        into.extend(from.clone());
    }
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now});
    let Some(status) = fields::object_mut(pod, "status") else { return };
    fields::set_default(status, "conditions", Value::Array(Vec::new()));
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(condition);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{context, object, yaml};

    const BINDING: &str = "{metadata: {name: p, annotations: {a: b}}, target: {kind: Node, name: n1}}";

    fn refusal(pod: &str, binding: &str) -> String {
        let error = bind(&object(pod), &object(binding), &context()).unwrap_err();
        format!("{} {}", error.code, error.message)
    }

    #[test]
    fn a_bound_pod_has_its_node_and_is_scheduled() {
        let pod =
            object("{metadata: {name: p}, spec: {}, status: {conditions: [{type: PodScheduled, status: 'False'}]}}");
        expect![[r"
            metadata:
              name: p
              annotations:
                a: b
            spec:
              nodeName: n1
            status:
              conditions:
              - type: PodScheduled
                status: 'True'
                lastTransitionTime: 2026-01-01T00:05:00Z
        "]]
        .assert_eq(&yaml(&bind(&pod, &object(BINDING), &context()).unwrap()));
    }

    #[test]
    fn a_pod_is_bound_once_and_only_while_it_lives() {
        expect![[r#"409 Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n2""#]]
            .assert_eq(&refusal("{metadata: {name: p}, spec: {nodeName: n2}}", BINDING));
        expect![[r#"409 Operation cannot be fulfilled on pods/binding "p": pod p is being deleted, cannot be assigned to a host"#]]
            .assert_eq(&refusal("{metadata: {name: p, deletionTimestamp: x}, spec: {}}", BINDING));
        expect![[r#"422 Binding "p" is invalid: target.name: Required value"#]]
            .assert_eq(&refusal("{metadata: {name: p}, spec: {}}", "{target: {}}"));
    }
}
