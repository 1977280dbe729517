//! `kontiki store`: a store member alone, with etcd's flags and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kontiki_store::config::Bootstrap;
use kontiki_store::edge::{self, EdgeConfig};
use kontiki_store::io::serve::serve;
use kontiki_store::member::Member;
use tokio_util::sync::CancellationToken;

use crate::{logging, net, signals};

/// etcd's bootstrap flags, by their names.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// The name of this member.
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    pub name: String,
    /// Where this member keeps its data [default: NAME.etcd].
    #[arg(long, env = "ETCD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where this member listens for other members.
    #[arg(long, env = "ETCD_LISTEN_PEER_URLS", default_value = "http://localhost:2380")]
    pub listen_peer_urls: String,
    /// Where this member listens for clients.
    #[arg(long, env = "ETCD_LISTEN_CLIENT_URLS", default_value = "http://localhost:2379")]
    pub listen_client_urls: String,
    /// Where other members reach this one.
    #[arg(long, env = "ETCD_INITIAL_ADVERTISE_PEER_URLS", default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: String,
    /// Where clients reach this member.
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", default_value = "http://localhost:2379")]
    pub advertise_client_urls: String,
    /// All members at the first start: name=url,name=url [default: this member alone].
    #[arg(long, env = "ETCD_INITIAL_CLUSTER", default_value = "")]
    pub initial_cluster: String,
    /// "new" for the first start of all members; "existing" for one that was added to a cluster that runs.
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_STATE", default_value = "new")]
    pub initial_cluster_state: String,
    /// Keeps clusters apart that would otherwise look the same.
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_TOKEN", default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Do not wait for the disk: faster, and data is lost when the machine dies. For tests.
    #[arg(long, env = "ETCD_UNSAFE_NO_FSYNC")]
    pub unsafe_no_fsync: bool,
    /// debug, info, warn or error.
    #[arg(long, env = "ETCD_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

impl Arguments {
    pub fn bootstrap(&self) -> Bootstrap {
        let data_dir = self.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", self.name)));
        Bootstrap {
            name: self.name.clone(),
            data_dir,
            listen_peer_urls: self.listen_peer_urls.clone(),
            listen_client_urls: self.listen_client_urls.clone(),
            initial_advertise_peer_urls: self.initial_advertise_peer_urls.clone(),
            advertise_client_urls: self.advertise_client_urls.clone(),
            initial_cluster: self.initial_cluster.clone(),
            initial_cluster_state: self.initial_cluster_state.clone(),
            initial_cluster_token: self.initial_cluster_token.clone(),
            fsync: !self.unsafe_no_fsync,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    logging::json(&arguments.log_level);
    net::current_thread()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let running = Running::start(arguments).await?;
        running.until(shutdown).await;
        Ok(())
    })
}

/// A member that serves its clients.
pub struct Running {
    pub member: Member,
    serving: Vec<tokio::task::JoinHandle<()>>,
    stop: CancellationToken,
}

impl Running {
    pub async fn start(arguments: &Arguments) -> Result<Self> {
        let config = arguments.bootstrap().resolve(net::resolve)?;
        let mut listeners = Vec::new();
        for address in &config.client_listen {
            listeners.push((*address, net::listen(*address).await?));
        }
        let name = config.member.name.clone();
        let member = Member::start(config.member).await.with_context(|| format!("member {name}"))?;
        // Not the configured ids: a member that joined has those of the cluster.
        let status = member.status();
        tracing::info!(name, member_id = %status.id, cluster_id = %status.cluster_id, "started the member");
        let stop = CancellationToken::new();
        let router = edge::router(member.clone(), EdgeConfig::default());
        let serving = listeners
            .into_iter()
            .map(|(address, listener)| {
                tracing::info!(%address, "serving client traffic");
                tokio::spawn(serve(listener, router.clone(), stop.clone()))
            })
            .collect();
        announce(member.clone(), config.client_listen.clone());
        Ok(Self { member, serving, stop })
    }

    /// Serves until told to stop, then hands leadership over, ends the connections and closes the log.
    pub async fn until(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.member.removed() => {}
        }
        tracing::info!("stopping: handing leadership over and closing the log");
        let leadership = *self.member.leadership().borrow();
        if leadership.is_self
            && let Err(error) = self.member.transfer_leadership(None).await
        {
            // A member alone has nobody to hand over to; the others elect a leader without it otherwise.
            tracing::debug!(%error, "leadership was not handed over");
        }
        self.stop.cancel();
        for serving in self.serving {
            // A task that panicked has been logged; there is nothing left to wait for.
            let _ = serving.await;
        }
        self.member.shutdown().await;
    }
}

/// Says that clients are served once this member is known to the cluster: etcd's tools wait for the line.
fn announce(member: Member, addresses: Vec<SocketAddr>) {
    tokio::spawn(async move {
        let mut leadership = member.leadership();
        let known = leadership.wait_for(|now| now.leader.is_some()).await.is_ok();
        if known && member.read_barrier().await.is_ok() {
            let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            tracing::info!(addresses = addresses.join(","), "ready to serve client requests");
        }
    });
}
