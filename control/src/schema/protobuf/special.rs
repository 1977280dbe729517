//! Messages whose JSON is not an object: quantities, times, int-or-string, raw JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::DecodeError;
use super::wire::Reader;

pub(super) fn base64(bytes: &[u8]) -> Value {
    STANDARD.encode(bytes).into()
}

/// {1: text}.
pub(super) fn quantity(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut text = "";
    let mut fields = Reader::new(bytes);
    while let Some((tag, wire)) = fields.next()? {
        if tag == 1 {
            text = wire.text(tag)?;
        }
    }
    Ok(if text.is_empty() { "0".into() } else { text.into() })
}

/// {1: kind (0 number, 1 text), 2: number, 3: text}.
pub(super) fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number, mut text) = (false, 0_i32, "");
    let mut fields = Reader::new(bytes);
    while let Some((tag, wire)) = fields.next()? {
        match tag {
            1 => is_text = wire.varint(tag)? == 1,
            2 => number = wire.varint(tag)? as i32,
            3 => text = wire.text(tag)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// {1: seconds, 2: nanoseconds} → RFC 3339 with `digits` of the second. No field at all is Go's zero time, which JSON writes
/// as null.
pub(super) fn time(bytes: &[u8], digits: u8) -> Result<Option<Value>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut fields = Reader::new(bytes);
    while let Some((tag, wire)) = fields.next()? {
        match tag {
            1 => seconds = wire.varint(tag)? as i64,
            2 => nanos = wire.varint(tag)? as i32,
            _ => {}
        }
    }
    let nanos = if digits == 0 { 0 } else { nanos };
    let time = Timestamp::new(seconds, nanos).map_err(|_| DecodeError::Malformed("time"))?;
    Ok(Some(format!("{time:.precision$}", precision = usize::from(digits)).into()))
}

/// {1: JSON text}: RawExtension and FieldsV1.
pub(super) fn raw(bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    let mut json: &[u8] = &[];
    let mut fields = Reader::new(bytes);
    while let Some((tag, wire)) = fields.next()? {
        if tag == 1 {
            json = wire.bytes(tag)?;
        }
    }
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json).map(Some).map_err(|_| DecodeError::Malformed("embedded JSON"))
}
