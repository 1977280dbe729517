//! What Kubernetes' built-in admission plugins do to a new pod: ServiceAccount, Priority, DefaultTolerationSeconds.

use serde_json::{Value, json};

use crate::registry::limits::DEFAULT_TOLERATION_S;
use crate::registry::{Context, fields};
use crate::status::ApiError;

/// Whether new pods get the projected volume with their service account's token. Off until node agents mount projected
/// volumes and request tokens: a volume that nobody can mount would keep every pod from starting.
pub const MOUNTS_SERVICE_ACCOUNT_TOKEN: bool = false;

const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The two classes that exist without an object.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// Fills a defaulted pod on create, or refuses it.
pub fn admit(pod: &mut Value, ctx: &Context) -> Result<(), ApiError> {
    priority(pod)?;
    let Some(spec) = fields::object_mut(pod, "spec") else { return Ok(()) };
    fields::set_default_zero(spec, "serviceAccountName", "default");
    let account = spec["serviceAccountName"].clone();
    fields::set_default_zero(spec, "serviceAccount", account);
    default_tolerations(spec);
    if MOUNTS_SERVICE_ACCOUNT_TOKEN && spec.get("automountServiceAccountToken") != Some(&Value::Bool(false)) {
        mount_token(spec, &ctx.name_suffix);
    }
    Ok(())
}

fn priority(pod: &mut Value) -> Result<(), ApiError> {
    let name = fields::text(pod, "/metadata/name").to_owned();
    let class = fields::text(pod, "/spec/priorityClassName").to_owned();
    let forbidden = |why: &str| Err(ApiError::forbidden("", "pods", &name, why));
    let value = match SYSTEM_CLASSES.iter().find(|(system, _)| *system == class) {
        Some((_, value)) => *value,
        None if class.is_empty() => 0,
        None => return forbidden(&format!("no PriorityClass with name {class} was found")),
    };
    if let Some(given) = fields::integer(pod, "/spec/priority")
        && given != value
    {
        return forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(spec) = fields::object_mut(pod, "spec") {
        spec["priority"] = value.into();
        fields::set_default_zero(spec, "preemptionPolicy", "PreemptLowerPriority");
    }
    Ok(())
}

/// A pod that does not say otherwise stays five minutes on a node that is not ready or unreachable.
fn default_tolerations(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            let (its_key, effect) = (fields::text(toleration, "/key"), fields::text(toleration, "/effect"));
            (its_key == key || its_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        if fields::items(spec, "/tolerations").iter().any(covers) {
            continue;
        }
        let toleration = json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEFAULT_TOLERATION_S,
        });
        fields::set_default(spec, "tolerations", Value::Array(Vec::new()));
        if let Some(tolerations) = spec["tolerations"].as_array_mut() {
            tolerations.push(toleration);
        }
    }
}

/// The volume `kube-api-access-…` and its mount in every container that mounts nothing else there.
pub fn mount_token(spec: &mut Value, suffix: &str) {
    let name = format!("kube-api-access-{suffix}");
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in fields::items_mut(spec, list) {
            let taken = fields::items(container, "/volumeMounts").iter().any(|m| m["mountPath"] == TOKEN_MOUNT_PATH);
            fields::set_default(container, "volumeMounts", Value::Array(Vec::new()));
            if !taken && let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_MOUNT_PATH}));
                mounted = true;
            }
        }
    }
    if !mounted {
        return;
    }
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let certificate = json!({"key": "ca.crt", "path": "ca.crt"});
    let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [certificate]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}});
    fields::set_default(spec, "volumes", Value::Array(Vec::new()));
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(volume);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{context, object, yaml};

    fn admitted(pod: &str) -> String {
        let mut pod = object(pod);
        admit(&mut pod, &context()).map_or_else(|e| format!("{} {}", e.code, e.message), |()| yaml(&pod["spec"]))
    }

    #[test]
    fn a_pod_gets_account_priority_and_tolerations() {
        expect![[r#"
            priority: 0
            preemptionPolicy: PreemptLowerPriority
            serviceAccountName: default
            serviceAccount: default
            tolerations:
            - key: node.kubernetes.io/not-ready
              operator: Exists
              effect: NoExecute
              tolerationSeconds: 300
            - key: node.kubernetes.io/unreachable
              operator: Exists
              effect: NoExecute
              tolerationSeconds: 300
        "#]]
        .assert_eq(&admitted("{spec: {}}"));
    }

    #[test]
    fn a_pod_that_tolerates_everything_gets_no_toleration() {
        expect![[r#"
            priorityClassName: system-node-critical
            serviceAccountName: robot
            tolerations:
            - operator: Exists
            priority: 2000001000
            preemptionPolicy: PreemptLowerPriority
            serviceAccount: robot
        "#]].assert_eq(&admitted(
            "{spec: {priorityClassName: system-node-critical, serviceAccountName: robot, tolerations: [{operator: Exists}]}}",
        ));
    }

    #[test]
    fn an_unknown_class_or_an_own_priority_is_refused() {
        expect![[r#"403 pods "p" is forbidden: no PriorityClass with name gold was found"#]]
            .assert_eq(&admitted("{metadata: {name: p}, spec: {priorityClassName: gold}}"));
        expect![[r#"403 pods "p" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"#]].assert_eq(&admitted("{metadata: {name: p}, spec: {priority: 7}}"));
    }

    #[test]
    fn the_token_volume_is_mounted_where_nothing_else_is() {
        let mut spec = object(
            "{containers: [{name: a}, {name: b, volumeMounts:
              [{name: v, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}]}",
        );
        mount_token(&mut spec, "x7k2p");
        expect![[r#"
            containers:
            - name: a
              volumeMounts:
              - name: kube-api-access-x7k2p
                readOnly: true
                mountPath: /var/run/secrets/kubernetes.io/serviceaccount
            - name: b
              volumeMounts:
              - name: v
                mountPath: /var/run/secrets/kubernetes.io/serviceaccount
            volumes:
            - name: kube-api-access-x7k2p
              projected:
                defaultMode: 420
                sources:
                - serviceAccountToken:
                    expirationSeconds: 3607
                    path: token
                - configMap:
                    name: kube-root-ca.crt
                    items:
                    - key: ca.crt
                      path: ca.crt
                - downwardAPI:
                    items:
                    - path: namespace
                      fieldRef:
                        apiVersion: v1
                        fieldPath: metadata.namespace
        "#]]
        .assert_eq(&yaml(&spec));
    }
}
