//! When each step of a pod's path was seen by a client that watches.

use std::time::Instant;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{Api, WatchEvent, WatchParams};

use crate::millis;

/// The steps, each when it was first seen.
#[derive(Default)]
pub struct Timeline {
    saved: Option<Instant>,
    scheduled: Option<(Instant, String)>,
    image: Option<(Instant, String)>,
    started: Option<Instant>,
    finished: Option<(Instant, i32)>,
}

/// Watches until the pod's container has ended once.
pub async fn watch(client: kube::Client, namespace: &str, name: &str) -> Result<Timeline> {
    let this = format!("metadata.name={name}");
    let about = format!("involvedObject.name={name}");
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let events = Api::<Event>::namespaced(client, namespace);
    let mut pods = Box::pin(changes(pods.watch(&WatchParams::default().fields(&this), "0").await?));
    let mut events = Box::pin(changes(events.watch(&WatchParams::default().fields(&about), "0").await?));
    let mut timeline = Timeline::default();
    while timeline.finished.is_none() || timeline.image.is_none() {
        tokio::select! {
            pod = pods.next() => timeline.see_pod(&pod.context("the watch of the pod ended")??),
            event = events.next() => timeline.see_event(&event.context("the watch of the events ended")??),
        }
    }
    Ok(timeline)
}

fn changes<K: Clone + std::fmt::Debug>(
    watch: impl Stream<Item = kube::Result<WatchEvent<K>>>,
) -> impl Stream<Item = Result<K>> {
    watch.map_err(anyhow::Error::from).try_filter_map(|event| async move {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Ok(Some(object)),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => Ok(None),
            WatchEvent::Error(status) => Err(anyhow::anyhow!("{}", status.message)),
        }
    })
}

impl Timeline {
    fn see_pod(&mut self, pod: &Pod) {
        let now = Instant::now();
        self.saved.get_or_insert(now);
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            self.scheduled.get_or_insert((now, node));
        }
        let container = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
        let Some(container) = container else { return };
        if let Some(exit_code) = exit_code(container) {
            self.started.get_or_insert(now);
            self.finished.get_or_insert((now, exit_code));
        } else if container.state.as_ref().is_some_and(|state| state.running.is_some()) {
            self.started.get_or_insert(now);
        }
    }

    fn see_event(&mut self, event: &Event) {
        if event.reason.as_deref() == Some("Pulled") {
            self.image.get_or_insert((Instant::now(), event.message.clone().unwrap_or_default()));
        }
    }

    pub fn print(&self, applied: Instant) {
        // The first column counts from kubectl's start (its own discovery and validation included), the second from the save.
        let since = |from: Option<Instant>, at: Option<Instant>| match (from, at) {
            (Some(from), Some(at)) => format!("{:.0}", millis(at.saturating_duration_since(from))),
            _ => "?".to_owned(),
        };
        println!("  {:<10} {:>9} {:>12}", "", "since", "since");
        println!("  {:<10} {:>9} {:>12}", "step", "kubectl", "it was saved");
        let row = |step: &str, at: Option<Instant>, what: &str| {
            let (total, own) = (since(Some(applied), at), since(self.saved, at));
            println!("  {step:<10} {total:>6} ms {own:>9} ms   {what}");
        };
        row("saved", self.saved, "the API server has it, on a majority of the store's members");
        if let Some((at, node)) = &self.scheduled {
            row("scheduled", Some(*at), &format!("the scheduler chose {node}"));
        }
        if let Some((at, message)) = &self.image {
            row("image", Some(*at), message);
        }
        row("started", self.started, "the command runs in its own namespaces");
        if let Some((at, exit_code)) = &self.finished {
            row("finished", Some(*at), &format!("exit code {exit_code}"));
        }
    }
}

/// The exit code of the container's first run, also when it has been started again since.
fn exit_code(container: &ContainerStatus) -> Option<i32> {
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.as_ref().map(|terminated| terminated.exit_code))
    };
    ended(&container.last_state).or_else(|| ended(&container.state))
}
