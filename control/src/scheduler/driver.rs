//! The loop around the decisions: pods and nodes in, bindings out.
//!
//! A chosen pod counts on its node at once (it is assumed), while the binding is under way; when the binding fails it is forgotten there
//! and tried again. Two schedulers at once are safe: the API binds a pod only once.

#![allow(clippy::disallowed_methods, reason = "the driver: feeds randomness to the decision")]

use std::pin::pin;
use std::sync::Arc;

use http::Method;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::Client;
use rand::Rng;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, schedule};
use super::queue::PendingQueue;
use super::view::ClusterView;
use super::{NAME, limits};
use crate::controllers::action::{EventRecord, Failure, Resource, Target};
use crate::controllers::cache::{Change, Store};
use crate::controllers::cluster::Watched;
use crate::controllers::io::clock::Clock;
use crate::controllers::io::events::EventSink;
use crate::controllers::io::execute::{JSON, MERGE_PATCH, request};
use crate::controllers::meta::{self, Object};

/// What a request of the scheduler came to.
enum Done {
    Bound { pod: Arc<Pod>, node: String, result: Result<(), Failure> },
    Told,
}

pub(super) struct Driver {
    client: Client,
    events: EventSink,
    clock: Clock,
    pods: Store<Pod>,
    nodes: Store<Node>,
    view: ClusterView,
    queue: PendingQueue,
    running: JoinSet<Done>,
    binding: usize,
}

impl Driver {
    pub(super) fn new(client: Client, events: EventSink, clock: Clock) -> Self {
        Self {
            client,
            events,
            clock,
            pods: Store::default(),
            nodes: Store::default(),
            view: ClusterView::default(),
            queue: PendingQueue::default(),
            running: JoinSet::new(),
            binding: 0,
        }
    }

    /// Runs until `shutdown`, or until the watches end.
    pub(super) async fn run(mut self, mut watched: mpsc::Receiver<Watched>, shutdown: CancellationToken) {
        loop {
            let more = self.decide();
            let timer = self.queue.next_timer().map(|at| self.clock.instant(at));
            let timer = pin!(async {
                match timer {
                    // There is more to decide: let events in, but do not wait for them.
                    _ if more => tokio::task::yield_now().await,
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            });
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                event = watched.recv() => match event {
                    Some(event) => self.take(event, &mut watched),
                    None => break,
                },
                Some(done) = self.running.join_next() => match done {
                    Ok(Done::Bound { pod, node, result }) => self.bound(&pod, &node, result),
                    Ok(Done::Told) => {}
                    Err(error) => panic!("a binding never panics: {error}"),
                },
                () = timer => {}
            }
        }
        self.running.shutdown().await;
    }

    fn take(&mut self, event: Watched, more: &mut mpsc::Receiver<Watched>) {
        self.feed(event);
        while let Ok(event) = more.try_recv() {
            self.feed(event);
        }
    }

    fn feed(&mut self, event: Watched) {
        match event {
            Watched::Pod(feed) => {
                for change in self.pods.feed(feed) {
                    self.pod_changed(&change);
                }
            }
            Watched::Node(feed) => {
                for change in self.nodes.feed(feed) {
                    self.node_changed(&change);
                }
            }
            _ => {}
        }
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        let now = self.clock.now();
        let pod = change.object();
        let key = pod.key();
        let is_gone = change.new.is_none();
        if self.view.follow(pod, is_gone) {
            self.queue.cluster_changed(now);
        }
        if is_gone || !is_ours(pod) {
            self.queue.remove(&key);
            return;
        }
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        let is_changed = change.old.as_ref().is_some_and(|old| old.spec != pod.spec);
        self.queue.add(&key, pod.uid(), priority, is_changed, now);
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        match &change.new {
            Some(node) => {
                self.view.set_node(Arc::clone(node));
                if change.old.as_ref().is_none_or(|old| may_help(old, node)) {
                    self.queue.cluster_changed(self.clock.now());
                }
            }
            None => self.view.remove_node(change.object().name()),
        }
    }

    /// Tries the pods that are ready. Returns whether there may be more of them.
    fn decide(&mut self) -> bool {
        if !self.pods.is_listed() || !self.nodes.is_listed() {
            return false;
        }
        for _ in 0..limits::DECISIONS_IN_A_ROW_MAX {
            if self.binding >= limits::BINDINGS_AT_ONCE_MAX {
                return false;
            }
            let Some(key) = self.queue.pop(self.clock.now()) else { return false };
            let Some(pod) = self.pods.get(&key).cloned() else {
                self.queue.remove(&key);
                continue;
            };
            let mut tie = |count: usize| if count > 1 { rand::rng().random_range(0..count) } else { 0 };
            match schedule(&self.view, &pod, &mut tie) {
                Decision::Bind { node } => self.bind(pod, node),
                Decision::Unschedulable { message } => self.put_off(&pod, message),
            }
        }
        true
    }

    fn bind(&mut self, pod: Arc<Pod>, node: String) {
        self.view.place(&pod, &node);
        self.binding += 1;
        let client = self.client.clone();
        self.running.spawn(async move {
            let path = format!("{}/binding", meta::target(&Resource::POD, pod.as_ref()).path());
            let body = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            let result = request(&client, Method::POST, &path, Some(&body), JSON).await.map(|_| ());
            Done::Bound { pod, node, result }
        });
    }

    fn bound(&mut self, pod: &Pod, node: &str, result: Result<(), Failure>) {
        self.binding -= 1;
        let key = pod.key();
        match result {
            Ok(()) => {
                self.tell(pod, false, "Scheduled", format!("Successfully assigned {key} to {node}"));
            }
            Err(failure) => {
                tracing::debug!(pod = %key, node, %failure, "not bound");
                let current = self.pods.get(&key).filter(|p| p.uid() == pod.uid());
                // The watch may have shown meanwhile where another scheduler put it.
                if current.is_none_or(|p| meta::node_name(p).is_none()) {
                    self.view.displace(&key);
                    self.queue.cluster_changed(self.clock.now());
                }
                self.queue.failed(&key, self.clock.now());
            }
        }
    }

    /// Tells why the pod stays pending, and waits for a change.
    fn put_off(&mut self, pod: &Arc<Pod>, message: String) {
        let now = self.clock.now();
        self.queue.unschedulable(&pod.key(), self.queue.cycle(), now);
        self.tell(pod, true, "FailedScheduling", message.clone());
        let known = meta::pod_condition(pod, "PodScheduled");
        let is_known = known.is_some_and(|c| c.status == "False" && c.message.as_ref() == Some(&message));
        if is_known {
            return;
        }
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message),
            ..PodCondition::default()
        };
        let conditions = meta::with_pod_condition(pod, condition, now);
        let patch = meta::guarded(pod.as_ref(), json!({"status": {"conditions": conditions}}));
        let target: Target = meta::target(&Resource::POD, pod.as_ref());
        let client = self.client.clone();
        self.running.spawn(async move {
            // A lost race only means that somebody else has just written the pod; the next attempt tells again.
            let path = format!("{}/status", target.path());
            if let Err(failure) = request(&client, Method::PATCH, &path, Some(&patch), MERGE_PATCH).await {
                tracing::debug!(pod = %target.key, %failure, "condition not written");
            }
            Done::Told
        });
    }

    fn tell(&self, pod: &Pod, warning: bool, reason: &'static str, message: String) {
        let about = meta::reference(&Resource::POD, pod);
        self.events.tell(EventRecord { about, component: NAME, warning, reason, message });
    }
}

/// Pending, without gates, and asking for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    meta::node_name(pod).is_none()
        && meta::is_active(pod)
        && spec.scheduling_gates.iter().flatten().next().is_none()
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
}

/// Whether the node may take pods now that it did not before. Heartbeats do not count.
fn may_help(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}
