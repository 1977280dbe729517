//! What is known of the objects of one kind: fed by a watch, and by the answers to our own writes.
//!
//! Writing through is what other controllers need "expectations" for: after a reconcile has created three pods, the next one sees
//! three pods, whether or not the watch has delivered them. The watch may lag behind the answers, so three things are remembered
//! for a while: uids we removed (a late update must not revive them), uids the watch removed (a late answer must not either),
//! and written objects that the watch has not confirmed (dropped when it never does).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::action::Key;
use super::limits;
use super::meta::Object;

/// An event of a watch, shared between those who follow it.
#[derive(Clone, Debug)]
pub enum Feed<K> {
    Apply(Arc<K>),
    Delete(Arc<K>),
    /// A list starts; what it does not mention is gone.
    Init,
    InitApply(Arc<K>),
    InitDone,
}

/// An object before and after: created, changed or gone.
#[derive(Clone, Debug)]
pub struct Change<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object as it is, or as it last was.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an old or a new object")
    }
}

/// A value objects can be found by besides their key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Index {
    /// `spec.nodeName`.
    Node(String),
    /// uid of the controlling owner.
    Controller(String),
}

/// All known objects of one kind.
#[derive(Debug)]
pub struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    index: HashMap<Index, BTreeMap<Key, Arc<K>>>,
    index_of: fn(&K) -> Vec<Index>,
    listing: Option<BTreeMap<Key, Arc<K>>>,
    listed: bool,
    /// Removed by us, the watch has not said so yet.
    tombstones: HashSet<String>,
    /// Removed, as the watch said.
    buried: VecDeque<String>,
    unconfirmed: BTreeMap<Key, (String, Timestamp)>,
}

impl<K: Object> Default for Store<K> {
    fn default() -> Self {
        Self::new(|_| Vec::new())
    }
}

impl<K: Object> Store<K> {
    #[must_use]
    pub fn new(index_of: fn(&K) -> Vec<Index>) -> Self {
        Self {
            objects: BTreeMap::new(),
            index: HashMap::new(),
            index_of,
            listing: None,
            listed: false,
            tombstones: HashSet::new(),
            buried: VecDeque::new(),
            unconfirmed: BTreeMap::new(),
        }
    }

    /// Whether a whole list has been seen.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Objects of a namespace in name order.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, o)| o)
    }

    pub fn by<'a>(&'a self, index: &Index) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.index.get(index).into_iter().flat_map(BTreeMap::values)
    }

    /// Takes an event of the watch; returns what it changed.
    pub fn feed(&mut self, event: Feed<K>) -> Vec<Change<K>> {
        match event {
            Feed::Apply(object) => self.watched(object),
            Feed::Delete(object) => self.gone(&object).into_iter().collect(),
            Feed::Init => {
                self.listing = Some(BTreeMap::new());
                Vec::new()
            }
            Feed::InitApply(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(object.key(), object);
                }
                Vec::new()
            }
            Feed::InitDone => self.list_done(),
        }
    }

    fn list_done(&mut self) -> Vec<Change<K>> {
        let listing = self.listing.take().unwrap_or_default();
        self.listed = true;
        let lost: Vec<Arc<K>> = self
            .objects
            .iter()
            .filter(|(key, object)| {
                let listed = listing.get(*key).is_some_and(|l| l.uid() == object.uid());
                let unconfirmed = self.unconfirmed.get(*key).is_some_and(|(uid, _)| uid == object.uid());
                !listed && !unconfirmed
            })
            .map(|(_, object)| Arc::clone(object))
            .collect();
        let mut changes: Vec<Change<K>> = lost.iter().filter_map(|object| self.gone(object)).collect();
        changes.extend(listing.into_values().flat_map(|object| self.watched(object)));
        changes
    }

    fn watched(&mut self, object: Arc<K>) -> Vec<Change<K>> {
        if self.tombstones.contains(object.uid()) {
            return Vec::new();
        }
        let key = object.key();
        if self.unconfirmed.get(&key).is_some_and(|(uid, _)| uid == object.uid()) {
            self.unconfirmed.remove(&key);
        }
        // A watch that restarts may repeat older states than an answer told us.
        let is_old = self.objects.get(&key).is_some_and(|old| {
            old.uid() == object.uid() && old.resource_version_number() >= object.resource_version_number()
        });
        if is_old { Vec::new() } else { self.replace(key, object) }
    }

    /// Another object of the same name is the end of the one before: nobody may take the one for the other.
    fn replace(&mut self, key: Key, object: Arc<K>) -> Vec<Change<K>> {
        let predecessor = self.objects.get(&key).filter(|old| old.uid() != object.uid()).cloned();
        let mut changes: Vec<Change<K>> = predecessor.and_then(|old| self.take(&key, old.uid())).into_iter().collect();
        changes.push(self.put(key, object));
        changes
    }

    fn gone(&mut self, object: &Arc<K>) -> Option<Change<K>> {
        let uid = object.uid().to_owned();
        self.tombstones.remove(&uid);
        let key = object.key();
        if self.unconfirmed.get(&key).is_some_and(|(written, _)| *written == uid) {
            self.unconfirmed.remove(&key);
        }
        if !self.buried.contains(&uid) {
            self.buried.push_back(uid);
        }
        if self.buried.len() > limits::REMEMBERED_DELETIONS_MAX {
            self.buried.pop_front();
        }
        self.take(&key, object.uid())
    }

    /// Takes the object that a write of ours answered with.
    pub fn written(&mut self, object: Arc<K>, now: Timestamp) -> Vec<Change<K>> {
        let uid = object.uid();
        if self.tombstones.contains(uid) || self.buried.iter().any(|b| b == uid) {
            return Vec::new();
        }
        let key = object.key();
        let known = self.objects.get(&key).filter(|old| old.uid() == uid);
        if known.is_some_and(|old| old.resource_version_number() >= object.resource_version_number()) {
            return Vec::new();
        }
        if known.is_none() {
            let deadline = now + limits::UNCONFIRMED_WRITE_KEPT;
            self.unconfirmed.insert(key.clone(), (uid.to_owned(), deadline));
        }
        self.replace(key, object)
    }

    /// Takes that a delete of ours removed the object for good.
    pub fn removed(&mut self, key: &Key, uid: &str) -> Option<Change<K>> {
        let change = self.take(key, uid);
        // Only what the watch still shows can come back by it.
        if change.is_some() {
            self.tombstones.insert(uid.to_owned());
        }
        change
    }

    /// Drops written objects that the watch never showed: somebody deleted them before it could.
    pub fn expire_unconfirmed(&mut self, now: Timestamp) -> Vec<Change<K>> {
        let late: Vec<(Key, String)> = self
            .unconfirmed
            .iter()
            .filter(|(_, (_, deadline))| *deadline <= now)
            .map(|(key, (uid, _))| (key.clone(), uid.clone()))
            .collect();
        late.into_iter()
            .filter_map(|(key, uid)| {
                self.unconfirmed.remove(&key);
                self.take(&key, &uid)
            })
            .collect()
    }

    /// When the first unconfirmed write ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.unconfirmed.values().map(|(_, deadline)| *deadline).min()
    }

    fn put(&mut self, key: Key, object: Arc<K>) -> Change<K> {
        let old = self.objects.insert(key.clone(), Arc::clone(&object));
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        for index in (self.index_of)(&object) {
            self.index.entry(index).or_default().insert(key.clone(), Arc::clone(&object));
        }
        Change { old, new: Some(object) }
    }

    fn take(&mut self, key: &Key, uid: &str) -> Option<Change<K>> {
        if self.objects.get(key)?.uid() != uid {
            return None;
        }
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(Change { old: Some(old), new: None })
    }

    fn unindex(&mut self, key: &Key, object: &K) {
        for index in (self.index_of)(object) {
            if let Some(entries) = self.index.get_mut(&index) {
                entries.remove(key);
                if entries.is_empty() {
                    self.index.remove(&index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
