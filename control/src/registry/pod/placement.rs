//! Whether a pod's tolerations and node affinity are well-formed.

use serde_json::{Value, json};

use crate::registry::{fields, names};
use crate::status::FieldError;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn tolerations(tolerations: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for (index, item) in tolerations.iter().enumerate() {
        toleration(item, &format!("{path}[{index}]"), errors);
    }
}

fn toleration(toleration: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let text = |key: &str| toleration.get(key).and_then(Value::as_str).unwrap_or_default();
    let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
    if let Some(wrong) = Some(key).filter(|key| !key.is_empty()).and_then(names::qualified_name) {
        errors.push(FieldError::invalid(format!("{path}.key"), &json!(key), &wrong));
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(format!("{path}.operator"), &json!(operator), detail));
    }
    if toleration.get("tolerationSeconds").is_some_and(Value::is_number) && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(format!("{path}.effect"), &json!(effect), detail));
    }
    match operator {
        "" | "Equal" => {
            if let Some(wrong) = names::label_value(value) {
                errors.push(FieldError::invalid(format!("{path}.operator"), &json!(value), &wrong));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(format!("{path}.operator"), &json!(value), detail));
        }
        other => errors.push(FieldError::not_supported(format!("{path}.operator"), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(format!("{path}.effect"), effect, &EFFECTS));
    }
}

pub(super) fn affinity(affinity: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let field = "requiredDuringSchedulingIgnoredDuringExecution";
    let required = &affinity["nodeAffinity"][field];
    if required.is_object() {
        let path = format!("{path}.nodeAffinity.{field}.nodeSelectorTerms");
        let terms = fields::items(required, "/nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(FieldError::required(path.as_str(), "must have at least one node selector term"));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{index}]"), errors);
        }
    }
    let field = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in fields::items(&affinity["nodeAffinity"], &format!("/{field}")).iter().enumerate() {
        let path = format!("{path}.nodeAffinity.{field}[{index}]");
        let weight = fields::integer(term, "/weight").unwrap_or(0);
        if !(1..=100).contains(&weight) {
            errors.push(FieldError::invalid(format!("{path}.weight"), &json!(weight), "must be in the range 1-100"));
        }
        node_term(&term["preference"], &format!("{path}.preference"), errors);
    }
}

fn node_term(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, requirement) in fields::items(term, "/matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let key = fields::text(requirement, "/key");
        if let Some(wrong) = names::qualified_name(key) {
            errors.push(FieldError::invalid(format!("{path}.key"), &json!(key), &wrong));
        }
        node_operator(requirement, &path, errors);
    }
    for (index, requirement) in fields::items(term, "/matchFields").iter().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        let key = fields::text(requirement, "/key");
        if key != "metadata.name" {
            errors.push(FieldError::invalid(format!("{path}.key"), &json!(key), "not a valid field selector key"));
        }
        let operator = fields::text(requirement, "/operator");
        if !matches!(operator, "In" | "NotIn") {
            let detail = "not a valid selector operator";
            errors.push(FieldError::invalid(format!("{path}.operator"), &json!(operator), detail));
        } else if fields::items(requirement, "/values").len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(format!("{path}.values"), detail));
        }
    }
}

fn node_operator(requirement: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let count = fields::items(requirement, "/values").len();
    let values = format!("{path}.values");
    match (fields::text(requirement, "/operator"), count) {
        ("In" | "NotIn", 0) => {
            errors.push(FieldError::required(values, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        ("Exists" | "DoesNotExist", 1..) => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(values, detail));
        }
        ("Gt" | "Lt", 0 | 2..) => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(values, detail));
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        (other, _) => {
            let detail = "not a valid selector operator";
            errors.push(FieldError::invalid(format!("{path}.operator"), &json!(other), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::invalid;

    #[test]
    fn tolerations_are_checked() {
        expect![[r#"
            spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[1].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set
            spec.tolerations[2].operator: Invalid value: "v": value must be empty when `operator` is 'Exists'
            spec.tolerations[3].operator: Unsupported value: "Like": supported values: "Equal", "Exists"
            spec.tolerations[4].effect: Unsupported value: "Run": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.tolerations[5].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b}], tolerations: [{operator: Equal}, {key: k, tolerationSeconds: 3},
              {key: k, operator: Exists, value: v}, {key: k, operator: Like}, {key: k, effect: Run}, {key: 'a b'}]}}",
        ));
    }

    #[test]
    fn node_affinity_is_checked() {
        expect![[r#"
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[3].operator: Invalid value: "Like": not a valid selector operator
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b}], affinity: {nodeAffinity: {
              requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: In},
                {key: k, operator: Exists, values: [a]}, {key: k, operator: Gt}, {key: k, operator: Like}]}]},
              preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {}}]}}}}",
        ));
    }
}
