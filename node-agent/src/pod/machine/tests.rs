//! Lives of pods, replayed: each test reads as a timeline of what was seen and what was decided.

use std::sync::Arc;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::pod::exit::{self, Termination};
use crate::pod::status;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: serde_json::Value) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u1"}, "spec": spec}))
            .unwrap(),
    )
}

fn one(policy: &str) -> Arc<Pod> {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "debian"}]}))
}

/// A machine and the transcript of what it decided.
struct Life {
    machine: Machine,
    script: String,
    starts: u32,
}

impl Life {
    fn new(pod: Arc<Pod>) -> Self {
        let mut life = Self { machine: Machine::new(pod, at(0)), script: String::new(), starts: 0 };
        life.run(0);
        life
    }

    fn see(&mut self, second: i64, input: Input) -> &mut Self {
        self.machine.handle(input, at(second));
        self.run(second)
    }

    fn run(&mut self, second: i64) -> &mut Self {
        let next = self.machine.next(at(second));
        for step in next.steps {
            let line = match step {
                Step::Record(note) => format!("{second}: \"{}: {}\"\n", note.reason, note.message),
                step => format!("{second}: {step:?}\n"),
            };
            self.script.push_str(&line);
        }
        if let Some(wake) = next.wake {
            self.script.push_str(&format!("{second}: … until {}\n", wake.as_second()));
        }
        self
    }

    /// Volumes, sandbox and the image of the first container are there.
    fn prepared(&mut self, second: i64) -> &mut Self {
        self.see(second, Input::VolumesReady);
        self.see(second, Input::SandboxReady { ips: vec!["10.1.0.2".into()] });
        self.image(second, 0)
    }

    fn image(&mut self, second: i64, container: usize) -> &mut Self {
        self.see(
            second,
            Input::ImageReady { container, image: ImageRef { name: "debian".into(), id: "sha256:1".into() } },
        )
    }

    fn started(&mut self, second: i64, container: usize, attempt: u32) -> &mut Self {
        self.starts += 1;
        self.see(
            second,
            Input::Started { container, attempt, container_id: format!("id{}", self.starts), at: at(second) },
        )
    }

    fn exited(&mut self, second: i64, container: usize, attempt: u32, exit_code: i32) -> &mut Self {
        let container_id = match &self.machine.containers[container].run {
            Run::Running { container_id, .. } => container_id.clone(),
            other => panic!("{other:?} cannot exit"),
        };
        let reason = exit::reason(exit_code, false);
        let termination = Termination {
            attempt,
            container_id,
            exit_code,
            signal: None,
            reason,
            message: None,
            started_at: Some(at(second - 1)),
            finished_at: at(second),
        };
        self.see(second, Input::Exited { container, termination })
    }

    fn deleted_by_user(&mut self, second: i64, grace_s: i64) -> &mut Self {
        let mut pod = (*self.machine.pod).clone();
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(second + grace_s)));
        pod.metadata.deletion_grace_period_seconds = Some(grace_s);
        self.see(second, Input::Pod(Arc::new(pod)))
    }

    fn status(&self, second: i64) -> String {
        let status = status::of(&self.machine, None, &["192.0.2.1".into()], at(second));
        let conditions: Vec<String> = status
            .conditions
            .iter()
            .flatten()
            .map(|condition| {
                format!(
                    "{}={}{}",
                    condition.type_,
                    condition.status,
                    condition.reason.as_ref().map(|reason| format!("({reason})")).unwrap_or_default()
                )
            })
            .collect();
        let mut out = format!("{} {}\n", status.phase.unwrap(), conditions.join(" "));
        for container in
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
        {
            let state = serde_json::to_value(&container.state).unwrap();
            let last = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref())
                .map(|ended| format!(" last={:?}/{}", ended.reason, ended.exit_code));
            out.push_str(&format!(
                "{} {state} restarts={} ready={}{}\n",
                container.name,
                container.restart_count,
                container.ready,
                last.unwrap_or_default()
            ));
        }
        out
    }

    fn script(&mut self, expected: Expect) -> &mut Self {
        expected.assert_eq(&std::mem::take(&mut self.script));
        self
    }
}

#[test]
fn a_command_that_ends_well_completes_the_pod() {
    let mut life = Life::new(one("OnFailure"));
    life.script(expect![[r#"
        0: PrepareVolumes
        0: CreateSandbox
        0: EnsureImage { container: 0 }
    "#]]);
    expect![[r#"
        Pending PodReadyToStartContainers=False Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) PodScheduled=True
        c {"waiting":{"reason":"ContainerCreating"}} restarts=0 ready=false
    "#]]
    .assert_eq(&life.status(0));
    life.prepared(1).started(2, 0, 0).script(expect![[r#"
        1: Start { container: 0, attempt: 0 }
        2: "Created: Created container: c"
        2: "Started: Started container c"
    "#]]);
    expect![[r#"
        Running PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True
        c {"running":{"startedAt":"1970-01-01T00:00:02Z"}} restarts=0 ready=true
    "#]]
    .assert_eq(&life.status(2));
    life.exited(3, 0, 0, 0).see(3, Input::SandboxRemoved).script(expect![[r#"
        3: RemoveSandbox
    "#]]);
    expect![[r#"
        Succeeded PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) ContainersReady=False(PodCompleted) PodScheduled=True
        c {"terminated":{"containerID":"kontiki://id1","exitCode":0,"finishedAt":"1970-01-01T00:00:03Z","reason":"Completed","startedAt":"1970-01-01T00:00:02Z"}} restarts=0 ready=false
    "#]]
    .assert_eq(&life.status(3));
    life.deleted_by_user(9, 30).see(9, Input::TornDown).see(9, Input::Deleted).script(expect![[r#"
        9: TearDown
        9: Delete
    "#]]);
    assert!(life.machine.is_over());
}

#[test]
fn a_failing_command_is_restarted_at_once_then_later_and_later() {
    let mut life = Life::new(one("Always"));
    life.prepared(0).started(1, 0, 0);
    life.script.clear();
    life.exited(2, 0, 0, 1).image(2, 0).started(3, 0, 1).exited(4, 0, 1, 1);
    life.script(expect![[r#"
        2: EnsureImage { container: 0 }
        2: Start { container: 0, attempt: 1 }
        3: "Created: Created container: c"
        3: "Started: Started container c"
        4: "BackOff: Back-off restarting failed container c in pod p_ns(u1)"
        4: … until 14
    "#]]);
    life.run(13).run(14).script(expect![[r#"
        13: … until 14
        14: EnsureImage { container: 0 }
    "#]]);
    expect![[r#"
        Running PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) PodScheduled=True
        c {"waiting":{"message":"back-off 10s restarting failed container=c pod=p_ns(u1)","reason":"CrashLoopBackOff"}} restarts=1 ready=false last=Some("Error")/1
    "#]]
    .assert_eq(&life.status(14));
    life.image(14, 0).started(15, 0, 2).exited(16, 0, 2, 0).script(expect![[r#"
        14: Start { container: 0, attempt: 2 }
        15: "Created: Created container: c"
        15: "Started: Started container c"
        16: "BackOff: Back-off restarting failed container c in pod p_ns(u1)"
        16: … until 36
    "#]]);
}

#[test]
fn never_means_never() {
    let mut life = Life::new(one("Never"));
    life.prepared(0).started(1, 0, 0).exited(2, 0, 0, 3);
    assert!(life.status(2).starts_with("Failed "), "{}", life.status(2));
}

#[test]
fn a_command_that_does_not_exist_is_a_start_error() {
    let mut life = Life::new(one("Never"));
    life.prepared(0);
    let message = "exec: \"x\": executable file not found in $PATH".to_owned();
    life.script.clear();
    life.see(
        1,
        Input::StartFailed {
            container: 0,
            attempt: 0,
            failure: StartFailure::Command { container_id: "id9".into(), message },
        },
    );
    life.script(expect![[r#"
        1: "Failed: Error: exec: "x": executable file not found in $PATH"
        1: RemoveSandbox
    "#]]);
    expect![[r#"
        Failed PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed) PodScheduled=True
        c {"terminated":{"containerID":"kontiki://id9","exitCode":128,"finishedAt":"1970-01-01T00:00:01Z","message":"exec: \"x\": executable file not found in $PATH","reason":"StartError","startedAt":"1970-01-01T00:00:00Z"}} restarts=0 ready=false
    "#]]
    .assert_eq(&life.status(1));
}

#[test]
fn an_image_that_cannot_be_pulled_backs_off() {
    let mut life = Life::new(one("Always"));
    life.script.clear();
    life.see(0, Input::ImageFailed { container: 0, reason: "ErrImagePull", message: "no such host".into() });
    assert!(life.status(0).contains("ErrImagePull"));
    life.run(2).run(10).script(expect![[r#"
        0: "Failed: Error: ErrImagePull"
        0: … until 2
        2: "BackOff: Back-off pulling image "debian""
        2: "Failed: Error: ImagePullBackOff"
        2: … until 10
        10: EnsureImage { container: 0 }
    "#]]);
    expect![[r#"
        Pending PodReadyToStartContainers=False Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) PodScheduled=True
        c {"waiting":{"message":"Back-off pulling image \"debian\": ErrImagePull: no such host","reason":"ImagePullBackOff"}} restarts=0 ready=false
    "#]]
    .assert_eq(&life.status(10));
}

#[test]
fn init_containers_go_one_by_one_and_a_sidecar_outlives_the_main_ones() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    let mut life = Life::new(pod(spec));
    life.prepared(0).started(1, 0, 0);
    assert!(life.status(1).contains("c {\"waiting\":{\"reason\":\"PodInitializing\"}}"), "{}", life.status(1));
    life.script.clear();
    life.exited(2, 0, 0, 0).image(2, 1).started(3, 1, 0).image(3, 2).started(4, 2, 0).exited(5, 2, 0, 0);
    life.script(expect![[r#"
        2: EnsureImage { container: 1 }
        2: Start { container: 1, attempt: 0 }
        3: "Created: Created container: s"
        3: "Started: Started container s"
        3: EnsureImage { container: 2 }
        3: Start { container: 2, attempt: 0 }
        4: "Created: Created container: c"
        4: "Started: Started container c"
        5: "Killing: Stopping container s"
        5: Stop { container: 1, grace_s: 30 }
    "#]]);
    assert!(life.status(5).starts_with("Succeeded"), "{}", life.status(5));
    life.exited(6, 1, 0, 143).script(expect![[r#"
        6: RemoveSandbox
    "#]]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut life = Life::new(pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}),
    ));
    life.prepared(0).started(1, 0, 0).exited(2, 0, 0, 1);
    assert!(life.status(2).starts_with("Failed"), "{}", life.status(2));
}

#[test]
fn deletion_stops_then_removes_and_a_shorter_grace_is_passed_on() {
    let mut life = Life::new(one("Always"));
    life.prepared(0).started(1, 0, 0);
    life.script.clear();
    life.deleted_by_user(5, 30).run(6).deleted_by_user(7, 2).exited(9, 0, 0, 137);
    life.see(9, Input::SandboxRemoved).see(9, Input::TornDown);
    life.script(expect![[r#"
        5: "Killing: Stopping container c"
        5: Stop { container: 0, grace_s: 30 }
        7: Stop { container: 0, grace_s: 2 }
        9: RemoveSandbox
        9: TearDown
        9: Delete
    "#]]);
}

#[test]
fn deletion_before_the_start_starts_nothing() {
    let mut life = Life::new(one("Always"));
    life.deleted_by_user(0, 30).prepared(1);
    life.see(2, Input::SandboxRemoved).see(2, Input::TornDown);
    life.script(expect![[r#"
        0: PrepareVolumes
        0: CreateSandbox
        0: EnsureImage { container: 0 }
        1: RemoveSandbox
        2: TearDown
        2: Delete
    "#]]);
}

#[test]
fn the_deadline_fails_the_pod_and_stops_it() {
    let mut life = Life::new(pod(
        json!({"activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 5, "containers": [{"name": "c"}]}),
    ));
    life.prepared(0).started(1, 0, 0);
    life.script.clear();
    life.run(59).run(60).script(expect![[r#"
        59: … until 60
        60: "DeadlineExceeded: Pod was active on the node longer than the specified deadline"
        60: "Killing: Stopping container c"
        60: Stop { container: 0, grace_s: 5 }
    "#]]);
    let status = status::of(&life.machine, None, &[], at(60));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_lost_sandbox_is_made_again_with_its_init_containers() {
    let mut life = Life::new(pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]})));
    life.prepared(0).started(1, 0, 0).exited(2, 0, 0, 0).image(2, 1).started(3, 1, 0);
    life.script.clear();
    life.see(9, Input::SandboxLost)
        .see(9, Input::SandboxRemoved)
        .see(9, Input::SandboxReady { ips: vec!["10.1.0.3".into()] });
    life.script(expect![[r#"
        9: "SandboxChanged: Pod sandbox changed, it will be killed and re-created."
        9: RemoveSandbox
        9: EnsureImage { container: 0 }
        9: CreateSandbox
    "#]]);
}

#[test]
fn a_restarted_agent_takes_over_what_runs_and_ends_what_is_unknown() {
    let mut before = Life::new(pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})));
    before.prepared(0).image(0, 1).started(1, 0, 0).started(1, 1, 0);
    let mut told = (*before.machine.pod).clone();
    told.status = Some(status::of(&before.machine, None, &[], at(1)));
    let mut machine = Machine::new(Arc::new(told), at(100));
    let found = RestoredContainer {
        name: "a".into(),
        attempt: 0,
        container_id: "id1".into(),
        started_at: Some(at(1)),
        state: RestoredState::Running,
    };
    let restored =
        Restored { sandbox_ips: Some(vec!["10.1.0.2".into()]), containers: vec![found], ..Restored::default() };
    machine.restore(&restored, at(100));
    let after = Life { machine, script: String::new(), starts: 9 };
    expect![[r#"
        Running PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) PodScheduled=True
        a {"running":{"startedAt":"1970-01-01T00:00:01Z"}} restarts=0 ready=true
        b {"terminated":{"containerID":"kontiki://id2","exitCode":137,"finishedAt":"1970-01-01T00:01:40Z","message":"The container could not be located when the pod was terminated","reason":"ContainerStatusUnknown","startedAt":"1970-01-01T00:00:01Z"}} restarts=0 ready=false
    "#]]
    .assert_eq(&after.status(100));
}
