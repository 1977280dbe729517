//! The accepting side: plaintext and TLS on one socket, told apart by the first byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

use super::identity::Owner;
use super::{Certificates, TlsError, files, suites, verify};
use crate::config::tls::TlsSettings;
use crate::io::network::Stream;
use crate::limits::TLS_HANDSHAKE_TIMEOUT;

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

pub(super) fn config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let (Some(cert), Some(key)) = (&settings.cert_file, &settings.key_file) else {
        return Err(TlsError::new("TLS is served with a certificate and a key: --cert-file, --key-file"));
    };
    let files::Pair { chain, key: private } = files::pair(cert, key)?;
    let builder = ServerConfig::builder_with_provider(suites::provider(settings)?)
        .with_protocol_versions(&suites::versions(settings))
        .map_err(|error| TlsError::new(error.to_string()))?;
    let builder = match verify::callers(settings)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| TlsError::file(cert, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Lets connections in: which kinds, and with which certificate.
#[derive(Clone)]
pub struct Doorman {
    pub plaintext: bool,
    pub tls: Option<Arc<Certificates>>,
}

/// A connection that was let in.
pub struct Accepted {
    pub stream: Box<dyn Stream>,
    /// What a TLS connection says of its caller.
    pub secure: Option<OverTls>,
}

/// An extension of every request that came over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverTls {
    /// Of the caller's certificate, where callers must show one.
    pub common_name: Option<String>,
}

impl Doorman {
    /// Only plaintext: what needs no looking.
    #[must_use]
    pub fn plaintext() -> Self {
        Self { plaintext: true, tls: None }
    }

    /// # Errors
    /// A handshake that fails or takes too long, or a kind of connection that is not served here.
    pub async fn admit(&self, stream: Box<dyn Stream>) -> io::Result<Accepted> {
        let Some(certificates) = &self.tls else { return Ok(Accepted { stream, secure: None }) };
        let refused = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        let admitting = async {
            let stream = Peeked::first(stream).await?;
            if stream.byte == Some(HANDSHAKE) {
                return handshake(certificates, stream).await;
            }
            match self.plaintext {
                true => Ok(Accepted { stream: Box::new(stream), secure: None }),
                false => Err(refused("first record does not look like a TLS handshake")),
            }
        };
        tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, admitting).await.map_err(|_| refused("TLS handshake timeout"))?
    }
}

async fn handshake(certificates: &Certificates, stream: Peeked) -> io::Result<Accepted> {
    let stream = TlsAcceptor::from(certificates.server()).accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let common_name = certificate.and_then(Owner::of).map(|owner| owner.common_name);
    let common_name = common_name.filter(|_| certificates.settings.client_cert_auth);
    Ok(Accepted { stream: Box::new(stream), secure: Some(OverTls { common_name }) })
}

/// A stream whose first byte was read ahead.
struct Peeked {
    /// Given out first; none at the end of a stream that said nothing.
    byte: Option<u8>,
    is_given: bool,
    stream: Box<dyn Stream>,
}

impl Peeked {
    async fn first(mut stream: Box<dyn Stream>) -> io::Result<Self> {
        let mut byte = [0];
        let read = stream.read(&mut byte).await?;
        Ok(Self { byte: (read == 1).then_some(byte[0]), is_given: read == 0, stream })
    }
}

impl AsyncRead for Peeked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let (Some(byte), false) = (self.byte, self.is_given) {
            if buffer.remaining() > 0 {
                buffer.put_slice(&[byte]);
                self.is_given = true;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Peeked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
