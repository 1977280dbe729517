//! Connections: TCP, TLS, HTTP/1.1 and HTTP/2, and their end.

use std::sync::Arc;

use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{HttpServer, Peer};
use crate::limits;

impl HttpServer {
    /// Serves HTTPS until `shutdown`, then lets open requests finish for a moment.
    pub async fn serve(self, listener: TcpListener, tls: Arc<ServerConfig>, shutdown: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        let graceful = Arc::new(GracefulShutdown::new());
        let connections = tokio_util::task::TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = connection(self.clone(), acceptor.clone(), stream, graceful.clone());
                    connections.spawn(connection);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the next accept would fail at once, too.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        connections.close();
        if let Ok(graceful) = Arc::try_unwrap(graceful) {
            let _ = tokio::time::timeout(limits::DRAIN_TIMEOUT, graceful.shutdown()).await;
        } else {
            let _ = tokio::time::timeout(limits::DRAIN_TIMEOUT, connections.wait()).await;
        }
    }
}

async fn connection(server: HttpServer, acceptor: TlsAcceptor, stream: TcpStream, graceful: Arc<GracefulShutdown>) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(limits::TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let peer = Peer::Tls(Arc::new(certificates));
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(server.handle(request.map(Body::new), peer).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let watched = graceful.watcher().watch(connection.into_owned());
    drop(graceful);
    if let Err(error) = watched.await {
        tracing::debug!(%error, "a connection ended");
    }
}
