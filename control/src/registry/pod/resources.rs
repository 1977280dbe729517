//! Whether requests and limits are well-formed quantities, and requests within limits.

use serde_json::{Value, json};

use crate::registry::quantity::Quantity;
use crate::registry::{fields, names};
use crate::status::FieldError;

/// A container's `resources`.
pub(super) fn requirements(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for list in ["limits", "requests"] {
        for (name, value) in fields::entries(resources, &format!("/{list}")) {
            amount(name, value, &format!("{path}.{list}[{name}]"), errors);
        }
    }
    for (name, value) in fields::entries(resources, "/requests") {
        let limit = resources.pointer("/limits").and_then(|limits| limits.get(name));
        let (Ok(request), Some(Ok(limit))) = (Quantity::from_json(value), limit.map(Quantity::from_json)) else {
            continue;
        };
        if request.nanos > limit.nanos {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(format!("{path}.requests"), &json!(request.to_string()), &detail));
        }
    }
}

/// One amount of a resource, also of a Node's capacity.
pub fn amount(name: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(wrong) = names::qualified_name(name) {
        errors.push(FieldError::invalid(path, &json!(name), &wrong));
    }
    match Quantity::from_json(value) {
        Err(wrong) => errors.push(FieldError::invalid(path, value, &wrong.to_string())),
        Ok(quantity) if quantity.nanos < 0 => {
            errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
        }
        Ok(quantity) => {
            let whole_only = name == "pods" || name.starts_with("hugepages-") || name.contains('/');
            if whole_only && quantity.nanos % 1_000_000_000 != 0 {
                errors.push(FieldError::invalid(path, value, "must be an integer"));
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
    fn resources_are_checked() {
        expect![[r#"
            spec.containers[0].resources.limits[memory]: Invalid value: "-1Gi": must be greater than or equal to 0
            spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "500m": must be an integer
            spec.containers[0].resources.requests[memory]: Invalid value: "lots": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "500m": must be an integer
            spec.containers[0].resources.requests: Invalid value: "1500m": must be less than or equal to cpu limit of 1"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b, resources: {limits: {cpu: 1, memory: -1Gi, example.com/gpu: 0.5},
              requests: {cpu: 1500m, memory: lots}}}]}}",
        ));
    }
}
