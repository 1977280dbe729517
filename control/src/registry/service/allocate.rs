//! Cluster IPs and node ports: each belongs to one Service.
//!
//! There is no allocator state beside the Services themselves, so nothing can leak or disagree: what is in use is read from the
//! Services that exist, and the choice depends on the new object's uid, so that two servers seldom pick the same.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{needs_cluster_ip, needs_node_port};
use crate::registry::fields::{self, integer, is_set, items, text};
use crate::registry::{Context, Ranges};
use crate::status::{ApiError, FieldError};

/// Gives the service what its type needs and it does not have; refuses what others have.
pub fn allocate(service: &mut Value, existing: &[&Value], ranges: &Ranges, ctx: &Context) -> Result<(), ApiError> {
    let uid = text(service, "/metadata/uid").to_owned();
    let others: Vec<&Value> =
        existing.iter().copied().filter(|other| uid.is_empty() || text(other, "/metadata/uid") != uid).collect();
    let mut errors = Vec::new();
    if needs_cluster_ip(&service["spec"]) {
        cluster_ip(service, &others, ranges, ctx, &mut errors)?;
    }
    if needs_node_port(&service["spec"]) {
        node_ports(service, &others, ranges, ctx, &mut errors)?;
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("", "Service", text(service, "/metadata/name"), &errors))
}

fn cluster_ip(
    service: &mut Value,
    others: &[&Value],
    ranges: &Ranges,
    ctx: &Context,
    errors: &mut Vec<FieldError>,
) -> Result<(), ApiError> {
    let (base, prefix) = ranges.service_cidr;
    let size = 1_u64 << (32 - u32::from(prefix.min(31)));
    let network = u32::from(base) & u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(prefix))).unwrap_or(0);
    let used: HashSet<&str> = others.iter().map(|other| text(other, "/spec/clusterIP")).collect();
    let wanted = text(&service["spec"], "/clusterIP").to_owned();
    if wanted == "None" {
        return Ok(());
    }
    if !wanted.is_empty() {
        let offset = wanted.parse::<Ipv4Addr>().ok().map(|ip| u64::from(u32::from(ip).wrapping_sub(network)));
        let wrong = if !offset.is_some_and(|offset| (1..size - 1).contains(&offset)) {
            format!("the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {base}/{prefix}")
        } else if used.contains(wanted.as_str()) {
            "provided IP is already allocated".to_owned()
        } else {
            return Ok(());
        };
        let detail = format!("failed to allocate IP {wanted}: {wrong}");
        errors.push(FieldError::invalid("spec.clusterIPs", &json!([wanted]), &detail));
        return Ok(());
    }
    // The low end is left for addresses that people choose, as in Kubernetes, and taken last.
    let reserved = (size / 16).clamp(16, 256).min(size - 1);
    let upper = probe(seed(&ctx.uid), reserved, size - 1);
    let lower = 1..reserved;
    let address = upper
        .chain(lower)
        .map(|offset| Ipv4Addr::from(network.wrapping_add(offset as u32)).to_string())
        .find(|address| !used.contains(address.as_str()))
        .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?;
    fields::set(service, "/spec", "clusterIPs", json!([address]));
    fields::set(service, "/spec", "clusterIP", address);
    Ok(())
}

fn node_ports(
    service: &mut Value,
    others: &[&Value],
    ranges: &Ranges,
    ctx: &Context,
    errors: &mut Vec<FieldError>,
) -> Result<(), ApiError> {
    let mut used: HashSet<i64> = others.iter().flat_map(|other| node_ports_of(&other["spec"])).collect();
    let (first, last) = (i64::from(*ranges.node_ports.start()), i64::from(*ranges.node_ports.end()));
    for (index, port) in items(&service["spec"], "/ports").iter().enumerate() {
        let Some(number) = integer(port, "/nodePort").filter(|number| *number != 0) else { continue };
        let detail = if !(first..=last).contains(&number) {
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
        } else if used.contains(&number) {
            "provided port is already allocated".to_owned()
        } else {
            continue;
        };
        errors.push(FieldError::invalid(format!("spec.ports[{index}].nodePort"), &json!(number), &detail));
    }
    used.extend(node_ports_of(&service["spec"]));
    let skips =
        text(&service["spec"], "/type") == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"] == false;
    if skips {
        return Ok(());
    }
    let mut candidates = probe(seed(&ctx.uid), first as u64, last as u64 + 1);
    for port in fields::items_mut(&mut service["spec"], "ports") {
        if integer(port, "/nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let free = candidates.find(|number| !used.contains(&(*number as i64)));
        let number = free.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
        port["nodePort"] = number.into();
    }
    Ok(())
}

fn node_ports_of(spec: &Value) -> impl Iterator<Item = i64> {
    items(spec, "/ports").iter().filter_map(|port| integer(port, "/nodePort")).filter(|number| *number != 0)
}

/// Every number of `first..end` once, from a place that the seed chooses.
fn probe(seed: u64, first: u64, end: u64) -> impl Iterator<Item = u64> {
    let size = end.saturating_sub(first);
    let start = if size == 0 { 0 } else { seed % size };
    (0..size).map(move |step| first + (start + step) % size)
}

/// FNV-1a of the uid: spreads well, and the same everywhere.
fn seed(uid: &str) -> u64 {
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// On update: an address or port that the client leaves out stays, one that the new type cannot have goes.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(new) && needs_cluster_ip(old) && !is_set(new, "/clusterIP") {
        for field in ["clusterIP", "clusterIPs"] {
            crate::registry::keep_field(new, old, field);
        }
    }
    if !needs_cluster_ip(new) && new.get("clusterIP") == old.get("clusterIP") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            fields::remove(new, field);
        }
    }
    let (new_needs, old_needs) = (needs_node_port(new), needs_node_port(old));
    if old_needs && !new_needs && new.get("externalTrafficPolicy") == old.get("externalTrafficPolicy") {
        fields::remove(new, "externalTrafficPolicy");
    }
    for port in fields::items_mut(new, "ports") {
        let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        let before = items(old, "/ports").iter().find(same).and_then(|port| integer(port, "/nodePort"));
        if old_needs && new_needs {
            if let Some(number) = before {
                fields::set_default_zero(port, "nodePort", number);
            }
        } else if old_needs && integer(port, "/nodePort") == before {
            fields::remove(port, "nodePort");
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{context, object, yaml};

    /// The specification after allocation among `others`, or the refusal.
    fn allocated(spec: &str, others: &[&str]) -> String {
        let mut service = object(&format!("{{metadata: {{name: s, uid: mine}}, spec: {spec}}}"));
        let others: Vec<Value> = others.iter().map(|other| object(other)).collect();
        let others: Vec<&Value> = others.iter().collect();
        match allocate(&mut service, &others, &Ranges::default(), &context()) {
            Ok(()) => yaml(&service["spec"]),
            Err(error) => format!("{} {}", error.code, error.message),
        }
    }

    const OTHER: &str = "{metadata: {uid: other}, spec: {clusterIP: 10.96.0.10, ports: [{port: 1, nodePort: 30080}]}}";

    #[test]
    fn an_address_and_node_ports_are_chosen() {
        expect![[r#"
            type: NodePort
            ports:
            - port: 80
              nodePort: 31681
            - port: 81
              nodePort: 31000
            clusterIPs:
            - 10.96.98.5
            clusterIP: 10.96.98.5
        "#]]
        .assert_eq(&allocated("{type: NodePort, ports: [{port: 80}, {port: 81, nodePort: 31000}]}", &[OTHER]));
    }

    #[test]
    fn what_another_service_has_is_refused() {
        expect![[r#"422 Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: provided IP is already allocated"#]].assert_eq(&allocated("{type: ClusterIP, clusterIP: 10.96.0.10}", &[OTHER]));
        expect![[r#"422 Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.97.0.10"]: failed to allocate IP 10.97.0.10: the provided IP (10.97.0.10) is not in the valid range. The range of valid IPs is 10.96.0.0/16"#]].assert_eq(&allocated("{type: ClusterIP, clusterIP: 10.97.0.10}", &[OTHER]));
        expect![[r#"422 Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"#]].assert_eq(&allocated("{type: NodePort, clusterIP: 10.96.0.11, ports: [{nodePort: 30080}]}", &[OTHER]));
        expect![[r#"422 Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"#]].assert_eq(&allocated("{type: NodePort, clusterIP: 10.96.0.11, ports: [{nodePort: 80}]}", &[OTHER]));
    }

    #[test]
    fn what_the_service_itself_has_is_its_own() {
        let own = "{metadata: {uid: mine}, spec: {clusterIP: 10.96.0.10, ports: [{port: 1, nodePort: 30080}]}}";
        assert!(
            allocated("{type: NodePort, clusterIP: 10.96.0.10, ports: [{nodePort: 30080}]}", &[own])
                .starts_with("type")
        );
    }

    #[test]
    fn headless_and_external_services_get_nothing() {
        assert_eq!(allocated("{type: ClusterIP, clusterIP: None}", &[]), "type: ClusterIP\nclusterIP: None\n");
        assert_eq!(allocated("{type: ExternalName}", &[]), "type: ExternalName\n");
    }

    #[test]
    fn a_full_range_is_an_error_and_a_nearly_full_one_is_used_up() {
        let ranges = Ranges { service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 29), ..Ranges::default() };
        let mut taken: Vec<Value> = Vec::new();
        for _ in 0..6 {
            let mut service = object("{metadata: {name: s}, spec: {type: ClusterIP}}");
            allocate(&mut service, &taken.iter().collect::<Vec<_>>(), &ranges, &context()).unwrap();
            taken.push(service);
        }
        let mut addresses: Vec<&str> = taken.iter().map(|service| text(service, "/spec/clusterIP")).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, (1..7).map(|n| format!("10.96.0.{n}")).collect::<Vec<_>>());
        let mut service = object("{metadata: {name: s}, spec: {type: ClusterIP}}");
        let error = allocate(&mut service, &taken.iter().collect::<Vec<_>>(), &ranges, &context()).unwrap_err();
        assert_eq!(error.code, 500);
    }

    #[test]
    fn an_update_keeps_what_the_type_still_has() {
        let old = object(
            "{type: NodePort, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{port: 1, protocol: TCP, nodePort: 30001}]}",
        );
        let mut new = object("{type: NodePort, ports: [{port: 1, protocol: TCP}]}");
        keep_allocated(&mut new, &old);
        assert_eq!(new, old);
        let mut new = object("{type: ClusterIP, ports: [{port: 1, protocol: TCP, nodePort: 30001}]}");
        keep_allocated(&mut new, &old);
        expect![[r#"
            type: ClusterIP
            ports:
            - port: 1
              protocol: TCP
            clusterIP: 10.96.0.9
            clusterIPs:
            - 10.96.0.9
        "#]]
        .assert_eq(&yaml(&new));
    }
}
