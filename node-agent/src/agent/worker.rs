//! The driver of one pod: feeds its machine, does its steps, tells the API.
//!
//! Steps run side by side and answer with inputs. Order is kept where losing it would lose data: an exit is acknowledged to
//! the runtime only when the API has it, and a sandbox with unacknowledged exits is not removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use super::context::Context;
use super::fill_volumes::{self, Tokens};
use super::find_image::{self, image_ref};
use super::report::{Report, Saved};
use super::start::{self, Start};
use crate::image::Image;
use crate::io::files::read_start;
use crate::limits::{
    API_RETRY_FIRST, API_RETRY_MAX, TERMINATION_LOG_BYTES_MAX, TERMINATION_MESSAGE_BYTES_MAX, VOLUME_REFRESH_S,
};
use crate::pod::backoff::after;
use crate::pod::exit::{self, Termination};
use crate::pod::machine::{Ending, Input, Machine, Run, Step, Verdict, Volumes};
use crate::pod::volume::is_refreshed;
use crate::runtime::plan::{ContainerKey, Exit};

/// What a pod's worker hears from the node.
#[derive(Debug)]
pub enum Message {
    Pod(Arc<Pod>),
    Gone,
    Rejected { reason: &'static str, message: String },
    Exited { container: ContainerKey, exit: Exit },
    SandboxLost,
}

pub(super) enum Done {
    Input(Input),
    Image { container: usize, image: Box<Image> },
    Saved(Saved),
    Acknowledged,
}

pub struct Worker {
    context: Arc<Context>,
    machine: Machine,
    inbox: mpsc::Receiver<Message>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    images: HashMap<usize, Image>,
    report: Report,
    shown: watch::Sender<PodStatus>,
    tokens: Tokens,
    refresh_at: Timestamp,
    /// Steps that wait until the API has everything that was seen.
    held: Vec<Step>,
    probes: super::probing::Probing,
}

impl Worker {
    pub fn new(context: Arc<Context>, machine: Machine, inbox: mpsc::Receiver<Message>, now: Timestamp) -> Self {
        let shown = context.board.show(machine.pod.clone());
        Self {
            report: Report::default(),
            under_way: FuturesUnordered::new(),
            images: HashMap::new(),
            tokens: Tokens::default(),
            refresh_at: after(now, SignedDuration::from_secs(VOLUME_REFRESH_S)),
            held: Vec::new(),
            probes: super::probing::Probing::default(),
            shown,
            context,
            machine,
            inbox,
        }
    }

    /// Runs until nothing is left of the pod, or until the node lets go of the inbox: then what runs stays as it is.
    pub async fn run(mut self) {
        loop {
            let now = Timestamp::now();
            let next = self.machine.next(now);
            let timer = next.wake;
            for step in next.steps {
                self.execute(step);
            }
            if self.machine.is_over() {
                break;
            }
            self.tell(now);
            self.release_held();
            self.probe();
            let wake = self.wake(timer, now);
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return,
                },
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.take(done),
                Some((container, attempt, verdict)) = self.probes.next() => self.take_verdict(container, attempt, verdict),
                () = tokio::time::sleep(wake) => self.refresh(),
            }
        }
        self.context.board.remove(&self.machine.pod);
    }

    fn wake(&self, timer: Option<Timestamp>, now: Timestamp) -> Duration {
        let times = [timer, self.report.retry_at(), self.has_refreshed_volumes().then_some(self.refresh_at)];
        let first = times.into_iter().flatten().min().map(|at| at.duration_since(now));
        let wait = first.map_or(Duration::from_secs(3600), |wait| Duration::try_from(wait).unwrap_or_default());
        // A timer that fires early by less than its resolution would spin.
        wait + Duration::from_millis(1)
    }

    fn hear(&mut self, message: Message) {
        let now = Timestamp::now();
        match message {
            Message::Pod(pod) => self.machine.handle(Input::Pod(pod), now),
            Message::Gone => self.machine.handle(Input::Gone, now),
            Message::Rejected { reason, message } => self.machine.handle(Input::Rejected { reason, message }, now),
            Message::SandboxLost => self.machine.handle(Input::SandboxLost, now),
            Message::Exited { container, exit } => self.hear_exit(container, exit),
        }
    }

    /// Reads what the container left before the machine hears of its end.
    fn hear_exit(&mut self, key: ContainerKey, exit: Exit) {
        let Some(container) = self.machine.find(&key.name) else {
            self.acknowledge(vec![key]);
            return;
        };
        let spec = self.machine.container_spec(container);
        let is_fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let file = self.context.files.termination_log(&key.pod_uid, &key.name, &key.id);
        let log = self.context.files.log(&self.machine.pod, &key.name, key.attempt);
        self.report.hold(key.clone());
        self.under_way.push(Box::pin(async move {
            let code = exit.code;
            let message = fill_volumes::blocking(move || {
                let text = read_start(&file, TERMINATION_MESSAGE_BYTES_MAX);
                let _ = std::fs::remove_file(&file);
                Ok(exit::message(&text, is_fallback, code, || {
                    crate::io::log_file::tail_text(&log, TERMINATION_LOG_BYTES_MAX)
                }))
            });
            let time = |at| Timestamp::try_from(at).ok();
            let termination = Termination {
                attempt: key.attempt,
                container_id: key.id,
                exit_code: code,
                signal: exit.signal,
                reason: exit::reason(code, exit.oom),
                message: message.await.unwrap_or_default(),
                started_at: time(exit.started_at),
                finished_at: time(exit.finished_at).unwrap_or_else(Timestamp::now),
            };
            Done::Input(Input::Exited { container, termination })
        }));
    }

    fn take(&mut self, done: Done) {
        let now = Timestamp::now();
        match done {
            Done::Input(input) => {
                if let Input::Exited { termination, .. } = &input {
                    self.report.observed(&termination.container_id);
                }
                self.machine.handle(input, now);
            }
            Done::Image { container, image } => {
                let image_ref = image_ref(self.machine.container_spec(container), &image);
                self.images.insert(container, *image);
                self.machine.handle(Input::ImageReady { container, image: image_ref }, now);
            }
            Done::Saved(saved) => {
                let outcome = self.report.settle(saved, now);
                if outcome.is_gone {
                    self.machine.handle(Input::Gone, now);
                }
                self.acknowledge(outcome.acknowledge);
            }
            Done::Acknowledged => {}
        }
    }

    fn take_verdict(&mut self, container: usize, attempt: u32, verdict: Verdict) {
        self.machine.handle(Input::Probed { container, attempt, verdict }, Timestamp::now());
    }

    /// The runtime may forget these exits, and what the containers left.
    fn acknowledge(&mut self, keys: Vec<ContainerKey>) {
        if keys.is_empty() {
            return;
        }
        let containers = self.context.containers.clone();
        self.under_way.push(Box::pin(async move {
            for key in keys {
                let result = match containers.ack(&key).await {
                    Ok(()) => containers.remove_container(&key).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    tracing::debug!(container = key.name, %error, "an ended container was not removed");
                }
            }
            Done::Acknowledged
        }));
    }

    fn tell(&mut self, now: Timestamp) {
        if self.machine.ending == Some(Ending::Gone) {
            let keys = self.report.give_up();
            return self.acknowledge(keys);
        }
        let (status, patch) = self.report.compute(&self.machine, &self.context.host_ips, now);
        self.shown.send_if_modified(|shown| {
            let is_new = *shown != status;
            *shown = status;
            is_new
        });
        let Some(attempt) = self.report.begin(patch, now) else { return };
        let (context, pod) = (self.context.clone(), self.machine.pod.clone());
        self.under_way.push(Box::pin(async move {
            let meta = &pod.metadata;
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let result =
                context.api.patch_status(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid), &attempt).await;
            Done::Saved(Saved { patch: attempt, result })
        }));
    }

    /// Gives the steps that had to wait for the API, when it has everything.
    fn release_held(&mut self) {
        let is_ready = self.machine.ending == Some(Ending::Gone) || self.report.is_settled();
        if is_ready {
            for step in std::mem::take(&mut self.held) {
                self.spawn(step);
            }
        }
    }

    fn execute(&mut self, step: Step) {
        match step {
            Step::Record(note) => self.context.api.record(&self.machine.pod, note),
            step @ (Step::RemoveSandbox | Step::Delete) => self.held.push(step),
            step => self.spawn(step),
        }
    }

    fn spawn(&mut self, step: Step) {
        let (context, pod) = (self.context.clone(), self.machine.pod.clone());
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let work: BoxFuture<'static, Done> = match step {
            Step::Record(_) => return,
            Step::PrepareVolumes => {
                let tokens = self.tokens.clone();
                input(async move {
                    match fill_volumes::fill(context, pod, tokens).await {
                        Ok(()) => Input::VolumesReady,
                        Err(message) => Input::VolumesFailed { message },
                    }
                })
            }
            Step::CreateSandbox => input(create_sandbox(context, pod)),
            Step::EnsureImage { container } => self.ensure_image(container),
            Step::Start { container, attempt } => self.start(container, attempt),
            Step::Stop { container, grace_s } => self.stop(uid, container, grace_s),
            Step::RemoveSandbox => input(async move {
                retry(|| context.containers.remove_sandbox(&uid), "remove the sandbox").await;
                Input::SandboxRemoved
            }),
            Step::TearDown => input(async move {
                let files = context.files.clone();
                let removed =
                    fill_volumes::blocking(move || files.remove_pod(&pod).map_err(|error| error.to_string())).await;
                if let Err(error) = removed {
                    tracing::warn!(pod = uid, error, "the pod's files were not all removed");
                }
                Input::TornDown
            }),
            Step::Delete => input(async move {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
                retry(|| context.api.delete(&namespace, &name, &uid), "delete the pod").await;
                Input::Deleted
            }),
        };
        self.under_way.push(work);
    }

    fn ensure_image(&self, container: usize) -> BoxFuture<'static, Done> {
        let (context, pod) = (self.context.clone(), self.machine.pod.clone());
        let spec = self.machine.container_spec(container).clone();
        let field_path = Some(self.machine.field_path(container));
        Box::pin(async move {
            match find_image::find(&context, &pod, &spec, field_path).await {
                Ok(image) => Done::Image { container, image: Box::new(image) },
                Err(none) => Done::Input(Input::ImageFailed { container, reason: none.reason, message: none.message }),
            }
        })
    }

    fn start(&self, container: usize, attempt: u32) -> BoxFuture<'static, Done> {
        let image = self.images.get(&container).cloned().expect("invariant: a start comes after its image was found");
        let start = Start {
            pod: self.machine.pod.clone(),
            spec: self.machine.container_spec(container).clone(),
            ips: self.machine.ips.clone(),
            container,
            attempt,
            image,
        };
        let context = self.context.clone();
        input(async move {
            context.files.prune_logs(&start.pod, &start.spec.name, attempt);
            start::start(context, start).await
        })
    }

    fn stop(&self, uid: String, container: usize, grace_s: i64) -> BoxFuture<'static, Done> {
        let context = self.context.clone();
        let name = self.machine.containers[container].name.clone();
        let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
        let hook =
            self.machine.container_spec(container).lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let ip = self.machine.ips.first().cloned();
        Box::pin(async move {
            let left = super::hooks::before_stop(hook, ip, grace).await;
            if let Err(error) = context.containers.stop(&uid, &name, left).await {
                tracing::warn!(pod = uid, container = name, %error, "the container could not be stopped");
            }
            Done::Acknowledged
        })
    }

    fn has_refreshed_volumes(&self) -> bool {
        self.machine.volumes == Volumes::Ready
            && self.machine.finished.is_none()
            && self.machine.spec().volumes.iter().flatten().any(is_refreshed)
    }

    fn refresh(&mut self) {
        let now = Timestamp::now();
        if self.refresh_at > now || !self.has_refreshed_volumes() {
            return;
        }
        self.refresh_at = after(now, SignedDuration::from_secs(VOLUME_REFRESH_S));
        let refreshing = fill_volumes::refresh(self.context.clone(), self.machine.pod.clone(), self.tokens.clone());
        self.under_way.push(Box::pin(async move {
            refreshing.await;
            Done::Acknowledged
        }));
    }

    /// Probes run for exactly the containers that run.
    fn probe(&mut self) {
        let running = self.machine.containers.iter().enumerate().filter_map(|(container, record)| match record.run {
            Run::Running { .. } if self.machine.ending.is_none() => Some((container, record.attempt.unwrap_or(0))),
            _ => None,
        });
        let running: Vec<(usize, u32)> = running.collect();
        self.probes.follow(&running, &self.machine, &self.context);
    }
}

async fn create_sandbox(context: Arc<Context>, pod: Arc<Pod>) -> Input {
    let plan = start::sandbox_plan(&context, &pod);
    match context.containers.create_sandbox(plan).await {
        Ok(sandbox) => {
            let ips = sandbox.ip.map_or_else(|| context.host_ips.clone(), |ip| vec![ip.to_string()]);
            Input::SandboxReady { ips }
        }
        Err(error) => Input::SandboxFailed { message: error.to_string() },
    }
}

fn input(work: impl Future<Output = Input> + Send + 'static) -> BoxFuture<'static, Done> {
    Box::pin(async move { Done::Input(work.await) })
}

/// Tries until it works, less and less often.
async fn retry<F, E>(mut attempt: impl FnMut() -> F, what: &str)
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut wait = API_RETRY_FIRST;
    while let Err(error) = attempt().await {
        tracing::warn!(%error, "could not {what}, trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(API_RETRY_MAX);
    }
}
