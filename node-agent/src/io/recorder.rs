//! Kubernetes Events: the story of a pod as `kubectl describe` tells it.
//!
//! Notes go through a bounded queue to one task, so that no pod waits for its story; when the API is slow the newest
//! notes are dropped. A repeated note raises the count of the Event that exists.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::limits::{EVENT_QUEUE_LEN, EVENT_SERIES_MAX};
use crate::pod::machine::Note;

const COMPONENT: &str = "kubelet";

#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
}

#[derive(Debug)]
struct Told {
    about: ObjectReference,
    note: Note,
    at: Timestamp,
}

/// The recorder and the task that writes; the task ends with the last recorder.
pub fn recorder(client: Client, node_name: String) -> (Recorder, impl Future<Output = ()>) {
    let (queue, mut notes) = mpsc::channel::<Told>(EVENT_QUEUE_LEN);
    let write = async move {
        let mut series = Series::default();
        while let Some(told) = notes.recv().await {
            if let Err(error) = series.write(&client, &node_name, told).await {
                tracing::debug!(%error, "an Event was not written");
            }
        }
    };
    (Recorder { queue }, write)
}

impl Recorder {
    pub fn record(&self, pod: &Pod, note: Note) {
        let meta = &pod.metadata;
        self.tell(
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                field_path: note.field_path.clone(),
            },
            note,
        );
    }

    /// About the Node itself; such Events live in `default`.
    pub fn record_node(&self, node_name: &str, note: Note) {
        let (name, uid) = (Some(node_name.to_owned()), Some(node_name.to_owned()));
        self.tell(ObjectReference { kind: Some("Node".to_owned()), name, uid, ..ObjectReference::default() }, note);
    }

    fn tell(&self, about: ObjectReference, note: Note) {
        if self.queue.try_send(Told { about, note, at: Timestamp::now() }).is_err() {
            tracing::debug!("an Event was dropped: the queue is full");
        }
    }
}

/// What makes two notes the same: object, field, reason, message.
type Key = (Option<String>, Option<String>, &'static str, String);

#[derive(Default)]
struct Series {
    known: HashMap<Key, (String, i32)>,
}

impl Series {
    async fn write(&mut self, client: &Client, node_name: &str, told: Told) -> Result<(), kube::Error> {
        let Told { about, note, at } = told;
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events = Api::<Event>::namespaced(client.clone(), &namespace);
        let key = (about.uid.clone(), note.field_path.clone(), note.reason, note.message.clone());
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({"count": *count, "lastTimestamp": Time(at)});
            match events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), at.as_nanosecond());
        let event = event(node_name, &name, namespace, about, note, at);
        events.create(&PostParams::default(), &event).await?;
        if self.known.len() >= EVENT_SERIES_MAX {
            self.known.clear();
        }
        self.known.insert(key, (name, 1));
        Ok(())
    }
}

fn event(node_name: &str, name: &str, namespace: String, about: ObjectReference, note: Note, at: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: about,
        reason: Some(note.reason.to_owned()),
        message: Some(note.message),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node_name.to_owned()) }),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        count: Some(1),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node_name.to_owned()),
        ..Event::default()
    }
}
