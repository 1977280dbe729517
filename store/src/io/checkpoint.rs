//! Directories of checkpoints on their way out to, or in from, another member.
//!
//! All of them lie under one directory beside the state, on the same file system, so that making one is hard links and
//! installing one is a rename. A directory goes away with its handle; what a crash left behind goes away at start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names directories for checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    root: PathBuf,
    next: Arc<AtomicU64>,
}

impl Checkpoints {
    /// Empties and uses `root`.
    ///
    /// # Errors
    /// When the directory cannot be emptied or created.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        match std::fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&root)?;
        Ok(Self { root, next: Arc::new(AtomicU64::new(0)) })
    }

    /// A name for a copy to be made; the directory does not exist yet.
    #[must_use]
    pub fn outgoing(&self) -> CheckpointDir {
        self.named("out")
    }

    /// A name for a copy to be received; the directory does not exist yet.
    #[must_use]
    pub fn incoming(&self) -> CheckpointDir {
        self.named("in")
    }

    fn named(&self, way: &str) -> CheckpointDir {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        CheckpointDir { path: self.root.join(format!("{way}-{number}")) }
    }
}

/// A checkpoint's directory; removed with this handle, unless it was moved away before.
#[derive(Debug)]
pub struct CheckpointDir {
    path: PathBuf,
}

impl CheckpointDir {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CheckpointDir {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.path.display(), %error, "a checkpoint's directory stays behind");
            }
            _ => {}
        }
    }
}
