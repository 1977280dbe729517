//! Image references: `debian`, `registry.example/team/app:1.2@sha256:…`.
//!
//! The rules are Docker's, as every Kubernetes user knows them: without a registry it is docker.io, a single name there lies
//! under `library/`, without tag and digest it is `:latest`, and a digest wins over a tag.

use std::fmt;

const DEFAULT_REGISTRY: &str = "docker.io";
/// Where docker.io's content is really served.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:<64 hex>`.
    pub digest: Option<String>,
}

impl Reference {
    /// # Errors
    /// What is wrong with it, in the words that users of other runtimes know.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(checked_digest(digest)?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[path_start..].rfind(':') {
            Some(colon) => (&rest[..path_start + colon], Some(checked_tag(&rest[path_start + colon + 1..])?)),
            None => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository =
            if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path };
        check_registry(registry)?;
        check_repository(&repository)?;
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What the registry is asked for: the digest, or the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The host (and port) to talk to.
    pub fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { &self.registry }
    }

    /// Registries on loopback addresses speak plain HTTP, as with every other runtime.
    pub fn is_loopback(&self) -> bool {
        let host = split_port(&self.registry).0.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn check_repository(repository: &str) -> Result<(), String> {
    if repository.len() > NAME_BYTES_MAX {
        return Err(format!("repository name must not be more than {NAME_BYTES_MAX} characters"));
    }
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("invalid reference format: repository name must be lowercase".to_owned());
    }
    if repository.split('/').all(is_component) { Ok(()) } else { Err("invalid reference format".to_owned()) }
}

/// Letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = |c: Option<char>| c.is_some_and(is_word);
    let is_separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.chars().all(|c| c == '-');
    ends(part.chars().next()) && ends(part.chars().last()) && part.split(is_word).all(is_separator)
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = split_port(registry);
    let label = |part: &str| {
        let inner = part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.split('.').all(label),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    if is_host && is_port { Ok(()) } else { Err("invalid reference format".to_owned()) }
}

/// The colons of an IPv6 address in brackets start no port.
fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    }
}

fn checked_tag(tag: &str) -> Result<String, String> {
    let starts = tag.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let rest = tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if starts && rest && tag.len() <= TAG_BYTES_MAX {
        Ok(tag.to_owned())
    } else {
        Err("invalid reference format".to_owned())
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub fn checked_digest(digest: &str) -> Result<String, String> {
    let hex = digest.strip_prefix("sha256:").ok_or("unsupported digest algorithm")?;
    if hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
        Ok(digest.to_owned())
    } else {
        Err("invalid checksum digest format".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let got = match Reference::parse(text) {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn references_are_completed_as_docker_does() {
        check("debian", "docker.io/library/debian:latest");
        check("debian:12", "docker.io/library/debian:12");
        check("team/app", "docker.io/team/app:latest");
        check("index.docker.io/debian", "docker.io/library/debian:latest");
        check("localhost/app", "localhost/app:latest");
        check("127.0.0.1:5000/app:v1", "127.0.0.1:5000/app:v1");
        check("[::1]:5000/app", "[::1]:5000/app:latest");
        check("[::1]/app", "[::1]/app:latest");
        check("a--b/c__d.e", "docker.io/a--b/c__d.e:latest");
        check("registry.example/a/b/c", "registry.example/a/b/c:latest");
        let digest = format!("sha256:{}", "a".repeat(64));
        check(&format!("debian@{digest}"), &format!("docker.io/library/debian@{digest}"));
        check(&format!("debian:12@{digest}"), &format!("docker.io/library/debian:12@{digest}"));
    }

    #[test]
    fn malformed_references_are_refused() {
        check("", "error: invalid reference format");
        check("Debian", "error: invalid reference format: repository name must be lowercase");
        check("debian:", "error: invalid reference format");
        check("a//b", "error: invalid reference format");
        check("debian:!", "error: invalid reference format");
        check("../etc", "error: invalid reference format");
        check("a..b", "error: invalid reference format");
        check("a___b", "error: invalid reference format");
        check("a b.example/c", "error: invalid reference format");
        check("host.example:port/c", "error: invalid reference format");
        check("[::1/c", "error: invalid reference format");
        check(" debian", "error: invalid reference format");
        check("debian@sha256:12", "error: invalid checksum digest format");
        check("debian@md5:12", "error: unsupported digest algorithm");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = format!("sha256:{}", "b".repeat(64));
        assert_eq!(Reference::parse(&format!("debian:12@{digest}")).unwrap().version(), digest);
    }

    #[test]
    fn loopback_registries_are_known() {
        for (text, loopback) in
            [("127.0.0.1:5000/a", true), ("localhost:1/a", true), ("[::1]/a", true), ("debian", false)]
        {
            assert_eq!(Reference::parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }
}
