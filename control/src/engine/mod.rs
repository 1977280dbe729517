//! What each API verb does, as pure functions of (existing object, request, context).
//!
//! The edge reads the store, asks the verb here what to write, writes it under the revision it read, and starts again when it
//! lost the race. So conflicts, finalizers, generations, graceful deletion and dry-run are tested as tables, without a server.
//! What differs between kinds is in [`crate::registry`]; what a patch does to a document is in [`crate::patch`].

mod create;
mod delete;
pub mod list;
mod metadata;
pub mod selector;
pub mod table;
mod update;

pub use create::{NamespaceState, check_namespace, create};
pub use delete::{DeleteOptions, Deletion, delete};
pub use update::{Target, Update, update};

use serde_json::Value;

use crate::registry::Kind;
use crate::status::ApiError;

/// Removes what Go clients mean by "absent": `null` members, at any depth.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `v1` or `coordination.k8s.io/v1`.
#[must_use]
pub fn api_version(kind: &Kind) -> String {
    group_version(kind.group, kind.version)
}

/// `v1` or `coordination.k8s.io/v1`.
#[must_use]
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A body must be an object of the kind its path names; absent `apiVersion` and `kind` are filled in.
pub fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    check_type_of(kind.group, kind.version, kind.kind, object)
}

/// The same for the body of a subresource.
pub fn check_type_of(group: &str, version: &str, kind: &str, object: &mut Value) -> Result<(), ApiError> {
    let wanted_version = group_version(group, version);
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the object provided is unrecognized: it must be a JSON object"));
    };
    for (field, wanted) in [("apiVersion", wanted_version.as_str()), ("kind", kind)] {
        match map.get(field).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            None | Some("") => {
                map.insert(field.to_owned(), wanted.into());
            }
            Some(found) => {
                let message = match field {
                    "kind" => format!(
                        "{found} in version {:?} cannot be handled as a {kind}: expected kind {kind:?}",
                        map.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
                    ),
                    _ => format!(
                        "the API version in the data ({found}) does not match the expected API version ({wanted})"
                    ),
                };
                return Err(ApiError::bad_request(message));
            }
        }
    }
    match map.get("metadata") {
        Some(Value::Object(_)) => Ok(()),
        None => {
            map.insert("metadata".into(), Value::Object(serde_json::Map::new()));
            Ok(())
        }
        Some(_) => Err(ApiError::bad_request("metadata must be an object")),
    }
}

/// A string member of `metadata`, or `""`.
#[must_use]
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a member of `metadata`; `None` removes it.
pub fn set_meta(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match value {
        Some(value) => {
            metadata.insert(field.to_owned(), value);
        }
        None => {
            metadata.shift_remove(field);
        }
    }
}

/// The object without what the server adds when reading: equal objects need no write.
#[must_use]
pub fn same(a: &Value, b: &Value) -> bool {
    let stripped = |object: &Value| {
        let mut object = object.clone();
        set_meta(&mut object, "resourceVersion", None);
        set_meta(&mut object, "managedFields", None);
        object
    };
    stripped(a) == stripped(b)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A kind for tests of the verbs: namespaced, with spec and status.

    use serde_json::{Value, json};

    use crate::registry::{Context, Kind, Strategy, User};

    #[derive(Debug)]
    pub(crate) struct Plain;
    impl Strategy for Plain {}

    pub(crate) static WIDGET: Kind = Kind {
        group: "test.io",
        version: "v1",
        kind: "Widget",
        resource: "widgets",
        singular: "widget",
        short_names: &[],
        categories: &[],
        namespaced: true,
        storage_prefix: "widgets",
        subresources: &[],
        strategy: &Plain,
    };

    pub(crate) fn context() -> Context {
        Context {
            now: "2026-01-31T12:00:00Z".into(),
            uid: "6f1b1f6e-0000-4000-8000-000000000001".into(),
            name_suffix: "x7k2p".into(),
            user: User { name: "admin".into(), groups: vec![] },
        }
    }

    pub(crate) fn widget(name: &str) -> Value {
        json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": name, "namespace": "default"}})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_are_absent_at_any_depth() {
        let mut value = json!({"a": null, "b": {"c": null, "d": [{"e": null}]}});
        drop_nulls(&mut value);
        assert_eq!(value, json!({"b": {"d": [{}]}}));
    }

    #[test]
    fn a_body_of_another_kind_is_refused() {
        let mut other = json!({"apiVersion": "test.io/v1", "kind": "Gadget"});
        assert_eq!(check_type(&testing::WIDGET, &mut other).unwrap_err().code, 400);
        let mut untyped = json!({});
        check_type(&testing::WIDGET, &mut untyped).unwrap();
        assert_eq!(untyped, json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {}}));
    }
}
