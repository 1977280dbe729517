//! Whether a pod's containers are well-formed: names, images, ports, mounts, resources. [`super::environment`] and
//! [`super::probes`] check the rest of each.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::validate::enumerated;
use super::{environment, probes, resources, security, volumes};
use crate::registry::{fields, names};
use crate::status::FieldError;

/// All containers of a pod's specification at `path`.
pub(super) fn containers(spec: &Value, path: &str, volume_names: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let init = fields::items(spec, "/initContainers");
    let main = fields::items(spec, "/containers");
    let mut seen = HashSet::new();
    if main.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for (list, items) in [("containers", main), ("initContainers", init)] {
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            container(item, &path, volume_names, errors);
            let name = fields::text(item, "/name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
            if list == "initContainers" { init_rules(item, &path, errors) } else { main_rules(item, &path, errors) }
        }
    }
    host_ports(spec, path, errors);
}

fn container(container: &Value, path: &str, volume_names: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let name = fields::text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else if let Some(wrong) = names::dns1123_label(name) {
        errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &wrong));
    }
    let image = fields::text(container, "/image");
    if image.trim().is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), &json!(image), detail));
    }
    enumerated(container, path, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], errors);
    enumerated(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    ports(fields::items(container, "/ports"), &format!("{path}.ports"), errors);
    environment::variables(fields::items(container, "/env"), &format!("{path}.env"), errors);
    environment::sources(fields::items(container, "/envFrom"), &format!("{path}.envFrom"), errors);
    mounts(fields::items(container, "/volumeMounts"), &format!("{path}.volumeMounts"), volume_names, errors);
    resources::requirements(&container["resources"], &format!("{path}.resources"), errors);
    security::container(&container["securityContext"], &format!("{path}.securityContext"), errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probes::probe(&container[probe], probe, &format!("{path}.{probe}"), errors);
    }
    for hook in ["postStart", "preStop"] {
        probes::hook(&container["lifecycle"][hook], &format!("{path}.lifecycle.{hook}"), errors);
    }
}

fn main_rules(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if fields::is_set(container, "/restartPolicy") {
        errors.push(FieldError::forbidden(format!("{path}.restartPolicy"), "may not be set for non-init containers"));
    }
}

/// Probes and hooks need a container that stays: a sidecar.
fn init_rules(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let policy = fields::text(container, "/restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        errors.push(FieldError::not_supported(format!("{path}.restartPolicy"), policy, &["Always"]));
    }
    if policy == "Always" {
        return;
    }
    let detail = "may not be set for init containers without restartPolicy=Always";
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if fields::is_set(container, &format!("/{field}")) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
}

fn ports(ports: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = fields::text(port, "/name");
        if !name.is_empty() {
            if let Some(wrong) = names::port_name(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &wrong));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
        }
        match fields::integer(port, "/containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            number => errors.extend(port_error(&format!("{path}.containerPort"), number)),
        }
        let host_port = fields::integer(port, "/hostPort").unwrap_or(0);
        if host_port != 0 {
            errors.extend(port_error(&format!("{path}.hostPort"), host_port));
        }
        enumerated(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

/// What is wrong with a port number.
pub(in crate::registry) fn port_error(field: &str, number: i64) -> Option<FieldError> {
    let detail = "must be between 1 and 65535, inclusive";
    (!(1..=65_535).contains(&number)).then(|| FieldError::invalid(field, &json!(number), detail))
}

/// Two containers cannot hold the same port of the host; on the host's network every port is the host's.
fn host_ports(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let host_network = fields::flag(spec, "/hostNetwork");
    let mut seen = HashSet::new();
    for (container_index, container) in fields::items(spec, "/containers").iter().enumerate() {
        for (index, port) in fields::items(container, "/ports").iter().enumerate() {
            let path = format!("{path}.containers[{container_index}].ports[{index}]");
            let host_port = fields::integer(port, "/hostPort").unwrap_or(0);
            let container_port = fields::integer(port, "/containerPort").unwrap_or(0);
            if host_network && host_port != container_port {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(format!("{path}.containerPort"), &json!(container_port), detail));
            }
            let (protocol, ip) = (fields::text(port, "/protocol"), fields::text(port, "/hostIP"));
            let taken = format!("{protocol}/{ip}/{host_port}");
            if host_port != 0 && !seen.insert(taken.clone()) {
                errors.push(FieldError::duplicate(format!("{path}.hostPort"), &json!(taken)));
            }
        }
    }
}

fn mounts(mounts: &[Value], path: &str, volume_names: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        volumes::required(mount, "name", &path, errors);
        let name = fields::text(mount, "/name");
        if !name.is_empty() && !volume_names.contains(name) {
            errors.push(FieldError::not_found(format!("{path}.name"), &json!(name)));
        }
        volumes::required(mount, "mountPath", &path, errors);
        let mount_path = fields::text(mount, "/mountPath");
        if !mount_path.is_empty() && !seen.insert(mount_path) {
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &json!(mount_path), "must be unique"));
        }
        volumes::relative_path(mount, "subPath", &path, errors);
        volumes::relative_path(mount, "subPathExpr", &path, errors);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::invalid;

    #[test]
    fn names_images_and_policies_are_checked() {
        expect![[r#"
            spec.containers[0].name: Required value
            spec.containers[0].image: Required value
            spec.containers[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[1].image: Invalid value: " b": must not have leading or trailing whitespace
            spec.containers[2].imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", "IfNotPresent", "Never"
            spec.containers[3].name: Duplicate value: "c"
            spec.containers[3].restartPolicy: Forbidden: may not be set for non-init containers
            spec.initContainers[0].name: Duplicate value: "c"
            spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{}, {name: A, image: ' b'}, {name: c, image: b, imagePullPolicy: Maybe},
              {name: c, image: b, restartPolicy: Always}], initContainers: [{name: c, image: b, readinessProbe: {exec: {command: [a]}}}]}}",
        ));
    }

    #[test]
    fn ports_are_checked() {
        expect![[r#"
            spec.containers[0].ports[0].containerPort: Required value
            spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.containers[0].ports[2].name: Invalid value: "a--b": must not contain consecutive hyphens
            spec.containers[0].ports[3].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
            spec.containers[0].ports[4].name: Duplicate value: "web"
            spec.containers[0].ports[4].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive
            spec.containers[1].ports[1].hostPort: Duplicate value: "TCP//81""#]].assert_eq(&invalid(
            &KIND,
            "{spec: {containers: [{name: a, image: b, ports: [{}, {containerPort: 70000}, {containerPort: 1, name: a--b},
              {containerPort: 1, name: web, hostPort: 80, protocol: ICMP}, {containerPort: 2, name: web, hostPort: -1}]},
              {name: c, image: b, ports: [{containerPort: 3, hostPort: 81}, {containerPort: 4, hostPort: 81}]}]}}",
        ));
    }

    #[test]
    fn mounts_name_a_volume_once_a_path() {
        expect![[r#"
            spec.containers[0].volumeMounts[0].name: Not found: "w"
            spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/x": must be unique
            spec.containers[0].volumeMounts[1].subPath: Invalid value: "../y": must not contain '..'
            spec.containers[0].volumeMounts[2].mountPath: Required value"#]]
        .assert_eq(&invalid(
            &KIND,
            "{spec: {volumes: [{name: v}], containers: [{name: a, image: b, volumeMounts: [{name: w, mountPath: /x},
              {name: v, mountPath: /x, subPath: ../y}, {name: v}]}]}}",
        ));
    }
}
