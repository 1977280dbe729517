//! The images of one machine on disk.
//!
//! ```text
//! <dir>/index.json            names → images → layers, replaced by rename
//! <dir>/lock                  held while index.json is changed: `kontiki image import` and the agent are two processes
//! <dir>/layers/<hex>/fs       an unpacked layer, named by its diffID
//! <dir>/staging/<uuid>/       what is not complete yet; removed at the next start
//! ```
//! A layer appears by rename when it is whole and its digest is right, so whatever is there can be trusted after a crash.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
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

/// The index as last read, with what tells whether the file has changed since.
#[derive(Debug, Default)]
struct Cached {
    stamp: Option<(u64, i64, i64)>,
    index: Index,
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
        if let Ok(_lock) = store.try_lock() {
            for entry in fs::read_dir(store.staging())?.filter_map(Result::ok) {
                fs::remove_dir_all(entry.path()).map_err(|error| named(&entry.path(), error))?;
            }
        }
        store.index()?;
        Ok(store)
    }

    /// The image of a reference, if this machine has it.
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
        Ok(id.and_then(|id| self.image(&index, &id)))
    }

    /// Every image, by id.
    pub fn list(&self) -> io::Result<Vec<Image>> {
        let index = self.index()?;
        Ok(index.images.keys().filter_map(|id| self.image(&index, id)).collect())
    }

    /// Makes an image known under names; its layers must be there.
    pub fn insert(&self, id: &str, record: Record, names: &[Reference]) -> io::Result<Image> {
        if record.diff_ids.len() > LAYERS_MAX {
            return Err(io::Error::other(format!("the image has more than {LAYERS_MAX} layers")));
        }
        if let Some(missing) = record.diff_ids.iter().find(|diff_id| !self.has_layer(diff_id)) {
            return Err(io::Error::other(format!("layer {missing} is not there")));
        }
        let names = names.iter().filter(|name| name.tag.is_some());
        let names: Vec<String> = names.map(|name| Reference { digest: None, ..name.clone() }.to_string()).collect();
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

    /// Forgets a name; layers that no image uses any more are deleted. Returns whether the name was known.
    pub fn remove(&self, reference: &Reference) -> io::Result<bool> {
        let name = reference.to_string();
        let known = self.change(|index| {
            let known = index.names.remove(&name).is_some();
            let Index { names, images } = index;
            images.retain(|id, _| names.values().any(|named| named == id));
            known
        })?;
        let index = self.index()?;
        for entry in fs::read_dir(self.layers())?.filter_map(Result::ok) {
            let diff_id = format!("sha256:{}", entry.file_name().to_string_lossy());
            if !index.images.values().any(|record| record.diff_ids.contains(&diff_id)) {
                fs::remove_dir_all(entry.path()).map_err(|error| named(&entry.path(), error))?;
            }
        }
        Ok(known)
    }

    pub fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_dir(diff_id).join("fs").is_dir()
    }

    /// Unpacks a layer and keeps it if its digest is the `expected` one (any, when that is `None`).
    ///
    /// # Errors
    /// When the archive is damaged, its digest is another one, or the disk fails; nothing of it stays.
    pub fn add_layer(&self, source: impl Read, expected: Option<&str>) -> io::Result<layer::Unpacked> {
        let staging = self.stage()?;
        let fs_dir = staging.path().join("fs");
        fs::create_dir(&fs_dir)?;
        let unpacked = layer::unpack(source, &fs_dir)?;
        if let Some(expected) = expected.filter(|expected| *expected != unpacked.diff_id) {
            let got = &unpacked.diff_id;
            return Err(io::Error::other(format!("layer digest mismatch: expected {expected}, got {got}")));
        }
        // Everything below must be on disk before the name appears.
        let handle = File::open(&fs_dir)?;
        rustix::fs::syncfs(&handle)?;
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

    /// A directory for what is not complete yet; it is removed when dropped.
    pub fn stage(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("").tempdir_in(self.staging())
    }

    fn image(&self, index: &Index, id: &str) -> Option<Image> {
        let record = index.images.get(id)?;
        let names = index.names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone());
        Some(Image {
            id: id.to_owned(),
            repo_digests: record.repo_digests.clone(),
            repo_tags: names.collect(),
            layers: record.diff_ids.iter().map(|diff_id| self.layer_dir(diff_id).join("fs")).collect(),
            config: record.config.clone(),
            size_bytes: record.size_bytes,
            origin: record.origin,
        })
    }

    fn index(&self) -> io::Result<Index> {
        let path = self.index_path();
        let mut cached = self.cached.lock();
        let stamp = match fs::metadata(&path) {
            Ok(meta) => {
                use std::os::unix::fs::MetadataExt;
                Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(named(&path, error)),
        };
        if stamp != cached.stamp {
            let text = fs::read(&path).map_err(|error| named(&path, error))?;
            cached.index = serde_json::from_slice(&text).map_err(|error| named(&path, error.into()))?;
            cached.stamp = stamp;
        }
        Ok(cached.index.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> io::Result<T> {
        let lock = File::create(self.dir.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        let result = change(&mut index);
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&mut file, &index)?;
        file.as_file().sync_all()?;
        file.persist(self.index_path()).map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(result)
    }

    fn try_lock(&self) -> io::Result<File> {
        let lock = File::create(self.dir.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(lock)
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

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
