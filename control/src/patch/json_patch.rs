//! JSON patch (RFC 6902), with the limits that keep a small body from making a huge object.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::does_not_apply;
use crate::limits;
use crate::status::ApiError;

pub(super) fn apply(doc: &Value, ops: &[u8]) -> Result<Value, ApiError> {
    let Patch(ops) = serde_json::from_slice(ops).map_err(|e| ApiError::bad_request(format!("json patch: {e}")))?;
    if ops.len() > limits::JSON_PATCH_OPERATIONS_MAX {
        let (max, got) = (limits::JSON_PATCH_OPERATIONS_MAX, ops.len());
        return Err(too_large(&format!("The allowed maximum operations in a JSON patch is {max}, got {got}")));
    }
    let mut patched = doc.clone();
    let mut copied_size = 0;
    for op in &ops {
        check_growth(&patched, op, &mut copied_size)?;
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(op)).map_err(|why| does_not_apply(&why))?;
    }
    Ok(patched)
}

/// Refuses what would make the object larger or deeper than a body of the same limits could: `copy` doubles with each operation,
/// and objects that are nested too deeply could be stored but not read again.
fn check_growth(doc: &Value, op: &PatchOperation, copied_size: &mut usize) -> Result<(), ApiError> {
    let placed = match op {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Copy(copy) => doc.pointer(copy.from.as_str()),
        PatchOperation::Move(from) => doc.pointer(from.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let Some(placed) = placed else { return Ok(()) };
    if let PatchOperation::Copy(_) | PatchOperation::Move(_) = op {
        *copied_size += placed.to_string().len();
        if *copied_size > limits::JSON_PATCH_COPIED_SIZE_MAX {
            let max = limits::JSON_PATCH_COPIED_SIZE_MAX;
            return Err(too_large(&format!("The copies of a JSON patch may not exceed {max} bytes")));
        }
    }
    let parents = op.path().as_str().matches('/').count();
    if parents + depth(placed) > limits::OBJECT_DEPTH_MAX {
        let max = limits::OBJECT_DEPTH_MAX;
        return Err(too_large(&format!("Objects may not be nested more than {max} levels deep")));
    }
    Ok(())
}

/// How many arrays and objects are nested in each other.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn too_large(message: &str) -> ApiError {
    ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(doc: &Value, ops: &Value) -> Result<Value, u16> {
        apply(doc, ops.to_string().as_bytes()).map_err(|e| e.code)
    }

    #[test]
    fn each_operation_does_what_the_rfc_says() {
        let doc = json!({"a": 1, "l": ["x", "y"], "o": {"~/": true}});
        for (ops, expected) in [
            (
                json!([{"op": "add", "path": "/b", "value": 2}]),
                json!({"a": 1, "l": ["x", "y"], "o": {"~/": true}, "b": 2}),
            ),
            (
                json!([{"op": "add", "path": "/l/-", "value": "z"}]),
                json!({"a": 1, "l": ["x", "y", "z"], "o": {"~/": true}}),
            ),
            (
                json!([{"op": "add", "path": "/l/0", "value": "z"}]),
                json!({"a": 1, "l": ["z", "x", "y"], "o": {"~/": true}}),
            ),
            (json!([{"op": "remove", "path": "/o/~0~1"}]), json!({"a": 1, "l": ["x", "y"], "o": {}})),
            (
                json!([{"op": "replace", "path": "/a", "value": null}]),
                json!({"a": null, "l": ["x", "y"], "o": {"~/": true}}),
            ),
            (
                json!([{"op": "move", "from": "/a", "path": "/o/a"}]),
                json!({"l": ["x", "y"], "o": {"~/": true, "a": 1}}),
            ),
            (
                json!([{"op": "copy", "from": "/a", "path": "/c"}]),
                json!({"a": 1, "l": ["x", "y"], "o": {"~/": true}, "c": 1}),
            ),
            (json!([{"op": "test", "path": "/a", "value": 1}]), doc.clone()),
        ] {
            assert_eq!(patched(&doc, &ops), Ok(expected), "{ops}");
        }
    }

    #[test]
    fn what_does_not_apply_is_422_and_what_is_malformed_400() {
        let doc = json!({"a": 1});
        assert_eq!(patched(&doc, &json!([{"op": "test", "path": "/a", "value": 2}])), Err(422));
        assert_eq!(patched(&doc, &json!([{"op": "remove", "path": "/b"}])), Err(422));
        assert_eq!(patched(&doc, &json!([{"op": "replace", "path": "/b/c", "value": 2}])), Err(422));
        assert_eq!(patched(&doc, &json!([{"op": "fly", "path": "/a"}])), Err(400));
        assert_eq!(patched(&doc, &json!({"a": 2})), Err(400));
    }

    #[test]
    fn too_many_operations_and_too_much_copying_are_413() {
        let ops: Vec<Value> =
            (0..=limits::JSON_PATCH_OPERATIONS_MAX).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
        assert_eq!(patched(&json!({"a": 1}), &json!(ops)), Err(413));
        // Each copy doubles the document: 40 of them would be a terabyte.
        let ops: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "/l", "path": "/l/-"})).collect();
        assert_eq!(patched(&json!({"l": ["x"]}), &json!(ops)), Err(413));
    }

    #[test]
    fn no_patch_nests_deeper_than_can_be_read_again() {
        // Each operation hangs the whole chain below its own end.
        let deepen = json!({"op": "copy", "from": "/a", "path": "/a/a/a/a/a/a/a/a/a/b"});
        let mut doc = json!({"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}});
        let mut refused = None;
        for _ in 0..40 {
            match apply(&doc, json!([deepen]).to_string().as_bytes()) {
                Ok(patched) => doc = patched,
                Err(error) => refused = Some(error.code),
            }
        }
        assert_eq!(refused, Some(413));
        assert!(depth(&doc) <= limits::OBJECT_DEPTH_MAX);
        assert!(serde_json::from_str::<Value>(&doc.to_string()).is_ok());
    }
}
