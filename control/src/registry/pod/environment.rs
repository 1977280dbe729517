//! Whether a container's environment is well-formed.

use serde_json::{Value, json};

use super::volumes::required;
use crate::registry::{fields, names};
use crate::status::FieldError;

/// Fields of the pod that a variable may take its value from.
const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The items of `env`.
pub(super) fn variables(variables: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in variables.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = fields::text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if let Some(wrong) = names::env_name(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &wrong));
        }
        if variable["valueFrom"].is_object() {
            value_from(variable, &format!("{path}.valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let source = &variable["valueFrom"];
    let mut count = 0;
    for (kind, check) in [
        ("fieldRef", field_ref as fn(&Value, &str, &mut Vec<FieldError>)),
        ("resourceFieldRef", resource_ref),
        ("configMapKeyRef", key_ref),
        ("secretKeyRef", key_ref),
    ] {
        if source[kind].is_object() {
            count += 1;
            check(&source[kind], &format!("{path}.{kind}"), errors);
        }
    }
    let wrong = if count == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
    } else if fields::is_set(variable, "/value") {
        "may not be specified when `value` is not empty"
    } else if count > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, &json!(""), wrong));
}

fn field_ref(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    required(source, "fieldPath", path, errors);
    let field_path = fields::text(source, "/fieldPath");
    let subscripted = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|start| field_path.strip_prefix(start).is_some_and(|rest| rest.ends_with("']")));
    if !field_path.is_empty() && !subscripted && !FIELD_PATHS.contains(&field_path) {
        errors.push(FieldError::not_supported(format!("{path}.fieldPath"), field_path, &FIELD_PATHS));
    }
}

fn resource_ref(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    required(source, "resource", path, errors);
    let resource = fields::text(source, "/resource");
    let known = RESOURCES.contains(&resource) || resource.contains(".hugepages-");
    if !resource.is_empty() && !known {
        errors.push(FieldError::not_supported(format!("{path}.resource"), resource, &RESOURCES));
    }
}

fn key_ref(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    required(source, "name", path, errors);
    let key = fields::text(source, "/key");
    if key.is_empty() {
        errors.push(FieldError::required(format!("{path}.key"), ""));
    } else if let Some(wrong) = names::config_key(key) {
        errors.push(FieldError::invalid(format!("{path}.key"), &json!(key), &wrong));
    }
}

/// The items of `envFrom`.
pub(super) fn sources(sources: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for (index, source) in sources.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let prefix = fields::text(source, "/prefix");
        if let Some(wrong) = Some(prefix).filter(|p| !p.is_empty()).and_then(names::env_name) {
            errors.push(FieldError::invalid(format!("{path}.prefix"), &json!(prefix), &wrong));
        }
        let given: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|kind| source[*kind].is_object()).collect();
        for kind in &given {
            required(&source[*kind], "name", &format!("{path}.{kind}"), errors);
        }
        match given.len() {
            1 => {}
            0 => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(path, &json!(""), detail));
            }
            _ => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(path, &json!(""), detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::invalid;

    #[test]
    fn variables_are_checked() {
        expect![[r#"
            spec.containers[0].env[0].name: Required value
            spec.containers[0].env[1].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '=' (regex used for validation is '[ -<>-~]+')
            spec.containers[0].env[2].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`
            spec.containers[0].env[3].valueFrom: Invalid value: "": may not be specified when `value` is not empty
            spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: "spec.containers": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
            spec.containers[0].env[5].valueFrom.secretKeyRef.key: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            spec.containers[0].envFrom[0]: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
            spec.containers[0].envFrom[1].configMapRef.name: Required value"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b, env: [{name: '', value: x}, {name: A=B}, {name: C, valueFrom: {}},
              {name: D, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
              {name: E, valueFrom: {fieldRef: {fieldPath: spec.containers}}},
              {name: F, valueFrom: {secretKeyRef: {name: s, key: a/b}}},
              {name: G, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}],
              envFrom: [{}, {configMapRef: {}}]}]}}",
        ));
    }
}
