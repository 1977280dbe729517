//! Keys and certificates: the cluster CA shared through the store, and what each server signs with it.
//!
//! The CA and the ServiceAccount signing key live under `/kontiki/pki/`, created by whichever server comes first and read by all,
//! so that a client of one server is a client of each. They are cached in the data directory with mode 0600; a fresh store is
//! seeded from that cache, so that credentials survive the loss of a store. Serving and client certificates are signed with them
//! at each start and are per server.

mod cluster_keys;
mod kubeconfig;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use kontiki_api::etcdserverpb::kv_client::KvClient;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};

use crate::auth::token::SigningKey;
use crate::auth::{Authenticator, MASTERS, NODES};
use cluster_keys::ClusterKeys;

pub use kubeconfig::{kubeconfig, write_private};

/// The first address of the service network: `default/kubernetes`.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("store: {0}")]
    Store(#[from] tonic::Status),
    #[error("store: {0} is missing or not text")]
    Incomplete(&'static str),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("pem: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    #[error("tls: {0}")]
    ClientVerifier(#[from] rustls::server::VerifierBuilderError),
    #[error(transparent)]
    SigningKey(#[from] crate::auth::token::KeyError),
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
pub struct ClusterPki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    signing_key: Arc<SigningKey>,
}

impl ClusterPki {
    /// Reads the keys from the store, or creates them if this server is the first; caches them under `data_dir/pki`.
    pub async fn open<T>(store: KvClient<T>, data_dir: &Path) -> Result<Self, PkiError>
    where
        T: GrpcService<Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    {
        let cache = data_dir.join("pki");
        let proposal = match ClusterKeys::cached(&cache)? {
            Some(keys) => keys,
            None => new_keys()?,
        };
        let keys = proposal.agree(store).await?;
        keys.cache(&cache)?;
        Self::from_keys(keys)
    }

    fn from_keys(keys: ClusterKeys) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(&keys.ca_cert, KeyPair::from_pem(&keys.ca_key)?)?;
        let signing_key = Arc::new(SigningKey::from_pem(&keys.service_account_key)?);
        Ok(Self { ca_pem: keys.ca_cert, issuer, signing_key })
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Signs and verifies ServiceAccount tokens.
    #[must_use]
    pub fn signing_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.signing_key)
    }

    /// Tells who asks, by these keys.
    #[must_use]
    pub fn authenticator(&self) -> Authenticator {
        Authenticator::new(self.signing_key())
    }

    /// The serving certificate of an API server; the names every API server has are added to these.
    pub fn issue_server(&self, hostnames: &[String], addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        let own = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut names: Vec<String> = own.iter().map(|name| (*name).to_owned()).collect();
        names.push("kubernetes.default.svc.cluster.local".to_owned());
        names.extend(hostnames.iter().cloned());
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), SERVICE_ADDRESS];
        let all: Vec<IpAddr> = loopback.iter().chain(addresses).copied().collect();
        self.issue("kube-apiserver", &[], &names, &all, &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// CN=kubernetes-admin, O=system:masters.
    pub fn issue_admin(&self) -> Result<Identity, PkiError> {
        self.issue("kubernetes-admin", &[MASTERS], &[], &[], &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// What an API server shows to a node agent's log endpoint; agents trust [`AGENT_CLIENT_NAME`] there.
    pub fn issue_agent_client(&self) -> Result<Identity, PkiError> {
        self.issue(AGENT_CLIENT_NAME, &[MASTERS], &[], &[], &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// `CN=system:node:NAME, O=system:nodes`: an agent's client certificate that also serves its log endpoint.
    pub fn issue_agent(&self, node_name: &str, addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        let usages = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let names = [node_name.to_owned(), "localhost".to_owned()];
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let all: Vec<IpAddr> = loopback.iter().chain(addresses).copied().collect();
        self.issue(&format!("system:node:{node_name}"), &[NODES], &names, &all, &usages)
    }

    /// The kubeconfig of a node agent, for `kontiki dev`: whoever has the CA may add a node.
    pub fn agent_kubeconfig(
        &self,
        node_name: &str,
        addresses: &[IpAddr],
        servers: &[String],
    ) -> Result<String, PkiError> {
        let identity = self.issue_agent(node_name, addresses)?;
        Ok(kubeconfig(&self.ca_pem, &format!("system:node:{node_name}"), &identity, servers))
    }

    /// The kubeconfig of the cluster's administrator.
    pub fn admin_kubeconfig(&self, servers: &[String]) -> Result<String, PkiError> {
        Ok(kubeconfig(&self.ca_pem, "kubernetes-admin", &self.issue_admin()?, servers))
    }

    /// TLS for the API server: asks for a client certificate of the cluster CA, but serves without one too. ALPN h2, http/1.1.
    pub fn server_tls(&self, serving: &Identity) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(serving)?, key(serving)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(tls)
    }

    /// TLS from this server to another part of the cluster, with a client certificate.
    pub fn client_tls(&self, identity: &Identity) -> Result<ClientConfig, PkiError> {
        Ok(ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain(identity)?, key(identity)?)?)
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?)?;
        Ok(roots)
    }

    fn issue(
        &self,
        name: &str,
        groups: &[&str],
        dns_names: &[String],
        addresses: &[IpAddr],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Identity, PkiError> {
        let mut params = params(name, groups, LEAF_YEARS);
        // A host may have a name that no certificate can carry; it then is reached by its address.
        params.subject_alt_names =
            dns_names.iter().filter_map(|name| name.as_str().try_into().ok().map(SanType::DnsName)).collect();
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// The common name of the certificate that API servers show to node agents.
pub const AGENT_CLIENT_NAME: &str = "kube-apiserver-kubelet-client";

fn new_keys() -> Result<ClusterKeys, PkiError> {
    let ca_key = KeyPair::generate()?;
    let mut params = params("kontiki-ca", &[], CA_YEARS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(ClusterKeys {
        ca_cert: params.self_signed(&ca_key)?.pem(),
        ca_key: ca_key.serialize_pem(),
        service_account_key: KeyPair::generate()?.serialize_pem(),
    })
}

/// Valid from yesterday (clocks differ) for some years.
fn params(name: &str, groups: &[&str], years: i16) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    let today = Timestamp::try_from(SystemTime::now()).unwrap_or_default().to_zoned(TimeZone::UTC).date();
    let yesterday = today.yesterday().unwrap_or(today);
    let day = |year: i16, date: k8s_openapi::jiff::civil::Date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs().min(28));
        rcgen::date_time_ymd(i32::from(year), month, day)
    };
    params.not_before = day(yesterday.year(), yesterday);
    params.not_after = day(today.year() + years, today);
    params
}

fn chain(identity: &Identity) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    Ok(CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<_, _>>()?)
}

fn key(identity: &Identity) -> Result<PrivateKeyDer<'static>, PkiError> {
    Ok(PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?)
}

#[cfg(test)]
mod tests;
