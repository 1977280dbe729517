//! What the kinds that make pods share: the pod template, its selector, and the Table cells about both.

use serde_json::{Map, Value};

use super::fields::{entries, items, text};
use super::{Column, fields, names, pod};
use crate::status::FieldError;

pub const CONTAINERS_COLUMN: Column = Column::wide("Containers", "Names of each container in the template.");
pub const IMAGES_COLUMN: Column = Column::wide("Images", "Images referenced by each container in the template.");

/// Fills the specification of the pods to come.
pub fn default(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        pod::defaults::pod_spec(spec);
    }
}

/// Gives the object the labels of its pods when it has none of its own.
pub fn default_labels(object: &mut Value) {
    let labels = object.pointer("/spec/template/metadata/labels").cloned().unwrap_or(Value::Null);
    if labels.is_object()
        && !fields::is_set(object, "/metadata/labels")
        && let Some(metadata) = fields::object_mut(object, "metadata")
    {
        metadata["labels"] = labels;
    }
}

/// Everything wrong with `spec.template`.
pub fn validate(template: &Value, errors: &mut Vec<FieldError>) {
    let path = "spec.template";
    pod::validate::labels(template.pointer("/metadata/labels"), &format!("{path}.metadata.labels"), errors);
    for (key, _) in entries(template, "/metadata/annotations") {
        if let Some(wrong) = names::qualified_name(&key.to_lowercase()) {
            let path = format!("{path}.metadata.annotations");
            errors.push(FieldError::invalid(path, &Value::from(key.as_str()), &wrong));
        }
    }
    pod::validate::pod_spec(&template["spec"], &format!("{path}.spec"), errors);
}

/// A number that may not be negative.
pub fn not_negative(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = object["spec"].get(field).and_then(Value::as_i64)
        && number < 0
    {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("spec.{field}"), &number.into(), detail));
    }
}

/// Whether every pair of `wanted` is among `labels`.
#[must_use]
pub fn labels_contain(labels: Option<&Value>, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// `a,b`: names of the template's containers.
#[must_use]
pub fn containers_cell(object: &Value) -> Value {
    joined(object, "/name")
}

/// `debian,busybox`: images of the template's containers.
#[must_use]
pub fn images_cell(object: &Value) -> Value {
    joined(object, "/image")
}

fn joined(object: &Value, pointer: &str) -> Value {
    let containers = items(object, "/spec/template/spec/containers");
    containers.iter().map(|container| text(container, pointer)).collect::<Vec<_>>().join(",").into()
}

/// A LabelSelector as Tables show it: `a=b,c in (x,y),!d`.
#[must_use]
pub fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = entries(selector, "/matchLabels")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    parts.sort();
    for requirement in items(selector, "/matchExpressions") {
        let key = text(requirement, "/key");
        let mut values: Vec<&str> = items(requirement, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match text(requirement, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    fields::or_none(&parts.join(",")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::object;

    #[test]
    fn selectors_read_like_their_grammar() {
        let selector = "{matchLabels: {b: '1', a: '2'}, matchExpressions: [{key: c, operator: In, values: [y, x]},
                         {key: d, operator: DoesNotExist}, {key: e, operator: Exists}]}";
        assert_eq!(selector_text(&object(selector)), "a=2,b=1,c in (x,y),!d,e");
        assert_eq!(selector_text(&Value::Null), "<none>");
    }
}
