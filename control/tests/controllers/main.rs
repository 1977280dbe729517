//! Controllers and scheduler at work: against a real etcd and the real API server, with nodes that only pretend to run pods.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "what the tests stand on may fail them too")]

mod fake_node;
mod world;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Endpoints, Event, Namespace, Pod, ReplicationController};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use self::fake_node::FakeNode;
use self::world::{World, eventually};

fn controller(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"app": name},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}},
        },
    })
}

fn job(name: &str, outcome: &str, spec: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {
            "metadata": {"annotations": {fake_node::OUTCOME: outcome}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]},
        }},
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

async fn pods(world: &World, selector: &str) -> Vec<Pod> {
    world.api::<Pod>().list(&ListParams::default().labels(selector)).await.unwrap().items
}

async fn reasons(world: &World) -> Vec<String> {
    let events = world.api::<Event>().list(&ListParams::default()).await.unwrap();
    events.into_iter().filter_map(|e| e.reason).collect()
}

fn condition(job: &Job, kind: &str) -> Option<String> {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == kind && c.status == "True").map(|c| c.reason.clone().unwrap_or_default())
}

#[tokio::test]
async fn a_replication_controller_keeps_its_pods_running_and_takes_them_with_it() {
    let world = World::start(|_| {}).await;
    let _nodes = [FakeNode::start(&world, "n1").await, FakeNode::start(&world, "n2").await];
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world.create::<k8s_openapi::api::core::v1::Service>(service).await;
    world.create::<ReplicationController>(controller("web", 4)).await;
    eventually("four pods are ready, two on each node", async || {
        let pods = pods(&world, "app=web").await;
        let on = |node: &str| pods.iter().filter(|p| is_ready(p) && node_of(p) == node).count();
        pods.len() == 4 && on("n1") == 2 && on("n2") == 2
    })
    .await;
    let rcs = world.api::<ReplicationController>();
    eventually("the status says so", async || {
        let status = rcs.get("web").await.unwrap().status.unwrap_or_default();
        (status.replicas, status.ready_replicas, status.available_replicas) == (4, Some(4), Some(4))
    })
    .await;
    eventually("the service has four addresses", async || {
        let endpoints = world.api::<Endpoints>().get_opt("web").await.unwrap().unwrap_or_default();
        endpoints.subsets.iter().flatten().flat_map(|s| s.addresses.iter().flatten()).count() == 4
    })
    .await;

    let victim = pods(&world, "app=web").await[0].name_any();
    world.api::<Pod>().delete(&victim, &DeleteParams::default()).await.unwrap();
    eventually("a deleted pod is replaced", async || {
        let pods = pods(&world, "app=web").await;
        pods.len() == 4 && pods.iter().all(|p| is_ready(p) && p.name_any() != victim)
    })
    .await;

    let scale = Patch::Merge(json!({"spec": {"replicas": 1}}));
    rcs.patch("web", &PatchParams::default(), &scale).await.unwrap();
    eventually("it scales down", async || pods(&world, "app=web").await.len() == 1).await;
    rcs.delete("web", &DeleteParams::background()).await.unwrap();
    eventually("its pods go with it", async || pods(&world, "app=web").await.is_empty()).await;
    let reasons = reasons(&world).await;
    for reason in ["SuccessfulCreate", "SuccessfulDelete", "Scheduled"] {
        assert!(reasons.iter().any(|r| r == reason), "{reason} in {reasons:?}");
    }
}

#[tokio::test]
async fn foreground_and_orphan_deletion_treat_dependents_as_asked() {
    let world = World::start(|_| {}).await;
    let _node = FakeNode::start(&world, "n1").await;
    for (name, policy, left) in [("fore", PropagationPolicy::Foreground, 0), ("orph", PropagationPolicy::Orphan, 2)] {
        world.create::<ReplicationController>(controller(name, 2)).await;
        let selector = format!("app={name}");
        eventually("two pods are ready", async || {
            pods(&world, &selector).await.iter().filter(|p| is_ready(p)).count() == 2
        })
        .await;
        let options = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        let rcs = world.api::<ReplicationController>();
        rcs.delete(name, &options).await.unwrap();
        eventually("the controller is gone", async || rcs.get_opt(name).await.unwrap().is_none()).await;
        let rest = pods(&world, &selector).await;
        assert_eq!(rest.len(), left, "{name}");
        assert!(rest.iter().all(|p| p.owner_references().is_empty()));
    }
}

#[tokio::test]
async fn jobs_complete_fail_and_go_when_their_time_is_over() {
    let world = World::start(|config| config.job_backoff = std::time::Duration::from_millis(50)).await;
    let _node = FakeNode::start(&world, "n1").await;
    let jobs = world.api::<Job>();
    world.create::<Job>(job("plain", "Succeeded", json!({"parallelism": 2, "completions": 5}))).await;
    world
        .create::<Job>(job(
            "indexed",
            "Succeeded",
            json!({"completionMode": "Indexed", "parallelism": 3, "completions": 3}),
        ))
        .await;
    world.create::<Job>(job("failing", "Failed", json!({"backoffLimit": 2}))).await;
    world.create::<Job>(job("brief", "Succeeded", json!({"ttlSecondsAfterFinished": 0}))).await;
    eventually("five pods have succeeded", async || {
        let job = jobs.get("plain").await.unwrap();
        condition(&job, "Complete").is_some() && job.status.unwrap().succeeded == Some(5)
    })
    .await;
    eventually("each index has succeeded", async || {
        let job = jobs.get("indexed").await.unwrap();
        condition(&job, "Complete").is_some() && job.status.unwrap().completed_indexes.as_deref() == Some("0-2")
    })
    .await;
    eventually("the third failure is one too many", async || {
        let job = jobs.get("failing").await.unwrap();
        condition(&job, "Failed").as_deref() == Some("BackoffLimitExceeded") && job.status.unwrap().failed == Some(3)
    })
    .await;
    eventually("a job with no time to live is gone, and its pods too", async || {
        jobs.get_opt("brief").await.unwrap().is_none() && pods(&world, "job-name=brief").await.is_empty()
    })
    .await;
    for pod in pods(&world, "").await {
        assert!(pod.finalizers().is_empty(), "{} is still held", pod.name_any());
    }
    let succeeded = pods(&world, "job-name=plain").await.len();
    assert_eq!(succeeded, 5, "no pod more than asked for was started");
}

#[tokio::test]
async fn the_pods_of_a_dead_node_come_back_elsewhere() {
    let world = World::start(|config| {
        config.node_grace = std::time::Duration::from_secs(2);
        config.unreachable_toleration_s = Some(1);
        config.force_remove_after = Some(std::time::Duration::ZERO);
    })
    .await;
    let nodes = [FakeNode::start(&world, "n1").await, FakeNode::start(&world, "n2").await];
    let mut web = controller("web", 2);
    web["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1.into();
    world.create::<ReplicationController>(web).await;
    eventually("both nodes run a pod", async || {
        let pods = pods(&world, "app=web").await;
        ["n1", "n2"].iter().all(|n| pods.iter().any(|p| is_ready(p) && node_of(p) == *n))
    })
    .await;
    let [dead, _alive] = nodes;
    dead.die().await;
    eventually("two pods are ready on the other node, and nothing is left of the dead one's", async || {
        let pods = pods(&world, "app=web").await;
        pods.len() == 2 && pods.iter().all(|p| is_ready(p) && node_of(p) == "n2")
    })
    .await;
    let reasons = reasons(&world).await;
    for reason in ["NodeNotReady", "TaintManagerEviction"] {
        assert!(reasons.iter().any(|r| r == reason), "{reason} in {reasons:?}");
    }
    let back = FakeNode::start(&world, "n1").await;
    eventually("a node that is back loses its taints", async || back.taints().await.is_empty()).await;
}

#[tokio::test]
async fn a_namespace_is_emptied_and_goes() {
    let world = World::start(|_| {}).await;
    let _node = FakeNode::start(&world, "n1").await;
    world.create_all::<Namespace>(json!({"metadata": {"name": "brief"}})).await;
    let rcs: Api<ReplicationController> = Api::namespaced(world.client(), "brief");
    eventually("a namespace gets its account and its authority", async || {
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(world.client(), "brief");
        let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(world.client(), "brief");
        let map = maps.get_opt("kube-root-ca.crt").await.unwrap();
        accounts.get_opt("default").await.unwrap().is_some()
            && map.is_some_and(|m| m.data.unwrap()["ca.crt"].contains("BEGIN"))
    })
    .await;
    rcs.create(&kube::api::PostParams::default(), &serde_json::from_value(controller("web", 3)).unwrap())
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(world.client(), "brief");
    let all = ListParams::default();
    eventually("three pods are ready", async || {
        pods.list(&all).await.unwrap().iter().filter(|p| is_ready(p)).count() == 3
    })
    .await;
    let namespaces: Api<Namespace> = Api::all(world.client());
    namespaces.delete("brief", &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", async || namespaces.get_opt("brief").await.unwrap().is_none()).await;
    assert!(pods.list(&all).await.unwrap().items.is_empty() && rcs.list(&all).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn an_unschedulable_pod_says_why_and_goes_when_it_can() {
    let world = World::start(|_| {}).await;
    let _node = FakeNode::start(&world, "n1").await;
    let pod = json!({
        "metadata": {"name": "picky"},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"}, "containers": [{"name": "c", "image": "busybox"}]},
    });
    world.create::<Pod>(pod).await;
    let expected = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    eventually("its condition says why", async || {
        let pod = world.api::<Pod>().get("picky").await.unwrap();
        let conditions = pod.status.unwrap().conditions.unwrap_or_default();
        conditions
            .iter()
            .any(|c| c.type_ == "PodScheduled" && c.status == "False" && c.message.as_deref() == Some(expected))
    })
    .await;
    let _second = FakeNode::start(&world, "n2").await;
    eventually("it runs on the node that came", async || {
        node_of(&world.api::<Pod>().get("picky").await.unwrap()) == "n2"
    })
    .await;
    assert!(reasons(&world).await.iter().any(|r| r == "FailedScheduling"));
}

#[tokio::test]
async fn a_pending_pod_is_bound_without_any_built_in_delay() {
    let world = World::start(|_| {}).await;
    let _node = FakeNode::start(&world, "n1").await;
    let mut times = Vec::new();
    for number in 0..20 {
        let name = format!("p{number}");
        let is_bound = world.until_pod(&name, |pod| !node_of(pod).is_empty()).await;
        let started = std::time::Instant::now();
        let spec = json!({"containers": [{"name": "c", "image": "busybox"}]});
        world.create::<Pod>(json!({"metadata": {"name": name}, "spec": spec})).await;
        is_bound.await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    tracing::info!(fastest = ?times[0], median = ?times[10], slowest = ?times[19], "created to bound");
    // The fastest, because the machine may be busy with other things: a delay of ours would be in all of them.
    assert!(times[0] < std::time::Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn two_sets_of_controllers_at_once_do_no_harm() {
    let world = World::start(|_| {}).await;
    let second = world.run_more_controllers();
    let _nodes = [FakeNode::start(&world, "n1").await, FakeNode::start(&world, "n2").await];
    let created = world.count_created_pods();
    for round in 0..5 {
        world.create::<ReplicationController>(controller(&format!("web{round}"), 4)).await;
        world
            .create::<Job>(job(&format!("sum{round}"), "Succeeded", json!({"parallelism": 2, "completions": 3})))
            .await;
    }
    for round in 0..5 {
        eventually("four pods are ready", async || {
            let pods = pods(&world, &format!("app=web{round}")).await;
            pods.len() == 4 && pods.iter().all(is_ready)
        })
        .await;
        eventually("the job is complete", async || {
            let job = world.api::<Job>().get(&format!("sum{round}")).await.unwrap();
            condition(&job, "Complete").is_some()
        })
        .await;
    }
    assert_eq!(created.stop().await, 5 * (4 + 3), "no pod was created twice");
    second.stop().await;
}
