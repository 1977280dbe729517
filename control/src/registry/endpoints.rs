//! Endpoints: the addresses behind a Service.

use serde_json::{Value, json};

use super::fields::{integer, items, text};
use super::{
    AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Strategy, age_cell, fields, limits, name_cell, names, pod,
};
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    resource: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    storage_prefix: "services/endpoints",
    subresources: &[],
    strategy: &Endpoints,
};

/// The words for a text that is no IP address.
pub(super) const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

static COLUMNS: [Column; 3] =
    [NAME_COLUMN, Column::text("Endpoints", "The addresses and ports of the endpoints that are ready."), AGE_COLUMN];

#[derive(Debug)]
struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in fields::items_mut(object, "subsets") {
            for port in fields::items_mut(subset, "ports") {
                fields::set_default_zero(port, "protocol", "TCP");
            }
        }
    }

    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context) {}

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, item) in items(object, "/subsets").iter().enumerate() {
            subset(item, &format!("subsets[{index}]"), &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        vec![name_cell(object), addresses(object).into(), age_cell(object, now)]
    }
}

fn subset(subset: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|list| items(subset, &format!("/{list}")).is_empty()) {
        errors.push(FieldError::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for list in lists {
        for (index, address) in items(subset, &format!("/{list}")).iter().enumerate() {
            let ip = text(address, "/ip");
            if ip.parse::<std::net::IpAddr>().is_err() {
                errors.push(FieldError::invalid(format!("{path}.{list}[{index}].ip"), &json!(ip), IP_RULE));
            }
        }
    }
    let ports = items(subset, "/ports");
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if let Some(wrong) = Some(name).filter(|name| !name.is_empty()).and_then(names::dns1123_label) {
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &wrong));
        }
        let number = integer(port, "/port").unwrap_or(0);
        errors.extend(pod::containers::port_error(&format!("{path}.port"), number));
        pod::validate::enumerated(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

/// `10.1.0.2:80,10.1.0.3:80 + 4 more...`, one for each address and port.
fn addresses(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(endpoints, "/subsets") {
        let ips = items(subset, "/addresses").iter().map(|address| text(address, "/ip"));
        let ports = items(subset, "/ports");
        if ports.is_empty() {
            all.extend(ips.map(str::to_owned));
            continue;
        }
        for port in ports.iter().map(|port| integer(port, "/port").unwrap_or(0)) {
            all.extend(
                ips.clone().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
            );
        }
    }
    let more = all.len().saturating_sub(limits::ENDPOINTS_SHOWN_MAX);
    all.truncate(limits::ENDPOINTS_SHOWN_MAX);
    let shown = all.join(",");
    match (items(endpoints, "/subsets").len(), more) {
        (0, _) => "<none>".to_owned(),
        (_, 0) => shown,
        _ => format!("{shown} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{invalid, row};

    #[test]
    fn the_row_shows_three_addresses() {
        let subsets =
            |ips: &str| format!("{{metadata: {{name: e}}, subsets: [{{addresses: [{ips}], ports: [{{port: 80}}]}}]}}");
        assert_eq!(row(&KIND, "{metadata: {name: e}}"), "e | <none> | <unknown>");
        assert_eq!(row(&KIND, &subsets("{ip: 10.0.0.1}, {ip: '::1'}")), "e | 10.0.0.1:80,[::1]:80 | <unknown>");
        let five = subsets("{ip: 1.0.0.1}, {ip: 1.0.0.2}, {ip: 1.0.0.3}, {ip: 1.0.0.4}, {ip: 1.0.0.5}");
        assert_eq!(row(&KIND, &five), "e | 1.0.0.1:80,1.0.0.2:80,1.0.0.3:80 + 2 more... | <unknown>");
    }

    #[test]
    fn addresses_and_ports_are_checked() {
        expect![[r#"
            subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`
            subsets[1].addresses[0].ip: Invalid value: "here": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            subsets[1].ports[0].name: Required value
            subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            subsets[1].ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP""#]].assert_eq(&invalid(
            &KIND,
            "{subsets: [{}, {addresses: [{ip: here}], ports: [{port: 0}, {name: b, port: 1, protocol: X}]}]}",
        ));
    }
}
