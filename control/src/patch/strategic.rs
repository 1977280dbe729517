//! Strategic merge patch.
use serde_json::Value;

use crate::schema::Gvk;
use crate::status::ApiError;

pub(super) fn apply(doc: &Value, _patch: &Value, _gvk: &Gvk) -> Result<Value, ApiError> {
    Ok(doc.clone())
}
