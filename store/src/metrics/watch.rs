//! Watchers, and how long their responses take on the way out.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::{counter, doubling, gauge, histogram};

#[derive(Clone)]
pub struct WatchMetrics {
    pub events_sent: IntCounter,
    pub watchers: IntGauge,
    pub streams: IntGauge,
    /// Watchers that still read the past.
    pub slow_watchers: IntGauge,
    /// A response to a watcher, and the part of it that one event has.
    pub response_s: Histogram,
    pub response_per_event_s: Histogram,
    /// The answer to a request of the client.
    pub reply_s: Histogram,
    /// One round of telling quiet watchers where the store is.
    pub progress_s: Histogram,
}

/// What a response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// What a watcher asked for. None with progress, and with the news that it was overtaken by compaction.
    Events(usize),
    /// The answer to a request of the client: a watcher is created, or cancelled.
    Reply,
}

impl WatchMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        // Watchers fetch events when they can send them: none is ever waiting in memory.
        gauge(r, "etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.");
        let seconds = |name: &str, help: &str| {
            histogram(r, &format!("etcd_debugging_server_watch_send_loop_{name}_seconds"), help, doubling(0.001, 14))
        };
        Self {
            events_sent: counter(r, "etcd_debugging_mvcc_events_total", "Total number of events sent by this member."),
            watchers: gauge(r, "etcd_debugging_mvcc_watcher_total", "Total number of watchers."),
            streams: gauge(r, "etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams."),
            slow_watchers: gauge(
                r,
                "etcd_debugging_mvcc_slow_watcher_total",
                "Total number of unsynced slow watchers.",
            ),
            response_s: seconds(
                "watch_stream_duration",
                "The duration of a response with all its events, from reading them to handing them to the connection.",
            ),
            response_per_event_s: seconds("watch_stream_duration_per_event", "The same, for each of the events."),
            reply_s: seconds(
                "control_stream_duration",
                "The duration of telling that a watcher was created or cancelled.",
            ),
            progress_s: seconds("progress_duration", "The duration of one round of progress notifications."),
        }
    }

    /// Notes responses that left together; each took as long as the other.
    pub(crate) fn note_sent(&self, took: Duration, responses: &[Carries]) {
        let each = took.as_secs_f64() / responses.len().max(1) as f64;
        let events = || {
            responses.iter().filter_map(|carries| match carries {
                Carries::Events(events) => Some(*events as u64),
                Carries::Reply => None,
            })
        };
        let replies = responses.iter().filter(|carries| **carries == Carries::Reply);
        observe_all(&self.reply_s, replies.map(|_| each));
        observe_all(&self.response_s, events().map(|_| each));
        observe_all(&self.response_per_event_s, events().filter(|count| *count > 0).map(|count| each / count as f64));
        self.events_sent.inc_by(events().sum());
    }
}

/// Thousands of watchers may be told of one change: many values are counted aside first, and then in one go.
fn observe_all(histogram: &Histogram, mut values: impl Iterator<Item = f64>) {
    let Some(first) = values.next() else { return };
    let Some(second) = values.next() else { return histogram.observe(first) };
    let aside = histogram.local();
    [first, second].into_iter().chain(values).for_each(|value| aside.observe(value));
}
