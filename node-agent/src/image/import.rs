//! Images from files: an OCI layout (directory or tar), a docker archive, or the tar of a root filesystem.
//!
//! What a file is, its contents say: `oci-layout` and `index.json`, or `manifest.json`, or neither. Digests are verified as for a
//! pull; a bare root filesystem becomes an image of one layer that runs nothing by itself.

#![allow(clippy::disallowed_methods, reason = "images live on disk: this is the edge")]

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use tar::{Archive, EntryType};

use super::config::{arch, is_for_this_machine, parse_config};
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
    if let Some(name) = name.as_ref().filter(|name| name.digest.is_some()) {
        let what = "what is imported is named by a tag: its digest follows from its content".to_owned();
        return Err(ImportError::Name { name: name.to_string(), what });
    }
    let _filling = store.fill().map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
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
        let (mut layout, mut docker, mut empty) = (false, false, true);
        for entry in archive.entries().map_err(|source| self.read(source))? {
            let entry = entry.map_err(|source| self.read(source))?;
            empty = false;
            match entry.path_bytes().strip_prefix(b"./").unwrap_or(&entry.path_bytes()) {
                b"oci-layout" => layout = true,
                b"manifest.json" => docker = true,
                // The archives of images are flat; a directory such as bin/ or etc/ tells of a root filesystem.
                b"etc/" | b"etc" | b"bin/" | b"bin" | b"usr/" | b"usr" => return Ok(Kind::RootFs),
                _ => {}
            }
        }
        if empty {
            return Err(self.content("the archive is empty"));
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

    /// The regular files of the archive below `target`. Links are left out: in a docker archive they stand for a layer that
    /// an earlier name stands for too, and which is unpacked by then.
    fn extract(&self, target: &Path) -> Result<(), ImportError> {
        let mut archive = self.archive()?;
        for entry in archive.entries().map_err(|source| self.read(source))? {
            let mut entry = entry.map_err(|source| self.read(source))?;
            if matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
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
            self.check_name_of_config(&image.config, &config)?;
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
        let mut found = Vec::new();
        for descriptor in index.manifests() {
            if let Some((manifest_digest, bytes)) = self.manifest(root, descriptor)? {
                found.push((descriptor, manifest_digest, bytes));
            }
        }
        if found.is_empty() {
            return Err(self.content(&format!("no image for linux/{}", arch())));
        }
        let single = found.len() == 1;
        let mut imported = Vec::new();
        for (descriptor, manifest_digest, bytes) in found {
            let manifest: ImageManifest =
                serde_json::from_slice(&bytes).map_err(|e| self.content(&format!("{manifest_digest}: {e}")))?;
            let config = self.blob(root, manifest.config().digest().as_ref())?;
            let layers: Result<Vec<PathBuf>, _> =
                manifest.layers().iter().map(|layer| self.blob_path(root, layer.digest().as_ref())).collect();
            let annotations = descriptor.annotations().clone().unwrap_or_default();
            let annotated = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let tag = annotated.iter().find_map(|key| annotations.get(*key)).map(String::as_str);
            // A bare word is a tag of a name that the layout does not tell.
            let full = tag.filter(|tag| tag.contains(['/', ':']));
            let names = self.names(single, full.into_iter())?;
            let digests = names.iter().map(|name| format!("{}@{manifest_digest}", name.name())).collect();
            imported.push(self.image(&config, &layers?, &names, digests)?);
        }
        Ok(imported)
    }

    /// The manifest behind a descriptor of the layout's index, and its digest: itself, or this platform's in a nested index.
    fn manifest(&self, root: &Path, descriptor: &Descriptor) -> Result<Option<(String, Vec<u8>)>, ImportError> {
        if !is_for_this_machine(descriptor) {
            return Ok(None);
        }
        let digest = descriptor.digest().to_string();
        let bytes = self.blob(root, &digest)?;
        let wrong = |error| self.content(&format!("{digest}: {error}"));
        let document: serde_json::Value = serde_json::from_slice(&bytes).map_err(wrong)?;
        if document.get("manifests").is_none() {
            return Ok(Some((digest, bytes)));
        }
        let nested: ImageIndex = serde_json::from_slice(&bytes).map_err(wrong)?;
        match nested.manifests().iter().find(|d| is_for_this_machine(d)) {
            None => Ok(None),
            Some(chosen) => {
                let chosen = chosen.digest().to_string();
                self.blob(root, &chosen).map(|bytes| Some((chosen, bytes)))
            }
        }
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
        match &self.name {
            Some(name) if single => return Ok(vec![name.clone()]),
            Some(_) => return Err(self.content("the file holds several images: one name cannot name them")),
            None => {}
        }
        let names: Vec<Reference> = own.map(parse_name).collect::<Result<_, _>>()?;
        if names.is_empty() {
            return Err(self.content("the image has no name: give one"));
        }
        Ok(names)
    }

    /// A docker archive calls its configurations by their digest.
    fn check_name_of_config(&self, name: &str, config: &[u8]) -> Result<(), ImportError> {
        let hex = name.strip_suffix(".json").or_else(|| name.strip_prefix("blobs/sha256/")).unwrap_or_default();
        match checked_digest(&format!("sha256:{hex}")) {
            Ok(expected) if expected != digest::of(config) => {
                Err(self.content(&format!("{name} has another digest: the file is damaged")))
            }
            _ => Ok(()),
        }
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
