//! Everything the controllers know of the cluster: one store a kind, the ownership graph and the heartbeats of nodes.
//!
//! There is one of it, owned by the driver's task; reconciles borrow it. `Watched` is what comes in, `Changed` what that changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::action::{Key, Resource};
use super::cache::{Change, Feed, Index, Store};
use super::graph::Graph;
use super::meta::{self, Object, Partial};

/// Calls a macro with every kind that is followed whole: variant, field, type, resource.
macro_rules! with_kinds {
    ($callback:ident) => {
        $callback! {
            Pod, pods, Pod, Resource::POD;
            Node, nodes, Node, Resource::NODE;
            Lease, leases, Lease, Resource::LEASE;
            Namespace, namespaces, Namespace, Resource::NAMESPACE;
            ReplicationController, replication_controllers, ReplicationController, Resource::REPLICATION_CONTROLLER;
            Job, jobs, Job, Resource::JOB;
            Service, services, Service, Resource::SERVICE;
            Endpoints, endpoints, Endpoints, Resource::ENDPOINTS;
            ServiceAccount, service_accounts, ServiceAccount, Resource::SERVICE_ACCOUNT;
        }
    };
}
pub(crate) use with_kinds;

macro_rules! define_messages {
    ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
        /// What a watch says.
        #[derive(Clone, Debug)]
        pub enum Watched {
            $($variant(Feed<$type>),)*
            /// ConfigMaps named `kube-root-ca.crt`.
            RootCa(Feed<ConfigMap>),
            /// Kinds of which only the metadata is followed.
            Other(Resource, Feed<Partial>),
        }

        /// What a watch event or an answer changed.
        #[derive(Clone, Debug)]
        pub enum Changed {
            $($variant(Change<$type>),)*
            RootCa(Change<ConfigMap>),
            Other(Resource, Change<Partial>),
        }
    };
}
with_kinds!(define_messages);

/// When a node was last heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The agent's own times, only compared with each other: its clock may be wrong.
    lease: Option<Timestamp>,
    status: Option<Timestamp>,
    /// Our time when one of them last moved.
    pub seen_at: Timestamp,
}

/// Everything known of the cluster.
#[derive(Debug)]
pub struct Cluster {
    pub pods: Store<Pod>,
    pub nodes: Store<Node>,
    pub leases: Store<Lease>,
    pub namespaces: Store<Namespace>,
    pub replication_controllers: Store<ReplicationController>,
    pub jobs: Store<Job>,
    pub services: Store<Service>,
    pub endpoints: Store<Endpoints>,
    pub service_accounts: Store<ServiceAccount>,
    pub root_cas: Store<ConfigMap>,
    pub others: BTreeMap<Resource, Store<Partial>>,
    pub graph: Graph,
    heartbeats: BTreeMap<String, Heartbeat>,
}

impl Default for Cluster {
    fn default() -> Self {
        let mut graph = Graph::default();
        macro_rules! follow {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => { $(graph.follow(&$resource);)* };
        }
        with_kinds!(follow);
        Self {
            pods: Store::new(pod_index),
            nodes: Store::default(),
            leases: Store::default(),
            namespaces: Store::default(),
            replication_controllers: Store::default(),
            jobs: Store::default(),
            services: Store::default(),
            endpoints: Store::default(),
            service_accounts: Store::default(),
            root_cas: Store::default(),
            others: BTreeMap::new(),
            graph,
            heartbeats: BTreeMap::new(),
        }
    }
}

fn pod_index(pod: &Pod) -> Vec<Index> {
    let node = meta::node_name(pod).map(|n| Index::Node(n.to_owned()));
    let controller = pod.controller().map(|o| Index::Controller(o.uid.clone()));
    node.into_iter().chain(controller).collect()
}

impl Cluster {
    /// Also follows the metadata of these kinds.
    pub fn follow(&mut self, resources: impl IntoIterator<Item = Resource>) {
        for resource in resources {
            self.graph.follow(&resource);
            self.others.entry(resource).or_default();
        }
    }

    /// Whether every kind has been listed, those followed by metadata too.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.is_ready() && self.others.values().all(Store::is_listed)
    }

    /// Whether every kind that is followed whole has been listed: what most controllers need.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut listed = self.root_cas.is_listed();
        macro_rules! all_listed {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => { $(listed &= self.$field.is_listed();)* };
        }
        with_kinds!(all_listed);
        listed
    }

    /// Takes what a watch says.
    pub fn feed(&mut self, watched: Watched, now: Timestamp) -> Vec<Changed> {
        macro_rules! dispatch {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                match watched {
                    $(Watched::$variant(feed) => self.$field.feed(feed).into_iter().map(Changed::$variant).collect(),)*
                    Watched::RootCa(feed) => self.root_cas.feed(feed).into_iter().map(Changed::RootCa).collect(),
                    Watched::Other(resource, feed) => {
                        let changes = self.others.entry(resource.clone()).or_default().feed(feed);
                        changes.into_iter().map(|change| Changed::Other(resource.clone(), change)).collect()
                    }
                }
            };
        }
        let changed: Vec<Changed> = with_kinds!(dispatch);
        self.note(&changed, now);
        changed
    }

    /// Takes the object that a write of ours answered with. An answer that is not of the kind changes nothing.
    pub fn written(&mut self, resource: &Resource, object: Value, now: Timestamp) -> Vec<Changed> {
        fn read<K: serde::de::DeserializeOwned>(object: Value) -> Option<Arc<K>> {
            serde_json::from_value(object).ok().map(Arc::new)
        }
        macro_rules! dispatch {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                $(if *resource == $resource {
                    let changes = read::<$type>(object).map(|object| self.$field.written(object, now));
                    changes.into_iter().flatten().map(Changed::$variant).collect()
                } else)* if *resource == Resource::CONFIG_MAP {
                    let object = read::<ConfigMap>(object).filter(|o| o.name() == ROOT_CA);
                    let changes = object.map(|object| self.root_cas.written(object, now));
                    changes.into_iter().flatten().map(Changed::RootCa).collect()
                } else {
                    Vec::new()
                }
            };
        }
        let changed: Vec<Changed> = with_kinds!(dispatch);
        self.note(&changed, now);
        changed
    }

    /// Takes that a delete of ours removed an object for good.
    pub fn removed(&mut self, resource: &Resource, key: &Key, uid: &str, now: Timestamp) -> Vec<Changed> {
        macro_rules! dispatch {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                $(if *resource == $resource { self.$field.removed(key, uid).map(Changed::$variant) } else)* {
                    self.others
                        .get_mut(resource)
                        .and_then(|store| store.removed(key, uid))
                        .map(|change| Changed::Other(resource.clone(), change))
                }
            };
        }
        let changed: Vec<Changed> = with_kinds!(dispatch).into_iter().collect();
        self.note(&changed, now);
        changed
    }

    /// Drops written objects that no watch has shown.
    pub fn expire_unconfirmed(&mut self, now: Timestamp) -> Vec<Changed> {
        let mut changed = Vec::new();
        macro_rules! expire {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                $(changed.extend(self.$field.expire_unconfirmed(now).into_iter().map(Changed::$variant));)*
            };
        }
        with_kinds!(expire);
        changed.extend(self.root_cas.expire_unconfirmed(now).into_iter().map(Changed::RootCa));
        self.note(&changed, now);
        changed
    }

    /// When [`Self::expire_unconfirmed`] has something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        macro_rules! earliest {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                [$(self.$field.next_expiry(),)* self.root_cas.next_expiry()].into_iter().flatten().min()
            };
        }
        with_kinds!(earliest)
    }

    /// Every object as a change from itself to itself: what a resync looks at.
    #[must_use]
    pub fn everything(&self) -> Vec<Changed> {
        let mut all = Vec::new();
        macro_rules! collect {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                $(all.extend(self.$field.iter().map(|o| {
                    Changed::$variant(Change { old: Some(Arc::clone(o)), new: Some(Arc::clone(o)) })
                }));)*
            };
        }
        with_kinds!(collect);
        for (resource, store) in &self.others {
            all.extend(store.iter().map(|o| {
                Changed::Other(resource.clone(), Change { old: Some(Arc::clone(o)), new: Some(Arc::clone(o)) })
            }));
        }
        all
    }

    /// When the node was last heard of.
    #[must_use]
    pub fn heartbeat(&self, node: &str) -> Option<&Heartbeat> {
        self.heartbeats.get(node)
    }

    fn note(&mut self, changed: &[Changed], now: Timestamp) {
        for change in changed {
            macro_rules! graph {
                ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                    match change {
                        $(Changed::$variant(c) => self.graph.apply(
                            &$resource, c.old.as_deref().map(Object::metadata), c.new.as_deref().map(Object::metadata)),)*
                        // ConfigMaps are in the graph by their metadata watch.
                        Changed::RootCa(_) => {}
                        Changed::Other(resource, c) => self.graph.apply(
                            resource, c.old.as_deref().map(Object::metadata), c.new.as_deref().map(Object::metadata)),
                    }
                };
            }
            with_kinds!(graph);
            match change {
                Changed::Lease(c) if c.object().namespace() == NODE_LEASES => {
                    let renewed = c.new.as_ref().and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
                    self.observe(c.object().name(), renewed, None, now);
                }
                Changed::Node(Change { old: Some(old), new: None }) => {
                    self.heartbeats.remove(old.name());
                }
                Changed::Node(c) => {
                    let ready = meta::node_condition(c.object(), "Ready");
                    let beat = ready.and_then(|r| r.last_heartbeat_time.as_ref().map(|t| t.0));
                    self.observe(c.object().name(), None, beat, now);
                }
                _ => {}
            }
        }
    }

    fn observe(&mut self, node: &str, lease: Option<Timestamp>, status: Option<Timestamp>, now: Timestamp) {
        let first = Heartbeat { lease, status, seen_at: now };
        let heartbeat = self.heartbeats.entry(node.to_owned()).or_insert(first);
        let moved = lease > heartbeat.lease || status > heartbeat.status;
        heartbeat.lease = heartbeat.lease.max(lease);
        heartbeat.status = heartbeat.status.max(status);
        if moved {
            heartbeat.seen_at = now;
        }
    }
}

/// Name of the ConfigMap with the certificate authority.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// Namespace of the leases that nodes renew.
pub const NODE_LEASES: &str = "kube-node-lease";

#[cfg(test)]
pub(crate) mod fixture;
