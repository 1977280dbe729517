//! Endpoints: the addresses behind each Service with a selector.
//!
//! Services without a selector (`default/kubernetes` among them) have Endpoints written by somebody else; those are left alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::action::{Action, Attempt, Key, Plan, Resource};
use super::cluster::{Changed, Cluster};
use super::controller::Controller;
use super::limits;
use super::meta::{self, Object, selects};

/// The controller of Endpoints.
#[derive(Debug, Default)]
pub struct EndpointsOfServices;

impl Controller for EndpointsOfServices {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn touched(&self, cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        match changed {
            Changed::Service(change) => keys.push(change.object().key()),
            Changed::Endpoints(change) => keys.push(change.object().key()),
            Changed::Pod(change) => {
                let namespace = change.object().namespace();
                for service in cluster.services.in_namespace(namespace) {
                    let selected =
                        |pod: &Pod| selector(service).is_some_and(|s| selects(s, pod.metadata.labels.as_ref()));
                    if change.old.iter().chain(&change.new).any(|pod| selected(pod)) {
                        keys.push(service.key());
                    }
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, _now: Timestamp) -> Plan {
        let Some(service) = cluster.services.get(key).filter(|s| !s.is_terminating()) else {
            return remove(cluster, key);
        };
        if selector(service).is_none() {
            return Plan::nothing();
        }
        let (subsets, is_over) = subsets(cluster, service);
        let annotations = json!({"endpoints.kubernetes.io/over-capacity": is_over.then_some("truncated")});
        match cluster.endpoints.get(key) {
            None => {
                let mut metadata =
                    json!({"name": key.name, "namespace": key.namespace, "labels": service.metadata.labels});
                if is_over {
                    metadata["annotations"] = annotations;
                }
                let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets});
                let resource = Resource::ENDPOINTS;
                Plan::one(Action::Create { resource, namespace: key.namespace.clone(), object })
            }
            Some(old) if old.subsets.as_deref().unwrap_or_default() != subsets.as_slice() => {
                let subsets = if subsets.is_empty() { Value::Null } else { json!(subsets) };
                let patch = json!({"metadata": {"annotations": annotations}, "subsets": subsets});
                let patch = meta::guarded(old.as_ref(), patch);
                let target = meta::target(&Resource::ENDPOINTS, old.as_ref());
                Plan::one(Action::Patch { target, subresource: None, patch })
            }
            Some(_) => Plan::nothing(),
        }
    }
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let is_alias = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|s| !s.is_empty() && !is_alias)
}

/// Endpoints live as long as their Service; those that no Service ever stood for are not ours.
fn remove(cluster: &Cluster, key: &Key) -> Plan {
    let Some(endpoints) = cluster.endpoints.get(key).filter(|e| is_ours(e)) else { return Plan::nothing() };
    let target = meta::target(&Resource::ENDPOINTS, endpoints.as_ref());
    // The service may only be unknown here: nothing is removed under a living one.
    let mut plan = Plan::one(Action::RequireAbsent {
        target: super::action::Target { resource: Resource::SERVICE, key: key.clone() },
        uid: String::new(),
    });
    plan.then([Action::Delete {
        target,
        uid: endpoints.uid().to_owned(),
        resource_version: None,
        grace_period_s: None,
        propagation: None,
    }
    .into()]);
    plan
}

fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.subsets.iter().flatten().any(|s| {
        s.addresses.iter().flatten().chain(s.not_ready_addresses.iter().flatten()).any(|a| a.target_ref.is_some())
    })
}

type Ports = Vec<(Option<String>, i32, String)>;

/// The subsets, and whether there were too many addresses.
fn subsets(cluster: &Cluster, service: &Service) -> (Vec<EndpointSubset>, bool) {
    let Some(selector) = selector(service) else { return (Vec::new(), false) };
    let spec = service.spec.clone().unwrap_or_default();
    let mut groups: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut count = 0;
    for pod in cluster.pods.in_namespace(service.namespace()).filter(|p| selects(selector, p.metadata.labels.as_ref()))
    {
        let ready = meta::is_ready(pod) || spec.publish_not_ready_addresses == Some(true);
        let Some(address) = address(pod, service.name()).filter(|_| meta::is_active(pod)) else { continue };
        if count == limits::ENDPOINTS_MAX {
            return (finish(groups), true);
        }
        count += 1;
        let ports: Ports = spec.ports.iter().flatten().filter_map(|port| resolve(port, pod)).collect();
        let (yes, no) = groups.entry(ports).or_default();
        if ready { yes.push(address) } else { no.push(address) }
    }
    (finish(groups), false)
}

fn finish(groups: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)>) -> Vec<EndpointSubset> {
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    groups
        .into_iter()
        .map(|(ports, (ready, not_ready))| {
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, port, protocol)| EndpointPort { name, port, protocol: Some(protocol), app_protocol: None })
                .collect();
            EndpointSubset {
                addresses: some(ready),
                not_ready_addresses: some(not_ready),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect()
}

fn address(pod: &Pod, service: &str) -> Option<EndpointAddress> {
    let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    let spec = pod.spec.as_ref()?;
    let mut target_ref = meta::reference(&Resource::POD, pod);
    // Neither says anything that lasts.
    target_ref.resource_version = None;
    target_ref.api_version = None;
    Some(EndpointAddress {
        ip,
        hostname: spec.hostname.clone().filter(|_| spec.subdomain.as_deref() == Some(service)),
        node_name: meta::node_name(pod).map(str::to_owned),
        target_ref: Some(target_ref),
    })
}

/// A named target port is looked up in the pod; a pod without it has no such port.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<(Option<String>, i32, String)> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|s| &s.containers);
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            let named = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.find(named)?.container_port
        }
    };
    Some((port.name.clone(), number, protocol))
}

#[cfg(test)]
mod tests;
