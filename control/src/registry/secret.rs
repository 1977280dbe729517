//! Secret: a ConfigMap for what few may read; values are base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::config_map::{immutable_errors, key_error};
use super::fields::{entries, text};
use super::limits::CONFIG_SIZE_MAX;
use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Strategy, age_cell, fields, name_cell};
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    resource: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    namespaced: true,
    storage_prefix: "secrets",
    subresources: &[],
    strategy: &Secret,
};

const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

static COLUMNS: [Column; 4] = [
    NAME_COLUMN,
    Column::text("Type", "Used to facilitate programmatic handling of secret data."),
    Column::text("Data", "Number of keys in data."),
    AGE_COLUMN,
];

#[derive(Debug)]
struct Secret;

impl Strategy for Secret {
    /// `stringData` is write-only: its values replace those of `data`.
    fn default(&self, object: &mut Value) {
        fields::set_default_zero(object, "type", "Opaque");
        if let Some(Value::Object(plain)) = fields::remove(object, "stringData")
            && !plain.is_empty()
        {
            let encoded: Map<String, Value> = plain
                .into_iter()
                .map(|(key, value)| (key, STANDARD.encode(value.as_str().unwrap_or_default()).into()))
                .collect();
            if let Some(Value::Object(data)) = fields::object_mut(object, "data") {
                data.extend(encoded);
            }
        }
    }

    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    /// An update without a type keeps the type.
    fn prepare_for_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        if text(new, "/type").is_empty() {
            new["type"] = old["type"].clone();
        }
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in entries(object, "/data") {
            errors.extend(key_error("data", key));
            match STANDARD.decode(value.as_str().unwrap_or_default()) {
                Ok(bytes) => size += bytes.len(),
                Err(_) => {
                    let hidden = json!("<secret contents redacted>");
                    errors.push(FieldError::invalid(format!("data[{key}]"), &hidden, "illegal base64 data"));
                }
            }
        }
        if size > CONFIG_SIZE_MAX {
            errors.push(FieldError::too_long("data", CONFIG_SIZE_MAX));
        }
        required_keys(object, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", &new["type"], "field is immutable"));
        }
        errors.extend(immutable_errors(new, old, &["data"]));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        let count = entries(object, "/data").count();
        vec![name_cell(object), text(object, "/type").into(), count.into(), age_cell(object, now)]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, "/type").to_owned())]
    }
}

/// Each well-known type promises some keys.
fn required_keys(secret: &Value, errors: &mut Vec<FieldError>) {
    let has = |key: &str| secret["data"].get(key).is_some();
    let missing = |key: &str| FieldError::required(format!("data[{key}]"), "");
    let all_of: &[&str] = match text(secret, "/type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username", "password"],
        "kubernetes.io/service-account-token" => {
            if text(&secret["metadata"]["annotations"][ACCOUNT_ANNOTATION], "").is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{ACCOUNT_ANNOTATION}]"), ""));
            }
            &[]
        }
        _ => &[],
    };
    errors.extend(all_of.iter().filter(|key| !has(key)).map(|key| missing(key)));
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{created, invalid, invalid_update, row};

    #[test]
    fn string_data_is_merged_into_data() {
        expect![[r#"
            metadata:
              name: s
            data:
              a: YQ==
              b: cGxhaW4=
              c: dGV4dA==
            type: Opaque
        "#]]
        .assert_eq(&created(&KIND, "{metadata: {name: s}, data: {a: YQ==, b: Yg==}, stringData: {b: plain, c: text}}"));
    }

    #[test]
    fn keys_and_encoding_are_checked() {
        expect![[r#"
            data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[c]: Invalid value: "<secret contents redacted>": illegal base64 data"#]].assert_eq(&invalid(&KIND, "{data: {a/b: YQ==, c: '!'}}"));
    }

    #[test]
    fn known_types_need_their_keys() {
        for (kind, expected) in [
            ("kubernetes.io/tls", "data[tls.crt]: Required value\ndata[tls.key]: Required value"),
            ("kubernetes.io/dockerconfigjson", "data[.dockerconfigjson]: Required value"),
            ("kubernetes.io/basic-auth", "data[username]: Required value\ndata[password]: Required value"),
            (
                "kubernetes.io/service-account-token",
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
            ("example.com/own", ""),
        ] {
            assert_eq!(invalid(&KIND, &format!("{{type: {kind}, data: {{}}}}")), expected, "{kind}");
        }
    }

    #[test]
    fn the_type_stays() {
        assert_eq!(invalid_update(&KIND, "{type: b}", "{type: a}"), "type: Invalid value: \"b\": field is immutable");
    }

    #[test]
    fn the_row_counts_keys() {
        assert_eq!(row(&KIND, "{metadata: {name: s}, type: Opaque, data: {a: YQ==}}"), "s | Opaque | 1 | <unknown>");
    }
}
