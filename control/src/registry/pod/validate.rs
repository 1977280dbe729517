//! Whether a pod, a pod template or a change of a pod is allowed.

use serde_json::{Value, json};

use super::{containers, placement, security, volumes};
use crate::registry::{fields, names};
use crate::status::FieldError;

/// What a pod update may change, in Kubernetes' words.
const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Everything wrong with a new pod.
#[must_use]
pub fn pod(pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    pod_spec(&pod["spec"], "spec", &mut errors);
    errors
}

/// Everything wrong with a pod's specification at `path` (`spec`, `spec.template.spec`).
pub fn pod_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let volume_names = volumes::volumes(fields::items(spec, "/volumes"), &format!("{path}.volumes"), errors);
    containers::containers(spec, path, &volume_names, errors);
    enumerated(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    enumerated(spec, path, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    labels(spec.get("nodeSelector"), &format!("{path}.nodeSelector"), errors);
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Option<String>),
        ("nodeName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let value = &spec[field];
        if let Some(wrong) = value.as_str().filter(|text| !text.is_empty()).and_then(rule) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), value, &wrong));
        }
    }
    if let Some(seconds) = fields::integer(spec, "/activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), &json!(seconds), detail));
    }
    security::pod(&spec["securityContext"], &format!("{path}.securityContext"), errors);
    if fields::text(spec, "/dnsPolicy") == "None" && fields::items(spec, "/dnsConfig/nameservers").is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(format!("{path}.dnsConfig.nameservers"), detail));
    }
    if fields::is_set(spec, "/ephemeralContainers") {
        errors.push(FieldError::forbidden(format!("{path}.ephemeralContainers"), "cannot be set on create"));
    }
    placement::tolerations(fields::items(spec, "/tolerations"), &format!("{path}.tolerations"), errors);
    placement::affinity(&spec["affinity"], &format!("{path}.affinity"), errors);
}

/// A field that must be one of `supported`.
pub(in crate::registry) fn enumerated(
    object: &Value,
    path: &str,
    field: &str,
    supported: &[&str],
    errors: &mut Vec<FieldError>,
) {
    match object.get(field).and_then(Value::as_str).unwrap_or_default() {
        "" => errors.push(FieldError::required(format!("{path}.{field}"), "")),
        value if supported.contains(&value) => {}
        value => errors.push(FieldError::not_supported(format!("{path}.{field}"), value, supported)),
    }
}

/// Keys and values of a label map.
pub fn labels(labels: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Some(wrong) = names::qualified_name(key) {
            errors.push(FieldError::invalid(path, &json!(key), &wrong));
        }
        if let Some(wrong) = value.as_str().and_then(names::label_value) {
            errors.push(FieldError::invalid(path, value, &wrong));
        }
    }
}

/// Everything wrong with the change of a pod.
#[must_use]
pub fn pod_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if fields::items(new_spec, &format!("/{list}")).len() != fields::items(old_spec, &format!("/{list}")).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), detail));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    deadline_change(new_spec, old_spec, &mut errors);
    toleration_change(new_spec, old_spec, &mut errors);
    gate_change(new_spec, old_spec, &mut errors);
    let diff = difference(&with_allowed_changes(new_spec, old_spec), new_spec, "");
    if !diff.is_empty() {
        errors.push(FieldError::forbidden("spec", &format!("{UPDATE_RULE}\n{diff}")));
    }
    errors
}

/// The old specification with what an update may change taken from the new one.
fn with_allowed_changes(new: &Value, old: &Value) -> Value {
    let mut allowed = old.clone();
    for list in ["containers", "initContainers"] {
        let images = fields::items(new, &format!("/{list}")).iter().map(|container| container.get("image"));
        for (container, image) in fields::items_mut(&mut allowed, list).zip(images) {
            if let Some(image) = image {
                container["image"] = image.clone();
            }
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if fields::integer(old, "/terminationGracePeriodSeconds") < Some(0)
        && fields::integer(new, "/terminationGracePeriodSeconds") == Some(1)
    {
        free.push("terminationGracePeriodSeconds");
    }
    for field in free {
        crate::registry::keep_field(&mut allowed, new, field);
    }
    allowed
}

fn deadline_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let field = "spec.activeDeadlineSeconds";
    match (fields::integer(old, "/activeDeadlineSeconds"), fields::integer(new, "/activeDeadlineSeconds")) {
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(field, &Value::Null, detail));
        }
        (Some(old), Some(new)) if new > old => {
            errors.push(FieldError::invalid(field, &json!(new), "must be less than or equal to previous value"));
        }
        _ => {}
    }
}

fn toleration_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        fields::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let kept: Vec<Value> = fields::items(new, "/tolerations").iter().map(without_time).collect();
    if fields::items(old, "/tolerations").iter().any(|toleration| !kept.contains(&without_time(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

fn gate_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for (index, gate) in fields::items(new, "/schedulingGates").iter().enumerate() {
        if !fields::items(old, "/schedulingGates").contains(gate) {
            let name = fields::text(gate, "/name");
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(format!("spec.schedulingGates[{index}].name"), &detail));
        }
    }
}

/// The members that differ, a line each for what was and what is wanted. Absent and empty are the same, as in Go.
fn difference(old: &Value, new: &Value, path: &str) -> String {
    let blank = |value: &Value| !fields::is_set(value, "");
    match (old, new) {
        _ if old == new || (blank(old) && blank(new)) => String::new(),
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            let at = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            before.keys().chain(added).map(|key| difference(&old[key], &new[key], &at(key))).collect()
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            let pairs = before.iter().zip(after).enumerate();
            pairs.map(|(index, (a, b))| difference(a, b, &format!("{path}[{index}]"))).collect()
        }
        (Value::Null, _) => format!("+ {path}: {new}\n"),
        (_, Value::Null) => format!("- {path}: {old}\n"),
        _ => format!("- {path}: {old}\n+ {path}: {new}\n"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::{invalid, invalid_update};

    #[test]
    fn a_pod_needs_containers() {
        assert_eq!(invalid(&KIND, "{spec: {}}"), "spec.containers: Required value");
    }

    #[test]
    fn the_specification_is_checked() {
        expect![[r#"
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.dnsPolicy: Unsupported value: "Host": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"
            spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.nodeName: Invalid value: "N_1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.hostname: Invalid value: "a.b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
            spec.ephemeralContainers: Forbidden: cannot be set on create"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b}], restartPolicy: Sometimes, dnsPolicy: Host, nodeSelector: {'a b': c},
              nodeName: N_1, hostname: a.b, activeDeadlineSeconds: 0, ephemeralContainers: [{name: e}]}}",
        ));
    }

    #[test]
    fn a_pod_without_dns_policy_names_its_servers() {
        assert_eq!(
            invalid(&KIND, "{spec: {dnsPolicy: None, containers: [{name: a, image: b}]}}"),
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"
        );
    }

    #[test]
    fn an_update_may_change_images_deadline_and_add_tolerations() {
        let old = "{spec: {containers: [{name: a, image: 'b:1'}], activeDeadlineSeconds: 9, tolerations: [{key: k}]}}";
        let new = "{spec: {containers: [{name: a, image: 'b:2', env: []}], activeDeadlineSeconds: 8, tolerations: [{key: k}, {key: l}]}}";
        assert_eq!(invalid_update(&KIND, new, old), "");
    }

    #[test]
    fn other_changes_are_refused_and_shown() {
        let old = "{spec: {containers: [{name: a, image: b:1, args: [x]}], activeDeadlineSeconds: 9, tolerations: [{key: k}]}}";
        let new = "{spec: {containers: [{name: a, image: b:1, args: [y], tty: true}], activeDeadlineSeconds: 10}}";
        expect![[r#"
            spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value
            spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            - containers[0].args[0]: "x"
            + containers[0].args[0]: "y"
            + containers[0].tty: true
        "#]].assert_eq(&invalid_update(&KIND, new, old));
    }

    #[test]
    fn containers_stay() {
        let old = "{spec: {containers: [{name: a, image: b}]}}";
        let new = "{spec: {containers: [{name: a, image: b}, {name: c, image: b}]}}";
        assert_eq!(
            invalid_update(&KIND, new, old),
            "spec.containers: Forbidden: pod updates may not add or remove containers"
        );
    }
}
