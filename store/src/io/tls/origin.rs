//! Whether a caller calls from where its certificate says that its owner is: etcd's check of members' certificates.
//!
//! A certificate that names neither addresses nor hosts says nothing about it. A name holds when it leads to the caller's
//! address, or the address to the name; a wildcard leads nowhere, so that only the second can tell.

use std::future::Future;
use std::io;
use std::net::IpAddr;

use super::identity::Owner;
use crate::io::network::resolve;

/// What is asked about names and addresses.
pub(super) trait Directory: Sync {
    fn has(&self, name: &str, address: IpAddr) -> impl Future<Output = bool> + Send;
    /// The name of an address.
    fn name_of(&self, address: IpAddr) -> impl Future<Output = Option<String>> + Send;
}

/// The machine's resolver.
pub(super) struct Resolver;

impl Directory for Resolver {
    async fn has(&self, name: &str, address: IpAddr) -> bool {
        resolve(name).await.is_ok_and(|found| found.contains(&address))
    }

    async fn name_of(&self, address: IpAddr) -> Option<String> {
        // Fails only when the runtime is on its way down.
        tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address).ok()).await.ok().flatten()
    }
}

/// # Errors
/// `PermissionDenied` when the owner is elsewhere.
pub(super) async fn check(owner: &Owner, from: IpAddr, directory: &impl Directory) -> io::Result<()> {
    let Owner { addresses, dns_names, .. } = owner;
    if (addresses.is_empty() && dns_names.is_empty()) || addresses.contains(&from) {
        return Ok(());
    }
    for name in dns_names.iter().filter(|name| !name.starts_with("*.")) {
        if directory.has(name, from).await {
            return Ok(());
        }
    }
    if !dns_names.is_empty()
        && let Some(found) = directory.name_of(from).await
        && dns_names.iter().any(|name| covers(name, &found))
    {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("tls: {from:?} does not match any of DNSNames {dns_names:?} or {addresses:?}"),
    ))
}

/// As etcd has it, a wildcard stands for any number of labels here.
fn covers(name: &str, found: &str) -> bool {
    let (name, found) = (name.to_ascii_lowercase(), found.trim_end_matches('.').to_ascii_lowercase());
    match name.strip_prefix('*').filter(|domain| domain.starts_with('.')) {
        Some(domain) => found.len() > domain.len() && found.ends_with(domain),
        None => name == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of a name and its address, in one direction or the other.
    struct Pages {
        forward: &'static [(&'static str, &'static str)],
        reverse: &'static [(&'static str, &'static str)],
    }

    impl Directory for Pages {
        async fn has(&self, name: &str, address: IpAddr) -> bool {
            self.forward.contains(&(name, address.to_string().as_str()))
        }

        async fn name_of(&self, address: IpAddr) -> Option<String> {
            let found = self.reverse.iter().find(|(_, listed)| *listed == address.to_string());
            found.map(|(name, _)| (*name).to_owned())
        }
    }

    const PAGES: Pages = Pages {
        forward: &[("a.example.org", "10.0.0.1")],
        reverse: &[("B.example.org.", "10.0.0.2"), ("c.z1.example.org", "10.0.0.3"), ("badexample.org", "10.0.0.4")],
    };

    async fn check(dns_names: &[&str], addresses: &[&str], from: &str) -> bool {
        let owner = Owner {
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..Owner::default()
        };
        super::check(&owner, from.parse().unwrap(), &PAGES).await.is_ok()
    }

    #[tokio::test]
    async fn a_name_leads_to_the_caller_or_the_caller_to_the_name() {
        assert!(check(&[], &[], "10.0.0.9").await);
        assert!(check(&[], &["10.0.0.9"], "10.0.0.9").await && !check(&[], &["10.0.0.9"], "10.0.0.8").await);
        assert!(check(&["x", "a.example.org"], &[], "10.0.0.1").await);
        assert!(check(&["b.example.org"], &["10.0.0.9"], "10.0.0.2").await);
        assert!(!check(&["a.example.org", "b.example.org"], &[], "10.0.0.3").await);
    }

    #[tokio::test]
    async fn a_wildcard_covers_the_names_of_its_domain() {
        for from in ["10.0.0.2", "10.0.0.3"] {
            assert!(check(&["*.example.org"], &[], from).await, "{from}");
        }
        for from in ["10.0.0.1", "10.0.0.4", "10.0.0.5"] {
            assert!(!check(&["*.example.org"], &[], from).await, "{from}");
        }
        assert!(!check(&["*", "*example.org"], &[], "10.0.0.4").await);
    }
}
