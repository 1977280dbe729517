//! Whether a pod's volumes are well-formed.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::registry::{fields, names};
use crate::status::FieldError;

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks the volumes; returns the names that containers may mount.
pub(super) fn volumes<'a>(volumes: &'a [Value], path: &str, errors: &mut Vec<FieldError>) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = fields::text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if let Some(wrong) = names::dns1123_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &wrong));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        source(volume, &path, errors);
    }
    seen
}

fn source(volume: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let sources = volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
    for (extra, (kind, source)) in sources.enumerate() {
        let path = format!("{path}.{kind}");
        if extra > 0 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 volume type"));
            continue;
        }
        match kind.as_str() {
            "hostPath" => host_path(source, &path, errors),
            "secret" => {
                required(source, "secretName", &path, errors);
                mode(source, "defaultMode", &path, errors);
                items(source, &path, errors);
            }
            "configMap" => {
                required(source, "name", &path, errors);
                mode(source, "defaultMode", &path, errors);
                items(source, &path, errors);
            }
            "downwardAPI" => mode(source, "defaultMode", &path, errors),
            "projected" => projected(source, &path, errors),
            "persistentVolumeClaim" => required(source, "claimName", &path, errors),
            _ => {}
        }
    }
}

fn host_path(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    required(source, "path", path, errors);
    let host_path = fields::text(source, "/path");
    if host_path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(format!("{path}.path"), &json!(host_path), "must not contain '..'"));
    }
    let kind = fields::text(source, "/type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind, &HOST_PATH_TYPES));
    }
}

fn projected(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    for (index, source) in fields::items(source, "/sources").iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        for kind in ["secret", "configMap"] {
            if source[kind].is_object() {
                required(&source[kind], "name", &format!("{path}.{kind}"), errors);
                items(&source[kind], &format!("{path}.{kind}"), errors);
            }
        }
        if source["serviceAccountToken"].is_object() {
            let token = &source["serviceAccountToken"];
            let path = format!("{path}.serviceAccountToken");
            required(token, "path", &path, errors);
            let seconds = fields::integer(token, "/expirationSeconds").unwrap_or(3600);
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(format!("{path}.expirationSeconds"), &json!(seconds), detail));
            }
        }
    }
}

/// Which keys become which files.
fn items(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, item) in fields::items(source, "/items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        required(item, "key", &path, errors);
        required(item, "path", &path, errors);
        relative_path(item, "path", &path, errors);
        mode(item, "mode", &path, errors);
    }
}

/// A path inside a volume: relative and without steps back.
pub(super) fn relative_path(object: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    let Some(text) = object.get(field).and_then(Value::as_str) else { return };
    if text.starts_with('/') {
        errors.push(FieldError::invalid(format!("{path}.{field}"), &json!(text), "must be a relative path"));
    }
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(format!("{path}.{field}"), &json!(text), "must not contain '..'"));
    }
}

fn mode(object: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(mode) = object.get(field).and_then(Value::as_i64)
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(format!("{path}.{field}"), &json!(mode), detail));
    }
}

/// A text that may not be empty.
pub(super) fn required(object: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if object.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
        errors.push(FieldError::required(format!("{path}.{field}"), ""));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::invalid;

    #[test]
    fn volumes_are_checked() {
        expect![[r#"
            spec.volumes[0].name: Required value
            spec.volumes[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.volumes[3].name: Duplicate value: "a"
            spec.volumes[4].hostPath: Forbidden: may not specify more than 1 volume type
            spec.volumes[5].hostPath.path: Invalid value: "/a/../b": must not contain '..'
            spec.volumes[5].hostPath.type: Unsupported value: "Disk": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
            spec.volumes[6].secret.secretName: Required value
            spec.volumes[6].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
            spec.volumes[7].configMap.items[0].path: Invalid value: "/p": must be a relative path
            spec.volumes[8].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b}], volumes: [{}, {name: A}, {name: a}, {name: a},
              {name: b, emptyDir: {}, hostPath: {path: /x}}, {name: c, hostPath: {path: /a/../b, type: Disk}},
              {name: d, secret: {defaultMode: 512}}, {name: e, configMap: {name: m, items: [{key: k, path: /p}]}},
              {name: f, projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 5}}]}}]}}",
        ));
    }
}
