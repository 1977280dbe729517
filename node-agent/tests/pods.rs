//! Pods by the real worker on the real runtime; only the API and the image store are stand-ins. Needs root.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
// Helpers of tests are tests too, which clippy does not see.
#![allow(clippy::unwrap_used)]

// The support module serves several suites; none uses all of it.
#[allow(dead_code)]
mod support;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kontiki_node_agent::agent::context::{Board, Context};
use kontiki_node_agent::agent::ports::{ApiFailure, PodApi};
use kontiki_node_agent::agent::worker::{Message, Worker};
use kontiki_node_agent::image::{Credential, Image, ImageConfig, Images, PullError};
use kontiki_node_agent::io::files::Files;
use kontiki_node_agent::pod::fields::Allocatable;
use kontiki_node_agent::pod::hostname::NodeNames;
use kontiki_node_agent::pod::machine::{Machine, Note};
use kontiki_node_agent::runtime::RuntimeEvent;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Node, on_a_node, wait_until};
use tokio::sync::mpsc;

#[derive(Default)]
struct Api {
    status: Mutex<Value>,
    notes: Mutex<Vec<String>>,
    is_deleted: Mutex<bool>,
}

#[async_trait]
impl PodApi for Api {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>, ApiFailure> {
        let map = json!({"data": {"color": "blue", "shape": "round"}});
        Ok((name == "settings").then(|| serde_json::from_value(map).unwrap()))
    }

    async fn secret(&self, _: &str, name: &str) -> Result<Option<Secret>, ApiFailure> {
        let secret = json!({"data": {"password": "c2VzYW1l"}});
        Ok((name == "keys").then(|| serde_json::from_value(secret).unwrap()))
    }

    async fn token(&self, _: &Pod, _: Option<&str>, _: i64) -> Result<(String, Option<Timestamp>), ApiFailure> {
        Ok(("token".to_owned(), None))
    }

    async fn patch_status(&self, _: &str, _: &str, _: &str, status: &Value) -> Result<(), ApiFailure> {
        *self.status.lock() = status.clone();
        Ok(())
    }

    async fn delete(&self, _: &str, _: &str, _: &str) -> Result<(), ApiFailure> {
        *self.is_deleted.lock() = true;
        Ok(())
    }

    async fn services(&self) -> Vec<Arc<Service>> {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]});
        let service = json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": spec});
        vec![Arc::new(serde_json::from_value(service).unwrap())]
    }

    fn record(&self, _: &Pod, note: Note) {
        self.notes.lock().push(format!("{}: {}", note.reason, note.message));
    }
}

struct Busybox(PathBuf);

#[async_trait]
impl Images for Busybox {
    fn check(&self, _: &str) -> Result<(), PullError> {
        Ok(())
    }

    async fn resolve(&self, _: &str) -> Option<Image> {
        let config = ImageConfig { cmd: vec!["true".to_owned()], ..ImageConfig::default() };
        Some(Image { id: "sha256:busybox".to_owned(), layers: vec![self.0.clone()], config, ..Image::default() })
    }

    async fn pull(&self, _: &str, _: &[Credential]) -> Result<Image, PullError> {
        Err(PullError::Unreachable("there is no registry here".to_owned()))
    }

    async fn list(&self) -> Vec<Image> {
        Vec::new()
    }
}

/// One pod on a node, with its worker running.
struct Run {
    api: Arc<Api>,
    inbox: mpsc::Sender<Message>,
    pod: Arc<Pod>,
    files: Files,
}

fn run(mut node: Node, spec: Value) -> Run {
    let pod = json!({"metadata": {"name": "command-demo", "namespace": "default", "uid": "uid-1"}, "spec": spec});
    let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod).unwrap());
    let files = Files::new(node.directory.join("data"), node.config.run_dir.clone());
    std::fs::create_dir_all(files.scratch_dir()).unwrap();
    let api = Arc::new(Api::default());
    let context = Arc::new(Context {
        api: api.clone(),
        images: Arc::new(Busybox(node.directory.join("rootfs"))),
        containers: Arc::new(node.runtime.clone()),
        files: files.clone(),
        names: NodeNames {
            hostname: "node".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            ..NodeNames::default()
        },
        host_ips: vec!["192.0.2.1".to_owned()],
        allocatable: Allocatable { memory_bytes: 1 << 30, ..Allocatable::default() },
        board: Arc::new(Board::default()),
    });
    let (inbox, messages) = mpsc::channel(8);
    let now = Timestamp::now();
    tokio::spawn(Worker::new(context, Machine::new(pod.clone(), now), messages, now).run());
    let route = inbox.clone();
    tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            let message = match event {
                RuntimeEvent::Exited { container, exit } => Message::Exited { container, exit },
                RuntimeEvent::ShimLost { .. } => Message::SandboxLost,
            };
            let _ = route.send(message).await;
        }
    });
    Run { api, inbox, pod, files }
}

impl Run {
    async fn until(&self, what: &str, mut check: impl FnMut(&Value) -> bool) {
        wait_until(what, || check(&self.api.status.lock())).await;
    }

    async fn until_phase(&self, phase: &str) {
        let started = std::time::Instant::now();
        while self.api.status.lock()["phase"] != phase {
            let (status, notes) = (self.api.status.lock().clone(), self.api.notes.lock().join("\n"));
            assert!(started.elapsed().as_secs() < 60, "not {phase}: {status:#}\n{notes}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn log(&self, container: &str) -> String {
        let log = std::fs::read_to_string(self.files.log(&self.pod, container, 0)).unwrap_or_default();
        log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    async fn delete(&self, grace_s: i64) {
        let mut pod = (*self.pod).clone();
        let deadline = Timestamp::now() + SignedDuration::from_secs(grace_s);
        pod.metadata.deletion_timestamp = Some(Time(deadline));
        pod.metadata.deletion_grace_period_seconds = Some(grace_s);
        self.inbox.send(Message::Pod(Arc::new(pod))).await.unwrap();
    }
}

#[test]
fn the_example_pod_prints_its_hostname_and_the_api_address() {
    on_a_node(|node| async move {
        // Debian's busybox has no printenv; the shell says the same of the same environment.
        let container = json!({"name": "demo-container", "image": "debian", "imagePullPolicy": "IfNotPresent",
                               "command": ["sh", "-c"], "args": ["echo $HOSTNAME; echo $KUBERNETES_PORT"]});
        let run = run(node, json!({"restartPolicy": "OnFailure", "containers": [container]}));
        run.until_phase("Succeeded").await;
        assert_eq!(run.log("demo-container"), "command-demo\ntcp://10.96.0.1:443\n");
        let ended = run.api.status.lock()["containerStatuses"][0]["state"]["terminated"].clone();
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("Completed"), &json!(0)));
        run.delete(30).await;
        wait_until("the pod is deleted", || *run.api.is_deleted.lock()).await;
        assert!(!run.files.pod_dir("uid-1").exists());
    });
}

#[test]
fn volumes_variables_and_init_containers_reach_the_command() {
    on_a_node(|node| async move {
        let script = "cat /settings/color; echo; cat /one/shape; echo; cat /keys/password; echo; cat /scratch/from-init; cat /memory/from-init; \
                      echo $NODE_IP $PASSWORD $GREETING; cat /etc/hostname; grep -c command-demo /etc/hosts; touch /settings/x 2>/dev/null || echo ro; \
                      echo gone > /dev/termination-log; exit 3";
        let spec = json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "settings", "configMap": {"name": "settings"}}, {"name": "keys", "secret": {"secretName": "keys"}},
                        {"name": "scratch", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "initContainers": [{"name": "init", "image": "busybox:1", "command": ["sh", "-c", "echo disk > /s/from-init; echo memory > /m/from-init"],
                                "volumeMounts": [{"name": "scratch", "mountPath": "/s"}, {"name": "memory", "mountPath": "/m"}]}],
            "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", script],
                "env": [{"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
                        {"name": "GREETING", "value": "open-$(PASSWORD)"}],
                "volumeMounts": [{"name": "settings", "mountPath": "/settings", "readOnly": true}, {"name": "keys", "mountPath": "/keys"},
                                 {"name": "settings", "mountPath": "/one/shape", "subPath": "shape"},
                                 {"name": "scratch", "mountPath": "/scratch"}, {"name": "memory", "mountPath": "/memory"}]}]
        });
        let run = run(node, spec);
        run.until_phase("Failed").await;
        assert_eq!(
            run.log("c"),
            "blue\nround\nsesame\ndisk\nmemory\n192.0.2.1 sesame open-sesame\ncommand-demo\n1\nro\n"
        );
        let ended = run.api.status.lock()["containerStatuses"][0]["state"]["terminated"].clone();
        assert_eq!(
            (&ended["reason"], &ended["exitCode"], &ended["message"]),
            (&json!("Error"), &json!(3), &json!("gone\n"))
        );
    });
}

#[test]
fn a_command_that_does_not_exist_fails_with_its_name() {
    on_a_node(|node| async move {
        let container = json!({"name": "c", "image": "busybox:1", "command": ["no-such-command"]});
        let run = run(node, json!({"restartPolicy": "Never", "containers": [container]}));
        run.until_phase("Failed").await;
        let ended = run.api.status.lock()["containerStatuses"][0]["state"]["terminated"].clone();
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));
        assert!(
            ended["message"]
                .as_str()
                .unwrap()
                .contains("exec: \"no-such-command\": executable file not found in $PATH"),
            "{ended}"
        );
    });
}

#[test]
fn a_crashing_container_is_restarted_and_a_running_one_stops_in_its_grace() {
    on_a_node(|node| async move {
        // Fails once, then serves until it is told to stop.
        let script =
            "if [ ! -e /v/seen ]; then touch /v/seen; exit 1; fi; trap 'exit 0' TERM; while true; do sleep 0.05; done";
        let container = json!({"name": "c", "image": "busybox:1", "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let run = run(node, json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}));
        let is_restarted = |status: &Value| {
            let container = &status["containerStatuses"][0];
            container["restartCount"] == 1 && container["state"].get("running").is_some()
        };
        run.until("the second start", is_restarted).await;
        let last = run.api.status.lock()["containerStatuses"][0]["lastState"]["terminated"].clone();
        assert_eq!(last["exitCode"], 1);
        run.delete(30).await;
        wait_until("the pod is deleted", || *run.api.is_deleted.lock()).await;
        assert_eq!(run.api.status.lock()["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    });
}
