//! Protocol versions and cipher suites, from their names in Go to those of this library.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite as suite};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use super::TlsError;
use crate::config::tls::{TlsSettings, TlsVersion};

/// Suites before TLS 1.3, which etcd lets operators choose from; those of 1.3 are always on, as in Go.
const CHOSEN: [(&str, SupportedCipherSuite); 8] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The cryptography, with the suites that `settings` leave.
pub(super) fn provider(settings: &TlsSettings) -> Result<Arc<CryptoProvider>, TlsError> {
    let mut provider = ring::default_provider();
    if settings.cipher_suites.is_empty() {
        return Ok(Arc::new(provider));
    }
    let chosen = |name: &String| CHOSEN.iter().find(|(known, _)| known == name).map(|(_, suite)| *suite);
    let suites: Vec<SupportedCipherSuite> = settings.cipher_suites.iter().filter_map(chosen).collect();
    if suites.is_empty() && settings.max_version == Some(TlsVersion::V1_2) {
        let named = settings.cipher_suites.join(",");
        return Err(TlsError::new(format!("--cipher-suites: none of {named} is safe enough to be offered")));
    }
    provider.cipher_suites.retain(|suite| suite.tls13().is_some() || suites.contains(suite));
    Ok(Arc::new(provider))
}

pub(super) fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V1_2, &version::TLS12), (TlsVersion::V1_3, &version::TLS13)];
    let is_allowed = |offered: TlsVersion| {
        settings.min_version.is_none_or(|min| offered >= min) && settings.max_version.is_none_or(|max| offered <= max)
    };
    all.into_iter().filter(|(offered, _)| is_allowed(*offered)).map(|(_, version)| version).collect()
}
