//! The client port: accepts connections, over TCP or a unix socket, and serves HTTP/1.1, HTTP/2 and gRPC on each.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use crate::io::network::Stream;
use crate::io::tls::{Accepted, Doorman};
use crate::limits;

/// How long open calls may take to end after [`serve`] was told to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted; the kernel refuses further ones.
const BACKLOG: u32 = 1024;

/// What an operator may set about connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// How long a connection may be silent before it is pinged, and how long the answer may take.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Calls of one connection that run at once; further ones wait at the client.
    pub concurrent_streams_max: u32,
    /// No HTTP/1.1: where HTTP has a port of its own.
    pub http2_only: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            keep_alive: Some((limits::KEEP_ALIVE_INTERVAL, limits::KEEP_ALIVE_TIMEOUT)),
            concurrent_streams_max: u32::MAX,
            http2_only: false,
        }
    }
}

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// # Errors
    /// When the address is in use, or is not this machine's.
    pub fn tcp(address: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(reuse_port)?;
        socket.bind(address)?;
        socket.listen(BACKLOG).map(Self::Tcp)
    }

    /// A socket that a process left behind is replaced; one that somebody listens on is not.
    ///
    /// # Errors
    /// When the path is in use, or cannot be made.
    pub fn unix(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        if is_socket {
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(_) => std::fs::remove_file(path)?,
            }
        }
        UnixListener::bind(path).map(Self::Unix)
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are small and complete: waiting for more to send only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
                }
                Ok((Box::new(stream), peer.to_string()))
            }
            Self::Unix(listener) => Ok((Box::new(listener.accept().await?.0), "unix".to_owned())),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(listener) = self
            && let Ok(address) = listener.local_addr()
            && let Some(path) = address.as_pathname()
        {
            // Left behind, it would be replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Serves `service` on `socket`, to whom `doorman` lets in, until `shutdown`; open calls then get two seconds to end.
pub async fn serve<S, B>(
    socket: Socket,
    doorman: Doorman,
    service: S,
    options: ServeOptions,
    shutdown: CancellationToken,
) where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<Failure>> + Send + 'static,
{
    let open = GracefulShutdown::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => {
                    let serving = connection(stream, peer, doorman.clone(), service.clone(), options, open.watcher());
                    tokio::spawn(serving);
                }
                // Out of file descriptors, mostly: other connections must end before accepting makes sense again.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(socket);
    if tokio::time::timeout(DRAIN, open.shutdown()).await.is_err() {
        tracing::debug!("some client connections did not end in time");
    }
}

type Failure = Box<dyn Error + Send + Sync>;

async fn connection<S, B>(
    stream: Box<dyn Stream>,
    peer: String,
    doorman: Doorman,
    service: S,
    options: ServeOptions,
    open: Watcher,
) where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<Failure>> + Send + 'static,
{
    let Accepted { stream, secure } = match doorman.admit(stream).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::warn!("remote-addr" = peer, %error, "rejected connection on client endpoint");
            return;
        }
    };
    let ended = match secure {
        None => drive(stream, service, options, open).await,
        Some(over) => {
            // Every request of the connection comes from the same caller.
            let service = service.map_request(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(over.clone());
                request
            });
            drive(stream, service, options, open).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "client connection ended");
    }
}

/// Serves one connection to its end.
async fn drive<S, B>(stream: Box<dyn Stream>, service: S, options: ServeOptions, open: Watcher) -> Result<(), Failure>
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<Failure>> + Send + 'static,
{
    let builder = builder(options);
    let stream = TokioIo::new(super::authority::tolerant(stream));
    let service = TowerToHyperService::new(service);
    // A connection that may be upgraded may not be bound to one version.
    match options.http2_only {
        true => open.watch(builder.http2_only().serve_connection(stream, service).into_owned()).await,
        false => open.watch(builder.serve_connection_with_upgrades(stream, service).into_owned()).await,
    }
}

fn builder(options: ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let (interval, timeout) = options.keep_alive.unzip();
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout.unwrap_or(limits::KEEP_ALIVE_TIMEOUT))
        // h2 closes connections that carry many small unread frames relative to their window.
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .max_concurrent_streams(options.concurrent_streams_max);
    builder.http1().timer(TokioTimer::new());
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("localhost:2379");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::unix(&path).unwrap();
        assert_eq!(Socket::unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "a file of somebody's").unwrap();
        assert_eq!(Socket::unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
