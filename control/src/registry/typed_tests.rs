//! What a create stores is what the kind's schema says, no more and no less: it survives the trip through the typed object.

use k8s_openapi::api::{batch::v1 as batch, core::v1 as core};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::testing::{context, object};
use super::{Kind, Ranges, config_map, job, namespace, node, pod, replication_controller, secret, service};
use crate::engine;

fn stored(kind: &Kind, manifest: &str) -> Value {
    let namespace = kind.namespaced.then_some("default");
    let mut made = engine::create(kind, namespace, object(manifest), &context()).expect("a valid manifest");
    kind.strategy.allocate(&mut made, &[], &Ranges::default(), &context()).expect("an empty cluster has room");
    made
}

fn survives<T: DeserializeOwned + Serialize>(kind: &Kind, manifest: &str) {
    let made = stored(kind, manifest);
    let typed: T = serde_json::from_value(made.clone()).expect("of the kind's types");
    let again = serde_json::to_value(typed).expect("typed objects are JSON");
    assert_eq!(again, made, "{}", kind.kind);
}

const CONTAINER: &str = "{name: a, image: b, ports: [{containerPort: 80}], resources: {limits: {cpu: 1}},
  env: [{name: E, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], livenessProbe: {httpGet: {port: 80}},
  readinessProbe: {grpc: {port: 1}}}";

#[test]
fn stored_objects_fit_their_schema() {
    let template = |policy: &str| {
        format!("{{metadata: {{labels: {{app: a}}}}, spec: {{restartPolicy: {policy}, containers: [{CONTAINER}]}}}}")
    };
    let volumes = "[{name: e}, {name: s, secret: {secretName: s}}, {name: h, hostPath: {path: /x}}, {name: p, projected: {sources:
      [{serviceAccountToken: {path: t}}, {downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}]}}]";
    survives::<core::ConfigMap>(&config_map::KIND, "{metadata: {name: a}, data: {k: v}}");
    survives::<core::Secret>(&secret::KIND, "{metadata: {name: a}, stringData: {k: v}}");
    survives::<core::Namespace>(&namespace::KIND, "{metadata: {name: a}}");
    survives::<core::Node>(&node::KIND, "{metadata: {name: a}, status: {capacity: {cpu: 2000m}}}");
    survives::<core::Pod>(
        &pod::KIND,
        &format!(
            "{{metadata: {{name: a}}, spec: {{volumes: {volumes}, schedulingGates: [{{name: g}}], containers: [{CONTAINER}]}}}}"
        ),
    );
    survives::<core::Service>(
        &service::KIND,
        "{metadata: {name: a}, spec: {type: LoadBalancer, sessionAffinity: ClientIP, selector: {a: b}, ports: [{port: 80}]}}",
    );
    survives::<batch::Job>(
        &job::KIND,
        &format!("{{metadata: {{name: a}}, spec: {{template: {}}}}}", template("Never")),
    );
    survives::<core::ReplicationController>(
        &replication_controller::KIND,
        &format!("{{metadata: {{name: a}}, spec: {{template: {}}}}}", template("Always")),
    );
}

#[test]
fn the_token_volume_fits_its_schema() {
    let mut spec = object("{containers: [{name: a, image: b}]}");
    pod::admission::mount_token(&mut spec, "x7k2p");
    pod::defaults::pod_spec(&mut spec);
    let typed: core::PodSpec = serde_json::from_value(spec.clone()).expect("of the schema's types");
    assert_eq!(serde_json::to_value(typed).expect("JSON"), spec);
}
