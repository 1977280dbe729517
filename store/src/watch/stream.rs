//! One client's watch stream: its watchers, and the order in which responses leave.
//!
//! The order is: the rest of a fragmented response, then replies to requests, then events of one watcher after the other.
//! Nothing is queued but replies and a list of watchers with something to read; events are fetched when the client is
//! ready to take them.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::Event;
use tokio::time::{Interval as Ticks, MissedTickBehavior};

use super::answer::{Answer, Shared};
use super::hub::{Hub, Look, Signal, Slot};
use super::replay;
use super::response;
use super::watcher::{Filter, Replaying, Watcher};
use crate::io::clock::Stopwatch;
use crate::limits;
use crate::metrics::Carries;
use crate::mvcc::interval::Interval;

/// Where streams are made; cheap to clone.
#[derive(Clone)]
pub struct WatchHub {
    hub: Arc<Hub>,
}

/// What differs between streams.
#[derive(Clone, Debug)]
pub struct WatchStreamOptions {
    /// How often a quiet, synced watcher with `progress_notify` hears where the store is.
    pub progress_interval: Duration,
    /// Responses of watchers with `fragment` are split by events above this many bytes.
    pub fragment_bytes: usize,
}

impl Default for WatchStreamOptions {
    fn default() -> Self {
        Self { progress_interval: Duration::from_secs(600), fragment_bytes: limits::WATCH_FRAGMENT_BYTES }
    }
}

/// A stream of watchers that share a connection.
pub struct WatchStream {
    hub: Arc<Hub>,
    options: WatchStreamOptions,
    /// In boxes, so that finding one touches little beside it.
    watchers: BTreeMap<i64, Box<Watcher>>,
    /// The id that is tried next for a watcher that does not bring one.
    next_id: i64,
    signal: Arc<Signal>,
    /// Taken from the signal's queue: who is served before all that came there since.
    turn: VecDeque<i64>,
    replies: VecDeque<pb::WatchResponse>,
    /// The remaining parts of a response that has begun.
    fragments: VecDeque<pb::WatchResponse>,
    /// What watchers that are served one after the other have in common.
    shared: Option<Shared>,
    /// The responses that were given out and are not said to be sent yet.
    sending: Vec<Carries>,
    /// Since when the first of them was put together.
    since: Option<Stopwatch>,
    /// Progress requests that wait for watchers to be served first.
    progress_asked: usize,
    /// Runs while some watcher wants to hear of progress.
    ticks: Option<Ticks>,
}

/// What serving one watcher came to.
enum Served {
    /// The same as others in its place get.
    Shared(i64),
    Events(Vec<Event>, i64),
    /// What it has missed is gone; the floor.
    Compacted(i64),
    /// Nothing to say; it may have more to look through.
    Nothing,
}

impl WatchHub {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    #[cfg(test)]
    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    #[must_use]
    pub fn stream(&self) -> WatchStream {
        self.stream_with(WatchStreamOptions::default())
    }

    #[must_use]
    pub fn stream_with(&self, options: WatchStreamOptions) -> WatchStream {
        self.hub.core.metrics.watch.streams.inc();
        WatchStream {
            hub: self.hub.clone(),
            options,
            watchers: BTreeMap::new(),
            next_id: 0,
            signal: Arc::default(),
            turn: VecDeque::new(),
            replies: VecDeque::new(),
            fragments: VecDeque::new(),
            shared: None,
            sending: Vec::new(),
            since: None,
            progress_asked: 0,
            ticks: None,
        }
    }
}

impl WatchStream {
    /// Adds a watcher. Exactly one created response follows for each call, in the order of calls, also for a refused one.
    pub fn create(&mut self, request: pb::WatchCreateRequest) {
        let floor = self.hub.core.index.read().floor();
        match self.accept(&request) {
            Err(reason) => self.replies.push_back(response::refused(self.hub.revision(), reason)),
            Ok((watch_id, _)) if (1..floor).contains(&request.start_revision) => {
                self.replies.push_back(response::created(self.hub.revision(), watch_id));
                self.replies.push_back(response::compacted(watch_id, floor));
            }
            Ok((watch_id, interval)) => self.add(watch_id, interval, &request),
        }
    }

    /// Answers a call of `create` that is not to be made.
    pub fn refuse(&mut self, reason: &str) {
        self.replies.push_back(response::refused(self.hub.revision(), reason));
    }

    /// Responses to requests that wait for [`WatchStream::next`]. The edge stops reading requests above
    /// [`crate::limits::WATCH_REPLIES_WAITING`].
    #[must_use]
    pub fn replies_waiting(&self) -> usize {
        self.replies.len() + self.progress_asked
    }

    /// Ends a watcher; unknown ids are ignored.
    pub fn cancel(&mut self, watch_id: i64) {
        if let Some(watcher) = self.watchers.remove(&watch_id) {
            self.hub.unregister(watcher.registration);
            self.replies.push_back(response::cancelled(self.hub.revision(), watch_id));
        }
    }

    /// Asks for a progress response with watch id -1. None is given while any watcher lags behind, or waits for a
    /// revision that is still to come.
    pub fn progress(&mut self) {
        let revision = self.hub.revision();
        let near = self.watchers.values().all(|watcher| !watcher.replaying.get() && watcher.start <= revision);
        if near && !self.watchers.is_empty() {
            self.progress_asked += 1;
        }
    }

    /// The next response; cancel-safe. `header.revision` is set, the rest of the header is the edge's.
    pub async fn next(&mut self) -> Answer {
        loop {
            // Busy watchers must not keep the quiet ones from hearing of progress.
            if let Some(ticks) = &mut self.ticks
                && ticks.tick().now_or_never().is_some()
            {
                self.tick();
            }
            if let Some(answer) = self.ready() {
                return answer;
            }
            if !self.all_served() {
                // A long replay takes its turn with everything else.
                tokio::task::yield_now().await;
                continue;
            }
            match &mut self.ticks {
                Some(ticks) => tokio::select! {
                    biased;
                    () = self.signal.notify.notified() => {}
                    _ = ticks.tick() => self.tick(),
                },
                None => self.signal.notify.notified().await,
            }
        }
    }

    /// A response, if one can be made without waiting. May give up early, with watchers still in the queue.
    pub fn ready(&mut self) -> Option<Answer> {
        if let Some(fragment) = self.fragments.pop_front() {
            return Some(fragment.into());
        }
        let since = self.since.take().unwrap_or_else(Stopwatch::start);
        let whole = self.whole();
        match &whole {
            Some((_, carries)) => self.sending.push(*carries),
            // Nobody else is about to be told the same, and a quiet stream keeps nothing.
            None => self.shared = None,
        }
        self.since = (!self.sending.is_empty()).then_some(since);
        whole.map(|(answer, _)| answer)
    }

    /// Notes that the responses before have been put into what their connection is given next.
    pub fn sent(&mut self) {
        // The parts of one response are sent as one.
        if self.fragments.is_empty()
            && let Some(since) = self.since.take()
        {
            self.hub.core.metrics.watch.note_sent(since.elapsed(), &self.sending);
            self.sending.clear();
        }
    }

    /// Watchers whose turn it is, after those that were served: each may have something to read.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.turn.len()
    }

    /// A response, or the first part of one.
    fn whole(&mut self) -> Option<(Answer, Carries)> {
        if let Some(reply) = self.replies.pop_front() {
            let carries = match (reply.created || reply.canceled) && reply.compact_revision == 0 {
                true => Carries::Reply,
                false => Carries::Events(0),
            };
            return Some((reply.into(), carries));
        }
        for _ in 0..limits::WATCH_SERVED_AT_ONCE {
            let Some(watch_id) = self.next_queued() else { break };
            // It may have been cancelled since it was queued.
            let Some(watcher) = self.watchers.get_mut(&watch_id) else { continue };
            watcher.slot.queued.store(false, Ordering::SeqCst);
            let (answer, count) = match serve(&self.hub, watcher, &mut self.shared) {
                Served::Shared(revision) => {
                    let shared = self.shared.as_ref().expect("it was just served from");
                    (Answer::Shared { revision, watch_id, events: shared.events.clone() }, shared.count)
                }
                Served::Events(events, revision) => {
                    let (count, fragment) = (events.len(), watcher.fragment);
                    (self.respond(watch_id, revision, events, fragment).into(), count)
                }
                Served::Compacted(floor) => (self.end_compacted(watch_id, floor).into(), 0),
                Served::Nothing => continue,
            };
            return Some((answer, Carries::Events(count)));
        }
        let progress = if self.progress_asked > 0 { self.manual_progress() } else { None };
        progress.map(|response| (response.into(), Carries::Events(0)))
    }

    fn next_queued(&mut self) -> Option<i64> {
        if self.turn.is_empty() {
            mem::swap(&mut self.turn, &mut self.signal.queue.lock());
        }
        self.turn.pop_front()
    }

    /// Whether no watcher has anything to read.
    fn all_served(&self) -> bool {
        self.turn.is_empty() && self.signal.queue.lock().is_empty()
    }

    fn accept(&mut self, request: &pb::WatchCreateRequest) -> Result<(i64, Interval), &'static str> {
        if request.start_revision < 0 {
            return Err("etcdserver: mvcc: required revision has been compacted");
        }
        let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
        // The request's bytes belong to a larger buffer, and a watcher lives long.
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let interval = Interval::of(&own(&key), &own(&request.range_end));
        if interval.is_empty() {
            return Err("mvcc: watcher range is empty");
        }
        let watch_id = request.watch_id;
        if watch_id == 0 {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            return Ok((self.next_id - 1, interval));
        }
        if self.watchers.contains_key(&watch_id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream");
        }
        Ok((watch_id, interval))
    }

    #[allow(clippy::disallowed_methods, reason = "starts the ticks of progress notifications, which decide nothing")]
    fn add(&mut self, watch_id: i64, interval: Interval, request: &pb::WatchCreateRequest) {
        let slot = Arc::new(Slot {
            watch_id,
            queued: AtomicBool::new(false),
            synced_before: AtomicI64::new(0),
            signal: self.signal.clone(),
        });
        let (registration, revision, start) =
            self.hub.register(&interval, request.start_revision, request.prev_kv, slot.clone());
        self.replies.push_back(response::created(revision, watch_id));
        if start <= revision {
            slot.enqueue();
        }
        if request.progress_notify && self.ticks.is_none() {
            let period = self.options.progress_interval;
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            self.ticks = Some(ticks);
        }
        let watcher = Watcher {
            registration,
            slot,
            interval,
            filter: Filter::of(request),
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            start: request.start_revision,
            next: start,
            replaying: Replaying::new(start <= revision, &self.hub),
            served_since_tick: false,
        };
        self.watchers.insert(watch_id, Box::new(watcher));
    }

    fn respond(&mut self, watch_id: i64, revision: i64, events: Vec<Event>, fragment: bool) -> pb::WatchResponse {
        if !fragment {
            return response::events(revision, watch_id, events);
        }
        self.fragments = response::fragments(revision, watch_id, events, self.options.fragment_bytes);
        self.fragments.pop_front().expect("at least one part")
    }

    fn end_compacted(&mut self, watch_id: i64, floor: i64) -> pb::WatchResponse {
        let watcher = self.watchers.remove(&watch_id).expect("it was being served");
        self.hub.unregister(watcher.registration);
        response::compacted(watch_id, floor)
    }

    /// The answer to a progress request, once every watcher has been served up to the revision in it.
    fn manual_progress(&mut self) -> Option<pb::WatchResponse> {
        // The revision first: whoever has something to read up to it is in the queue by now.
        let revision = self.hub.revision();
        if !self.all_served() {
            return None;
        }
        if self.watchers.is_empty() || self.watchers.values().any(|watcher| watcher.start > revision) {
            self.progress_asked = 0;
            return None;
        }
        self.progress_asked -= 1;
        Some(response::progress(revision, response::NO_WATCH_ID))
    }

    /// Tells quiet, synced watchers that ask for it where the store is.
    fn tick(&mut self) {
        let watch = Stopwatch::start();
        let revision = self.hub.revision();
        for (watch_id, watcher) in &mut self.watchers {
            let served = mem::take(&mut watcher.served_since_tick);
            let synced = !watcher.slot.queued.load(Ordering::Acquire) && watcher.start <= revision;
            if watcher.progress_notify && !served && synced {
                self.replies.push_back(response::progress(revision, *watch_id));
            }
        }
        self.hub.core.metrics.watch.progress_s.observe(watch.elapsed().as_secs_f64());
    }
}

/// Reads what a watcher has not seen yet, up to one response.
fn serve(hub: &Hub, watcher: &mut Watcher, shared: &mut Option<Shared>) -> Served {
    watcher.next = watcher.next.max(watcher.slot.synced_before.load(Ordering::Acquire));
    // Most who come one after the other stand in the same place, and find the same there unless there is news.
    if let Some(shared) = shared
        && shared.is_for(watcher)
        && hub.newest() == shared.newest
    {
        return share(watcher, shared);
    }
    match hub.look(watcher.registration, watcher.next) {
        Look::Synced(newest) => {
            watcher.next = watcher.next.max(newest + 1);
            watcher.replaying.set(false);
            Served::Nothing
        }
        Look::Blocks { blocks, more, newest } => {
            let catches_up = watcher.replaying.get();
            watcher.replaying.set(catches_up && more);
            if more {
                watcher.slot.enqueue();
            }
            if let ([block], false, false, true) = (&blocks[..], catches_up, more, watcher.shares()) {
                let told = match shared.take() {
                    Some(known) if known.is_of(block, watcher) => known.found_at(watcher.next, newest),
                    _ => {
                        let events = watcher.events(&hub.core, std::slice::from_ref(block));
                        Shared::new(block.clone(), watcher, newest, events)
                    }
                };
                return share(watcher, shared.insert(told));
            }
            let last = blocks.last().expect("at least one block").revision;
            watcher.next = last + 1;
            // What is past is told as of now, what is new as of when it happened.
            let events = watcher.events(&hub.core, &blocks);
            tell(watcher, events, if catches_up { newest } else { last })
        }
        Look::Behind { from, newest } => {
            watcher.replaying.set(true);
            match replay::slice(hub, &watcher.interval, (from, newest)) {
                Err(replay::Compacted(floor)) => Served::Compacted(floor),
                Ok(slice) => {
                    watcher.next = slice.next();
                    watcher.slot.enqueue();
                    let events = watcher.events(&hub.core, slice.blocks());
                    // Another watcher may have read further.
                    tell(watcher, events, newest.max(slice.next() - 1))
                }
            }
        }
    }
}

fn tell(watcher: &mut Watcher, events: Vec<Event>, revision: i64) -> Served {
    if events.is_empty() {
        return Served::Nothing;
    }
    watcher.served_since_tick = true;
    Served::Events(events, revision)
}

fn share(watcher: &mut Watcher, shared: &Shared) -> Served {
    watcher.next = shared.revision() + 1;
    if shared.count == 0 {
        return Served::Nothing;
    }
    watcher.served_since_tick = true;
    Served::Shared(shared.revision())
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub.core.metrics.watch.streams.dec();
        for watcher in self.watchers.values() {
            self.hub.unregister(watcher.registration);
        }
    }
}
