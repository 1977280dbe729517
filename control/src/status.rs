//! Every failure a client of the API can see, as the Kubernetes `Status` object.
//!
//! Texts follow Kubernetes, because kubectl prints them and programs match on `reason`.

use serde_json::{Map, Value, json};

/// One wrong field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden`, `FieldValueDuplicate`,
    /// `FieldValueNotFound`, `FieldValueTooLong`, `FieldValueTooMany`, `FieldValueTypeInvalid`.
    pub reason: &'static str,
    /// `spec.containers[0].image`.
    pub field: String,
    /// The message without the field: `Required value`, `Invalid value: "x": must be …`.
    pub message: String,
}

impl FieldError {
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// `value` is shown as Kubernetes shows it: strings quoted, numbers bare.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {value}: {detail}") }
    }

    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value:?}: supported values: {list}");
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {detail}") }
    }

    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", field: field.into(), message: format!("Duplicate value: {value}") }
    }

    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueNotFound", field: field.into(), message: format!("Not found: {value}") }
    }

    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let message = format!("Too long: may not be more than {max_bytes} bytes");
        Self { reason: "FieldValueTooLong", field: field.into(), message }
    }

    pub fn type_invalid(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueTypeInvalid", field: field.into(), message: format!("Invalid value: {detail}") }
    }
}

/// A `Status` failure. `details` is the `details` object, already in its wire form.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Value>,
    /// A token with which a paged list whose revision is gone can go on at a later one.
    pub resume: Option<String>,
}

/// `pods` or `leases.coordination.k8s.io`.
#[must_use]
pub fn qualified_resource(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, resume: None }
    }

    fn named(mut self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = Map::new();
        details.insert("name".into(), name.into());
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        details.insert("kind".into(), kind.into());
        self.details = Some(Value::Object(details));
        self
    }

    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let what = qualified_resource(group, resource);
        Self::new(404, "NotFound", format!("{what} \"{name}\" not found")).named(group, resource, name)
    }

    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let what = qualified_resource(group, resource);
        Self::new(409, "AlreadyExists", format!("{what} \"{name}\" already exists")).named(group, resource, name)
    }

    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified_resource(group, resource);
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Self::new(409, "Conflict", message).named(group, resource, name)
    }

    /// The conflict of a stale `resourceVersion`.
    #[must_use]
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 422 with one cause per wrong field.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        let list = if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) };
        let what = qualified_resource(group, kind);
        let mut error =
            Self::new(422, "Invalid", format!("{what} \"{name}\" is invalid: {list}")).named(group, kind, name);
        let causes: Vec<Value> =
            errors.iter().map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field})).collect();
        if let Some(Value::Object(details)) = &mut error.details {
            details.insert("causes".into(), Value::Array(causes));
        }
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified_resource(group, resource);
        let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{what}{quoted} is forbidden: {why}")).named(group, resource, name)
    }

    #[must_use]
    pub fn method_not_allowed(verb: &str, resource: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{resource}\"");
        Self::new(405, "MethodNotAllowed", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// A read at a revision that this server has not reached: worth another try in a second.
    #[must_use]
    pub fn too_large_resource_version() -> Self {
        let message = "Timeout: Too large resource version";
        let mut error = Self::new(504, "Timeout", message);
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        error.details = Some(json!({"causes": [cause], "retryAfterSeconds": 1}));
        error
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// No quorum or no store: clients retry after the given seconds.
    pub fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        let mut error = Self::new(503, "ServiceUnavailable", message);
        error.details = Some(json!({"retryAfterSeconds": retry_after_s}));
        error
    }

    /// The `Status` object of this failure.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        let map = status.as_object_mut().expect("built as an object");
        if let Some(resume) = &self.resume {
            map["metadata"] = json!({"continue": resume});
        }
        if let Some(details) = &self.details {
            map.insert("details".into(), details.clone());
        }
        map.insert("code".into(), self.code.into());
        status
    }
}
