//! Reading and filling fields of JSON objects, by JSON pointer, the way Go's typed structs behave: what is absent is zero.

use serde_json::{Map, Value};

/// The string at a pointer, `""` when absent or of another type.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a pointer.
#[must_use]
pub fn integer(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The boolean at a pointer, `false` when absent.
#[must_use]
pub fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The items of the array at a pointer, empty when absent.
#[must_use]
pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of the object at a pointer, none when absent.
pub fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.pointer(pointer).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// Whether something other than null, `""`, `[]` or `{}` is at the pointer.
#[must_use]
pub fn is_set(value: &Value, pointer: &str) -> bool {
    match value.pointer(pointer) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => true,
    }
}

/// Mutable items of a member array, those that are objects.
pub fn items_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter(|item| item.is_object())
}

/// The member object `key`, made when absent or null. `None` when `value` or the member is of another type.
pub fn object_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let member = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if member.is_null() {
        *member = Value::Object(Map::new());
    }
    member.is_object().then_some(member)
}

/// Sets a member that is absent or null: Go's defaulting of pointers.
pub fn set_default(value: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        let member = map.entry(key).or_insert(Value::Null);
        if member.is_null() {
            *member = default.into();
        }
    }
}

/// Sets a member that is absent, null, `""` or 0: Go's defaulting of plain values.
pub fn set_default_zero(value: &mut Value, key: &str, default: impl Into<Value>) {
    let zero = match value.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    };
    if zero && let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets a member of the object at a pointer; nothing when there is no object.
pub fn set(value: &mut Value, pointer: &str, key: &str, member: impl Into<Value>) {
    if let Some(Value::Object(map)) = value.pointer_mut(pointer) {
        map.insert(key.to_owned(), member.into());
    }
}

/// Removes a member.
pub fn remove(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut()?.shift_remove(key)
}

/// `a=b,c=d` in key order, `<none>` when empty: how Tables show label maps.
#[must_use]
pub fn labels_text(labels: Option<&Value>) -> String {
    let mut pairs: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The text, or `<none>` when it is empty.
#[must_use]
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}
