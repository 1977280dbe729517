//! Reads a JSON body as its kind: drops and names what the kind does not know, names duplicate keys, refuses wrong types.
//!
//! One walk over the text does it all, because duplicate keys are gone once a `Value` exists and complaints should come in the
//! order of the document. Like Go's decoder it treats `null` as absence and keeps the last of duplicate keys; it also normalises
//! what Go's types normalise (times to UTC, numbers in quantities to text). Errors are in the words of Kubernetes' decoder.

mod leaf;
mod walk;

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::schema::Gvk;
use crate::schema::table::Table;
use crate::status::ApiError;
use walk::{Expect, Node, Walk};

/// What a body contains besides a well-typed object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The object without its unknown fields; of duplicate keys the last counts.
    pub value: Value,
    /// `unknown field "spec.foo"` and `duplicate field "spec.replicas"`, in the order of the document: what `Warn` puts into
    /// `Warning` headers and `Strict` into the error.
    pub complaints: Vec<String>,
}

/// Parses a JSON body as `gvk`. 400 in Kubernetes' words when it is not JSON or a field has the wrong type. A kind without a
/// schema is only parsed.
pub fn check(gvk: &Gvk, raw: &[u8]) -> Result<Findings, ApiError> {
    let mut walk = Walk::default();
    let mut text = serde_json::Deserializer::from_slice(raw);
    let read = Node { walk: &mut walk, expect: expectation(gvk) }.deserialize(&mut text);
    let value = read.and_then(|value| text.end().map(|()| value)).map_err(|e| refuse(gvk, &e))?;
    finish(gvk, walk, value)
}

/// The duplicate keys of a body whose schema does not matter here (a patch).
#[must_use]
pub fn duplicates(raw: &[u8]) -> Vec<String> {
    let mut walk = Walk::default();
    let mut text = serde_json::Deserializer::from_slice(raw);
    // What is not JSON is the parser's business.
    let _ = Node { walk: &mut walk, expect: Expect::Anything }.deserialize(&mut text);
    walk.complaints
}

/// Removes unknown fields of an object (after a patch) and returns the complaints about them; 400 when a field has the wrong type.
pub fn prune(gvk: &Gvk, object: &mut Value) -> Result<Vec<String>, ApiError> {
    let mut walk = Walk::default();
    let node = Node { walk: &mut walk, expect: expectation(gvk) };
    let value = node.deserialize(object.take()).map_err(|e| refuse(gvk, &e))?;
    let findings = finish(gvk, walk, value)?;
    *object = findings.value;
    Ok(findings.complaints)
}

/// The refusal of `fieldValidation=Strict`: `Pod in version "v1" cannot be handled as a Pod: strict decoding error: …`.
#[must_use]
pub fn refusal(gvk: &Gvk, complaints: &[String]) -> ApiError {
    refuse(gvk, &format!("strict decoding error: {}", complaints.join(", ")))
}

fn expectation(gvk: &Gvk) -> Expect {
    Table::get().kind(gvk).map_or(Expect::Anything, Expect::Message)
}

fn finish(gvk: &Gvk, walk: Walk, value: Option<Value>) -> Result<Findings, ApiError> {
    if let Some(error) = walk.type_error {
        return Err(refuse(gvk, &error));
    }
    Ok(Findings { value: value.unwrap_or(Value::Null), complaints: walk.complaints })
}

fn refuse(gvk: &Gvk, why: &dyn std::fmt::Display) -> ApiError {
    let Gvk { version, kind, .. } = gvk;
    ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

#[cfg(test)]
mod tests;
