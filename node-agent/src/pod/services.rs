//! Environment variables for Services: `KUBERNETES_SERVICE_HOST` and the older Docker-link family of `KUBERNETES_PORT`.
//!
//! A pod sees the Services of its own namespace (when it asks for service links) and always `default/kubernetes`. Headless
//! and ExternalName Services have no address and give no variables. The values are those of the moment a container starts.

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The variables for a pod of `namespace`, Services in the order of their names.
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut visible: Vec<(&str, &str, &[ServicePort])> = Vec::new();
    for service in services {
        let (Some((name, ip)), Some(ports)) = (name_and_address(service), ports(service)) else { continue };
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_master = of == "default" && name == "kubernetes";
        // Where the namespace has a Service of that name too, the one in `default` is meant.
        let in_namespace = links && of == namespace && name != "kubernetes";
        if is_master || in_namespace {
            visible.push((name, ip, ports));
        }
    }
    visible.sort_unstable_by_key(|(name, ..)| *name);
    visible.into_iter().flat_map(|(name, ip, ports)| one(name, ip, ports)).collect()
}

fn name_and_address(service: &Service) -> Option<(&str, &str)> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
    Some((service.metadata.name.as_deref()?, ip))
}

fn ports(service: &Service) -> Option<&[ServicePort]> {
    service.spec.as_ref()?.ports.as_deref().filter(|ports| !ports.is_empty())
}

fn one(name: &str, ip: &str, ports: &[ServicePort]) -> Vec<(String, String)> {
    let prefix = variable_name(name);
    let first = &ports[0];
    let mut out = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string()));
        }
    }
    out.push((format!("{prefix}_PORT"), url(ip, first)));
    for port in ports {
        let (number, protocol) = (port.port, protocol(port));
        let link = format!("{prefix}_PORT_{number}_{protocol}");
        out.push((link.clone(), url(ip, port)));
        out.push((format!("{link}_PROTO"), protocol.to_ascii_lowercase()));
        out.push((format!("{link}_PORT"), number.to_string()));
        out.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    out
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP").to_ascii_uppercase()
}

fn url(ip: &str, port: &ServicePort) -> String {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{}://{host}:{}", protocol(port).to_ascii_lowercase(), port.port)
}

fn variable_name(name: &str) -> String {
    let upper: String =
        name.chars().map(|c| if matches!(c, '-' | '.') { '_' } else { c.to_ascii_uppercase() }).collect();
    if upper.starts_with(|c: char| c.is_ascii_digit()) { format!("_{upper}") } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn service(namespace: &str, name: &str, ip: &str, ports: serde_json::Value) -> Service {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports}
        }))
        .unwrap()
    }

    fn text(variables: Vec<(String, String)>) -> String {
        variables.into_iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    fn kubernetes() -> Service {
        service(
            "default",
            "kubernetes",
            "10.96.0.1",
            serde_json::json!([{"name": "https", "port": 443, "protocol": "TCP"}]),
        )
    }

    #[test]
    fn the_family_of_kubernetes() {
        expect![[r#"
            KUBERNETES_SERVICE_HOST=10.96.0.1
            KUBERNETES_SERVICE_PORT=443
            KUBERNETES_SERVICE_PORT_HTTPS=443
            KUBERNETES_PORT=tcp://10.96.0.1:443
            KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
            KUBERNETES_PORT_443_TCP_PROTO=tcp
            KUBERNETES_PORT_443_TCP_PORT=443
            KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1
        "#]]
        .assert_eq(&text(variables([&kubernetes()], "elsewhere", false)));
    }

    #[test]
    fn a_pod_sees_its_namespace_and_not_the_headless() {
        let services = [
            kubernetes(),
            service(
                "shop",
                "2nd.db-main",
                "10.96.0.7",
                serde_json::json!([{"port": 53, "protocol": "UDP"}, {"name": "web-ui", "port": 80}]),
            ),
            service("shop", "headless", "None", serde_json::json!([{"port": 1}])),
            service("shop", "kubernetes", "10.96.0.9", serde_json::json!([{"port": 2}])),
            service("other", "secret", "10.96.0.8", serde_json::json!([{"port": 3}])),
        ];
        let seen = text(
            variables(&services, "shop", true).into_iter().filter(|(key, _)| !key.starts_with("KUBERNETES")).collect(),
        );
        expect![[r#"
            _2ND_DB_MAIN_SERVICE_HOST=10.96.0.7
            _2ND_DB_MAIN_SERVICE_PORT=53
            _2ND_DB_MAIN_SERVICE_PORT_WEB_UI=80
            _2ND_DB_MAIN_PORT=udp://10.96.0.7:53
            _2ND_DB_MAIN_PORT_53_UDP=udp://10.96.0.7:53
            _2ND_DB_MAIN_PORT_53_UDP_PROTO=udp
            _2ND_DB_MAIN_PORT_53_UDP_PORT=53
            _2ND_DB_MAIN_PORT_53_UDP_ADDR=10.96.0.7
            _2ND_DB_MAIN_PORT_80_TCP=tcp://10.96.0.7:80
            _2ND_DB_MAIN_PORT_80_TCP_PROTO=tcp
            _2ND_DB_MAIN_PORT_80_TCP_PORT=80
            _2ND_DB_MAIN_PORT_80_TCP_ADDR=10.96.0.7
        "#]]
        .assert_eq(&seen);
        let kubernetes_host =
            variables(&services, "shop", true).into_iter().find(|(key, _)| key == "KUBERNETES_SERVICE_HOST");
        assert_eq!(kubernetes_host.unwrap().1, "10.96.0.1");
    }
}
