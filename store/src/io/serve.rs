//! The client port: accepts connections and serves HTTP/1.1, HTTP/2 and gRPC on each.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::limits;

/// How long open calls may take to end after [`serve`] was told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves `router` on `listener` until `shutdown`; open calls then get two seconds to end.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let open = GracefulShutdown::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connection(stream, peer, router.clone(), &open),
                // Out of file descriptors, mostly: other connections must end before accepting makes sense again.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, open.shutdown()).await.is_err() {
        tracing::debug!("some client connections did not end in time");
    }
}

fn connection(stream: TcpStream, peer: SocketAddr, router: Router, open: &GracefulShutdown) {
    // Answers are small and complete: waiting for more to send only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(limits::KEEP_ALIVE_INTERVAL))
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT)
        // h2 closes connections that carry many small unread frames relative to their window.
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .max_concurrent_streams(None);
    builder.http1().timer(TokioTimer::new());
    let stream = TokioIo::new(super::authority::tolerant(stream));
    let serving = builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(router));
    let serving = open.watch(serving.into_owned());
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::debug!(%peer, %error, "client connection ended");
        }
    });
}
