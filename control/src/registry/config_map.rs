//! ConfigMap: keys and values for pods.

use serde_json::Value;

use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Strategy, age_cell, fields, name_cell, names};
use crate::registry::limits::CONFIG_SIZE_MAX;
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    resource: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    storage_prefix: "configmaps",
    subresources: &[],
    strategy: &ConfigMap,
};

static COLUMNS: [Column; 3] = [NAME_COLUMN, Column::text("Data", "Number of keys in data and binaryData."), AGE_COLUMN];

#[derive(Debug)]
struct ConfigMap;

impl Strategy for ConfigMap {
    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context) {}

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in fields::entries(object, "/data") {
            errors.extend(key_error("data", key));
            size += value.as_str().map_or(0, str::len);
            if object["binaryData"].get(key).is_some() {
                let detail = format!("duplicate of key present in binaryData: {key}");
                errors.push(FieldError::invalid(format!("data[{key}]"), &Value::from(key.as_str()), &detail));
            }
        }
        for (key, value) in fields::entries(object, "/binaryData") {
            errors.extend(key_error("binaryData", key));
            // Base64 carries 3 bytes in 4 characters.
            size += value.as_str().map_or(0, str::len) / 4 * 3;
        }
        if size > CONFIG_SIZE_MAX {
            errors.push(FieldError::too_long("", CONFIG_SIZE_MAX));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable_errors(new, old, &["data", "binaryData"])
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        let count = fields::entries(object, "/data").count() + fields::entries(object, "/binaryData").count();
        vec![name_cell(object), count.into(), age_cell(object, now)]
    }
}

/// What is wrong with a key of a ConfigMap or Secret.
pub(super) fn key_error(field: &str, key: &str) -> Option<FieldError> {
    let wrong = names::config_key(key)?;
    Some(FieldError::invalid(format!("{field}[{key}]"), &Value::from(key), &wrong))
}

/// An object marked `immutable` keeps its data and the mark.
pub(super) fn immutable_errors(new: &Value, old: &Value, data_fields: &[&str]) -> Vec<FieldError> {
    if !fields::flag(old, "/immutable") {
        return Vec::new();
    }
    let detail = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if !fields::flag(new, "/immutable") {
        errors.push(FieldError::forbidden("immutable", detail));
    }
    let changed = |field: &&&str| {
        let count = |object: &Value| fields::entries(object, &format!("/{field}")).count();
        new.get(**field) != old.get(**field) && count(new) + count(old) > 0
    };
    errors.extend(data_fields.iter().filter(changed).map(|field| FieldError::forbidden(*field, detail)));
    errors
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{invalid, invalid_update, row};

    #[test]
    fn keys_are_checked() {
        expect![[r#"
            data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[twice]: Invalid value: "twice": duplicate of key present in binaryData: twice"#]]
        .assert_eq(&invalid(&KIND, "{data: {a/b: x, twice: y, fine: z}, binaryData: {twice: eA==}}"));
    }

    #[test]
    fn an_immutable_map_keeps_its_data_and_the_mark() {
        let old = "{immutable: true, data: {a: b}}";
        assert_eq!(invalid_update(&KIND, old, old), "");
        expect![[r"
            immutable: Forbidden: field is immutable when `immutable` is set
            data: Forbidden: field is immutable when `immutable` is set"]]
        .assert_eq(&invalid_update(&KIND, "{data: {a: c}}", old));
    }

    #[test]
    fn more_than_a_mebibyte_is_refused() {
        let object = json!({"data": {"a": "x".repeat(CONFIG_SIZE_MAX + 1)}});
        assert_eq!(KIND.strategy.validate(&object), [FieldError::too_long("", 1_048_576)]);
    }

    #[test]
    fn the_row_counts_keys() {
        let map =
            "{metadata: {name: m, creationTimestamp: '2026-01-01T00:00:00Z'}, data: {a: b}, binaryData: {c: eA==}}";
        expect!["m | 2 | 5m"].assert_eq(&row(&KIND, map));
    }
}
