//! Whether a Service or a change of one is allowed.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{needs_cluster_ip, needs_node_port};
use crate::registry::endpoints::IP_RULE;
use crate::registry::fields::{integer, items, text};
use crate::registry::pod::containers::port_error;
use crate::registry::pod::validate::{enumerated, labels};
use crate::registry::{fields, names};
use crate::status::FieldError;

pub(super) fn service(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &service["spec"];
    let kind = text(spec, "/type");
    let headless = text(spec, "/clusterIP") == "None";
    if items(spec, "/ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if headless && needs_node_port(spec) {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!("None"), &detail));
    }
    if kind == "ExternalName" {
        external_name(spec, &mut errors);
    }
    ports(spec, &mut errors);
    labels(spec.get("selector"), "spec.selector", &mut errors);
    enumerated(spec, "spec", "sessionAffinity", &["ClientIP", "None"], &mut errors);
    enumerated(spec, "spec", "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &mut errors);
    cluster_ips(spec, &mut errors);
    for (index, address) in items(spec, "/externalIPs").iter().enumerate() {
        if address.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()) {
            errors.push(FieldError::invalid(format!("spec.externalIPs[{index}]"), address, IP_RULE));
        }
    }
    for (field, allowed) in [("externalTrafficPolicy", needs_node_port(spec)), ("internalTrafficPolicy", true)] {
        let value = &spec[field];
        let pointer = format!("/{field}");
        if !fields::is_set(spec, &pointer) {
            continue;
        }
        if !allowed {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid(format!("spec.{field}"), value, detail));
        } else {
            enumerated(spec, "spec", field, &["Cluster", "Local"], &mut errors);
        }
    }
    errors
}

fn external_name(spec: &Value, errors: &mut Vec<FieldError>) {
    if fields::is_set(spec, "/clusterIPs") || fields::is_set(spec, "/clusterIP") {
        errors.push(FieldError::forbidden("spec.clusterIPs", "may not be set when type is 'ExternalName'"));
    }
    // A name may be written with the root's dot.
    let name = text(spec, "/externalName").trim_end_matches('.');
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else if let Some(wrong) = names::dns1123_subdomain(name) {
        errors.push(FieldError::invalid("spec.externalName", &json!(name), &wrong));
    }
}

fn ports(spec: &Value, errors: &mut Vec<FieldError>) {
    let ports = items(spec, "/ports");
    let (mut seen_names, mut seen_ports, mut seen_node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            if let Some(wrong) = names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &wrong));
            } else if !seen_names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
        }
        let number = integer(port, "/port").unwrap_or(0);
        errors.extend(port_error(&format!("{path}.port"), number));
        enumerated(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        target_port(port, &path, errors);
        if !seen_ports.insert((text(port, "/protocol"), number)) {
            let key = json!({"port": number, "protocol": text(port, "/protocol")});
            errors.push(FieldError::duplicate(path.clone(), &key));
        }
        let node_port = integer(port, "/nodePort").unwrap_or(0);
        if node_port == 0 {
            continue;
        }
        if !needs_node_port(spec) {
            let detail = format!("may not be used when `type` is '{}'", text(spec, "/type"));
            errors.push(FieldError::forbidden(format!("{path}.nodePort"), &detail));
        } else if !seen_node_ports.insert((text(port, "/protocol"), node_port)) {
            errors.push(FieldError::duplicate(format!("{path}.nodePort"), &json!(node_port)));
        }
    }
}

fn target_port(port: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.targetPort");
    match &port["targetPort"] {
        Value::String(name) => {
            if let Some(wrong) = names::port_name(name) {
                errors.push(FieldError::invalid(path, &json!(name), &wrong));
            }
        }
        number => errors.extend(port_error(&path, number.as_i64().unwrap_or(0))),
    }
}

fn cluster_ips(spec: &Value, errors: &mut Vec<FieldError>) {
    let first = items(spec, "/clusterIPs").first().and_then(Value::as_str).unwrap_or_default();
    let address = text(spec, "/clusterIP");
    if first != address {
        errors.push(FieldError::invalid("spec.clusterIPs", &spec["clusterIPs"], "first value must match `clusterIP`"));
    }
    let wrong = |address: &str| !address.is_empty() && address != "None" && address.parse::<IpAddr>().is_err();
    if needs_cluster_ip(spec) && wrong(address) {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!(address), IP_RULE));
    }
}

/// The cluster's address of a service stays for as long as it has one.
pub(super) fn service_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (&new["spec"], &old["spec"]);
    let (new_ip, old_ip) = (text(new, "/clusterIP"), text(old, "/clusterIP"));
    if needs_cluster_ip(new) && needs_cluster_ip(old) && !old_ip.is_empty() && new_ip != old_ip {
        return vec![FieldError::invalid("spec.clusterIPs[0]", &json!([new_ip]), "may not change once set")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::service::KIND;
    use crate::registry::testing::{invalid, invalid_update};

    #[test]
    fn ports_are_checked() {
        assert_eq!(invalid(&KIND, "{spec: {selector: {a: b}}}"), "spec.ports: Required value");
        assert_eq!(invalid(&KIND, "{spec: {clusterIP: None}}"), "");
        expect![[r#"
            spec.ports[0].name: Required value
            spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}
            spec.ports[2].name: Duplicate value: "a"
            spec.ports[2].port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[2].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
            spec.ports[2].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[3].targetPort: Invalid value: "a--b": must not contain consecutive hyphens
            spec.ports[3].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {ports: [{port: 80}, {name: a, port: 80}, {name: a, port: 0, protocol: ICMP}, {name: b, port: 9, nodePort: 30000, targetPort: a--b}]}}",
        ));
    }

    #[test]
    fn types_and_addresses_are_checked() {
        expect![[r#"spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#]].assert_eq(&invalid(&KIND, "{spec: {type: Magic, clusterIP: here, ports: [{port: 1}]}}"));
        expect![[r#"
            spec.clusterIPs: Forbidden: may not be set when type is 'ExternalName'
            spec.externalName: Required value"#]]
        .assert_eq(&invalid(&KIND, "{spec: {type: ExternalName, clusterIP: 10.96.0.9}}"));
        expect![[r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#]]
            .assert_eq(&invalid(&KIND, "{spec: {type: NodePort, clusterIP: None, ports: [{port: 1}]}}"));
    }

    #[test]
    fn the_address_stays() {
        let old = "{spec: {clusterIP: 10.96.0.9, ports: [{port: 1}]}}";
        expect![[r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set"#]]
            .assert_eq(&invalid_update(&KIND, "{spec: {clusterIP: 10.96.0.8, ports: [{port: 1}]}}", old));
        assert_eq!(invalid_update(&KIND, "{spec: {type: ExternalName, externalName: a}}", old), "");
    }
}
