//! `status` of a pod: phase, conditions and container states, from what the machine knows.
//!
//! A function of the machine and of the conditions that are there already: those of others are kept, and a condition's time
//! changes only with its value. The result is sent as a merge patch, so a field without a value is an explicit `null`.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::exit::Termination;
use super::machine::{Machine, Phase, Record, Run, Sandbox};
use super::resources::{qos_class, qos_name};
use super::restart::ContainerKind;

/// Before the 64 hexadecimal digits of a container's id.
pub const ID_SCHEME: &str = "kontiki://";

/// The fields of `status` that this agent owns; each is in every patch, if only as `null`.
const OWNED: [&str; 12] = [
    "phase",
    "reason",
    "message",
    "conditions",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
];

/// `previous` is what this function gave last: the object in the API may be behind it.
pub fn of(machine: &Machine, previous: Option<&PodStatus>, host_ips: &[String], now: Timestamp) -> PodStatus {
    let (init, main): (Vec<_>, Vec<_>) =
        machine.containers.iter().enumerate().partition(|(_, record)| record.kind != ContainerKind::Main);
    let statuses = |records: Vec<(usize, &Record)>| -> Vec<ContainerStatus> {
        records.into_iter().map(|(container, record)| container_status(machine, container, record)).collect()
    };
    let finished = machine.finished.as_ref();
    let phase = phase(machine);
    let ip = |ip: &String| ip.clone();
    PodStatus {
        phase: Some(phase_name(phase).to_owned()),
        reason: finished.and_then(|finished| finished.reason).map(str::to_owned),
        message: finished.and_then(|finished| finished.message.clone()),
        conditions: Some(conditions(machine, previous, phase, now)),
        host_ip: host_ips.first().map(ip),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: machine.ips.first().map(ip),
        pod_ips: Some(machine.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect())
            .filter(|ips: &Vec<_>| !ips.is_empty()),
        start_time: Some(Time(machine.start_time)),
        qos_class: Some(qos_name(qos_class(machine.spec())).to_owned()),
        init_container_statuses: Some(statuses(init)).filter(|statuses| !statuses.is_empty()),
        container_statuses: Some(statuses(main)),
        ..PodStatus::default()
    }
}

/// The merge patch that makes a pod's status this one.
pub fn patch(status: &PodStatus) -> Value {
    let mut fields = match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("invariant: a status is an object, not {other:?}"),
    };
    let owned: Map<String, Value> =
        OWNED.iter().map(|name| ((*name).to_owned(), fields.remove(*name).unwrap_or(Value::Null))).collect();
    Value::Object(owned)
}

pub fn phase(machine: &Machine) -> Phase {
    if let Some(finished) = &machine.finished {
        return finished.phase;
    }
    let is_initialized = machine.containers.iter().all(is_past);
    let was_ever_started =
        |record: &Record| record.is_running() || record.terminated().is_some() || record.last.is_some();
    let mut mains = machine.containers.iter().filter(|record| record.kind == ContainerKind::Main);
    if is_initialized && mains.all(was_ever_started) { Phase::Running } else { Phase::Pending }
}

/// An init container no longer holds the pod back.
fn is_past(record: &Record) -> bool {
    match record.kind {
        ContainerKind::Main => true,
        ContainerKind::Init => record.has_succeeded(),
        ContainerKind::Sidecar => record.is_started || record.last.is_some() || record.terminated().is_some(),
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

/// One condition to be: its type, and when false the reason and message.
struct Wanted {
    type_: &'static str,
    is_true: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(machine: &Machine, previous: Option<&PodStatus>, phase: Phase, now: Timestamp) -> Vec<PodCondition> {
    let of = |status: Option<&PodStatus>| status.and_then(|status| status.conditions.clone()).unwrap_or_default();
    let (told, existing) = (of(previous), of(machine.pod.status.as_ref()));
    let mut wanted: Vec<Wanted> = wanted_conditions(machine, phase).into();
    // PodScheduled is the scheduler's, unless the pod came here without one.
    if existing.iter().all(|condition| condition.type_ != "PodScheduled") {
        wanted.push(Wanted { type_: "PodScheduled", is_true: true, reason: None, message: None });
    }
    let condition = |wanted: &Wanted| {
        let status = if wanted.is_true { "True" } else { "False" };
        let before = told.iter().chain(&existing).find(|condition| condition.type_ == wanted.type_);
        let unchanged =
            before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
        PodCondition {
            type_: wanted.type_.to_owned(),
            status: status.to_owned(),
            reason: wanted.reason.map(str::to_owned),
            message: wanted.message.clone(),
            last_transition_time: Some(unchanged.unwrap_or(Time(now))),
            ..PodCondition::default()
        }
    };
    let mut out: Vec<PodCondition> = wanted.iter().map(condition).collect();
    out.extend(existing.into_iter().filter(|condition| wanted.iter().all(|wanted| wanted.type_ != condition.type_)));
    out
}

fn wanted_conditions(machine: &Machine, phase: Phase) -> [Wanted; 4] {
    let names = |pick: &dyn Fn(&Record) -> bool| -> Vec<&str> {
        machine.containers.iter().filter(|record| pick(record)).map(|record| record.name.as_str()).collect()
    };
    let list = |names: &[&str]| format!("[{}]", names.join(" "));
    let is_sandbox_up = matches!(machine.sandbox, Sandbox::Ready { .. });
    let mut uninitialized = names(&|record| !is_past(record));
    if phase == Phase::Succeeded {
        uninitialized.clear();
    }
    let unready = names(&|record| record.kind != ContainerKind::Init && !record.is_ready);
    let is_ready = unready.is_empty() && phase == Phase::Running;
    let gates_open = readiness_gates_open(machine);
    let (reason, message) = match phase {
        _ if is_ready => (None, None),
        Phase::Succeeded => (Some("PodCompleted"), None),
        Phase::Failed => (Some("PodFailed"), None),
        Phase::Pending | Phase::Running => {
            (Some("ContainersNotReady"), Some(format!("containers with unready status: {}", list(&unready))))
        }
    };
    let (initialized_reason, initialized_message) = if uninitialized.is_empty() {
        ((phase == Phase::Succeeded).then_some("PodCompleted"), None)
    } else {
        (Some("ContainersNotInitialized"), Some(format!("containers with incomplete status: {}", list(&uninitialized))))
    };
    let (ready_reason, ready_message) = if is_ready && !gates_open {
        (Some("ReadinessGatesNotReady"), Some("the status of pod readiness gates is not \"True\"".to_owned()))
    } else {
        (reason, message.clone())
    };
    [
        Wanted { type_: "PodReadyToStartContainers", is_true: is_sandbox_up, reason: None, message: None },
        Wanted {
            type_: "Initialized",
            is_true: uninitialized.is_empty(),
            reason: initialized_reason,
            message: initialized_message,
        },
        Wanted { type_: "Ready", is_true: is_ready && gates_open, reason: ready_reason, message: ready_message },
        Wanted { type_: "ContainersReady", is_true: is_ready, reason, message },
    ]
}

fn readiness_gates_open(machine: &Machine) -> bool {
    let conditions = machine.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    machine.spec().readiness_gates.iter().flatten().all(|gate| {
        conditions.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
    })
}

fn container_status(machine: &Machine, container: usize, record: &Record) -> ContainerStatus {
    let spec = machine.container_spec(container);
    let id_of = |id: &str| (!id.is_empty()).then(|| format!("{ID_SCHEME}{id}"));
    let container_id = match &record.run {
        Run::Running { container_id, .. } => id_of(container_id),
        Run::Terminated(termination) => id_of(&termination.container_id),
        Run::Waiting { .. } => record.last.as_ref().and_then(|last| id_of(&last.container_id)),
    };
    let is_completed_init = record.kind == ContainerKind::Init && record.has_succeeded();
    ContainerStatus {
        name: record.name.clone(),
        state: Some(state(machine, record)),
        last_state: Some(ContainerState {
            terminated: record.last.as_ref().map(terminated),
            ..ContainerState::default()
        }),
        ready: record.is_ready || is_completed_init,
        started: Some(record.is_running() && record.is_started),
        restart_count: record.attempt.and_then(|attempt| i32::try_from(attempt).ok()).unwrap_or(0),
        image: record.image.as_ref().map_or_else(|| spec.image.clone().unwrap_or_default(), |image| image.name.clone()),
        image_id: record.image.as_ref().map(|image| image.id.clone()).unwrap_or_default(),
        container_id,
        ..ContainerStatus::default()
    }
}

fn state(machine: &Machine, record: &Record) -> ContainerState {
    match &record.run {
        Run::Waiting { reason, message } => {
            // A pod with init containers says so while its main containers wait for them.
            let has_init = machine.containers.iter().any(|record| record.kind != ContainerKind::Main);
            let is_held = has_init
                && *reason == "ContainerCreating"
                && (record.kind == ContainerKind::Main || matches!(machine.sandbox, Sandbox::Ready { .. }));
            let reason = if is_held { "PodInitializing" } else { reason };
            ContainerState {
                waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.clone() }),
                ..ContainerState::default()
            }
        }
        Run::Running { started_at, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..ContainerState::default()
        },
        Run::Terminated(termination) => {
            ContainerState { terminated: Some(terminated(termination)), ..ContainerState::default() }
        }
    }
}

fn terminated(termination: &Termination) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: (!termination.container_id.is_empty())
            .then(|| format!("{ID_SCHEME}{}", termination.container_id)),
        exit_code: termination.exit_code,
        signal: None,
        reason: Some(termination.reason.to_owned()),
        message: termination.message.clone(),
        started_at: Some(Time(termination.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(termination.finished_at)),
    }
}

/// The object that goes over the wire: the uid makes the API refuse it for another pod of the same name.
pub fn patch_body(uid: &str, patch: &Value) -> Value {
    json!({"metadata": {"uid": uid}, "status": patch})
}
