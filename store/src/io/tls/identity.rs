//! What a certificate says of its owner: the common name, and the names and addresses that it is for.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Owner of a verified certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) common_name: String,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

impl Owner {
    /// None for what is not a certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let mut owner = Self { common_name: common_name.unwrap_or_default().to_owned(), ..Self::default() };
        let Ok(Some(alternatives)) = parsed.subject_alternative_name() else { return Some(owner) };
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => owner.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => owner.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(owner)
    }

    /// Whether it is for `host`, a name or an address; a leading `*.` stands for one label.
    pub(super) fn is_for(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        self.dns_names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
