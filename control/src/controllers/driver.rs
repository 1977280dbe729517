//! The loop that joins the controllers to the world: watch events and answers into the cluster's view, changes into the work queue, keys into
//! reconciles, plans into requests. One task owns all of it, so nothing is locked; requests run beside it.

use std::pin::pin;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::action::{Attempt, Failure, Key};
use super::cluster::{Changed, Cluster, Watched};
use super::controller::Controller;
use super::io::clock::Clock;
use super::io::execute::{Executor, Outcome, Written};
use super::limits;
use super::queue::WorkQueue;

/// A key of one of the controllers, by its place.
type WorkKey = (usize, Key);

pub(super) struct Driver {
    cluster: Cluster,
    controllers: Vec<Box<dyn Controller>>,
    queue: WorkQueue<WorkKey>,
    executor: Arc<Executor>,
    clock: Clock,
    running: JoinSet<(WorkKey, Outcome)>,
    next_resync: Timestamp,
    started: bool,
}

impl Driver {
    pub(super) fn new(
        cluster: Cluster,
        controllers: Vec<Box<dyn Controller>>,
        executor: Executor,
        clock: Clock,
    ) -> Self {
        Self {
            cluster,
            controllers,
            queue: WorkQueue::default(),
            executor: Arc::new(executor),
            clock,
            running: JoinSet::new(),
            next_resync: clock.now() + limits::RESYNC_PERIOD,
            started: false,
        }
    }

    /// Runs until `shutdown`, or until the watches end; requests under way are given up then.
    pub(super) async fn run(mut self, mut watched: mpsc::Receiver<Watched>, shutdown: CancellationToken) {
        loop {
            self.start_work();
            let timer = pin!(tokio::time::sleep_until(self.clock.instant(self.next_timer())));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.running.join_next() => match done {
                    Ok((key, outcome)) => self.finish(key, outcome),
                    Err(error) => panic!("carrying out a plan never panics: {error}"),
                },
                event = watched.recv() => match event {
                    Some(event) => self.take(event, &mut watched),
                    None => break,
                },
                () = timer => self.keep_house(),
            }
        }
        self.running.shutdown().await;
    }

    /// Takes an event and all that wait behind it, so that a burst of changes of one object is looked at once.
    fn take(&mut self, event: Watched, more: &mut mpsc::Receiver<Watched>) {
        let now = self.clock.now();
        let changed = self.cluster.feed(event, now);
        self.enqueue(&changed);
        for _ in 0..limits::WATCHED_QUEUE_MAX {
            let Ok(event) = more.try_recv() else { break };
            let changed = self.cluster.feed(event, now);
            self.enqueue(&changed);
        }
    }

    fn enqueue(&mut self, changed: &[Changed]) {
        let mut keys = Vec::new();
        for change in changed {
            for (place, controller) in self.controllers.iter().enumerate() {
                controller.touched(&self.cluster, change, &mut keys);
                keys.drain(..).for_each(|key| self.queue.add((place, key)));
            }
        }
    }

    fn start_work(&mut self) {
        // Before the first whole lists everything would look like missing.
        if !self.started && self.cluster.is_ready() {
            self.started = true;
            tracing::info!(pods = self.cluster.pods.len(), nodes = self.cluster.nodes.len(), "controllers started");
        }
        while self.started && self.running.len() < limits::PLANS_AT_ONCE_MAX {
            let now = self.clock.now();
            let Some((key, attempt)) = self.queue.pop(now) else { break };
            self.look(key, &attempt, now);
        }
    }

    fn look(&mut self, work: WorkKey, attempt: &Attempt, now: Timestamp) {
        let (place, key) = &work;
        let plan = self.controllers[*place].reconcile(&self.cluster, key, attempt, now);
        if let Some(at) = plan.wake_at {
            self.queue.add_at(work.clone(), at);
        }
        if plan.batches.is_empty() {
            self.queue.done(work, None, now);
            return;
        }
        tracing::trace!(controller = self.controllers[*place].name(), %key, ?plan, "plan");
        let executor = Arc::clone(&self.executor);
        self.running.spawn(async move { (work, executor.run(plan).await) });
    }

    fn finish(&mut self, work: WorkKey, outcome: Outcome) {
        let now = self.clock.now();
        let Outcome { written, failure } = outcome;
        for written in written {
            let changed = match written {
                Written::Object(resource, object) => self.cluster.written(&resource, object, now),
                Written::Removed { resource, key, uid } => self.cluster.removed(&resource, &key, &uid, now),
            };
            self.enqueue(&changed);
        }
        if let Some(failure) = &failure {
            self.report(&work, failure);
        }
        self.queue.done(work, failure, now);
    }

    fn report(&self, (place, key): &WorkKey, failure: &Failure) {
        let controller = self.controllers[*place].name();
        if failure.is_stale_view() {
            tracing::debug!(controller, %key, %failure, "looking again");
        } else {
            tracing::warn!(controller, %key, %failure, "trying again");
        }
    }

    fn next_timer(&self) -> Timestamp {
        let due = if self.started { self.queue.next_timer() } else { None };
        [due, self.cluster.next_expiry()].into_iter().flatten().fold(self.next_resync, Timestamp::min)
    }

    fn keep_house(&mut self) {
        let now = self.clock.now();
        let changed = self.cluster.expire_unconfirmed(now);
        self.enqueue(&changed);
        if now >= self.next_resync {
            self.next_resync = now + limits::RESYNC_PERIOD;
            let all = self.cluster.everything();
            self.enqueue(&all);
        }
    }
}
