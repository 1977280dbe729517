//! A member that serves its clients: from settings to listeners, and down again.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kontiki_store::config::listen::{Listener, Serves};
use kontiki_store::config::url::Address;
use kontiki_store::config::{StoreConfig, StoreSettings, dump};
use kontiki_store::edge;
use kontiki_store::io::serve::{ServeOptions, Socket, serve};
use kontiki_store::io::tls::{self, Certificates, Doorman};
use kontiki_store::member::Member;
use tokio_util::sync::CancellationToken;

use super::{data_dir, notify};
use crate::net;

/// How often it is looked whether the cluster knows this member's name.
const PUBLISHED_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// A member that serves its clients.
pub struct Running {
    pub member: Member,
    name: String,
    serving: Vec<tokio::task::JoinHandle<()>>,
    stop: CancellationToken,
}

impl Running {
    pub async fn start(settings: &StoreSettings) -> Result<Self> {
        let config = StoreConfig::new(settings)?;
        let initialised = data_dir::prepare(&settings.data_dir, settings.wal_dir.as_deref())?;
        let fields = serde_json::Value::Object(dump::fields(settings, &config.member, initialised));
        tracing::info!(json = fields.to_string(), "starting an etcd server");
        let certificates = certificates(&config, &settings.data_dir)?;
        let mut sockets = Vec::new();
        for listener in config.listeners {
            let socket = listen(&listener.address, settings.socket_reuse_port)?;
            sockets.push((listener, socket));
        }
        let me = (config.member.name.clone(), config.member.client_urls.clone());
        let name = me.0.clone();
        let member = Member::start(config.member).await.with_context(|| format!("member {name}"))?;
        let status = member.status();
        tracing::info!(
            name,
            "local-member-id" = %status.id,
            "cluster-id" = %status.cluster_id,
            "local-server-version" = edge::ETCD_VERSION,
            "started the member"
        );
        let stop = CancellationToken::new();
        let mut serving = Vec::new();
        let mut addresses = Vec::new();
        for (listener, socket) in sockets {
            say_serving(&listener);
            addresses.push(listener.address.to_string());
            let options = ServeOptions { http2_only: listener.serves == Serves::Grpc, ..config.serve };
            let doorman = Doorman { plaintext: listener.plaintext, tls: certificates.clone().filter(|_| listener.tls) };
            let (member, edge, stop) = (member.clone(), config.edge.clone(), stop.clone());
            serving.push(match listener.serves {
                Serves::GrpcAndHttp => tokio::spawn(serve(socket, doorman, edge::surface(member, edge), options, stop)),
                Serves::Grpc => tokio::spawn(serve(socket, doorman, edge::grpc_surface(member, edge), options, stop)),
                Serves::Http => tokio::spawn(serve(socket, doorman, edge::http_router(member, edge), options, stop)),
                Serves::Metrics => {
                    tokio::spawn(serve(socket, doorman, edge::metrics_router(member, edge), options, stop))
                }
            });
        }
        tokio::spawn(announce(member.clone(), me, addresses));
        Ok(Self { member, name, serving, stop })
    }

    /// Serves until told to stop, or until this member was removed from its cluster; then hands leadership over, ends the
    /// connections and closes the log.
    pub async fn until(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.member.removed() => {}
        }
        tracing::info!(name = self.name, "closing etcd server");
        self.member.hand_over().await;
        self.stop.cancel();
        for serving in self.serving {
            // A task that panicked has been logged; there is nothing left to wait for.
            let _ = serving.await;
        }
        self.member.shutdown().await;
        tracing::info!(name = self.name, "closed etcd server");
    }
}

/// What the listeners with TLS show, if there are any; with `--auto-tls` it is made first.
fn certificates(config: &StoreConfig, data_dir: &Path) -> Result<Option<Arc<Certificates>>> {
    let secure: Vec<&Listener> = config.listeners.iter().filter(|listener| listener.tls).collect();
    if secure.is_empty() {
        return Ok(None);
    }
    let host = |listener: &&Listener| match &listener.address {
        Address::Tcp(address) => Some(address.ip().to_string()),
        Address::Unix(_) => None,
    };
    let mut hosts: Vec<String> = secure.iter().filter_map(host).collect();
    hosts.push("localhost".to_owned());
    let settings = tls::self_signed(&config.client_tls, &data_dir.join("fixtures/client"), &hosts)?;
    Ok(Some(Certificates::load(settings)?))
}

fn listen(address: &Address, reuse_port: bool) -> Result<Socket> {
    match address {
        Address::Tcp(address) => Socket::tcp(*address, reuse_port).map_err(|error| net::cannot_listen(*address, error)),
        Address::Unix(path) => Socket::unix(path).with_context(|| format!("cannot listen on {}", path.display())),
    }
}

fn say_serving(listener: &Listener) {
    let (traffic, address) = (listener.serves.traffic(), &listener.address);
    if listener.serves == Serves::Metrics {
        tracing::info!(%address, "serving metrics");
        return;
    }
    if listener.plaintext {
        tracing::info!(traffic, %address, "serving client traffic insecurely; this is strongly discouraged!");
    }
    if listener.tls {
        tracing::info!(traffic, %address, "serving client traffic securely");
    }
}

/// Says that clients are served once the cluster knows this member by its name: etcd's tools wait for the line.
async fn announce(member: Member, me: (String, Vec<String>), addresses: Vec<String>) {
    let mut leadership = member.leadership();
    if leadership.wait_for(|now| now.leader.is_some()).await.is_err() {
        return;
    }
    let status = member.status();
    while member.reader().member_attributes(status.id).as_ref() != Some(&me) || member.read_barrier().await.is_err() {
        tokio::time::sleep(PUBLISHED_PAUSE).await;
    }
    tracing::info!(
        "local-member-id" = %status.id,
        "cluster-id" = %status.cluster_id,
        name = me.0,
        "published local member to cluster through raft"
    );
    tracing::info!(addresses = addresses.join(","), "ready to serve client requests");
    if let Err(error) = notify::ready() {
        tracing::warn!(%error, "systemd was not told that the member is ready");
    }
}
