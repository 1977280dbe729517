//! Creating an object.

use serde_json::Value;

use super::{check_type, drop_nulls, meta, metadata};
use crate::registry::{Context, Kind};
use crate::status::{ApiError, FieldError};

/// What the edge knows of the namespace that a new object goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    Missing,
    Active,
    Terminating,
}

/// The object as it is stored.
///
/// # Errors
/// A refusal (400, 422), before anything is written.
pub fn create(kind: &Kind, namespace: Option<&str>, mut object: Value, ctx: &Context) -> Result<Value, ApiError> {
    check_type(kind, &mut object)?;
    drop_nulls(&mut object);
    metadata::for_create(kind, namespace, &mut object, ctx)?;
    kind.strategy.default(&mut object);
    kind.strategy.admit(&mut object, ctx)?;
    kind.strategy.prepare_for_create(&mut object, ctx);
    let mut errors = metadata::validate(kind, &object);
    errors.extend(kind.strategy.validate(&object));
    refuse(kind, &object, &errors)?;
    metadata::order(&mut object);
    Ok(object)
}

/// Nothing new may enter a namespace that is missing or on its way out.
pub fn check_namespace(kind: &Kind, namespace: &str, name: &str, state: NamespaceState) -> Result<(), ApiError> {
    match state {
        NamespaceState::Active => Ok(()),
        NamespaceState::Missing => Err(ApiError::not_found("", "namespaces", namespace)),
        NamespaceState::Terminating => {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::forbidden(kind.group, kind.resource, name, &why);
            let cause = serde_json::json!({
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            });
            if let Some(Value::Object(details)) = &mut error.details {
                details.insert("causes".into(), Value::Array(vec![cause]));
            }
            Err(error)
        }
    }
}

pub(super) fn refuse(kind: &Kind, object: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let shown = match meta(object, "name") {
        "" => meta(object, "generateName"),
        name => name,
    };
    Err(ApiError::invalid(kind.group, kind.kind, shown, errors))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{WIDGET, context, widget};
    use super::*;

    #[test]
    fn the_server_owns_identity_and_status() {
        let mut body = widget("a");
        body["metadata"]["uid"] = "chosen".into();
        body["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
        body["metadata"]["creationTimestamp"] = Value::Null;
        body["status"] = json!({"ready": true});
        let made = create(&WIDGET, Some("default"), body, &context()).unwrap();
        assert_eq!(
            made,
            json!({
                "kind": "Widget", "apiVersion": "test.io/v1",
                "metadata": {
                    "creationTimestamp": "2026-01-31T12:00:00Z", "generation": 1, "name": "a", "namespace": "default",
                    "uid": "6f1b1f6e-0000-4000-8000-000000000001",
                },
            })
        );
    }

    #[test]
    fn a_generated_name_is_cut_and_suffixed() {
        let mut body = widget("");
        body["metadata"]["generateName"] = "w".repeat(70).into();
        let made = create(&WIDGET, Some("default"), body, &context()).unwrap();
        assert_eq!(meta(&made, "name"), format!("{}x7k2p", "w".repeat(58)));
    }

    #[test]
    fn refusals() {
        let with = |field: &str, value: &str| {
            let mut body = widget("a");
            body["metadata"][field] = value.into();
            create(&WIDGET, Some("default"), body, &context()).unwrap_err()
        };
        assert_eq!(with("resourceVersion", "5").code, 400);
        assert_eq!(with("namespace", "other").code, 400);
        let nameless = with("name", "");
        assert_eq!(nameless.code, 422);
        assert!(nameless.message.ends_with("metadata.name: Required value: name or generateName is required"));
    }

    #[test]
    fn a_terminating_namespace_takes_nothing_new() {
        let error = check_namespace(&WIDGET, "going", "a", NamespaceState::Terminating).unwrap_err();
        assert_eq!(error.code, 403);
        assert_eq!(error.details.unwrap()["causes"][0]["reason"], "NamespaceTerminating");
        assert_eq!(check_namespace(&WIDGET, "none", "a", NamespaceState::Missing).unwrap_err().code, 404);
    }
}
