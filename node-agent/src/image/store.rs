//! The images of one machine on disk.
//!
//! ```text
//! <dir>/index.json            names → images → layers, replaced by rename
//! <dir>/lock                  held while index.json is changed: `kontiki image import` and the agent are two processes
//! <dir>/filling               held shared by who adds layers, exclusively by who removes them
//! <dir>/layers/<hex>/fs       an unpacked layer, named by its diffID
//! <dir>/staging/<name>        what is not complete yet, or not gone yet; removed at the next start
//! ```
//! A layer appears by rename when it is whole and its digest is right, and goes by rename, so whatever is there can be
//! trusted after a crash. Layers that no image uses yet are another process' pull, or what a failed one can continue from.

#![allow(clippy::disallowed_methods, reason = "images live on disk: this is the edge")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::limits::LAYERS_MAX;
use super::reference::Reference;
use super::{Image, ImageConfig, Origin, layer};

#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    cached: Mutex<Cached>,
}

/// The index as last read. Its file stays open: as long as it does, no newer one can have the same inode.
#[derive(Debug, Default)]
struct Cached {
    file: Option<(File, u64)>,
    index: Index,
}

/// While it lives, no layer is removed, by this process or another.
#[derive(Debug)]
pub struct Filling {
    _lock: File,
}

/// A directory for what is not complete yet; removed when dropped.
#[derive(Debug)]
pub struct Staging {
    dir: tempfile::TempDir,
    _filling: Filling,
}

/// A layer that is unpacked and not yet part of the store.
#[derive(Debug)]
pub struct StagedLayer {
    unpacked: layer::Unpacked,
    staging: Staging,
}

impl Staging {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Index {
    /// Canonical reference → image id.
    names: BTreeMap<String, String>,
    /// Image id (`sha256:…` of its configuration) → what is known of it.
    images: BTreeMap<String, Record>,
}

/// One image in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub repo_digests: Vec<String>,
    pub diff_ids: Vec<String>,
    pub config: ImageConfig,
    pub size_bytes: u64,
    pub origin: Origin,
}

impl ImageStore {
    /// Opens or makes the store, and clears what an interrupted import left.
    ///
    /// # Errors
    /// When the directory cannot be used or its index cannot be read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let store = Self { dir: dir.to_owned(), cached: Mutex::default() };
        for made in [store.dir.clone(), store.layers(), store.staging()] {
            fs::create_dir_all(&made).map_err(|error| named(&made, error))?;
        }
        if let Some(_alone) = store.alone()? {
            store.clear_staging()?;
        }
        store.index()?;
        Ok(store)
    }

    /// The image of a reference, if this machine has it, whole.
    pub fn find(&self, reference: &Reference) -> io::Result<Option<Image>> {
        let index = self.index()?;
        let id = match &reference.digest {
            None => index.names.get(&reference.to_string()).cloned(),
            Some(digest) => {
                let wanted = format!("{}@{digest}", reference.name());
                let pulled = |(_, record): &(&String, &Record)| record.repo_digests.contains(&wanted);
                index.images.iter().find(pulled).map(|(id, _)| id.clone())
            }
        };
        let image = id.and_then(|id| self.image(&index, &id));
        Ok(image.filter(|image| image.layers.iter().all(|layer| layer.is_dir())))
    }

    /// Every image, by id.
    pub fn list(&self) -> io::Result<Vec<Image>> {
        let index = self.index()?;
        Ok(index.images.keys().filter_map(|id| self.image(&index, id)).collect())
    }

    /// Makes an image known under names; its layers must be there. A name with a digest is found by its digest alone: its
    /// tag may mean another image today.
    pub fn insert(&self, id: &str, record: Record, names: &[Reference]) -> io::Result<Image> {
        if record.diff_ids.len() > LAYERS_MAX {
            return Err(io::Error::other(format!("the image has more than {LAYERS_MAX} layers")));
        }
        let _filling = self.fill()?;
        if let Some(missing) = record.diff_ids.iter().find(|diff_id| !self.has_layer(diff_id)) {
            return Err(io::Error::other(format!("layer {missing} is not there")));
        }
        let names = names.iter().filter(|name| name.digest.is_none());
        let names: Vec<String> = names.map(Reference::to_string).collect();
        self.change(|index| {
            for name in &names {
                index.names.insert(name.clone(), id.to_owned());
            }
            let entry = index.images.entry(id.to_owned()).or_insert_with(|| record.clone());
            for digest in record.repo_digests {
                if !entry.repo_digests.contains(&digest) {
                    entry.repo_digests.push(digest);
                }
            }
            if record.origin == Origin::Imported {
                entry.origin = Origin::Imported;
            }
        })?;
        let index = self.index()?;
        self.image(&index, id).ok_or_else(|| io::Error::other("the image was removed meanwhile"))
    }

    /// Forgets a name, and its image when that was the last one; layers that no image uses any more are deleted. Returns
    /// whether the name was known.
    pub fn remove(&self, reference: &Reference) -> io::Result<bool> {
        let name = reference.to_string();
        let known = self.change(|index| match &reference.digest {
            None => index.names.remove(&name).is_some_and(|id| index.forget(&id)),
            Some(digest) => index.remove_digest(&format!("{}@{digest}", reference.name())),
        })?;
        // Whoever is adding layers may need these; then they go with the next removal.
        if let Some(_alone) = self.alone()? {
            self.remove_unused_layers()?;
            self.clear_staging()?;
        }
        Ok(known)
    }

    fn remove_unused_layers(&self) -> io::Result<()> {
        let index = self.index()?;
        for entry in fs::read_dir(self.layers())? {
            let layer = entry?;
            let diff_id = format!("sha256:{}", layer.file_name().to_string_lossy());
            if !index.images.values().any(|record| record.diff_ids.contains(&diff_id)) {
                // Gone at once: half a layer must not be taken for a whole one.
                let target = self.staging().join(layer.file_name());
                fs::rename(layer.path(), &target).map_err(|error| named(&target, error))?;
            }
        }
        File::open(self.layers())?.sync_all()
    }

    fn clear_staging(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.staging())? {
            let path = entry?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| named(&path, error))?;
        }
        Ok(())
    }

    pub fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_dir(diff_id).join("fs").is_dir()
    }

    /// Unpacks a layer and keeps it if its digest is the `expected` one (any, when that is `None`).
    ///
    /// # Errors
    /// When the archive is damaged, its digest is another one, or the disk fails; nothing of it stays.
    pub fn add_layer(&self, source: impl Read, expected: Option<&str>) -> io::Result<layer::Unpacked> {
        self.keep(self.unpack(source)?, expected)
    }

    /// Unpacks a layer without keeping it yet.
    pub fn unpack(&self, source: impl Read) -> io::Result<StagedLayer> {
        let staging = self.stage()?;
        let fs_dir = staging.path().join("fs");
        fs::create_dir(&fs_dir)?;
        Ok(StagedLayer { unpacked: layer::unpack(source, &fs_dir)?, staging })
    }

    /// Keeps an unpacked layer, if its digest is the expected one.
    pub fn keep(&self, layer: StagedLayer, expected: Option<&str>) -> io::Result<layer::Unpacked> {
        let StagedLayer { unpacked, staging } = layer;
        if let Some(expected) = expected.filter(|expected| *expected != unpacked.diff_id) {
            let got = &unpacked.diff_id;
            return Err(io::Error::other(format!("layer digest mismatch: expected {expected}, got {got}")));
        }
        // Everything below must be on disk before the name appears.
        rustix::fs::syncfs(&File::open(staging.path())?)?;
        let target = self.layer_dir(&unpacked.diff_id);
        match fs::rename(staging.path(), &target) {
            Ok(()) => {}
            // Somebody else unpacked the same layer meanwhile.
            Err(_) if self.has_layer(&unpacked.diff_id) => {}
            Err(error) => return Err(named(&target, error)),
        }
        File::open(self.layers())?.sync_all()?;
        Ok(unpacked)
    }

    pub fn stage(&self) -> io::Result<Staging> {
        let filling = self.fill()?;
        let dir = tempfile::Builder::new().prefix("").tempdir_in(self.staging())?;
        Ok(Staging { dir, _filling: filling })
    }

    /// Keeps the layers that are there until they are part of an image. Waits for a removal under way.
    pub fn fill(&self) -> io::Result<Filling> {
        let lock = File::create(self.dir.join("filling"))?;
        rustix::fs::flock(&lock, FlockOperation::LockShared)?;
        Ok(Filling { _lock: lock })
    }

    /// The right to remove layers, unless somebody adds some.
    fn alone(&self) -> io::Result<Option<File>> {
        let lock = File::create(self.dir.join("filling"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn image(&self, index: &Index, id: &str) -> Option<Image> {
        let record = index.images.get(id)?;
        let names = index.names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone());
        Some(Image {
            id: id.to_owned(),
            repo_digests: record.repo_digests.clone(),
            repo_tags: names.collect(),
            layers: stacked(&record.diff_ids).map(|diff_id| self.layer_dir(diff_id).join("fs")).collect(),
            config: record.config.clone(),
            size_bytes: record.size_bytes,
            origin: record.origin,
        })
    }

    fn index(&self) -> io::Result<Index> {
        let path = self.index_path();
        let mut cached = self.cached.lock();
        let inode = match fs::metadata(&path) {
            Ok(meta) => meta.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *cached = Cached::default();
                return Ok(Index::default());
            }
            Err(error) => return Err(named(&path, error)),
        };
        if cached.file.as_ref().is_none_or(|(_, known)| *known != inode) {
            let mut file = File::open(&path).map_err(|error| named(&path, error))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text).map_err(|error| named(&path, error))?;
            let index = serde_json::from_slice(&text).map_err(|error| named(&path, error.into()))?;
            let inode = file.metadata()?.ino();
            *cached = Cached { file: Some((file, inode)), index };
        }
        Ok(cached.index.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> io::Result<T> {
        let _filling = self.fill()?;
        let lock = File::create(self.dir.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        let result = change(&mut index);
        let mut file = tempfile::NamedTempFile::new_in(self.staging())?;
        file.write_all(&serde_json::to_vec(&index)?)?;
        file.as_file().sync_all()?;
        file.persist(self.index_path()).map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(result)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    fn staging(&self) -> PathBuf {
        self.dir.join("staging")
    }

    fn layer_dir(&self, diff_id: &str) -> PathBuf {
        self.layers().join(diff_id.trim_start_matches("sha256:"))
    }
}

impl Index {
    /// Drops the image that lost a name, when that was its last, and those that nothing can find any more. Always true.
    fn forget(&mut self, id: &str) -> bool {
        let Self { names, images } = self;
        images.retain(|other, record| {
            names.values().any(|named| named == other) || (other != id && !record.repo_digests.is_empty())
        });
        true
    }

    fn remove_digest(&mut self, digest: &str) -> bool {
        let found = self.images.iter_mut().find(|(_, record)| record.repo_digests.iter().any(|known| known == digest));
        let Some((id, record)) = found else { return false };
        record.repo_digests.retain(|known| known != digest);
        let id = id.clone();
        // Without a name, other digests still find it.
        if self.images[&id].repo_digests.is_empty() { self.forget(&id) } else { true }
    }
}

/// The layers to stack. Overlayfs refuses a directory twice, and images repeat layers (each empty `WORKDIR` is the same one):
/// the highest does all that a lower one of the same content would.
fn stacked(diff_ids: &[String]) -> impl Iterator<Item = &String> {
    let repeated_above = |at: usize| diff_ids[at + 1..].contains(&diff_ids[at]);
    (0..diff_ids.len()).filter(move |at| !repeated_above(*at)).map(|at| &diff_ids[at])
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
