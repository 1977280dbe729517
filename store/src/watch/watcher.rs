//! One watcher: what it wants, and how far it has got.

use std::sync::Arc;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::Event;
use kontiki_api::mvccpb::event::EventType;
use pb::watch_create_request::FilterType;
use prometheus::IntGauge;

use super::hub::{Hub, Registration, Slot};
use super::replay::{self, Recent};
use super::ring::{Block, Change};
use crate::mvcc::interval::Interval;
use crate::state::core::Core;

pub(crate) struct Watcher {
    pub(crate) registration: Registration,
    pub(crate) slot: Arc<Slot>,
    pub(crate) interval: Interval,
    pub(crate) filter: Filter,
    pub(crate) fragment: bool,
    pub(crate) progress_notify: bool,
    /// The first revision it asked for, which may still be to come; 0 if it named none.
    pub(crate) start: i64,
    /// The next revision it has not been given.
    pub(crate) next: i64,
    /// It reads old revisions from disk, or has not been looked at yet.
    pub(crate) replaying: Replaying,
    /// It was sent events since the last tick, so it knows where the store is.
    pub(crate) served_since_tick: bool,
}

/// Whether a watcher still reads the past; those who do are counted as slow.
pub(crate) struct Replaying {
    replaying: bool,
    slow: IntGauge,
    recent: Arc<Recent>,
}

impl Replaying {
    pub(crate) fn new(replaying: bool, hub: &Hub) -> Self {
        let slow = hub.core.metrics.watch.slow_watchers.clone();
        let mut this = Self { replaying: false, slow, recent: hub.recent.clone() };
        this.set(replaying);
        this
    }

    pub(crate) fn get(&self) -> bool {
        self.replaying
    }

    pub(crate) fn set(&mut self, replaying: bool) {
        match (std::mem::replace(&mut self.replaying, replaying), replaying) {
            (false, true) => {
                self.slow.inc();
                self.recent.begin();
            }
            (true, false) => {
                self.slow.dec();
                self.recent.end();
            }
            (true, true) | (false, false) => {}
        }
    }
}

impl Drop for Replaying {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Which parts of events it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    puts: bool,
    deletes: bool,
    prev_kv: bool,
}

impl Filter {
    pub(crate) fn of(request: &pb::WatchCreateRequest) -> Self {
        let has = |filter: FilterType| request.filters.contains(&i32::from(filter));
        Self { puts: !has(FilterType::Noput), deletes: !has(FilterType::Nodelete), prev_kv: request.prev_kv }
    }

    fn wants(&self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => self.puts,
            EventType::Delete => self.deletes,
        }
    }
}

impl Watcher {
    /// Whether another watcher with the same filter is told the same.
    pub(crate) fn shares(&self) -> bool {
        !self.filter.prev_kv && !self.fragment
    }

    /// The watcher's events of these revisions, in order.
    pub(crate) fn events(&self, core: &Core, blocks: &[Arc<Block>]) -> Vec<Event> {
        let changes = blocks.iter().flat_map(|block| block.changes.iter());
        changes
            .filter(|change| self.interval.contains(change.key()) && self.filter.wants(&change.event))
            .map(|change| self.event(core, change))
            .collect()
    }

    fn event(&self, core: &Core, change: &Change) -> Event {
        let Event { r#type, kv, prev_kv } = &change.event;
        let prev_kv = match (self.filter.prev_kv, change.previous_on_disk) {
            (false, _) => None,
            (true, false) => prev_kv.clone(),
            (true, true) => replay::previous(core, &change.kv().key, change.kv().mod_revision),
        };
        Event { r#type: *r#type, kv: kv.clone(), prev_kv }
    }
}
