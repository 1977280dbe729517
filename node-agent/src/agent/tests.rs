//! Workers of pods against a fake runtime, fake images and a fake API: the driver's promises about order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::context::{Board, Context};
use super::ports::{ApiFailure, Containers, PodApi};
use super::worker::{Message, Worker};
use crate::image::{Credential, Image, ImageConfig, Images, Origin, PullError};
use crate::io::files::Files;
use crate::pod::fields::Allocatable;
use crate::pod::hostname::NodeNames;
use crate::pod::machine::{Machine, Note};
use crate::runtime::plan::{ContainerKey, ContainerPlan, Exit, Sandbox, SandboxPlan, Started};
use crate::runtime::{RuntimeError, StartError, User};

/// Everything the fakes were asked, in order, and what the API is to answer.
#[derive(Default)]
struct World {
    log: Mutex<Vec<String>>,
    changed: Notify,
    plans: Mutex<Vec<ContainerPlan>>,
    statuses: Mutex<Vec<Value>>,
    is_api_down: Mutex<bool>,
    config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    is_imported: bool,
}

impl World {
    fn say(&self, line: impl Into<String>) {
        self.log.lock().push(line.into());
        self.changed.notify_waiters();
    }

    fn log(&self) -> String {
        self.log.lock().join("\n")
    }

    /// Waits until a line that contains `text` was said.
    async fn until(&self, text: &str) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.log.lock().iter().any(|line| line.contains(text)) {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{text:?} did not happen:\n{}", self.log());
    }

    fn place_of(&self, text: &str) -> usize {
        self.log
            .lock()
            .iter()
            .position(|line| line.contains(text))
            .unwrap_or_else(|| panic!("{text:?} is not in:\n{}", self.log()))
    }
}

#[async_trait]
impl PodApi for World {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<ConfigMap>, ApiFailure> {
        Ok(self.config_maps.lock().get(name).cloned())
    }

    async fn secret(&self, _: &str, _: &str) -> Result<Option<Secret>, ApiFailure> {
        Ok(None)
    }

    async fn token(&self, _: &Pod, _: Option<&str>, _: i64) -> Result<(String, Option<Timestamp>), ApiFailure> {
        Ok(("token".to_owned(), None))
    }

    async fn patch_status(&self, _: &str, _: &str, _: &str, status: &Value) -> Result<(), ApiFailure> {
        if *self.is_api_down.lock() {
            self.say("status refused");
            return Err(ApiFailure::Unavailable("down".to_owned()));
        }
        self.statuses.lock().push(status.clone());
        let state = &status["containerStatuses"][0]["state"];
        let state = state.as_object().and_then(|state| state.keys().next().cloned()).unwrap_or_default();
        self.say(format!("status {} {state}", status["phase"].as_str().unwrap_or_default()));
        Ok(())
    }

    async fn delete(&self, _: &str, _: &str, uid: &str) -> Result<(), ApiFailure> {
        self.say(format!("delete {uid}"));
        Ok(())
    }

    async fn services(&self) -> Vec<Arc<Service>> {
        let service = json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}});
        vec![Arc::new(serde_json::from_value(service).unwrap())]
    }

    fn record(&self, _: &Pod, note: Note) {
        self.say(format!("event {}: {}", note.reason, note.message));
    }
}

#[async_trait]
impl Images for World {
    fn check(&self, reference: &str) -> Result<(), PullError> {
        if reference.contains(' ') {
            return Err(PullError::InvalidName {
                reference: reference.to_owned(),
                what: "invalid reference format".to_owned(),
            });
        }
        Ok(())
    }

    async fn resolve(&self, reference: &str) -> Option<Image> {
        let origin = if self.is_imported { Origin::Imported } else { Origin::Pulled };
        let config = ImageConfig {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["cmd".to_owned()],
            ..ImageConfig::default()
        };
        (!reference.starts_with("missing")).then(|| Image {
            id: "sha256:1".to_owned(),
            config,
            origin,
            ..Image::default()
        })
    }

    async fn pull(&self, reference: &str, _: &[Credential]) -> Result<Image, PullError> {
        self.say(format!("pull {reference}"));
        Err(PullError::Unreachable("no such host".to_owned()))
    }

    async fn list(&self) -> Vec<Image> {
        Vec::new()
    }
}

#[async_trait]
impl Containers for World {
    async fn create_sandbox(&self, plan: SandboxPlan) -> Result<Sandbox, RuntimeError> {
        self.say(format!("sandbox {}", plan.hostname));
        Ok(Sandbox {
            pod_uid: plan.pod_uid,
            ip: Some([10, 1, 0, 2].into()),
            shim_pid: 1,
            created_at: SystemTime::now(),
        })
    }

    async fn start(&self, _: &str, plan: ContainerPlan) -> Result<Started, StartError> {
        self.plans.lock().push(plan.clone());
        self.say(format!("start {} {} {}", plan.name, plan.attempt, plan.argv.join(" ")));
        Ok(Started { pid: 2, started_at: SystemTime::now() })
    }

    async fn stop(&self, _: &str, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.say(format!("stop {container} {}", grace.as_secs()));
        Ok(())
    }

    async fn remove_container(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        self.say(format!("remove {}", container.name));
        Ok(())
    }

    async fn remove_sandbox(&self, _: &str) -> Result<(), RuntimeError> {
        self.say("remove sandbox");
        Ok(())
    }

    async fn ack(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        self.say(format!("ack {} {}", container.name, container.attempt));
        Ok(())
    }

    fn user(&self, _: &[PathBuf], _: &str) -> Result<User, String> {
        Ok(User { home: Some("/root".to_owned()), ..User::default() })
    }
}

struct Bench {
    world: Arc<World>,
    inbox: mpsc::Sender<Message>,
    files: Files,
    pod: Arc<Pod>,
    _dir: tempfile::TempDir,
}

fn pod(spec: Value) -> Pod {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u1"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn bench_with(world: World, spec: Value) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(world);
    let files = Files::new(dir.path().join("data"), dir.path().join("run"));
    let context = Arc::new(Context {
        api: world.clone(),
        images: world.clone(),
        containers: world.clone(),
        files: files.clone(),
        names: NodeNames {
            hostname: "node".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            ..NodeNames::default()
        },
        host_ips: vec!["192.0.2.1".to_owned()],
        allocatable: Allocatable::default(),
        board: Arc::new(Board::default()),
    });
    let (inbox, messages) = mpsc::channel(8);
    let pod = Arc::new(pod(spec));
    let now = Timestamp::now();
    let worker = Worker::new(context, Machine::new(pod.clone(), now), messages, now);
    let ended = world.clone();
    tokio::spawn(async move {
        worker.run().await;
        ended.say("over");
    });
    Bench { world, inbox, files, pod, _dir: dir }
}

fn bench(spec: Value) -> Bench {
    bench_with(World::default(), spec)
}

impl Bench {
    /// The newest start of a container ends.
    async fn exit(&self, code: i32) {
        let plan = self.world.plans.lock().last().cloned().unwrap();
        let container = ContainerKey { pod_uid: "u1".to_owned(), name: plan.name, attempt: plan.attempt, id: plan.id };
        let exit =
            Exit { code, signal: None, oom: false, started_at: SystemTime::now(), finished_at: SystemTime::now() };
        self.inbox.send(Message::Exited { container, exit }).await.unwrap();
    }

    async fn delete(&self) {
        let mut pod = (*self.pod).clone();
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now() + Duration::from_secs(30)));
        pod.metadata.deletion_grace_period_seconds = Some(30);
        self.inbox.send(Message::Pod(Arc::new(pod))).await.unwrap();
    }
}

fn debian(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "debian:12", "command": ["printenv"], "args": ["HOSTNAME", "$(KUBERNETES_PORT)"]}]})
}

#[tokio::test]
async fn a_pod_runs_ends_and_is_told_about_before_its_exit_is_forgotten() {
    let bench = bench(debian("OnFailure"));
    bench.world.until("status Running running").await;
    {
        let plans = bench.world.plans.lock();
        assert_eq!(plans[0].argv, ["printenv", "HOSTNAME", "tcp://10.96.0.1:443"]);
        assert!(
            plans[0].env.contains(&"HOSTNAME=p".to_owned()) && plans[0].env.contains(&"HOME=/root".to_owned()),
            "{:?}",
            plans[0].env
        );
    }
    let hosts = std::fs::read_to_string(bench.files.hosts("u1")).unwrap();
    assert!(hosts.contains("10.1.0.2\tp\n"), "{hosts}");
    bench.exit(0).await;
    bench.world.until("remove sandbox").await;
    let (told, acked, removed) = (
        bench.world.place_of("status Succeeded terminated"),
        bench.world.place_of("ack c 0"),
        bench.world.place_of("remove sandbox"),
    );
    assert!(told < acked && told < removed, "{}", bench.world.log());
    bench.delete().await;
    bench.world.until("over").await;
    assert!(bench.world.place_of("delete u1") > removed);
    assert!(!bench.files.pod_dir("u1").exists());
}

#[tokio::test]
async fn while_the_api_is_away_pods_go_on_and_no_exit_is_forgotten() {
    let bench = bench(debian("OnFailure"));
    bench.world.until("status Running running").await;
    *bench.world.is_api_down.lock() = true;
    bench.exit(1).await;
    bench.world.until("start c 1").await;
    bench.world.until("status refused").await;
    assert!(!bench.world.log().contains("ack"), "{}", bench.world.log());
    *bench.world.is_api_down.lock() = false;
    bench.world.until("ack c 0").await;
    let last = bench.world.statuses.lock().last().cloned().unwrap();
    assert_eq!(last["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(last["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
}

#[tokio::test]
async fn a_status_that_could_not_be_saved_is_saved_when_the_api_is_back() {
    let bench = bench(debian("Never"));
    bench.world.until("status Running running").await;
    *bench.world.is_api_down.lock() = true;
    bench.exit(7).await;
    bench.world.until("status refused").await;
    *bench.world.is_api_down.lock() = false;
    bench.world.until("status Failed terminated").await;
    bench.world.until("remove sandbox").await;
}

#[tokio::test]
async fn deletion_stops_the_container_and_then_removes_the_pod() {
    let bench = bench(debian("Always"));
    bench.world.until("status Running running").await;
    bench.delete().await;
    bench.world.until("stop c").await;
    bench.exit(143).await;
    bench.world.until("over").await;
    let order = ["event Killing: Stopping container c", "stop c", "ack c 0", "delete u1", "over"];
    let places = order.map(|text| bench.world.place_of(text));
    assert!(places.is_sorted(), "{}", bench.world.log());
    assert!(bench.world.place_of("remove sandbox") < bench.world.place_of("delete u1"), "{}", bench.world.log());
}

#[tokio::test]
async fn a_pod_that_is_gone_is_stopped_without_telling_the_api() {
    let bench = bench(debian("Always"));
    bench.world.until("status Running running").await;
    bench.inbox.send(Message::Gone).await.unwrap();
    bench.world.until("stop c 1").await;
    bench.exit(137).await;
    bench.world.until("over").await;
    assert!(!bench.world.log().contains("delete u1"), "{}", bench.world.log());
}

#[tokio::test]
async fn an_imported_image_satisfies_always_when_the_registry_is_away() {
    let spec = json!({"containers": [{"name": "c", "image": "debian"}]});
    let imported = bench_with(World { is_imported: true, ..World::default() }, spec.clone());
    imported.world.until("start c 0 /entry cmd").await;
    assert!(imported.world.log().contains("pull debian"));
    let pulled = bench(spec);
    pulled.world.until("event Failed: Failed to pull image \"debian\": no such host").await;
    pulled.world.until("event Failed: Error: ErrImagePull").await;
    assert!(!pulled.world.log().contains("start"), "{}", pulled.world.log());
}

#[tokio::test]
async fn images_that_can_never_be_are_named() {
    let invalid = bench(json!({"containers": [{"name": "c", "image": "not a name"}]}));
    invalid.world.until("event Failed: Error: InvalidImageName").await;
    let never = bench(json!({"containers": [{"name": "c", "image": "missing", "imagePullPolicy": "Never"}]}));
    never
        .world
        .until("event ErrImageNeverPull: Container image \"missing\" is not present with pull policy of Never")
        .await;
}

#[tokio::test]
async fn a_missing_config_map_keeps_the_pod_waiting_until_it_is_there() {
    let spec = json!({"containers": [{"name": "c", "image": "debian:12", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                      "volumes": [{"name": "v", "configMap": {"name": "m"}}]});
    let bench = bench(spec);
    bench.world.until("event FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found").await;
    assert!(!bench.world.log().contains("start"), "{}", bench.world.log());
    let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v"}})).unwrap();
    bench.world.config_maps.lock().insert("m".to_owned(), map);
    bench.world.until("start c 0").await;
    let path = bench.files.volume_dir("u1", "kubernetes.io~configmap", "v").join("k");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "v");
}
