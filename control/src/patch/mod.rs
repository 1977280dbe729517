//! The three patch languages of the API, as pure functions from (object, patch) to object.
//!
//! Server-side apply is not one of them: it needs field ownership, not only two documents. The engine picks the function by
//! the request's media type, then defaults and validates the result like any other write.

mod json_patch;
mod list;
mod merge;
mod strategic;
#[cfg(test)]
mod strategic_tests;

use serde_json::Value;

use crate::schema::Gvk;
use crate::status::ApiError;

/// RFC 6902. `ops` is the request body. A failing `test` or a missing path is 422, a malformed body 400.
pub fn json(doc: &Value, ops: &[u8]) -> Result<Value, ApiError> {
    json_patch::apply(doc, ops)
}

/// RFC 7386: objects merge, `null` deletes, everything else replaces.
pub fn merge(doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    merge::apply(doc, patch)
}

/// Kubernetes' strategic merge: lists merge by the keys that the schema of `gvk` names.
/// 415 for a kind without a schema.
pub fn strategic(doc: &Value, patch: &Value, gvk: &Gvk) -> Result<Value, ApiError> {
    strategic::apply(doc, patch, gvk)
}

/// What Kubernetes answers to a well-formed patch that does not fit the object; why goes to the log, not to the client.
fn does_not_apply(why: &dyn std::fmt::Display) -> ApiError {
    tracing::debug!(%why, "patch does not apply");
    let mut error = ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    error.details = Some(Value::Object(serde_json::Map::new()));
    error
}
