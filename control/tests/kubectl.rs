//! Unmodified kubectl, every version found, against the API server on a real etcd: no error, no warning.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use support::{Cluster, kubectls, minor};

fn each(test: impl Fn(&Cluster, &Path, &str)) {
    let cluster = Cluster::start(false);
    for (index, kubectl) in kubectls().iter().enumerate() {
        let namespace = format!("test-{index}");
        cluster.ok(kubectl, &["create", "namespace", &namespace], "");
        test(&cluster, kubectl, &namespace);
    }
}

const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {colour: blue}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: web}}
spec:
  containers: [{name: main, image: debian, command: [printenv]}]
";

const RC: &str = "
apiVersion: v1
kind: ReplicationController
metadata: {name: many}
spec:
  replicas: 1
  selector: {app: many}
  template:
    metadata: {labels: {app: many}}
    spec: {containers: [{name: main, image: debian}]}
";

#[test]
fn objects_are_applied_read_changed_and_deleted() {
    each(|cluster, kubectl, ns| {
        let ok = |arguments: &[&str], stdin: &str| {
            let mut all = vec!["-n", ns];
            all.extend(arguments);
            cluster.ok(kubectl, &all, stdin)
        };
        assert_eq!(ok(&["apply", "-f", "-"], CONFIG), "configmap/settings created\n");
        assert_eq!(ok(&["apply", "-f", "-"], CONFIG), "configmap/settings unchanged\n");
        let green = CONFIG.replace("blue", "green");
        assert_eq!(ok(&["apply", "-f", "-"], &green), "configmap/settings configured\n");
        assert!(ok(&["get", "cm", "settings", "-o", "yaml"], "").contains("colour: green"));
        assert!(ok(&["get", "cm", "-o", "json", "-l", "app=web"], "").contains("\"colour\": \"green\""));
        assert!(ok(&["get", "cm", "-l", "app=web"], "").starts_with("NAME       DATA   AGE\nsettings   1      "));
        ok(&["label", "cm", "settings", "tier=one"], "");
        ok(&["annotate", "cm", "settings", "note=two"], "");
        for (kind, patch) in [
            ("strategic", r#"{"data":{"a":"1"}}"#),
            ("merge", r#"{"data":{"b":"2"}}"#),
            ("json", r#"[{"op":"add","path":"/data/c","value":"3"}]"#),
        ] {
            ok(&["patch", "cm", "settings", "--type", kind, "-p", patch], "");
        }
        ok(&["edit", "cm", "settings"], "");
        let data = ok(&["get", "cm", "settings", "-o", "jsonpath={.data}"], "");
        assert_eq!(data, r#"{"a":"1","b":"2","c":"3","colour":"edited"}"#);
        assert!(ok(&["describe", "cm", "settings"], "").contains("note: two"));
        assert_eq!(ok(&["delete", "cm", "settings"], ""), "configmap \"settings\" deleted\n");
        ok(&["create", "configmap", "made", "--from-literal", "k=v"], "");
        ok(&["create", "secret", "generic", "hidden", "--from-literal", "k=v"], "");
        ok(&["delete", "cm,secret", "--all"], "");
    });
}

/// By the patch strategies of the OpenAPI document: an entry that was applied and is no longer is removed, one of somebody else
/// stays.
#[test]
fn apply_merges_lists_by_their_keys() {
    each(|cluster, kubectl, ns| {
        let ok = |arguments: &[&str], stdin: &str| {
            let mut all = vec!["-n", ns];
            all.extend(arguments);
            cluster.ok(kubectl, &all, stdin)
        };
        let two = RC.replace("containers: [", "containers: [{name: side, image: debian}, ").replace(
            "{name: main, image: debian}",
            "{name: main, image: debian, env: [{name: A, value: a}, {name: B, value: b}]}",
        );
        let one = two.replace("{name: side, image: debian}, ", "").replace(", {name: B, value: b}", "");
        ok(&["apply", "-f", "-"], &two);
        let third = r#"{"spec":{"template":{"spec":{"containers":[{"name":"third","image":"debian"}]}}}}"#;
        ok(&["patch", "rc", "many", "-p", third], "");
        let dry = ok(&["apply", "--dry-run=server", "-f", "-"], &one);
        assert_eq!(dry, "replicationcontroller/many configured (server dry run)\n");
        let containers = || ok(&["get", "rc", "many", "-o", "jsonpath={.spec.template.spec.containers[*].name}"], "");
        assert_eq!(containers(), "third side main");
        ok(&["apply", "-f", "-"], &one);
        let names: BTreeSet<String> = containers().split(' ').map(str::to_owned).collect();
        assert_eq!(names, BTreeSet::from(["main".to_owned(), "third".to_owned()]));
        let path = "jsonpath={.spec.template.spec.containers[?(@.name=='main')].env[*].name}";
        assert_eq!(ok(&["get", "rc", "many", "-o", path], ""), "A");
    });
}

#[test]
fn pods_and_what_is_around_them() {
    each(|cluster, kubectl, ns| {
        let ok = |arguments: &[&str], stdin: &str| {
            let mut all = vec!["-n", ns];
            all.extend(arguments);
            cluster.ok(kubectl, &all, stdin)
        };
        let mut watching = cluster.background(kubectl, &["-n", ns, "get", "pods", "-w"]);
        ok(&["create", "-f", "-"], POD);
        watching.until("Pending");
        assert!(ok(&["get", "pods", "-o", "wide"], "").contains("<none>"));
        assert!(ok(&["get", "pods", "-A", "--field-selector", "status.phase=Pending"], "").contains(ns));
        assert!(ok(&["describe", "pod", "one"], "").contains("Status:"));
        let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
        // Before 1.24 there is no `--subresource`.
        if minor(kubectl) >= 24 {
            ok(&["patch", "pod", "one", "--subresource", "status", "--type", "merge", "-p", status], "");
            watching.until("Running");
            ok(&["wait", "--for=condition=Ready", "pod/one", "--timeout=10s"], "");
        }
        ok(&["create", "-f", "-"], RC);
        ok(&["scale", "rc", "many", "--replicas=3"], "");
        assert_eq!(ok(&["get", "rc", "many", "-o", "jsonpath={.spec.replicas}"], ""), "3");
        ok(&["get", "all"], "");
        ok(&["delete", "pod", "one"], "");
        ok(&["delete", "rc", "many"], "");
        assert!(cluster.refused(kubectl, &["-n", ns, "get", "pod", "one"], "").contains("(NotFound)"));
    });
}

#[test]
fn the_cluster_describes_itself() {
    each(|cluster, kubectl, ns| {
        assert!(cluster.ok(kubectl, &["api-resources"], "").contains("configmaps"));
        assert!(cluster.ok(kubectl, &["api-versions"], "").contains("batch/v1"));
        assert!(cluster.ok(kubectl, &["explain", "pod.spec.containers"], "").contains("image"));
        assert!(cluster.ok(kubectl, &["explain", "jobs", "--recursive"], "").contains("terminationGracePeriodSeconds"));
        assert!(
            cluster.ok(kubectl, &["get", "svc,ns,nodes,events", "-A", "--ignore-not-found"], "").contains("kubernetes")
        );
        assert!(cluster.ok(kubectl, &["auth", "can-i", "create", "pods"], "").contains("yes"));
        assert_eq!(cluster.ok(kubectl, &["get", "--raw", "/readyz"], ""), "ok");
        cluster.ok(kubectl, &["describe", "ns", ns], "");
        let version = cluster.run(kubectl, &["version"], "");
        assert!(String::from_utf8_lossy(&version.stdout).contains("v1.33.0+kontiki"));
    });
}

#[test]
fn mistakes_are_told_in_kubernetes_words() {
    each(|cluster, kubectl, ns| {
        let refused = |arguments: &[&str], stdin: &str| {
            let mut all = vec!["-n", ns];
            all.extend(arguments);
            cluster.refused(kubectl, &all, stdin)
        };
        let unknown = POD.replace("spec:", "spec:\n  foo: bar");
        let nameless = POD.replace("name: main, ", "");
        // Before 1.27 kubectl checks fields itself, from OpenAPI v2, and does not ask the server to be strict.
        let (unknown_field, no_name) = if minor(kubectl) >= 27 {
            ("unknown field \"spec.foo\"", "spec.containers[0].name: Required value")
        } else {
            ("unknown field \"foo\" in io.k8s.api.core.v1.PodSpec", "missing required field \"name\"")
        };
        assert!(refused(&["create", "-f", "-"], &unknown).contains(unknown_field));
        assert!(refused(&["apply", "-f", "-"], &unknown).contains(unknown_field));
        assert!(refused(&["create", "-f", "-"], &nameless).contains(no_name));
        assert!(refused(&["get", "pods", "--field-selector", "spec.x=y"], "").contains("field label not supported"));
        assert!(refused(&["delete", "namespace", "default"], "").contains("may not be deleted"));
        cluster.ok(kubectl, &["-n", ns, "create", "-f", "-"], CONFIG);
        assert!(refused(&["create", "-f", "-"], CONFIG).contains("(AlreadyExists)"));
    });
}
