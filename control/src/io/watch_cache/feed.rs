//! The feed of a cache: list once, then watch; resume a broken watch where it ended, list again when its start is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kontiki_api::mvccpb;
use tokio_util::sync::CancellationToken;

use super::{Change, Entry, WatchCache};
use crate::io::etcd::{StoreFailure, StoreWatch, WatchError};
use crate::limits;

/// How a feed goes on after its watch ended.
enum Next {
    /// Watch again from the revision after this one.
    Resume,
    /// The history has a gap: list again.
    Relist,
}

impl WatchCache {
    /// Keeps the cache fed until `shutdown`.
    pub async fn feed(self: Arc<Self>, shutdown: CancellationToken) {
        let mut pause = Duration::from_millis(5);
        let mut next = Next::Relist;
        while !shutdown.is_cancelled() {
            let begun = Instant::now();
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.follow(next) => outcome,
            };
            next = match outcome {
                Ok(next) => next,
                Err(failure) => {
                    tracing::debug!(resource = self.kind.resource, %failure, "the watch cache cannot read the store");
                    if self.revision() > 0 { Next::Resume } else { Next::Relist }
                }
            };
            // A watch that held for a while and broke is opened again at once; one that breaks each time is not.
            if begun.elapsed() > Duration::from_secs(1) {
                pause = Duration::from_millis(5);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Reads all objects at one revision.
    async fn load(&self) -> Result<(), StoreFailure> {
        let prefix = self.prefix();
        let mut items = BTreeMap::new();
        let mut start = prefix.clone();
        let mut revision = 0;
        loop {
            let page = self.storage.range(&prefix, &start, limits::STORE_PAGE, revision).await?;
            if revision == 0 {
                revision = page.revision;
            }
            for stored in &page.items {
                let key = String::from_utf8_lossy(&stored.key).into_owned();
                start = format!("{key}\0");
                if let Some(entry) = Entry::from_stored(self.kind, &key, &stored.value, stored.mod_revision) {
                    items.insert(key[prefix.len()..].to_owned(), Arc::new(entry));
                }
            }
            if page.remaining == 0 {
                break;
            }
        }
        self.replace(items, revision);
        Ok(())
    }

    /// Opens the watch: after what the cache has, or from now on and then lists.
    ///
    /// The list comes second, because a watch from a revision of the past is replayed, and etcd before 3.4.25 and 3.5.8 answers questions
    /// for progress on such a watch with the store's revision although older events are still to come. Those events would
    /// be taken as known. A resumed watch has no list to save it; it relies on a store without that fault.
    async fn open(&self, next: Next) -> Result<Option<StoreWatch>, StoreFailure> {
        let prefix = self.prefix();
        match next {
            Next::Resume => self.storage.watch(&prefix, self.revision() + 1).await.map(Some),
            Next::Relist => {
                let mut watch = self.storage.watch(&prefix, 0).await?;
                if !watch.next().await.is_ok_and(|first| first.is_created) {
                    return Ok(None);
                }
                self.load().await?;
                Ok(Some(watch))
            }
        }
    }

    /// Feeds from one watch until it ends.
    async fn follow(&self, next: Next) -> Result<Next, StoreFailure> {
        let prefix = self.prefix();
        let Some(mut watch) = self.open(next).await? else {
            self.storage.leave_current_endpoint();
            return Ok(Next::Relist);
        };
        // What happened between the opening of the watch and the list is in the list.
        let listed = self.revision();
        let mut pending = Vec::new();
        // A progress answer of an older etcd may overtake events that were sent before it. So the first answer only shows
        // that earlier events are on their way; the second, asked for after it, comes behind them.
        let mut asked = 0_u32;
        loop {
            let batch = tokio::select! {
                () = self.progress_wanted.notified(), if asked == 0 => {
                    watch.request_progress();
                    asked = 1;
                    continue;
                }
                batch = watch.next() => batch,
                () = tokio::time::sleep(Duration::from_secs(1)), if asked > 0 => {
                    // A store that does not answer such questions shows its revision by periodic progress only.
                    asked = 0;
                    continue;
                }
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(WatchError::Compacted(_)) => return Ok(Next::Relist),
                Err(WatchError::Ended(why)) => {
                    tracing::debug!(resource = self.kind.resource, why, "the store's watch ended");
                    self.storage.leave_current_endpoint();
                    return Ok(Next::Resume);
                }
            };
            pending
                .extend(batch.events.into_iter().filter(|e| e.kv.as_ref().is_some_and(|kv| kv.mod_revision > listed)));
            let Some(complete_to) = batch.complete_to else { continue };
            if batch.is_progress && confirm(&watch, &mut asked) {
                continue;
            }
            let changes = std::mem::take(&mut pending);
            let changes = changes.into_iter().filter_map(|event| self.change(&prefix, event)).collect();
            self.apply(changes, complete_to);
        }
    }

    fn change(&self, prefix: &str, event: mvccpb::Event) -> Option<(String, Change)> {
        let deleted = event.r#type() == mvccpb::event::EventType::Delete;
        let kv = event.kv?;
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        let revision = kv.mod_revision;
        let entry_of =
            |kv: &mvccpb::KeyValue| Entry::from_stored(self.kind, &key, &kv.value, kv.mod_revision).map(Arc::new);
        let below = key[prefix.len()..].to_owned();
        if deleted {
            // The cache holds the last state; the store's copy serves when it does not.
            let held = self.get(&below);
            let previous = held.or_else(|| event.prev_kv.as_ref().and_then(entry_of));
            return Some((below, Change { revision, current: None, previous }));
        }
        let current = Some(entry_of(&kv)?);
        Some((below, Change { revision, current, previous: None }))
    }
}

/// Whether a progress answer must be followed by a second one before it counts.
fn confirm(watch: &StoreWatch, asked: &mut u32) -> bool {
    match *asked {
        1 => {
            watch.request_progress();
            *asked = 2;
            true
        }
        _ => {
            *asked = 0;
            false
        }
    }
}
