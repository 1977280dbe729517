//! A watcher: a cursor into the history of a cache.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Change, Entry, Filter, WatchCache};
use crate::engine::selector::{FieldSelector, LabelSelector};
use crate::status::ApiError;

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Added(Arc<Entry>),
    Modified(Arc<Entry>),
    /// The last state, and the revision of the deletion (or of the change that took it out of the selector).
    Deleted(Arc<Entry>, i64),
}

/// Reads a cache's changes at its own pace.
pub struct Watcher {
    cache: Arc<WatchCache>,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
    epoch: u64,
    /// The next change to look at.
    position: u64,
    reached: watch::Receiver<i64>,
    /// The client has seen everything up to here.
    start: i64,
    /// Every change up to this revision has been looked at.
    revision: i64,
}

impl Watcher {
    /// Starts with what exists; also the revision of that.
    #[must_use]
    pub fn from_now(
        cache: Arc<WatchCache>,
        namespace: Option<String>,
        labels: LabelSelector,
        fields: FieldSelector,
    ) -> (Self, Vec<Arc<Entry>>) {
        let mut reached = cache.reached.subscribe();
        // The items and the cursor must be of one moment: changes take this lock for writing.
        let state = cache.state.read();
        let filter = Filter { namespace: namespace.as_deref(), labels: &labels, fields: &fields };
        let items = state.items.values().filter(|e| filter.accepts(e)).cloned().collect();
        let (epoch, position) = (state.epoch, state.first_position + state.history.len() as u64);
        let revision = *reached.borrow_and_update();
        drop(state);
        let start = revision;
        (Self { cache, namespace, labels, fields, epoch, position, reached, start, revision }, items)
    }

    /// Starts after `revision`.
    ///
    /// # Errors
    /// 410 when the history no longer reaches back that far.
    pub fn after(
        cache: Arc<WatchCache>,
        namespace: Option<String>,
        labels: LabelSelector,
        fields: FieldSelector,
        revision: i64,
    ) -> Result<Self, ApiError> {
        let reached = cache.reached.subscribe();
        let state = cache.state.read();
        if revision < state.complete_after {
            return Err(too_old(revision, state.complete_after));
        }
        let skip = state.history.partition_point(|change| change.revision <= revision);
        let (epoch, position) = (state.epoch, state.first_position + skip as u64);
        drop(state);
        let start = revision;
        Ok(Self { cache, namespace, labels, fields, epoch, position, reached, start, revision })
    }

    /// The revision that everything delivered so far reaches: what a bookmark says.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Waits for changes that the filter lets through; may be empty when only the revision moved on.
    ///
    /// # Errors
    /// 410 when this watcher fell out of the history.
    pub async fn next(&mut self) -> Result<Vec<Step>, ApiError> {
        loop {
            self.reached.borrow_and_update();
            let steps = self.take()?;
            if !steps.is_empty() {
                return Ok(steps);
            }
            if self.reached.changed().await.is_err() {
                return Err(ApiError::unavailable("the watch cache has stopped", 1));
            }
        }
    }

    fn take(&mut self) -> Result<Vec<Step>, ApiError> {
        let cache = self.cache.clone();
        let state = cache.state.read();
        if state.epoch != self.epoch || self.position < state.first_position {
            return Err(too_old(self.revision, state.complete_after));
        }
        let skip = usize::try_from(self.position - state.first_position).expect("the history fits in memory");
        let filter = Filter { namespace: self.namespace.as_deref(), labels: &self.labels, fields: &self.fields };
        let mut steps = Vec::new();
        for change in state.history.iter().skip(skip).take(CHANGES_PER_TURN) {
            self.position += 1;
            self.revision = self.revision.max(change.revision);
            // A watcher that comes from a server that was ahead of this one has seen the first changes already.
            if change.revision > self.start {
                steps.extend(step(change, &filter));
            }
        }
        if self.position == state.first_position + state.history.len() as u64 {
            self.revision = self.revision.max(*cache.reached.borrow());
        } else if steps.is_empty() {
            // More is there already: do not wait for the next change to look at it.
            self.reached.mark_changed();
        }
        Ok(steps)
    }
}

/// Changes looked at under one read lock.
const CHANGES_PER_TURN: usize = 256;

fn step(change: &Change, filter: &Filter<'_>) -> Option<Step> {
    let before = change.previous.as_ref().filter(|e| filter.accepts(e));
    let after = change.current.as_ref().filter(|e| filter.accepts(e));
    match (before, after) {
        (None, Some(entry)) => Some(Step::Added(entry.clone())),
        (Some(_), Some(entry)) => Some(Step::Modified(entry.clone())),
        (Some(last), None) => Some(Step::Deleted(last.clone(), change.revision)),
        (None, None) => None,
    }
}

fn too_old(revision: i64, oldest: i64) -> ApiError {
    ApiError::expired(format!("too old resource version: {revision} ({oldest})"))
}
