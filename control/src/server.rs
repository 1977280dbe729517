//! The running control plane: storage, watch caches, API server, and the controllers while this server leads.
//!
//! [`ControlPlane::start`] returns once HTTPS is answered; the store may still be without a leader then: requests wait for it or get
//! 503, and the objects every cluster has are written as soon as it can.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::controllers::ControllersConfig;
use crate::io::api::Api;
use crate::io::bootstrap;
use crate::io::etcd::Storage;
use crate::io::http::{Access, HttpServer};
use crate::io::pki::{ClusterPki, PkiError};
use crate::registry::Ranges;

/// What a control plane must be told.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Where HTTPS is served. Port 0 takes a free one: see [`Running::address`].
    pub listen: SocketAddr,
    /// Addresses under which clients reach this server; the first goes into `endpoints/kubernetes`. Empty: the listening address.
    pub advertise: Vec<SocketAddr>,
    /// Further names and addresses for the serving certificate.
    pub names: Vec<String>,
    /// For the cached keys.
    pub data_dir: PathBuf,
    pub ranges: Ranges,
    pub controllers: ControllersConfig,
    /// Run the controllers and the scheduler at all (while leading).
    pub run_controllers: bool,
}

impl ControlConfig {
    #[must_use]
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            advertise: Vec::new(),
            names: Vec::new(),
            data_dir: data_dir.into(),
            ranges: Ranges::default(),
            controllers: ControllersConfig::default(),
            run_controllers: true,
        }
    }
}

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Starts control planes.
#[derive(Debug)]
pub struct ControlPlane;

/// A running control plane. Dropping it does not stop it: call [`Running::shutdown`].
pub struct Running {
    address: SocketAddr,
    pki: Arc<ClusterPki>,
    client: kube::Client,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// `storage`: [`Storage::new`] over the store in this process, or [`Storage::connect`]. `leadership` says whether this server runs
    /// the controllers; send `true` once for a control plane that is alone.
    ///
    /// Waits for the store to hand out (or accept) the cluster's keys, so it needs a store with a leader.
    ///
    /// # Errors
    /// When the port is taken or the keys cannot be had.
    pub async fn start(
        config: ControlConfig,
        storage: Storage,
        leadership: watch::Receiver<bool>,
    ) -> Result<Running, StartError> {
        let listener = tokio::net::TcpListener::bind(config.listen)
            .await
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let advertised = advertised(&config, address);
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();

        let pki = Arc::new(bootstrap::open_pki(&storage, &config.data_dir).await?);
        let (hostnames, addresses) = certificate_names(&config, &advertised);
        let serving = pki.issue_server(&hostnames, &addresses)?;
        let tls = pki.server_tls(&serving)?;

        let api = Api::new(storage.clone(), config.ranges.clone());
        api.spawn_caches(&tasks, &shutdown);
        let access = Access::new(&pki)?;
        let http = HttpServer::new(api.clone(), access, shutdown.clone());
        let client = http.in_process_client();
        tasks.spawn(http.clone().serve(listener, Arc::new(tls), shutdown.clone()));
        let first = advertised.first().copied().unwrap_or(address);
        tasks.spawn(bootstrap::keep_cluster_objects(api, first, shutdown.clone()));
        tasks.spawn(lead(config, pki.clone(), client.clone(), storage, leadership, shutdown.clone()));
        tasks.close();
        tracing::info!(%address, "the Kubernetes API is served");
        Ok(Running { address, pki, client, shutdown, tasks })
    }
}

impl Running {
    /// Where HTTPS is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client of this server that does not leave the process and may do everything.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    #[must_use]
    pub fn pki(&self) -> &ClusterPki {
        &self.pki
    }

    /// A kubeconfig of the administrator for these URLs (`https://host:port`); the first is the default.
    ///
    /// # Errors
    /// When the certificate cannot be signed.
    pub fn admin_kubeconfig(&self, servers: &[String]) -> Result<String, PkiError> {
        self.pki.admin_kubeconfig(servers)
    }

    /// A kubeconfig for the agent of a node.
    ///
    /// # Errors
    /// When the certificate cannot be signed.
    pub fn agent_kubeconfig(
        &self,
        node: &str,
        addresses: &[std::net::IpAddr],
        servers: &[String],
    ) -> Result<String, PkiError> {
        self.pki.agent_kubeconfig(node, addresses, servers)
    }

    /// Stops the controllers and the listener; open requests get a moment to finish.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        let _ = tokio::time::timeout(crate::limits::DRAIN_TIMEOUT * 2, self.tasks.wait()).await;
    }
}

fn advertised(config: &ControlConfig, bound: SocketAddr) -> Vec<SocketAddr> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    // No route leads to 0.0.0.0: clients on this machine at least reach loopback.
    vec![SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), bound.port())]
}

fn certificate_names(config: &ControlConfig, advertised: &[SocketAddr]) -> (Vec<String>, Vec<std::net::IpAddr>) {
    let mut addresses: Vec<std::net::IpAddr> = advertised.iter().map(SocketAddr::ip).collect();
    addresses.push(bootstrap::kubernetes_service_ip(&config.ranges).into());
    let mut hostnames = Vec::new();
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => hostnames.push(name.clone()),
        }
    }
    (hostnames, addresses)
}

/// Runs the controllers, the scheduler and the compaction of history whenever this server leads.
async fn lead(
    config: ControlConfig,
    pki: Arc<ClusterPki>,
    client: kube::Client,
    storage: Storage,
    mut leadership: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let mut controllers = config.controllers.clone();
    pki.ca_pem().clone_into(&mut controllers.root_ca_pem);
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            led = becomes(&mut leadership, true) => if !led {
                return shutdown.cancelled().await;
            },
        }
        let term = shutdown.child_token();
        let work = async {
            tokio::join!(
                async {
                    if config.run_controllers {
                        crate::controllers::run(client.clone(), controllers.clone(), term.clone()).await;
                    }
                },
                bootstrap::compact_history(&storage, &term),
            );
        };
        let watch_leadership = async {
            tokio::select! {
                () = term.cancelled() => {}
                _ = becomes(&mut leadership, false) => term.cancel(),
            }
        };
        tracing::info!("this server leads: controllers and scheduler run here");
        tokio::join!(work, watch_leadership);
        tracing::info!("controllers and scheduler stopped here");
    }
}

/// Waits until leading is `wanted`; false when nobody will tell any more.
async fn becomes(leadership: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    leadership.wait_for(|leads| *leads == wanted).await.is_ok()
}
