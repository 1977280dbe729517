//! Pods through the whole product: kubectl, three servers, two node agents, Linux namespaces.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::dev::{Dev, Kubectl, PATIENCE, signal};
use support::wait_for;

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n{spec}\n")
}

/// A pod of one busybox container that runs a shell line once.
fn once(name: &str, line: &str) -> String {
    pod(
        name,
        &format!(
            "  restartPolicy: Never\n  containers:\n  - name: c\n    image: busybox\n    command: [\"sh\", \"-c\", {line:?}]"
        ),
    )
}

#[test]
fn pods_run_as_kubectl_users_know_them() {
    let before = Leftovers::now();
    let mut dev = Dev::start(3, 2);
    let kubectl = dev.kubectl();
    the_example(&kubectl);
    exit_codes_and_reasons(&kubectl);
    a_missing_command(&kubectl);
    environment_and_volumes(&kubectl);
    several_containers(&kubectl);
    restarts(&kubectl);
    a_missing_image(&kubectl);
    out_of_memory(&kubectl);
    graceful_end(&kubectl);
    dev.stop();
    let after = Leftovers::now();
    assert_eq!(after.minus(&before), Leftovers::default(), "left behind");
}

#[test]
fn an_agent_may_be_killed_while_its_pods_run() {
    let before = Leftovers::now();
    let mut dev = Dev::start(1, 1);
    let kubectl = dev.kubectl();
    kubectl.file("apply", &once("survivor", "echo started; sleep 3; echo finished; exit 7"));
    kubectl.await_field("pod/survivor", ".status.phase", "Running");
    signal(dev.pid("node-1"), rustix::process::Signal::KILL);
    let mut agent = restart_agent(&dev);
    kubectl.await_field("pod/survivor", ".status.phase", "Failed");
    kubectl.await_field("pod/survivor", ".status.containerStatuses[0].state.terminated.exitCode", "7");
    assert_eq!(kubectl.run(&["logs", "survivor"]), "started\nfinished\n");
    kubectl.run(&["delete", "pod", "survivor"]);
    assert!(agent.terminate(Duration::from_secs(20)).success());
    dev.stop();
    assert_eq!(Leftovers::now().minus(&before), Leftovers::default(), "left behind");
}

/// The same agent again, by the command line that `kontiki dev` gave it.
fn restart_agent(dev: &Dev) -> support::Process {
    let agent = &dev.ready["agents"][0];
    let arguments: Vec<String> =
        agent["arguments"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect();
    let arguments = arguments.into_iter().filter(|argument| argument != "--end-with-parent");
    let mut command = std::process::Command::new(support::KONTIKI);
    support::Process::spawn("agent", command.args(arguments), &dev.dir.path().join("agent-2.log"))
}

fn the_example(kubectl: &Kubectl) {
    kubectl.file(
        "apply",
        &pod(
            "command-demo",
            "  restartPolicy: OnFailure\n  containers:\n  - name: demo-container\n    image: busybox\n    command: [\"sh\", \"-c\"]\n    args: [\"echo $HOSTNAME; echo $(KUBERNETES_PORT)\"]",
        ),
    );
    kubectl.await_field("pod/command-demo", ".status.phase", "Succeeded");
    assert_eq!(kubectl.run(&["logs", "command-demo"]), "command-demo\ntcp://10.96.0.1:443\n");
    let table = kubectl.run(&["get", "pod", "command-demo"]);
    assert!(table.contains("Completed") && table.contains("0/1"), "{table}");
    let events = kubectl.run(&["get", "events", "--field-selector", "involvedObject.name=command-demo", "-o", "name"]);
    assert!(events.lines().count() >= 4, "Scheduled, Pulled, Created, Started: {events}");
}

fn exit_codes_and_reasons(kubectl: &Kubectl) {
    kubectl.file("apply", &once("exit-3", "echo failing >&2; exit 3"));
    kubectl.await_field("pod/exit-3", ".status.phase", "Failed");
    assert_eq!(kubectl.field("pod/exit-3", ".status.containerStatuses[0].state.terminated.exitCode"), "3");
    assert_eq!(kubectl.field("pod/exit-3", ".status.containerStatuses[0].state.terminated.reason"), "Error");
    assert_eq!(kubectl.run(&["logs", "exit-3"]), "failing\n");
    // Four dollars are two after Kubernetes' own expansion: the inner shell kills itself.
    kubectl.file("apply", &once("killed", "sh -c 'kill -9 $$$$'; exit $?"));
    kubectl.await_field("pod/killed", ".status.containerStatuses[0].state.terminated.exitCode", "137");
}

fn a_missing_command(kubectl: &Kubectl) {
    let spec =
        "  restartPolicy: Never\n  containers:\n  - name: c\n    image: busybox\n    command: [\"no-such-command\"]";
    kubectl.file("apply", &pod("missing", spec));
    kubectl.await_field("pod/missing", ".status.containerStatuses[0].state.terminated.reason", "StartError");
    assert_eq!(kubectl.field("pod/missing", ".status.containerStatuses[0].state.terminated.exitCode"), "128");
    let message = kubectl.field("pod/missing", ".status.containerStatuses[0].state.terminated.message");
    assert!(message.contains("\"no-such-command\": executable file not found in $PATH"), "{message}");
}

fn environment_and_volumes(kubectl: &Kubectl) {
    kubectl.run(&["create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=file.txt=content"]);
    kubectl.run(&["create", "secret", "generic", "hidden", "--from-literal=word=swordfish"]);
    let spec = r#"  restartPolicy: Never
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: hidden, secret: {secretName: hidden}}
  containers:
  - name: c
    image: busybox
    workingDir: /scratch
    env:
    - {name: PLAIN, value: "plain $(COLOUR) $$(COLOUR)"}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: AFTER, value: "$(COLOUR)"}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: hidden, key: word}}}
    command: ["sh", "-c"]
    args: ["echo $PLAIN/$AFTER/$NODE/$WORD; pwd; touch here; cat /settings/file.txt /hidden/word; echo; id -u; echo $(AFTER)"]
    securityContext: {runAsUser: 0}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: settings, mountPath: /settings}
    - {name: hidden, mountPath: /hidden}"#;
    kubectl.file("apply", &pod("volumes", spec));
    kubectl.await_field("pod/volumes", ".status.phase", "Succeeded");
    assert_eq!(
        kubectl.run(&["logs", "volumes"]),
        "plain $(COLOUR) $(COLOUR)/blue/volumes/swordfish\n/scratch\ncontentswordfish\n0\nblue\n"
    );
}

fn several_containers(kubectl: &Kubectl) {
    let spec = r#"  restartPolicy: Never
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - name: first
    image: busybox
    command: ["sh", "-c", "echo from init > /shared/file"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: a
    image: busybox
    command: ["cat", "/shared/file"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: b
    image: busybox
    command: ["sh", "-c", "hostname; id -u"]
    securityContext: {runAsUser: 1234}"#;
    kubectl.file("apply", &pod("several", spec));
    kubectl.await_field("pod/several", ".status.phase", "Succeeded");
    assert_eq!(kubectl.run(&["logs", "several", "-c", "a"]), "from init\n");
    assert_eq!(kubectl.run(&["logs", "several", "-c", "b"]), "several\n1234\n");
}

fn restarts(kubectl: &Kubectl) {
    let spec = "  containers:\n  - name: c\n    image: busybox\n    command: [\"sh\", \"-c\", \"echo run; exit 1\"]";
    kubectl.file("apply", &pod("crashing", spec));
    kubectl.await_field("pod/crashing", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff");
    let message = kubectl.field("pod/crashing", ".status.containerStatuses[0].state.waiting.message");
    assert!(message.contains("restarting failed container=c pod=crashing_default("), "{message}");
    assert_eq!(kubectl.field("pod/crashing", ".status.phase"), "Running");
    assert_eq!(kubectl.run(&["logs", "crashing", "--previous"]), "run\n");
    kubectl.run(&["delete", "pod", "crashing"]);
}

fn a_missing_image(kubectl: &Kubectl) {
    let spec = "  containers:\n  - {name: c, image: \"127.0.0.1:1/nothing:1\"}";
    kubectl.file("apply", &pod("no-image", spec));
    wait_for("the reason", PATIENCE, || {
        let reason = kubectl.field("pod/no-image", ".status.containerStatuses[0].state.waiting.reason");
        matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff").then_some(())
    });
    let message = kubectl.field("pod/no-image", ".status.containerStatuses[0].state.waiting.message");
    assert!(message.contains("127.0.0.1:1"), "{message}");
    kubectl.run(&["delete", "pod", "no-image"]);
    let spec = "  containers:\n  - {name: c, image: absent:1, imagePullPolicy: Never}";
    kubectl.file("apply", &pod("never", spec));
    kubectl.await_field("pod/never", ".status.containerStatuses[0].state.waiting.reason", "ErrImageNeverPull");
    kubectl.run(&["delete", "pod", "never"]);
}

fn out_of_memory(kubectl: &Kubectl) {
    let spec = "  restartPolicy: Never\n  containers:\n  - name: c\n    image: busybox\n    command: [\"tail\", \"/dev/zero\"]\n    resources: {limits: {memory: 16Mi}}";
    kubectl.file("apply", &pod("greedy", spec));
    kubectl.await_field("pod/greedy", ".status.containerStatuses[0].state.terminated.reason", "OOMKilled");
    assert_eq!(kubectl.field("pod/greedy", ".status.containerStatuses[0].state.terminated.exitCode"), "137");
}

fn graceful_end(kubectl: &Kubectl) {
    let line = "trap 'echo ending; exit 0' TERM; echo ready; while true; do sleep 0.1; done";
    kubectl.file("apply", &once("graceful", line));
    wait_for("the container to be ready", PATIENCE, || {
        let output = kubectl.command(&["logs", "graceful"]).output().unwrap();
        support::text(&output.stdout).contains("ready").then_some(())
    });
    let started = std::time::Instant::now();
    kubectl.run(&["delete", "pod", "graceful"]);
    assert!(started.elapsed() < Duration::from_secs(20), "a container that heeds SIGTERM ends before its grace does");
    assert!(kubectl.refused(&["get", "pod", "graceful"]).contains("pods \"graceful\" not found"));
}

/// What a pod could leave on the machine.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leftovers {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    links: BTreeSet<String>,
}

impl Leftovers {
    fn now() -> Self {
        let lines = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mounts = lines("/proc/self/mounts");
        let mounts = mounts.lines().filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned));
        let links = std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
        let links = links.map(|name| name.to_string_lossy().into_owned());
        let mut cgroups = BTreeSet::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok) {
            for group in std::fs::read_dir(hierarchy.path()).into_iter().flatten().filter_map(Result::ok) {
                if group.file_name().to_string_lossy().starts_with("kontiki") {
                    cgroups.insert(group.path().display().to_string());
                }
            }
        }
        Self { processes: processes(), mounts: mounts.collect(), cgroups, links: links.collect() }
    }

    fn minus(self, before: &Self) -> Self {
        let new = |now: BTreeSet<String>, before: &BTreeSet<String>| now.difference(before).cloned().collect();
        Self {
            processes: new(self.processes, &before.processes),
            mounts: new(self.mounts, &before.mounts),
            cgroups: new(self.cgroups, &before.cgroups),
            links: new(self.links, &before.links),
        }
    }
}

/// Shims and servers, with their process ids.
fn processes() -> BTreeSet<String> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    all.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> = line.split(|byte| *byte == 0).map(support::text).collect();
        let ours = words.first()?.contains("kontiki") || words.get(1).is_some_and(|word| word == "shim");
        ours.then(|| format!("{} {}", entry.file_name().to_string_lossy(), words.join(" ")))
    })
    .collect()
}
