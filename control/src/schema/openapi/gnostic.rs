//! Encodes the v2 document as gnostic's `openapi.v2.Document`, the protobuf form that kubectl asks for.
//!
//! One function per message, written straight from the JSON tree: a second tree of message structs would double the memory of
//! building. Only what our documents contain is known here; another keyword is a bug and stops the process in the unit tests.
//! Field numbers: `openapiv2/OpenAPIv2.proto` of github.com/google/gnostic-models.

use serde_json::{Map, Value};

/// Writes the fields of one message.
type Fields = fn(&mut Vec<u8>, &Value);

/// The message of a v2 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in object(document) {
        match key.as_str() {
            "swagger" => text(&mut out, 1, value),
            "info" => message(&mut out, 2, |out| info(out, value)),
            "paths" => message(&mut out, 8, |out| named(out, 2, value, path_item)),
            "definitions" => message(&mut out, 9, |out| named(out, 1, value, schema)),
            _ => extension(&mut out, 16, key, value),
        }
    }
    out
}

fn info(out: &mut Vec<u8>, value: &Value) {
    for (key, value) in object(value) {
        match key.as_str() {
            "title" => text(out, 1, value),
            "version" => text(out, 2, value),
            _ => extension(out, 7, key, value),
        }
    }
}

fn path_item(out: &mut Vec<u8>, value: &Value) {
    for (key, value) in object(value) {
        match key.as_str() {
            "get" => message(out, 2, |out| operation(out, value)),
            "put" => message(out, 3, |out| operation(out, value)),
            "post" => message(out, 4, |out| operation(out, value)),
            "delete" => message(out, 5, |out| operation(out, value)),
            "patch" => message(out, 8, |out| operation(out, value)),
            "parameters" => parameters(out, 9, value),
            _ => extension(out, 10, key, value),
        }
    }
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    for (key, value) in object(value) {
        match key.as_str() {
            "produces" => texts(out, 6, value),
            "consumes" => texts(out, 7, value),
            "parameters" => parameters(out, 8, value),
            "responses" => message(out, 9, |out| {
                named(out, 1, value, |out, value| message(out, 1, |out| response(out, value)));
            }),
            _ => extension(out, 13, key, value),
        }
    }
}

fn response(out: &mut Vec<u8>, value: &Value) {
    for (key, value) in object(value) {
        match key.as_str() {
            "description" => text(out, 1, value),
            "schema" => message(out, 2, |out| message(out, 1, |out| schema(out, value))),
            _ => extension(out, 5, key, value),
        }
    }
}

/// `ParametersItem`, in it `Parameter`, in it a message for each place a parameter is in.
fn parameters(out: &mut Vec<u8>, tag: u32, value: &Value) {
    for parameter in array(value) {
        message(out, tag, |out| {
            message(out, 1, |out| match parameter["in"].as_str() {
                Some("body") => message(out, 1, |out| body_parameter(out, parameter)),
                Some("query") => message(out, 2, |out| message(out, 3, |out| plain_parameter(out, parameter, &QUERY))),
                Some("path") => message(out, 2, |out| message(out, 4, |out| plain_parameter(out, parameter, &PATH))),
                other => panic!("parameters are in body, query or path, not {other:?}"),
            });
        });
    }
}

fn body_parameter(out: &mut Vec<u8>, value: &Value) {
    for (key, value) in object(value) {
        match key.as_str() {
            "description" => text(out, 1, value),
            "name" => text(out, 2, value),
            "in" => text(out, 3, value),
            "required" => flag(out, 4, value),
            "schema" => message(out, 5, |out| schema(out, value)),
            _ => extension(out, 6, key, value),
        }
    }
}

/// The numbers of the fields in which the messages of query and path parameters differ.
struct Numbers {
    kind: u32,
    unique_items: u32,
    extension: u32,
}

const QUERY: Numbers = Numbers { kind: 6, unique_items: 20, extension: 23 };
const PATH: Numbers = Numbers { kind: 5, unique_items: 19, extension: 22 };

fn plain_parameter(out: &mut Vec<u8>, value: &Value, numbers: &Numbers) {
    for (key, value) in object(value) {
        match key.as_str() {
            "required" => flag(out, 1, value),
            "in" => text(out, 2, value),
            "description" => text(out, 3, value),
            "name" => text(out, 4, value),
            "type" => text(out, numbers.kind, value),
            "uniqueItems" => flag(out, numbers.unique_items, value),
            _ => extension(out, numbers.extension, key, value),
        }
    }
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    for (key, value) in object(value) {
        match key.as_str() {
            "$ref" => text(out, 1, value),
            "format" => text(out, 2, value),
            "description" => text(out, 4, value),
            "required" => texts(out, 19, value),
            "additionalProperties" => message(out, 21, |out| match value {
                Value::Bool(_) => flag(out, 2, value),
                _ => message(out, 1, |out| schema(out, value)),
            }),
            "type" => message(out, 22, |out| text(out, 1, value)),
            "items" => message(out, 23, |out| message(out, 1, |out| schema(out, value))),
            "properties" => message(out, 25, |out| named(out, 1, value, schema)),
            _ => extension(out, 31, key, value),
        }
    }
}

/// A map: repeated messages of a name and a value.
fn named(out: &mut Vec<u8>, tag: u32, value: &Value, fields: Fields) {
    for (name, value) in object(value) {
        message(out, tag, |out| {
            bytes(out, 1, name.as_bytes());
            message(out, 2, |out| fields(out, value));
        });
    }
}

/// A `NamedAny`, its value as YAML, of which JSON is a part.
fn extension(out: &mut Vec<u8>, tag: u32, name: &str, value: &Value) {
    assert!(name.starts_with("x-"), "the keyword {name} has no field here");
    message(out, tag, |out| {
        bytes(out, 1, name.as_bytes());
        message(out, 2, |out| bytes(out, 2, value.to_string().as_bytes()));
    });
}

fn message(out: &mut Vec<u8>, tag: u32, fields: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fields(&mut inner);
    bytes(out, tag, &inner);
}

fn text(out: &mut Vec<u8>, tag: u32, value: &Value) {
    bytes(out, tag, value.as_str().expect("this keyword is a string").as_bytes());
}

fn texts(out: &mut Vec<u8>, tag: u32, value: &Value) {
    array(value).iter().for_each(|value| text(out, tag, value));
}

fn flag(out: &mut Vec<u8>, tag: u32, value: &Value) {
    varint(out, u64::from(tag << 3));
    varint(out, value.as_bool().expect("this keyword is a flag").into());
}

fn bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    varint(out, u64::from((tag << 3) | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("this keyword is an object")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("this keyword is a list")
}

#[cfg(test)]
mod tests;
