//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::AgentError;
use crate::limits::PODS_MAX_DEFAULT;

#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The name of this machine's Node object.
    pub node_name: String,
    /// What must outlive a reboot: pod volumes, images, logs. `pods/`, `logs/` and `scratch/` are made below it.
    pub data_dir: PathBuf,
    /// On a tmpfs: the runtime's sockets and journals.
    pub run_dir: PathBuf,
    /// Below each cgroup hierarchy's root, e.g. `kontiki/node-1`.
    pub cgroup_parent: PathBuf,
    pub cluster: ClusterAccess,
    /// Where logs are served. Port 0 takes any free port; the Node object says which.
    pub listen: SocketAddr,
    /// The address that API servers reach this agent by, the Node's InternalIP.
    pub address: IpAddr,
    /// The node's bridge, at most 15 bytes.
    pub bridge: String,
    /// Instead of the Node's `spec.podCIDR`.
    pub pod_cidr: Option<String>,
    /// Without: pods that ask for cluster DNS get the node's resolv.conf.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub capacity: CapacityOverrides,
    /// Labels of the Node object besides the usual ones.
    pub labels: BTreeMap<String, String>,
    pub lease_renew_interval: Duration,
    pub status_interval: Duration,
    /// The program to start as shim with its first arguments; `None` is this program.
    pub shim_command: Option<Vec<String>>,
}

/// What the machine is said to have, where that is not what it has.
#[derive(Debug, Clone, Copy, Default)]
pub struct CapacityOverrides {
    pub cpu_milli: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub pods: Option<u32>,
}

impl AgentConfig {
    /// Usual values for a node of this name; the coordinates of the machine are the caller's.
    pub fn new(
        node_name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
        cluster: ClusterAccess,
    ) -> Self {
        let node_name = node_name.into();
        Self {
            cgroup_parent: Path::new("kontiki").join(&node_name),
            data_dir: data_dir.into(),
            run_dir: run_dir.into(),
            cluster,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            address: IpAddr::from([127, 0, 0, 1]),
            bridge: "kontiki0".to_owned(),
            pod_cidr: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            capacity: CapacityOverrides { pods: Some(PODS_MAX_DEFAULT), ..CapacityOverrides::default() },
            labels: BTreeMap::new(),
            lease_renew_interval: Duration::from_secs(10),
            status_interval: Duration::from_secs(300),
            shim_command: None,
            node_name,
        }
    }
}

/// How to reach the cluster, and the identity this agent serves with.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// One per API server, tried in turn: the next one is used at once when a connection fails.
    pub servers: Vec<kube::Config>,
    /// PEM. The certificate that the log server shows, its key, and the authority that its clients must be signed by.
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    pub client_authority: Vec<u8>,
}

impl ClusterAccess {
    /// Every cluster entry of the file is an API server of the same cluster; the current context's user is the identity.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, AgentError> {
        let wrong = |what: String| AgentError::Config { what: format!("{}: {what}", path.display()) };
        let file = Kubeconfig::read_from(path).map_err(|error| wrong(error.to_string()))?;
        let context_name = file.current_context.clone();
        let context =
            file.contexts.iter().find(|context| Some(&context.name) == context_name.as_ref()).or(file.contexts.first());
        let context =
            context.and_then(|context| context.context.clone()).ok_or_else(|| wrong("no context".to_owned()))?;
        let mut names: Vec<String> = file.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        // The current one first, so that a client starts with the nearest server.
        names.sort_by_key(|name| *name != context.cluster);
        let mut servers = Vec::with_capacity(names.len());
        for name in names {
            let options =
                KubeConfigOptions { context: context_name.clone(), cluster: Some(name), user: context.user.clone() };
            servers.push(
                kube::Config::from_custom_kubeconfig(file.clone(), &options)
                    .await
                    .map_err(|error| wrong(error.to_string()))?,
            );
        }
        let user = file
            .auth_infos
            .iter()
            .find(|user| Some(&user.name) == context.user.as_ref())
            .and_then(|user| user.auth_info.clone());
        let user = user.ok_or_else(|| wrong("the context's user is not in the file".to_owned()))?;
        let fields = serde_json::to_value(&user).map_err(|error| wrong(error.to_string()))?;
        let client_authority =
            servers.first().and_then(|server| server.root_cert.as_ref()).map(|chain| pem("CERTIFICATE", chain));
        Ok(Self {
            servers,
            certificate: material(&fields, "client-certificate").map_err(wrong)?,
            key: material(&fields, "client-key").map_err(wrong)?,
            client_authority: client_authority.ok_or_else(|| wrong("no certificate authority".to_owned()))?,
        })
    }
}

/// A kubeconfig's `<name>-data` (base64) or `<name>` (a path), as PEM.
fn material(user: &serde_json::Value, name: &str) -> Result<Vec<u8>, String> {
    if let Some(data) = user.get(format!("{name}-data")).and_then(serde_json::Value::as_str) {
        return base64::engine::general_purpose::STANDARD.decode(data).map_err(|error| format!("{name}-data: {error}"));
    }
    let path = user.get(name).and_then(serde_json::Value::as_str).ok_or_else(|| format!("no {name}"))?;
    std::fs::read(path).map_err(|error| format!("{path}: {error}"))
}

fn pem(label: &str, ders: &[Vec<u8>]) -> Vec<u8> {
    let mut out = String::new();
    for der in ders {
        out.push_str(&format!("-----BEGIN {label}-----\n"));
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str(&format!("-----END {label}-----\n"));
    }
    out.into_bytes()
}
