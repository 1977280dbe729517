//! The controllers: what makes the cluster become what its objects say.
//!
//! Each controller is a pure function from what is known of the cluster to a plan of API writes; the driver feeds it from one watch a
//! resource, keeps a work queue, and carries the plans out. They are ordinary Kubernetes clients: nothing here knows that
//! the API server may live in the same process. Two sets of controllers may run at once (a leader that does not know yet that it
//! was deposed): every write is guarded by resourceVersion or uid, and the names of created pods are a function of what was seen.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::cluster::Cluster;
use self::controller::Controller;
use self::driver::Driver;
use self::io::clock::Clock;
use self::io::discovery::{self, Served};
use self::io::events::{self, EventSink};
use self::io::execute::Executor;
use self::io::watch::{self, Followers};
use crate::scheduler;

pub mod action;
pub mod cache;
pub mod cluster;
pub mod controller;
mod driver;
mod endpoints;
mod garbage;
pub mod graph;
pub(crate) mod io;
mod job;
pub mod limits;
pub mod meta;
mod names;
mod namespace;
pub(crate) mod node;
mod pod_gc;
mod pods;
pub mod queue;
mod replication;
mod service_account;

/// What the controllers need to know besides the API.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// PEM of the certificate authority, published as ConfigMap `kube-root-ca.crt` in every namespace; empty publishes nothing.
    pub root_ca_pem: String,
    /// How long a node may be silent before it is Unknown.
    pub node_grace: Duration,
    /// Replaces the 300 s toleration of unreachable and not-ready nodes that admission gives to pods that ask for none.
    pub unreachable_toleration_s: Option<i64>,
    /// After this long past its deletion time, a pod on an unreachable node is removed without its agent's word; `None` waits forever.
    pub force_remove_after: Option<Duration>,
    /// First delay after a failed pod of a Job; doubles up to `job_backoff_max`.
    pub job_backoff: Duration,
    pub job_backoff_max: Duration,
}

impl Default for ControllersConfig {
    fn default() -> Self {
        Self {
            root_ca_pem: String::new(),
            node_grace: Duration::from_secs(40),
            unreachable_toleration_s: None,
            force_remove_after: Some(Duration::from_secs(30)),
            job_backoff: Duration::from_secs(10),
            job_backoff_max: Duration::from_secs(600),
        }
    }
}

/// Runs all controllers and the scheduler until `shutdown`; returns when everything of them has stopped.
pub async fn run(client: kube::Client, config: ControllersConfig, shutdown: CancellationToken) {
    let clock = Clock::start();
    let Some(served) = shutdown.run_until_cancelled(discover(&client)).await else { return };
    let mut cluster = Cluster::default();
    let whole: Vec<_> = cluster.graph.kinds().cloned().collect();
    let others: Vec<_> =
        served.iter().filter(|s| s.followed && !whole.contains(&s.resource)).map(|s| s.resource.clone()).collect();
    cluster.follow(others.iter().cloned());

    let mut tasks = JoinSet::new();
    let (events, records) = EventSink::new();
    tasks.spawn(events::write(client.clone(), clock, records));
    let (to_controllers, for_controllers) = mpsc::channel(limits::WATCHED_QUEUE_MAX);
    let (to_scheduler, for_scheduler) = mpsc::channel(limits::WATCHED_QUEUE_MAX);
    watch::follow(&client, &others, &Followers { controllers: to_controllers, scheduler: to_scheduler }, &mut tasks);

    let executor = Executor::new(client.clone(), events.clone());
    let driver = Driver::new(cluster, controllers(&config, &served), executor, clock);
    tokio::join!(
        driver.run(for_controllers, shutdown.clone()),
        scheduler::run(client, events, clock, for_scheduler, shutdown.clone()),
    );
    tasks.shutdown().await;
}

fn controllers(config: &ControllersConfig, served: &[Served]) -> Vec<Box<dyn Controller>> {
    let deletable =
        served.iter().filter(|s| s.deletable && s.resource.namespaced).map(|s| s.resource.clone()).collect();
    vec![
        Box::new(replication::Replication),
        Box::new(job::Jobs::new(config)),
        Box::new(namespace::Namespaces::new(deletable)),
        Box::new(service_account::ServiceAccounts::new(config)),
        Box::new(endpoints::EndpointsOfServices),
        Box::new(node::NodeHealth::new(config)),
        Box::new(node::Evictions::new(config)),
        Box::new(pod_gc::PodGarbage::default()),
        Box::new(garbage::Garbage),
    ]
}

/// Asks what is served until there is an answer.
async fn discover(client: &kube::Client) -> Vec<Served> {
    let mut delay = limits::WATCH_RETRY_FIRST;
    loop {
        match discovery::discover(client).await {
            Ok(served) => return served,
            Err(error) => tracing::debug!(%error, "discovery failed, trying again"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(limits::WATCH_RETRY_MAX);
    }
}
