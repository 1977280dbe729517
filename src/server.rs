//! `kontiki server`: a store member with the control plane embedded.
//!
//! The member runs on a thread of its own, so that encoding a large list never delays a heartbeat. The control plane reaches
//! it through the same gRPC services that remote clients use, without a socket in between.

use anyhow::{Context, Result};
use kontiki_control::io::etcd::Storage;
use kontiki_store::config::{StoreConfig, StoreSettings};
use kontiki_store::edge;
use kontiki_store::member::Member;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{control, logging, net, signals, store};

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    #[command(flatten)]
    store: store::Flags,
    #[command(flatten)]
    control: control::Settings,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut notices = Vec::new();
    let settings = store::settle(arguments.store.0.clone(), &mut notices)?;
    match ["log-format", "log-outputs"].iter().any(|flag| settings.given.contains(flag)) {
        true => logging::etcd(&settings.logs)?,
        false => logging::text(settings.values().text("log-level"))?,
    }
    store::tell(&notices);
    if arguments.control.end_with_parent {
        signals::end_with_parent()?;
    }
    let data_dir = settings.data_dir.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        let stop_store = CancellationToken::new();
        let edge_config = StoreConfig::new(&settings)?.edge;
        let (member, store_thread) = start_store(settings, stop_store.clone()).await?;
        let storage = Storage::new(edge::embedded(member.clone(), edge_config));
        let (leaving, shutdown_too) = (member.clone(), shutdown.clone());
        tokio::spawn(async move {
            // Without its member there is nothing to serve from.
            leaving.removed().await;
            shutdown_too.cancel();
        });
        let served = arguments.control.serve(&data_dir, storage, leads(&member), shutdown).await;
        stop_store.cancel();
        tokio::task::spawn_blocking(move || store_thread.join())
            .await
            .context("waiting for the store's thread")?
            .map_err(|_| anyhow::anyhow!("the store's thread panicked"))?;
        served
    })
}

/// Starts the member on its own thread; returns when its log is recovered and its ports listen.
async fn start_store(
    settings: StoreSettings,
    stop: CancellationToken,
) -> Result<(Member, std::thread::JoinHandle<()>)> {
    let (started, starting) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || {
            let run = async {
                match store::Running::start(&settings).await {
                    Ok(running) => {
                        // The receiver waits below for as long as this thread lives.
                        let _ = started.send(Ok(running.member.clone()));
                        running.until(stop).await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            };
            match net::current_thread() {
                Ok(runtime) => runtime.block_on(run),
                Err(error) => tracing::error!("{error:#}"),
            }
        })
        .context("cannot start the store's thread")?;
    let member = starting.await.context("the store's thread ended while it started")??;
    Ok((member, thread))
}

/// Whether this member leads, as the control plane wants to know it.
fn leads(member: &Member) -> watch::Receiver<bool> {
    let mut leadership = member.leadership();
    let (sender, receiver) = watch::channel(leadership.borrow().is_self);
    tokio::spawn(async move {
        while leadership.changed().await.is_ok() {
            let is_self = leadership.borrow_and_update().is_self;
            sender.send_if_modified(|now| std::mem::replace(now, is_self) != is_self);
        }
    });
    receiver
}
