//! Towards running: volumes, sandbox and images side by side, then the containers whose turn it is.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Activity, Machine, Next, Run, Sandbox, Step, Volumes};
use crate::pod::backoff::after;
use crate::pod::restart::ContainerKind;

/// How long a failed pull is shown as such before it is shown as a back-off.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);

impl Machine {
    pub(super) fn wind_up(&mut self, now: Timestamp, next: &mut Next) {
        if self.volumes == Volumes::Pending {
            match self.volumes_retry.until(now) {
                Some(until) => next.wake_at(until),
                None => {
                    self.volumes = Volumes::Preparing;
                    next.steps.push(Step::PrepareVolumes);
                }
            }
        }
        match (&self.sandbox, self.sandbox_retry.until(now)) {
            (Sandbox::Absent, Some(until)) => next.wake_at(until),
            (Sandbox::Absent, None) => {
                self.sandbox = Sandbox::Creating;
                next.steps.push(Step::CreateSandbox);
            }
            (Sandbox::Lost, _) => {
                self.sandbox = Sandbox::Removing;
                next.steps.push(Step::RemoveSandbox);
            }
            (Sandbox::Creating | Sandbox::Ready { .. } | Sandbox::Removing, _) => {}
        }
        for container in self.due() {
            self.advance(container, now, next);
        }
        self.stop_for_probes(next);
    }

    /// The containers whose turn it is: those that should be running now.
    fn due(&self) -> Vec<usize> {
        let mut due = Vec::new();
        for (container, record) in self.containers.iter().enumerate() {
            match record.kind {
                ContainerKind::Init if record.has_succeeded() => {}
                ContainerKind::Init => {
                    due.push(container);
                    return due;
                }
                ContainerKind::Sidecar => {
                    due.push(container);
                    // The next one waits for a sidecar to be started, not for it to stay so.
                    let was_started = record.is_started || record.last.is_some() || record.terminated().is_some();
                    if !was_started {
                        return due;
                    }
                }
                ContainerKind::Main => due.push(container),
            }
        }
        due
    }

    /// One container a step further towards running.
    fn advance(&mut self, container: usize, now: Timestamp, next: &mut Next) {
        let record = &self.containers[container];
        if record.activity != Activity::Idle || record.is_running() {
            return;
        }
        if record.terminated().is_some_and(|ended| !self.policy.restarts(record.kind, ended.exit_code)) {
            return;
        }
        if self.is_crash_looping(container, now, next) {
            return;
        }
        if !self.containers[container].is_image_ready {
            return self.find_image(container, now, next);
        }
        if let Some(until) = self.containers[container].start_retry.until(now) {
            return next.wake_at(until);
        }
        if self.volumes != Volumes::Ready || !matches!(self.sandbox, Sandbox::Ready { .. }) {
            return;
        }
        let record = &mut self.containers[container];
        let attempt = record.attempt.map_or(0, |attempt| attempt + 1);
        if record.ended().is_some() && record.start_retry == Default::default() {
            record.crash_backoff.step(now);
        }
        record.activity = Activity::Starting;
        next.steps.push(Step::Start { container, attempt });
    }

    /// Whether the container still waits after its last end; it is shown as waiting from the first time this is seen.
    fn is_crash_looping(&mut self, container: usize, now: Timestamp, next: &mut Next) -> bool {
        let record = &self.containers[container];
        let Some(ended) = record.ended() else { return false };
        let Some(until) = record.crash_backoff.until(ended.finished_at, now) else { return false };
        next.wake_at(until);
        if record.terminated().is_some() {
            let (name, delay_s, pod) = (record.name.clone(), record.crash_backoff.delay_s(), self.full_name());
            let message = format!("back-off {} restarting failed container={name} pod={pod}", go_duration(delay_s));
            self.containers[container].wait("CrashLoopBackOff", Some(message));
            self.note(
                Some(container),
                true,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {pod}"),
            );
        }
        true
    }

    fn find_image(&mut self, container: usize, now: Timestamp, next: &mut Next) {
        let image = self.container_spec(container).image.clone().unwrap_or_default();
        let record = &mut self.containers[container];
        let waiting = record
            .image_failure
            .as_ref()
            .and_then(|failure| Some((failure.clone(), record.image_backoff.until(failure.at, now)?)));
        let Some((failure, until)) = waiting else {
            record.activity = Activity::FindingImage;
            return next.steps.push(Step::EnsureImage { container });
        };
        next.wake_at(until);
        let is_shown_as_error = matches!(record.run, Run::Waiting { reason: "ErrImagePull", .. });
        if failure.reason != "ErrImagePull" || !is_shown_as_error {
            return;
        }
        let shown_until = after(failure.at, PULL_ERROR_SHOWN);
        if shown_until > now {
            return next.wake_at(shown_until);
        }
        let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
        record.wait("ImagePullBackOff", Some(message));
        self.note(Some(container), false, "BackOff", format!("Back-off pulling image \"{image}\""));
        self.note(Some(container), true, "Failed", "Error: ImagePullBackOff".to_owned());
    }

    fn stop_for_probes(&mut self, next: &mut Next) {
        for (container, record) in self.containers.iter_mut().enumerate() {
            if let (true, None, Some(grace_s)) = (record.is_running(), record.stop_given_s, record.stop_wanted_s) {
                record.stop_given_s = Some(grace_s);
                next.steps.push(Step::Stop { container, grace_s });
            }
        }
    }
}

/// Seconds as Go prints them: `10s`, `2m40s`, `5m0s`.
fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
