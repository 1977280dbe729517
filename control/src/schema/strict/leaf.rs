//! Scalars: which JSON a type accepts, in which form it is kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::schema::table::Element;

/// Why a scalar is not of its type.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// JSON of another type.
    Type,
    /// A number that does not fit.
    Number(String),
    /// A text of another form, in the words of the type's own parser.
    Format(String),
}

/// The value as it is kept.
pub(super) fn read(element: Element, value: Value) -> Result<Value, Wrong> {
    match (element, &value) {
        (Element::String, Value::String(_)) | (Element::Bool, Value::Bool(_)) | (Element::Double, Value::Number(_)) => {
            Ok(value)
        }
        (Element::Int32, Value::Number(number)) => match number.as_i64() {
            Some(n) if i32::try_from(n).is_ok() => Ok(value),
            _ => Err(Wrong::Number(number.to_string())),
        },
        (Element::Int64, Value::Number(number)) if number.is_i64() => Ok(value),
        (Element::Int64, Value::Number(number)) => Err(Wrong::Number(number.to_string())),
        (Element::Bytes, Value::String(text)) => match STANDARD.decode(text) {
            Ok(_) => Ok(value),
            Err(error) => Err(Wrong::Format(format!("illegal base64 data at input byte {}", offset(&error)))),
        },
        (Element::Quantity, Value::Number(number)) => quantity(number.to_string()),
        (Element::Quantity, Value::String(text)) => quantity(text.clone()),
        (Element::IntOrString, Value::String(_)) => Ok(value),
        (Element::IntOrString, Value::Number(_)) => read(Element::Int32, value),
        (Element::Time, Value::String(text)) => time(text, 0),
        (Element::MicroTime, Value::String(text)) => time(text, 6),
        (Element::Raw | Element::Fields, _) => Ok(value),
        _ => Err(Wrong::Type),
    }
}

/// What `null` becomes inside a list or a map.
pub(super) fn zero(element: Option<Element>) -> Value {
    match element {
        None | Some(Element::Raw | Element::Fields | Element::Time | Element::MicroTime) => Value::Null,
        Some(Element::String | Element::Bytes) => "".into(),
        Some(Element::Quantity) => "0".into(),
        Some(Element::Int32 | Element::Int64 | Element::Double | Element::IntOrString) => 0.into(),
        Some(Element::Bool) => false.into(),
        Some(Element::Message(_)) => Value::Object(Map::new()),
    }
}

fn offset(error: &base64::DecodeError) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(length) => *length,
        base64::DecodeError::InvalidPadding => 0,
    }
}

fn quantity(text: String) -> Result<Value, Wrong> {
    if is_quantity(&text) {
        return Ok(text.into());
    }
    let expression = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$";
    Err(Wrong::Format(format!("quantities must match the regular expression '{expression}'")))
}

/// `<sign><digits>[.<digits>]` and a suffix: binary (`Ki`), decimal (`m`, `k`) or exponent (`e3`).
fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.len() - unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, suffix) = unsigned.split_at(digits);
    let is_number = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
    let is_exponent = || {
        let exponent = suffix.strip_prefix(['e', 'E']).unwrap_or_default();
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && exponent.bytes().all(|b| b.is_ascii_digit())
    };
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    is_number && (suffixes.contains(&suffix) || is_exponent())
}

/// Any RFC 3339 time, kept in UTC with `digits` of the second.
fn time(text: &str, digits: usize) -> Result<Value, Wrong> {
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(format!("{time:.digits$}").into()),
        Err(_) => {
            let layout = if digits == 0 { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
            Err(Wrong::Format(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_what_kubernetes_takes() {
        for good in ["1", "0.5", "100m", "1Gi", "-2", "+.5", "1e3", "1E-3", "5.", "1E", "12k", "1n"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "x", "1 Gi", "1gi", "1KB", "1.2.3", "m", "1e", "--1", "1Mii"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }

    #[test]
    fn scalars_are_kept_in_their_normal_form() {
        for (element, value, kept) in [
            (Element::Quantity, json!(2), json!("2")),
            (Element::Time, json!("2026-01-01T02:00:00+02:00"), json!("2026-01-01T00:00:00Z")),
            (Element::MicroTime, json!("2026-01-01T00:00:00.123456789Z"), json!("2026-01-01T00:00:00.123456Z")),
            (Element::IntOrString, json!("50%"), json!("50%")),
            (Element::Bytes, json!("aGk="), json!("aGk=")),
        ] {
            assert_eq!(read(element, value), Ok(kept));
        }
        assert_eq!(read(Element::Int32, json!(3_000_000_000_i64)), Err(Wrong::Number("3000000000".to_owned())));
        assert_eq!(read(Element::IntOrString, json!(true)), Err(Wrong::Type));
        assert!(matches!(read(Element::Time, json!("yesterday")), Err(Wrong::Format(_))));
        assert!(matches!(read(Element::Bytes, json!("a?")), Err(Wrong::Format(_))));
    }
}
