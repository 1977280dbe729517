//! JSON merge patch (RFC 7386).

use serde_json::{Map, Value};

use crate::status::ApiError;

pub(super) fn apply(doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("a merge patch must be a JSON object"));
    };
    let mut merged = doc.clone();
    merge(&mut merged, patch);
    Ok(merged)
}

fn merge(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().expect("made an object above");
    for (key, change) in patch {
        match change {
            Value::Null => {
                // Not `remove`, which would move the last field into the gap.
                target.shift_remove(key);
            }
            Value::Object(change) => merge(target.entry(key.clone()).or_insert(Value::Null), change),
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7386, appendix A, whose patch is an object.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (doc, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(apply(&doc, &patch), Ok(expected), "{doc} + {patch}");
        }
    }

    #[test]
    fn a_patch_that_is_no_object_is_refused() {
        assert_eq!(apply(&json!({"a": 1}), &json!(["a"])).unwrap_err().code, 400);
    }
}
