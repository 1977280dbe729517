//! Byte streams between members: TCP in production, anything in a test. TLS will be another implementation.

use std::io;
use std::net::SocketAddr;
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
    /// Connects to `address` (`host:port`).
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>>;
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
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
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
