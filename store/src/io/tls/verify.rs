//! Checks of a caller's certificate beyond its chain: allowed common names and host names.
//!
//! Chain, dates and revocation are webpki's; this wraps it, so that a caller who is not allowed is told so in the handshake.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::identity::Owner;
use super::{TlsError, files, suites};
use crate::config::tls::TlsSettings;

/// Who may call; none where callers show no certificate.
pub(super) fn callers(settings: &TlsSettings) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(ca) = &settings.trusted_ca_file else {
        if settings.client_cert_auth {
            return Err(TlsError::new("callers must show a certificate, but no --trusted-ca-file says whose"));
        }
        return Ok(None);
    };
    let provider = suites::provider(settings)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(files::roots(ca)?, provider);
    if let Some(path) = &settings.crl_file {
        builder = builder
            .with_crls(files::revocations(path)?)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
    }
    let chain = builder.build().map_err(|error| TlsError::file(ca, error))?;
    let (common_names, host_names) = (settings.allowed_cn.clone(), settings.allowed_hostname.clone());
    Ok(Some(Arc::new(Callers { chain, common_names, host_names })))
}

#[derive(Debug)]
struct Callers {
    chain: Arc<dyn ClientCertVerifier>,
    /// Empty: any.
    common_names: Vec<String>,
    host_names: Vec<String>,
}

impl Callers {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.common_names.is_empty() && self.host_names.is_empty() {
            return Ok(());
        }
        let owner = Owner::of(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let is_allowed =
            self.common_names.contains(&owner.common_name) || self.host_names.iter().any(|host| owner.is_for(host));
        match is_allowed {
            true => Ok(()),
            false => Err(Error::General("client certificate authentication failed".to_owned())),
        }
    }
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
