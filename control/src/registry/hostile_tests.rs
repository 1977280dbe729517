//! No object that a client can send makes a strategy panic: every part of a rich object of each kind is replaced by junk of every
//! JSON type, and everything is asked of the result.

use serde_json::{Value, json};

use super::testing::{NOW, context, object};
use super::{Kind, Ranges, kinds, pod};

const POD_SPEC: &str = "{securityContext: {sysctls: [{name: a.b}]}, nodeName: n, restartPolicy: Always, hostNetwork: true, serviceAccount: a, nodeSelector: {a: b},
  schedulingGates: [{name: g}], readinessGates: [{conditionType: c}],
  tolerations: [{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 3}],
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions:
    [{key: k, operator: In, values: [a]}], matchFields: [{key: metadata.name, operator: In, values: [n]}]}]}}},
  volumes: [{name: v, hostPath: {path: /x}}, {name: w, projected: {sources: [{serviceAccountToken: {path: t}},
    {downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}]}},
    {name: s, secret: {secretName: s, items: [{key: k, path: p, mode: 3}]}}],
  initContainers: [{name: i, image: x, restartPolicy: Always}],
  containers: [{name: a, image: b, env: [{name: E, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
    envFrom: [{configMapRef: {name: m}}], ports: [{name: web, containerPort: 80, hostPort: 80}],
    volumeMounts: [{name: v, mountPath: /v}], resources: {limits: {cpu: 1}, requests: {memory: 1Gi}},
    securityContext: {runAsUser: 1}, livenessProbe: {httpGet: {port: 80}}, lifecycle: {preStop: {exec: {command: [a]}}}}]}";

fn rich(kind: &Kind) -> Value {
    let metadata = "{name: x, namespace: d, uid: u, labels: {a: b}, annotations: {c: d}, creationTimestamp: '2026-01-01T00:00:00Z'}";
    let template = format!("{{metadata: {{labels: {{app: a}}}}, spec: {POD_SPEC}}}");
    let body = match kind.kind {
        "ConfigMap" => "data: {a: b}, binaryData: {c: eA==}, immutable: true".to_owned(),
        "Secret" => "type: Opaque, data: {a: YQ==}, stringData: {b: c}".to_owned(),
        "Namespace" => "spec: {finalizers: [kubernetes]}, status: {phase: Active}".to_owned(),
        "Pod" => format!(
            "spec: {POD_SPEC}, status: {{phase: Running, podIPs: [{{ip: 10.0.0.1}}],
             conditions: [{{type: Ready, status: 'True'}}], initContainerStatuses: [{{name: i, restartCount: 1, state: {{running: {{}}}}}}],
             containerStatuses: [{{name: a, restartCount: 2, lastState: {{terminated: {{finishedAt: '2026-01-01T00:00:00Z'}}}},
             state: {{terminated: {{exitCode: 1}}}}}}]}}"
        ),
        "Node" => "spec: {taints: [{key: a, effect: NoSchedule}], podCIDR: 10.0.0.0/24}, status: {capacity: {cpu: 1},
             conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 10.0.0.1}]}"
            .to_owned(),
        "Lease" => "spec: {holderIdentity: h, leaseDurationSeconds: 3, leaseTransitions: 1}".to_owned(),
        "Event" => "involvedObject: {kind: Pod, name: p, namespace: d}, series: {count: 2}, source: {component: c}".to_owned(),
        "Service" => "spec: {type: NodePort, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], externalIPs: [1.2.3.4], selector: {a: b},
             ports: [{name: w, port: 80, nodePort: 30080}]}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}"
            .to_owned(),
        "Endpoints" => "subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{name: w, port: 80}]}]".to_owned(),
        "EndpointSlice" => "addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{name: w, port: 80}]".to_owned(),
        "ServiceAccount" => "secrets: [{name: s}]".to_owned(),
        "ReplicationController" => format!("spec: {{replicas: 3, selector: {{app: a}}, template: {template}}}, status: {{replicas: 1}}"),
        "Job" => format!(
            "spec: {{completions: 3, selector: {{matchLabels: {{app: a}}, matchExpressions: [{{key: k, operator: In, values: [v]}}]}},
             template: {template}}}, status: {{startTime: '2026-01-01T00:00:00Z', conditions: [{{type: Failed, status: 'True'}}]}}"
        ),
        other => panic!("no rich object of kind {other} here"),
    };
    object(&format!("{{metadata: {metadata}, {body}}}"))
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, member) in map {
                let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                found.push(pointer.clone());
                pointers(member, &pointer, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let pointer = format!("{at}/{index}");
                found.push(pointer.clone());
                pointers(item, &pointer, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Everything that the engine may ask of a strategy.
fn exercise(kind: &Kind, sent: &Value, stored: &Value) {
    let (rules, ctx) = (kind.strategy, context());
    let mut new = sent.clone();
    rules.default(&mut new);
    let _ = rules.admit(&mut new, &ctx);
    rules.prepare_for_create(&mut new, &ctx);
    rules.validate(&new);
    let _ = rules.allocate(&mut new, &[stored, sent], &Ranges::default(), &ctx);
    for (old, sent) in [(stored, sent), (sent, stored)] {
        let mut new = sent.clone();
        rules.prepare_for_update(&mut new, old, &ctx);
        rules.default(&mut new);
        rules.validate(&new);
        rules.validate_update(&new, old);
        rules.bumps_generation(&new, old);
        let mut new = sent.clone();
        rules.prepare_for_status_update(&mut new, old, &ctx);
        let _ = rules.apply_scale(&mut new, sent);
        let _ = pod::binding::bind(old, sent, &ctx);
    }
    rules.prepare_for_delete(&mut new, &ctx);
    rules.holds_deletion(sent);
    rules.grace_period_s(sent, None);
    let _ = rules.check_delete(sent);
    rules.scale(sent);
    rules.row_conditions(sent);
    rules.selectable_fields(sent);
    assert_eq!(rules.cells(sent, NOW).len(), rules.columns().len());
}

#[test]
fn no_object_makes_a_strategy_panic() {
    let junk = [json!(null), json!("x"), json!(-1), json!(["x"]), json!({"x": 1})];
    let mut panicked = Vec::new();
    for kind in kinds() {
        let stored = rich(kind);
        let mut all = Vec::new();
        pointers(&stored, "", &mut all);
        for pointer in all {
            for junk in &junk {
                let mut sent = stored.clone();
                if let Some(part) = sent.pointer_mut(&pointer) {
                    part.clone_from(junk);
                }
                let run = || exercise(kind, &sent, &stored);
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                    panicked.push(format!("{} with {junk} at {pointer}", kind.kind));
                }
            }
        }
    }
    assert!(panicked.is_empty(), "{panicked:#?}");
}

#[test]
fn names_of_kinds_are_unique_and_selectable_fields_stable() {
    for (index, kind) in kinds().iter().enumerate() {
        let same =
            |other: &&&Kind| other.group == kind.group && (other.resource == kind.resource || other.kind == kind.kind);
        assert_eq!(kinds().iter().filter(same).count(), 1, "{}", kind.kind);
        assert!(kinds()[..index].iter().all(|other| other.storage_prefix != kind.storage_prefix), "{}", kind.kind);
        let names =
            |object: &Value| kind.strategy.selectable_fields(object).iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(&Value::Null), names(&rich(kind)), "{}", kind.kind);
    }
}
