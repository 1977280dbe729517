//! The rules of `metadata` that all kinds share: what the server sets, what a client may change, what is wrong with it.

use serde_json::{Map, Value, json};

use super::{meta, set_meta};
use crate::limits;
use crate::registry::{Context, Kind, names};
use crate::status::{ApiError, FieldError};

/// Longest base of a generated name; five random characters follow.
const GENERATE_NAME_BASE_MAX: usize = 58;

/// Fills the server's part of a new object's metadata and refuses what a client must not set.
pub(super) fn for_create(
    kind: &Kind,
    namespace: Option<&str>,
    object: &mut Value,
    ctx: &Context,
) -> Result<(), ApiError> {
    if !meta(object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    check_namespace_matches(kind, namespace, object)?;
    if meta(object, "name").is_empty() {
        let base = meta(object, "generateName").to_owned();
        if !base.is_empty() {
            let cut: String = base.chars().take(GENERATE_NAME_BASE_MAX).collect();
            set_meta(object, "name", Some(format!("{cut}{}", ctx.name_suffix).into()));
        }
    }
    drop_server_fields(object);
    set_meta(object, "uid", Some(ctx.uid.clone().into()));
    set_meta(object, "creationTimestamp", Some(ctx.now.clone().into()));
    if kind.strategy.has_generation() {
        set_meta(object, "generation", Some(1.into()));
    }
    drop_empty(object);
    Ok(())
}

/// Keeps what no update may change; refuses a change of identity.
pub(super) fn for_update(kind: &Kind, namespace: Option<&str>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    check_namespace_matches(kind, namespace, new)?;
    let name = meta(old, "name").to_owned();
    match meta(new, "name") {
        "" => set_meta(new, "name", Some(name.clone().into())),
        other if other != name => {
            let why = format!("the name of the object ({other}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(why));
        }
        _ => {}
    }
    let uid = meta(new, "uid");
    if !uid.is_empty() && uid != meta(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta(old, "uid"));
        return Err(ApiError::conflict(kind.group, kind.resource, &name, &why));
    }
    let kept =
        ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"];
    for field in kept {
        set_meta(new, field, old["metadata"].get(field).cloned());
    }
    set_meta(new, "selfLink", None);
    set_meta(new, "managedFields", None);
    drop_empty(new);
    Ok(())
}

fn check_namespace_matches(kind: &Kind, namespace: Option<&str>, object: &mut Value) -> Result<(), ApiError> {
    let given = meta(object, "namespace");
    match (kind.namespaced, namespace) {
        (true, Some(namespace)) if given.is_empty() => {
            set_meta(object, "namespace", Some(namespace.into()));
            Ok(())
        }
        (true, Some(namespace)) if given == namespace => Ok(()),
        (false, _) if given.is_empty() => Ok(()),
        _ => {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            Err(ApiError::bad_request(why))
        }
    }
}

fn drop_server_fields(object: &mut Value) {
    for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "resourceVersion"] {
        set_meta(object, field, None);
    }
}

/// Empty labels, annotations, finalizers and owners are absent, so that a no-op write looks like one.
fn drop_empty(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.retain(|_, value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) => true,
    });
}

/// Type, then metadata, then the rest; inside metadata alphabetically: as `kubectl get -o yaml` users are used to.
pub(super) fn order(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    let mut ordered = Map::new();
    for first in ["kind", "apiVersion", "metadata"] {
        if let Some(value) = map.shift_remove(first) {
            ordered.insert(first.to_owned(), value);
        }
    }
    ordered.append(map);
    *map = ordered;
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        metadata.sort_keys();
    }
}

/// Everything wrong with the metadata of an object about to be stored.
pub(super) fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = meta(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = kind.strategy.validate_name(name) {
        errors.push(FieldError::invalid("metadata.name", &name.into(), &why));
    }
    let metadata = &object["metadata"];
    if let Some(labels) = metadata.get("labels") {
        validate_labels(labels, "metadata.labels", &mut errors);
    }
    if let Some(annotations) = metadata.get("annotations") {
        validate_annotations(annotations, &mut errors);
    }
    validate_finalizers(metadata, &mut errors);
    validate_owners(metadata, &mut errors);
    errors
}

fn validate_labels(labels: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(labels) = labels.as_object() else {
        errors.push(FieldError::type_invalid(path, "must be a map of strings"));
        return;
    };
    for (key, value) in labels {
        if let Some(why) = names::qualified_name(key) {
            errors.push(FieldError::invalid(path, &key.as_str().into(), &why));
        }
        match value.as_str() {
            Some(text) => {
                if let Some(why) = names::label_value(text) {
                    errors.push(FieldError::invalid(path, &text.into(), &why));
                }
            }
            None => errors.push(FieldError::type_invalid(format!("{path}.{key}"), "must be a string")),
        }
    }
}

fn validate_annotations(annotations: &Value, errors: &mut Vec<FieldError>) {
    let path = "metadata.annotations";
    let Some(annotations) = annotations.as_object() else {
        errors.push(FieldError::type_invalid(path, "must be a map of strings"));
        return;
    };
    let mut size = 0;
    for (key, value) in annotations {
        if let Some(why) = names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, &key.as_str().into(), &why));
        }
        match value.as_str() {
            Some(text) => size += key.len() + text.len(),
            None => errors.push(FieldError::type_invalid(format!("{path}.{key}"), "must be a string")),
        }
    }
    if size > limits::ANNOTATIONS_SIZE_MAX {
        errors.push(FieldError::too_long(path, limits::ANNOTATIONS_SIZE_MAX));
    }
}

fn validate_finalizers(metadata: &Value, errors: &mut Vec<FieldError>) {
    let finalizers = metadata.get("finalizers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for finalizer in finalizers {
        match finalizer.as_str().map(names::qualified_name) {
            Some(None) => {}
            Some(Some(why)) => errors.push(FieldError::invalid("metadata.finalizers", finalizer, &why)),
            None => errors.push(FieldError::type_invalid("metadata.finalizers", "must be strings")),
        }
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer foregroundDeletion and orphan cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &json!(finalizers), why));
    }
}

fn validate_owners(metadata: &Value, errors: &mut Vec<FieldError>) {
    let owners = metadata.get("ownerReferences").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                errors.push(FieldError::invalid(path, &"".into(), "must not be empty"));
            }
        }
    }
    if owners.iter().filter(|o| o["controller"] == true).count() > 1 {
        let why = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", &json!(owners), why));
    }
}
