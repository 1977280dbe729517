//! Pulling: from a reference to an image of the store, layer by layer, nothing kept that was not verified.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::config::{self, is_for_this_machine};
use super::digest::HashingReader;
use super::limits::{LAYER_BYTES_MAX, LAYERS_MAX, PARALLEL_LAYERS, STALL_LIMIT};
use super::reference::Reference;
use super::registry::{Manifest, Registry, Session, matching};
use super::store::{ImageStore, Record};
use super::{Credential, Image, Images, Origin, PullError};

type SharedPull = Arc<OnceCell<Result<Image, PullError>>>;
/// Credentials are a part of it: whose password fails must not fail the pull of another.
type PullKey = (Reference, Vec<Credential>);

/// A store that can fill itself from registries.
#[derive(Debug)]
pub struct PullingStore {
    store: Arc<ImageStore>,
    registry: Registry,
    /// Pulls under way: pods that want the same image wait for the same pull.
    pulls: Mutex<HashMap<PullKey, SharedPull>>,
    /// Layers under way, by diffID: images that share a layer wait for it.
    layers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl PullingStore {
    /// # Errors
    /// When the store's directory or the machine's certificate authorities cannot be read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let store = Arc::new(ImageStore::open(dir)?);
        Ok(Self { store, registry: Registry::new()?, pulls: Mutex::default(), layers: Mutex::default() })
    }

    async fn pull_now(&self, reference: &Reference, credentials: &[Credential]) -> Result<Image, PullError> {
        let (session, manifest_digest, manifest) = self.resolve_with(reference, credentials).await?;
        let config_digest = manifest.config().digest().to_string();
        let config = session.document(&config_digest).await?;
        let parsed = config::parse_config(&config).map_err(PullError::Failed)?;
        let layers = manifest.layers();
        if parsed.diff_ids.len() != layers.len() || layers.len() > LAYERS_MAX {
            let (configured, there) = (parsed.diff_ids.len(), layers.len());
            return Err(PullError::Failed(format!("{configured} layers configured, {there} in the manifest")));
        }
        let store = self.store.clone();
        let _filling = blocking(move || store.fill()).await?;
        let wanted = parsed.diff_ids.iter().zip(layers);
        let fetches: Vec<_> = wanted
            .map(|(diff_id, layer)| self.fetch_layer(&session, layer.digest().to_string(), diff_id.clone()))
            .collect();
        futures::stream::iter(fetches).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await?;
        let record = Record {
            repo_digests: vec![format!("{}@{manifest_digest}", reference.name())],
            diff_ids: parsed.diff_ids,
            config: parsed.config,
            size_bytes: layers.iter().map(Descriptor::size).sum(),
            origin: Origin::Pulled,
        };
        let (store, reference) = (self.store.clone(), reference.clone());
        blocking(move || store.insert(&config_digest, record, &[reference])).await
    }

    /// The manifest, by the first credential that the registry accepts, the most specific first.
    async fn resolve_with<'a>(
        &'a self,
        reference: &'a Reference,
        credentials: &'a [Credential],
    ) -> Result<(Session<'a>, String, ImageManifest), PullError> {
        let mut left = matching(reference, credentials).into_iter();
        let mut credential = left.next();
        loop {
            let session = self.registry.session(reference, credential);
            match resolve(&session, reference).await {
                Ok((manifest_digest, manifest)) => return Ok((session, manifest_digest, manifest)),
                Err(PullError::Refused(_)) if left.len() > 0 => credential = left.next(),
                Err(error) => return Err(error),
            }
        }
    }

    async fn fetch_layer(&self, session: &Session<'_>, blob: String, diff_id: String) -> Result<(), PullError> {
        let turn = self.layer_lock(&diff_id).lock_owned().await;
        if self.store.has_layer(&diff_id) {
            return Ok(());
        }
        let frames = session.blob(&blob).await?.into_body().into_data_stream();
        let frames = tokio_stream::StreamExt::timeout(frames, STALL_LIMIT).map(|frame| match frame {
            Ok(frame) => frame.map_err(io::Error::other),
            Err(_) => Err(io::Error::other(format!("the registry sent nothing for {} s", STALL_LIMIT.as_secs()))),
        });
        let reader = SyncIoBridge::new(StreamReader::new(Box::pin(frames)));
        let store = self.store.clone();
        blocking(move || {
            // Unpacking goes on when the pull is given up; the next one waits for it instead of starting over.
            let _turn = turn;
            let at = |error: io::Error| io::Error::new(error.kind(), format!("layer {blob}: {error}"));
            // The compressed bytes are verified too, before anything is kept: they are what the manifest promised.
            let mut hashing = HashingReader::new(reader, LAYER_BYTES_MAX);
            let unpacked = store.unpack(&mut hashing).map_err(at)?;
            let (got, _) = hashing.finish().map_err(at)?;
            if got != blob {
                return Err(io::Error::other(format!("layer {blob} came with digest {got}")));
            }
            store.keep(unpacked, Some(&diff_id)).map(|_| ())
        })
        .await
    }

    fn layer_lock(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock();
        layers.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = layers.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        layers.insert(diff_id.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[async_trait]
impl Images for PullingStore {
    fn check(&self, reference: &str) -> Result<(), PullError> {
        parse(reference).map(|_| ())
    }

    async fn resolve(&self, reference: &str) -> Option<Image> {
        let reference = parse(reference).ok()?;
        let store = self.store.clone();
        let found = blocking(move || store.find(&reference)).await;
        found.unwrap_or_else(|error| {
            tracing::error!(%error, "the image store cannot be read");
            None
        })
    }

    async fn pull(&self, text: &str, credentials: &[Credential]) -> Result<Image, PullError> {
        let reference = parse(text)?;
        let key = (reference.clone(), credentials.to_vec());
        let shared = self.pulls.lock().entry(key.clone()).or_default().clone();
        let result = shared.get_or_init(|| async {
            self.pull_now(&reference, credentials).await.map_err(|error| error.of(&reference))
        });
        let result = result.await.clone();
        let mut pulls = self.pulls.lock();
        if pulls.get(&key).is_some_and(|current| Arc::ptr_eq(current, &shared)) {
            pulls.remove(&key);
        }
        result
    }

    async fn list(&self) -> Vec<Image> {
        let store = self.store.clone();
        blocking(move || store.list()).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the image store cannot be read");
            Vec::new()
        })
    }
}

/// The manifest for this machine: the one named, or one out of an index.
async fn resolve(session: &Session<'_>, reference: &Reference) -> Result<(String, ImageManifest), PullError> {
    let first = session.manifest(reference.version()).await?;
    let document: Value = parse_json(&first)?;
    if document.get("manifests").is_none() {
        return Ok((first.digest.clone(), parse_json(&first)?));
    }
    if document.get("layers").is_some() {
        // Which of the two it is would depend on the reader (image-spec, CVE-2021-41190).
        return Err(PullError::Failed(format!("{} is both an index and a manifest", first.digest)));
    }
    let index: ImageIndex = parse_json(&first)?;
    let chosen = index.manifests().iter().find(|descriptor| is_for_this_machine(descriptor));
    let chosen = chosen
        .ok_or_else(|| PullError::Refused(format!("no match for platform linux/{} in its index", config::arch())))?;
    let manifest = session.manifest(chosen.digest().as_ref()).await?;
    // The index' digest is what a user sees and may pin.
    Ok((first.digest, parse_json(&manifest)?))
}

fn parse_json<T: serde::de::DeserializeOwned>(manifest: &Manifest) -> Result<T, PullError> {
    let what = |error| PullError::Failed(format!("manifest {}: {error}", manifest.digest));
    serde_json::from_slice(&manifest.bytes).map_err(what)
}

fn parse(text: &str) -> Result<Reference, PullError> {
    Reference::parse(text).map_err(|what| PullError::InvalidName { reference: text.to_owned(), what })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| PullError::Failed(error.to_string())),
        Err(error) => Err(PullError::Failed(format!("unpacking was interrupted: {error}"))),
    }
}
