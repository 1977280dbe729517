//! Lists and the starts of watches: from the cache where it can answer, from the store for states of the past.

use std::sync::Arc;

use super::Api;
use crate::engine::list::{At, Continue, ListOptions, WatchOptions};
use crate::io::etcd::StoreFailure;
use crate::io::watch_cache::{Entry, Filter, Watcher};
use crate::limits;
use crate::registry::Kind;
use crate::status::ApiError;

/// A page of a list.
#[derive(Debug)]
pub struct List {
    pub revision: i64,
    pub items: Vec<Arc<Entry>>,
    /// The token of the next page.
    pub resume: Option<String>,
    /// How many lie after this page; unknown with selectors.
    pub remaining: Option<usize>,
}

/// A watch and what it begins with.
pub struct WatchStart {
    pub watcher: Watcher,
    pub initial: Vec<Arc<Entry>>,
}

impl Api {
    /// A list as its options ask for it.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List, ApiError> {
        let cache = self.cache(kind);
        match (&options.resume, options.at) {
            (Some(token), _) if token.revision > 0 => {
                return self.list_at(kind, namespace, options, &token.start, token.revision).await;
            }
            (None, At::Exact(revision)) => return self.list_at(kind, namespace, options, "", revision).await,
            (Some(_), _) | (None, At::Latest) => {
                cache.wait_ready().await?;
                if let Err(error) = cache.wait_for_latest().await {
                    if error.code != 504 {
                        return Err(error);
                    }
                    // The feed is behind and does not catch up: the store itself is always right.
                    let start = options.resume.as_ref().map_or("", |token| token.start.as_str());
                    return self.list_at(kind, namespace, options, start, 0).await;
                }
            }
            (None, At::NotOlderThan(revision)) => cache.wait_for(revision).await?,
            (None, At::Any) => cache.wait_ready().await?,
        }
        let filter = Filter { namespace, labels: &options.labels, fields: &options.fields };
        let start = options.resume.as_ref().map_or("", |token| token.start.as_str());
        let limit = usize::try_from(options.limit).unwrap_or(0);
        let snapshot = cache.snapshot(&filter, start, limit);
        let (resume, remaining) = match snapshot.cut {
            Some((last, rest)) => {
                let token = Continue { revision: snapshot.revision, start: format!("{last}\0") };
                (Some(token.encode()), filter.is_empty().then_some(rest))
            }
            None => (None, None),
        };
        Ok(List { revision: snapshot.revision, items: snapshot.items, resume, remaining })
    }

    /// A list at one revision (0 = now) from the store.
    async fn list_at(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &ListOptions,
        start: &str,
        revision: i64,
    ) -> Result<List, ApiError> {
        let prefix = self.cache(kind).prefix();
        let scope = namespace.map(|n| format!("{prefix}{n}/")).unwrap_or_else(|| prefix.clone());
        let mut from = format!("{prefix}{start}");
        if from < scope {
            from.clone_from(&scope);
        }
        let filter = Filter { namespace, labels: &options.labels, fields: &options.fields };
        let limit = usize::try_from(options.limit).unwrap_or(0);
        let mut list = List { revision, items: Vec::new(), resume: None, remaining: None };
        loop {
            let page_size = if limit > 0 { options.limit } else { limits::STORE_PAGE };
            let page = match self.inner.storage.range(&scope, &from, page_size, list.revision).await {
                Err(StoreFailure::Compacted) => return Err(compacted(start)),
                other => other?,
            };
            if list.revision == 0 {
                list.revision = page.revision;
            }
            let mut rest = page.remaining;
            let mut stored = page.items.into_iter();
            for stored in stored.by_ref() {
                let key = String::from_utf8_lossy(&stored.key).into_owned();
                from = format!("{key}\0");
                let entry = Entry::from_stored(kind, &key, &stored.value, stored.mod_revision);
                list.items.extend(entry.filter(|e| filter.accepts(e)).map(Arc::new));
                if limit > 0 && list.items.len() == limit {
                    break;
                }
            }
            rest += i64::try_from(stored.len()).expect("a page fits");
            if rest == 0 {
                return Ok(list);
            }
            if limit > 0 && list.items.len() == limit {
                let token = Continue { revision: list.revision, start: from[prefix.len()..].to_owned() };
                list.resume = Some(token.encode());
                list.remaining = filter.is_empty().then(|| usize::try_from(rest).unwrap_or(0));
                return Ok(list);
            }
        }
    }

    /// A watch as its options ask for it.
    pub async fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<WatchStart, ApiError> {
        let cache = self.cache(kind);
        cache.wait_ready().await?;
        match options.at {
            At::Latest => cache.wait_for_latest().await?,
            At::NotOlderThan(revision) | At::Exact(revision) => cache.wait_for(revision).await?,
            At::Any => {}
        }
        let (labels, fields) = (options.labels.clone(), options.fields.clone());
        let namespace = namespace.map(str::to_owned);
        match options.after {
            None => {
                let (watcher, initial) = Watcher::from_now(cache.clone(), namespace, labels, fields);
                Ok(WatchStart { watcher, initial })
            }
            Some(revision) => {
                let watcher = Watcher::after(cache.clone(), namespace, labels, fields, revision)?;
                Ok(WatchStart { watcher, initial: Vec::new() })
            }
        }
    }
}

/// A page of a list whose revision is gone: the client may go on at a later revision, or start again.
fn compacted(start: &str) -> ApiError {
    if start.is_empty() {
        return ApiError::expired("The provided resourceVersion is too old: it has been compacted");
    }
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.resume = Some(Continue { revision: -1, start: start.to_owned() }.encode());
    error
}
