//! A pod's volumes made ready, and refreshed while it runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::context::Context;
use super::ports::ApiFailure;
use crate::io::files::Files;
use crate::io::volumes;
use crate::pod::environment::{Names, Sources};
use crate::pod::volume::{self, Place};

/// How long a token lives when the pod does not say.
const TOKEN_LIFETIME_S: i64 = 3600;

/// Tokens that a pod was given, until they are due for a new one.
pub type Tokens = Arc<Mutex<BTreeMap<(String, String), (String, Timestamp)>>>;

/// Makes every volume of the pod. The error is the message of the FailedMount event.
pub async fn fill(context: Arc<Context>, pod: Arc<Pod>, tokens: Tokens) -> Result<(), String> {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let told = |error: String| format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name);
        one(&context, &pod, volume, &tokens).await.map_err(told)?;
    }
    Ok(())
}

/// Writes the contents of volumes that are made of objects again, where these have changed.
pub async fn refresh(context: Arc<Context>, pod: Arc<Pod>, tokens: Tokens) {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes.filter(|volume| volume::is_refreshed(volume)) {
        if let Err(error) = one(&context, &pod, volume, &tokens).await {
            tracing::warn!(pod = pod.metadata.name, volume = volume.name, error, "the volume keeps its contents");
        }
    }
}

/// Where a volume of the pod is.
pub fn place(files: &Files, pod: &Pod, name: &str) -> Option<Place> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volume = pod.spec.as_ref()?.volumes.as_ref()?.iter().find(|volume| volume.name == name)?;
    if let Some(source) = &volume.empty_dir {
        return Some(match source.medium.as_deref() {
            Some("Memory") => Place::Memory(name.to_owned()),
            _ => Place::Path(files.volume_dir(uid, "kubernetes.io~empty-dir", name)),
        });
    }
    if let Some(source) = &volume.host_path {
        return Some(Place::Path(source.path.clone().into()));
    }
    let is_secret = volume.secret.is_some() || volume.projected.is_some();
    if is_secret {
        return Some(Place::Path(files.memory_volume_dir(uid, name)));
    }
    let plugin = if volume.config_map.is_some() { "kubernetes.io~configmap" } else { "kubernetes.io~downward-api" };
    volume::is_refreshed(volume).then(|| Place::Path(files.volume_dir(uid, plugin, name)))
}

async fn one(context: &Arc<Context>, pod: &Arc<Pod>, volume: &Volume, tokens: &Tokens) -> Result<(), String> {
    let group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    let place = place(&context.files, pod, &volume.name)
        .ok_or_else(|| volume::VolumeError::Unsupported(volume.name.clone()).to_string())?;
    let Place::Path(path) = place else { return Ok(()) };
    if volume.empty_dir.is_some() {
        return blocking(move || volumes::make_empty_dir(&path, group).map_err(|error| describe(&path, &error))).await;
    }
    if let Some(source) = &volume.host_path {
        let type_ = source.type_.clone().unwrap_or_default();
        return blocking(move || volumes::prepare_host_path(&path, &type_).map_err(|error| error.to_string())).await;
    }
    let sources = fetch(context, pod, &volume::names(volume)).await?;
    let tokens = issue(context, pod, volume, tokens).await?;
    let facts = context.facts(&[]);
    let inputs = volume::Inputs {
        pod,
        facts: &facts,
        config_maps: &sources.config_maps,
        secrets: &sources.secrets,
        tokens: &tokens,
    };
    let contents = volume::contents(volume, &inputs).map_err(|error| error.to_string())?;
    let contents = contents.ok_or_else(|| volume::VolumeError::Unsupported(volume.name.clone()).to_string())?;
    blocking(move || {
        volumes::write_atomically(&path, &contents, group).map(drop).map_err(|error| describe(&path, &error))
    })
    .await
}

/// Gets the named objects; those that do not exist are left out.
pub async fn fetch(context: &Arc<Context>, pod: &Pod, names: &Names) -> Result<Sources, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let failed = |kind: &'static str, name: &str| {
        let name = name.to_owned();
        move |error: ApiFailure| format!("failed to get {kind} \"{name}\": {error}")
    };
    let mut sources = Sources::default();
    for name in &names.config_maps {
        if let Some(found) = context.api.config_map(namespace, name).await.map_err(failed("configmap", name))? {
            sources.config_maps.insert(name.clone(), found);
        }
    }
    for name in &names.secrets {
        if let Some(found) = context.api.secret(namespace, name).await.map_err(failed("secret", name))? {
            sources.secrets.insert(name.clone(), found);
        }
    }
    Ok(sources)
}

/// The tokens that a projected volume wants, by path; a token is used for four fifths of its life.
async fn issue(
    context: &Arc<Context>,
    pod: &Pod,
    volume: &Volume,
    issued: &Tokens,
) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    let projections = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    for source in projections.filter_map(|source| source.service_account_token.as_ref()) {
        let now = Timestamp::now();
        let key = (volume.name.clone(), source.path.clone());
        let held = issued.lock().get(&key).filter(|(_, due)| *due > now).map(|(token, _)| token.clone());
        let token = match held {
            Some(token) => token,
            None => {
                let lifetime_s = source.expiration_seconds.unwrap_or(TOKEN_LIFETIME_S);
                let audience = source.audience.as_deref().filter(|audience| !audience.is_empty());
                let asked = context.api.token(pod, audience, lifetime_s).await;
                let (token, expires) = asked.map_err(|error| format!("failed to fetch token: {error}"))?;
                let life_s = expires.map_or(lifetime_s, |expires| expires.duration_since(now).as_secs());
                let due = crate::pod::backoff::after(now, SignedDuration::from_secs(life_s * 4 / 5));
                issued.lock().insert(key, (token.clone(), due));
                token
            }
        };
        out.insert(source.path.clone(), token);
    }
    Ok(out)
}

fn describe(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Disk work away from the loops of the pods.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}
