//! Scheduling: one decision over a cluster of many nodes.

#![allow(clippy::disallowed_methods, reason = "benchmarks make the world they need")]
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_control::scheduler::decide::schedule;
use kontiki_control::scheduler::view::ClusterView;
use serde_json::json;

fn node(n: usize) -> Node {
    let capacity = json!({"cpu": "8", "memory": "32Gi", "pods": "110"});
    serde_json::from_value(json!({
        "metadata": {"name": format!("node-{n:05}"), "labels": {"zone": format!("z{}", n % 3)}},
        "spec": {},
        "status": {"capacity": capacity, "allocatable": capacity, "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .expect("a valid node")
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "nodeSelector": {"zone": "z1"},
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
        },
    }))
    .expect("a valid pod")
}

/// A cluster in which every node runs ten pods.
fn cluster(nodes: usize) -> ClusterView {
    let mut view = ClusterView::default();
    for n in 0..nodes {
        let node = Arc::new(node(n));
        let name = node.metadata.name.clone().expect("named above");
        view.set_node(node);
        for p in 0..10 {
            view.place(&pod(&format!("pod-{n}-{p}")), &name);
        }
    }
    view
}

fn scheduling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule one pod");
    let wanted = pod("wanted");
    for nodes in [10, 1000, 5000] {
        let view = cluster(nodes);
        group.bench_function(BenchmarkId::from_parameter(format!("{nodes} nodes")), |bencher| {
            bencher.iter(|| schedule(black_box(&view), black_box(&wanted), &mut |_| 0));
        });
    }
    group.finish();
}

criterion_group!(benches, scheduling);
criterion_main!(benches);
