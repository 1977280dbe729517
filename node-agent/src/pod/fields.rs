//! What a pod may know of itself: `fieldRef` and `resourceFieldRef`, for variables and for downward API files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::quantity;

/// The facts that are not in the pod object yet when its first container starts.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    pub allocatable: Allocatable,
}

/// What the node offers to pods; an unset limit reads as this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allocatable {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
    pub pods: i64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
}

/// The value of a `fieldRef`. Whole label and annotation maps are `key="escaped value"` lines, for volumes.
pub fn field(pod: &Pod, facts: &Facts, selector: &ObjectFieldSelector) -> Result<String, FieldError> {
    let path = selector.field_path.as_str();
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let from = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(from.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// `metadata.labels['key']` as (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`, divided and rounded up. `own` is the container that asks.
pub fn resource(
    pod: &Pod,
    facts: &Facts,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => named(pod, name).ok_or_else(|| FieldError::Container(name.to_owned()))?,
        None => own.ok_or_else(|| FieldError::Container(String::new()))?,
    };
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let set = match side {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let found = set.and_then(|map| map.get(resource)).map(|quantity| quantity.0.clone());
    let value = match (found, side, resource) {
        (Some(value), ..) => value,
        (None, "limits", "cpu") => format!("{}m", facts.allocatable.cpu_milli),
        (None, "limits", "memory") => facts.allocatable.memory_bytes.to_string(),
        (None, "limits", "ephemeral-storage") => facts.allocatable.ephemeral_storage_bytes.to_string(),
        (None, _, "cpu" | "memory" | "ephemeral-storage") => "0".to_owned(),
        (None, _, name) if name.starts_with("hugepages-") => "0".to_owned(),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let divisor = if matches!(divisor, "" | "0") { "1" } else { divisor };
    quantity::divided(&value, divisor).map(|number| number.to_string()).ok_or_else(unsupported)
}

fn named<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "a", "b": "say \"x\"\n"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "default", "containers": [
                {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "1500m"}}}
            ]}
        }))
        .unwrap()
    }

    fn facts() -> Facts {
        let allocatable = Allocatable { cpu_milli: 2000, memory_bytes: 1 << 30, ..Allocatable::default() };
        Facts { host_ips: vec!["192.0.2.1".into()], pod_ips: vec!["10.1.0.2".into(), "fd00::2".into()], allocatable }
    }

    #[test]
    fn fields_of_the_pod() {
        let cases = [
            ("metadata.name", Ok("p")),
            ("metadata.labels['app']", Ok("a")),
            ("metadata.annotations['none']", Ok("")),
            ("metadata.labels", Ok("app=\"a\"\nb=\"say \\\"x\\\"\\n\"")),
            ("status.hostIP", Ok("192.0.2.1")),
            ("status.podIPs", Ok("10.1.0.2,fd00::2")),
            ("spec.serviceAccountName", Ok("default")),
            ("spec.replicas", Err(FieldError::Path("spec.replicas".into()))),
        ];
        for (path, expected) in cases {
            let selector = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
            assert_eq!(field(&pod(), &facts(), &selector), expected.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn resources_of_a_container() {
        let cases = [
            ("limits.memory", "1Mi", "64"),
            ("limits.cpu", "1", "2"),
            ("requests.cpu", "1", "2"),
            ("requests.cpu", "1m", "1500"),
            ("requests.memory", "1", "0"),
        ];
        for (resource_name, divisor, expected) in cases {
            let selector: ResourceFieldSelector = serde_json::from_value(
                serde_json::json!({"resource": resource_name, "divisor": divisor, "containerName": "c"}),
            )
            .unwrap();
            assert_eq!(resource(&pod(), &facts(), None, &selector).unwrap(), expected, "{resource_name}/{divisor}");
        }
    }
}
