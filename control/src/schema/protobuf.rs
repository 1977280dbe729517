//! Decodes `application/vnd.kubernetes.protobuf` bodies to JSON, walking the schema table.
//!
//! The body is `k8s\0` and a `runtime.Unknown` that carries apiVersion, kind and the raw message. Go's encoder writes every
//! non-pointer field, also when it is zero, and never a nil pointer; JSON clients leave the former out. So a zero scalar is
//! dropped unless the field is a pointer in Go (`replicas: 0` means something) or one that Go's JSON always writes. Unknown field
//! numbers are skipped: a newer client may send them.

mod special;
mod wire;

use serde_json::{Map, Value};

use crate::schema::Gvk;
use crate::schema::table::{Element, Field, Message, Shape, Table};
use crate::status::ApiError;
use wire::{Reader, Wire};

const MAGIC: &[u8] = b"k8s\0";
/// Deeper messages than any API has; a limit against stack exhaustion by recursive types.
const DEPTH_MAX: u32 = 64;

/// Why a body is not the message it claims to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum DecodeError {
    #[error("truncated")]
    Truncated,
    #[error("unexpected wire type of field {0}")]
    WireType(u32),
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error("nested too deeply")]
    TooDeep,
}

/// Decodes a `k8s\0` envelope. The value carries `apiVersion` and `kind`. 400 when malformed or of an unknown kind.
pub fn decode(body: &[u8]) -> Result<(Gvk, Value), ApiError> {
    let refuse = |why: &dyn std::fmt::Display| ApiError::bad_request(format!("protobuf body: {why}"));
    let body = body.strip_prefix(MAGIC).ok_or_else(|| {
        ApiError::bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?;
    let unknown = Unknown::parse(body).map_err(|e| refuse(&e))?;
    let gvk = Gvk::from_api_version(unknown.api_version, unknown.kind);
    let Some(message) = Table::get().kind(&gvk) else {
        let Unknown { api_version, kind, .. } = unknown;
        return Err(ApiError::bad_request(format!("no kind \"{kind}\" is registered for version \"{api_version}\"")));
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), unknown.api_version.into());
    object.insert("kind".into(), unknown.kind.into());
    decode_fields(&mut object, message, 0, unknown.raw, 0).map_err(|e| {
        let Gvk { version, kind, .. } = &gvk;
        ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: proto: {e}"))
    })?;
    Ok((gvk, Value::Object(object)))
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Unknown<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut unknown = Self::default();
        let mut fields = Reader::new(body);
        while let Some((tag, wire)) = fields.next()? {
            match tag {
                1 => {
                    let mut type_meta = Reader::new(wire.bytes(tag)?);
                    while let Some((tag, wire)) = type_meta.next()? {
                        match tag {
                            1 => unknown.api_version = wire.text(tag)?,
                            2 => unknown.kind = wire.text(tag)?,
                            _ => {}
                        }
                    }
                }
                2 => unknown.raw = wire.bytes(tag)?,
                _ => {}
            }
        }
        Ok(unknown)
    }
}

/// Decodes the fields of `message` that its inlined message `outer` carries (0: the message itself) into `object`.
fn decode_fields(
    object: &mut Map<String, Value>,
    message: &'static Message,
    outer: u16,
    bytes: &[u8],
    depth: u32,
) -> Result<(), DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let mut fields = Reader::new(bytes);
    while let Some((tag, wire)) = fields.next()? {
        let is_at = |field: &&Field| field.outer_tag == outer && u32::from(field.tag) == tag;
        if let Some(field) = message.fields().iter().find(is_at) {
            decode_field(object, field, tag, wire, depth)?;
            continue;
        }
        let inlined = |field: &&Field| u32::from(field.outer_tag) == tag;
        if outer == 0
            && let Some(field) = message.fields().iter().find(inlined)
        {
            decode_fields(object, message, field.outer_tag, wire.bytes(tag)?, depth + 1)?;
        }
    }
    Ok(())
}

fn decode_field(
    object: &mut Map<String, Value>,
    field: &'static Field,
    tag: u32,
    wire: Wire<'_>,
    depth: u32,
) -> Result<(), DecodeError> {
    match field.shape {
        Shape::One => {
            if let Some(value) = decode_element(field.element, tag, wire, depth)? {
                let is_kept = field.is_pointer || field.is_required || !is_zero(&value);
                if is_kept {
                    object.insert(field.name.to_owned(), value);
                } else {
                    // The last of repeated scalars counts, also when it is zero.
                    object.shift_remove(field.name);
                }
            }
        }
        Shape::List => {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Err(DecodeError::Malformed("list")) };
            decode_item(list, field, tag, wire, depth)?;
        }
        Shape::Map | Shape::MapOfLists => {
            let (key, value) = decode_entry(field, tag, wire, depth)?;
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Err(DecodeError::Malformed("map")) };
            map.insert(key, value);
        }
    }
    Ok(())
}

/// What Go's JSON leaves out of a non-pointer field.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn decode_item(
    list: &mut Vec<Value>,
    field: &'static Field,
    tag: u32,
    wire: Wire<'_>,
    depth: u32,
) -> Result<(), DecodeError> {
    let is_number = matches!(field.element, Element::Int32 | Element::Int64);
    match wire {
        Wire::Bytes(packed) if is_number => {
            let mut numbers = Reader::new(packed);
            while !numbers.is_empty() {
                let number = Wire::Varint(numbers.varint()?);
                list.extend(decode_element(field.element, tag, number, depth)?);
            }
        }
        wire => list.extend(decode_element(field.element, tag, wire, depth)?),
    }
    Ok(())
}

/// A map is a list of {1: key, 2: value} messages. A missing value is the zero of its type.
fn decode_entry(field: &'static Field, tag: u32, wire: Wire<'_>, depth: u32) -> Result<(String, Value), DecodeError> {
    let mut key = String::new();
    let mut value = None;
    let mut entry = Reader::new(wire.bytes(tag)?);
    while let Some((tag, wire)) = entry.next()? {
        match tag {
            1 => key = wire.text(tag)?.to_owned(),
            2 if field.is_wrapped => {
                let mut items = Vec::new();
                let mut wrapped = Reader::new(wire.bytes(tag)?);
                while let Some((tag, wire)) = wrapped.next()? {
                    items.extend(decode_element(field.element, tag, wire, depth)?);
                }
                value = Some(Value::Array(items));
            }
            2 => value = decode_element(field.element, tag, wire, depth)?,
            _ => {}
        }
    }
    let value = value.unwrap_or_else(|| match (field.shape, field.element) {
        (Shape::MapOfLists, _) => Value::Array(Vec::new()),
        (_, Element::Message(_)) => Value::Object(Map::new()),
        (_, Element::Int32 | Element::Int64) => 0.into(),
        (_, Element::Bool) => false.into(),
        _ => "".into(),
    });
    Ok((key, value))
}

/// None for what JSON leaves out: the zero time, an empty raw extension.
fn decode_element(element: Element, tag: u32, wire: Wire<'_>, depth: u32) -> Result<Option<Value>, DecodeError> {
    Ok(Some(match element {
        Element::String => wire.text(tag)?.into(),
        // Negative numbers travel as 64-bit two's complement.
        Element::Int32 => (wire.varint(tag)? as i32).into(),
        Element::Int64 => (wire.varint(tag)? as i64).into(),
        Element::Bool => (wire.varint(tag)? != 0).into(),
        Element::Double => f64::from_bits(wire.fixed64(tag)?).into(),
        Element::Bytes => special::base64(wire.bytes(tag)?),
        Element::Quantity => special::quantity(wire.bytes(tag)?)?,
        Element::IntOrString => special::int_or_string(wire.bytes(tag)?)?,
        Element::Time => return special::time(wire.bytes(tag)?, 0),
        Element::MicroTime => return special::time(wire.bytes(tag)?, 6),
        Element::Raw | Element::Fields => return special::raw(wire.bytes(tag)?),
        Element::Message(id) => {
            let mut object = Map::new();
            decode_fields(&mut object, Table::get().message(id), 0, wire.bytes(tag)?, depth + 1)?;
            Value::Object(object)
        }
    }))
}

#[cfg(test)]
mod tests;
