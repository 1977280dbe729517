//! Keys and certificates: the cluster CA shared through the store, and what each server signs with it.
//!
//! The CA and the ServiceAccount signing key live under `/kontiki/pki/`, created by whichever server comes first and read by all,
//! so that a client of one server is a client of each. They are cached in the data directory with mode 0600. Serving and
//! client certificates are made from them at each start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kontiki_api::etcdserverpb::kv_client::KvClient;
use rustls::ServerConfig;

use crate::auth::token::SigningKey;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("store: {0}")]
    Store(#[from] tonic::Status),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("tls: {0}")]
    Tls(String),
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The shared keys of a cluster.
#[derive(Debug)]
pub struct ClusterPki {}

impl ClusterPki {
    /// Reads the keys from the store, or creates them if this server is the first; caches them under `data_dir/pki`.
    pub async fn open<T>(_store: KvClient<T>, _data_dir: &Path) -> Result<Self, PkiError> {
        Err(PkiError::Tls("not here yet".to_owned()))
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        ""
    }

    /// Signs and verifies ServiceAccount tokens.
    #[must_use]
    pub fn signing_key(&self) -> Arc<SigningKey> {
        Arc::new(SigningKey {})
    }

    /// The serving certificate of an API server; the names every API server has are added to these.
    pub fn issue_server(&self, _hostnames: &[String], _addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        Err(PkiError::Tls("not here yet".to_owned()))
    }

    /// CN=kubernetes-admin, O=system:masters.
    pub fn issue_admin(&self) -> Result<Identity, PkiError> {
        Err(PkiError::Tls("not here yet".to_owned()))
    }

    /// What an API server shows to a node agent's log endpoint (and what agents trust there).
    pub fn issue_agent_client(&self) -> Result<Identity, PkiError> {
        Err(PkiError::Tls("not here yet".to_owned()))
    }

    /// CN=system:node:<name>, O=system:nodes: an agent's client certificate that also serves its log endpoint.
    pub fn issue_agent(&self, _node_name: &str, _addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        Err(PkiError::Tls("not here yet".to_owned()))
    }

    /// TLS for the API server: asks for a client certificate of the cluster CA, but serves without one too. ALPN h2, http/1.1.
    pub fn server_tls(&self, _serving: &Identity) -> Result<ServerConfig, PkiError> {
        Err(PkiError::Tls("not here yet".to_owned()))
    }

    /// A kubeconfig with everything embedded. `servers` are URLs: the first is the current context; more get contexts of
    /// their own (`kontiki-2`, …), because kubectl knows one server per cluster.
    #[must_use]
    pub fn kubeconfig(&self, _user: &str, _identity: &Identity, _servers: &[String]) -> String {
        String::new()
    }
}

/// Writes a file that only its owner reads, in place of an older one, atomically.
pub fn write_private(_path: &Path, _contents: &str) -> Result<(), PkiError> {
    Ok(())
}
