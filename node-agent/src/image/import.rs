//! Images from files: an OCI layout (directory or tar), a docker archive, or the tar of a root filesystem.
//!
//! What a file is, its contents say: `oci-layout` and `index.json`, or `manifest.json`, or neither. Digests are verified as for a
//! pull; a bare root filesystem becomes an image of one layer that runs nothing by itself.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;
use tar::{Archive, EntryType};

use super::reference::{Reference, checked_digest};
use super::store::{ImageStore, Record};
use super::{Image, ImageConfig, Origin, digest, layer};

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("image name {name:?}: {what}")]
    Name { name: String, what: String },
    #[error("{path}: {what}", path = .path.display())]
    Content { path: PathBuf, what: String },
}

/// Imports every image that `path` holds. `name` is needed for a root filesystem, and replaces the name of a single image.
///
/// # Errors
/// When the file cannot be read, is none of the known kinds, or one of its digests is wrong; images before it stay.
pub fn import(store: &ImageStore, path: &Path, name: Option<&str>) -> Result<Vec<Image>, ImportError> {
    let name = name.map(parse_name).transpose()?;
    let importer = Importer { store, path, name };
    if path.is_dir() {
        return importer.layout(path);
    }
    match importer.kind()? {
        Kind::RootFs => Ok(vec![importer.root_fs()?]),
        kind => {
            let staging = store.stage().map_err(|source| importer.read(source))?;
            importer.extract(staging.path())?;
            match kind {
                Kind::Layout => importer.layout(staging.path()),
                _ => importer.docker(staging.path()),
            }
        }
    }
}

enum Kind {
    Layout,
    Docker,
    RootFs,
}

struct Importer<'a> {
    store: &'a ImageStore,
    path: &'a Path,
    name: Option<Reference>,
}

/// An entry of `manifest.json` in a docker archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Importer<'_> {
    fn kind(&self) -> Result<Kind, ImportError> {
        let mut archive = self.archive()?;
        let (mut layout, mut docker) = (false, false);
        for entry in archive.entries().map_err(|source| self.read(source))? {
            let entry = entry.map_err(|source| self.read(source))?;
            match entry.path_bytes().strip_prefix(b"./").unwrap_or(&entry.path_bytes()) {
                b"oci-layout" => layout = true,
                b"manifest.json" => docker = true,
                // The archives of images are flat; a directory such as bin/ or etc/ tells of a root filesystem.
                b"etc/" | b"etc" | b"bin/" | b"bin" | b"usr/" | b"usr" => return Ok(Kind::RootFs),
                _ => {}
            }
        }
        // Newer docker archives are OCI layouts too; their manifest.json knows the tags better.
        Ok(if docker {
            Kind::Docker
        } else if layout {
            Kind::Layout
        } else {
            Kind::RootFs
        })
    }

    fn archive(&self) -> Result<Archive<Box<dyn Read>>, ImportError> {
        let file = File::open(self.path).map_err(|source| self.read(source))?;
        let reader =
            layer::decompressed(BufReader::with_capacity(1 << 20, file)).map_err(|source| self.read(source))?;
        Ok(Archive::new(reader))
    }

    /// The regular files of the archive below `target`; links of a docker archive are not needed and not followed.
    fn extract(&self, target: &Path) -> Result<(), ImportError> {
        let mut archive = self.archive()?;
        for entry in archive.entries().map_err(|source| self.read(source))? {
            let mut entry = entry.map_err(|source| self.read(source))?;
            if entry.header().entry_type() == EntryType::Regular {
                // Refuses names that lead out of the directory.
                entry.unpack_in(target).map_err(|source| self.read(source))?;
            }
        }
        Ok(())
    }

    fn root_fs(&self) -> Result<Image, ImportError> {
        let name = self.name.clone().ok_or_else(|| self.content("a root filesystem needs a name"))?;
        let file = File::open(self.path).map_err(|source| self.read(source))?;
        let layer = self.store.add_layer(file, None).map_err(|source| self.read(source))?;
        // The same content always becomes the same image.
        let id = digest::of(format!("rootfs {}", layer.diff_id).as_bytes());
        let record = Record {
            repo_digests: Vec::new(),
            diff_ids: vec![layer.diff_id],
            config: ImageConfig::default(),
            size_bytes: layer.bytes,
            origin: Origin::Imported,
        };
        self.store.insert(&id, record, &[name]).map_err(|source| self.read(source))
    }

    fn docker(&self, root: &Path) -> Result<Vec<Image>, ImportError> {
        let text = self.file(root, "manifest.json")?;
        let images: Vec<DockerImage> =
            serde_json::from_slice(&text).map_err(|e| self.content(&format!("manifest.json: {e}")))?;
        let single = images.len() == 1;
        let mut imported = Vec::new();
        for image in images {
            let config = self.file(root, &image.config)?;
            let layers: Result<Vec<PathBuf>, _> = image.layers.iter().map(|name| self.inside(root, name)).collect();
            let tags = image.repo_tags.unwrap_or_default();
            let names = self.names(single, tags.iter().map(String::as_str))?;
            imported.push(self.image(&config, &layers?, &names, Vec::new())?);
        }
        Ok(imported)
    }

    fn layout(&self, root: &Path) -> Result<Vec<Image>, ImportError> {
        let text = self.file(root, "index.json")?;
        let index: ImageIndex = serde_json::from_slice(&text).map_err(|e| self.content(&format!("index.json: {e}")))?;
        let single = index.manifests().len() == 1;
        let mut imported = Vec::new();
        for descriptor in index.manifests() {
            let Some(manifest_digest) = self.manifest_digest(root, descriptor)? else { continue };
            let manifest = self.blob(root, &manifest_digest)?;
            let manifest: ImageManifest =
                serde_json::from_slice(&manifest).map_err(|e| self.content(&format!("{manifest_digest}: {e}")))?;
            let config = self.blob(root, &manifest.config().digest().to_string())?;
            let layers: Result<Vec<PathBuf>, _> =
                manifest.layers().iter().map(|layer| self.blob_path(root, &layer.digest().to_string())).collect();
            let annotations = descriptor.annotations().clone().unwrap_or_default();
            let annotated = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let tag = annotated.iter().find_map(|key| annotations.get(*key)).map(String::as_str);
            let names = self.names(single, tag.into_iter())?;
            let digests = names.iter().map(|name| format!("{}@{manifest_digest}", name.name())).collect();
            imported.push(self.image(&config, &layers?, &names, digests)?);
        }
        if imported.is_empty() {
            return Err(self.content(&format!("no image for linux/{}", arch())));
        }
        Ok(imported)
    }

    /// The manifest behind a descriptor of the layout's index: itself, or this platform's in a nested index.
    fn manifest_digest(&self, root: &Path, descriptor: &Descriptor) -> Result<Option<String>, ImportError> {
        let digest = descriptor.digest().to_string();
        if *descriptor.media_type() != MediaType::ImageIndex {
            return Ok(is_for_this_machine(descriptor).then_some(digest));
        }
        let nested: ImageIndex = serde_json::from_slice(&self.blob(root, &digest)?)
            .map_err(|error| self.content(&format!("{digest}: {error}")))?;
        Ok(nested.manifests().iter().find(|d| is_for_this_machine(d)).map(|d| d.digest().to_string()))
    }

    fn image(
        &self,
        config: &[u8],
        layers: &[PathBuf],
        names: &[Reference],
        repo_digests: Vec<String>,
    ) -> Result<Image, ImportError> {
        let parsed = parse_config(config).map_err(|what| self.content(&what))?;
        if parsed.diff_ids.len() != layers.len() {
            let (configured, there) = (parsed.diff_ids.len(), layers.len());
            return Err(self.content(&format!("the configuration names {configured} layers, the manifest {there}")));
        }
        for (diff_id, path) in parsed.diff_ids.iter().zip(layers) {
            if !self.store.has_layer(diff_id) {
                let file = File::open(path).map_err(|source| self.read(source))?;
                self.store.add_layer(file, Some(diff_id)).map_err(|source| self.read(source))?;
            }
        }
        let sizes = layers.iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len());
        let record = Record {
            repo_digests,
            diff_ids: parsed.diff_ids,
            config: parsed.config,
            size_bytes: sizes.sum(),
            origin: Origin::Imported,
        };
        self.store.insert(&digest::of(config), record, names).map_err(|source| self.read(source))
    }

    fn names<'a>(&self, single: bool, own: impl Iterator<Item = &'a str>) -> Result<Vec<Reference>, ImportError> {
        if let (Some(name), true) = (&self.name, single) {
            return Ok(vec![name.clone()]);
        }
        let names: Vec<Reference> = own.map(parse_name).collect::<Result<_, _>>()?;
        if names.is_empty() {
            return Err(self.content("the image has no name: give one"));
        }
        Ok(names)
    }

    /// A blob of a layout, verified.
    fn blob(&self, root: &Path, blob_digest: &str) -> Result<Vec<u8>, ImportError> {
        let bytes = fs::read(self.blob_path(root, blob_digest)?).map_err(|source| self.read(source))?;
        if digest::of(&bytes) == blob_digest {
            Ok(bytes)
        } else {
            Err(self.content(&format!("blob {blob_digest} has another digest: the file is damaged")))
        }
    }

    fn blob_path(&self, root: &Path, blob_digest: &str) -> Result<PathBuf, ImportError> {
        let digest = checked_digest(blob_digest).map_err(|what| self.content(&format!("{blob_digest}: {what}")))?;
        Ok(root.join("blobs/sha256").join(&digest["sha256:".len()..]))
    }

    fn file(&self, root: &Path, name: &str) -> Result<Vec<u8>, ImportError> {
        fs::read(self.inside(root, name)?).map_err(|error| self.content(&format!("{name}: {error}")))
    }

    /// A path that a document of the archive names, if it stays inside.
    fn inside(&self, root: &Path, name: &str) -> Result<PathBuf, ImportError> {
        let relative = Path::new(name);
        let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if plain { Ok(root.join(relative)) } else { Err(self.content(&format!("{name:?} leads out of the archive"))) }
    }

    fn read(&self, source: io::Error) -> ImportError {
        ImportError::Read { path: self.path.to_owned(), source }
    }

    fn content(&self, what: &str) -> ImportError {
        ImportError::Content { path: self.path.to_owned(), what: what.to_owned() }
    }
}

fn parse_name(name: &str) -> Result<Reference, ImportError> {
    Reference::parse(name).map_err(|what| ImportError::Name { name: name.to_owned(), what })
}

/// An image configuration as far as it matters here.
pub(super) struct ParsedConfig {
    pub(super) diff_ids: Vec<String>,
    pub(super) config: ImageConfig,
}

pub(super) fn parse_config(bytes: &[u8]) -> Result<ParsedConfig, String> {
    let document: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| format!("image configuration: {error}"))?;
    let diff_ids: Result<Vec<String>, String> = document
        .rootfs()
        .diff_ids()
        .iter()
        .map(|diff_id| checked_digest(diff_id).map_err(|what| format!("image configuration: {diff_id}: {what}")))
        .collect();
    let mut config = ImageConfig::default();
    if let Some(run) = document.config() {
        config.env = run.env().clone().unwrap_or_default();
        config.entrypoint = run.entrypoint().clone().unwrap_or_default();
        config.cmd = run.cmd().clone().unwrap_or_default();
        config.working_dir = run.working_dir().clone().unwrap_or_default();
        config.user = run.user().clone().unwrap_or_default();
        config.stop_signal = run.stop_signal().clone();
        config.volumes = run.volumes().clone().unwrap_or_default();
    }
    Ok(ParsedConfig { diff_ids: diff_ids?, config })
}

/// Whether an image is for this machine; one that does not say is taken at its word.
pub(super) fn is_for_this_machine(descriptor: &Descriptor) -> bool {
    match descriptor.platform() {
        None => true,
        Some(platform) => *platform.os() == Os::Linux && platform.architecture().to_string() == arch(),
    }
}

/// This machine's architecture in OCI's words.
pub(super) fn arch() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::ARM64,
        other => Arch::Other(other.to_owned()),
    };
    arch.to_string()
}
