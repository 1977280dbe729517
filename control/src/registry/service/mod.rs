//! Service: one stable address for a set of pods.
//!
//! [`allocate`] hands out cluster IPs and node ports, [`validate`] checks.

use serde_json::{Value, json};

use super::fields::{integer, is_set, items, or_none, text};
use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Ranges, STATUS_VERBS, Strategy, Subresource};
use super::{age_cell, fields, keep_field, name_cell, names};
use crate::status::{ApiError, FieldError};

pub mod allocate;
pub mod validate;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    resource: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    storage_prefix: "services/specs",
    subresources: &[Subresource { name: "status", kind: "Service", group: "", version: "v1", verbs: STATUS_VERBS }],
    strategy: &Service,
};

static COLUMNS: [Column; 7] = [
    NAME_COLUMN,
    Column::text("Type", "Type determines how the Service is exposed."),
    Column::text("Cluster-IP", "The IP address of the service inside the cluster, or None."),
    Column::text("External-IP", "Addresses of the service outside the cluster."),
    Column::text("Port(s)", "The list of ports that are exposed by this service."),
    AGE_COLUMN,
    Column::wide("Selector", "The labels of the pods that traffic goes to."),
];

#[derive(Debug)]
struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        let Some(spec) = fields::object_mut(object, "spec") else { return };
        fields::set_default_zero(spec, "type", "ClusterIP");
        fields::set_default_zero(spec, "sessionAffinity", "None");
        if text(spec, "/sessionAffinity") == "ClientIP"
            && !is_set(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds")
        {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10_800}});
        }
        for port in fields::items_mut(spec, "ports") {
            fields::set_default_zero(port, "protocol", "TCP");
            let number = port.get("port").cloned().unwrap_or(Value::Null);
            fields::set_default_zero(port, "targetPort", number);
        }
        if text(spec, "/type") != "ExternalName" {
            fields::set_default(spec, "internalTrafficPolicy", "Cluster");
            fields::set_default(spec, "ipFamilyPolicy", "SingleStack");
            fields::set_default(spec, "ipFamilies", json!(["IPv4"]));
        }
        if needs_node_port(spec) {
            fields::set_default_zero(spec, "externalTrafficPolicy", "Cluster");
        }
        if text(spec, "/type") == "LoadBalancer" {
            fields::set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        let address = text(spec, "/clusterIP").to_owned();
        if !address.is_empty() && items(spec, "/clusterIPs").is_empty() {
            spec["clusterIPs"] = json!([address]);
        } else if address.is_empty()
            && let Some(first) = items(spec, "/clusterIPs").first().cloned()
        {
            spec["clusterIP"] = first;
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _ctx: &Context) {
        object["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        keep_field(new, old, "status");
        // What is kept depends on the type and on the ports' protocols, which a client may leave to the defaults.
        self.default(new);
        if let Some(spec) = new.get_mut("spec") {
            allocate::keep_allocated(spec, &old["spec"]);
        }
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate::service(object)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::service_update(new, old)
    }

    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns1035_label(name)
    }

    fn allocates(&self) -> bool {
        true
    }

    fn allocate(
        &self,
        object: &mut Value,
        existing: &[&Value],
        ranges: &Ranges,
        ctx: &Context,
    ) -> Result<(), ApiError> {
        allocate::allocate(object, existing, ranges, ctx)
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![
            name_cell(object),
            text(object, "/spec/type").into(),
            or_none(text(object, "/spec/clusterIP")).into(),
            external_addresses(object).into(),
            ports(object).into(),
            age_cell(object, now),
            fields::labels_text(object.pointer("/spec/selector")).into(),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let field = |pointer: &str| text(object, pointer).to_owned();
        vec![("spec.clusterIP", field("/spec/clusterIP")), ("spec.type", field("/spec/type"))]
    }
}

/// Whether a service of this specification has an address inside the cluster.
pub(super) fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "/type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether its ports are ports of every node too.
pub(super) fn needs_node_port(spec: &Value) -> bool {
    matches!(text(spec, "/type"), "NodePort" | "LoadBalancer")
}

fn external_addresses(service: &Value) -> String {
    let mut addresses: Vec<&str> = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "/spec/type") {
        "ExternalName" => return text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = items(service, "/status/loadBalancer/ingress").iter();
            let names = ingress.map(|point| match text(point, "/ip") {
                "" => text(point, "/hostname"),
                ip => ip,
            });
            addresses.splice(0..0, names);
            if addresses.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    or_none(&addresses.join(",")).to_owned()
}

/// `80/TCP,443:30443/TCP`.
fn ports(service: &Value) -> String {
    let shown: Vec<String> = items(service, "/spec/ports")
        .iter()
        .map(|port| {
            let number = integer(port, "/port").unwrap_or(0);
            let protocol = text(port, "/protocol");
            match integer(port, "/nodePort").unwrap_or(0) {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    or_none(&shown.join(",")).to_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{context, created, created_value, object, row};

    #[test]
    fn a_service_is_filled() {
        expect![[r#"
            metadata:
              name: s
            spec:
              selector:
                a: b
              sessionAffinity: ClientIP
              ports:
              - port: 80
                protocol: TCP
                targetPort: 80
              - port: 81
                targetPort: web
                protocol: TCP
              type: ClusterIP
              sessionAffinityConfig:
                clientIP:
                  timeoutSeconds: 10800
              internalTrafficPolicy: Cluster
              ipFamilyPolicy: SingleStack
              ipFamilies:
              - IPv4
            status:
              loadBalancer: {}
        "#]].assert_eq(&created(
            &KIND,
            "{metadata: {name: s}, spec: {selector: {a: b}, sessionAffinity: ClientIP, ports: [{port: 80}, {port: 81, targetPort: web}]}}",
        ));
        expect![[r#"
            metadata:
              name: s
            spec:
              clusterIP: None
              type: NodePort
              sessionAffinity: None
              internalTrafficPolicy: Cluster
              ipFamilyPolicy: SingleStack
              ipFamilies:
              - IPv4
              externalTrafficPolicy: Cluster
              clusterIPs:
              - None
            status:
              loadBalancer: {}
        "#]]
        .assert_eq(&created(&KIND, "{metadata: {name: s}, spec: {clusterIP: None, type: NodePort}}"));
    }

    #[test]
    fn a_manifest_without_addresses_keeps_those_of_the_service() {
        let old = created_value(
            &KIND,
            "{metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.96.0.9, ports: [{port: 80, nodePort: 30080}]}}",
        );
        let mut new = object("{metadata: {name: s}, spec: {type: NodePort, ports: [{port: 80}]}}");
        KIND.strategy.prepare_for_update(&mut new, &old, &context());
        assert_eq!(new, old);
        let mut new = object("{metadata: {name: s}, spec: {ports: [{port: 80}]}}");
        KIND.strategy.prepare_for_update(&mut new, &old, &context());
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
    }

    #[test]
    fn the_row_shows_addresses_and_ports() {
        let table = [
            (
                "type: ClusterIP, clusterIP: 10.96.0.1, ports: [{port: 443, protocol: TCP}]",
                "s | ClusterIP | 10.96.0.1 | <none> | 443/TCP | <unknown> | <none>",
            ),
            (
                "type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}], selector: {a: b}",
                "s | NodePort | 10.96.0.2 | <none> | 80:30080/TCP,53/UDP | <unknown> | a=b",
            ),
            (
                "type: LoadBalancer, clusterIP: 10.96.0.3",
                "s | LoadBalancer | 10.96.0.3 | <pending> | <none> | <unknown> | <none>",
            ),
            (
                "type: ExternalName, externalName: example.com",
                "s | ExternalName | <none> | example.com | <none> | <unknown> | <none>",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(row(&KIND, &format!("{{metadata: {{name: s}}, spec: {{{spec}}}}}")), expected);
        }
    }
}
