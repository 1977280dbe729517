//! JSON merge patch (RFC 7386).
use serde_json::Value;

use crate::status::ApiError;

pub(super) fn apply(doc: &Value, _patch: &Value) -> Result<Value, ApiError> {
    Ok(doc.clone())
}
