//! EndpointSlice (`discovery.k8s.io`): a part of the addresses behind a Service.

use serde_json::{Value, json};

use super::endpoints::IP_RULE;
use super::fields::{integer, items, text};
use super::{AGE_COLUMN, Column, Context, Kind, NAME_COLUMN, Strategy, age_cell, fields, limits, name_cell, pod};
use crate::status::FieldError;

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    resource: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    namespaced: true,
    storage_prefix: "endpointslices",
    subresources: &[],
    strategy: &EndpointSlice,
};

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

static COLUMNS: [Column; 5] = [
    NAME_COLUMN,
    Column::text("AddressType", "The type of address carried by this EndpointSlice."),
    Column::text("Ports", "The ports that each endpoint of the slice exposes."),
    Column::text("Endpoints", "The addresses of the endpoints of the slice."),
    AGE_COLUMN,
];

#[derive(Debug)]
struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in fields::items_mut(object, "ports") {
            fields::set_default(port, "name", "");
            fields::set_default_zero(port, "protocol", "TCP");
        }
    }

    fn prepare_for_create(&self, _object: &mut Value, _ctx: &Context) {}

    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context) {}

    fn bumps_generation(&self, new: &Value, old: &Value) -> bool {
        ["endpoints", "ports", "addressType"].into_iter().any(|field| new.get(field) != old.get(field))
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match text(object, "/addressType") {
            "" => errors.push(FieldError::required("addressType", "")),
            kind if ADDRESS_TYPES.contains(&kind) => {}
            other => errors.push(FieldError::not_supported("addressType", other, &ADDRESS_TYPES)),
        }
        for (index, endpoint) in items(object, "/endpoints").iter().enumerate() {
            addresses(object, endpoint, &format!("endpoints[{index}].addresses"), &mut errors);
        }
        for (index, port) in items(object, "/ports").iter().enumerate() {
            let path = format!("ports[{index}]");
            let number = integer(port, "/port");
            errors.extend(number.and_then(|number| pod::containers::port_error(&format!("{path}.port"), number)));
            pod::validate::enumerated(port, &path, "protocol", &["SCTP", "TCP", "UDP"], &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        if new["addressType"] == old["addressType"] {
            return Vec::new();
        }
        vec![FieldError::invalid("addressType", &new["addressType"], "field is immutable")]
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn cells(&self, object: &Value, now: &str) -> Vec<Value> {
        let port = |port: &Value| integer(port, "/port").map_or_else(|| "*".to_owned(), |number| number.to_string());
        let ports: Vec<String> = items(object, "/ports").iter().map(port).collect();
        let all = items(object, "/endpoints").iter().flat_map(|endpoint| items(endpoint, "/addresses"));
        let all: Vec<String> = all.filter_map(Value::as_str).map(str::to_owned).collect();
        vec![
            name_cell(object),
            text(object, "/addressType").into(),
            first_few(ports).into(),
            first_few(all).into(),
            age_cell(object, now),
        ]
    }
}

fn addresses(slice: &Value, endpoint: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let addresses = items(endpoint, "/addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(path, "must contain at least 1 address"));
    }
    for (index, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        let fine = match text(slice, "/addressType") {
            "IPv4" => address.parse::<std::net::Ipv4Addr>().is_ok(),
            "IPv6" => address.parse::<std::net::Ipv6Addr>().is_ok(),
            _ => true,
        };
        if !fine {
            errors.push(FieldError::invalid(format!("{path}[{index}]"), &json!(address), IP_RULE));
        }
    }
}

fn first_few(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(limits::ENDPOINTS_SHOWN_MAX);
    all.truncate(limits::ENDPOINTS_SHOWN_MAX);
    match (all.len(), more) {
        (0, _) => "<unset>".to_owned(),
        (_, 0) => all.join(","),
        _ => format!("{} + {more} more...", all.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{invalid, invalid_update, row};

    #[test]
    fn addresses_fit_their_type() {
        expect![[r#"
            endpoints[0].addresses[0]: Invalid value: "::1": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            endpoints[1].addresses: Required value: must contain at least 1 address
            ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"#]].assert_eq(&invalid(
            &KIND,
            "{addressType: IPv4, endpoints: [{addresses: ['::1']}, {}], ports: [{port: 0}, {}]}",
        ));
        assert_eq!(
            invalid_update(&KIND, "{addressType: IPv6}", "{addressType: IPv4}"),
            "addressType: Invalid value: \"IPv6\": field is immutable"
        );
    }

    #[test]
    fn the_row_shows_a_few() {
        let slice = "{metadata: {name: s}, addressType: IPv4, ports: [{port: 80}, {}], endpoints: [{addresses: [1.1.1.1, 1.1.1.2]},
                      {addresses: [1.1.1.3]}, {addresses: [1.1.1.4]}]}";
        assert_eq!(row(&KIND, slice), "s | IPv4 | 80,* | 1.1.1.1,1.1.1.2,1.1.1.3 + 1 more... | <unknown>");
        assert_eq!(row(&KIND, "{metadata: {name: s}, addressType: IPv4}"), "s | IPv4 | <unset> | <unset> | <unknown>");
    }
}
