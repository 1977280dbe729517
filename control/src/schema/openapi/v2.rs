//! Turns the v3 schemas and paths into those of the v2 document (Swagger 2.0).
//!
//! The reader that counts is kube-openapi's parser in kubectl, which is stricter than the specification: it takes a `$ref` with a
//! description and extensions beside it but no `allOf`, exactly one type, and a list only with its items. What may be a number or
//! a string is told as a string, as kube-apiserver does: that parser lets a string be any scalar.

use serde_json::{Map, Value, json};

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// Converts in place; `schemas` become the definitions.
pub(super) fn convert(paths: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    for (name, schema) in schemas.iter_mut() {
        convert_schema(schema);
        if name == INT_OR_STRING {
            schema["format"] = "int-or-string".into();
        }
    }
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        convert_parameters(item);
        for operation in item.values_mut().filter_map(Value::as_object_mut) {
            convert_operation(operation);
        }
    }
}

fn convert_schema(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Array(mut all)) = map.shift_remove("allOf") {
        // Wrapped only to stand beside a description.
        let one = all.pop().filter(|_| all.is_empty()).expect("allOf is used for single references");
        map.insert("$ref".into(), one["$ref"].clone());
    }
    if map.shift_remove("x-kubernetes-int-or-string").is_some() {
        map.insert("type".into(), "string".into());
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(convert_schema);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(inner) {
            convert_schema(inner);
        }
    }
}

/// Bodies are parameters here, and the types of bodies stand beside them.
fn convert_operation(operation: &mut Map<String, Value>) {
    operation.insert("produces".into(), json!(["application/json"]));
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let (_, schema) = take_content(response);
        response["schema"] = schema;
    }
    convert_parameters(operation);
    if let Some(mut body) = operation.shift_remove("requestBody") {
        let (types, schema) = take_content(&mut body);
        operation.insert("consumes".into(), json!(types));
        let parameters = operation.entry("parameters").or_insert_with(|| json!([])).as_array_mut();
        let parameters = parameters.expect("parameters are a list");
        parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
    }
}

/// The types that a body may have and its schema.
fn take_content(of: &mut Value) -> (Vec<String>, Value) {
    let content = of.as_object_mut().and_then(|map| map.shift_remove("content"));
    let Some(Value::Object(content)) = content else { panic!("bodies and responses have content") };
    let mut schema = content.values().next().map(|typed| typed["schema"].clone()).expect("content has a type");
    convert_schema(&mut schema);
    (content.into_iter().map(|(media_type, _)| media_type).collect(), schema)
}

/// The schema of a parameter is part of it. An empty list is left out: protobuf cannot tell it from none.
fn convert_parameters(of: &mut Map<String, Value>) {
    let Some(Value::Array(parameters)) = of.get_mut("parameters") else { return };
    for parameter in parameters.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(Value::Object(schema)) = parameter.shift_remove("schema") {
            parameter.extend(schema);
        }
    }
    if parameters.is_empty() {
        of.shift_remove("parameters");
    }
}
