//! Names and addresses as a pod sees them: its hostname, `/etc/hosts` and `/etc/resolv.conf`, as text.

use k8s_openapi::api::core::v1::PodSpec;

use crate::limits::{HOSTNAME_BYTES_MAX, NAMESERVERS_MAX, SEARCH_CHARS_MAX, SEARCH_DOMAINS_MAX};

/// The node's part of name resolution.
#[derive(Debug, Clone, Default)]
pub struct NodeNames {
    pub hostname: String,
    /// The text of the node's own files, for host network and `dnsPolicy: Default`.
    pub hosts: String,
    pub resolv_conf: String,
    /// No address: no cluster DNS runs, and ClusterFirst falls back to the node's file.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
}

/// The hostname and, with a subdomain, the fully qualified name.
pub fn names(spec: &PodSpec, pod_name: &str, namespace: &str, node: &NodeNames) -> (String, Option<String>) {
    if spec.host_network == Some(true) {
        return (node.hostname.clone(), None);
    }
    let wanted = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod_name);
    let cut: String = wanted.chars().take(HOSTNAME_BYTES_MAX).collect();
    let short = cut.trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty());
    let full = subdomain.map(|subdomain| format!("{short}.{subdomain}.{namespace}.svc.{}", node.cluster_domain));
    match (&full, spec.set_hostname_as_fqdn) {
        (Some(fqdn), Some(true)) => (fqdn.clone(), full),
        _ => (short, full),
    }
}

/// `/etc/hosts`.
pub fn hosts(spec: &PodSpec, ips: &[String], short: &str, full: Option<&str>, node: &NodeNames) -> String {
    let mut out = if spec.host_network == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{}", node.hosts)
    } else {
        let mut out = "# Kubernetes-managed hosts file.\n\
            127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\n\
            fe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\n\
            fe00::2\tip6-allrouters\n"
            .to_owned();
        for ip in ips {
            match full.filter(|full| *full != short) {
                Some(full) => out.push_str(&format!("{ip}\t{full}\t{short}\n")),
                None => out.push_str(&format!("{ip}\t{short}\n")),
            }
        }
        out
    };
    let aliases = spec.host_aliases.iter().flatten();
    let lines: Vec<String> = aliases
        .map(|alias| {
            format!("{}\t{}\n", alias.ip, alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t"))
        })
        .collect();
    if !lines.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        lines.iter().for_each(|line| out.push_str(line));
    }
    out
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// `/etc/resolv.conf` for the pod's `dnsPolicy` and `dnsConfig`.
pub fn resolv_conf(spec: &PodSpec, namespace: &str, node: &NodeNames) -> String {
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        _ if cluster_first && !node.cluster_dns.is_empty() => cluster_resolver(namespace, node),
        _ => parse(&node.resolv_conf),
    };
    if let Some(config) = &spec.dns_config {
        append_new(&mut resolver.nameservers, config.nameservers.iter().flatten());
        append_new(&mut resolver.searches, config.searches.iter().flatten());
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            resolver.options.retain(|existing| existing.split(':').next() != Some(name));
            resolver
                .options
                .push(option.value.as_ref().map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")));
        }
    }
    text(resolver)
}

fn cluster_resolver(namespace: &str, node: &NodeNames) -> Resolver {
    let domain = &node.cluster_domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    append_new(&mut searches, parse(&node.resolv_conf).searches.iter());
    Resolver { nameservers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn parse(resolv_conf: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    resolver
}

fn append_new<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Written with the limits of libc's resolver applied, as the kubelet does.
fn text(mut resolver: Resolver) -> String {
    resolver.nameservers.truncate(NAMESERVERS_MAX);
    resolver.searches.truncate(SEARCH_DOMAINS_MAX);
    while resolver.searches.join(" ").len() > SEARCH_CHARS_MAX {
        resolver.searches.pop();
    }
    let mut out = String::new();
    if !resolver.searches.is_empty() {
        out.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for nameserver in &resolver.nameservers {
        out.push_str(&format!("nameserver {nameserver}\n"));
    }
    if !resolver.options.is_empty() {
        out.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        let mut value = value;
        value["containers"] = json!([]);
        serde_json::from_value(value).unwrap()
    }

    fn node() -> NodeNames {
        NodeNames {
            hostname: "node-1".into(),
            hosts: "127.0.0.1 localhost node-1\n".into(),
            resolv_conf: "# local\nsearch example.org\nnameserver 192.0.2.53\noptions edns0\n".into(),
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
        }
    }

    #[test]
    fn the_hostname_is_the_pod_name_cut_to_fit() {
        assert_eq!(names(&spec(json!({})), "web-0", "ns", &node()).0, "web-0");
        assert_eq!(names(&spec(json!({"hostname": "h"})), "web-0", "ns", &node()).0, "h");
        assert_eq!(names(&spec(json!({"hostNetwork": true})), "web-0", "ns", &node()).0, "node-1");
        let long = format!("{}-b", "a".repeat(62));
        assert_eq!(names(&spec(json!({})), &long, "ns", &node()).0, "a".repeat(62));
        let (short, full) = names(&spec(json!({"subdomain": "s"})), "web-0", "ns", &node());
        assert_eq!((short.as_str(), full.as_deref()), ("web-0", Some("web-0.s.ns.svc.cluster.local")));
    }

    #[test]
    fn the_hosts_file() {
        let spec = spec(json!({"hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
        let text = hosts(&spec, &["10.1.0.2".into()], "web-0", Some("web-0.s.ns.svc.cluster.local"), &node());
        expect![[r#"
            # Kubernetes-managed hosts file.
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::0	ip6-localnet
            fe00::0	ip6-mcastprefix
            fe00::1	ip6-allnodes
            fe00::2	ip6-allrouters
            10.1.0.2	web-0.s.ns.svc.cluster.local	web-0

            # Entries added by HostAliases.
            192.0.2.9	a	b
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn dns_policies() {
        let of = |value| resolv_conf(&spec(value), "ns", &node());
        expect![[r#"
            search ns.svc.cluster.local svc.cluster.local cluster.local example.org
            nameserver 10.96.0.10
            options ndots:5
        "#]]
        .assert_eq(&of(json!({})));
        expect![[r#"
            search example.org
            nameserver 192.0.2.53
            options edns0
        "#]]
        .assert_eq(&of(json!({"dnsPolicy": "Default"})));
        assert_eq!(of(json!({"hostNetwork": true})), of(json!({"dnsPolicy": "Default"})));
        assert_eq!(of(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})), of(json!({})));
        expect![[r#"
            search a.b
            nameserver 192.0.2.1
            options ndots:2
        "#]]
        .assert_eq(&of(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}})));
    }
}
