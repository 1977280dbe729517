//! Byte streams between members: TCP in production, with TLS on it in [`super::tls`], anything in a test.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A connected, ordered byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// How members reach each other.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Connects to a peer URL: `http://host:port`, or `https` where there is TLS.
    async fn connect(&self, url: &str) -> io::Result<Box<dyn Stream>>;
    /// Listens on `address`; port 0 takes a free one.
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// Accepts what [`Network::connect`] connects.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)>;
    fn address(&self) -> io::Result<SocketAddr>;
}

/// Plain TCP without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Tcp {
    #[must_use]
    pub fn shared() -> Arc<dyn Network> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Network for Tcp {
    async fn connect(&self, url: &str) -> io::Result<Box<dyn Stream>> {
        if url.starts_with("https://") {
            return Err(io::Error::other("this member has no certificate to call https members with"));
        }
        let stream = TcpStream::connect(host_port(url)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        let (stream, from) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), from.to_string()))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// The addresses that a host name stands for.
///
/// # Errors
/// When nobody knows the name.
pub async fn resolve(name: &str) -> io::Result<BTreeSet<IpAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

/// `host:port` of a peer URL.
pub(super) fn host_port(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/')
}
