//! Who owns whom: the metadata of every object, by uid, with the reverse of `ownerReferences`.
//!
//! The garbage collector and the namespace controller decide on it. An owner is known by uid alone: a new object of an old name
//! owns nothing of its predecessor's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::action::{Key, Resource, Target};
use super::limits;

/// What the graph knows of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Vertex {
    pub target: Target,
    pub uid: String,
    pub resource_version: String,
    pub owners: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub terminating: bool,
}

impl Vertex {
    #[must_use]
    pub fn of(resource: &Resource, meta: &ObjectMeta) -> Self {
        Self {
            target: Target {
                resource: resource.clone(),
                key: Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()),
            },
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }

    #[must_use]
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Being deleted, after its dependents.
    #[must_use]
    pub fn waits_for_dependents(&self) -> bool {
        self.terminating && self.has_finalizer("foregroundDeletion")
    }
}

/// All objects and the ownership between them.
#[derive(Debug, Default)]
pub struct Graph {
    vertices: HashMap<String, Vertex>,
    dependents: HashMap<String, BTreeSet<String>>,
    namespaces: HashMap<String, BTreeSet<String>>,
    /// Kinds whose objects are all here.
    kinds: BTreeMap<(String, String), Resource>,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
}

impl Graph {
    /// Tells that objects of this kind are followed.
    pub fn follow(&mut self, resource: &Resource) {
        self.kinds.insert((resource.api_version(), resource.kind.to_string()), resource.clone());
    }

    /// The resource of an owner reference, if its kind is followed.
    #[must_use]
    pub fn resource_of(&self, owner: &OwnerReference) -> Option<&Resource> {
        self.kinds.get(&(owner.api_version.clone(), owner.kind.clone()))
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Resource> {
        self.kinds.values()
    }

    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Vertex> {
        self.vertices.get(uid)
    }

    /// Objects that name this uid as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Vertex> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.vertices.get(d))
    }

    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Vertex> {
        self.namespaces.get(namespace).into_iter().flatten().filter_map(|uid| self.vertices.get(uid))
    }

    /// Whether an object of this uid existed and was seen to go.
    #[must_use]
    pub fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// Follows a change of an object.
    pub fn apply(&mut self, resource: &Resource, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        if let Some(old) = old {
            self.remove(old.uid.as_deref().unwrap_or_default());
        }
        if let Some(new) = new {
            self.insert(Vertex::of(resource, new));
        }
        let old_uid = old.and_then(|o| o.uid.as_deref()).unwrap_or_default();
        if !old_uid.is_empty() && !self.vertices.contains_key(old_uid) {
            self.bury(old_uid);
        }
    }

    fn insert(&mut self, vertex: Vertex) {
        for owner in &vertex.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(vertex.uid.clone());
        }
        self.namespaces.entry(vertex.target.key.namespace.clone()).or_default().insert(vertex.uid.clone());
        self.vertices.insert(vertex.uid.clone(), vertex);
    }

    fn remove(&mut self, uid: &str) {
        let Some(vertex) = self.vertices.remove(uid) else { return };
        for owner in &vertex.owners {
            prune(&mut self.dependents, &owner.uid, uid);
        }
        prune(&mut self.namespaces, &vertex.target.key.namespace, uid);
    }

    fn bury(&mut self, uid: &str) {
        if self.gone.insert(uid.to_owned()) {
            self.gone_order.push_back(uid.to_owned());
        }
        if self.gone_order.len() > limits::REMEMBERED_OWNERS_MAX
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }
}

fn prune(sets: &mut HashMap<String, BTreeSet<String>>, of: &str, member: &str) {
    if let Some(set) = sets.get_mut(of) {
        set.remove(member);
        if set.is_empty() {
            sets.remove(of);
        }
    }
}
