//! From a container of a pod to a plan that the runtime can carry out.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use rand::RngCore as _;

use super::context::Context;
use super::fill_volumes::{blocking, fetch, place};
use crate::image::Image;
use crate::io::files::write_text;
use crate::pod::environment::{self, Inputs};
use crate::pod::machine::{Input, StartFailure};
use crate::pod::resources::{self, Amounts};
use crate::pod::security::{self, ImageUser, Privileges};
use crate::pod::{argv, hostname, services, volume};
use crate::runtime::plan::{
    ContainerPlan, LogLimits, Mount, MountSource, NetworkMode, Propagation, SandboxPlan, TerminationLog, TmpfsPlan,
    default_masked_paths, default_read_only_paths,
};

const TERMINATION_LOG_DEFAULT: &str = "/dev/termination-log";
const MEMORY_VOLUME_MODE: u32 = 0o777;

/// One start: which container, the how-manieth, with which image, in a sandbox with which addresses.
pub struct Start {
    pub pod: Arc<Pod>,
    pub container: usize,
    pub spec: Container,
    pub attempt: u32,
    pub image: Image,
    pub ips: Vec<String>,
}

pub fn sandbox_plan(context: &Context, pod: &Pod) -> SandboxPlan {
    let spec = spec_of(pod);
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (name, namespace) = (text(&pod.metadata.name), text(&pod.metadata.namespace));
    let memory_volumes = spec.volumes.iter().flatten().filter_map(|volume| {
        let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() == Some("Memory"))?;
        let size =
            source.size_limit.as_ref().and_then(|size| u64::try_from(crate::pod::quantity::units(&size.0)?).ok());
        Some((volume.name.clone(), TmpfsPlan { size, mode: MEMORY_VOLUME_MODE }))
    });
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    // As containerd does: without these, programs that are not root could neither serve port 80 nor ping.
    let usual = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let usual = usual
        .into_iter()
        .filter(|_| spec.host_network != Some(true))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    SandboxPlan {
        pod_uid: text(&pod.metadata.uid),
        hostname: hostname::names(spec, &name, &namespace, &context.names).0,
        network: if spec.host_network == Some(true) { NetworkMode::Host } else { NetworkMode::Pod },
        host_ipc: spec.host_ipc == Some(true),
        qos: resources::qos_class(spec),
        limits: resources::container_limits(&resources::pod_amounts(spec)),
        shm_size: crate::runtime::limits::SHM_SIZE_DEFAULT,
        tmpfs: memory_volumes.collect(),
        sysctls: usual.chain(sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))).collect(),
        annotations: Default::default(),
        namespace,
        name,
    }
}

/// Starts the container; the answer is what the machine hears.
pub async fn start(context: Arc<Context>, start: Start) -> Input {
    let (container, attempt) = (start.container, start.attempt);
    let failed = |failure| Input::StartFailed { container, attempt, failure };
    let plan = match plan(&context, &start).await {
        Ok(plan) => plan,
        Err(failure) => return failed(failure),
    };
    let uid = start.pod.metadata.uid.clone().unwrap_or_default();
    let container_id = plan.id.clone();
    match context.containers.start(&uid, plan).await {
        Ok(started) => {
            let at = Timestamp::try_from(started.started_at).unwrap_or_else(|_| Timestamp::now());
            Input::Started { container, attempt, container_id, at }
        }
        Err(error) if error.is_exec() => failed(StartFailure::Command { container_id, message: error.message }),
        Err(error) => failed(StartFailure::Create(error.message)),
    }
}

async fn plan(context: &Arc<Context>, start: &Start) -> Result<ContainerPlan, StartFailure> {
    let config = StartFailure::Config;
    let (pod, container, image) = (&*start.pod, &start.spec, &start.image);
    let spec = spec_of(pod);
    let sources = fetch(context, pod, &environment::names(container)).await.map_err(config)?;
    let services = context.api.services().await;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let links = spec.enable_service_links != Some(false);
    let services = services::variables(services.iter().map(|service| &**service), &namespace, links);
    let user = image_user(context, spec, container, image).await?;
    let privileges = security::resolve(spec, container, &user).map_err(|error| config(error.to_string()))?;
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let (short, full) = hostname::names(spec, &pod_name, &namespace, &context.names);
    let facts = context.facts(&start.ips);
    let inputs = Inputs {
        pod,
        container,
        image: &image.config.env,
        services: &services,
        sources: &sources,
        facts: &facts,
        hostname: &short,
        home: user.home.as_deref(),
    };
    let env = environment::build(&inputs).map_err(|error| config(error.to_string()))?;
    let argv = argv::resolve(
        container.command.as_deref(),
        container.args.as_deref(),
        &image.config.entrypoint,
        &image.config.cmd,
        &env,
    );
    let argv = argv.map_err(|error| StartFailure::Create(error.to_string()))?;
    let place = |name: &str| place(&context.files, pod, name);
    let mut mounts = volume::mounts(container, place, &env).map_err(|error| config(error.to_string()))?;
    let hosts = hostname::hosts(spec, &start.ips, &short, full.as_deref(), &context.names);
    let texts = [
        ("/etc/hosts", context.files.hosts(uid_of(pod)), hosts),
        (
            "/etc/resolv.conf",
            context.files.resolv_conf(uid_of(pod)),
            hostname::resolv_conf(spec, &namespace, &context.names),
        ),
        ("/etc/hostname", context.files.hostname(uid_of(pod)), format!("{short}\n")),
    ];
    mounts.extend(managed_files(texts, &mounts).await.map_err(StartFailure::Create)?);
    Ok(assemble(context, start, &privileges, argv, env, mounts))
}

/// Who the image says it runs as, or the image's entry for the uid that the pod asks for.
async fn image_user(
    context: &Arc<Context>,
    spec: &PodSpec,
    container: &Container,
    image: &Image,
) -> Result<ImageUser, StartFailure> {
    let wanted = security::asked_uid(spec, container).map_or_else(|| image.config.user.clone(), |uid| uid.to_string());
    let (layers, containers, asked) = (image.layers.clone(), context.containers.clone(), wanted.clone());
    let user = blocking(move || containers.user(&layers, &asked)).await.map_err(StartFailure::Create)?;
    let name = wanted.split(':').next().unwrap_or_default();
    let is_named = !name.is_empty() && name.parse::<u32>().is_err();
    Ok(ImageUser {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        home: user.home,
        name: is_named.then(|| name.to_owned()),
    })
}

/// Writes the files that every container gets, except where the pod mounts its own over them.
async fn managed_files(texts: [(&'static str, PathBuf, String); 3], mounts: &[Mount]) -> Result<Vec<Mount>, String> {
    let wanted: Vec<_> = texts
        .into_iter()
        .filter(|(target, ..)| mounts.iter().all(|mount| mount.destination.as_os_str() != *target))
        .collect();
    blocking(move || {
        let write = |(target, path, text): (&str, PathBuf, String)| {
            write_text(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(Mount {
                destination: target.into(),
                source: MountSource::Bind(path),
                read_only: false,
                propagation: Propagation::Private,
            })
        };
        wanted.into_iter().map(write).collect()
    })
    .await
}

fn assemble(
    context: &Context,
    start: &Start,
    privileges: &Privileges,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
) -> ContainerPlan {
    let (pod, container, image) = (&*start.pod, &start.spec, &start.image);
    let spec = spec_of(pod);
    let uid = uid_of(pod);
    let id = container_id();
    let amounts = Amounts::of(container.resources.as_ref());
    let memory_bytes = u64::try_from(context.allocatable.memory_bytes).unwrap_or(0);
    let cwd = container.working_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(&image.config.working_dir);
    let message_path = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(TERMINATION_LOG_DEFAULT);
    let termination_log = TerminationLog {
        host_path: context.files.termination_log(uid, &container.name, &id),
        container_path: message_path.into(),
    };
    let is_open = privileges.privileged || privileges.is_proc_unmasked;
    ContainerPlan {
        name: container.name.clone(),
        attempt: start.attempt,
        layers: image.layers.clone(),
        scratch_dir: context.files.scratch_dir(),
        read_only_root: privileges.read_only_root,
        argv,
        env: env.into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
        cwd: if cwd.is_empty() { PathBuf::from("/") } else { cwd.into() },
        user: privileges.user.clone(),
        capabilities: privileges.capabilities,
        seccomp: privileges.seccomp,
        no_new_privileges: privileges.no_new_privileges,
        privileged: privileges.privileged,
        mounts,
        masked_paths: if is_open { Vec::new() } else { default_masked_paths() },
        read_only_paths: if is_open { Vec::new() } else { default_read_only_paths() },
        rlimits: Vec::new(),
        oom_score_adj: Some(resources::oom_score_adj(resources::qos_class(spec), &amounts, memory_bytes)),
        host_pid: spec.host_pid == Some(true),
        limits: resources::container_limits(&amounts),
        log_path: context.files.log(pod, &container.name, start.attempt),
        log_limits: LogLimits::default(),
        termination_log: Some(termination_log),
        tty: container.tty == Some(true),
        stop_signal: image.config.stop_signal.clone().unwrap_or_else(|| "SIGTERM".to_owned()),
        annotations: Default::default(),
        id,
    }
}

/// 64 hexadecimal digits.
fn container_id() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spec_of(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("invariant: a pod that is bound to a node has a spec")
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
