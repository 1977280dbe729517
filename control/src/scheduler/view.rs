//! The cluster as the scheduler sees it: each node with what its pods take, pods whose binding is still under way included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::resources::{self, Request, Resources};
use crate::controllers::action::Key;
use crate::controllers::meta::{self, Object};

/// A port of the host that a pod takes: protocol, address (`0.0.0.0` is all), number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: String,
    pub address: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on the same node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.protocol == other.protocol
            && self.port == other.port
            && (self.address == other.address || self.address == ALL || other.address == ALL)
    }
}

/// The host ports of a pod.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = pod.spec.iter().flat_map(|s| {
        let sidecars = s.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        s.containers.iter().chain(sidecars)
    });
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let address = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some(HostPort { protocol, address, port: p.host_port.filter(|p| *p > 0)? })
        })
        .collect()
}

/// What one pod takes of its node.
#[derive(Clone, Debug)]
struct Share {
    uid: String,
    request: Request,
    ports: Vec<HostPort>,
}

/// One node.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// `None` while only pods of it are known.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub taken: Resources,
    pub taken_scored: Resources,
    pods: BTreeMap<Key, Share>,
}

impl NodeView {
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    pub fn ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.values().flat_map(|share| &share.ports)
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(share) = self.pods.remove(key) else { return false };
        self.taken.subtract(&share.request.asked);
        self.taken_scored.subtract(&share.request.scored);
        true
    }
}

/// All nodes by name.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    nodes: BTreeMap<String, NodeView>,
    /// Which node a pod counts on.
    placed: BTreeMap<Key, String>,
    known: BTreeSet<String>,
}

impl ClusterView {
    /// Nodes that exist, in name order.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeView)> {
        self.known.iter().filter_map(|name| {
            let view = self.nodes.get(name)?;
            view.node.as_ref().map(|node| (node, view))
        })
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let view = self.nodes.entry(node.name().to_owned()).or_default();
        view.allocatable = resources::allocatable(&node);
        self.known.insert(node.name().to_owned());
        view.node = Some(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        self.known.remove(name);
        if let Some(view) = self.nodes.get_mut(name) {
            view.node = None;
        }
        self.forget_if_empty(name);
    }

    /// Counts the pod on a node, and on no other.
    pub fn place(&mut self, pod: &Pod, node: &str) {
        let key = pod.key();
        let settled = self.placed.get(&key).map(String::as_str) == Some(node)
            && self.nodes.get(node).and_then(|n| n.pods.get(&key)).is_some_and(|share| share.uid == pod.uid());
        // Requests of a placed pod do not change but by a resize, which is not offered.
        if settled {
            return;
        }
        self.displace(&key);
        let request = Request::of(pod);
        let view = self.nodes.entry(node.to_owned()).or_default();
        view.taken.add(&request.asked);
        view.taken_scored.add(&request.scored);
        let share = Share { uid: pod.uid().to_owned(), request, ports: host_ports(pod) };
        view.pods.insert(key.clone(), share);
        self.placed.insert(key, node.to_owned());
    }

    /// Counts the pod nowhere. Returns whether it was counted.
    pub fn displace(&mut self, key: &Key) -> bool {
        let Some(node) = self.placed.remove(key) else { return false };
        let removed = self.nodes.get_mut(&node).is_some_and(|view| view.remove(key));
        self.forget_if_empty(&node);
        removed
    }

    /// Follows a change of a pod. Returns whether room was made.
    pub fn follow(&mut self, pod: &Pod, is_gone: bool) -> bool {
        match meta::node_name(pod) {
            // A finished pod takes nothing any more.
            Some(_) if is_gone || meta::is_finished(pod) => self.displace(&pod.key()),
            Some(node) => {
                self.place(pod, node);
                false
            }
            None if is_gone => self.displace(&pod.key()),
            None => false,
        }
    }

    fn forget_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|view| view.node.is_none() && view.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}
