//! Strategic merge patch: a merge patch whose lists merge by key, with directives for what keys cannot say.
//!
//! Follows `strategicpatch.StrategicMergeMapPatch` of Kubernetes' apimachinery, because kubectl computes the patches against that
//! behaviour: `$patch: replace|delete` in an object or list item, `$retainKeys`, `$setElementOrder/<list>` and
//! `$deleteFromPrimitiveList/<list>`. Which lists merge and by which key is in the schema table; what it does not know merges like
//! RFC 7386 (the caller prunes unknown fields later).

use serde_json::{Map, Value};

use super::does_not_apply;
use super::list::{self, Ordering};
use crate::schema::Gvk;
use crate::schema::table::{Element, Field, Message, Shape, Strategy, Table};
use crate::status::ApiError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;
/// The message an object is of, when the table knows it.
type Schema = Option<&'static Message>;

pub(super) fn apply(doc: &Value, patch: &Value, gvk: &Gvk) -> Result<Value, ApiError> {
    let Some(schema) = Table::get().kind(gvk) else {
        return Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json",
        ));
    };
    let (Value::Object(doc), Value::Object(patch)) = (doc, patch) else {
        return Err(ApiError::bad_request("a strategic merge patch must be a JSON object"));
    };
    merge_object(doc.clone(), patch.clone(), Some(schema)).map(Value::Object)
}

fn merge_object(mut original: Object, mut patch: Object, schema: Schema) -> Result<Object, ApiError> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives(patch)),
            Some("delete") => Ok(Object::new()),
            _ => Err(ApiError::bad_request(format!("unknown patch type {directive} in a map"))),
        };
    }
    if let Some(kept) = patch.shift_remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &kept)?;
    }
    merge_ordered_lists(&mut original, &mut patch, schema)?;
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM_PRIMITIVE_LIST) {
            delete_from_primitive_list(&mut original, name, &change)?;
        } else if change.is_null() {
            original.shift_remove(&key);
        } else {
            merge_field(&mut original, key, change, schema)?;
        }
    }
    Ok(original)
}

fn merge_field(original: &mut Object, key: String, change: Value, schema: Schema) -> Result<(), ApiError> {
    let field = schema.and_then(|message| message.field(&key));
    let strategy = field.map(|field| field.patch.strategy).unwrap_or_default();
    let merged = match (original.get_mut(&key).map(Value::take), change) {
        (Some(Value::Object(old)), Value::Object(change)) if strategy != Strategy::Replace => {
            Value::Object(merge_object(old, change, field.and_then(message_of))?)
        }
        (Some(Value::Array(old)), Value::Array(change)) => Value::Array(merge_list(old, change, field)?),
        // `$patch: delete` of what is not there.
        (None, change) => match cleaned(change) {
            Some(value) => value,
            None => return Ok(()),
        },
        (Some(_), change) => cleaned(change).unwrap_or(Value::Null),
    };
    if merged.is_null() {
        original.shift_remove(&key);
    } else {
        original.insert(key, merged);
    }
    Ok(())
}

/// The message of an object field or of the items of a list field.
fn message_of(field: &Field) -> Schema {
    match (field.shape, field.element) {
        (Shape::One | Shape::List, Element::Message(id)) => Some(Table::get().message(id)),
        _ => None,
    }
}

fn merge_list(old: Vec<Value>, change: Vec<Value>, field: Option<&Field>) -> Result<Vec<Value>, ApiError> {
    let strategy = field.map(|field| field.patch.strategy).unwrap_or_default();
    match strategy {
        Strategy::Default | Strategy::Replace => Ok(change.into_iter().filter_map(cleaned).collect()),
        Strategy::MergeSet => {
            let merged = list::union(&old, &change);
            Ok(list::ordered(merged, &change, &old, Ordering::Scalars))
        }
        Strategy::MergeBy(key) => {
            let (items, change) = apply_item_directives(old.clone(), change, key)?;
            let merged = merge_items(items, &change, key, field.and_then(message_of))?;
            Ok(list::ordered(merged, &change, &old, Ordering::By(key)))
        }
    }
}

/// Acts on `{"$patch": …}` items; returns what is left of the original and the plain items of the patch.
fn apply_item_directives(
    mut items: Vec<Value>,
    change: Vec<Value>,
    key: &'static str,
) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
    let mut plain = Vec::with_capacity(change.len());
    let mut is_replaced = false;
    for item in change {
        match item.get(PATCH) {
            None => plain.push(item),
            Some(Value::String(directive)) if directive == "delete" => {
                let value = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                items.retain(|old| old.get(key) != Some(value));
            }
            Some(Value::String(directive)) if directive == "replace" => is_replaced = true,
            Some(Value::String(directive)) if directive == "merge" => {
                return Err(ApiError::bad_request("merging lists cannot yet be specified in the patch"));
            }
            Some(other) => return Err(ApiError::bad_request(format!("unknown patch type {other} in a list"))),
        }
    }
    if is_replaced {
        items.clear();
    }
    Ok((items, plain))
}

fn merge_items(
    mut items: Vec<Value>,
    change: &[Value],
    key: &'static str,
    schema: Schema,
) -> Result<Vec<Value>, ApiError> {
    for item in change {
        let (Some(value), Value::Object(change)) = (item.get(key), item) else {
            return Err(no_merge_key(item, key));
        };
        match items.iter_mut().find(|old| old.get(key) == Some(value)) {
            Some(Value::Object(old)) => *old = merge_object(std::mem::take(old), change.clone(), schema)?,
            _ => items.extend(cleaned(item.clone())),
        }
    }
    Ok(items)
}

/// Handles each `$setElementOrder/<list>` together with the list it orders, and takes both out of the patch.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, schema: Schema) -> Result<(), ApiError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.shift_remove(&directive);
        let (Some(Value::Array(order)), Some(name)) = (order, directive.strip_prefix(SET_ELEMENT_ORDER)) else {
            return Err(ApiError::bad_request(format!("{directive} must be a list")));
        };
        let field = schema.and_then(|message| message.field(name));
        let by = match field.map(|field| field.patch.strategy) {
            Some(Strategy::MergeBy(key)) => Ordering::By(key),
            _ => Ordering::Scalars,
        };
        // `null` deletes the list, whatever its order was to be.
        let change = match patch.get(name) {
            Some(Value::Array(_)) => patch.shift_remove(name),
            Some(_) => continue,
            None => None,
        };
        if let Some(Value::Array(change)) = &change {
            check_order(change, &order, by)?;
        }
        let old = match original.get(name) {
            Some(Value::Array(old)) => Some(old.clone()),
            None | Some(Value::Null) => None,
            Some(_) => return Err(does_not_apply(&format!("{name} is not a list"))),
        };
        let merged = match (&old, change) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (Some(old), Some(Value::Array(change))) => merge_list(old.clone(), change, field)?,
            (_, change) => match change.and_then(cleaned) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
        };
        let ordered = list::ordered(merged, &order, &old.unwrap_or_default(), by);
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// The items of a patch list must appear in its order list, in the same order.
fn check_order(change: &[Value], order: &[Value], by: Ordering) -> Result<(), ApiError> {
    let mut places = order.iter();
    for item in change.iter().filter(|item| item.get(PATCH).is_none()) {
        if !places.any(|place| by.is_same(place, item)) {
            return Err(ApiError::bad_request(
                "invalid patch format of setElementOrder list: the order in patch list doesn't match it",
            ));
        }
    }
    Ok(())
}

fn retain_keys(original: &mut Object, patch: &Object, kept: &Value) -> Result<(), ApiError> {
    let malformed = || ApiError::bad_request("invalid patch format of retainKeys");
    let kept: Vec<&str> = kept.as_array().ok_or_else(malformed)?.iter().filter_map(Value::as_str).collect();
    let is_directive = |key: &str| key.starts_with(SET_ELEMENT_ORDER) || key.starts_with(DELETE_FROM_PRIMITIVE_LIST);
    let is_covered =
        |(key, value): (&String, &Value)| value.is_null() || is_directive(key) || kept.contains(&key.as_str());
    if !patch.iter().all(is_covered) {
        return Err(malformed());
    }
    original.retain(|key, _| kept.contains(&key.as_str()));
    Ok(())
}

fn delete_from_primitive_list(original: &mut Object, name: &str, deleted: &Value) -> Result<(), ApiError> {
    let Value::Array(deleted) = deleted else {
        return Err(ApiError::bad_request("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !deleted.contains(item));
    }
    Ok(())
}

fn no_merge_key(item: &Value, key: &str) -> ApiError {
    does_not_apply(&format!("map: {item} does not contain declared merge key: {key}"))
}

/// A patch value that becomes part of the object as it is: without nulls and directives. None if it only deletes.
fn cleaned(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) if map.get(PATCH).is_some_and(|directive| directive == "delete") => None,
        Value::Object(map) => Some(Value::Object(without_directives(map))),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(cleaned).collect())),
        scalar => Some(scalar),
    }
}

fn without_directives(map: Object) -> Object {
    let is_directive = |key: &str| {
        key == PATCH
            || key == RETAIN_KEYS
            || key.starts_with(SET_ELEMENT_ORDER)
            || key.starts_with(DELETE_FROM_PRIMITIVE_LIST)
    };
    map.into_iter().filter(|(key, _)| !is_directive(key)).filter_map(|(key, v)| Some((key, cleaned(v)?))).collect()
}
