//! What every cluster has: its keys, a few namespaces, the Service `default/kubernetes` with the addresses of the servers that live.
//!
//! Everything here may run on all servers at once and again and again: objects are created if absent, and the addresses are
//! worked out from what each server says about itself under a key that vanishes with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{Api, Place};
use super::etcd::Storage;
use super::pki::{ClusterPki, PkiError};
use crate::engine::Target;
use crate::limits;
use crate::registry::{Kind, Ranges, User, find};
use crate::status::ApiError;

/// Where the servers of the cluster say that they live.
const SERVERS: &str = "/kontiki/servers/";

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The cluster's keys; waits for a store that has no leader yet.
///
/// # Errors
/// When it is not the store's fault.
pub async fn open_pki(storage: &Storage, data_dir: &Path) -> Result<ClusterPki, PkiError> {
    loop {
        match ClusterPki::open(storage.kv(), data_dir).await {
            Err(PkiError::Store(status)) => {
                tracing::info!(%status, "waiting for the store");
                storage.leave_current_endpoint();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// The cluster IP of `default/kubernetes`: the first of the range.
#[must_use]
pub fn kubernetes_service_ip(ranges: &Ranges) -> Ipv4Addr {
    let (base, _) = ranges.service_cidr;
    Ipv4Addr::from(u32::from(base) + 1)
}

/// Creates what is missing, and keeps the servers' addresses true until `shutdown`.
pub async fn keep_cluster_objects(api: Api, address: SocketAddr, shutdown: CancellationToken) {
    let mut pause = Duration::from_millis(20);
    let work = async {
        while let Err(error) = create_objects(&api, address.port()).await {
            tracing::debug!(%error, "the cluster's own objects cannot be written yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        loop {
            if let Err(error) = keep_address(&api, address).await {
                tracing::debug!(%error, "the servers' addresses cannot be kept");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Drops history that is older than an interval, for as long as this server leads.
pub async fn compact_history(storage: &Storage, term: &CancellationToken) {
    let mut before = None;
    loop {
        if let Ok(revision) = storage.revision().await
            && let Some(before) = before.replace(revision)
            && let Err(failure) = storage.compact(before).await
        {
            tracing::debug!(%failure, "the store's history cannot be compacted");
        }
        tokio::select! {
            () = term.cancelled() => return,
            () = tokio::time::sleep(limits::COMPACTION_INTERVAL) => {}
        }
    }
}

fn system() -> User {
    User { name: "system:kontiki".into(), groups: vec![crate::auth::MASTERS.to_owned()] }
}

async fn create_objects(api: &Api, port: u16) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let namespace = json!({"metadata": {"name": name}});
        create_if_absent(api, "namespaces", None, namespace).await?;
    }
    let service = json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": kubernetes_service_ip(api.ranges()).to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    create_if_absent(api, "services", Some("default"), service).await
}

fn served(resource: &str) -> Result<&'static Kind, ApiError> {
    find("", "v1", resource).ok_or_else(|| ApiError::internal(format!("{resource} are not served")))
}

async fn create_if_absent(api: &Api, resource: &str, namespace: Option<&str>, object: Value) -> Result<(), ApiError> {
    match api.create(served(resource)?, namespace, object, &system(), false).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Says that this server lives, and writes the addresses of all that do into `endpoints/kubernetes`.
async fn keep_address(api: &Api, address: SocketAddr) -> Result<(), ApiError> {
    let storage = api.storage();
    let key = format!("{SERVERS}{address}");
    let (present, _) = storage.get(key.clone()).await?;
    let expected = present.map_or(0, |stored| stored.mod_revision);
    storage.update(key, address.to_string(), expected, limits::SERVER_ADDRESS_TTL_S).await?;
    let page = storage.range(SERVERS, SERVERS, 0, 0).await?;
    let mut servers: Vec<SocketAddr> =
        page.items.iter().filter_map(|stored| std::str::from_utf8(&stored.value).ok()?.parse().ok()).collect();
    servers.sort_unstable();
    let subsets = subsets(&servers);
    let kind = served("endpoints")?;
    let place = Place { kind, namespace: Some("default"), name: "kubernetes" };
    let edit = |old: &Value, _: &crate::registry::Context| {
        let mut new = old.clone();
        new["subsets"] = subsets.clone();
        Ok(new)
    };
    match api.modify(place, Target::Main, &system(), false, edit).await {
        Err(error) if error.code == 404 => {
            let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
            let metadata = json!({"name": "kubernetes", "namespace": "default", "labels": labels});
            let endpoints = json!({"metadata": metadata, "subsets": subsets});
            create_if_absent(api, "endpoints", Some("default"), endpoints).await
        }
        other => other.map(|_| ()),
    }
}

/// One subset per port: servers on one machine differ in their ports.
fn subsets(servers: &[SocketAddr]) -> Value {
    let mut ports: Vec<u16> = servers.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let subset = |port: u16| {
        let addresses: Vec<Value> = servers
            .iter()
            .filter(|server| server.port() == port)
            .map(|server| json!({"ip": server.ip().to_string()}))
            .collect();
        json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
    };
    Value::Array(ports.into_iter().map(subset).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_share_a_machine_get_a_subset_each() {
        let servers: Vec<SocketAddr> = ["127.0.0.1:6443", "127.0.0.1:6444"].map(|a| a.parse().unwrap()).into();
        let subsets = subsets(&servers);
        assert_eq!(subsets.as_array().unwrap().len(), 2);
        assert_eq!(subsets[1]["ports"][0]["port"], 6444);
    }
}
