//! Writes Kubernetes events, counting repetitions instead of writing them again. Nothing waits for it.

use std::collections::{HashMap, VecDeque};

use http::Method;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::clock::Clock;
use super::execute::{JSON, MERGE_PATCH, request};
use crate::controllers::action::{EventRecord, Failure, Resource, Target};
use crate::controllers::{limits, meta};

/// Takes events to be written.
#[derive(Clone, Debug)]
pub struct EventSink(mpsc::Sender<EventRecord>);

impl EventSink {
    /// A sink and what comes out of it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<EventRecord>) {
        let (sender, receiver) = mpsc::channel(limits::EVENT_QUEUE_MAX);
        (Self(sender), receiver)
    }

    /// Hands over an event; a full queue drops it.
    pub fn tell(&self, record: EventRecord) {
        if self.0.try_send(record).is_err() {
            tracing::debug!("event dropped: too many wait to be written");
        }
    }
}

/// Writes what comes in until the sinks are gone.
pub async fn write(client: Client, clock: Clock, mut records: mpsc::Receiver<EventRecord>) {
    let mut series = Series::default();
    while let Some(record) = records.recv().await {
        let plan = series.take(record, clock.now());
        let result = match &plan {
            Write::Create { namespace, object } => {
                request(&client, Method::POST, &Resource::EVENT.path(namespace), Some(object), JSON).await
            }
            Write::Repeat { target, patch } => {
                request(&client, Method::PATCH, &target.path(), Some(patch), MERGE_PATCH).await
            }
        };
        match (result, plan) {
            (Ok(_), _) => {}
            // It has expired, or the namespace is going: the next one starts anew.
            (Err(Failure::NotFound(_)), Write::Repeat { target, .. }) => series.forget(&target.key.name),
            (Err(error), _) => tracing::debug!(%error, "event not written"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Write {
    Create { namespace: String, object: Value },
    Repeat { target: Target, patch: Value },
}

#[derive(Debug)]
struct Written {
    name: String,
    namespace: String,
    count: i64,
    last: Timestamp,
}

type Identity = (Option<String>, Option<String>, Option<String>, &'static str, &'static str, String);

/// The events written lately.
#[derive(Debug, Default)]
struct Series {
    known: HashMap<Identity, Written>,
    order: VecDeque<Identity>,
    sequence: u64,
}

impl Series {
    fn take(&mut self, record: EventRecord, now: Timestamp) -> Write {
        let ObjectReference { uid, namespace, name, .. } = record.about.clone();
        let identity = (uid, namespace, name, record.component, record.reason, record.message.clone());
        if let Some(written) = self.known.get_mut(&identity)
            && written.last + limits::EVENT_SERIES_AGE >= now
        {
            written.count += 1;
            written.last = now;
            let target = Target::new(Resource::EVENT, &written.namespace, &written.name);
            let patch = json!({"count": written.count, "lastTimestamp": meta::time(now)});
            return Write::Repeat { target, patch };
        }
        self.sequence += 1;
        // Events of objects without a namespace live in `default`.
        let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".into());
        let unique = now.as_nanosecond() + i128::from(self.sequence % 1000);
        let name = format!("{}.{unique:x}", record.about.name.as_deref().unwrap_or_default());
        let object = event(&record, &name, &namespace, now);
        let written = Written { name, namespace: namespace.clone(), count: 1, last: now };
        if self.known.insert(identity.clone(), written).is_none() {
            self.order.push_back(identity);
        }
        if self.order.len() > limits::EVENT_SERIES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        Write::Create { namespace, object }
    }

    fn forget(&mut self, name: &str) {
        self.known.retain(|_, written| written.name != name);
        self.order.retain(|identity| self.known.contains_key(identity));
    }
}

fn event(record: &EventRecord, name: &str, namespace: &str, now: Timestamp) -> Value {
    let EventRecord { about, component, warning, reason, message } = record;
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "type": if *warning { "Warning" } else { "Normal" },
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "count": 1,
        "firstTimestamp": meta::time(now),
        "lastTimestamp": meta::time(now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> EventRecord {
        let about =
            ObjectReference { name: Some("web".into()), namespace: Some("a".into()), ..ObjectReference::default() };
        EventRecord { about, component: "test", warning: false, reason: "Tested", message: message.into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_repetition_is_counted_and_another_message_is_another_event() {
        let mut series = Series::default();
        let Write::Create { object, .. } = series.take(record("x"), at(100)) else { panic!("the first is created") };
        assert_eq!(object["count"], 1);
        let Write::Repeat { target, patch } = series.take(record("x"), at(101)) else { panic!("the second repeats") };
        assert_eq!((target.key.name.as_str().into(), &patch["count"]), (object["metadata"]["name"].clone(), &json!(2)));
        assert!(matches!(series.take(record("y"), at(102)), Write::Create { .. }));
    }

    #[test]
    fn a_forgotten_or_old_event_is_created_anew() {
        let mut series = Series::default();
        let Write::Create { object, .. } = series.take(record("x"), at(100)) else { panic!("created") };
        series.forget(object["metadata"]["name"].as_str().unwrap());
        assert!(matches!(series.take(record("x"), at(101)), Write::Create { .. }));
        let late = 102 + i64::try_from(limits::EVENT_SERIES_AGE.as_secs()).unwrap();
        assert!(matches!(series.take(record("x"), at(late)), Write::Create { .. }));
    }
}
