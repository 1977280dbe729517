//! The row of a pod, as `kubectl get pods` shows it.
//!
//! The status column is not a field: it is condensed from phase, reason and container states by upstream's `printPod`, whose
//! order of cases is repeated here.

use serde_json::Value;

use crate::registry::fields::{flag, integer, is_set, items, or_none, text};
use crate::registry::{AGE_COLUMN, Column, NAME_COLUMN, age, age_cell, name_cell};

pub static COLUMNS: [Column; 9] = [
    NAME_COLUMN,
    Column::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    Column::text("Status", "The aggregate status of the containers in this pod."),
    Column::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod \
         has restarted.",
    ),
    AGE_COLUMN,
    Column::wide("IP", "Address of the pod, routable at least within the cluster. Empty if not yet allocated."),
    Column::wide("Node", "Name of the node the pod is scheduled to."),
    Column::wide("Nominated Node", "Name of the node that a preempting pod waits for."),
    Column::wide("Readiness Gates", "How many of the pod's readiness gates are true."),
];

/// What the containers of a pod add up to.
#[derive(Debug)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    /// Latest end of a container before its restart, RFC 3339; empty when there was none.
    last_restart: String,
}

pub fn cells(pod: &Value, now: &str) -> Vec<Value> {
    let summary = summarise(pod);
    let total = items(pod, "/spec/containers").len()
        + items(pod, "/spec/initContainers").iter().filter(|c| restarts(c)).count();
    let mut restart_text = summary.restarts.to_string();
    if summary.restarts != 0 && !summary.last_restart.is_empty() {
        restart_text = format!("{restart_text} ({} ago)", age::since(&summary.last_restart, now));
    }
    let ip = items(pod, "/status/podIPs").first().map_or(text(pod, "/status/podIP"), |ip| text(ip, "/ip"));
    vec![
        name_cell(pod),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restart_text.into(),
        age_cell(pod, now),
        or_none(ip).into(),
        or_none(text(pod, "/spec/nodeName")).into(),
        or_none(text(pod, "/status/nominatedNodeName")).into(),
        readiness_gates(pod).into(),
    ]
}

fn summarise(pod: &Value) -> Summary {
    let phase = text(pod, "/status/phase");
    let mut summary = Summary {
        reason: or(text(pod, "/status/reason"), phase).to_owned(),
        ready: 0,
        restarts: 0,
        last_restart: String::new(),
    };
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if items(pod, "/status/conditions").iter().any(gated) {
        summary.reason = "SchedulingGated".to_owned();
    }
    let initialising = add_init_containers(&mut summary, pod);
    if !initialising || condition_is_true(pod, "Initialized") {
        add_containers(&mut summary, pod);
    }
    if is_set(pod, "/metadata/deletionTimestamp") {
        if text(pod, "/status/reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Follows the init containers up to the first that is not done; whether there was one.
fn add_init_containers(summary: &mut Summary, pod: &Value) -> bool {
    let specs = items(pod, "/spec/initContainers");
    for (index, status) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
        count_restarts(summary, status);
        let sidecar = specs.iter().any(|spec| spec["name"] == status["name"] && restarts(spec));
        let terminated = &status["state"]["terminated"];
        let waiting = text(status, "/state/waiting/reason");
        if integer(terminated, "/exitCode") == Some(0)
            || (terminated.is_object() && terminated.get("exitCode").is_none())
        {
            continue;
        }
        if sidecar && flag(status, "/started") {
            summary.ready += usize::from(flag(status, "/ready"));
            continue;
        }
        summary.reason = if terminated.is_object() {
            format!("Init:{}", terminated_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        return true;
    }
    false
}

/// Once initialised, only sidecars' and containers' restarts count, and the first container's state names the pod's.
fn add_containers(summary: &mut Summary, pod: &Value) {
    summary.restarts = 0;
    summary.last_restart.clear();
    let specs = items(pod, "/spec/initContainers");
    for status in items(pod, "/status/initContainerStatuses") {
        if specs.iter().any(|spec| spec["name"] == status["name"] && restarts(spec)) {
            count_restarts(summary, status);
        }
    }
    let mut any_running = false;
    for status in items(pod, "/status/containerStatuses").iter().rev() {
        count_restarts(summary, status);
        let waiting = text(status, "/state/waiting/reason");
        let terminated = &status["state"]["terminated"];
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if terminated.is_object() {
            summary.reason = terminated_reason(terminated);
        } else if flag(status, "/ready") && status["state"]["running"].is_object() {
            any_running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && any_running {
        let ready = condition_is_true(pod, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn terminated_reason(terminated: &Value) -> String {
    match (text(terminated, "/reason"), integer(terminated, "/signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "/exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn count_restarts(summary: &mut Summary, status: &Value) {
    summary.restarts += integer(status, "/restartCount").unwrap_or(0);
    let ended = text(status, "/lastState/terminated/finishedAt");
    if age::parse_us(ended) > age::parse_us(&summary.last_restart) {
        ended.clone_into(&mut summary.last_restart);
    }
}

/// A sidecar: an init container that is restarted and stays.
fn restarts(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn condition_is_true(pod: &Value, name: &str) -> bool {
    items(pod, "/status/conditions").iter().any(|c| c["type"] == name && c["status"] == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition_is_true(pod, text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

#[cfg(test)]
mod tests {
    use crate::registry::pod::KIND;
    use crate::registry::testing;

    /// Ready, status and restarts of a pod with these members of `spec` and `status`.
    fn shown(spec: &str, status: &str, metadata: &str) -> String {
        let source = format!(
            "{{metadata: {{name: p, creationTimestamp: '2026-01-01T00:00:00Z'{metadata}}}, spec: {{{spec}}}, status: {{{status}}}}}"
        );
        let row = testing::row(&KIND, &source);
        let cells: Vec<&str> = row.split(" | ").collect();
        cells[1..4].join(" | ")
    }

    const ONE: &str = "containers: [{name: a}]";
    const TWO: &str = "containers: [{name: a}, {name: b}]";
    const INIT: &str = "initContainers: [{name: i}, {name: j}], containers: [{name: a}]";
    const SIDECAR: &str = "initContainers: [{name: i, restartPolicy: Always}], containers: [{name: a}]";

    #[test]
    fn the_status_column_condenses_container_states() {
        let table = [
            (ONE, "phase: Pending", "0/1 | Pending | 0"),
            (ONE, "phase: Failed, reason: Evicted", "0/1 | Evicted | 0"),
            (ONE, "phase: Pending, conditions: [{type: PodScheduled, reason: SchedulingGated}]", "0/1 | SchedulingGated | 0"),
            (
                ONE,
                "phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ContainerCreating}}}]",
                "0/1 | ContainerCreating | 0",
            ),
            (ONE, "phase: Running, containerStatuses: [{name: a, ready: true, state: {running: {}}}]", "1/1 | Running | 0"),
            (
                ONE,
                "phase: Running, containerStatuses: [{name: a, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}},
                  lastState: {terminated: {finishedAt: '2026-01-01T00:03:00Z'}}}]",
                "0/1 | CrashLoopBackOff | 3 (2m ago)",
            ),
            (
                ONE,
                "phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {reason: Completed, exitCode: 0}}}]",
                "0/1 | Completed | 0",
            ),
            (
                ONE,
                "phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 7}}}]",
                "0/1 | ExitCode:7 | 0",
            ),
            (
                ONE,
                "phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 137, signal: 9}}}]",
                "0/1 | Signal:9 | 0",
            ),
            (
                TWO,
                "phase: Running, conditions: [{type: Ready, status: 'False'}], containerStatuses: [
                  {name: a, state: {terminated: {reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]",
                "1/2 | NotReady | 0",
            ),
        ];
        for (spec, status, expected) in table {
            assert_eq!(shown(spec, status, ""), expected, "{status}");
        }
    }

    #[test]
    fn init_containers_name_the_status_until_they_are_done() {
        let table = [
            (INIT, "phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}, {name: j}]", "0/1 | Init:0/2 | 0"),
            (
                INIT,
                "phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}},
                  {name: j, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}]",
                "0/1 | Init:CrashLoopBackOff | 2",
            ),
            (
                INIT,
                "phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 1, reason: Error}}}]",
                "0/1 | Init:Error | 0",
            ),
            (
                INIT,
                "phase: Pending, initContainerStatuses: [{name: i, state: {waiting: {reason: PodInitializing}}}],
                 containerStatuses: [{name: a, state: {waiting: {reason: PodInitializing}}}]",
                "0/1 | Init:0/2 | 0",
            ),
            (
                INIT,
                "phase: Running, initContainerStatuses: [{name: i, restartCount: 5, state: {terminated: {exitCode: 0}}}],
                 containerStatuses: [{name: a, ready: true, state: {running: {}}}]",
                "1/1 | Running | 0",
            ),
            (
                SIDECAR,
                "phase: Running, initContainerStatuses: [{name: i, started: true, ready: true, restartCount: 1,
                  state: {running: {}}}], containerStatuses: [{name: a, ready: true, state: {running: {}}}]",
                "2/2 | Running | 1",
            ),
        ];
        for (spec, status, expected) in table {
            assert_eq!(shown(spec, status, ""), expected, "{status}");
        }
    }

    #[test]
    fn a_pod_that_is_deleted_terminates_unless_it_is_finished() {
        let deleted = ", deletionTimestamp: '2026-01-01T00:04:00Z'";
        assert_eq!(shown(ONE, "phase: Running", deleted), "0/1 | Terminating | 0");
        assert_eq!(shown(ONE, "phase: Running, reason: NodeLost", deleted), "0/1 | Unknown | 0");
        assert_eq!(shown(ONE, "phase: Succeeded", deleted), "0/1 | Succeeded | 0");
    }

    #[test]
    fn the_wide_cells_say_none_when_empty() {
        let pod = "{metadata: {name: p}, spec: {nodeName: n, readinessGates: [{conditionType: a}, {conditionType: b}]},
                    status: {podIP: 10.1.0.2, conditions: [{type: a, status: 'True'}]}}";
        assert_eq!(testing::row(&KIND, pod), "p | 0/0 |  | 0 | <unknown> | 10.1.0.2 | n | <none> | 1/2");
    }
}
