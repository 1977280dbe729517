//! The objects of one resource, held in memory and fed by a single watch on the store.
//!
//! Lists and watches are served from here, so the store sees one watch per resource however many clients there are. An
//! object is kept as its encoded JSON with a small header (name, labels, selectable fields): nothing is decoded or encoded per client.
//! A watcher is a cursor into a shared, bounded history: one that is too slow falls out of it and is told 410, and costs
//! nobody else anything. Consistency: a reader learns the store's revision and waits until the feed has passed it.

mod entry;
mod feed;
mod watcher;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

pub use entry::{Entry, decode, encode};
pub use watcher::{Step, Watcher};

use crate::engine::selector::{FieldSelector, LabelSelector};
use crate::io::etcd::Storage;
use crate::limits;
use crate::registry::Kind;
use crate::status::ApiError;

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    pub revision: i64,
    /// The object after it; none for a deletion.
    pub current: Option<Arc<Entry>>,
    /// The object before it, at its old revision; none for a creation.
    pub previous: Option<Arc<Entry>>,
}

/// Cheap to share.
pub struct WatchCache {
    kind: &'static Kind,
    storage: Storage,
    state: RwLock<State>,
    /// The revision the feed has reached; 0 until the first list is loaded.
    reached: watch::Sender<i64>,
    /// Somebody waits for a revision: the feed asks the store how far it is.
    progress_wanted: Notify,
}

impl std::fmt::Debug for WatchCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchCache").field("resource", &self.kind.resource).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// By key below the resource's prefix: `namespace/name` or `name`.
    items: BTreeMap<String, Arc<Entry>>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// Position of `history[0]` in the sequence of all changes ever fed.
    first_position: u64,
    /// Every change after this revision is in the history.
    complete_after: i64,
    /// Raised when the history was thrown away (a new list after a compaction): cursors of before are void.
    epoch: u64,
}

/// A consistent set of objects.
#[derive(Debug)]
pub struct Snapshot {
    pub revision: i64,
    pub items: Vec<Arc<Entry>>,
    /// The key of the last item and how many lie after it, when a limit cut the list.
    pub cut: Option<(String, usize)>,
}

/// What a reader wants to see.
#[derive(Debug)]
pub struct Filter<'a> {
    pub namespace: Option<&'a str>,
    pub labels: &'a LabelSelector,
    pub fields: &'a FieldSelector,
}

impl Filter<'_> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    #[must_use]
    pub fn accepts(&self, entry: &Entry) -> bool {
        self.namespace.is_none_or(|n| n == entry.namespace)
            && (self.labels.is_empty() || self.labels.matches(|key| entry.label(key)))
            && (self.fields.is_empty() || self.fields.matches(|field| entry.field(field)))
    }
}

impl WatchCache {
    #[must_use]
    pub fn new(kind: &'static Kind, storage: Storage) -> Self {
        let (reached, _) = watch::channel(0);
        Self { kind, storage, state: RwLock::new(State::default()), reached, progress_wanted: Notify::new() }
    }

    /// The prefix of the resource's keys in the store.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("/registry/{}/", self.kind.storage_prefix)
    }

    /// The revision up to which the cache is complete.
    #[must_use]
    pub fn revision(&self) -> i64 {
        *self.reached.borrow()
    }

    /// The object at `key` (below the prefix), as of whenever.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().items.get(key).cloned()
    }

    /// Waits until the cache has every change up to the store's present revision.
    pub async fn wait_for_latest(&self) -> Result<(), ApiError> {
        let revision = self.storage.revision().await?;
        self.wait_for(revision).await
    }

    /// Waits until the cache holds anything at all.
    pub async fn wait_ready(&self) -> Result<(), ApiError> {
        let ready = self.wait_until(1, limits::STORE_DEADLINE).await;
        if ready { Ok(()) } else { Err(ApiError::unavailable("the watch cache is not filled yet", 1)) }
    }

    /// Waits until the cache has every change up to `revision`; 504 after a while.
    pub async fn wait_for(&self, revision: i64) -> Result<(), ApiError> {
        let reached = self.wait_until(revision.max(1), limits::CACHE_WAIT).await;
        if reached { Ok(()) } else { Err(ApiError::too_large_resource_version()) }
    }

    async fn wait_until(&self, revision: i64, patience: Duration) -> bool {
        let mut reached = self.reached.subscribe();
        if *reached.borrow_and_update() >= revision {
            return true;
        }
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        loop {
            // Repeated, because a question can be lost with a watch that breaks.
            self.progress_wanted.notify_one();
            let again = tokio::time::sleep(Duration::from_millis(100));
            tokio::select! {
                changed = reached.wait_for(|r| *r >= revision) => return changed.is_ok(),
                () = again => {}
                () = &mut deadline => return false,
            }
        }
    }

    /// The objects a filter accepts, in key order, from key `start` (below the prefix) on, at most `limit` (0 = all).
    #[must_use]
    pub fn snapshot(&self, filter: &Filter<'_>, start: &str, limit: usize) -> Snapshot {
        let scope = filter.namespace.map(|n| format!("{n}/")).unwrap_or_default();
        let from = if start > scope.as_str() { start } else { scope.as_str() };
        let state = self.state.read();
        let revision = self.revision();
        // A name pins the object: no need to look at the others.
        if let Some(name) = filter.fields.pinned("metadata.name")
            && (filter.namespace.is_some() || !self.kind.namespaced)
        {
            let found = state.items.get(&format!("{scope}{name}")).filter(|e| filter.accepts(e)).cloned();
            return Snapshot { revision, items: found.into_iter().collect(), cut: None };
        }
        let mut items = Vec::new();
        let mut last = None;
        let mut range = state
            .items
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&scope));
        for (key, entry) in range.by_ref() {
            if !filter.accepts(entry) {
                continue;
            }
            if limit > 0 && items.len() == limit {
                let rest = 1 + range.count();
                return Snapshot { revision, items, cut: last.map(|key: &String| (key.clone(), rest)) };
            }
            items.push(entry.clone());
            last = Some(key);
        }
        Snapshot { revision, items, cut: None }
    }

    /// All objects of the resource.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.state.read().items.values().cloned().collect()
    }

    /// Changes the cache: the feed calls it with the events of whole revisions, in order.
    fn apply(&self, changes: Vec<(String, Change)>, complete_to: i64) {
        let mut state = self.state.write();
        for (key, mut change) in changes {
            // What the cache holds is shared; the store's copy of the previous value is a fresh one.
            let before = match &change.current {
                Some(entry) => state.items.insert(key, entry.clone()),
                None => state.items.remove(&key),
            };
            if before.is_some() {
                change.previous = before;
            }
            if change.current.is_none() && change.previous.is_none() {
                continue;
            }
            state.history_bytes += change_size(&change);
            state.history.push_back(Arc::new(change));
        }
        while state.history.len() > limits::HISTORY_CHANGES_MAX || state.history_bytes > limits::HISTORY_BYTES_MAX {
            let Some(oldest) = state.history.pop_front() else { break };
            state.history_bytes -= change_size(&oldest);
            state.first_position += 1;
            state.complete_after = oldest.revision;
        }
        // Inside the lock, so that a reader never sees objects that are newer than the revision it is told.
        self.reached.send_if_modified(|reached| {
            let newer = complete_to > *reached;
            *reached = (*reached).max(complete_to);
            newer
        });
    }

    /// Replaces everything by a list read at `revision`: the start, or after a compaction. Watchers of before get 410.
    fn replace(&self, items: BTreeMap<String, Arc<Entry>>, revision: i64) {
        let mut state = self.state.write();
        state.items = items;
        state.first_position += state.history.len() as u64;
        state.history.clear();
        state.history_bytes = 0;
        state.complete_after = revision;
        state.epoch += 1;
        self.reached.send_modify(|reached| *reached = revision);
    }
}

fn change_size(change: &Change) -> usize {
    let size = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |e| e.json.len());
    size(&change.current) + size(&change.previous) + 128
}
