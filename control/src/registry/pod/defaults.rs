//! Defaults of pod specifications: what users of kubectl and clients with nil pointers rely on being filled.

use serde_json::{Value, json};

use crate::registry::fields::{items_mut, object_mut, set_default, set_default_zero};
use crate::registry::{fields, quantity};

/// Defaults of a pod's specification, also inside the templates of ReplicationControllers and Jobs.
pub fn pod_spec(spec: &mut Value) {
    set_default_zero(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default_zero(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "securityContext", json!({}));
    set_default_zero(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    let host_network = fields::flag(spec, "/hostNetwork");
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for item in items_mut(spec, list) {
            container(item, host_network);
        }
    }
    for item in items_mut(spec, "volumes") {
        volume(item);
    }
}

/// Defaults of pods alone: templates keep these open.
pub fn pod_only(spec: &mut Value) {
    set_default(spec, "enableServiceLinks", true);
    for list in ["initContainers", "containers"] {
        for item in items_mut(spec, list) {
            requests_from_limits(item);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`: both are served, the new one rules.
fn service_account(spec: &mut Value) {
    let name = match fields::text(spec, "/serviceAccountName") {
        "" => fields::text(spec, "/serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !name.is_empty() {
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.into();
    }
}

fn container(container: &mut Value, host_network: bool) {
    let policy = if is_latest(fields::text(container, "/image")) { "Always" } else { "IfNotPresent" };
    set_default_zero(container, "imagePullPolicy", policy);
    set_default_zero(container, "terminationMessagePath", "/dev/termination-log");
    set_default_zero(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    for list in ["limits", "requests"] {
        quantity::canonicalise_list(container["resources"].get_mut(list));
    }
    for port in items_mut(container, "ports") {
        set_default_zero(port, "protocol", "TCP");
        if host_network {
            let same = port.get("containerPort").cloned().unwrap_or(Value::Null);
            set_default_zero(port, "hostPort", same);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(field_ref) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default_zero(field_ref, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(item) = container.get_mut(name).filter(|probe| probe.is_object()) {
            probe(item);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(action) = container.pointer_mut(hook) {
            http_get(action);
        }
    }
}

fn probe(probe: &mut Value) {
    set_default_zero(probe, "timeoutSeconds", 1);
    set_default_zero(probe, "periodSeconds", 10);
    set_default_zero(probe, "successThreshold", 1);
    set_default_zero(probe, "failureThreshold", 3);
    if let Some(action) = probe.get_mut("httpGet") {
        http_get(action);
    }
    if let Some(action) = probe.get_mut("grpc") {
        set_default(action, "service", "");
    }
}

fn http_get(action: &mut Value) {
    set_default_zero(action, "path", "/");
    set_default_zero(action, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object() else { return };
    if map.iter().all(|(key, source)| key == "name" || source.is_null()) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|s| s.is_object()) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = volume.get_mut("hostPath").filter(|s| s.is_object()) {
        set_default(source, "type", "");
    }
    if let Some(source) = volume.get_mut("downwardAPI") {
        downward_items(source);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|s| s.is_object()) {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(source) = source.get_mut("downwardAPI") {
                downward_items(source);
            }
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in items_mut(source, "items") {
        if let Some(field_ref) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
            set_default_zero(field_ref, "apiVersion", "v1");
        }
    }
}

/// A limit without a request is also the request.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let Some(requests) = object_mut(&mut container["resources"], "requests") else { return };
    for (name, limit) in limits {
        set_default(requests, &name, limit);
    }
}

/// Whether an image reference means the moving tag: `:latest`, or neither tag nor digest.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    match (name.split_once('@'), name.split_once(':')) {
        (Some((before, _)), _) => before.ends_with(":latest"),
        (None, Some((_, tag))) => tag == "latest",
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::registry::testing::{object, yaml};

    fn defaulted(spec: &str) -> String {
        let mut spec = object(spec);
        pod_spec(&mut spec);
        pod_only(&mut spec);
        yaml(&spec)
    }

    #[test]
    fn a_bare_pod_is_filled() {
        expect![[r#"
            containers:
            - name: main
              image: debian
              imagePullPolicy: Always
              terminationMessagePath: /dev/termination-log
              terminationMessagePolicy: File
              resources: {}
            restartPolicy: Always
            terminationGracePeriodSeconds: 30
            dnsPolicy: ClusterFirst
            securityContext: {}
            schedulerName: default-scheduler
            enableServiceLinks: true
        "#]]
        .assert_eq(&defaulted("{containers: [{name: main, image: debian}]}"));
    }

    #[test]
    fn ports_probes_and_environment_are_filled() {
        expect![[r#"
            hostNetwork: true
            serviceAccount: robot
            terminationGracePeriodSeconds: 0
            containers:
            - name: main
              image: r.io:5000/a:1
              ports:
              - containerPort: 80
                protocol: TCP
                hostPort: 80
              env:
              - name: A
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.name
                    apiVersion: v1
              resources:
                limits:
                  cpu: '1'
                  memory: 1Gi
                requests:
                  cpu: 500m
                  memory: 1Gi
              readinessProbe:
                httpGet:
                  port: 80
                  path: /
                  scheme: HTTP
                timeoutSeconds: 1
                periodSeconds: 10
                successThreshold: 1
                failureThreshold: 3
              livenessProbe:
                grpc:
                  port: 1
                  service: ''
                periodSeconds: 5
                timeoutSeconds: 1
                successThreshold: 1
                failureThreshold: 3
              imagePullPolicy: IfNotPresent
              terminationMessagePath: /dev/termination-log
              terminationMessagePolicy: File
            restartPolicy: Always
            dnsPolicy: ClusterFirst
            securityContext: {}
            schedulerName: default-scheduler
            serviceAccountName: robot
            enableServiceLinks: true
        "#]]
        .assert_eq(&defaulted(
            "{hostNetwork: true, serviceAccount: robot, terminationGracePeriodSeconds: 0, containers: [{
                name: main, image: 'r.io:5000/a:1',
                ports: [{containerPort: 80}], env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
                resources: {limits: {cpu: 1000m, memory: 1024Mi}, requests: {cpu: '0.5'}},
                readinessProbe: {httpGet: {port: 80}}, livenessProbe: {grpc: {port: 1}, periodSeconds: 5}}]}",
        ));
    }

    #[test]
    fn volumes_are_filled() {
        expect![[r#"
            containers: []
            volumes:
            - name: a
              emptyDir: {}
            - name: b
              secret:
                secretName: s
                defaultMode: 420
            - name: c
              hostPath:
                path: /x
                type: ''
            - name: d
              projected:
                sources:
                - serviceAccountToken:
                    path: t
                    expirationSeconds: 3600
                defaultMode: 420
            restartPolicy: Always
            terminationGracePeriodSeconds: 30
            dnsPolicy: ClusterFirst
            securityContext: {}
            schedulerName: default-scheduler
            enableServiceLinks: true
        "#]]
        .assert_eq(&defaulted(
            "{containers: [], volumes: [{name: a}, {name: b, secret: {secretName: s}}, {name: c, hostPath: {path: /x}},
              {name: d, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}",
        ));
    }

    #[test]
    fn only_the_moving_tag_is_always_pulled() {
        for image in ["debian", "debian:latest", "r.io:5000/debian", "r.io/debian:latest@sha256:00"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["debian:12", "r.io:5000/debian:12", "debian@sha256:00", "r.io/a:1@sha256:00"] {
            assert!(!is_latest(image), "{image}");
        }
    }
}
