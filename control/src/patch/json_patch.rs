//! JSON patch (RFC 6902).
use serde_json::Value;

use crate::status::ApiError;

pub(super) fn apply(doc: &Value, _ops: &[u8]) -> Result<Value, ApiError> {
    Ok(doc.clone())
}
