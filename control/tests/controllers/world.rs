//! A control plane over a real etcd in a temporary directory.

use std::collections::HashSet;
use std::fmt::Debug;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kontiki_control::controllers::{self, ControllersConfig};
use kontiki_control::io::etcd::Storage;
use kontiki_control::server::{ControlConfig, ControlPlane, Running};
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything in these tests may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it holds; fails with what was waited for.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct World {
    running: Running,
    config: ControllersConfig,
    _leadership: watch::Sender<bool>,
    _etcd: Etcd,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn start(change: impl FnOnce(&mut ControllersConfig)) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let (etcd, endpoint) = start_etcd(dir.path());
        let storage = Storage::connect(&[endpoint]).unwrap();
        let mut config = ControlConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().join("control"));
        change(&mut config.controllers);
        let controllers = config.controllers.clone();
        let (leadership, leads) = watch::channel(true);
        let running =
            tokio::time::timeout(PATIENCE, ControlPlane::start(config, storage, leads)).await.unwrap().unwrap();
        let world = Self { running, config: controllers, _leadership: leadership, _etcd: etcd, _dir: dir };
        let accounts = world.api::<k8s_openapi::api::core::v1::ServiceAccount>();
        eventually("the controllers run", async || accounts.get_opt("default").await.is_ok_and(|a| a.is_some())).await;
        world
    }

    pub fn client(&self) -> Client {
        self.running.client()
    }

    /// Objects of the namespace `default`.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// Creates an object without a namespace.
    pub async fn create_all<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// Watches for a pod of the namespace `default`; the watch is open when this returns.
    pub async fn until_pod(&self, name: &str, holds: impl Fn(&Pod) -> bool + Send + 'static) -> JoinHandle<()> {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = Box::pin(watcher::watcher(self.api::<Pod>(), config));
        while !matches!(events.next().await, Some(Ok(Event::InitDone))) {}
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if matches!(event, Ok(Event::Apply(pod)) if holds(&pod)) {
                    return;
                }
            }
        })
    }

    /// As when a deposed leader does not know it yet.
    pub fn run_more_controllers(&self) -> Second {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(controllers::run(self.client(), self.config.clone(), shutdown.clone()));
        Second { shutdown, task }
    }

    /// Counts every pod that is ever created from now on.
    pub fn count_created_pods(&self) -> Counter {
        let shutdown = CancellationToken::new();
        let events = watcher::watcher(self.api::<Pod>(), watcher::Config::default());
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let mut seen = HashSet::new();
            let mut events = std::pin::pin!(events);
            while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
                if let Ok(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) = event {
                    seen.insert(pod.uid().unwrap());
                }
            }
            seen.len()
        });
        Counter { shutdown, task }
    }
}

pub struct Second {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Second {
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the controllers stop").unwrap();
    }
}

pub struct Counter {
    shutdown: CancellationToken,
    task: JoinHandle<usize>,
}

impl Counter {
    pub async fn stop(self) -> usize {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }
}

fn start_etcd(dir: &std::path::Path) -> (Etcd, String) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let client = format!("http://127.0.0.1:{}", free());
    let peer = format!("http://127.0.0.1:{}", free());
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
        .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is installed (cargo xtask test does it)");
    (Etcd(child), client)
}
