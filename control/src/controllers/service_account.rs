//! ServiceAccount: every living namespace has an account `default` and the cluster's certificate authority.

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::ControllersConfig;
use super::action::{Action, Attempt, Key, Plan, Resource, Step};
use super::cluster::{Changed, Cluster, ROOT_CA};
use super::controller::Controller;
use super::meta::{self, Object};

/// The controller of `default` ServiceAccounts and `kube-root-ca.crt`.
#[derive(Debug)]
pub struct ServiceAccounts {
    root_ca_pem: String,
}

impl ServiceAccounts {
    #[must_use]
    pub fn new(config: &ControllersConfig) -> Self {
        Self { root_ca_pem: config.root_ca_pem.clone() }
    }
}

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "service-account"
    }

    fn touched(&self, _cluster: &Cluster, changed: &Changed, keys: &mut Vec<Key>) {
        match changed {
            Changed::Namespace(change) => keys.push(change.object().key()),
            Changed::ServiceAccount(change) if change.object().name() == "default" => {
                keys.push(Key::cluster(change.object().namespace()));
            }
            Changed::RootCa(change) => keys.push(Key::cluster(change.object().namespace())),
            _ => {}
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key, _attempt: &Attempt, _now: Timestamp) -> Plan {
        let namespace = key.name.as_str();
        let mut plan = Plan::nothing();
        if cluster.namespaces.get(key).is_none_or(|n| n.is_terminating()) {
            return plan;
        }
        let mut steps: Vec<Step> = Vec::new();
        if cluster.service_accounts.get(&Key::new(namespace, "default")).is_none() {
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
            steps.push(
                Action::Create { resource: Resource::SERVICE_ACCOUNT, namespace: namespace.into(), object }.into(),
            );
        }
        steps.extend(self.publish(cluster, namespace));
        plan.then(steps);
        plan
    }
}

impl ServiceAccounts {
    fn publish(&self, cluster: &Cluster, namespace: &str) -> Option<Step> {
        if self.root_ca_pem.is_empty() {
            return None;
        }
        let data = json!({"ca.crt": self.root_ca_pem});
        match cluster.root_cas.get(&Key::new(namespace, ROOT_CA)) {
            None => {
                let metadata = json!({
                    "name": ROOT_CA,
                    "namespace": namespace,
                    "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the \
                        kube-apiserver when using internal endpoints such as the internal service IP or \
                        kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."},
                });
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
                Some(Action::Create { resource: Resource::CONFIG_MAP, namespace: namespace.into(), object }.into())
            }
            Some(known) if known.data.as_ref().and_then(|d| d.get("ca.crt")) != Some(&self.root_ca_pem) => {
                let patch = meta::guarded(known.as_ref(), json!({"data": data}));
                Some(
                    Action::Patch {
                        target: meta::target(&Resource::CONFIG_MAP, known.as_ref()),
                        subresource: None,
                        patch,
                    }
                    .into(),
                )
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::cluster::fixture::now;

    fn created(cluster: &Cluster, namespace: &str) -> Vec<String> {
        let controller = ServiceAccounts { root_ca_pem: "PEM".into() };
        let plan = controller.reconcile(cluster, &Key::cluster(namespace), &Attempt::default(), now());
        let names = plan.actions().map(|action| match action {
            Action::Create { object, .. } => format!("create {}", object["metadata"]["name"].as_str().unwrap()),
            Action::Patch { target, .. } => format!("patch {}", target.key),
            other => panic!("unexpected {other:?}"),
        });
        names.collect()
    }

    #[test]
    fn a_new_namespace_gets_both() {
        let cluster = Cluster::default().with([json!({"kind": "Namespace", "metadata": {"name": "a"}})]);
        assert_eq!(created(&cluster, "a"), ["create default", "create kube-root-ca.crt"]);
    }

    #[test]
    fn a_dying_namespace_gets_nothing() {
        let metadata = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let cluster = Cluster::default().with([json!({"kind": "Namespace", "metadata": metadata})]);
        assert!(created(&cluster, "a").is_empty() && created(&cluster, "absent").is_empty());
    }

    #[test]
    fn another_authority_is_replaced_and_the_right_one_left_alone() {
        let ca = |pem: &str| json!({"kind": "ConfigMap", "metadata": {"name": ROOT_CA, "namespace": "a"}, "data": {"ca.crt": pem}});
        let account = json!({"kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "a"}});
        let namespace = json!({"kind": "Namespace", "metadata": {"name": "a"}});
        let cluster = Cluster::default().with([namespace.clone(), account.clone(), ca("OLD")]);
        assert_eq!(created(&cluster, "a"), ["patch a/kube-root-ca.crt"]);
        let cluster = Cluster::default().with([namespace, account, ca("PEM")]);
        assert!(created(&cluster, "a").is_empty());
    }
}
