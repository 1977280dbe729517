//! Pulling: from a reference to an image of the store, layer by layer, nothing kept that was not verified.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::digest::HashingReader;
use super::import::{self, is_for_this_machine};
use super::limits::{LAYER_BYTES_MAX, LAYERS_MAX, PARALLEL_LAYERS};
use super::reference::Reference;
use super::registry::{Manifest, Registry, Session};
use super::store::{ImageStore, Record};
use super::{Credential, Image, Images, Origin, PullError};

type SharedPull = Arc<OnceCell<Result<Image, PullError>>>;

/// A store that can fill itself from registries.
#[derive(Debug)]
pub struct PullingStore {
    store: Arc<ImageStore>,
    registry: Registry,
    /// Pulls under way: pods that want the same image wait for the same pull.
    pulls: Mutex<HashMap<String, SharedPull>>,
}

impl PullingStore {
    /// # Errors
    /// When the store's directory or the machine's certificate authorities cannot be read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let store = Arc::new(ImageStore::open(dir)?);
        Ok(Self { store, registry: Registry::new()?, pulls: Mutex::default() })
    }

    async fn pull_now(&self, reference: &Reference, credentials: &[Credential]) -> Result<Image, PullError> {
        let session = self.registry.session(reference, credentials);
        let (manifest_digest, manifest) = resolve(&session, reference).await?;
        let config_digest = manifest.config().digest().to_string();
        let config = session.document(&config_digest).await?;
        let parsed = import::parse_config(&config).map_err(PullError::Failed)?;
        let layers = manifest.layers();
        if parsed.diff_ids.len() != layers.len() || layers.len() > LAYERS_MAX {
            let (configured, there) = (parsed.diff_ids.len(), layers.len());
            return Err(PullError::Failed(format!(
                "{reference}: {configured} layers configured, {there} in the manifest"
            )));
        }
        let mut missing = Vec::new();
        for (diff_id, layer) in parsed.diff_ids.iter().zip(layers) {
            if !self.store.has_layer(diff_id) {
                missing.push(self.fetch_layer(&session, layer.digest().to_string(), diff_id.clone()));
            }
        }
        futures::stream::iter(missing).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await?;
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

    async fn fetch_layer(&self, session: &Session<'_>, blob: String, diff_id: String) -> Result<(), PullError> {
        let body = session.blob(&blob).await?.into_body().into_data_stream().map_err(io::Error::other);
        let reader = SyncIoBridge::new(StreamReader::new(Box::pin(body)));
        let store = self.store.clone();
        blocking(move || {
            // The compressed bytes are verified too: they are what the manifest promised.
            let mut hashing = HashingReader::new(reader, LAYER_BYTES_MAX);
            let unpacked = store.add_layer(&mut hashing, Some(&diff_id))?;
            let (got, _) = hashing.finish()?;
            if got == blob {
                Ok(())
            } else {
                Err(io::Error::other(format!("layer {} came with digest {got}, not {blob}", unpacked.diff_id)))
            }
        })
        .await
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
        // Credentials are a part of the key: whose password fails must not fail the pull of another.
        let key =
            format!("{reference} {:?}", credentials.iter().map(|c| (&c.registry, &c.username)).collect::<Vec<_>>());
        let shared = self.pulls.lock().entry(key.clone()).or_default().clone();
        let result = shared.get_or_init(|| self.pull_now(&reference, credentials)).await.clone();
        let mut pulls = self.pulls.lock();
        if pulls.get(&key).is_some_and(|current| Arc::ptr_eq(current, &shared)) {
            pulls.remove(&key);
        }
        result
    }

    async fn list(&self) -> Vec<Image> {
        let store = self.store.clone();
        blocking(move || store.list()).await.unwrap_or_default()
    }
}

/// The manifest for this machine: the one named, or one out of an index.
async fn resolve(session: &Session<'_>, reference: &Reference) -> Result<(String, ImageManifest), PullError> {
    let first = session.manifest(reference.version()).await?;
    let document: Value = parse_json(reference, &first)?;
    if document.get("manifests").is_none() {
        return Ok((first.digest.clone(), parse_json(reference, &first)?));
    }
    let index: ImageIndex = parse_json(reference, &first)?;
    let chosen = index.manifests().iter().find(|descriptor| is_for_this_machine(descriptor));
    let chosen = chosen.ok_or_else(|| {
        PullError::Refused(format!("{reference}: no match for platform linux/{} in its index", import::arch()))
    })?;
    let manifest = session.manifest(&chosen.digest().to_string()).await?;
    // The index' digest is what a user sees and may pin.
    Ok((first.digest, parse_json(reference, &manifest)?))
}

fn parse_json<T: serde::de::DeserializeOwned>(reference: &Reference, manifest: &Manifest) -> Result<T, PullError> {
    let what = |error| PullError::Failed(format!("{reference}: manifest {}: {error}", manifest.digest));
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
