//! The probes of a pod's running containers: one task a container, ended with it.
//!
//! The startup probe holds the others back. `httpGet` and `tcpSocket` go to the pod from the node; `exec` and `grpc`
//! are not run yet, and a container that asks for them counts as passing them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::context::Context;
use crate::io::http_probe;
use crate::limits::POD_QUEUE_LEN;
use crate::pod::machine::{Machine, Note, Verdict};
use crate::pod::probe::Counter;

type Told = (usize, u32, Verdict);

pub struct Probing {
    tasks: HashMap<(usize, u32), AbortOnDropHandle<()>>,
    sender: mpsc::Sender<Told>,
    verdicts: mpsc::Receiver<Told>,
}

impl Default for Probing {
    fn default() -> Self {
        let (sender, verdicts) = mpsc::channel(POD_QUEUE_LEN);
        Self { tasks: HashMap::new(), sender, verdicts }
    }
}

impl Probing {
    /// Probes exactly these starts of containers from now on.
    pub fn follow(&mut self, running: &[(usize, u32)], machine: &Machine, context: &Arc<Context>) {
        self.tasks.retain(|key, _| running.contains(key));
        for (container, attempt) in running {
            let spec = machine.container_spec(*container);
            let has_probes =
                spec.startup_probe.is_some() || spec.liveness_probe.is_some() || spec.readiness_probe.is_some();
            if !has_probes || self.tasks.contains_key(&(*container, *attempt)) {
                continue;
            }
            let subject = Subject {
                context: context.clone(),
                pod: machine.pod.clone(),
                container: spec.clone(),
                ip: machine.ips.first().cloned().unwrap_or_default(),
                field_path: machine.field_path(*container),
                key: (*container, *attempt),
                sender: self.sender.clone(),
            };
            self.tasks.insert((*container, *attempt), AbortOnDropHandle::new(tokio::spawn(subject.run())));
        }
    }

    /// The next verdict; never `None`, since this holds a sender itself.
    pub async fn next(&mut self) -> Option<Told> {
        self.verdicts.recv().await
    }
}

struct Subject {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    ip: String,
    field_path: String,
    key: (usize, u32),
    sender: mpsc::Sender<Told>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

impl Subject {
    async fn run(self) {
        if let Some(probe) = &self.container.startup_probe
            && !self.repeat(Kind::Startup, probe).await
        {
            return;
        }
        let liveness = async {
            if let Some(probe) = &self.container.liveness_probe {
                self.repeat(Kind::Liveness, probe).await;
            }
        };
        let readiness = async {
            if let Some(probe) = &self.container.readiness_probe {
                self.repeat(Kind::Readiness, probe).await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    /// Probes until the verdict ends it: a startup probe by success, startup and liveness by failure, readiness never.
    /// Returns whether the last verdict was success.
    async fn repeat(&self, kind: Kind, probe: &Probe) -> bool {
        let seconds = |value: Option<i32>, default: i32| {
            Duration::from_secs(u64::try_from(value.unwrap_or(default).max(0)).unwrap_or(0))
        };
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let mut counter = Counter::new(probe);
        let mut ticks = tokio::time::interval(seconds(probe.period_seconds, 10).max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
            let result = tokio::time::timeout(timeout, self.once(probe))
                .await
                .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
            if let Err(output) = &result {
                let message = format!("{} probe failed: {output}", kind.title());
                let note =
                    Note { is_warning: true, reason: "Unhealthy", message, field_path: Some(self.field_path.clone()) };
                self.context.api.record(&self.pod, note);
            }
            let Some(is_success) = counter.take(result.is_ok()) else { continue };
            let dead = Verdict::Dead { which: kind.name(), grace_s: probe.termination_grace_period_seconds };
            let (verdict, is_end) = match (kind, is_success) {
                (Kind::Startup, true) => (Some(Verdict::Started), true),
                (Kind::Liveness, true) => (None, false),
                (Kind::Readiness, true) => (Some(Verdict::Ready), false),
                (Kind::Readiness, false) => (Some(Verdict::NotReady), false),
                (Kind::Startup | Kind::Liveness, false) => (Some(dead), true),
            };
            if let Some(verdict) = verdict
                && self.sender.send((self.key.0, self.key.1, verdict)).await.is_err()
            {
                return false;
            }
            if is_end {
                return is_success;
            }
        }
    }

    async fn once(&self, probe: &Probe) -> Result<(), String> {
        if let Some(action) = &probe.http_get {
            http_probe::get(action, &self.ip, Some(&self.container)).await
        } else if let Some(action) = &probe.tcp_socket {
            http_probe::connect(action, &self.ip, Some(&self.container)).await
        } else {
            Ok(())
        }
    }
}
