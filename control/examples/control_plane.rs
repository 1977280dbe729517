//! A control plane against any etcd: `control_plane <etcd endpoint> <listen address> <data directory>`; writes `kubeconfig` there.

#![allow(clippy::disallowed_methods, reason = "the whole of it is an edge")]

use std::path::PathBuf;

use kontiki_control::io::etcd::Storage;
use kontiki_control::server::{ControlConfig, ControlPlane};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("missing argument: {what}"));
    let (etcd, listen, data_dir) = (next("etcd endpoint")?, next("listen address")?, next("data directory")?);
    let data_dir = PathBuf::from(data_dir);
    let (_leader, leadership) = tokio::sync::watch::channel(true);
    let config = ControlConfig::new(listen.parse()?, &data_dir);
    let running = ControlPlane::start(config, Storage::connect(&[etcd])?, leadership).await?;
    let kubeconfig = running.admin_kubeconfig(&[format!("https://{}", running.address())])?;
    std::fs::write(data_dir.join("kubeconfig"), kubeconfig)?;
    println!("https://{}", running.address());
    tokio::signal::ctrl_c().await?;
    running.shutdown().await;
    Ok(())
}
