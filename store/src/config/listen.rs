//! From URLs to listening sockets: which there are, and what each of them serves.
//!
//! An address that is given with http and with https is one socket that serves both.

use super::ConfigError;
use super::tls::TlsSettings;
use super::url::{Address, Url};

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    GrpcAndHttp,
    Grpc,
    Http,
    /// Metrics and health alone.
    Metrics,
}

impl Serves {
    /// As etcd's log has it.
    #[must_use]
    pub fn traffic(self) -> &'static str {
        match self {
            Self::GrpcAndHttp => "grpc+http",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Metrics => "metrics",
        }
    }
}

/// A socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: Address,
    pub plaintext: bool,
    pub tls: bool,
    pub serves: Serves,
}

/// The sockets of clients.
///
/// # Errors
/// When an address cannot be listened on, has no certificate, or is asked to serve both HTTP alone and gRPC.
pub fn clients(all: &[Url], http: &[Url], tls: &TlsSettings) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners: Vec<Listener> = Vec::new();
    let split = !http.is_empty();
    let all = all.iter().map(|url| (url, if split { Serves::Grpc } else { Serves::GrpcAndHttp }));
    for (url, serves) in all.chain(http.iter().map(|url| (url, Serves::Http))) {
        if url.scheme().is_secure() && !tls.can_serve() {
            return Err(ConfigError(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            )));
        }
        if let Some(other) = add(&mut listeners, url, serves)? {
            debug_assert_ne!(other, serves);
            return Err(ConfigError(format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
            )));
        }
    }
    Ok(listeners)
}

/// The sockets of metrics.
///
/// # Errors
/// When an address cannot be listened on, or has no certificate.
pub fn metrics(urls: &[Url], tls: &TlsSettings) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners = Vec::new();
    for url in urls {
        if url.scheme().is_secure() && !tls.can_serve() {
            return Err(ConfigError(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url".into(),
            ));
        }
        add(&mut listeners, url, Serves::Metrics)?;
    }
    Ok(listeners)
}

/// Adds a URL to the listener of its address; answers what that serves already if it is something else.
fn add(listeners: &mut Vec<Listener>, url: &Url, serves: Serves) -> Result<Option<Serves>, ConfigError> {
    let address = url.bind().map_err(ConfigError)?;
    let secure = url.scheme().is_secure();
    match listeners.iter_mut().find(|listener| listener.address == address) {
        Some(listener) if listener.serves != serves => return Ok(Some(listener.serves)),
        Some(listener) => {
            listener.plaintext |= !secure;
            listener.tls |= secure;
        }
        None => listeners.push(Listener { address, plaintext: !secure, tls: secure, serves }),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_certificate() -> TlsSettings {
        TlsSettings { cert_file: Some("a.crt".into()), key_file: Some("a.key".into()), ..Default::default() }
    }

    fn sockets(all: &str, http: &str, tls: &TlsSettings) -> Result<Vec<String>, String> {
        let listeners = clients(&Url::parse_list(all)?, &Url::parse_list(http)?, tls).map_err(|e| e.to_string())?;
        let line = |l: &Listener| format!("{} {} plain={} tls={}", l.address, l.serves.traffic(), l.plaintext, l.tls);
        Ok(listeners.iter().map(line).collect())
    }

    #[test]
    fn http_and_https_on_one_address_are_one_socket() {
        let got = sockets("http://localhost:1,https://127.0.0.1:1,unix://a:1", "", &with_certificate()).unwrap();
        assert_eq!(got, ["127.0.0.1:1 grpc+http plain=true tls=true", "a:1 grpc+http plain=true tls=false"]);
    }

    #[test]
    fn http_moves_to_its_own_sockets_where_there_are_any() {
        let got = sockets("http://127.0.0.1:1", "http://127.0.0.1:2", &TlsSettings::default()).unwrap();
        assert_eq!(got, ["127.0.0.1:1 grpc plain=true tls=false", "127.0.0.1:2 http plain=true tls=false"]);
        let same = sockets("http://127.0.0.1:1", "http://127.0.0.1:1", &TlsSettings::default()).unwrap_err();
        assert!(same.contains("on the same url http://127.0.0.1:1"), "{same}");
    }

    #[test]
    fn https_needs_a_certificate_or_leave_to_make_one() {
        let none = sockets("https://127.0.0.1:1", "", &TlsSettings::default()).unwrap_err();
        assert!(none.contains("must be provided for client url https://127.0.0.1:1"), "{none}");
        assert!(sockets("https://127.0.0.1:1", "", &TlsSettings { auto_tls: true, ..Default::default() }).is_ok());
        let urls = Url::parse_list("https://127.0.0.1:1").unwrap();
        let none = metrics(&urls, &TlsSettings::default()).unwrap_err().to_string();
        assert_eq!(none, "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url");
        assert_eq!(metrics(&urls, &with_certificate()).unwrap()[0].serves, Serves::Metrics);
    }
}
