//! What the flags say about TLS, towards clients and towards other members. Files are named here, and read by the edge.

use std::path::PathBuf;

use super::ConfigError;
use super::values::Values;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// One side's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub trusted_ca_file: Option<PathBuf>,
    /// Callers must show a certificate.
    pub client_cert_auth: bool,
    /// The certificate of outgoing connections, where it is not `cert_file`.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    /// Empty: any.
    pub allowed_cn: Vec<String>,
    pub allowed_hostname: Vec<String>,
    /// Make a certificate where no file is named.
    pub auto_tls: bool,
    pub skip_client_san_verification: bool,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    /// By their names in Go, each of them known; empty: all good ones.
    pub cipher_suites: Vec<String>,
    pub self_signed_cert_validity_years: u64,
}

impl TlsSettings {
    /// # Errors
    /// A version or cipher suite that does not exist, or half of a pair of files.
    pub fn client(values: &Values) -> Result<Self, ConfigError> {
        Self::from_values(values, "", "client-cert-allowed-cn", "client-cert-allowed-hostname", "client-crl-file")
    }

    /// # Errors
    /// As [`Self::client`].
    pub fn peer(values: &Values) -> Result<Self, ConfigError> {
        Self::from_values(values, "peer-", "peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-crl-file")
    }

    fn from_values(values: &Values, prefix: &str, cn: &str, hostname: &str, crl: &str) -> Result<Self, ConfigError> {
        let named = |name: &str| format!("{prefix}{name}");
        let file = |name: &str| path(values, &named(name));
        let skip =
            if prefix.is_empty() { "client-skip-client-san-verification" } else { "peer-skip-client-san-verification" };
        let settings = Self {
            cert_file: file("cert-file"),
            key_file: file("key-file"),
            trusted_ca_file: file("trusted-ca-file"),
            client_cert_auth: values.bool(&named("client-cert-auth")),
            client_cert_file: file("client-cert-file"),
            client_key_file: file("client-key-file"),
            crl_file: path(values, crl),
            allowed_cn: values.list(cn),
            allowed_hostname: values.list(hostname),
            auto_tls: values.bool(&named("auto-tls")),
            skip_client_san_verification: values.bool(skip),
            min_version: version(values, "tls-min-version")?,
            max_version: version(values, "tls-max-version")?,
            cipher_suites: cipher_suites(values)?,
            self_signed_cert_validity_years: values.unsigned("self-signed-cert-validity").max(1),
        };
        settings.check(prefix)?;
        Ok(settings)
    }

    fn check(&self, prefix: &str) -> Result<(), ConfigError> {
        let pair = |cert: &Option<PathBuf>, key: &Option<PathBuf>, of: &str| {
            if cert.is_some() == key.is_some() {
                return Ok(());
            }
            Err(ConfigError(format!("--{prefix}{of}key-file and --{prefix}{of}cert-file must both be present")))
        };
        pair(&self.cert_file, &self.key_file, "")?;
        pair(&self.client_cert_file, &self.client_key_file, "client-")?;
        if let (Some(min), Some(max)) = (self.min_version, self.max_version)
            && min > max
        {
            return Err(ConfigError(format!(
                "min version ({}) is greater than max version ({})",
                version_name(min),
                version_name(max)
            )));
        }
        if self.min_version == Some(TlsVersion::V1_3) && !self.cipher_suites.is_empty() {
            return Err(ConfigError("cipher suites cannot be configured when only TLS1.3 is enabled".into()));
        }
        Ok(())
    }

    /// Whether there is, or will be, a certificate to serve TLS with.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.cert_file.is_some() || self.auto_tls
    }
}

fn path(values: &Values, name: &str) -> Option<PathBuf> {
    let text = values.text(name);
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn version(values: &Values, flag: &str) -> Result<Option<TlsVersion>, ConfigError> {
    match values.text(flag) {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::V1_2)),
        "TLS1.3" => Ok(Some(TlsVersion::V1_3)),
        other => Err(ConfigError(format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"))),
    }
}

fn version_name(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_2 => "TLS1.2",
        TlsVersion::V1_3 => "TLS1.3",
    }
}

fn cipher_suites(values: &Values) -> Result<Vec<String>, ConfigError> {
    let suites = values.list("cipher-suites");
    match suites.iter().find(|suite| !CIPHER_SUITES.contains(&suite.as_str())) {
        Some(unknown) => Err(ConfigError(format!("unexpected TLS cipher suite {unknown:?}"))),
        None => Ok(suites),
    }
}

/// The names that Go knows, with those that it counts as insecure, and etcd's two short ones.
const CIPHER_SUITES: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];
