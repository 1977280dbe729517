//! The URLs of flags: `http://host:port`, `https://host:port`, `unix://path`, `unixs://path`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }

    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Unixs)
    }

    #[must_use]
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::Unixs)
    }
}

/// A URL of a client, a peer or a listener; it orders as its text does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// Host and port; for a unix socket everything behind the scheme.
    rest: String,
}

/// What a listening socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    /// Relative to the working directory unless it starts with a slash.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Url {
    /// # Errors
    /// In etcd's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or_else(|| text.split_once(':').unwrap_or(("", text)));
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        };
        if scheme.is_unix() {
            if rest.is_empty() {
                return Err(format!("the path of the socket is missing: {text}"));
            }
        } else {
            let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
            if split_host_port(authority).is_none() {
                return Err(format!("URL address does not have the form \"host:port\": {text}"));
            }
            if authority != rest {
                return Err(format!("URL must not contain a path: {text}"));
            }
        }
        Ok(Self { text: format!("{}://{rest}", scheme.name()), scheme, rest: rest.to_owned() })
    }

    /// A comma-separated list, sorted, each URL once. Empty text is no URL.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, String> {
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = list.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Empty for a unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        if self.scheme.is_unix() { "" } else { split_host_port(&self.rest).map_or("", |(host, _)| host) }
    }

    /// What to listen on. Only addresses and `localhost` can be listened on: what a name means may change.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn bind(&self) -> Result<Address, String> {
        if self.scheme.is_unix() {
            return Ok(Address::Unix(PathBuf::from(&self.rest)));
        }
        let (host, port) = split_host_port(&self.rest).ok_or_else(|| format!("{self} has no port"))?;
        let ip = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => host.parse().map_err(|_| format!("expected IP in URL for binding ({self})"))?,
        };
        let port = port.parse().map_err(|_| format!("{port:?} is not a port ({self})"))?;
        Ok(Address::Tcp(SocketAddr::new(ip, port)))
    }

    /// Whether both name the same endpoint, as far as can be told without asking a name server.
    #[must_use]
    pub fn is_same_endpoint(&self, other: &Self) -> bool {
        let canonical = |url: &Self| match url.scheme.is_unix() {
            true => url.rest.clone(),
            false => url.rest.replacen("localhost:", "127.0.0.1:", 1),
        };
        self.scheme == other.scheme && canonical(self) == canonical(other)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The URLs as text, in their order.
#[must_use]
pub fn strings(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// `host:port` and `[v6]:port`; the host without brackets.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_bound_to_what_it_says() {
        let bound = |text: &str| Url::parse(text).unwrap().bind().map(|address| address.to_string());
        assert_eq!(bound("http://127.0.0.1:2379"), Ok("127.0.0.1:2379".into()));
        assert_eq!(bound("https://localhost:1"), Ok("127.0.0.1:1".into()));
        assert_eq!(bound("http://[::1]:2379"), Ok("[::1]:2379".into()));
        assert_eq!(bound("unix://localhost:2379"), Ok("localhost:2379".into()));
        assert_eq!(bound("unix:///run/etcd.sock"), Ok("/run/etcd.sock".into()));
        assert_eq!(bound("unixs:etcd.sock"), Ok("etcd.sock".into()));
        assert_eq!(bound("http://example.org:1"), Err("expected IP in URL for binding (http://example.org:1)".into()));
        assert_eq!(bound("http://:1"), Err("expected IP in URL for binding (http://:1)".into()));
    }

    #[test]
    fn what_is_no_url_is_refused_in_etcds_words() {
        let refused = |text: &str| Url::parse(text).unwrap_err();
        assert_eq!(refused("127.0.0.1:1"), "URL scheme must be http, https, unix, or unixs: 127.0.0.1:1");
        assert_eq!(refused("ftp://a:1"), "URL scheme must be http, https, unix, or unixs: ftp://a:1");
        assert_eq!(refused("http://a"), "URL address does not have the form \"host:port\": http://a");
        assert_eq!(refused("http://::1:1"), "URL address does not have the form \"host:port\": http://::1:1");
        assert_eq!(refused("http://a:1/b"), "URL must not contain a path: http://a:1/b");
        assert!(refused("unix://").contains("missing"));
    }

    #[test]
    fn a_list_is_sorted_and_without_repetitions() {
        let urls = Url::parse_list("http://b:1, http://a:1,http://b:1").unwrap();
        assert_eq!(strings(&urls), ["http://a:1", "http://b:1"]);
        assert_eq!(Url::parse_list(""), Ok(Vec::new()));
        assert!(Url::parse_list("http://a:1,").is_err());
    }
}
