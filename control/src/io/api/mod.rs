//! The verbs of the API over the store: read, let [`crate::engine`] decide, write under the revision that was read, start again when
//! somebody else was faster. What HTTP adds (paths, bodies, forms of answers) is in [`crate::io::http`].

mod lists;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use lists::{List, WatchStart};
pub use writes::Removed;

use crate::engine::NamespaceState;
use crate::io::etcd::{Guard, Storage};
use crate::io::watch_cache::{WatchCache, decode};
use crate::registry::{Kind, Ranges, kinds};
use crate::status::ApiError;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Storage,
    /// By storage prefix.
    caches: HashMap<&'static str, Arc<WatchCache>>,
    ranges: Ranges,
    /// One allocation of cluster IPs and ports at a time.
    allocation: tokio::sync::Mutex<()>,
}

/// An object's place in the store.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub kind: &'static Kind,
    /// Of namespaced kinds.
    pub namespace: Option<&'a str>,
    pub name: &'a str,
}

impl Place<'_> {
    fn below_prefix(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.to_owned(),
        }
    }

    fn key(&self) -> String {
        format!("/registry/{}/{}", self.kind.storage_prefix, self.below_prefix())
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind.group, self.kind.resource, self.name)
    }
}

impl Api {
    #[must_use]
    pub fn new(storage: Storage, ranges: Ranges) -> Self {
        let caches = kinds()
            .iter()
            .map(|kind| (kind.storage_prefix, Arc::new(WatchCache::new(kind, storage.clone()))))
            .collect();
        Self { inner: Arc::new(Inner { storage, caches, ranges, allocation: tokio::sync::Mutex::new(()) }) }
    }

    /// Starts the feeds of the caches.
    pub fn spawn_caches(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        for cache in self.inner.caches.values() {
            tasks.spawn(cache.clone().feed(shutdown.clone()));
        }
    }

    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    #[must_use]
    pub fn ranges(&self) -> &Ranges {
        &self.inner.ranges
    }

    /// Whether every cache has been filled once, and which has not.
    #[must_use]
    pub fn not_ready(&self) -> Option<&'static str> {
        self.inner.caches.iter().find(|(_, cache)| cache.revision() == 0).map(|(prefix, _)| *prefix)
    }

    /// The cache of a kind.
    #[must_use]
    pub fn cache(&self, kind: &'static Kind) -> &Arc<WatchCache> {
        &self.inner.caches[kind.storage_prefix]
    }

    /// One object, linearizably, or `cached` from memory.
    pub async fn get(&self, place: Place<'_>, cached: bool) -> Result<Value, ApiError> {
        if cached {
            let cache = self.cache(place.kind);
            cache.wait_ready().await?;
            let entry = cache.get(&place.below_prefix()).ok_or_else(|| place.not_found())?;
            return Ok(entry.object());
        }
        Ok(self.read(place).await?.0)
    }

    /// One object and the revision that wrote it.
    async fn read(&self, place: Place<'_>) -> Result<(Value, i64), ApiError> {
        let (stored, _) = self.inner.storage.get(place.key()).await?;
        let stored = stored.ok_or_else(|| place.not_found())?;
        let object = decode(&stored.value, stored.mod_revision)
            .ok_or_else(|| ApiError::internal(format!("{} is not JSON", place.key())))?;
        Ok((object, stored.mod_revision))
    }

    /// What a namespace is, and a guard that it stays so until the write. From memory when it is there, else from the store.
    async fn namespace_state(&self, namespace: &str, fresh: bool) -> Result<(NamespaceState, Option<Guard>), ApiError> {
        let kind = crate::registry::find("", "v1", "namespaces").expect("namespaces are served");
        let place = Place { kind, namespace: None, name: namespace };
        let cached = if fresh { None } else { self.cache(kind).get(namespace) };
        let (object, revision) = match cached {
            Some(entry) => (entry.object(), entry.revision),
            None => match self.read(place).await {
                Ok(found) => found,
                Err(error) if error.code == 404 => return Ok((NamespaceState::Missing, None)),
                Err(error) => return Err(error),
            },
        };
        let terminating = object["metadata"].get("deletionTimestamp").is_some();
        let state = if terminating { NamespaceState::Terminating } else { NamespaceState::Active };
        Ok((state, Some(Guard { key: place.key().into(), mod_revision: revision })))
    }
}
