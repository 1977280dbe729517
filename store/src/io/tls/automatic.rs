//! `--auto-tls`: a certificate of one's own, made at the first start and kept.

use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::TlsError;
use crate::config::tls::TlsSettings;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// `settings` with a certificate for `hosts` under `dir`, made there unless one is kept already.
///
/// # Errors
/// When the directory cannot be written, or a host is no name.
pub fn self_signed(settings: &TlsSettings, dir: &Path, hosts: &[String]) -> Result<TlsSettings, TlsError> {
    if !settings.auto_tls || settings.cert_file.is_some() {
        return Ok(settings.clone());
    }
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if !cert.is_file() || !key.is_file() {
        make(&cert, &key, hosts, settings.self_signed_cert_validity_years)?;
        tracing::info!(cert = %cert.display(), "made a self-signed certificate");
    }
    Ok(TlsSettings { cert_file: Some(cert), key_file: Some(key), ..settings.clone() })
}

fn make(cert: &Path, key: &Path, hosts: &[String], years: u64) -> Result<(), TlsError> {
    let failed = |error: rcgen::Error| TlsError::new(format!("cannot make a certificate: {error}"));
    let mut params = CertificateParams::new(hosts).map_err(failed)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = std::time::SystemTime::now().into();
    let years = u32::try_from(years).unwrap_or(u32::MAX).min(100);
    params.not_after = (std::time::SystemTime::now() + YEAR * years).into();
    let pair = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&pair).map_err(failed)?;
    let dir = cert.parent().expect("a file in a directory");
    std::fs::create_dir_all(dir).map_err(|error| TlsError::file(dir, error))?;
    write_private(key, &pair.serialize_pem())?;
    std::fs::write(cert, certificate.pem()).map_err(|error| TlsError::file(cert, error))
}

fn write_private(path: &Path, text: &str) -> Result<(), TlsError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| TlsError::file(path, error))
}
