//! Between members: TCP as it is for `http`, TLS on it for `https`, both ways.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::identity::Owner;
use super::{Certificates, TlsError, files, origin, suites};
use crate::config::tls::TlsSettings;
use crate::io::network::{Listener, Network, Stream, Tcp, host_port};

/// How this member calls others; none where it has nothing to trust them by.
pub(super) fn config(settings: &TlsSettings) -> Result<Option<ClientConfig>, TlsError> {
    let provider = suites::provider(settings)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&suites::versions(settings))
        .map_err(|error| TlsError::new(error.to_string()))?;
    let builder = match &settings.trusted_ca_file {
        Some(ca) => builder.with_root_certificates(files::roots(ca)?),
        // Everybody made a certificate of their own: there is nobody to vouch for them.
        None if settings.auto_tls => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }))
        }
        None => return Ok(None),
    };
    let own = match (&settings.client_cert_file, &settings.client_key_file) {
        (Some(cert), Some(key)) => Some((cert, key)),
        _ => settings.cert_file.as_ref().zip(settings.key_file.as_ref()),
    };
    let Some((cert, key)) = own else { return Ok(Some(builder.with_no_client_auth())) };
    let files::Pair { chain, key: private } = files::pair(cert, key)?;
    let config = builder.with_client_auth_cert(chain, private).map_err(|error| TlsError::file(cert, error))?;
    Ok(Some(config))
}

/// The network of a member with TLS.
pub struct SecureTcp {
    certificates: Arc<Certificates>,
}

impl SecureTcp {
    #[must_use]
    pub fn shared(certificates: Arc<Certificates>) -> Arc<dyn Network> {
        Arc::new(Self { certificates })
    }
}

#[async_trait]
impl Network for SecureTcp {
    async fn connect(&self, url: &str) -> io::Result<Box<dyn Stream>> {
        if !url.starts_with("https://") {
            return Tcp.connect(url).await;
        }
        let address = host_port(url);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.certificates.client().ok_or_else(|| {
            io::Error::other("an https member needs --peer-trusted-ca-file, or --peer-auto-tls, to be trusted")
        })?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let listener = TcpListener::bind(address).await?;
        Ok(Box::new(SecureListener { listener, certificates: self.certificates.clone() }))
    }
}

struct SecureListener {
    listener: TcpListener,
    certificates: Arc<Certificates>,
}

#[async_trait]
impl Listener for SecureListener {
    /// The handshake happens when the stream is first used, so that a slow caller keeps nobody else waiting.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        let (stream, from) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let certificates = self.certificates.clone();
        let handshake = async move {
            let stream = TlsAcceptor::from(certificates.server()).accept(stream).await?;
            if !certificates.settings.skip_client_san_verification {
                check_origin(&stream, from.ip()).await?;
            }
            Ok(stream)
        };
        Ok((Box::new(Handshaking::Under(Box::pin(handshake))), from.to_string()))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A member's certificate must be for where it calls from.
async fn check_origin(stream: &server::TlsStream<TcpStream>, from: IpAddr) -> io::Result<()> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match certificate.and_then(Owner::of) {
        Some(owner) => origin::check(&owner, from.to_canonical(), &origin::Resolver).await,
        None => Ok(()),
    }
}

type Handshake = Pin<Box<dyn Future<Output = io::Result<server::TlsStream<TcpStream>>> + Send>>;

/// An accepted stream, before and after its handshake.
enum Handshaking {
    Under(Handshake),
    Done(Box<server::TlsStream<TcpStream>>),
}

impl Handshaking {
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut server::TlsStream<TcpStream>>>> {
        if let Self::Under(handshake) = self {
            match ready!(handshake.as_mut().poll(cx)) {
                Ok(stream) => *self = Self::Done(Box::new(stream)),
                Err(error) => {
                    tracing::warn!(%error, "rejected connection on peer endpoint");
                    let again = io::Error::new(error.kind(), error.to_string());
                    *self = Self::Under(Box::pin(std::future::ready(Err(again))));
                    return Poll::Ready(Err(error));
                }
            }
        }
        match self {
            Self::Done(stream) => Poll::Ready(Ok(Pin::new(&mut **stream))),
            Self::Under(_) => unreachable!("a handshake that was done above"),
        }
    }
}

impl AsyncRead for Handshaking {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_done(cx))?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Handshaking {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_done(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_done(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_done(cx))?.poll_shutdown(cx)
    }
}

/// Trusts whoever answers; the connection is still encrypted.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
