//! Whether probes and lifecycle hooks are well-formed.

use serde_json::{Value, json};

use super::containers::port_error;
use super::validate::enumerated;
use super::volumes::required;
use crate::registry::{fields, names};
use crate::status::FieldError;

/// A probe, absent or present.
pub(super) fn probe(probe: &Value, kind: &str, path: &str, errors: &mut Vec<FieldError>) {
    if !probe.is_object() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(number) = probe.get(field).and_then(Value::as_i64)
            && number < 0
        {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(format!("{path}.{field}"), &json!(number), detail));
        }
    }
    if kind != "readinessProbe"
        && let Some(number) = fields::integer(probe, "/successThreshold")
        && number != 1
    {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), &json!(number), "must be 1"));
    }
}

/// A lifecycle hook, absent or present.
pub(super) fn hook(hook: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if hook.is_object() {
        handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], path, errors);
    }
}

/// Exactly one of the kinds of handler, well-formed.
fn handler(object: &Value, kinds: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let given = kinds.iter().filter(|kind| object.get(**kind).is_some_and(Value::is_object));
    let mut count = 0;
    for kind in given {
        let (action, path) = (&object[*kind], format!("{path}.{kind}"));
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" if fields::items(action, "/command").is_empty() => {
                errors.push(FieldError::required(format!("{path}.command"), ""));
            }
            "httpGet" => {
                required(action, "path", &path, errors);
                enumerated(action, &path, "scheme", &["HTTP", "HTTPS"], errors);
                port(action, &path, errors);
            }
            "tcpSocket" | "grpc" => port(action, &path, errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

/// A number or the name of a container's port.
fn port(action: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.port");
    match &action["port"] {
        Value::String(name) => {
            if let Some(wrong) = names::port_name(name) {
                errors.push(FieldError::invalid(path, &json!(name), &wrong));
            }
        }
        number => errors.extend(port_error(&path, number.as_i64().unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::invalid;

    #[test]
    fn probes_have_one_handler() {
        expect![[r#"
            spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
            spec.containers[0].readinessProbe: Required value: must specify a handler type
            spec.containers[0].startupProbe.exec.command: Required value
            spec.containers[0].startupProbe.tcpSocket: Forbidden: may not specify more than 1 handler type
            spec.containers[0].startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
            spec.containers[0].lifecycle.preStop: Required value: must specify a handler type"#]]
        .assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b, livenessProbe: {successThreshold: 2, httpGet: {port: 0}},
              readinessProbe: {}, startupProbe: {exec: {}, tcpSocket: {port: web}, periodSeconds: -1},
              lifecycle: {preStop: {}}}]}}",
        ));
    }
}
