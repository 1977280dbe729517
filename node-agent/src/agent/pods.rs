//! Which pods this node has: the watch on one side, workers on the other.
//!
//! A pod is known by its uid. What the first complete list does not name but the machine has is an orphan and is stopped. Until
//! that list is there, exits of pods nobody has asked for yet are kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, utils::Backoff};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::context::Context;
use super::worker::{Message, Worker};
use crate::limits::{API_RETRY_FIRST, API_RETRY_MAX, POD_QUEUE_LEN, WATCH_TIMEOUT_S};
use crate::pod::admission::{Usage, refusal};
use crate::pod::machine::{Machine, Restored, containers_of};
use crate::runtime::RuntimeEvent;

/// Waits between attempts to watch; short at first, since another server may be there already.
#[derive(Debug, Clone)]
pub struct QuickBackoff(Duration);

impl Default for QuickBackoff {
    fn default() -> Self {
        Self(API_RETRY_FIRST)
    }
}

impl Iterator for QuickBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(API_RETRY_MAX);
        Some(wait)
    }
}

impl Backoff for QuickBackoff {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

struct Handle {
    inbox: mpsc::Sender<Message>,
    usage: Usage,
}

pub struct Pods {
    context: Arc<Context>,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<String>,
    /// What an earlier agent left, by uid, until the pod's worker takes it over.
    restored: HashMap<String, Restored>,
    /// Exits of pods without a worker, until the first list is complete.
    early: Vec<RuntimeEvent>,
    listed: HashSet<String>,
    is_listed: bool,
}

impl Pods {
    pub fn new(context: Arc<Context>, restored: HashMap<String, Restored>) -> Self {
        Self {
            context,
            restored,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            early: Vec::new(),
            listed: HashSet::new(),
            is_listed: false,
        }
    }

    /// Follows the pods of the node for as long as it is polled.
    pub async fn run(mut self, client: Client, node_name: &str, mut events: mpsc::Receiver<RuntimeEvent>) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}")).timeout(WATCH_TIMEOUT_S);
        let mut watch = watcher(Api::<Pod>::all(client), config).backoff(QuickBackoff::default()).boxed();
        loop {
            tokio::select! {
                event = watch.try_next() => match event {
                    Ok(Some(event)) => self.see(event).await,
                    Ok(None) => unreachable!("invariant: a watcher never ends"),
                    Err(error) => tracing::debug!(%error, "the watch on pods begins again"),
                },
                Some(event) = events.recv() => self.hear(event).await,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => match ended {
                    Ok(uid) => drop(self.workers.remove(&uid)),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
            }
        }
    }

    async fn see(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.apply(pod).await;
            }
            Event::InitDone => self.finish_list().await,
            Event::Apply(pod) => self.apply(pod).await,
            Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                self.send(&uid, Message::Gone).await;
            }
        }
    }

    async fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        if self.workers.contains_key(&uid) {
            return self.send(&uid, Message::Pod(pod)).await;
        }
        let is_fresh =
            pod.status.as_ref().is_none_or(|status| status.start_time.is_none()) && !self.restored.contains_key(&uid);
        let usage = if is_terminal(&pod) { Usage::default() } else { Usage::of(&pod) };
        let used = self.workers.values().fold(Usage::default(), |sum, handle| sum.plus(handle.usage));
        let refused = is_fresh.then(|| refusal(usage, used, &self.context.allocatable)).flatten();
        self.spawn(&uid, pod, usage);
        if let Some((reason, message)) = refused {
            self.send(&uid, Message::Rejected { reason, message }).await;
        }
        let (own, others) = std::mem::take(&mut self.early).into_iter().partition(|event| uid_of(event) == uid);
        self.early = others;
        for event in own {
            self.hear(event).await;
        }
    }

    fn spawn(&mut self, uid: &str, pod: Arc<Pod>, usage: Usage) {
        let now = Timestamp::now();
        let mut restored = self.restored.remove(uid).unwrap_or_default();
        for (_, container) in pod.spec.iter().flat_map(containers_of) {
            if let Some(attempt) = self.context.files.newest_attempt(&pod, &container.name) {
                restored.log_attempts.insert(container.name.clone(), attempt);
            }
        }
        // A pod on the node's own network has no address of its own to recover.
        if let Some(ips) = restored.sandbox_ips.as_mut().filter(|ips| ips.is_empty()) {
            ips.clone_from(&self.context.host_ips);
        }
        let mut machine = Machine::new(pod, now);
        machine.restore(&restored, now);
        let (inbox, messages) = mpsc::channel(POD_QUEUE_LEN);
        let worker = Worker::new(self.context.clone(), machine, messages, now);
        let name = uid.to_owned();
        self.tasks.spawn(async move {
            worker.run().await;
            name
        });
        self.workers.insert(uid.to_owned(), Handle { inbox, usage });
    }

    /// The list is complete: what is here and not in it has nobody who wants it.
    async fn finish_list(&mut self) {
        let gone: Vec<String> = self.workers.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.send(&uid, Message::Gone).await;
        }
        if self.is_listed {
            return;
        }
        self.is_listed = true;
        let files = &self.context.files;
        let orphans: HashSet<String> = self
            .restored
            .drain()
            .map(|(uid, _)| uid)
            .chain(files.known_pods())
            .filter(|uid| !self.listed.contains(uid))
            .collect();
        for uid in orphans {
            tracing::info!(pod = uid, "removing a pod that the API does not know");
            if let Err(error) = self.context.containers.remove_sandbox(&uid).await {
                tracing::debug!(pod = uid, %error, "an orphan's sandbox was not removed");
            }
            self.context.files.remove_unknown(&uid);
        }
        for event in std::mem::take(&mut self.early) {
            self.hear(event).await;
        }
    }

    async fn hear(&mut self, event: RuntimeEvent) {
        let uid = uid_of(&event).to_owned();
        if !self.workers.contains_key(&uid) && !self.is_listed {
            return self.early.push(event);
        }
        match event {
            RuntimeEvent::Exited { container, exit } if self.workers.contains_key(&uid) => {
                self.send(&uid, Message::Exited { container, exit }).await
            }
            RuntimeEvent::Exited { container, .. } => drop(self.context.containers.ack(&container).await),
            RuntimeEvent::ShimLost { .. } => self.send(&uid, Message::SandboxLost).await,
        }
    }

    async fn send(&mut self, uid: &str, message: Message) {
        if let Message::Pod(pod) = &message
            && is_terminal(pod)
            && let Some(handle) = self.workers.get_mut(uid)
        {
            handle.usage = Usage::default();
        }
        if let Some(handle) = self.workers.get(uid) {
            // A worker that has ended needs no message.
            let _ = handle.inbox.send(message).await;
        }
    }
}

fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn uid_of(event: &RuntimeEvent) -> &str {
    match event {
        RuntimeEvent::Exited { container, .. } => &container.pod_uid,
        RuntimeEvent::ShimLost { pod_uid } => pod_uid,
    }
}
