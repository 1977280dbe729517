//! The demonstration: the whole path of a command, and what happens when machines die. `cargo xtask demo` runs it.
//!
//! It drives the real program (`kontiki dev`) with an unmodified kubectl and an etcd client, checks what it shows, and ends with
//! a failure when any of it did not hold.

#![allow(clippy::disallowed_methods, reason = "the whole of it is an edge")]

mod cluster;
mod kubectl;
mod timeline;
mod writes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::{Api, ListParams};

use cluster::Cluster;
use kubectl::Kubectl;

/// The example of the project's design, as a user writes it.
const EXAMPLE_POD: &str = r#"apiVersion: v1
kind: Pod
metadata:
  name: command-demo
spec:
  containers:
  - name: demo-container
    image: debian
    command: ["printenv"]
    args: ["HOSTNAME", "KUBERNETES_PORT"]
"#;

const CONTROLLER: &str = r#"apiVersion: v1
kind: ReplicationController
metadata:
  name: sleepers
spec:
  replicas: 3
  template:
    metadata:
      labels: {app: sleepers}
    spec:
      containers:
      - name: sleeper
        image: debian
        command: ["sleep", "infinity"]
"#;

const JOB: &str = r#"apiVersion: batch/v1
kind: Job
metadata:
  name: count
spec:
  completions: 2
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: count
        image: debian
        command: ["sh", "-c", "ls /usr/bin | wc -l"]
"#;

/// How long any single step may take.
const STEP_LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut image = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--debian-image" => image = arguments.next().map(PathBuf::from),
            other => anyhow::bail!("unknown argument {other:?}; expected --debian-image PATH"),
        }
    }
    let image = image.context("--debian-image PATH: the tar of a debian root filesystem")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::start(&image)?;
        let shown = show(&mut cluster).await;
        title("Cleaning up");
        let stopped = cluster.stop();
        shown?;
        stopped?;
        println!("\nAll of it held.");
        Ok(())
    })
}

async fn show(cluster: &mut Cluster) -> Result<()> {
    title("A cluster on this machine");
    println!("ready after {} ms: {}", cluster.ready.ready_ms, cluster.describe());
    let kubectl = Kubectl::new(&cluster.ready.kubeconfig);
    kubectl.show(&["get", "nodes", "-o", "wide"])?;

    title("The path of a command");
    one_command(cluster, &kubectl).await?;
    title("The leading server is killed with SIGKILL while a client writes");
    kill_leader(cluster).await?;
    title("Work goes on: a ReplicationController of three and a Job");
    // The server that the kubeconfig names first may be the dead one.
    let kubectl = kubectl.with_context(cluster.living_context()?);
    workloads(cluster, &kubectl).await?;
    title("A node agent is killed: its pods come back elsewhere");
    kill_agent(cluster, &kubectl).await
}

/// Applies the example and shows each step with its time.
async fn one_command(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let client = cluster.client(0).await?;
    let watch = timeline::watch(client, "default", "command-demo");
    print!("{EXAMPLE_POD}");
    let applied = Instant::now();
    kubectl.apply(EXAMPLE_POD)?;
    println!("$ kubectl apply -f pod.yaml      returned after {:.0} ms", millis(applied.elapsed()));
    let timeline = tokio::time::timeout(STEP_LIMIT, watch).await.context("the pod did not finish in time")??;
    timeline.print(applied);
    let log = kubectl.output(&["logs", "command-demo"])?;
    println!("$ kubectl logs command-demo\n{log}");
    let lines: Vec<&str> = log.lines().collect();
    ensure!(lines.first() == Some(&"command-demo"), "the log does not begin with the pod's own host name");
    ensure!(
        lines.get(1).is_some_and(|line| line.starts_with("tcp://") && line.ends_with(":443")),
        "the log does not show the real KUBERNETES_PORT"
    );
    kubectl.show(&["delete", "pod", "command-demo"])
}

async fn kill_leader(cluster: &mut Cluster) -> Result<()> {
    let leader = writes::leader(&cluster.living_endpoints()).await?;
    let survivors: Vec<String> = cluster.living_endpoints().into_iter().filter(|url| *url != leader).collect();
    let survivor = survivors.first().context("no server would survive")?.clone();
    let writer = writes::Writer::start(&survivor)?;
    writer.await_writes(500).await?;
    let name = cluster.kill_server(&leader)?;
    println!("killed {name}, which led; a client writes through a survivor, {survivor}");
    writer.await_writes(500).await?;
    let report = writer.stop().await?;
    println!(
        "{} writes acknowledged; before, one took {:.2} ms (median); gap in acknowledged writes: {:.0} ms",
        report.acknowledged,
        millis(report.median),
        millis(report.longest_gap)
    );
    let lost = report.lost(&survivors).await?;
    ensure!(lost == 0, "{lost} acknowledged writes are lost");
    println!("every acknowledged write is there");
    ensure!(report.longest_gap < Duration::from_secs(1), "the gap is longer than a second");
    Ok(())
}

async fn workloads(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(CONTROLLER)?;
    kubectl.apply(JOB)?;
    let client = cluster.living_client().await?;
    let controllers = Api::<ReplicationController>::namespaced(client.clone(), "default");
    until("three replicas to be ready", || async {
        let controller = controllers.get("sleepers").await?;
        Ok(controller.status.is_some_and(|status| status.ready_replicas == Some(3)))
    })
    .await?;
    let jobs = Api::<Job>::namespaced(client, "default");
    until("the job to complete", || async {
        Ok(jobs.get("count").await?.status.is_some_and(|status| status.succeeded == Some(2)))
    })
    .await?;
    kubectl.show(&["get", "replicationcontrollers,jobs,pods", "-o", "wide"])
}

async fn kill_agent(cluster: &mut Cluster, kubectl: &Kubectl) -> Result<()> {
    let pods = Api::<Pod>::namespaced(cluster.living_client().await?, "default");
    let sleepers = ListParams::default().labels("app=sleepers");
    let victim = pods
        .list(&sleepers)
        .await?
        .items
        .into_iter()
        .find_map(|pod| pod.spec.and_then(|spec| spec.node_name))
        .context("no replica runs anywhere")?;
    let killed = Instant::now();
    cluster.kill_agent(&victim)?;
    println!("killed the agent of {victim}");
    until("three replicas to be ready on living nodes", || async {
        let ready = pods.list(&sleepers).await?.items.into_iter().filter(|pod| {
            let elsewhere = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() != Some(&victim));
            elsewhere && pod.metadata.deletion_timestamp.is_none() && is_ready(pod)
        });
        Ok(ready.count() == 3)
    })
    .await?;
    println!("three replicas are ready on living nodes {:.1} s later", killed.elapsed().as_secs_f64());
    kubectl.show(&["get", "nodes"])?;
    kubectl.show(&["get", "pods", "-l", "app=sleepers", "-o", "wide"])?;
    kubectl.show(&["delete", "replicationcontroller/sleepers", "job/count", "--wait=false"])
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Asks until it holds. An API server that has just lost its leader may fail for a moment.
async fn until<F: Future<Output = kube::Result<bool>>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + STEP_LIMIT;
    let mut last = None;
    while Instant::now() < deadline {
        match holds().await {
            Ok(true) => return Ok(()),
            Ok(false) => last = None,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("waited {} s for {what}", STEP_LIMIT.as_secs())),
        None => anyhow::bail!("waited {} s for {what}", STEP_LIMIT.as_secs()),
    }
}

fn title(text: &str) {
    println!("\n== {text}");
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
