//! Request bodies: size, encoding, and fields that their kind does not know.

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use super::negotiate::{Encoding, encoding};
use crate::engine::list::Query;
use crate::limits;
use crate::schema::{Gvk, protobuf, strict};
use crate::status::ApiError;

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

impl FieldValidation {
    /// # Errors
    /// 422 for an unknown word.
    pub fn parse(query: &impl Query) -> Result<Self, ApiError> {
        match query.param("fieldValidation").unwrap_or_default() {
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            "Ignore" => Ok(Self::Ignore),
            other => {
                let why = format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                );
                Err(ApiError::new(422, "Invalid", why))
            }
        }
    }

    /// What `complaints` about a body lead to: a refusal, or warnings.
    ///
    /// # Errors
    /// 400 with all of them when strict.
    pub fn judge(self, gvk: &Gvk, complaints: Vec<String>) -> Result<Vec<String>, ApiError> {
        match self {
            Self::Strict if !complaints.is_empty() => Err(strict::refusal(gvk, &complaints)),
            Self::Strict | Self::Warn => Ok(complaints),
            Self::Ignore => Ok(Vec::new()),
        }
    }
}

/// Reads a body up to the limit.
///
/// # Errors
/// 413 above it.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, limits::REQUEST_BODY_SIZE_MAX).await.map_err(|error| {
        let limited = std::error::Error::source(&error).is_some_and(|s| s.is::<http_body_util::LengthLimitError>());
        if limited {
            let why = format!("Request entity too large: limit is {}", limits::REQUEST_BODY_SIZE_MAX);
            ApiError::new(413, "RequestEntityTooLarge", why)
        } else {
            ApiError::bad_request(format!("cannot read the request's body: {error}"))
        }
    })
}

/// An object of `gvk` (by its path) and the warnings about it.
///
/// # Errors
/// 400 when it cannot be understood or strictness refuses it, 415 for an unknown encoding.
pub fn object(
    headers: &HeaderMap,
    gvk: &Gvk,
    raw: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let json: Vec<u8>;
    let raw = match encoding(headers)? {
        Encoding::Protobuf => return Ok((protobuf::decode(raw)?.1, Vec::new())),
        Encoding::Json => raw,
        Encoding::Yaml => {
            json = json_of_yaml(raw)?;
            &json
        }
    };
    // The body's own kind decides what its fields mean; the path's is only assumed when it names none.
    let findings = strict::check(gvk, raw)?;
    let warnings = validation.judge(gvk, findings.complaints)?;
    Ok((findings.value, warnings))
}

/// A document without a schema of interest (options, reviews): JSON, YAML or protobuf. An empty one is an empty object.
///
/// # Errors
/// 400 when it cannot be understood.
pub fn plain(headers: &HeaderMap, raw: &[u8]) -> Result<Value, ApiError> {
    if raw.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match encoding(headers)? {
        Encoding::Protobuf => Ok(protobuf::decode(raw)?.1),
        Encoding::Json => serde_json::from_slice(raw).map_err(malformed),
        Encoding::Yaml => serde_json::from_slice(&json_of_yaml(raw)?).map_err(malformed),
    }
}

/// The JSON text of a YAML document (which JSON also is).
///
/// # Errors
/// 400 when it is none.
pub fn json_of_yaml(raw: &[u8]) -> Result<Vec<u8>, ApiError> {
    let value: Value = serde_norway::from_slice(raw)
        .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: {e}")))?;
    Ok(serde_json::to_vec(&value).expect("a JSON value encodes"))
}

fn malformed(error: serde_json::Error) -> ApiError {
    ApiError::bad_request(format!("the object provided is unrecognized: {error}"))
}
