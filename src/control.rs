//! `kontiki control`: the control plane alone, against any etcd v3.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kontiki_control::io::etcd::Storage;
use kontiki_control::server::{ControlConfig, ControlPlane};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{kubeconfig, logging, signals};

/// What the control plane is told, embedded or alone.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Settings {
    /// Where the Kubernetes API is served (HTTPS).
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub api_listen: SocketAddr,
    /// Where clients reach this API server, separated by commas [default: --api-listen].
    #[arg(long, value_delimiter = ',')]
    pub api_advertise: Vec<SocketAddr>,
    /// Write an administrator's kubeconfig here once the API is served.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Seconds without a heartbeat after which a node counts as lost.
    #[arg(long, default_value_t = 40)]
    pub node_grace: u64,
    /// Seconds that pods stay on a lost node when they do not say themselves [default: Kubernetes' 300].
    #[arg(long)]
    pub unreachable_toleration: Option<i64>,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    pub end_with_parent: bool,
}

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    /// The store's client URLs, separated by commas: Kontiki's or etcd's.
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    etcd_servers: String,
    /// Keys and certificates of this server.
    #[arg(long, default_value = "/var/lib/kontiki/control")]
    data_dir: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// debug, info, warn or error.
    #[arg(long, default_value = "info")]
    log_level: String,
}

impl Settings {
    pub fn config(&self, data_dir: &Path) -> ControlConfig {
        let mut config = ControlConfig::new(self.api_listen, data_dir.join("control"));
        config.advertise.clone_from(&self.api_advertise);
        config.controllers.node_grace = Duration::from_secs(self.node_grace);
        config.controllers.unreachable_toleration_s = self.unreachable_toleration;
        if self.unreachable_toleration.is_some() {
            config.controllers.force_remove_after = Some(Duration::from_secs(self.node_grace));
        }
        config
    }

    /// Serves until told to stop.
    pub async fn serve(
        &self,
        data_dir: &Path,
        storage: Storage,
        leads: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let running = tokio::select! {
            running = ControlPlane::start(self.config(data_dir), storage, leads) => running.context("control plane")?,
            () = shutdown.cancelled() => return Ok(()),
        };
        if let Some(path) = &self.kubeconfig {
            let address = self.api_advertise.first().copied().unwrap_or(running.address());
            kubeconfig::write_admin(running.pki(), &[format!("https://{address}")], path)?;
        }
        shutdown.cancelled().await;
        running.shutdown().await;
        Ok(())
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    logging::text(&arguments.log_level)?;
    if arguments.settings.end_with_parent {
        signals::end_with_parent()?;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        let endpoints: Vec<String> = arguments.etcd_servers.split(',').map(|url| url.trim().to_owned()).collect();
        let storage = Storage::connect(&endpoints).context("--etcd-servers")?;
        // Nobody else runs controllers against this store, as far as this process can know: writes are guarded anyway.
        let (_always, leads) = watch::channel(true);
        arguments.settings.serve(&arguments.data_dir, storage, leads, shutdown).await
    })
}
