//! What is in a volume, and where a container sees it: contents and mounts as data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeMount, VolumeProjection,
};

use super::environment::Names;
use super::expand::expand;
use super::fields::{self, Facts};
use crate::limits::PROJECTED_BYTES_MAX;
use crate::runtime::plan::{Mount, MountSource, Propagation};

/// Files by their path in the volume.
pub type Contents = BTreeMap<String, FileContent>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VolumeError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("references non-existent config key: {0}")]
    NoConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("{0:?} is not a path inside the volume")]
    Path(String),
    #[error("the contents are larger than {PROJECTED_BYTES_MAX} bytes")]
    TooLarge,
    #[error("volume \"{0}\" is of a kind that this node does not support")]
    Unsupported(String),
    #[error("no volume is named \"{0}\"")]
    NoVolume(String),
    #[error("{0}")]
    Field(#[from] fields::FieldError),
}

const MODE_DEFAULT: i32 = 0o644;

/// The objects that a volume's contents are made of.
pub fn names(volume: &Volume) -> Names {
    let mut names = Names::default();
    names.config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
    names.secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        names.config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
        names.secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
    }
    names
}

/// Whether contents may change while the pod runs.
pub fn is_refreshed(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// What the contents of a volume depend on besides the pod.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub facts: &'a Facts,
    pub config_maps: &'a BTreeMap<String, ConfigMap>,
    pub secrets: &'a BTreeMap<String, Secret>,
    /// Tokens by their path in the volume.
    pub tokens: &'a BTreeMap<String, String>,
}

/// The files of a volume that is made of objects; `None` for other kinds.
pub fn contents(volume: &Volume, inputs: &Inputs<'_>) -> Result<Option<Contents>, VolumeError> {
    let mut out = Contents::new();
    if let Some(source) = &volume.config_map {
        let is_optional = source.optional == Some(true);
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        config_map(&mut out, inputs, &source.name, source.items.as_deref(), mode, is_optional)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        secret(&mut out, inputs, name, source.items.as_deref(), mode, source.optional == Some(true))?;
    } else if let Some(source) = &volume.downward_api {
        downward(
            &mut out,
            inputs,
            source.items.as_deref().unwrap_or_default(),
            source.default_mode.unwrap_or(MODE_DEFAULT),
        )?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        for source in source.sources.iter().flatten() {
            projection(&mut out, inputs, source, mode)?;
        }
    } else {
        return Ok(None);
    }
    for path in out.keys() {
        check_path(path)?;
    }
    let total: usize = out.values().map(|file| file.bytes.len()).sum();
    if total > PROJECTED_BYTES_MAX { Err(VolumeError::TooLarge) } else { Ok(Some(out)) }
}

fn projection(
    out: &mut Contents,
    inputs: &Inputs<'_>,
    source: &VolumeProjection,
    mode: i32,
) -> Result<(), VolumeError> {
    if let Some(source) = &source.config_map {
        config_map(out, inputs, &source.name, source.items.as_deref(), mode, source.optional == Some(true))?;
    }
    if let Some(source) = &source.secret {
        secret(out, inputs, &source.name, source.items.as_deref(), mode, source.optional == Some(true))?;
    }
    if let Some(source) = &source.downward_api {
        downward(out, inputs, source.items.as_deref().unwrap_or_default(), mode)?;
    }
    if let Some(token) =
        source.service_account_token.as_ref().and_then(|source| Some((source, inputs.tokens.get(&source.path)?)))
    {
        put(out, &token.0.path, token.1.clone().into_bytes(), mode);
    }
    Ok(())
}

fn config_map(
    out: &mut Contents,
    inputs: &Inputs<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    is_optional: bool,
) -> Result<(), VolumeError> {
    let Some(map) = inputs.config_maps.get(name) else {
        return if is_optional { Ok(()) } else { Err(VolumeError::NoConfigMap(name.to_owned())) };
    };
    let mut data: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    data.extend(map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.clone().into_bytes())));
    data.extend(map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.clone())));
    select(out, &data, items, mode, is_optional).map_err(VolumeError::NoConfigKey)
}

fn secret(
    out: &mut Contents,
    inputs: &Inputs<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    is_optional: bool,
) -> Result<(), VolumeError> {
    let Some(secret) = inputs.secrets.get(name) else {
        return if is_optional { Ok(()) } else { Err(VolumeError::NoSecret(name.to_owned())) };
    };
    let data: BTreeMap<&str, Vec<u8>> =
        secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.clone())).collect();
    select(out, &data, items, mode, is_optional).map_err(VolumeError::NoSecretKey)
}

/// All keys under their own names, or the chosen ones under chosen paths. The error is a key that does not exist.
fn select(
    out: &mut Contents,
    data: &BTreeMap<&str, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    is_optional: bool,
) -> Result<(), String> {
    match items.filter(|items| !items.is_empty()) {
        None => {
            for (key, bytes) in data {
                put(out, key, bytes.clone(), mode);
            }
        }
        Some(items) => {
            for item in items {
                match data.get(item.key.as_str()) {
                    Some(bytes) => put(out, &item.path, bytes.clone(), item.mode.unwrap_or(mode)),
                    None if is_optional => {}
                    None => return Err(item.key.clone()),
                }
            }
        }
    }
    Ok(())
}

fn downward(
    out: &mut Contents,
    inputs: &Inputs<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
) -> Result<(), VolumeError> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(inputs.pod, inputs.facts, selector)?,
            (None, Some(selector)) => fields::resource(inputs.pod, inputs.facts, None, selector)?,
            (None, None) => String::new(),
        };
        put(out, &item.path, text.into_bytes(), item.mode.unwrap_or(mode));
    }
    Ok(())
}

fn put(out: &mut Contents, path: &str, bytes: Vec<u8>, mode: i32) {
    out.insert(path.to_owned(), FileContent { bytes, mode: u32::try_from(mode).unwrap_or(0o644) & 0o7777 });
}

/// Relative, without `..`, and not in the way of the `..data` link.
fn check_path(path: &str) -> Result<(), VolumeError> {
    let is_fine = !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "..")
        && !path.starts_with("..");
    if is_fine { Ok(()) } else { Err(VolumeError::Path(path.to_owned())) }
}

/// Where a volume is on the node, for mounting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Path(PathBuf),
    /// A memory file system of the pod's sandbox.
    Memory(String),
}

/// The mounts of a container. `place` says where a volume is; `env` is what `subPathExpr` is expanded with.
pub fn mounts(
    container: &Container,
    place: impl Fn(&str) -> Option<Place>,
    env: &[(String, String)],
) -> Result<Vec<Mount>, VolumeError> {
    container.volume_mounts.iter().flatten().map(|mount| one_mount(mount, place(&mount.name), env)).collect()
}

fn one_mount(mount: &VolumeMount, place: Option<Place>, env: &[(String, String)]) -> Result<Mount, VolumeError> {
    let place = place.ok_or_else(|| VolumeError::NoVolume(mount.name.clone()))?;
    let lookup = |name: &str| env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let expression = mount.sub_path_expr.as_deref().filter(|path| !path.is_empty()).map(|path| expand(path, lookup));
    let sub_path = expression.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty());
    if let Some(path) = &sub_path
        && (path.starts_with('/') || path.split('/').any(|part| part == ".."))
    {
        return Err(VolumeError::Path(path.clone()));
    }
    let source = match (place, sub_path) {
        (Place::Path(root), None) => MountSource::Bind(root),
        (Place::Path(root), Some(sub_path)) => MountSource::BindBelow { root, sub_path: sub_path.into() },
        (Place::Memory(name), sub_path) => MountSource::SandboxTmpfs { name, sub_path: sub_path.map(PathBuf::from) },
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    Ok(Mount {
        destination: mount.mount_path.clone().into(),
        source,
        read_only: mount.read_only == Some(true),
        propagation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(volume: serde_json::Value, expected: Expect) {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"token": "c2VjcmV0"}})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"x": "y"}}})).unwrap();
        let inputs = Inputs {
            pod: &pod,
            facts: &Facts::default(),
            config_maps: &BTreeMap::from([("m".to_owned(), map)]),
            secrets: &BTreeMap::from([("s".to_owned(), secret)]),
            tokens: &BTreeMap::from([("token".to_owned(), "jwt".to_owned())]),
        };
        let text = match contents(&volume, &inputs) {
            Ok(None) => "not made of objects\n".to_owned(),
            Ok(Some(files)) => files
                .iter()
                .map(|(path, file)| format!("{path} {:o} {:?}\n", file.mode, String::from_utf8_lossy(&file.bytes)))
                .collect(),
            Err(error) => format!("error: {error}\n"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn contents_of_volumes() {
        check(
            json!({"name": "v", "configMap": {"name": "m"}}),
            expect![[r#"
            a 644 "1"
            b 644 "2"
            c 644 "\0\u{1}"
        "#]],
        );
        check(
            json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 256, "items": [{"key": "token", "path": "d/t"}]}}),
            expect![[r#"
            d/t 400 "secret"
        "#]],
        );
        check(
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}),
            expect![[r#"
                ca.crt 644 "1"
                labels 644 "x=\"y\""
                token 644 "jwt"
            "#]],
        );
        check(
            json!({"name": "v", "emptyDir": {}}),
            expect![[r#"
            not made of objects
        "#]],
        );
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        check(
            json!({"name": "v", "configMap": {"name": "none"}}),
            expect![[r#"
            error: configmap "none" not found
        "#]],
        );
        check(json!({"name": "v", "configMap": {"name": "none", "optional": true}}), expect![[""]]);
        check(
            json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "k"}]}}),
            expect![[r#"
            error: references non-existent secret key: k
        "#]],
        );
        check(
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "../etc/x"}]}}),
            expect![[r#"
            error: "../etc/x" is not a path inside the volume
        "#]],
        );
    }

    #[test]
    fn mounts_of_a_container() {
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "/v", "readOnly": true}, {"name": "v", "mountPath": "/w", "subPathExpr": "$(POD)/x"},
            {"name": "m", "mountPath": "/m", "subPath": "y"}]}))
        .unwrap();
        let place =
            |name: &str| Some(if name == "m" { Place::Memory("m".into()) } else { Place::Path("/data/v".into()) });
        let found = mounts(&container, place, &[("POD".into(), "p".into())]).unwrap();
        let sources: Vec<_> = found.into_iter().map(|mount| (mount.source, mount.read_only)).collect();
        assert_eq!(
            sources,
            [
                (MountSource::Bind("/data/v".into()), true),
                (MountSource::BindBelow { root: "/data/v".into(), sub_path: "p/x".into() }, false),
                (MountSource::SandboxTmpfs { name: "m".into(), sub_path: Some("y".into()) }, false),
            ]
        );
    }

    #[test]
    fn a_sub_path_cannot_climb() {
        let container: Container = serde_json::from_value(
            json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a/../../b"}]}),
        )
        .unwrap();
        assert_eq!(
            mounts(&container, |_| Some(Place::Path("/x".into())), &[]),
            Err(VolumeError::Path("a/../../b".into()))
        );
    }
}
